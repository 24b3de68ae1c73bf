//! Distances between two pictures, on channel values scaled to [0, 1].

use crate::error::{Error, Result};
use image::RgbImage;

/// Mean squared error over all pixels and channels: mean((a − b)²), in [0, 1].
///
/// # Errors
/// When the pictures differ in size.
pub fn mse(a: &RgbImage, b: &RgbImage) -> Result<f64> {
    fold(a, b, |d| d * d)
}

/// Mean absolute difference over all pixels and channels: mean |a − b|, in [0, 1]; 1/255 is one step of 8 bits.
///
/// # Errors
/// When the pictures differ in size.
pub fn mean_absolute(a: &RgbImage, b: &RgbImage) -> Result<f64> {
    fold(a, b, f64::abs)
}

/// Peak signal-to-noise ratio in decibels: −10 log₁₀ MSE; infinite for equal pictures.
///
/// # Errors
/// When the pictures differ in size.
pub fn psnr(a: &RgbImage, b: &RgbImage) -> Result<f64> {
    // 0 − x rather than −x, so that equal pictures give +∞ and black against white gives +0.
    Ok(0.0 - 10.0 * mse(a, b)?.log10())
}

fn fold(a: &RgbImage, b: &RgbImage, each: impl Fn(f64) -> f64) -> Result<f64> {
    if a.dimensions() != b.dimensions() {
        let shape = |i: &RgbImage| vec![i.height() as usize, i.width() as usize, 3];
        return Err(Error::Shape { what: "picture to compare".into(), found: shape(b), expected: shape(a) });
    }
    let (a, b) = (a.as_raw(), b.as_raw());
    if a.is_empty() {
        return Err(Error::invalid("pictures to compare have no pixels"));
    }
    let sum: f64 = a.iter().zip(b).map(|(&x, &y)| each((f64::from(x) - f64::from(y)) / 255.0)).sum();
    Ok(sum / a.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_channel_of_one_pixel_counts_once() {
        let a = RgbImage::new(3, 2);
        let mut b = a.clone();
        b.get_pixel_mut(2, 1).0[1] = 51; // 0.2 in one of 18 values
        assert!((mse(&a, &b).unwrap() - 0.04 / 18.0).abs() < 1e-12);
        assert!((mean_absolute(&a, &b).unwrap() - 0.2 / 18.0).abs() < 1e-12);
        assert!((psnr(&a, &b).unwrap() - 26.532).abs() < 1e-3);
        assert_eq!(psnr(&a, &a).unwrap(), f64::INFINITY);
    }

    #[test]
    fn sizes_must_agree() {
        let e = mse(&RgbImage::new(3, 2), &RgbImage::new(2, 3)).unwrap_err().to_string();
        assert!(e.contains("[3, 2, 3]") && e.contains("[2, 3, 3]"), "{e}");
    }
}
