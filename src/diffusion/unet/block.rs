//! Down, middle and up blocks.

use super::config::UnetConfig;
use super::plan::BlockPlan;
use super::resnet::Resnet;
use super::transformer::Transformer;
use crate::diffusion::layers::{Conv2d, Padding, composed, concat, upsample_nearest};
use crate::diffusion::module::{Builder, Hooked, Layout, Module};
use crate::diffusion::tap::Tap;
use crate::error::{Error, Result};
use candle_core::Tensor;

/// What every residual block and attention of a pass looks at.
pub(crate) struct Context<'a> {
    /// The time embedding with the nonlinearity applied, `[batch, width]`.
    pub time: &'a Tensor,
    /// `[batch, n, width]`.
    pub text: &'a Tensor,
    /// Whether upsampling aims at the size of the skip connection (the sample is no multiple of 2ⁿ) instead of
    /// doubling.
    pub fit: bool,
}

/// A residual block and the attention after it.
#[derive(Debug)]
struct Layer {
    resnet: Resnet,
    attention: Option<Transformer>,
}

impl Layer {
    fn load_all(config: &UnetConfig, plan: &BlockPlan, b: &Builder) -> Result<Vec<Self>> {
        let (resnets, attentions) = (b.at("resnets"), b.at("attentions"));
        let (c, groups, linear) = (plan.channels, config.norm_num_groups, config.use_linear_projection);
        let load = |(j, inputs): (usize, &usize)| -> Result<Self> {
            let resnet = Resnet::load(config, *inputs, c, 1.0, &resnets.at(j))?;
            let attention =
                plan.attention.as_ref().map(|a| Transformer::load(a, j, c, groups, linear, &attentions.at(j)));
            Ok(Self { resnet, attention: attention.transpose()? })
        };
        plan.inputs.iter().enumerate().map(load).collect()
    }

    fn forward(&self, x: &Tensor, context: &Context<'_>, tap: &mut Tap<'_>) -> Result<Tensor> {
        let x = self.resnet.forward(x, context.time, tap)?;
        match &self.attention {
            Some(attention) => attention.forward(&x, context.text, tap),
            None => Ok(x),
        }
    }
}

/// `DownBlock2D` and `CrossAttnDownBlock2D`.
#[derive(Debug)]
pub(crate) struct DownBlock {
    at: Module,
    layers: Vec<Layer>,
    sampler: Option<(Module, Hooked<Conv2d>)>,
    /// Whether a row below and a column to the right are added before the convolution, which then pads nothing.
    pad: bool,
}

impl DownBlock {
    pub(crate) fn load(config: &UnetConfig, plan: &BlockPlan, b: &Builder) -> Result<Self> {
        let c = plan.channels;
        let at = b.module(Layout::Map, plan.inputs[0], c, !plan.resample);
        let layers = Layer::load_all(config, plan, b)?;
        let n = config.downsample_padding;
        let sampler = || -> Result<_> {
            let b = b.at("downsamplers.0");
            Ok((b.module(Layout::Map, c, c, false), b.conv("conv", c, c, 3, 2, Padding::Same(n))?))
        };
        Ok(Self { at, layers, sampler: plan.resample.then(sampler).transpose()?, pad: n == 0 })
    }

    /// Pushes what leaves every layer and the downsampling onto `skips`.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        context: &Context<'_>,
        skips: &mut Vec<Tensor>,
        tap: &mut Tap<'_>,
    ) -> Result<Tensor> {
        tap.around(&self.at, x, |x, tap| {
            let mut x = x.clone();
            for layer in &self.layers {
                x = layer.forward(&x, context, tap)?;
                skips.push(x.clone());
            }
            if let Some((at, conv)) = &self.sampler {
                x = tap.around(at, &x, |x, tap| {
                    if self.pad {
                        let pad = |x: &[Tensor]| Ok(x[0].pad_with_zeros(1, 0, 1)?.pad_with_zeros(2, 0, 1)?);
                        return conv.forward(&composed(&[x], pad)?, tap);
                    }
                    conv.forward(x, tap)
                })?;
                skips.push(x.clone());
            }
            Ok(x)
        })
    }
}

/// `UNetMidBlock2DCrossAttn`: residual block, attention, residual block; `UNetMidBlock2D`: one residual block.
#[derive(Debug)]
pub(crate) struct MidBlock {
    at: Module,
    first: Resnet,
    rest: Option<(Transformer, Resnet)>,
}

