//! When contours form: how far the edges of a picture are those of another.
//!
//! The gradient magnitude of the brightness Y = (R + G + B)/3, by central differences, is where a picture has edges; the
//! correlation (Pearson's) of two pictures' magnitudes says how far their contours are in the same places.

use crate::error::{Error, Result};
use image::RgbImage;

/// ‖∇Y‖ of every pixel but the outermost, row by row.
#[must_use]
pub fn edges(picture: &RgbImage) -> Vec<f64> {
    let y = |x: u32, row: u32| picture.get_pixel(x, row).0.iter().map(|&c| f64::from(c)).sum::<f64>() / 3.0 / 255.0;
    let (w, h) = picture.dimensions();
    let mut out = Vec::new();
    for row in 1..h.saturating_sub(1) {
        for x in 1..w.saturating_sub(1) {
            let (dx, dy) = ((y(x + 1, row) - y(x - 1, row)) / 2.0, (y(x, row + 1) - y(x, row - 1)) / 2.0);
            out.push(dx.hypot(dy));
        }
    }
    out
}

/// Correlation of the edges of two pictures, in [−1, 1]; 0 where one has no edge at all.
///
/// # Errors
/// Pictures of different size, or narrower than three pixels.
pub fn correlation(a: &RgbImage, b: &RgbImage) -> Result<f64> {
    if a.dimensions() != b.dimensions() || a.width() < 3 || a.height() < 3 {
        let shape = |i: &RgbImage| vec![i.height() as usize, i.width() as usize];
        return Err(Error::Shape { what: "picture to compare edges with".into(), found: shape(b), expected: shape(a) });
    }
    let (a, b) = (edges(a), edges(b));
    let n = a.len() as f64;
    let (mean_a, mean_b) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let (mut both, mut square_a, mut square_b) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(&b) {
        both += (x - mean_a) * (y - mean_b);
        square_a += (x - mean_a).powi(2);
        square_b += (y - mean_b).powi(2);
    }
    let norm = (square_a * square_b).sqrt();
    Ok(if norm > 0.0 { both / norm } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn a_step_has_its_edge_where_it_is() {
        // Black left of x = 3, white from there on: half the step on both sides of it.
        let step = RgbImage::from_fn(7, 4, |x, _| Rgb([if x < 3 { 0 } else { 255 }; 3]));
        assert_eq!(edges(&step), [0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0]);
        let fainter = RgbImage::from_fn(7, 4, |x, _| Rgb([if x < 3 { 100 } else { 51 }; 3]));
        assert!((correlation(&step, &fainter).unwrap() - 1.0).abs() < 1e-12, "neither contrast nor sign matter");
        let elsewhere = RgbImage::from_fn(7, 4, |x, _| Rgb([if x < 5 { 0 } else { 255 }; 3]));
        // Edges at columns 2, 3 and 4, 5 of 1 to 5: −(2/5)²/(2/5 · 3/5) = −2/3.
        assert!((correlation(&step, &elsewhere).unwrap() + 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(correlation(&step, &RgbImage::new(7, 4)).unwrap(), 0.0);
        assert!(correlation(&step, &RgbImage::new(4, 7)).unwrap_err().to_string().contains("[7, 4]"));
    }
}
