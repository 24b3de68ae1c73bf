//! The diffusion transformer of PixArt-α (Chen et al. 2023): diffusers' `PixArtTransformer2DModel`, with hooks at every
//! module.
//!
//! Latents and captions in, predicted noise out; every module that diffusers names can be looked at or replaced on the
//! way (see [`crate::diffusion::hook`]). Latents are channels-last, tokens lie on their grid.

mod block;
mod conditioning;
mod config;
mod positions;

pub use block::Modulation;
pub use conditioning::MicroConditions;
pub use config::DitConfig;

use crate::diffusion::captions::Captions;
use crate::diffusion::hook::Site;
use crate::diffusion::layers::{Conv2d, LayerNorm, Linear, Padding, composed, gelu_tanh, modulate};
use crate::diffusion::module::{Builder, Hooked, Layout, Module, Modules};
use crate::diffusion::tap::Tap;
use crate::diffusion::weights::Weights;
use crate::error::{Error, Result};
use block::{Block, spread, table_plus_time};
use candle_core::{DType, Tensor};
use conditioning::AdaLnSingle;

/// ε of the last normalisation; diffusers fixes it, whatever `norm_eps` says.
const LAST_EPS: f64 = 1e-6;

/// Added to the scores of hidden tokens.
const HIDDEN: f64 = -10000.0;

/// A PixArt transformer.
#[derive(Debug)]
pub struct Dit {
    config: DitConfig,
    modules: Modules,
    dtype: DType,
    pos_embed: Module,
    patches: Hooked<Conv2d>,
    adaln_single: AdaLnSingle,
    caption_projection: Option<CaptionProjection>,
    blocks: Vec<Block>,
    norm_out: Hooked<LayerNorm>,
    scale_shift_table: Tensor,
    proj_out: Hooked<Linear>,
}

/// The text encoder's states at the width of the tokens: diffusers' `PixArtAlphaTextProjection`.
#[derive(Debug)]
struct CaptionProjection {
    at: Module,
    linear_1: Hooked<Linear>,
    linear_2: Hooked<Linear>,
}

impl CaptionProjection {
    fn load(inputs: usize, width: usize, b: &Builder) -> Result<Self> {
        Ok(Self {
            at: b.module(Layout::Tokens, inputs, width, true),
            linear_1: b.linear("linear_1", Layout::Tokens, inputs, width, true)?,
            linear_2: b.linear("linear_2", Layout::Tokens, width, width, true)?,
        })
    }

    fn forward(&self, x: &Tensor, tap: &mut Tap<'_>) -> Result<Tensor> {
        tap.around(&self.at, x, |x, tap| self.linear_2.forward(&gelu_tanh(&self.linear_1.forward(x, tap)?)?, tap))
    }
}

impl Dit {
    /// Builds the network from its weights.
    ///
    /// # Errors
    /// A configuration whose parts do not fit together; a missing or misshapen tensor. Tensors left over are the
    /// caller's to refuse with [`Weights::finish`].
    pub fn load(config: &DitConfig, weights: &Weights) -> Result<Self> {
        config.check()?;
        let b = Builder::new(weights);
        let (width, p) = (config.width(), config.patch_size);
        let embed = b.at("pos_embed");
        let pos_embed = embed.module_between((Layout::Map, config.in_channels), (Layout::Tokens, width), false);
        let patches = embed.conv("proj", config.in_channels, width, p, p, Padding::Same(0))?;
        let adaln_single = AdaLnSingle::load(config, &b.at("adaln_single"))?;
        let projection = |inputs| CaptionProjection::load(inputs, width, &b.at("caption_projection"));
        let caption_projection = config.caption_channels.map(projection).transpose()?;
        let block = |i| Block::load(config, &b.at("transformer_blocks").at(i));
        let blocks = (0..config.num_layers).map(block).collect::<Result<_>>()?;
        let norm_out = b.plain_norm("norm_out", width, LAST_EPS)?;
        let scale_shift_table = weights.get("scale_shift_table", &[2, width], spread(width))?;
        let proj_out = b.linear("proj_out", Layout::Tokens, width, p * p * config.outputs(), true)?;
        Ok(Self {
            config: config.clone(),
            modules: b.modules(),
            dtype: weights.dtype(),
            pos_embed,
            patches,
            adaln_single,
            caption_projection,
            blocks,
            norm_out,
            scale_shift_table,
            proj_out,
        })
    }

    /// The configuration it was built from.
    #[must_use]
    pub fn config(&self) -> &DitConfig {
        &self.config
    }

    /// All paths that hooks can name.
    #[must_use]
    pub fn modules(&self) -> Vec<String> {
        self.modules.paths()
    }

    /// The module at `path`: its channels, and how diffusers lays out its tensors.
    ///
    /// # Errors
    /// A path that does not exist (with the nearest ones).
    pub fn module(&self, path: &str) -> Result<&Module> {
        self.modules.get(path)
    }

