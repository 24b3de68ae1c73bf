//! The block that CLIP's two transformers are made of.

use super::config::Activation;
use crate::diffusion::layers::{LayerNorm, Linear, add, attention, biased_attention};
use crate::diffusion::weights::Weights;
use crate::error::Result;
use candle_core::Tensor;

/// Sizes of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockShape {
    /// Width of a token's vector.
    pub(crate) width: usize,
    /// Width between the two linear layers.
    pub(crate) wide: usize,
    /// Heads of the self-attention.
    pub(crate) heads: usize,
    /// ε of the layer normalisations.
    pub(crate) eps: f64,
    /// Nonlinearity between the two linear layers.
    pub(crate) activation: Activation,
}

/// Which tokens a token looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sight<'a> {
    /// All.
    All,
    /// Those up to itself.
    Backwards,
    /// By what is added to the scores, `[batch, 1, n, n]`.
    Bias(&'a Tensor),
}

/// One pre-normalised block: x + attention(norm(x)), then x + mlp(norm(x)).
#[derive(Debug, Clone)]
pub(crate) struct Block {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm2: LayerNorm,
    up: Linear,
    down: Linear,
    heads: usize,
    scale: f64,
    activation: Activation,
}

impl Block {
    /// Reads the weights, named as transformers' `CLIPEncoderLayer` names them.
    pub(crate) fn load(shape: &BlockShape, weights: &Weights) -> Result<Self> {
        let BlockShape { width: d, wide, heads, eps, activation } = *shape;
        let linear = |name: &str, from, to| Linear::load(&weights.at(name), from, to, true);
        let norm = |name: &str| LayerNorm::load(&weights.at(name), d, eps);
        Ok(Self {
            norm1: norm("layer_norm1")?,
            query: linear("self_attn.q_proj", d, d)?,
            key: linear("self_attn.k_proj", d, d)?,
            value: linear("self_attn.v_proj", d, d)?,
            out: linear("self_attn.out_proj", d, d)?,
            norm2: norm("layer_norm2")?,
            up: linear("mlp.fc1", d, wide)?,
            down: linear("mlp.fc2", wide, d)?,
            heads,
            scale: 1.0 / ((d / heads) as f64).sqrt(),
            activation,
        })
    }

    /// `[batch, n, width]`, same shape out.
    pub(crate) fn forward(&self, x: &Tensor, sight: Sight<'_>) -> Result<Tensor> {
        let h = self.norm1.forward(x)?;
        let (q, k, v) = (self.query.forward(&h)?, self.key.forward(&h)?, self.value.forward(&h)?);
        let y = match sight {
            Sight::Bias(bias) => biased_attention(&q, &k, &v, bias, self.heads, self.scale)?,
            _ => attention(&q, &k, &v, self.heads, self.scale, matches!(sight, Sight::Backwards))?,
        };
        let x = add(x, &self.out.forward(&y)?)?;
        let h = self.activation.forward(&self.up.forward(&self.norm2.forward(&x)?)?)?;
        add(&x, &self.down.forward(&h)?)
    }
}
