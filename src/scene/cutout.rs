//! The twelve classes as paper cut-outs: the pieces of each, in the order in which they are pasted on.

use super::shape::{Point, Shape, hull};
use super::world::{Class, Part};
use std::sync::LazyLock;

/// How a piece is painted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Paint {
    /// The object's colour.
    Named,
    /// A darker shade of it.
    Shade,
    /// A light spot on it (a grey one on white).
    Tint,
    /// Always the same.
    Fixed([u8; 3]),
    /// Window glass, which glows in the night style.
    Glass,
}

/// One sheet of paper of an object.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) part: Part,
    pub(crate) paint: Paint,
    pub(crate) shapes: &'static [Shape],
}

impl Piece {
    /// Signed distance of `p`: the union of the shapes.
    pub(crate) fn distance(&self, p: Point) -> f32 {
        self.shapes.iter().fold(f32::MAX, |d, shape| d.min(shape.distance(p)))
    }
}

use Paint::{Fixed, Glass, Named, Shade, Tint};
use Shape::{Capsule, Dome, Ellipse, Polygon, Ring};

const DARK: Paint = Fixed([52, 48, 62]);
const WOOD: Paint = Fixed([128, 88, 62]);
const CREAM: Paint = Fixed([250, 240, 220]);
const LEAF: Paint = Fixed([98, 138, 84]);

const fn piece(part: Part, paint: Paint, shapes: &'static [Shape]) -> Piece {
    Piece { part, paint, shapes }
}

static HOUSE: [Piece; 4] = [
    piece(Part::Wall, Named, &[Polygon(&[[-0.8, -0.5], [0.8, -0.5], [0.8, 0.94], [-0.8, 0.94]], 0.02)]),
    piece(
        Part::Roof,
        Fixed([92, 78, 92]),
        &[
            Polygon(&[[0.34, -0.92], [0.58, -0.92], [0.58, -0.34], [0.34, -0.34]], 0.02),
            Polygon(&[[-0.97, -0.4], [-0.16, -0.94], [0.16, -0.94], [0.97, -0.4]], 0.03),
        ],
    ),
    piece(Part::Door, WOOD, &[Polygon(&[[-0.5, 0.34], [-0.14, 0.34], [-0.14, 0.95], [-0.5, 0.95]], 0.02)]),
    piece(Part::Window, Glass, &[Polygon(&[[0.18, 0.08], [0.54, 0.08], [0.54, 0.44], [0.18, 0.44]], 0.02)]),
];

static TREE: [Piece; 2] = [
    piece(Part::Trunk, WOOD, &[Polygon(&[[-0.13, 0.1], [0.13, 0.1], [0.22, 0.97], [-0.22, 0.97]], 0.02)]),
    piece(
        Part::Crown,
        Named,
        &[
            Ellipse([0.0, -0.5], [0.48, 0.48]),
            Ellipse([-0.42, -0.06], [0.43, 0.42]),
            Ellipse([0.42, -0.06], [0.43, 0.42]),
            Ellipse([0.0, 0.06], [0.42, 0.36]),
        ],
    ),
];

static FISH: [Piece; 4] = [
    piece(Part::Tail, Shade, &[Polygon(&[[0.34, 0.0], [0.92, -0.5], [0.8, 0.0], [0.92, 0.5]], 0.06)]),
    piece(Part::Body, Named, &[Ellipse([-0.22, 0.0], [0.76, 0.52])]),
    piece(Part::Fin, Shade, &[Polygon(&[[-0.12, 0.04], [0.22, -0.12], [0.18, 0.3]], 0.05)]),
    piece(Part::Eye, DARK, &[Ellipse([-0.6, -0.1], [0.14, 0.14])]),
];

static CAR: [Piece; 3] = [
    piece(
        Part::Body,
        Named,
        &[
            Polygon(&[[-0.92, 0.0], [0.92, 0.0], [0.94, 0.36], [-0.94, 0.36]], 0.08),
            Polygon(&[[-0.62, 0.0], [-0.38, -0.46], [0.36, -0.46], [0.66, 0.0]], 0.08),
        ],
    ),
    piece(
        Part::Window,
        Glass,
        &[
            Polygon(&[[-0.44, -0.06], [-0.28, -0.36], [-0.06, -0.36], [-0.06, -0.06]], 0.02),
            Polygon(&[[0.1, -0.06], [0.1, -0.36], [0.28, -0.36], [0.46, -0.06]], 0.02),
        ],
    ),
    piece(Part::Wheel, DARK, &[Ellipse([-0.52, 0.42], [0.25, 0.25]), Ellipse([0.52, 0.42], [0.25, 0.25])]),
];

static BOAT: [Piece; 3] = [
    piece(Part::Mast, WOOD, &[Capsule([0.0, -0.88], [0.0, 0.3], 0.09)]),
    piece(
        Part::Sail,
        CREAM,
        &[
            Polygon(&[[0.1, -0.86], [0.1, 0.02], [0.72, 0.02]], 0.03),
            Polygon(&[[-0.1, -0.6], [-0.1, 0.02], [-0.54, 0.02]], 0.03),
        ],
    ),
    piece(Part::Hull, Named, &[Polygon(&[[-0.96, 0.18], [0.96, 0.18], [0.6, 0.86], [-0.56, 0.86]], 0.04)]),
];

