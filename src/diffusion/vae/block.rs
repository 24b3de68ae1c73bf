//! The blocks that encoder and decoder share.

use crate::diffusion::layers::{Conv2d, GroupNorm, Linear, Padding, add, attention, reshape};
use crate::diffusion::weights::Weights;
use crate::error::Result;
use candle_core::Tensor;

/// ε of every group normalisation in the autoencoder.
pub(super) const EPS: f64 = 1e-6;

/// x + conv(silu(norm(conv(silu(norm(x)))))), with a 1×1 convolution on the shortcut where channels change.
#[derive(Debug, Clone)]
pub(super) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl Resnet {
    pub(super) fn load(weights: &Weights, groups: usize, inputs: usize, outputs: usize) -> Result<Self> {
        let same = Padding::Same(1);
        let shortcut = || Conv2d::load(&weights.at("conv_shortcut"), inputs, outputs, 1, 1, Padding::Same(0));
        Ok(Self {
            norm1: GroupNorm::load(&weights.at("norm1"), groups, inputs, EPS)?,
            conv1: Conv2d::load(&weights.at("conv1"), inputs, outputs, 3, 1, same)?,
            norm2: GroupNorm::load(&weights.at("norm2"), groups, outputs, EPS)?,
            conv2: Conv2d::load(&weights.at("conv2"), outputs, outputs, 3, 1, same)?,
            shortcut: (inputs != outputs).then(shortcut).transpose()?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        let h = self.conv2.forward(&self.norm2.forward_silu(&h)?)?;
        let x = match &self.shortcut {
            Some(conv) => conv.forward(x)?,
            None => x.clone(),
        };
        add(&x, &h)
    }
}

/// x + out(attention(norm(x))): one head as wide as the feature map has channels.
#[derive(Debug, Clone)]
struct SelfAttention {
    norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    channels: usize,
}

impl SelfAttention {
    fn load(weights: &Weights, groups: usize, channels: usize) -> Result<Self> {
        // Weights published before diffusers 0.17 (Stable Diffusion 1.x among them) use the second set of names.
        let old = !weights.has("to_q.weight") && weights.has("query.weight");
        let names = if old { ["query", "key", "value", "proj_attn"] } else { ["to_q", "to_k", "to_v", "to_out.0"] };
        let [query, key, value, out] = names.map(|n| Linear::load(&weights.at(n), channels, channels, true));
        Ok(Self {
            norm: GroupNorm::load(&weights.at("group_norm"), groups, channels, EPS)?,
            query: query?,
            key: key?,
            value: value?,
            out: out?,
            channels,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let tokens = reshape(&self.norm.forward(x)?, (b, h * w, c))?;
        let (q, k, v) = (self.query.forward(&tokens)?, self.key.forward(&tokens)?, self.value.forward(&tokens)?);
        let y = attention(&q, &k, &v, 1, 1.0 / (self.channels as f64).sqrt(), false)?;
        add(x, &reshape(&self.out.forward(&y)?, (b, h, w, c))?)
    }
}

/// Residual block, self-attention (if configured), residual block at the lowest resolution.
#[derive(Debug, Clone)]
pub(super) struct Middle {
    first: Resnet,
    attention: Option<SelfAttention>,
    second: Resnet,
}

impl Middle {
    pub(super) fn load(weights: &Weights, groups: usize, channels: usize, attend: bool) -> Result<Self> {
        let attention = || SelfAttention::load(&weights.at("attentions.0"), groups, channels);
        Ok(Self {
            first: Resnet::load(&weights.at("resnets.0"), groups, channels, channels)?,
            attention: attend.then(attention).transpose()?,
            second: Resnet::load(&weights.at("resnets.1"), groups, channels, channels)?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.first.forward(x)?;
        let x = match &self.attention {
            Some(attention) => attention.forward(&x)?,
            None => x,
        };
        self.second.forward(&x)
    }
}
