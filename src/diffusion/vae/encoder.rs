//! Pictures to the parameters of the posterior.

use super::block::{EPS, Middle, Resnet};
use super::config::VaeConfig;
use crate::diffusion::layers::{Conv2d, GroupNorm, Padding};
use crate::diffusion::weights::Weights;
use crate::error::Result;
use candle_core::Tensor;

/// Convolution in, levels of residual blocks that halve the resolution in between, middle, convolution out.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    levels: Vec<(Vec<Resnet>, Option<Conv2d>)>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub(super) fn load(config: &VaeConfig, weights: &Weights) -> Result<Self> {
        let (channels, groups) = (&config.block_out_channels, config.norm_num_groups);
        let same = Padding::Same(1);
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let conv_in = Conv2d::load(&weights.at("conv_in"), config.in_channels, first, 3, 1, same)?;
        let mut levels = Vec::new();
        let mut inputs = first;
        for (i, &outputs) in channels.iter().enumerate() {
            let at = weights.at(format!("down_blocks.{i}"));
            let mut resnets = Vec::new();
            for j in 0..config.layers_per_block {
                let from = if j == 0 { inputs } else { outputs };
                resnets.push(Resnet::load(&at.at(format!("resnets.{j}")), groups, from, outputs)?);
            }
            let down = || Conv2d::load(&at.at("downsamplers.0.conv"), outputs, outputs, 3, 2, Padding::BottomRight);
            levels.push((resnets, (i + 1 < channels.len()).then(down).transpose()?));
            inputs = outputs;
        }
        Ok(Self {
            conv_in,
            levels,
            middle: Middle::load(&weights.at("mid_block"), groups, last, config.mid_block_add_attention)?,
            norm_out: GroupNorm::load(&weights.at("conv_norm_out"), groups, last, EPS)?,
            conv_out: Conv2d::load(&weights.at("conv_out"), last, 2 * config.latent_channels, 3, 1, same)?,
        })
    }

    pub(super) fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(images)?;
        for (resnets, down) in &self.levels {
            for resnet in resnets {
                x = resnet.forward(&x)?;
            }
            if let Some(down) = down {
                x = down.forward(&x)?;
            }
        }
        let x = self.middle.forward(&x)?;
        self.conv_out.forward(&self.norm_out.forward_silu(&x)?)
    }
}
