//! The convolutional encoder of pictures that the embedded networks which look at pictures share.
//!
//! Three resolutions, 1/2, 1/4 and 1/8 of the picture's, each with residual blocks
//! x + conv(silu(norm(conv(silu(norm(x)))))).

use crate::diffusion::layers::{Conv2d, GroupNorm, Padding, add};
use crate::diffusion::weights::Weights;
use crate::embedded::pictures::to_unit;
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use image::RgbImage;

/// ε of the normalisations.
pub(super) const EPS: f64 = 1e-5;
/// Side of the square of pixels that becomes one position with more channels: nothing is lost, and no layer works
/// at full resolution.
pub(super) const FOLD: usize = 2;
/// Pixels of a picture's side that become one position of the coarsest maps.
pub(super) const REDUCTION: usize = 8;

/// x + conv(silu(norm(conv(silu(norm(x)))))).
#[derive(Debug, Clone)]
pub(super) struct Block {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
}

impl Block {
    pub(super) fn load(weights: &Weights, groups: usize, channels: usize) -> Result<Self> {
        let conv = |name: &str| Conv2d::load(&weights.at(name), channels, channels, 3, 1, Padding::Same(1));
        let norm = |name: &str| GroupNorm::load(&weights.at(name), groups, channels, EPS);
        Ok(Self { norm1: norm("norm1")?, conv1: conv("conv1")?, norm2: norm("norm2")?, conv2: conv("conv2")? })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        add(x, &self.conv2.forward(&self.norm2.forward_silu(&h)?)?)
    }
}

/// Feature maps of one batch of pictures, `[batch, h, w, channels]` each.
#[derive(Debug, Clone)]
pub struct Features {
    /// At half the resolution.
    pub fine: Tensor,
    /// At a quarter.
    pub middle: Tensor,
    /// At an eighth.
    pub coarse: Tensor,
}

/// The encoder.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    stem: Conv2d,
    fine: Block,
    down1: Conv2d,
    middle: Block,
    down2: Conv2d,
    coarse: [Block; 2],
}

impl Encoder {
    /// Reads the encoder's weights; `channels` are those at 1/2, 1/4 and 1/8 of the resolution.
    pub(super) fn load(channels: [usize; 3], groups: usize, weights: &Weights) -> Result<Self> {
        let [a, b, c] = channels;
        let conv =
            |name: &str, from, to, stride| Conv2d::load(&weights.at(name), from, to, 3, stride, Padding::Same(1));
        let block = |name: &str, channels| Block::load(&weights.at(name), groups, channels);
        Ok(Self {
            stem: conv("stem", 3 * FOLD * FOLD, a, 1)?,
            fine: block("fine", a)?,
            down1: conv("down1", a, b, 2)?,
            middle: block("middle", b)?,
            down2: conv("down2", b, c, 2)?,
            coarse: [block("coarse.0", c)?, block("coarse.1", c)?],
        })
    }

    /// Features of pictures `[batch, h, w, 3]` in [−1, 1].
    ///
    /// # Errors
    /// Sides that are not multiples of 8.
    pub(super) fn forward(&self, images: &Tensor) -> Result<Features> {
        let (batch, h, w, c) = images.dims4()?;
        if c != 3 || h % REDUCTION != 0 || w % REDUCTION != 0 || h * w == 0 {
            let problem = format!(
                "pictures to look at: found {:?}, expected [batch, h, w, 3], sides multiples of {REDUCTION}",
                images.dims()
            );
            return Err(Error::invalid(problem));
        }
        let folded = images
            .reshape(vec![batch, h / FOLD, FOLD, w / FOLD, FOLD, 3])?
            .permute(vec![0, 1, 3, 2, 4, 5])?
            .reshape((batch, h / FOLD, w / FOLD, 3 * FOLD * FOLD))?;
        let fine = self.fine.forward(&self.stem.forward(&folded)?)?;
        let middle = self.middle.forward(&self.down1.forward(&fine)?)?;
        let coarse = self.coarse[1].forward(&self.coarse[0].forward(&self.down2.forward(&middle)?)?)?;
        Ok(Features { fine, middle, coarse })
    }
}

/// Pictures of one size as `[n, h, w, 3]` in [−1, 1].
pub(super) fn batch(pictures: &[&RgbImage]) -> Result<Tensor> {
    let (w, h) = pictures.first().map_or((0, 0), |p| p.dimensions());
    let pixels: Vec<f32> = pictures.iter().flat_map(|p| p.as_raw()).map(|&b| to_unit(b)).collect();
    Ok(Tensor::from_vec(pixels, (pictures.len(), h as usize, w as usize, 3), &Device::Cpu)?)
}
