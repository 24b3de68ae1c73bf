//! The six styles: how edges are drawn and what becomes of the palette.

use super::shape::{mix, smooth, unit};
use super::world::Style;

/// How cut-outs are drawn under a style.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Side of a drawn cell in pixels: 2 draws blocks.
    pub(crate) cell: usize,
    /// Width of an edge in pixels; 0 is hard.
    pub(crate) edge: f32,
    /// How much larger, in pixels, every piece is drawn: blocks would lose thin pieces.
    pub(crate) swell: f32,
    /// Width in pixels of the rim inside an edge.
    pub(crate) rim: f32,
    /// What the rim multiplies the paint by.
    pub(crate) rim_shade: f32,
    /// Ink contours instead of rims.
    pub(crate) ink: bool,
    /// Bleaching of the backdrop towards paper.
    pub(crate) bleach: f32,
    /// Greatest darkening by a cast shadow.
    pub(crate) shadow: f32,
    /// Amplitude in pixels of the wobble of edges.
    pub(crate) wobble: f32,
}

/// The ink of outlines.
pub(crate) const INK: [f32; 3] = [0.15, 0.13, 0.20];
const PAPER: [f32; 3] = [0.985, 0.97, 0.94];

/// The look of a style.
pub(crate) fn look(style: Style) -> Look {
    let plain = Look {
        cell: 1,
        edge: 1.0,
        swell: 0.0,
        rim: 1.1,
        rim_shade: 0.74,
        ink: false,
        bleach: 0.0,
        shadow: 0.46,
        wobble: 0.0,
    };
    match style {
        Style::Flat => plain,
        Style::Outline => Look { ink: true, bleach: 0.62, shadow: 0.24, rim: 0.95, ..plain },
        Style::Pixel => Look { cell: 2, edge: 0.0, swell: 0.3, rim: 1.5, rim_shade: 0.82, ..plain },
        Style::Watercolour => {
            Look { edge: 1.7, rim: 1.3, rim_shade: 0.80, bleach: 0.30, shadow: 0.32, wobble: 1.1, ..plain }
        }
        Style::Sepia => plain,
        Style::Night => Look { shadow: 0.6, ..plain },
    }
}

/// The palette under a style, without texture.
pub(crate) fn tone(style: Style, c: [f32; 3]) -> [f32; 3] {
    match style {
        Style::Flat | Style::Pixel => c,
        Style::Outline => mix(c, PAPER, 0.14),
        Style::Watercolour => mix(c, PAPER, 0.16),
        Style::Sepia => mix(c, brown(c), 0.46),
        Style::Night => [0.01 + 0.62 * c[0], 0.02 + 0.62 * c[1], 0.09 + 0.68 * c[2]],
    }
}

/// What a style does to the backdrop only, before its tone: palettes change more there, so that objects keep their hue.
pub(crate) fn backdrop(style: Style, c: [f32; 3], bleach: f32) -> [f32; 3] {
    match style {
        Style::Sepia => mix(c, brown(c), 0.6),
        Style::Night => [0.52 * c[0], 0.56 * c[1], 0.66 * c[2]],
        _ => mix(c, PAPER, bleach),
    }
}

fn brown(c: [f32; 3]) -> [f32; 3] {
    let grey = 0.30 * c[0] + 0.55 * c[1] + 0.15 * c[2];
    [0.22 + 0.76 * grey, 0.14 + 0.72 * grey, 0.06 + 0.60 * grey]
}

/// Texture and tone of one finished pixel. `x`, `y` in pixels, `mottle` in -1..=1, low-frequency.
pub(crate) fn finish(style: Style, c: [f32; 3], x: f32, y: f32, mottle: f32) -> [f32; 3] {
    match style {
        Style::Flat | Style::Outline | Style::Pixel => tone(style, c),
        Style::Watercolour => {
            let pigment = tone(style, c);
            if mottle > 0.0 {
                mix(pigment, PAPER, 0.26 * mottle)
            } else {
                mix(pigment, c.map(|v| 0.88 * v), -0.6 * mottle)
            }
        }
        Style::Sepia => {
            let (u, v) = (x / 32.0 - 1.0, y / 32.0 - 1.0);
            let vignette = 1.0 - 0.34 * smooth((u * u + v * v - 0.7) / 1.3);
            tone(style, c).map(|t| t * vignette)
        }
        Style::Night => {
            let (u, v) = (x / 64.0 - 0.5, y / 64.0 - 0.1);
            let moon = 1.12 - 0.30 * smooth((u * u + v * v) / 0.9);
            tone(style, c).map(|t| t * moon)
        }
    }
}

/// Window glass under a style: it glows at night. Given before `tone`.
pub(crate) fn glass(style: Style) -> [f32; 3] {
    match style {
        // Over 1 on purpose: the night tone brings it back to a warm light.
        Style::Night => [1.5, 1.3, 0.6],
        _ => unit([196, 226, 238]),
    }
}

/// Low-frequency noise in -1..=1: a lattice of hashed values, smoothly joined.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise {
    seed: u32,
    /// Lattice spacing in pixels.
    spacing: f32,
}

impl Noise {
    pub(crate) fn new(seed: u32, spacing: f32) -> Noise {
        Noise { seed, spacing }
    }

    pub(crate) fn at(&self, x: f32, y: f32) -> f32 {
        // Turned by the angle of a 3-4-5 triangle, so that the lattice does not show as rows and columns.
        let (x, y) = (0.8 * x - 0.6 * y, 0.6 * x + 0.8 * y);
        let (u, v) = (x / self.spacing, y / self.spacing);
        let (i, j) = (u.floor(), v.floor());
        let (s, t) = (smooth(u - i), smooth(v - j));
        let value = |di: f32, dj: f32| self.lattice((i + di) as i32, (j + dj) as i32);
        let top = value(0.0, 0.0) * (1.0 - s) + value(1.0, 0.0) * s;
        let bottom = value(0.0, 1.0) * (1.0 - s) + value(1.0, 1.0) * s;
        top * (1.0 - t) + bottom * t
    }

    fn lattice(&self, i: i32, j: i32) -> f32 {
        let mut h = self.seed ^ (i as u32).wrapping_mul(0x9e37_79b1) ^ (j as u32).wrapping_mul(0x85eb_ca77);
        h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
        h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
        h ^= h >> 16;
        (h >> 8) as f32 / 8_388_608.0 - 1.0
    }
}
