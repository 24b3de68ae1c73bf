//! Polygons as COCO draws them.
//!
//! The outline is followed on a grid five times as fine, and its crossings of the columns' middles are the ends of runs
//! down the columns; several polygons of one annotation are united. Pixel for pixel what pycocotools gives.

use super::rle;
use crate::scene::Mask;

/// Grid lines to a pixel.
const FINE: f64 = 5.0;

/// The union of polygons, each x and y in turn.
///
/// # Errors
/// A polygon with fewer than three corners or a coordinate too many, that is not finite or outside of the picture.
pub(super) fn mask(polygons: &[Vec<f64>], width: usize, height: usize) -> Result<Mask, String> {
    let mut all = Mask::new(width, height);
    for (i, polygon) in polygons.iter().enumerate() {
        if polygon.len() < 6 || polygon.len() % 2 == 1 {
            return Err(format!(
                "polygon {i} has {} coordinates, expected pairs of at least three corners",
                polygon.len()
            ));
        }
        for corner in polygon.chunks_exact(2) {
            let inside = (0.0..=width as f64).contains(&corner[0]) && (0.0..=height as f64).contains(&corner[1]);
            if !inside {
                let (x, y) = (corner[0], corner[1]);
                return Err(format!(
                    "polygon {i} has a corner at ({x}, {y}), outside of a picture of {width}×{height}"
                ));
            }
        }
        let one = rle::mask(&runs(polygon, width, height), width, height)?;
        all = all.union(&one).map_err(|e| e.to_string())?;
    }
    Ok(all)
}

/// Run lengths down the columns.
fn runs(polygon: &[f64], width: usize, height: usize) -> Vec<u64> {
    let corner = |c: &[f64]| ((FINE * c[0] + 0.5) as i64, (FINE * c[1] + 0.5) as i64);
    let corners: Vec<(i64, i64)> = polygon.chunks_exact(2).map(corner).collect();
    // Every point of the outline on the fine grid.
    let mut outline = Vec::new();
    for (i, &(mut xs, mut ys)) in corners.iter().enumerate() {
        let (mut xe, mut ye) = corners[(i + 1) % corners.len()];
        let (dx, dy) = ((xe - xs).abs(), (ys - ye).abs());
        let flip = (dx >= dy && xs > xe) || (dx < dy && ys > ye);
        if flip {
            std::mem::swap(&mut xs, &mut xe);
            std::mem::swap(&mut ys, &mut ye);
        }
        if dx >= dy {
            let slope = (ye - ys) as f64 / dx as f64;
            for d in 0..=dx {
                let t = if flip { dx - d } else { d };
                // 0/0 of a corner given twice: there is no slope, and the point stays.
                let rise = if dx == 0 { 0.0 } else { slope * t as f64 };
                outline.push((t + xs, (ys as f64 + rise + 0.5) as i64));
            }
        } else {
            let slope = (xe - xs) as f64 / dy as f64;
            for d in 0..=dy {
                let t = if flip { dy - d } else { d };
                outline.push(((xs as f64 + slope * t as f64 + 0.5) as i64, t + ys));
            }
        }
    }
    // Where it crosses the middle of a column of pixels.
    let mut ends = Vec::new();
    for pair in outline.windows(2) {
        let ((u0, v0), (u1, v1)) = (pair[0], pair[1]);
        if u1 == u0 {
            continue;
        }
        let x = (if u1 < u0 { u1 } else { u1 - 1 }) as f64;
        let x = (x + 0.5) / FINE - 0.5;
        if x.floor() != x || x < 0.0 || x > width as f64 - 1.0 {
            continue;
        }
        let y = (v1.min(v0) as f64 + 0.5) / FINE - 0.5;
        let y = y.clamp(0.0, height as f64).ceil();
        ends.push(x as u64 * height as u64 + y as u64);
    }
    ends.push((width * height) as u64);
    ends.sort_unstable();
    let mut from = 0;
    let mut lengths: Vec<u64> = Vec::new();
    for end in ends {
        lengths.push(end - from);
        from = end;
    }
    // A run of nothing joins its neighbours.
    let mut joined: Vec<u64> = vec![lengths[0]];
    let mut i = 1;
    while i < lengths.len() {
        if lengths[i] > 0 {
            joined.push(lengths[i]);
            i += 1;
        } else {
            i += 1;
            if let Some(next) = lengths.get(i) {
                *joined.last_mut().expect("one is there") += next;
            }
            i += 1;
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_is_a_square_and_faults_are_named() {
        let square = vec![1.0, 1.0, 3.0, 1.0, 3.0, 4.0, 1.0, 4.0];
        let drawn = mask(&[square], 5, 6).unwrap();
        assert_eq!(drawn, Mask::from_fn(5, 6, |x, y| (1..3).contains(&x) && (1..4).contains(&y)));
        let fault = |polygon: Vec<f64>| mask(&[polygon], 5, 6).unwrap_err();
        assert!(fault(vec![0.0; 4]).contains("4 coordinates"));
        assert!(fault(vec![0.0, 0.0, 9.0, 0.0, 1.0, 1.0]).contains("(9, 0)"));
        assert!(fault(vec![0.0, 0.0, f64::NAN, 0.0, 1.0, 1.0]).contains("NaN"));
    }
}
