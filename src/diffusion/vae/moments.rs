//! The posterior of a latent.

use crate::diffusion::layers::composed;
use crate::error::Result;
use crate::random;
use candle_core::{D, Tensor};

/// The diagonal normal N(μ, σ²) of each latent, unscaled, both `[batch, h, w, latent channels]`.
#[derive(Debug, Clone)]
pub struct Moments {
    /// μ.
    pub mean: Tensor,
    /// ln σ², held in [−30, 20] as diffusers does.
    pub logvar: Tensor,
}

impl Moments {
    /// Splits the encoder's output, μ before ln σ² along the channels.
    pub(super) fn split(x: &Tensor) -> Result<Self> {
        let n = x.dim(D::Minus1)? / 2;
        let mean = composed(&[x], |x| Ok(x[0].narrow(D::Minus1, 0, n)?.contiguous()?))?;
        let logvar = composed(&[x], |x| Ok(x[0].narrow(D::Minus1, n, n)?.contiguous()?.clamp(-30f32, 20f32)?))?;
        Ok(Self { mean, logvar })
    }

    /// z = μ + σ·noise for standard normal `noise` of the same shape; differentiable in μ and σ.
    ///
    /// # Errors
    /// Another shape.
    pub fn sample_with(&self, noise: &Tensor) -> Result<Tensor> {
        composed(&[&self.mean, &self.logvar], |x| Ok((&x[0] + ((&x[1] * 0.5)?.exp()? * noise)?)?))
    }

    /// One draw from the posterior of every item, each from the stream of its own id in `items`.
    ///
    /// # Errors
    /// Fewer or more ids than items.
    pub fn sample(&self, seed: u64, items: &[u64]) -> Result<Tensor> {
        let (_, h, w, c) = self.mean.dims4()?;
        let mut noise = Vec::with_capacity(items.len() * h * w * c);
        for &item in items {
            noise.extend(random::stream(seed, "posterior", item).normals(h * w * c));
        }
        // Drawn channel by channel, so that the same array serves a channels-first program.
        let noise = Tensor::from_vec(noise, (items.len(), c, h, w), self.mean.device())?;
        self.sample_with(&noise.permute((0, 2, 3, 1))?.contiguous()?.to_dtype(self.mean.dtype())?)
    }

    /// KL(q ‖ N(0, 1)) = ½ Σ (μ² + σ² − 1 − ln σ²), summed over each item's latents and averaged over the items.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn kl(&self) -> Result<Tensor> {
        let batch = self.mean.dim(0)? as f64;
        composed(&[&self.mean, &self.logvar], |x| {
            let terms = ((x[0].sqr()? + x[1].exp()?)? - (&x[1] + 1.0)?)?;
            Ok((terms.sum_all()? * (0.5 / batch))?)
        })
    }
}
