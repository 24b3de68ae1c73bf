//! The six backdrops: large sheets of pale paper, one above the other.

use super::shape::{mix, smooth, unit, wave};
use super::world::Background;

/// The backdrop at one point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ground {
    /// Paint, 0..=1.
    pub(crate) rgb: [f32; 3],
    /// Distance from the eye, 1 for the furthest sheet.
    pub(crate) depth: f32,
    /// Distance in pixels from the nearest edge of a sheet.
    pub(crate) edge: f32,
    /// Edges without blending, creases or gradients.
    hard: bool,
}

/// Depth from one backdrop sheet to the next.
const SHEET: f32 = 0.02;
/// How far, in pixels, and how much a sheet darkens the one behind it along its edge.
const CREASE: (f32, f32) = (5.0, 0.13);

impl Ground {
    fn new(top: [u8; 3], bottom: [u8; 3], y: f32, hard: bool) -> Ground {
        // Bands of 16 pixels instead of a gradient.
        let y = if hard { ((y / 16.0).floor() + 0.5) * 16.0 } else { y };
        Ground { rgb: mix(unit(top), unit(bottom), smooth(y / 64.0)), depth: 1.0, edge: f32::MAX, hard }
    }

    /// Paste a sheet whose signed distance (in pixels, negative inside) is `d`.
    fn sheet(&mut self, d: f32, rgb: [u8; 3]) {
        if self.hard {
            if d <= 0.0 {
                // A lighter row along the edge, as pixel artists draw it.
                self.rgb = if d > -2.0 { mix(unit(rgb), [1.0; 3], 0.3) } else { unit(rgb) };
                self.depth -= SHEET;
                self.edge = -d;
            }
            return;
        }
        let crease = 1.0 - CREASE.1 * (1.0 - smooth(d / CREASE.0));
        let behind = self.rgb.map(|v| v * crease);
        // A touch lighter along the cut edge of the paper.
        let lit = 1.0 + 0.05 * (1.0 - smooth(-d / 2.5));
        self.rgb = mix(behind, unit(rgb).map(|v| (v * lit).min(1.0)), (0.5 - d).clamp(0.0, 1.0));
        if d <= 0.0 {
            self.depth -= SHEET;
            self.edge = -d;
        } else {
            self.edge = self.edge.min(d);
        }
    }

    /// A soft spot that is paint, not paper.
    fn spot(&mut self, x: f32, y: f32, centre: [f32; 2], radius: f32, rgb: [u8; 3]) {
        let (dx, dy) = (x - centre[0], y - centre[1]);
        let d = (dx * dx + dy * dy).sqrt() - radius;
        let cover = smooth(0.5 - d / 2.0);
        let cover = if self.hard { (cover + 0.5).floor() } else { cover };
        self.rgb = mix(self.rgb, unit(rgb), cover);
    }
}

/// Where stars and flakes sit; a phase shifts them sideways.
const SPOTS: [[f32; 3]; 9] = [
    [6.0, 9.0, 1.1],
    [21.0, 4.0, 0.8],
    [33.0, 14.0, 1.2],
    [47.0, 6.0, 0.9],
    [59.0, 19.0, 1.1],
    [12.0, 27.0, 0.9],
    [40.0, 30.0, 0.9],
    [55.0, 37.0, 0.8],
    [26.0, 41.0, 1.0],
];

/// The backdrop at pixel position (x, y); `phase` in 0..1 shifts hills, waves, stars; `hard` leaves out all blending.
pub(crate) fn ground(background: Background, phase: f32, hard: bool, [x, y]: [f32; 2]) -> Ground {
    // Height below a wavy edge: close to the distance, as the slopes are gentle.
    let below = |base: f32, amplitude: f32, period: f32, shift: f32| base + amplitude * wave(x / period + shift) - y;
    let disc = |centre: [f32; 2], radius: f32| {
        let (dx, dy) = (x - centre[0], y - centre[1]);
        (dx * dx + dy * dy).sqrt() - radius
    };
    match background {
        Background::Meadow => {
            let mut g = Ground::new([196, 224, 242], [230, 242, 246], y, hard);
            g.sheet(below(29.0, 4.0, 74.0, phase), [190, 212, 168]);
            g.sheet(below(44.0, 4.5, 58.0, 0.37 - phase), [162, 196, 142]);
            g
        }
        Background::Beach => {
            let mut g = Ground::new([206, 230, 242], [236, 244, 246], y, hard);
            g.sheet(22.0 - y, [150, 200, 212]);
            g.sheet(below(37.0, 3.0, 70.0, phase), [240, 248, 248]);
            g.sheet(below(40.5, 3.0, 70.0, phase), [240, 224, 186]);
            g
        }
        Background::Snow => {
            let mut g = Ground::new([166, 184, 212], [204, 216, 232], y, hard);
            for [sx, sy, r] in SPOTS {
                let drift = sx + 64.0 * phase;
                g.spot(x, y, [drift - 64.0 * (drift / 64.0).floor(), sy], r, [240, 245, 252]);
            }
            g.sheet(below(36.0, 4.0, 66.0, phase), [214, 224, 238]);
            g.sheet(below(48.0, 4.0, 52.0, 0.3 - phase), [232, 238, 246]);
            g
        }
        Background::Desert => {
            let mut g = Ground::new([250, 226, 198], [252, 238, 216], y, hard);
            g.sheet(disc([10.0 + 44.0 * phase, 13.0], 7.0), [254, 246, 224]);
            g.sheet(below(32.0, 5.0, 82.0, phase), [232, 204, 166]);
            g.sheet(below(46.0, 4.0, 62.0, 0.6 - phase), [214, 180, 140]);
            g
        }
        Background::Sea => {
            let mut g = Ground::new([206, 228, 234], [206, 228, 234], y, hard);
            g.sheet(below(15.0, 1.8, 21.3, phase), [184, 214, 224]);
            g.sheet(below(27.0, 2.0, 21.3, 0.5 - phase), [162, 200, 214]);
            g.sheet(below(39.0, 2.2, 21.3, 0.2 + phase), [140, 184, 204]);
            g.sheet(below(51.0, 2.4, 21.3, 0.7 - phase), [120, 168, 192]);
            g
        }
        Background::Space => {
            let mut g = Ground::new([28, 28, 58], [44, 40, 78], y, hard);
            for [sx, sy, r] in SPOTS {
                let drift = sx + 64.0 * phase;
                g.spot(x, y, [drift - 64.0 * (drift / 64.0).floor(), sy], r, [214, 214, 232]);
            }
            g.sheet(disc([14.0 + 36.0 * phase, 104.0], 52.0), [78, 74, 118]);
            g
        }
    }
}
