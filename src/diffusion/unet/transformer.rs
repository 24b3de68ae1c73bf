//! Attention blocks: diffusers' `Transformer2DModel` and `BasicTransformerBlock`.
//!
//! Tokens keep the shape of their map, `[batch, h, w, channels]`, throughout, so that a hook knows the grid.

use super::plan::AttentionPlan;
use crate::diffusion::layers::{Conv2d, GroupNorm, LayerNorm, Linear, Padding, add};
use crate::diffusion::module::{Builder, Hooked, Layout, Module};
use crate::diffusion::tap::Tap;
use crate::diffusion::transformer::{Attention, FeedForward, HiddenLayer};
use crate::error::Result;
use candle_core::Tensor;

/// ε of a transformer's group normalisation; diffusers fixes it, whatever `norm_eps` says.
const GROUP_EPS: f64 = 1e-6;
/// ε of its layer normalisations.
const LAYER_EPS: f64 = 1e-5;

/// A projection into and out of a transformer: a 1×1 convolution in SD 1, a linear layer in SD 2.
#[derive(Debug)]
enum Projection {
    Convolution(Hooked<Conv2d>),
    Linear(Hooked<Linear>),
}

impl Projection {
    fn load(name: &str, inputs: usize, outputs: usize, linear: bool, b: &Builder) -> Result<Self> {
        Ok(if linear {
            Projection::Linear(b.linear(name, Layout::Tokens, inputs, outputs, true)?)
        } else {
            Projection::Convolution(b.conv(name, inputs, outputs, 1, 1, Padding::Same(0))?)
        })
    }

    fn forward(&self, x: &Tensor, tap: &mut Tap<'_>) -> Result<Tensor> {
        match self {
            Projection::Convolution(layer) => layer.forward(x, tap),
            Projection::Linear(layer) => layer.forward(x, tap),
        }
    }
}

/// y = x + proj_out(blocks(proj_in(norm x))).
#[derive(Debug)]
pub(crate) struct Transformer {
    at: Module,
    norm: Hooked<GroupNorm>,
    proj_in: Projection,
    blocks: Vec<TransformerBlock>,
    proj_out: Projection,
}

impl Transformer {
    /// The `index`th attention of a block with `channels`.
    pub(crate) fn load(
        plan: &AttentionPlan,
        index: usize,
        channels: usize,
        groups: usize,
        linear: bool,
        b: &Builder,
    ) -> Result<Self> {
        let at = b.module(Layout::Map, channels, channels, true);
        // Where the heads do not divide the channels, diffusers rounds their width down.
        let inner = channels / plan.heads * plan.heads;
        let norm = b.group_norm("norm", groups, channels, GROUP_EPS)?;
        let proj_in = Projection::load("proj_in", channels, inner, linear, b)?;
        let block = |k| TransformerBlock::load(plan, inner, &b.at("transformer_blocks").at(k));
        let blocks = (0..plan.depths[index]).map(block).collect::<Result<_>>()?;
        let proj_out = Projection::load("proj_out", inner, channels, linear, b)?;
        Ok(Self { at, norm, proj_in, blocks, proj_out })
    }

    /// `x[batch, h, w, channels]`, `text[batch, n, width]` → the shape of `x`.
    pub(crate) fn forward(&self, x: &Tensor, text: &Tensor, tap: &mut Tap<'_>) -> Result<Tensor> {
        tap.around(&self.at, x, |x, tap| {
            let h = self.norm.forward(x, tap)?;
            let mut h = self.proj_in.forward(&h, tap)?;
            for block in &self.blocks {
                h = block.forward(&h, text, tap)?;
            }
            add(&self.proj_out.forward(&h, tap)?, x)
        })
    }
}

/// Self-attention, cross-attention and feed-forward network, each y = x + f(norm x).
#[derive(Debug)]
struct TransformerBlock {
    at: Module,
    norm1: Hooked<LayerNorm>,
    attn1: Attention,
    norm2: Hooked<LayerNorm>,
    attn2: Attention,
    norm3: Hooked<LayerNorm>,
    ff: FeedForward,
    only_cross: bool,
}

impl TransformerBlock {
    fn load(plan: &AttentionPlan, channels: usize, b: &Builder) -> Result<Self> {
        let first = if plan.only_cross { plan.text } else { channels };
        Ok(Self {
            at: b.module(Layout::Tokens, channels, channels, true),
            norm1: b.layer_norm("norm1", channels, LAYER_EPS)?,
            attn1: Attention::load(channels, first, plan.heads, false, &b.at("attn1"))?,
            norm2: b.layer_norm("norm2", channels, LAYER_EPS)?,
            attn2: Attention::load(channels, plan.text, plan.heads, false, &b.at("attn2"))?,
            norm3: b.layer_norm("norm3", channels, LAYER_EPS)?,
            ff: FeedForward::load(channels, HiddenLayer::Geglu, &b.at("ff"))?,
            only_cross: plan.only_cross,
        })
    }

    fn forward(&self, x: &Tensor, text: &Tensor, tap: &mut Tap<'_>) -> Result<Tensor> {
        tap.around(&self.at, x, |x, tap| {
            let h = self.norm1.forward(x, tap)?;
            let x = add(&self.attn1.forward(&h, self.only_cross.then_some(text), None, tap)?, x)?;
            let h = self.norm2.forward(&x, tap)?;
            let x = add(&self.attn2.forward(&h, Some(text), None, tap)?, &x)?;
            let h = self.norm3.forward(&x, tap)?;
            add(&self.ff.forward(&h, tap)?, &x)
        })
    }
}
