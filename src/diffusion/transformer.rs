//! What the transformer blocks of U-Net and DiT have in common: diffusers' `Attention` and `FeedForward`.
//!
//! Tokens keep the shape of their map, `[batch, h, w, channels]`, throughout, so that a hook knows the grid.

use crate::diffusion::layers::{
    Linear, attention, biased_attention, composed, geglu, gelu_tanh, quick_gelu, reshape, silu,
};
use crate::diffusion::module::{Builder, Hooked, Layout, Module};
use crate::diffusion::tap::Tap;
use crate::error::Result;
use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

/// Hidden units of a feed-forward network for each channel.
const EXPANSION: usize = 4;

/// Multi-head attention of a map's tokens over themselves or over a text.
#[derive(Debug)]
pub(crate) struct Attention {
    at: Module,
    to_q: Hooked<Linear>,
    to_k: Hooked<Linear>,
    to_v: Hooked<Linear>,
    to_out: Hooked<Linear>,
    heads: usize,
}

impl Attention {
    /// `bias`: whether queries, keys and values have one (the output always has).
    pub(crate) fn load(channels: usize, context: usize, heads: usize, bias: bool, b: &Builder) -> Result<Self> {
        Ok(Self {
            at: b.module(Layout::Tokens, channels, channels, true),
            to_q: b.linear("to_q", Layout::Tokens, channels, channels, bias)?,
            to_k: b.linear("to_k", Layout::Tokens, context, channels, bias)?,
            to_v: b.linear("to_v", Layout::Tokens, context, channels, bias)?,
            to_out: b.linear("to_out.0", Layout::Tokens, channels, channels, true)?,
            heads,
        })
    }

    /// `x[batch, h, w, channels]`, `text[batch, n, width]`; `mask[batch, 1, 1, n]` is added to the scores.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        text: Option<&Tensor>,
        mask: Option<&Tensor>,
        tap: &mut Tap<'_>,
    ) -> Result<Tensor> {
        tap.around(&self.at, x, |x, tap| {
            let (b, h, w, c) = x.dims4()?;
            let context = text.unwrap_or(x);
            let n = context.elem_count() / (b * context.dim(D::Minus1)?);
            let q = reshape(&self.to_q.forward(x, tap)?, (b, h * w, c))?;
            let k = reshape(&self.to_k.forward(context, tap)?, (b, n, c))?;
            let v = reshape(&self.to_v.forward(context, tap)?, (b, n, c))?;
            let scale = 1.0 / ((c / self.heads) as f64).sqrt();
            let y = match mask {
                Some(mask) => biased_attention(&q, &k, &v, mask, self.heads, scale)?,
                None => attention(&q, &k, &v, self.heads, scale, false)?,
            };
            self.to_out.forward(&reshape(&y, (b, h, w, c))?, tap)
        })
    }
}

/// The first layer of a feed-forward network, by diffusers' name of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HiddenLayer {
    /// gelu(W x), exact.
    Gelu,
    /// The same with the tanh approximation.
    GeluApproximate,
    /// u ⊙ gelu(g), [u, g] = W x.
    Geglu,
    /// z σ(1.702 z), z = W x (nothing is gated, the name notwithstanding).
    GegluApproximate,
    /// u ⊙ silu(g), [u, g] = W x.
    Swiglu,
    /// silu(W x).
    LinearSilu,
}

impl HiddenLayer {
    /// Outputs of W for each hidden unit.
    fn outputs(self) -> usize {
        if matches!(self, HiddenLayer::Geglu | HiddenLayer::Swiglu) { 2 } else { 1 }
    }

    /// What becomes of W x.
    fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            HiddenLayer::Gelu => composed(&[x], |x| Ok(x[0].gelu_erf()?)),
            HiddenLayer::GeluApproximate => gelu_tanh(x),
            HiddenLayer::Geglu => geglu(x),
            HiddenLayer::GegluApproximate => quick_gelu(x),
            HiddenLayer::Swiglu => composed(&[x], |x| {
                let halves = x[0].chunk(2, D::Minus1)?;
                Ok((&halves[0] * halves[1].contiguous()?.silu()?)?)
            }),
            HiddenLayer::LinearSilu => silu(x),
        }
    }
}

/// W₂ φ(W₁ x): diffusers' `FeedForward`.
#[derive(Debug)]
pub(crate) struct FeedForward {
    at: Module,
    hidden: Module,
    proj: Hooked<Linear>,
    out: Hooked<Linear>,
    layer: HiddenLayer,
}

impl FeedForward {
    pub(crate) fn load(channels: usize, layer: HiddenLayer, b: &Builder) -> Result<Self> {
        let hidden = EXPANSION * channels;
        Ok(Self {
            at: b.module(Layout::Tokens, channels, channels, true),
            hidden: b.at("net.0").module(Layout::Tokens, channels, hidden, true),
            proj: b.linear("net.0.proj", Layout::Tokens, channels, layer.outputs() * hidden, true)?,
            out: b.linear("net.2", Layout::Tokens, hidden, channels, true)?,
            layer,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, tap: &mut Tap<'_>) -> Result<Tensor> {
        tap.around(&self.at, x, |x, tap| {
            let h = tap.around(&self.hidden, x, |x, tap| self.layer.forward(&self.proj.forward(x, tap)?))?;
            self.out.forward(&h, tap)
        })
    }
}
