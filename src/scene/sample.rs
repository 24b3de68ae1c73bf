//! Scenes and how they are drawn at random.

use super::cutout;
use super::render::{self, Render};
use super::world::{Background, Class, Colour, HELD_OUT, Place, Size, Style, is_held_out};
use crate::random::{Stream, stream};
use serde::{Deserialize, Serialize};

/// Width and height of every picture in pixels.
pub const SIDE: usize = 64;

/// Share of scenes with one object; the others have two.
const SINGLE: f32 = 0.45;
/// Share of pairs of the same colour that are kept.
const SAME_COLOUR: f32 = 0.1;
/// Clear space between two objects and to the border, in pixels.
const MARGIN: f32 = 1.0;
/// Seed of the world: scenes are a function of split and index only.
const WORLD: u64 = 0x5ce_4e5;

/// A disjoint sequence of scenes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Split {
    /// For training; without the combinations of [`HELD_OUT`].
    Train,
    /// For choosing; without the combinations of [`HELD_OUT`].
    Validation,
    /// For reporting; without the combinations of [`HELD_OUT`].
    Test,
    /// Scenes that hold at least one combination of [`HELD_OUT`].
    Unseen,
}

impl Split {
    fn purpose(self) -> &'static str {
        match self {
            Split::Train => "scene train",
            Split::Validation => "scene validation",
            Split::Test => "scene test",
            Split::Unseen => "scene unseen",
        }
    }
}

/// A cut-out in a scene.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// What it is.
    pub class: Class,
    /// The colour of its dominant part.
    pub colour: Colour,
    /// Where it is.
    pub place: Place,
    /// How large it looks.
    pub size: Size,
    /// Its centre of mass (x, y) in pixels.
    pub centre: [f32; 2],
    /// Its longer side in pixels.
    pub extent: f32,
    /// How high it stands above the backdrop, in 0..1.
    pub height: f32,
}

impl Object {
    /// An object at the anchor of its place, of middling extent and height for its size.
    #[must_use]
    pub fn new(class: Class, colour: Colour, place: Place, size: Size) -> Object {
        let (extent, height) = match size {
            Size::Large => (28.0, 0.55),
            Size::Small => (18.0, 0.16),
        };
        let centre = place.anchor().map(|v| v * SIDE as f32);
        let mut object = Object { class, colour, place, size, centre, extent, height };
        object.keep_inside();
        object
    }

    fn draw(s: &mut Stream, class: Class, colour: Colour, place: Place, size: Size) -> Object {
        let mut object = Object::new(class, colour, place, size);
        let jitter = match size {
            Size::Large => 1.5,
            Size::Small => 3.0,
        };
        object.extent += s.range(-2.0, 2.0);
        // Larger is nearer, and so higher.
        object.height += 0.02 * (object.extent - if size == Size::Large { 28.0 } else { 18.0 });
        object.centre = place.anchor().map(|v| v * SIDE as f32 + s.range(-jitter, jitter));
        object.keep_inside();
        object
    }

    /// Move the object so that its box lies inside the picture.
    fn keep_inside(&mut self) {
        let (low, high) = self.bounds();
        for axis in 0..2 {
            self.centre[axis] += (MARGIN - low[axis]).max(0.0) - (high[axis] - (SIDE as f32 - MARGIN)).max(0.0);
        }
    }

    /// Pixels per local unit.
    pub(crate) fn scale(&self) -> f32 {
        self.extent / cutout::extent(self.class).longest()
    }

    /// A position in pixels, in local coordinates.
    pub(crate) fn local(&self, p: [f32; 2], scale: f32) -> [f32; 2] {
        let centre = cutout::extent(self.class).centre;
        [0, 1].map(|axis| (p[axis] - self.centre[axis]) / scale + centre[axis])
    }

    /// Upper left and lower right corner of its box in pixels.
    pub(crate) fn bounds(&self) -> ([f32; 2], [f32; 2]) {
        let (e, scale) = (cutout::extent(self.class), self.scale());
        let corner = |v: [f32; 2]| [0, 1].map(|axis| self.centre[axis] + (v[axis] - e.centre[axis]) * scale);
        (corner(e.low), corner(e.high))
    }

