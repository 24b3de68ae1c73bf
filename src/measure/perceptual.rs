//! Perceptual distance of two pictures: the interface, and the formula of LPIPS.
//!
//! A network's feature maps y^l of both pictures are scaled to unit length at every position and compared
//! (Zhang et al. 2018, equation 1): d(x, x₀) = Σ_l 1/(H_l W_l) Σ_hw ‖w_l ⊙ (ŷ^l_hw − ŷ₀^l_hw)‖². With w_l = 1 it is the
//! plain distance of features ("baseline" in the lpips package); LPIPS has learnt the squares of w_l from people's
//! judgements. Distances in different networks are different scales: a table says whose they are
//! ([`Perceptual::name`]).

use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use image::RgbImage;

/// Added to the length of a feature vector before it is divided by, as lpips has it.
const EPS: f64 = 1e-10;

/// Something that says how different two pictures look.
pub trait Perceptual: Send + Sync {
    /// What tables and figures call it.
    fn name(&self) -> &str;

    /// Distance of every picture of `a` to the one of `b` at the same place; 0 for equal pictures.
    ///
    /// # Errors
    /// Pictures of different number or sizes, or of a size that it cannot take; when a network fails.
    fn distances(&self, a: &[RgbImage], b: &[RgbImage]) -> Result<Vec<f64>>;

    /// Distance of two pictures.
    ///
    /// # Errors
    /// As [`Perceptual::distances`].
    fn distance(&self, a: &RgbImage, b: &RgbImage) -> Result<f64> {
        Ok(self.distances(std::slice::from_ref(a), std::slice::from_ref(b))?.into_iter().sum())
    }
}

/// The mean over positions of Σ_c v_c (â_c − b̂_c)², for every item of feature maps `[batch, h, w, channels]`; `squares`
/// are the v_c = w_c², all 1 where there are none.
///
/// # Errors
/// Maps of different shapes, or of other channels than there are squares.
pub fn feature_distance(a: &Tensor, b: &Tensor, squares: Option<&[f32]>) -> Result<Vec<f64>> {
    let (batch, h, w, channels) = a.dims4()?;
    if a.dims() != b.dims() || squares.is_some_and(|s| s.len() != channels) {
        let what = "feature maps to compare".into();
        let expected = vec![batch, h, w, squares.map_or(channels, <[f32]>::len)];
        let found = if a.dims() == b.dims() { a } else { b };
        return Err(Error::Shape { what, found: found.dims().into(), expected });
    }
    let values = |x: &Tensor| -> Result<Vec<f32>> { Ok(x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?) };
    let (a, b) = (values(a)?, values(b)?);
    let length = |x: &[f32]| x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() + EPS;
    let position = |(a, b): (&[f32], &[f32])| -> f64 {
        let (na, nb) = (length(a), length(b));
        let square = |c: usize| (f64::from(a[c]) / na - f64::from(b[c]) / nb).powi(2);
        (0..channels).map(|c| square(c) * squares.map_or(1.0, |s| f64::from(s[c]))).sum()
    };
    let item = |(a, b): (&[f32], &[f32])| {
        a.chunks_exact(channels).zip(b.chunks_exact(channels)).map(position).sum::<f64>() / (h * w) as f64
    };
    let size = h * w * channels;
    Ok(a.chunks_exact(size).zip(b.chunks_exact(size)).map(item).collect())
}

/// Groups of at most `most` pairs of one size, as they are passed through a network.
///
/// # Errors
/// Pictures of different number, or a pair of different sizes.
pub(crate) fn in_passes<T>(
    a: &[RgbImage],
    b: &[RgbImage],
    most: usize,
    mut pass: impl FnMut(&[RgbImage], &[RgbImage]) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    if a.len() != b.len() {
        let (found, expected) = (vec![b.len()], vec![a.len()]);
        return Err(Error::Shape { what: "pictures to compare in pairs".into(), found, expected });
    }
    let shape = |i: &RgbImage| vec![i.height() as usize, i.width() as usize, 3];
    if let Some((a, b)) = a.iter().zip(b).find(|(a, b)| a.dimensions() != b.dimensions()) {
        return Err(Error::Shape { what: "picture to compare".into(), found: shape(b), expected: shape(a) });
    }
    let (mut done, mut found) = (0, Vec::with_capacity(a.len()));
    for group in a.chunk_by(|a, b| a.dimensions() == b.dimensions()).flat_map(|same| same.chunks(most)) {
        found.extend(pass(group, &b[done..done + group.len()])?);
        done += group.len();
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_distance_is_what_the_formula_says() {
        // Two positions of three channels: unit vectors (0.6, 0.8, 0) and (1, 0, 0), then twice the same direction.
        let map = |v: &[f32]| Tensor::from_slice(v, (1, 1, 2, 3), &Device::Cpu).unwrap();
        let (a, b) = (map(&[3.0, 4.0, 0.0, 1.0, 2.0, 2.0]), map(&[7.0, 0.0, 0.0, 2.0, 4.0, 4.0]));
        let found = feature_distance(&a, &b, None).unwrap()[0];
        assert!((found - (0.16 + 0.64) / 2.0).abs() < 1e-7, "{found}");
        let found = feature_distance(&a, &b, Some(&[2.0, 0.5, 9.0])).unwrap()[0];
        assert!((found - (0.32 + 0.32) / 2.0).abs() < 1e-7, "{found}");
        // A position without features is at distance ‖ŷ‖² = 1 from any other.
        let found = feature_distance(&map(&[0.0; 6]), &b, None).unwrap()[0];
        assert!((found - 1.0).abs() < 1e-7, "{found}");
        let e = feature_distance(&a, &b, Some(&[1.0; 4])).unwrap_err().to_string();
        assert!(e.contains("[1, 1, 2, 4]"), "{e}");
    }

    #[test]
    fn passes_hold_pairs_of_one_size_in_order() {
        let picture = |w: u32| RgbImage::new(w, 2);
        let widths: Vec<u32> = vec![3, 3, 3, 5, 3];
        let a: Vec<RgbImage> = widths.iter().map(|w| picture(*w)).collect();
        let mut sizes = Vec::new();
        let found = in_passes(&a, &a, 2, |a, b| {
            sizes.push(a.len());
            Ok(a.iter().zip(b).map(|(a, b)| (a.width(), b.width())).collect())
        });
        assert_eq!(found.unwrap(), widths.iter().map(|w| (*w, *w)).collect::<Vec<_>>());
        assert_eq!(sizes, [2, 1, 1, 1]);
        let none = |_: &[RgbImage], _: &[RgbImage]| Ok(Vec::<f64>::new());
        let e = in_passes(&a[..1], &a[3..4], 2, none).unwrap_err().to_string();
        assert!(e.contains("[2, 5, 3]") && e.contains("[2, 3, 3]"), "{e}");
        assert!(in_passes(&a[..1], &a[..2], 2, none).unwrap_err().to_string().contains("[2]"));
    }
}
