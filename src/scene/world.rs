//! What the scene world consists of: classes, colours, places, sizes, backgrounds, styles and parts.

use crate::error::Error;
use serde::{Deserialize, Serialize};

/// An enum of named values: `ALL`, `COUNT`, `name`, `index`, `from_index`, `Display`, `FromStr`, serde by name.
macro_rules! named {
    ($(#[$doc:meta])* $kind:literal $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant),+
        }

        impl $name {
            /// Every value, in the order of [`Self::index`].
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The plain English name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            /// Position in [`Self::ALL`].
            #[must_use]
            pub fn index(self) -> usize {
                self as usize
            }

            /// The value at `index`, if there is one.
            #[must_use]
            pub fn from_index(index: usize) -> Option<Self> {
                Self::ALL.get(index).copied()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::ALL.iter().copied().find(|v| v.name() == text)
                    .ok_or_else(|| Error::unknown($kind, text, Self::ALL.iter().map(|v| v.name())))
            }
        }
    };
}

pub(super) use named;

named! {
    /// What an object is.
    "class" Class {
        /// Wall, roof, door, window.
        House = "house",
        /// Crown, trunk.
        Tree = "tree",
        /// Body, tail, fin, eye.
        Fish = "fish",
        /// Body, window, wheel.
        Car = "car",
        /// Hull, sail, mast.
        Boat = "boat",
        /// Petals, centre, stem, leaf.
        Flower = "flower",
        /// Body, wing, beak, eye.
        Bird = "bird",
        /// Body, head, tail, eye.
        Cat = "cat",
        /// Cap, stem, spots.
        Mushroom = "mushroom",
        /// Canopy, stripe, handle.
        Umbrella = "umbrella",
        /// Hull, window, fin, flame.
        Rocket = "rocket",
        /// Body, handle, drink.
        Cup = "cup",
    }
}

named! {
    /// The named colour of an object, carried by its dominant part.
    "colour" Colour {
        /// Red.
        Red = "red",
        /// Orange.
        Orange = "orange",
        /// Yellow.
        Yellow = "yellow",
        /// Green.
        Green = "green",
        /// Blue.
        Blue = "blue",
        /// Purple.
        Purple = "purple",
        /// Pink.
        Pink = "pink",
        /// White.
        White = "white",
    }
}

named! {
    /// Where the centre of mass of an object lies.
    "place" Place {
        /// Upper left quadrant.
        TopLeft = "top left",
        /// Upper right quadrant.
        TopRight = "top right",
        /// Lower left quadrant.
        BottomLeft = "bottom left",
        /// Lower right quadrant.
        BottomRight = "bottom right",
        /// Middle of the picture.
        Centre = "centre",
    }
}

named! {
    /// How near an object is, and therefore how large it looks.
    "size" Size {
        /// Near: 26 to 30 pixels, high above the backdrop, its shadow far off and soft.
        Large = "large",
        /// Far: 16 to 20 pixels, close to the backdrop, its shadow near and crisp.
        Small = "small",
    }
}

named! {
    /// The backdrop behind the objects.
    "background" Background {
        /// Pale sky over two green hills.
        Meadow = "meadow",
        /// Sky, a band of water, foam and sand.
        Beach = "beach",
        /// White hills under a grey-blue sky with a few flakes.
        Snow = "snow",
        /// Dunes under a pale sun.
        Desert = "desert",
        /// Sheets of waves.
        Sea = "sea",
        /// Dark, with stars and the edge of a planet.
        Space = "space",
    }
}

named! {
    /// A global change of texture or palette.
    "style" Style {
        /// Plain paper.
        Flat = "flat",
        /// Ink contours and bleached fills.
        Outline = "outline",
        /// Blocks of 2x2 pixels with few tones.
        Pixel = "pixel",
        /// Soft wobbling edges and mottled pigment on paper.
        Watercolour = "watercolour",
        /// Half way to brown, with darkened corners.
        Sepia = "sepia",
        /// Dark and bluish; windows glow.
        Night = "night",
    }
}