    /// Whether some point is within half the margin of both silhouettes.
    pub(super) fn touches(&self, other: &Object) -> bool {
        let ((low, high), (a, b)) = (self.bounds(), other.bounds());
        let from = [0, 1].map(|i| (low[i].max(a[i]) - MARGIN).floor() as i32);
        let to = [0, 1].map(|i| (high[i].min(b[i]) + MARGIN).ceil() as i32);
        let near = |object: &Object, p| {
            let scale = object.scale();
            cutout::silhouette(object.class, object.local(p, scale)) * scale < MARGIN
        };
        (from[1]..to[1]).any(|y| {
            (from[0]..to[0]).any(|x| {
                let p = [x as f32 + 0.5, y as f32 + 0.5];
                near(self, p) && near(other, p)
            })
        })
    }
}

/// One or two objects on a backdrop, in a style.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// The objects; never overlapping in sampled scenes.
    pub objects: Vec<Object>,
    /// What is behind them.
    pub background: Background,
    /// How it is drawn.
    pub style: Style,
    /// Sideways shift of hills, waves and stars, in 0..1.
    pub phase: f32,
    /// Seed of the texture.
    pub texture: u32,
}

impl Scene {
    /// A scene of given objects, with the first texture.
    #[must_use]
    pub fn new(objects: Vec<Object>, background: Background, style: Style) -> Scene {
        Scene { objects, background, style, phase: 0.0, texture: 0 }
    }

    /// Scene `index` of `split`: the same on any machine.
    #[must_use]
    pub fn sample(split: Split, index: u64) -> Scene {
        let s = &mut stream(WORLD, split.purpose(), index);
        let count = if s.chance(SINGLE) { 1 } else { 2 };
        let mut kinds: Vec<(Class, Colour)> = Vec::with_capacity(count);
        if split == Split::Unseen {
            kinds.push(*s.pick(&HELD_OUT));
        }
        while kinds.len() < count {
            let kind = (*s.pick(Class::ALL), *s.pick(Colour::ALL));
            let keep_same = s.chance(SAME_COLOUR);
            let clashes = kinds.iter().any(|k| k.0 == kind.0 || k.1 == kind.1 && !keep_same);
            if !clashes && !is_held_out(kind.0, kind.1) {
                kinds.push(kind);
            }
        }
        if s.chance(0.5) {
            kinds.reverse();
        }
        let background = *s.pick(Background::ALL);
        let style = *s.pick(Style::ALL);
        let phase = s.uniform();
        let texture = s.word() as u32;
        let objects = loop {
            let places = s.permutation(Place::COUNT);
            let objects: Vec<Object> = kinds
                .iter()
                .zip(places)
                .map(|(&(class, colour), place)| {
                    let size = *s.pick(Size::ALL);
                    Object::draw(s, class, colour, Place::ALL[place], size)
                })
                .collect();
            if objects.len() == 1 || !objects[0].touches(&objects[1]) {
                break objects;
            }
        };
        Scene { objects, background, style, phase, texture }
    }

    /// Draws object `index` anew within its place and size; false if there is no room beside the other object.
    pub(crate) fn redraw(&mut self, index: usize, s: &mut Stream) -> bool {
        let Object { class, colour, place, size, .. } = self.objects[index];
        self.objects[index] = Object::draw(s, class, colour, place, size);
        self.objects.iter().enumerate().all(|(i, o)| i == index || !o.touches(&self.objects[index]))
    }

    /// Draws all objects anew; false if two of them touch.
    pub(crate) fn redraw_all(&mut self, s: &mut Stream) -> bool {
        let room: Vec<bool> = (0..self.objects.len()).map(|i| self.redraw(i, s)).collect();
        room.last().copied().unwrap_or(true)
    }

    /// The picture and its ground truth.
    #[must_use]
    pub fn render(&self) -> Render {
        render::render(self)
    }
}
