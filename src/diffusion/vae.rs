//! The variational autoencoder between pictures and latents, diffusers' `AutoencoderKL`.
//!
//! The encoder gives the posterior q(z | x) = N(μ, σ²) of each latent, the decoder the picture of a latent. The
//! diffusion model works on latents times [`VaeConfig::scaling_factor`], which makes their variance about one
//! (Rombach et al. 2022, section D.1).

mod block;
mod config;
mod decoder;
mod encoder;
mod moments;
mod tiling;

pub use config::VaeConfig;
pub use moments::Moments;

use crate::diffusion::layers::{Conv2d, Padding};
use crate::diffusion::weights::Weights;
use crate::error::{Error, Result};
use candle_core::Tensor;
use decoder::Decoder;
use encoder::Encoder;
use tiling::Tiling;

/// A variational autoencoder; differentiable in both directions.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use denoscope::diffusion::{vae::{Vae, VaeConfig}, weights::Weights};
///
/// let vae = Vae::load(&VaeConfig::embedded(), &Weights::seeded(1, &Device::Cpu))?;
/// let images = Tensor::zeros((1, 16, 16, 3), DType::F32, &Device::Cpu)?;
/// let latents = vae.encode(&images)?.mean;
/// assert_eq!(latents.dims(), [1, 4, 4, 4]);
/// assert_eq!(vae.decode(&latents)?.dims(), [1, 16, 16, 3]);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Vae {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
    quant: Option<Conv2d>,
    post_quant: Option<Conv2d>,
    tiling: Option<Tiling>,
}

impl Vae {
    /// Builds the network from its weights.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(config: &VaeConfig, weights: &Weights) -> Result<Self> {
        let one = |name: &str, channels| Conv2d::load(&weights.at(name), channels, channels, 1, 1, Padding::Same(0));
        let latent = config.latent_channels;
        Ok(Self {
            encoder: Encoder::load(config, &weights.at("encoder"))?,
            decoder: Decoder::load(config, &weights.at("decoder"))?,
            quant: config.use_quant_conv.then(|| one("quant_conv", 2 * latent)).transpose()?,
            post_quant: config.use_post_quant_conv.then(|| one("post_quant_conv", latent)).transpose()?,
            config: config.clone(),
            tiling: None,
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// What unscaled latents are multiplied with for the diffusion model.
    #[must_use]
    pub fn scaling_factor(&self) -> f64 {
        self.config.scaling_factor
    }

    /// Pixels per latent in each direction.
    #[must_use]
    pub fn factor(&self) -> usize {
        self.config.factor()
    }

    /// From now on encodes and decodes what is larger than the pictures it was trained on tile by tile, as diffusers'
    /// `enable_tiling` does. Memory then does not grow with the picture; the result differs a little.
    ///
    /// # Errors
    /// A `sample_size` too small for tiles that overlap.
    pub fn enable_tiling(&mut self) -> Result<()> {
        self.tiling = Some(Tiling::new(&self.config)?);
        Ok(())
    }

    /// Encodes and decodes in one piece again.
    pub fn disable_tiling(&mut self) {
        self.tiling = None;
    }

    /// The posterior of pictures `[batch, H, W, 3]` in [−1, 1]: unscaled, `[batch, h, w, latent channels]`.
    ///
    /// # Errors
    /// A shape that is no picture, or sides that the downsampling does not divide.
    pub fn encode(&self, images: &Tensor) -> Result<Moments> {
        let factor = self.factor();
        match *images.dims() {
            [_, h, w, c] if c == self.config.in_channels && h % factor == 0 && w % factor == 0 => {}
            ref found => {
                return Err(Error::invalid(format!(
                    "pictures to encode: found shape {found:?}, expected [batch, H, W, {}] with H and W multiples of {factor}",
                    self.config.in_channels
                )));
            }
        }
        let (_, h, w, _) = images.dims4()?;
        let encode = |x: &Tensor| {
            let x = self.encoder.forward(x)?;
            self.quant.as_ref().map_or(Ok(x.clone()), |conv| conv.forward(&x))
        };
        match self.tiling {
            Some(tiles) if h.max(w) > tiles.pixels => {
                Moments::split(&Tiling::map(images, tiles.pixels, tiles.latents, encode)?)
            }
            _ => Moments::split(&encode(images)?),
        }
    }

    /// The pictures `[batch, H, W, 3]` (about [−1, 1]) of unscaled latents `[batch, h, w, latent channels]`.
    ///
    /// # Errors
    /// A shape that is no latent.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        if latents.rank() != 4 || latents.dims()[3] != self.config.latent_channels {
            return Err(Error::invalid(format!(
                "latents to decode: found shape {:?}, expected [batch, h, w, {}]",
                latents.dims(),
                self.config.latent_channels
            )));
        }
        let (_, h, w, _) = latents.dims4()?;
        let decode = |x: &Tensor| {
            let x = self.post_quant.as_ref().map_or(Ok(x.clone()), |conv| conv.forward(x))?;
            self.decoder.forward(&x)
        };
        match self.tiling {
            Some(tiles) if h.max(w) > tiles.latents => Tiling::map(latents, tiles.latents, tiles.pixels, decode),
            _ => decode(latents),
        }
    }
}
