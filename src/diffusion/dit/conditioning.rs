//! Timestep and size of the picture as one vector, which modulates every block: adaLN-single (PixArt-α, section 2.3).

use super::config::DitConfig;
use crate::diffusion::layers::{Linear, add, concat, reshape, silu};
use crate::diffusion::module::{Builder, Hooked, Layout, Module};
use crate::diffusion::tap::Tap;
use crate::diffusion::timestep::{Sinusoid, TimeEmbedding};
use crate::diffusion::unet::Activation;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// Sines and cosines of a number; diffusers fixes them.
const SINUSOIDS: usize = 256;

/// What PixArt's 1024 models are told of the picture besides its caption.
#[derive(Debug, Clone)]
pub struct MicroConditions {
    /// `[batch, 2]`: height and width in pixels.
    pub resolution: Tensor,
    /// `[batch, 1]`: height / width.
    pub aspect_ratio: Tensor,
}

impl MicroConditions {
    /// The same size for every item.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn new(batch: usize, height: usize, width: usize, device: &Device) -> Result<Self> {
        let resolution =
            Tensor::new(&[[height as f32, width as f32]], device)?.broadcast_as((batch, 2))?.contiguous()?;
        let ratio = (height as f64 / width as f64) as f32;
        Ok(Self { resolution, aspect_ratio: Tensor::new(&[[ratio]], device)?.broadcast_as((batch, 1))?.contiguous()? })
    }
}

/// diffusers' `AdaLayerNormSingle` with its `PixArtAlphaCombinedTimestepSizeEmbeddings`.
#[derive(Debug)]
pub(super) struct AdaLnSingle {
    at: Module,
    emb: Module,
    sinusoid: Sinusoid,
    timestep: TimeEmbedding,
    /// Of the resolution and of the aspect ratio.
    size: Option<(TimeEmbedding, TimeEmbedding)>,
    linear: Hooked<Linear>,
    dtype: DType,
}

impl AdaLnSingle {
    pub(super) fn load(config: &DitConfig, b: &Builder) -> Result<Self> {
        let width = config.width();
        let vector = |outputs, b: &Builder| b.module_between((Layout::Number, 1), (Layout::Vector, outputs), false);
        let inner = b.at("emb");
        let embedding = |name: &str, layout, width| {
            TimeEmbedding::load(&inner.at(name), layout, (SINUSOIDS, width), Activation::Silu, None)
        };
        let size = || -> Result<_> {
            let part = |name| embedding(name, Layout::Vectors, width / 3);
            Ok((part("resolution_embedder")?, part("aspect_ratio_embedder")?))
        };
        Ok(Self {
            at: vector(6 * width, b),
            emb: vector(width, &inner),
            sinusoid: Sinusoid::new(SINUSOIDS, true, 0.0, b.weights().device())?,
            timestep: embedding("timestep_embedder", Layout::Vector, width)?,
            size: config.additional_conditions().then(size).transpose()?,
            linear: b.linear("linear", Layout::Vector, width, 6 * width, true)?,
            dtype: b.weights().dtype(),
        })
    }

    /// `timesteps[batch]` → what the blocks add their tables to, `[batch, 6 · width]`, and the embedding that it is
    /// made of, `[batch, width]`.
    pub(super) fn forward(
        &self,
        timesteps: &Tensor,
        size: Option<&MicroConditions>,
        tap: &mut Tap<'_>,
    ) -> Result<(Tensor, Tensor)> {
        let times = tap.input(&self.at, &timesteps.to_dtype(DType::F32)?.unsqueeze(1)?)?;
        let embedded = tap.around(&self.emb, &times, |times, tap| {
            let time = self.timestep.forward(&self.sinusoids(times)?.squeeze(1)?, tap)?;
            let Some((resolution, ratio)) = &self.size else { return Ok(time) };
            let size = size.ok_or_else(|| {
                Error::invalid("this model needs resolution and aspect_ratio (use_additional_conditions), found none")
            })?;
            let batch = times.dim(0)?;
            let mut parts = Vec::new();
            for (what, embedding, numbers, n) in
                [("resolution", resolution, &size.resolution, 2), ("aspect_ratio", ratio, &size.aspect_ratio, 1)]
            {
                // diffusers takes any shape with so many numbers.
                if numbers.elem_count() != batch * n {
                    let found = numbers.dims().into();
                    return Err(Error::Shape { what: what.into(), found, expected: vec![batch, n] });
                }
                let part = embedding.forward(&self.sinusoids(&numbers.reshape((batch, n))?)?, tap)?;
                parts.push(reshape(&part, (batch, part.elem_count() / batch))?);
            }
            add(&time, &concat(&[&parts[0], &parts[1]])?)
        })?;
        let time = self.linear.forward(&silu(&embedded)?, tap)?;
        Ok((tap.output(&self.at, &times, time)?, embedded))
    }

    /// `[batch, n] → [batch, n, SINUSOIDS]`.
    fn sinusoids(&self, numbers: &Tensor) -> Result<Tensor> {
        let (batch, n) = numbers.dims2()?;
        let flat = self.sinusoid.forward(&numbers.flatten_all()?)?;
        Ok(flat.reshape((batch, n, SINUSOIDS))?.to_dtype(self.dtype)?)
    }
}
