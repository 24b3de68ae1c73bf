//! Transformer blocks: diffusers' `BasicTransformerBlock` with `ada_norm_single`.

use super::config::DitConfig;
use crate::diffusion::layers::{LayerNorm, add, composed, gated, modulate};
use crate::diffusion::module::{Builder, Hooked, Layout, Module};
use crate::diffusion::tap::Tap;
use crate::diffusion::transformer::{Attention, FeedForward};
use crate::diffusion::weights::Init;
use crate::error::Result;
use candle_core::Tensor;

/// How a block treats its tokens at a timestep: the six vectors of adaLN, each `[batch, width]`, by diffusers' names.
///
/// x + gate_msa · attention(norm(x)·(1 + scale_msa) + shift_msa), and the same with `mlp` for the feed-forward network.
#[derive(Debug, Clone)]
pub struct Modulation {
    /// Added before the self-attention.
    pub shift_msa: Tensor,
    /// One less than what is multiplied before the self-attention.
    pub scale_msa: Tensor,
    /// What leaves the self-attention is multiplied by this.
    pub gate_msa: Tensor,
    /// Added before the feed-forward network.
    pub shift_mlp: Tensor,
    /// One less than what is multiplied before the feed-forward network.
    pub scale_mlp: Tensor,
    /// What leaves the feed-forward network is multiplied by this.
    pub gate_mlp: Tensor,
}

/// The rows of `table[n, width]` plus those of `time[batch, n · width]` or `[batch, width]` (then the same for all):
/// n vectors `[batch, width]`.
pub(super) fn table_plus_time<const N: usize>(table: &Tensor, time: &Tensor) -> Result<[Tensor; N]> {
    let (n, width) = table.dims2()?;
    let batch = time.dim(0)?;
    let mut rows = Vec::with_capacity(N);
    for i in 0..N {
        let from = if time.dim(1)? == n * width { i * width } else { 0 };
        rows.push(composed(&[table, time], |x| {
            let row = x[0].narrow(0, i, 1)?;
            Ok(x[1].narrow(1, from, width)?.broadcast_add(&row)?.contiguous()?.reshape((batch, width))?)
        })?);
    }
    Ok(std::array::from_fn(|i| rows[i].clone()))
}

/// Self-attention, cross-attention and feed-forward network; the first and last modulated by the timestep.
#[derive(Debug)]
pub(super) struct Block {
    at: Module,
    scale_shift_table: Tensor,
    norm1: Hooked<LayerNorm>,
    attn1: Attention,
    /// diffusers counts from attention to attention, but this norm comes before the feed-forward network.
    norm2: Hooked<LayerNorm>,
    attn2: Option<Attention>,
    ff: FeedForward,
}

impl Block {
    pub(super) fn load(config: &DitConfig, b: &Builder) -> Result<Self> {
        let (width, heads, bias) = (config.width(), config.num_attention_heads, config.attention_bias);
        let norm = |name| {
            if config.norm_elementwise_affine {
                b.layer_norm(name, width, config.norm_eps)
            } else {
                b.plain_norm(name, width, config.norm_eps)
            }
        };
        let cross = |text| Attention::load(width, text, heads, bias, &b.at("attn2"));
        Ok(Self {
            at: b.module(Layout::Tokens, width, width, true),
            scale_shift_table: b.weights().get("scale_shift_table", &[6, width], spread(width))?,
            norm1: norm("norm1")?,
            attn1: Attention::load(width, width, heads, bias, &b.at("attn1"))?,
            norm2: norm("norm2")?,
            attn2: config.cross_attention_dim.map(cross).transpose()?,
            ff: FeedForward::load(width, config.activation_fn, &b.at("ff"))?,
        })
    }

    /// `time[batch, 6 · width]`.
    pub(super) fn modulation(&self, time: &Tensor) -> Result<Modulation> {
        let [shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp] =
            table_plus_time(&self.scale_shift_table, time)?;
        Ok(Modulation { shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp })
    }

    /// `x[batch, h, w, width]`, `text[batch, n, …]`, `mask[batch, 1, 1, n]` → the shape of `x`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        time: &Tensor,
        text: &Tensor,
        mask: Option<&Tensor>,
        tap: &mut Tap<'_>,
    ) -> Result<Tensor> {
        tap.around(&self.at, x, |x, tap| {
            let m = self.modulation(time)?;
            let h = modulate(&self.norm1.forward(x, tap)?, &m.scale_msa, &m.shift_msa)?;
            let mut x = gated(x, &self.attn1.forward(&h, None, None, tap)?, &m.gate_msa)?;
            if let Some(attn2) = &self.attn2 {
                x = add(&attn2.forward(&x, Some(text), mask, tap)?, &x)?;
            }
            let h = modulate(&self.norm2.forward(&x, tap)?, &m.scale_mlp, &m.shift_mlp)?;
            gated(&x, &self.ff.forward(&h, tap)?, &m.gate_mlp)
        })
    }
}

/// How a table starts.
pub(super) fn spread(width: usize) -> Init {
    Init::Normal(1.0 / (width as f32).sqrt())
}
