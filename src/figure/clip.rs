//! Lines and areas cut to the axes' rectangle.

/// A rectangle: left, top, right, bottom.
pub(crate) type Bounds = (f64, f64, f64, f64);

/// The parts of the line through `points` inside `bounds` (Liang–Barsky). A point with NaN breaks the line.
pub(crate) fn line(points: &[(f64, f64)], bounds: Bounds) -> Vec<Vec<(f64, f64)>> {
    let mut parts: Vec<Vec<(f64, f64)>> = Vec::new();
    for pair in points.windows(2) {
        let Some((from, to)) = segment(pair[0], pair[1], bounds) else { continue };
        match parts.last_mut() {
            Some(part) if part.last() == Some(&from) => part.push(to),
            _ => parts.push(vec![from, to]),
        }
    }
    parts
}

fn segment(a: (f64, f64), b: (f64, f64), (left, top, right, bottom): Bounds) -> Option<((f64, f64), (f64, f64))> {
    if [a.0, a.1, b.0, b.1].iter().any(|v| v.is_nan()) {
        return None;
    }
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let (mut enter, mut leave) = (0.0f64, 1.0f64);
    for (p, q) in [(-dx, a.0 - left), (dx, right - a.0), (-dy, a.1 - top), (dy, bottom - a.1)] {
        if p == 0.0 {
            if q < 0.0 {
                return None;
            }
        } else if p < 0.0 {
            enter = enter.max(q / p);
        } else {
            leave = leave.min(q / p);
        }
    }
    if enter > leave {
        return None;
    }
    // Ends that need no cut stay to the bit, so that consecutive segments join.
    let at = |t: f64| (a.0 + t * dx, a.1 + t * dy);
    Some((if enter == 0.0 { a } else { at(enter) }, if leave == 1.0 { b } else { at(leave) }))
}

/// The polygon inside `bounds` (Sutherland–Hodgman). Points must be numbers.
pub(crate) fn area(points: &[(f64, f64)], (left, top, right, bottom): Bounds) -> Vec<(f64, f64)> {
    type Edge = (bool, f64, f64);
    // Coordinate (x or not), limit, sign of the inside.
    let edges: [Edge; 4] = [(true, left, 1.0), (true, right, -1.0), (false, top, 1.0), (false, bottom, -1.0)];
    let mut polygon = points.to_vec();
    for (is_x, limit, sign) in edges {
        let depth = |p: (f64, f64)| sign * (if is_x { p.0 } else { p.1 } - limit);
        let mut kept = Vec::with_capacity(polygon.len() + 4);
        for i in 0..polygon.len() {
            let (a, b) = (polygon[i], polygon[(i + 1) % polygon.len()]);
            let (da, db) = (depth(a), depth(b));
            if da >= 0.0 {
                kept.push(a);
            }
            if (da >= 0.0) != (db >= 0.0) {
                let t = da / (da - db);
                kept.push((a.0 + t * (b.0 - a.0), a.1 + t * (b.1 - a.1)));
            }
        }
        polygon = kept;
    }
    polygon
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: Bounds = (0.0, 0.0, 10.0, 10.0);

    #[test]
    fn lines_are_cut_and_broken() {
        let parts = line(&[(-5.0, 5.0), (5.0, 5.0), (5.0, 15.0)], BOX);
        assert_eq!(parts, [vec![(0.0, 5.0), (5.0, 5.0), (5.0, 10.0)]]);
        let parts = line(&[(1.0, 1.0), (2.0, 2.0), (f64::NAN, 3.0), (4.0, 4.0), (5.0, 5.0)], BOX);
        assert_eq!(parts.len(), 2);
        assert!(line(&[(-1.0, 1.0), (-1.0, 9.0)], BOX).is_empty());
    }

    #[test]
    fn areas_are_cut() {
        let cut = area(&[(5.0, 5.0), (15.0, 5.0), (15.0, 15.0), (5.0, 15.0)], BOX);
        let shoelace: f64 =
            (0..cut.len()).map(|i| (cut[i], cut[(i + 1) % cut.len()])).map(|(a, b)| a.0 * b.1 - b.0 * a.1).sum();
        assert!((shoelace.abs() / 2.0 - 25.0).abs() < 1e-9, "{cut:?}");
    }
}
