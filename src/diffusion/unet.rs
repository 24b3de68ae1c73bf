//! The U-Net of Stable Diffusion: diffusers' `UNet2DConditionModel`, with hooks at every module.
//!
//! Latents and text in, predicted noise out; every module that diffusers names can be looked at or replaced on the
//! way (see [`crate::diffusion::hook`]). Feature maps are channels-last.

mod activation;
mod block;
mod config;
mod plan;
mod resnet;
mod transformer;

pub use config::{Activation, Counts, Depths, Switches, TimeNorm, UnetConfig};

use crate::diffusion::hook::Site;
use crate::diffusion::layers::{Conv2d, GroupNorm, Padding};
use crate::diffusion::module::{Builder, Hooked, Layout, Module, Modules};
use crate::diffusion::tap::Tap;
use crate::diffusion::timestep::{Sinusoid, TimeEmbedding};
use crate::diffusion::weights::Weights;
use crate::error::{Error, Result};
use block::{Context, DownBlock, MidBlock, UpBlock};
use candle_core::{DType, Tensor};

/// A Stable Diffusion U-Net.
#[derive(Debug)]
pub struct Unet {
    config: UnetConfig,
    modules: Modules,
    dtype: DType,
    text: Option<usize>,
    time_proj: Sinusoid,
    time_embedding: TimeEmbedding,
    conv_in: Hooked<Conv2d>,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<MidBlock>,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: Hooked<GroupNorm>,
    conv_out: Hooked<Conv2d>,
}

impl Unet {
    /// Builds the network from its weights.
    ///
    /// # Errors
    /// A configuration whose parts do not fit together; a missing or misshapen tensor. Tensors left over are the
    /// caller's to refuse with [`Weights::finish`].
    pub fn load(config: &UnetConfig, weights: &Weights) -> Result<Self> {
        let plan = config.plan()?;
        let b = Builder::new(weights);
        let first = config.block_out_channels[0];
        let edge = |name, inputs, outputs, k: usize| b.conv(name, inputs, outputs, k, 1, Padding::Same((k - 1) / 2));

        let conv_in = edge("conv_in", config.in_channels, first, config.conv_in_kernel)?;
        let time_proj = Sinusoid::new(first, config.flip_sin_to_cos, config.freq_shift, weights.device())?;
        let time_embedding = TimeEmbedding::load(
            &b.at("time_embedding"),
            Layout::Vector,
            (first, config.time_dim()),
            config.act_fn,
            config.timestep_post_act,
        )?;
        let down = |(i, p)| DownBlock::load(config, p, &b.at("down_blocks").at(i));
        let down_blocks = plan.down.iter().enumerate().map(down).collect::<Result<_>>()?;
        let mid_block = plan.mid.as_ref().map(|p| MidBlock::load(config, p, &b.at("mid_block"))).transpose()?;
        let mut before = plan.up[0].channels;
        let mut up_blocks = Vec::new();
        for (i, p) in plan.up.iter().enumerate() {
            up_blocks.push(UpBlock::load(config, p, before, &b.at("up_blocks").at(i))?);
            before = p.channels;
        }
        let conv_norm_out = b.group_norm("conv_norm_out", config.norm_num_groups, first, config.norm_eps)?;
        let conv_out = edge("conv_out", first, config.out_channels, config.conv_out_kernel)?;
        Ok(Self {
            config: config.clone(),
            modules: b.modules(),
            dtype: b.weights().dtype(),
            text: plan.text,
            time_proj,
            time_embedding,
            conv_in,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out,
            conv_out,
        })
    }

    /// The configuration it was built from.
    #[must_use]
    pub fn config(&self) -> &UnetConfig {
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

    /// Width of the text that its blocks look at, if any does.
    #[must_use]
    pub fn text_width(&self) -> Option<usize> {
        self.text
    }

    /// Predicts the noise in `sample[batch, h, w, in_channels]` at `timesteps[batch]` (f32, or one for all) given
    /// `text[batch, n, cross_attention_dim]` → `[batch, h, w, out_channels]`.
    ///
    /// # Errors
    /// Shapes that do not fit; sites that do not exist; a hook's own.
    pub fn forward(&self, sample: &Tensor, timesteps: &Tensor, text: &Tensor, tap: &mut Tap<'_>) -> Result<Tensor> {
        let (batch, h, w, channels) = sample.dims4()?;
        expect("sample", &[batch, h, w, channels], &[batch, h, w, self.config.in_channels])?;
        let timesteps = match timesteps.dims() {
            [1] if batch != 1 => timesteps.broadcast_as(batch)?,
            found => {
                expect("timesteps", found, &[batch])?;
                timesteps.clone()
            }
        };
        let (text_batch, tokens, width) = text.dims3()?;
        expect("text", &[text_batch, tokens, width], &[batch, tokens, self.text.unwrap_or(width)])?;
        self.check(tap.sites())?;

        let act = self.config.act_fn;
        let x = sample.to_dtype(self.dtype)?;
        let x = if self.config.center_input_sample { x.affine(2.0, -1.0)? } else { x };
        let text = text.to_dtype(self.dtype)?;
        let time = self.time_proj.forward(&timesteps)?.to_dtype(self.dtype)?;
        let mut time = self.time_embedding.forward(&time, tap)?;
        if let Some(extra) = self.config.time_embedding_act_fn {
            time = extra.forward(&time)?;
        }
        // Every residual block begins with the same nonlinearity of the same vector.
        let time = act.forward(&time)?;

        let doubled = 1 << (self.up_blocks.len() - 1);
        let context = Context { time: &time, text: &text, fit: h % doubled != 0 || w % doubled != 0 };
        let mut x = self.conv_in.forward(&x, tap)?;
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(&x, &context, &mut skips, tap)?;
        }
        if let Some(block) = &self.mid_block {
            x = block.forward(&x, &context, tap)?;
        }
        for block in &self.up_blocks {
            x = block.forward(&x, &context, &mut skips, tap)?;
        }
        let x = act.after(&self.conv_norm_out, &x, tap)?;
        self.conv_out.forward(&x, tap)
    }
}

fn expect(what: &str, found: &[usize], expected: &[usize]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape { what: what.into(), found: found.into(), expected: expected.into() })
}