static FLOWER: [Piece; 4] = [
    piece(Part::Stem, LEAF, &[Capsule([0.0, 0.1], [0.0, 0.9], 0.09)]),
    piece(Part::Leaf, LEAF, &[Capsule([0.02, 0.8], [0.38, 0.54], 0.11), Capsule([-0.02, 0.8], [-0.38, 0.54], 0.11)]),
    piece(
        Part::Petals,
        Named,
        &[
            Ellipse([0.0, -0.7], [0.27, 0.27]),
            Ellipse([0.34, -0.51], [0.27, 0.27]),
            Ellipse([0.34, -0.13], [0.27, 0.27]),
            Ellipse([0.0, 0.06], [0.27, 0.27]),
            Ellipse([-0.34, -0.13], [0.27, 0.27]),
            Ellipse([-0.34, -0.51], [0.27, 0.27]),
            Ellipse([0.0, -0.32], [0.34, 0.34]),
        ],
    ),
    piece(Part::Centre, Fixed([116, 76, 50]), &[Ellipse([0.0, -0.32], [0.21, 0.21])]),
];

static BIRD: [Piece; 4] = [
    piece(Part::Beak, Fixed([238, 168, 48]), &[Polygon(&[[-0.66, -0.56], [-1.04, -0.32], [-0.66, -0.12]], 0.04)]),
    piece(
        Part::Body,
        Named,
        &[
            Ellipse([-0.48, -0.36], [0.34, 0.34]),
            Ellipse([-0.04, 0.14], [0.58, 0.48]),
            Polygon(&[[0.3, -0.06], [0.9, -0.4], [0.96, -0.08], [0.4, 0.36]], 0.04),
        ],
    ),
    piece(Part::Wing, Shade, &[Polygon(&[[-0.22, 0.02], [0.4, -0.04], [0.28, 0.3], [0.02, 0.36]], 0.08)]),
    piece(Part::Eye, DARK, &[Ellipse([-0.54, -0.42], [0.12, 0.12])]),
];

static CAT: [Piece; 4] = [
    piece(
        Part::Tail,
        Shade,
        &[
            Capsule([0.2, 0.82], [0.66, 0.72], 0.12),
            Capsule([0.66, 0.72], [0.74, 0.3], 0.12),
            Capsule([0.74, 0.3], [0.58, 0.1], 0.12),
        ],
    ),
    piece(Part::Body, Named, &[Polygon(&[[-0.2, -0.1], [0.2, -0.1], [0.4, 0.84], [-0.4, 0.84]], 0.12)]),
    piece(
        Part::Head,
        Named,
        &[
            Ellipse([0.0, -0.4], [0.54, 0.44]),
            Polygon(&[[-0.5, -0.94], [-0.12, -0.66], [-0.46, -0.4]], 0.03),
            Polygon(&[[0.5, -0.94], [0.12, -0.66], [0.46, -0.4]], 0.03),
        ],
    ),
    piece(Part::Eye, DARK, &[Ellipse([-0.2, -0.42], [0.11, 0.12]), Ellipse([0.2, -0.42], [0.11, 0.12])]),
];

static MUSHROOM: [Piece; 3] = [
    piece(Part::Stem, CREAM, &[Polygon(&[[-0.18, 0.0], [0.18, 0.0], [0.25, 0.84], [-0.25, 0.84]], 0.08)]),
    piece(Part::Cap, Named, &[Dome([0.0, 0.14], [1.0, 1.06], &[])]),
    piece(
        Part::Spots,
        Tint,
        &[
            Ellipse([-0.04, -0.54], [0.18, 0.17]),
            Ellipse([-0.52, -0.14], [0.17, 0.16]),
            Ellipse([0.46, -0.18], [0.18, 0.17]),
        ],
    ),
];

static SCALLOPS: [[f32; 3]; 3] = [[-0.66, 0.16, 0.3], [0.0, 0.16, 0.34], [0.66, 0.16, 0.3]];

static UMBRELLA: [Piece; 3] = [
    piece(
        Part::Handle,
        WOOD,
        &[
            Capsule([0.0, -0.9], [0.0, 0.74], 0.08),
            Capsule([0.0, 0.74], [0.1, 0.88], 0.08),
            Capsule([0.1, 0.88], [0.26, 0.88], 0.08),
            Capsule([0.26, 0.88], [0.36, 0.7], 0.08),
        ],
    ),
    piece(Part::Canopy, Named, &[Dome([0.0, 0.06], [1.0, 0.92], &SCALLOPS)]),
    piece(Part::Stripe, Shade, &[Dome([0.0, 0.06], [0.29, 0.88], &SCALLOPS)]),
];