    /// Refuses sites that this network does not have.
    ///
    /// # Errors
    /// A path that does not exist, or the residual of a module whose input and output differ in shape.
    pub fn check<'a>(&self, sites: impl IntoIterator<Item = &'a Site>) -> Result<()> {
        self.modules.check(sites)
    }

    /// The six vectors by which block `block` modulates its tokens at `timesteps[batch]`: pretrained adaLN, from which
    /// TIDE's temporal-aware autoencoder starts.
    ///
    /// # Errors
    /// A block that does not exist; missing or misshapen conditions.
    pub fn modulation(&self, block: usize, timesteps: &Tensor, size: Option<&MicroConditions>) -> Result<Modulation> {
        let found = self.blocks.get(block).ok_or_else(|| {
            Error::invalid(format!("modulation of block {block}: this model has {} blocks", self.blocks.len()))
        })?;
        let (time, _) = self.adaln_single.forward(timesteps, size, &mut Tap::none())?;
        found.modulation(&time)
    }

    /// Predicts the noise in `sample[batch, h, w, in_channels]` at `timesteps[batch]` (f32, or one for all) given
    /// `captions` of `batch` prompts, and where the model is told it, the size of the picture → `[batch, h, w,
    /// out_channels]`. (Rows and columns that make no whole patch are left out, as diffusers does.)
    ///
    /// # Errors
    /// Shapes that do not fit; sites that do not exist; a hook's own.
    pub fn forward(
        &self,
        sample: &Tensor,
        timesteps: &Tensor,
        captions: &Captions,
        size: Option<&MicroConditions>,
        tap: &mut Tap<'_>,
    ) -> Result<Tensor> {
        let (batch, h, w, channels) = sample.dims4()?;
        let p = self.config.patch_size;
        expect("sample", &[batch, h, w, channels], &[batch, h.max(p), w.max(p), self.config.in_channels])?;
        let timesteps = match timesteps.dims() {
            [1] if batch != 1 => timesteps.broadcast_as(batch)?.contiguous()?,
            found => {
                expect("timesteps", found, &[batch])?;
                timesteps.clone()
            }
        };
        let (text_batch, n, width) = captions.embeds.dims3()?;
        let expected = self.config.caption_width().unwrap_or(width);
        expect("captions", &[text_batch, n, width], &[batch, n, expected])?;
        if let Some(mask) = &captions.mask {
            expect("mask of the captions", mask.dims(), &[batch, n])?;
        }
        self.check(tap.sites())?;

        let x = sample.to_dtype(self.dtype)?;
        let mut x = tap.around(&self.pos_embed, &x, |x, tap| {
            let x = self.patches.forward(x, tap)?;
            let grid = (x.dim(1)?, x.dim(2)?);
            let trained = self.config.sample_size / p;
            let scale = self.config.position_scale();
            let positions = positions::positions(grid, trained, scale, self.config.width(), x.device())?;
            let positions = positions.to_dtype(self.dtype)?;
            composed(&[&x], |x| Ok(x[0].broadcast_add(&positions)?))
        })?;
        let (time, embedded) = self.adaln_single.forward(&timesteps, size, tap)?;
        let mut text = captions.embeds.to_dtype(self.dtype)?;
        if let Some(projection) = &self.caption_projection {
            text = projection.forward(&text, tap)?;
        }
        let mask = captions.mask.as_ref().map(|mask| -> Result<_> {
            Ok((mask.to_dtype(DType::F32)?.affine(-1.0, 1.0)? * HIDDEN)?.reshape((batch, 1, 1, n))?)
        });
        let mask = mask.transpose()?;
        for block in &self.blocks {
            x = block.forward(&x, &time, &text, mask.as_ref(), tap)?;
        }
        let [shift, scale] = table_plus_time(&self.scale_shift_table, &embedded)?;
        let x = modulate(&self.norm_out.forward(&x, tap)?, &scale, &shift)?;
        let x = self.proj_out.forward(&x, tap)?;
        let (_, rows, columns, _) = x.dims4()?;
        let outputs = self.config.outputs();
        composed(&[&x], |x| {
            let patches = x[0].reshape(vec![batch, rows, columns, p, p, outputs])?;
            let map = patches.permute(vec![0, 1, 3, 2, 4, 5])?.contiguous()?;
            Ok(map.reshape((batch, rows * p, columns * p, outputs))?)
        })
    }
}

fn expect(what: &str, found: &[usize], expected: &[usize]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape { what: what.into(), found: found.into(), expected: expected.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::layers::tape::against_graph;
    use crate::random::stream;
    use candle_core::Device;

    #[test]
    fn gradients_reach_every_weight_by_tape_and_graph_alike() {
        for activation in ["gelu-approximate", "swiglu"] {
            let config = DitConfig::parse(&format!(
                r#"{{"num_attention_heads": 3, "attention_head_dim": 4, "in_channels": 2, "out_channels": 5,
                    "num_layers": 2, "cross_attention_dim": 12, "caption_channels": 7, "sample_size": 8,
                    "use_additional_conditions": true, "norm_elementwise_affine": true,
                    "activation_fn": "{activation}"}}"#
            ))
            .unwrap();
            let weights = Weights::seeded(3, &Device::Cpu);
            let dit = Dit::load(&config, &weights).unwrap();
            let normal = |what: &str, shape: &[usize]| {
                Tensor::from_vec(stream(1, what, 0).normals(shape.iter().product()), shape, &Device::Cpu).unwrap()
            };
            let sample = normal("sample", &[2, 4, 6, 2]);
            let mask = Tensor::new(&[[1f32, 1.0, 1.0], [1.0, 0.0, 0.0]], &Device::Cpu).unwrap();
            let captions = Captions::new(&normal("captions", &[2, 3, 7]), Some(&mask)).unwrap();
            let times = Tensor::new(&[731f32, 12.0], &Device::Cpu).unwrap();
            let size = MicroConditions::new(2, 32, 48, &Device::Cpu).unwrap();
            let target = normal("target", &[2, 4, 6, 5]);
            against_graph(&weights.vars(), || {
                let out = dit.forward(&sample, &times, &captions, Some(&size), &mut Tap::none())?;
                composed(&[&out, &target], |x| Ok((&x[0] - &x[1])?.sqr()?.sum_all()?))
            });
        }
    }
}
