//! Rendered scenes in memory, and as tensors.

use crate::error::Result;
use crate::scene::{SIDE, Scene, Split};
use candle_core::{Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;

/// Bytes of one picture.
pub const BYTES: usize = SIDE * SIDE * 3;

/// Pictures of consecutive scenes, 8 bits a channel.
#[derive(Debug, Clone)]
pub struct Pictures {
    bytes: Vec<u8>,
}

impl Pictures {
    /// Renders scenes `first..first + n` of a split, in parallel.
    #[must_use]
    pub fn render(split: Split, first: u64, n: usize) -> Self {
        let mut bytes = vec![0u8; n * BYTES];
        bytes.par_chunks_exact_mut(BYTES).enumerate().for_each(|(i, target)| {
            target.copy_from_slice(Scene::sample(split, first + i as u64).render().image.as_raw());
        });
        Self { bytes }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / BYTES
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes of picture `i`, row by row, RGB.
    #[must_use]
    pub fn bytes(&self, i: usize) -> &[u8] {
        &self.bytes[i * BYTES..(i + 1) * BYTES]
    }

    /// Pictures as `[n, 64, 64, 3]` in [−1, 1].
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn tensor(&self, indices: impl IntoIterator<Item = usize>) -> Result<Tensor> {
        let mut values = Vec::new();
        for i in indices {
            values.extend(self.bytes(i).iter().map(|&b| to_unit(b)));
        }
        let n = values.len() / BYTES;
        Ok(Tensor::from_vec(values, (n, SIDE, SIDE, 3), &Device::Cpu)?)
    }
}

/// 0..=255 to [−1, 1].
#[must_use]
pub fn to_unit(byte: u8) -> f32 {
    f32::from(byte) / 127.5 - 1.0
}

/// [−1, 1] to 0..=255, rounded and held in range.
#[must_use]
pub fn to_byte(x: f32) -> u8 {
    ((x + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
}

/// One picture of a tensor `[n, h, w, 3]` in [−1, 1].
///
/// # Errors
/// A tensor of another shape.
pub fn to_image(tensor: &Tensor, i: usize) -> Result<RgbImage> {
    let one = tensor.get(i)?;
    let (h, w, _) = one.dims3()?;
    let bytes = one.flatten_all()?.to_vec1::<f32>()?.into_iter().map(to_byte).collect();
    RgbImage::from_raw(w as u32, h as u32, bytes)
        .ok_or_else(|| crate::Error::invalid(format!("not a picture: shape {:?}", tensor.dims())))
}

/// Peak signal-to-noise ratio of each picture of `[n, …]` in [−1, 1]: 10 log₁₀(255² / mean squared byte error), dB,
/// after rounding to bytes as a viewer sees them.
///
/// # Errors
/// Tensors of different shapes.
pub fn psnr(found: &Tensor, expected: &Tensor) -> Result<Vec<f64>> {
    let n = expected.dim(0)?;
    let values = |t: &Tensor| -> Result<Vec<f32>> { Ok(t.reshape(expected.shape())?.flatten_all()?.to_vec1()?) };
    let (a, b) = (values(found)?, values(expected)?);
    let size = a.len() / n;
    let one = |(a, b): (&[f32], &[f32])| {
        let squares = a.iter().zip(b).map(|(&a, &b)| (f64::from(to_byte(a)) - f64::from(to_byte(b))).powi(2));
        10.0 * (255.0 * 255.0 * size as f64 / squares.sum::<f64>().max(1e-9)).log10()
    };
    Ok(a.chunks(size).zip(b.chunks(size)).map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_tensor() {
        assert!((0..=255).all(|b| to_byte(to_unit(b)) == b));
    }

    #[test]
    fn psnr_of_a_known_error() {
        let a = Tensor::full(to_unit(100), (2, 4), &Device::Cpu).unwrap();
        let b = Tensor::full(to_unit(110), (2, 4), &Device::Cpu).unwrap();
        let found = psnr(&a, &b).unwrap();
        assert!((found[1] - 20.0 * (25.5f64).log10()).abs() < 1e-9, "{found:?}");
    }
}