static ROCKET: [Piece; 4] = [
    piece(Part::Flame, Fixed([252, 178, 60]), &[Polygon(&[[-0.22, 0.5], [0.22, 0.5], [0.0, 0.94]], 0.05)]),
    piece(
        Part::Fin,
        DARK,
        &[
            Polygon(&[[-0.3, 0.08], [-0.3, 0.56], [-0.66, 0.74], [-0.62, 0.36]], 0.03),
            Polygon(&[[0.3, 0.08], [0.3, 0.56], [0.66, 0.74], [0.62, 0.36]], 0.03),
        ],
    ),
    piece(
        Part::Hull,
        Named,
        &[Polygon(
            &[
                [0.0, -0.94],
                [0.22, -0.68],
                [0.36, -0.32],
                [0.38, 0.1],
                [0.28, 0.54],
                [-0.28, 0.54],
                [-0.38, 0.1],
                [-0.36, -0.32],
                [-0.22, -0.68],
            ],
            0.05,
        )],
    ),
    piece(Part::Window, Glass, &[Ellipse([0.0, -0.22], [0.2, 0.2])]),
];

static CUP: [Piece; 3] = [
    piece(Part::Handle, Shade, &[Ring([0.52, 0.12], 0.32, 0.11)]),
    piece(
        Part::Body,
        Named,
        &[
            Polygon(&[[-0.8, -0.5], [0.46, -0.5], [0.36, 0.66], [-0.7, 0.66]], 0.08),
            Ellipse([-0.17, -0.5], [0.71, 0.22]),
        ],
    ),
    piece(Part::Drink, Fixed([104, 66, 48]), &[Ellipse([-0.17, -0.5], [0.56, 0.13])]),
];

/// The pieces of a class, from the lowest sheet to the topmost.
pub(crate) fn pieces(class: Class) -> &'static [Piece] {
    match class {
        Class::House => &HOUSE,
        Class::Tree => &TREE,
        Class::Fish => &FISH,
        Class::Car => &CAR,
        Class::Boat => &BOAT,
        Class::Flower => &FLOWER,
        Class::Bird => &BIRD,
        Class::Cat => &CAT,
        Class::Mushroom => &MUSHROOM,
        Class::Umbrella => &UMBRELLA,
        Class::Rocket => &ROCKET,
        Class::Cup => &CUP,
    }
}

/// A piece with the box around it, to pass over pixels that it cannot touch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Boxed {
    pub(crate) piece: &'static Piece,
    low: Point,
    high: Point,
}

impl Boxed {
    /// The pieces of `class`; boxes are `reach` larger on every side.
    pub(crate) fn all(class: Class, reach: f32) -> Vec<Boxed> {
        pieces(class)
            .iter()
            .map(|piece| {
                let [low, high] = hull(piece.shapes.iter().map(Shape::bounds));
                Boxed { piece, low: low.map(|v| v - reach), high: high.map(|v| v + reach) }
            })
            .collect()
    }

    /// Whether `p` lies in the box.
    pub(crate) fn holds(&self, p: Point) -> bool {
        (0..2).all(|axis| self.low[axis] <= p[axis] && p[axis] <= self.high[axis])
    }
}

/// Signed distance from the silhouette of a class.
pub(crate) fn silhouette(class: Class, p: Point) -> f32 {
    pieces(class).iter().fold(f32::MAX, |d, piece| d.min(piece.distance(p)))
}

/// Where a silhouette lies in local coordinates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Extent {
    /// Least x and y.
    pub(crate) low: Point,
    /// Greatest x and y.
    pub(crate) high: Point,
    /// Centre of mass.
    pub(crate) centre: Point,
}

impl Extent {
    /// The longer side of the box.
    pub(crate) fn longest(&self) -> f32 {
        (self.high[0] - self.low[0]).max(self.high[1] - self.low[1])
    }
}

/// The extent of a class, measured once on a grid of 128x128 points over [-1.2, 1.2]^2.
pub(crate) fn extent(class: Class) -> Extent {
    static EXTENTS: LazyLock<Vec<Extent>> = LazyLock::new(|| Class::ALL.iter().map(|&class| measure(class)).collect());
    EXTENTS[class.index()]
}

fn measure(class: Class) -> Extent {
    const SIDE: usize = 128;
    let at = |i: usize| (i as f32 + 0.5) * (2.4 / SIDE as f32) - 1.2;
    let (mut low, mut high, mut sum, mut n) = ([f32::MAX; 2], [f32::MIN; 2], [0.0f32; 2], 0.0f32);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let p = [at(x), at(y)];
            if silhouette(class, p) <= 0.0 {
                for axis in 0..2 {
                    low[axis] = low[axis].min(p[axis]);
                    high[axis] = high[axis].max(p[axis]);
                    sum[axis] += p[axis];
                }
                n += 1.0;
            }
        }
    }
    Extent { low, high, centre: [sum[0] / n, sum[1] / n] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_two_to_four_parts_and_fills_its_box() {
        for &class in Class::ALL {
            let parts = class.parts();
            assert!((2..=4).contains(&parts.len()), "{class}");
            let e = extent(class);
            assert!((1.6..2.1).contains(&e.longest()), "{class}: {e:?}");
            assert!(e.low.iter().chain(&e.high).all(|v| v.abs() < 1.1), "{class}: {e:?}");
        }
    }
}