impl MidBlock {
    pub(crate) fn load(config: &UnetConfig, plan: &BlockPlan, b: &Builder) -> Result<Self> {
        let (c, groups, linear) = (plan.channels, config.norm_num_groups, config.use_linear_projection);
        let at = b.module(Layout::Map, c, c, true);
        let resnet = |j| Resnet::load(config, c, c, config.mid_block_scale_factor, &b.at("resnets").at(j));
        let first = resnet(0)?;
        let rest = plan.attention.as_ref().map(|a| -> Result<_> {
            Ok((Transformer::load(a, 0, c, groups, linear, &b.at("attentions.0"))?, resnet(1)?))
        });
        Ok(Self { at, first, rest: rest.transpose()? })
    }

    pub(crate) fn forward(&self, x: &Tensor, context: &Context<'_>, tap: &mut Tap<'_>) -> Result<Tensor> {
        tap.around(&self.at, x, |x, tap| {
            let x = self.first.forward(x, context.time, tap)?;
            match &self.rest {
                Some((attention, resnet)) => {
                    let x = attention.forward(&x, context.text, tap)?;
                    resnet.forward(&x, context.time, tap)
                }
                None => Ok(x),
            }
        })
    }
}

/// `UpBlock2D` and `CrossAttnUpBlock2D`.
#[derive(Debug)]
pub(crate) struct UpBlock {
    at: Module,
    layers: Vec<Layer>,
    sampler: Option<(Module, Hooked<Conv2d>)>,
}

impl UpBlock {
    /// `inputs`: channels of the map that enters, before a skip connection joins it.
    pub(crate) fn load(config: &UnetConfig, plan: &BlockPlan, inputs: usize, b: &Builder) -> Result<Self> {
        let c = plan.channels;
        let at = b.module(Layout::Map, inputs, c, !plan.resample);
        let layers = Layer::load_all(config, plan, b)?;
        let sampler = || -> Result<_> {
            let b = b.at("upsamplers.0");
            Ok((b.module(Layout::Map, c, c, false), b.conv("conv", c, c, 3, 1, Padding::Same(1))?))
        };
        Ok(Self { at, layers, sampler: plan.resample.then(sampler).transpose()? })
    }

    /// Takes one of `skips` for every layer, the newest first.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        context: &Context<'_>,
        skips: &mut Vec<Tensor>,
        tap: &mut Tap<'_>,
    ) -> Result<Tensor> {
        tap.around(&self.at, x, |x, tap| {
            let mut x = x.clone();
            for layer in &self.layers {
                let skip = skips.pop().ok_or_else(|| Error::invalid("more up layers than skip connections"))?;
                if skip.dims()[..3] != x.dims()[..3] {
                    let what = format!("{}: the map that a skip connection joins", self.at.path());
                    return Err(Error::Shape { what, found: x.dims().into(), expected: skip.dims().into() });
                }
                x = layer.forward(&concat(&[&x, &skip])?, context, tap)?;
            }
            if let Some((at, conv)) = &self.sampler {
                let size = match (context.fit, skips.last()) {
                    (true, Some(skip)) => (skip.dim(1)?, skip.dim(2)?),
                    _ => (2 * x.dim(1)?, 2 * x.dim(2)?),
                };
                x = tap.around(at, &x, |x, tap| conv.forward(&upsample(x, size)?, tap))?;
            }
            Ok(x)
        })
    }
}

/// The nearest pixel for every position of a grid of another size, as PyTorch's `interpolate` picks it:
/// ⌊i · from/to⌋.
fn upsample(x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
    let (_, h, w, _) = x.dims4()?;
    if (height, width) == (2 * h, 2 * w) {
        return upsample_nearest(x);
    }
    let pick = |x: &Tensor, dim: usize, from: usize, to: usize| -> Result<Tensor> {
        let ratio = from as f32 / to as f32;
        let index: Vec<u32> = (0..to).map(|i| ((i as f32 * ratio) as u32).min(from as u32 - 1)).collect();
        Ok(x.index_select(&Tensor::from_vec(index, to, x.device())?, dim)?)
    };
    composed(&[x], |x| pick(&pick(&x[0], 1, h, height)?, 2, w, width))
}
