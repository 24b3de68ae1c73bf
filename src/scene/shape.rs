//! Outlines as signed distances: negative inside, positive outside, in local units.
//!
//! Only +, -, *, / and sqrt are used: they are exact by IEEE 754, so pictures are the same bytes on any machine.

/// A point or vector.
pub(crate) type Point = [f32; 2];

/// A closed outline in local coordinates (x to the right, y down).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// Centre and half axes.
    Ellipse(Point, Point),
    /// A polygon with corners rounded outwards by a radius.
    Polygon(&'static [Point], f32),
    /// All points within a radius of a segment.
    Capsule(Point, Point, f32),
    /// An annulus: centre, middle radius, half thickness.
    Ring(Point, f32, f32),
    /// The upper half of an ellipse with discs cut out of its rim: centre, half axes, discs (x, y, radius).
    Dome(Point, Point, &'static [[f32; 3]]),
}

impl Shape {
    /// Least and greatest coordinates.
    pub(crate) fn bounds(&self) -> [Point; 2] {
        let around = |c: Point, h: Point| [[c[0] - h[0], c[1] - h[1]], [c[0] + h[0], c[1] + h[1]]];
        match *self {
            Shape::Ellipse(centre, half) | Shape::Dome(centre, half, _) => around(centre, half),
            Shape::Ring(centre, radius, half) => around(centre, [radius + half; 2]),
            Shape::Polygon(corners, radius) => hull(corners.iter().map(|&p| around(p, [radius; 2]))),
            Shape::Capsule(a, b, radius) => hull([a, b].map(|p| around(p, [radius; 2])).into_iter()),
        }
    }

    /// Signed distance of `p` from the outline.
    pub(crate) fn distance(&self, p: Point) -> f32 {
        match *self {
            Shape::Ellipse(centre, half) => ellipse([p[0] - centre[0], p[1] - centre[1]], half),
            Shape::Polygon(corners, radius) => polygon(corners, p) - radius,
            Shape::Capsule(a, b, radius) => segment(a, b, p).sqrt() - radius,
            Shape::Ring(centre, radius, half) => {
                let (x, y) = (p[0] - centre[0], p[1] - centre[1]);
                ((x * x + y * y).sqrt() - radius).abs() - half
            }
            Shape::Dome(centre, half, bites) => {
                let q = [p[0] - centre[0], p[1] - centre[1]];
                let dome = ellipse(q, half).max(q[1]);
                bites.iter().fold(dome, |d, &[x, y, r]| {
                    let (dx, dy) = (p[0] - x, p[1] - y);
                    d.max(r - (dx * dx + dy * dy).sqrt())
                })
            }
        }
    }
}

/// The smallest box around boxes.
pub(crate) fn hull(boxes: impl Iterator<Item = [Point; 2]>) -> [Point; 2] {
    boxes.fold([[f32::MAX; 2], [f32::MIN; 2]], |[low, high], [a, b]| {
        [[low[0].min(a[0]), low[1].min(a[1])], [high[0].max(b[0]), high[1].max(b[1])]]
    })
}

/// Distance from an ellipse around the origin, to first order: k0 (k0 - 1) / k1 with k0 = |p / h|, k1 = |p / h^2|.
fn ellipse(p: Point, half: Point) -> f32 {
    let (ux, uy) = (p[0] / half[0], p[1] / half[1]);
    let (vx, vy) = (ux / half[0], uy / half[1]);
    let k0 = (ux * ux + uy * uy).sqrt();
    let k1 = (vx * vx + vy * vy).sqrt();
    if k1 < 1e-6 { -half[0].min(half[1]) } else { k0 * (k0 - 1.0) / k1 }
}

/// Squared distance from the segment a-b.
fn segment(a: Point, b: Point, p: Point) -> f32 {
    let (ex, ey) = (b[0] - a[0], b[1] - a[1]);
    let (wx, wy) = (p[0] - a[0], p[1] - a[1]);
    let t = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
    let (dx, dy) = (wx - ex * t, wy - ey * t);
    dx * dx + dy * dy
}

/// Exact distance from a polygon; inside by the even-odd rule.
fn polygon(corners: &[Point], p: Point) -> f32 {
    let mut nearest = f32::MAX;
    let mut inside = false;
    let mut a = corners[corners.len() - 1];
    for &b in corners {
        nearest = nearest.min(segment(a, b, p));
        if (a[1] > p[1]) != (b[1] > p[1]) && p[0] < (b[0] - a[0]) * (p[1] - a[1]) / (b[1] - a[1]) + a[0] {
            inside = !inside;
        }
        a = b;
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}

/// A smooth wave of period 1 and amplitude 1, made of parabolas (a stand-in for the sine that is the same everywhere).
pub(crate) fn wave(turns: f32) -> f32 {
    let f = turns - turns.floor();
    if f < 0.5 { 16.0 * f * (0.5 - f) } else { -16.0 * (f - 0.5) * (1.0 - f) }
}

/// 3t^2 - 2t^3 of t clamped to 0..=1.
pub(crate) fn smooth(t: f32) -> f32 {
    let t = t.clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// (1 - t) a + t b.
pub(crate) fn mix(a: [f32; 3], b: [f32; 3], t: f32) -> [f32; 3] {
    [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t]
}

/// Bytes to 0..=1.
pub(crate) fn unit(rgb: [u8; 3]) -> [f32; 3] {
    rgb.map(|v| f32::from(v) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_of_simple_outlines() {
        let disc = Shape::Ellipse([1.0, 0.0], [0.5, 0.5]);
        assert!((disc.distance([2.0, 0.0]) - 0.5).abs() < 1e-6);
        assert!((disc.distance([1.0, 0.25]) + 0.25).abs() < 1e-6);
        let square = Shape::Polygon(&[[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]], 0.0);
        assert_eq!(square.distance([1.0, 0.5]), -0.5);
        assert_eq!(square.distance([5.0, 6.0]), 5.0);
        assert_eq!(Shape::Capsule([0.0, 0.0], [4.0, 0.0], 1.0).distance([2.0, 3.0]), 2.0);
        assert_eq!(Shape::Ring([0.0, 0.0], 2.0, 0.5).distance([2.0, 0.0]), -0.5);
        assert!(Shape::Dome([0.0, 0.0], [1.0, 1.0], &[]).distance([0.0, 0.5]) > 0.0);
    }

    #[test]
    fn wave_is_continuous_and_bounded() {
        for (turns, value) in [(0.0, 0.0), (0.25, 1.0), (0.5, 0.0), (0.75, -1.0), (-0.25, -1.0), (3.25, 1.0)] {
            assert!((wave(turns) - value).abs() < 1e-6, "{turns}");
        }
    }
}