named! {
    /// A part of an object. Classes share part names where the thing is the same (window, eye, tail, stem ...).
    "part" Part {
        /// Of a house; carries the colour.
        Wall = "wall",
        /// Of a house.
        Roof = "roof",
        /// Of a house.
        Door = "door",
        /// Of a house, a car, a rocket.
        Window = "window",
        /// Of a tree; carries the colour.
        Crown = "crown",
        /// Of a tree.
        Trunk = "trunk",
        /// Of a fish, a car, a bird, a cat, a cup; carries the colour.
        Body = "body",
        /// Of a fish, a cat.
        Tail = "tail",
        /// Of a fish, a rocket.
        Fin = "fin",
        /// Of a fish, a bird, a cat.
        Eye = "eye",
        /// Of a car.
        Wheel = "wheel",
        /// Of a boat, a rocket; carries the colour.
        Hull = "hull",
        /// Of a boat.
        Sail = "sail",
        /// Of a boat.
        Mast = "mast",
        /// Of a flower; carries the colour.
        Petals = "petals",
        /// Of a flower.
        Centre = "centre",
        /// Of a flower, a mushroom.
        Stem = "stem",
        /// Of a flower.
        Leaf = "leaf",
        /// Of a bird.
        Wing = "wing",
        /// Of a bird.
        Beak = "beak",
        /// Of a cat; carries the colour.
        Head = "head",
        /// Of a mushroom; carries the colour.
        Cap = "cap",
        /// Of a mushroom.
        Spots = "spots",
        /// Of an umbrella; carries the colour.
        Canopy = "canopy",
        /// Of an umbrella: its middle panel.
        Stripe = "stripe",
        /// Of an umbrella, a cup.
        Handle = "handle",
        /// Of a rocket.
        Flame = "flame",
        /// Of a cup.
        Drink = "drink",
    }
}

impl Colour {
    /// The colour as it is before any style, sRGB in 0..=255.
    #[must_use]
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Colour::Red => [212, 44, 44],
            Colour::Orange => [243, 132, 28],
            Colour::Yellow => [250, 214, 54],
            Colour::Green => [52, 152, 70],
            Colour::Blue => [42, 104, 212],
            Colour::Purple => [120, 56, 168],
            Colour::Pink => [246, 146, 192],
            Colour::White => [248, 247, 243],
        }
    }
}

impl Place {
    /// Where the centre of mass is aimed at, as (x, y) in shares of width and height.
    #[must_use]
    pub fn anchor(self) -> [f32; 2] {
        match self {
            Place::TopLeft => [0.25, 0.25],
            Place::TopRight => [0.75, 0.25],
            Place::BottomLeft => [0.25, 0.75],
            Place::BottomRight => [0.75, 0.75],
            Place::Centre => [0.5, 0.5],
        }
    }

    /// The place whose anchor is nearest to (x, y), given in shares of width and height.
    #[must_use]
    pub fn nearest(x: f32, y: f32) -> Place {
        let distance = |place: Place| {
            let [ax, ay] = place.anchor();
            (x - ax) * (x - ax) + (y - ay) * (y - ay)
        };
        Place::ALL.iter().copied().fold(Place::Centre, |a, b| if distance(b) < distance(a) { b } else { a })
    }
}

impl Class {
    /// The parts of this class, in the order in which they are pasted on.
    #[must_use]
    pub fn parts(self) -> Vec<Part> {
        super::cutout::pieces(self).iter().map(|piece| piece.part).collect()
    }
}

impl Style {
    /// What this style makes of a colour, leaving out texture and place: RGB in 0..=1.
    ///
    /// A judge compares a picture of known style with the palette under that style.
    #[must_use]
    pub fn tone(self, rgb: [f32; 3]) -> [f32; 3] {
        super::style::tone(self, rgb)
    }
}

/// The combinations that never occur outside [`super::Split::Unseen`]: eight classes and every colour, once each.
pub const HELD_OUT: [(Class, Colour); 8] = [
    (Class::House, Colour::Purple),
    (Class::Tree, Colour::Pink),
    (Class::Fish, Colour::Green),
    (Class::Car, Colour::Orange),
    (Class::Bird, Colour::White),
    (Class::Cat, Colour::Blue),
    (Class::Rocket, Colour::Yellow),
    (Class::Cup, Colour::Red),
];

/// Whether (class, colour) is among [`HELD_OUT`].
#[must_use]
pub fn is_held_out(class: Class, colour: Colour) -> bool {
    HELD_OUT.contains(&(class, colour))
}
