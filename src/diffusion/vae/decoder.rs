//! Latents to pictures.

use super::block::{EPS, Middle, Resnet};
use super::config::VaeConfig;
use crate::diffusion::layers::{Conv2d, GroupNorm, Padding, upsample_nearest};
use crate::diffusion::weights::Weights;
use crate::error::Result;
use candle_core::Tensor;

/// Convolution in, middle, levels of residual blocks that double the resolution in between, convolution out.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    conv_in: Conv2d,
    middle: Middle,
    levels: Vec<(Vec<Resnet>, Option<Conv2d>)>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub(super) fn load(config: &VaeConfig, weights: &Weights) -> Result<Self> {
        let (channels, groups) = (&config.block_out_channels, config.norm_num_groups);
        let same = Padding::Same(1);
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let conv_in = Conv2d::load(&weights.at("conv_in"), config.latent_channels, last, 3, 1, same)?;
        let mut levels = Vec::new();
        let mut inputs = last;
        for (i, &outputs) in channels.iter().rev().enumerate() {
            let at = weights.at(format!("up_blocks.{i}"));
            let mut resnets = Vec::new();
            for j in 0..=config.layers_per_block {
                let from = if j == 0 { inputs } else { outputs };
                resnets.push(Resnet::load(&at.at(format!("resnets.{j}")), groups, from, outputs)?);
            }
            let up = || Conv2d::load(&at.at("upsamplers.0.conv"), outputs, outputs, 3, 1, same);
            levels.push((resnets, (i + 1 < channels.len()).then(up).transpose()?));
            inputs = outputs;
        }
        Ok(Self {
            conv_in,
            middle: Middle::load(&weights.at("mid_block"), groups, last, config.mid_block_add_attention)?,
            levels,
            norm_out: GroupNorm::load(&weights.at("conv_norm_out"), groups, first, EPS)?,
            conv_out: Conv2d::load(&weights.at("conv_out"), first, config.out_channels, 3, 1, same)?,
        })
    }

    pub(super) fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        let mut x = self.middle.forward(&self.conv_in.forward(latents)?)?;
        for (resnets, up) in &self.levels {
            for resnet in resnets {
                x = resnet.forward(&x)?;
            }
            if let Some(up) = up {
                x = up.forward(&upsample_nearest(&x)?)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }
}
