//! The causal transformer over a prompt's tokens.

use super::config::{Activation, TextConfig};
use crate::diffusion::layers::{LayerNorm, Linear, add, attention, biased_attention, composed};
use crate::diffusion::weights::{Init, Weights};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};

/// Standard deviation of freshly drawn embeddings, as transformers initialises CLIP.
const EMBEDDING_STD: f32 = 0.02;

/// One pre-normalised block: x + attention(norm(x)), then x + mlp(norm(x)).
#[derive(Debug, Clone)]
struct Block {
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
    fn load(config: &TextConfig, weights: &Weights) -> Result<Self> {
        let (d, wide) = (config.hidden_size, config.intermediate_size);
        let linear = |name: &str, from, to| Linear::load(&weights.at(name), from, to, true);
        let norm = |name: &str| LayerNorm::load(&weights.at(name), d, config.layer_norm_eps);
        Ok(Self {
            norm1: norm("layer_norm1")?,
            query: linear("self_attn.q_proj", d, d)?,
            key: linear("self_attn.k_proj", d, d)?,
            value: linear("self_attn.v_proj", d, d)?,
            out: linear("self_attn.out_proj", d, d)?,
            norm2: norm("layer_norm2")?,
            up: linear("mlp.fc1", d, wide)?,
            down: linear("mlp.fc2", wide, d)?,
            heads: config.num_attention_heads,
            scale: 1.0 / ((d / config.num_attention_heads) as f64).sqrt(),
            activation: config.hidden_act,
        })
    }

    /// `bias[batch, 1, n, n]` hides what the mask and the order of the tokens hide; without it only the order does.
    fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let h = self.norm1.forward(x)?;
        let (q, k, v) = (self.query.forward(&h)?, self.key.forward(&h)?, self.value.forward(&h)?);
        let y = match bias {
            Some(bias) => biased_attention(&q, &k, &v, bias, self.heads, self.scale)?,
            None => attention(&q, &k, &v, self.heads, self.scale, true)?,
        };
        let x = add(x, &self.out.forward(&y)?)?;
        let h = self.activation.forward(&self.up.forward(&self.norm2.forward(&x)?)?)?;
        add(&x, &self.down.forward(&h)?)
    }
}

/// CLIP's text encoder, transformers' `CLIPTextModel`; differentiable.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use denoscope::diffusion::{text::{TextConfig, TextEncoder}, weights::Weights};
///
/// let config = TextConfig { vocab_size: 10, hidden_size: 8, num_attention_heads: 2, num_hidden_layers: 1, ..TextConfig::default() };
/// let encoder = TextEncoder::load(&config, &Weights::seeded(1, &Device::Cpu))?;
/// let ids = Tensor::new(&[[8u32, 3, 4, 9], [8, 5, 9, 9]], &Device::Cpu)?;
/// assert_eq!(encoder.forward(&ids)?.dims(), [2, 4, 8]);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TextEncoder {
    config: TextConfig,
    tokens: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl TextEncoder {
    /// Builds the network from its weights (names under `text_model`).
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(config: &TextConfig, weights: &Weights) -> Result<Self> {
        let model = weights.at("text_model");
        let (d, n) = (config.hidden_size, config.max_position_embeddings);
        let embeddings = model.at("embeddings");
        // Files written before transformers 4.31 hold the numbers 0..n as a tensor, too.
        embeddings.skip("position_ids");
        let init = Init::Normal(EMBEDDING_STD);
        Ok(Self {
            tokens: embeddings.get("token_embedding.weight", &[config.vocab_size, d], init)?,
            positions: embeddings.get("position_embedding.weight", &[n, d], init)?,
            blocks: (0..config.num_hidden_layers)
                .map(|i| Block::load(config, &model.at(format!("encoder.layers.{i}"))))
                .collect::<Result<_>>()?,
            norm: LayerNorm::load(&model.at("final_layer_norm"), d, config.layer_norm_eps)?,
            config: config.clone(),
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &TextConfig {
        &self.config
    }

    /// Token ids `[batch, n]` (u32) → the last hidden state after the final normalisation, `[batch, n, hidden]`.
    ///
    /// # Errors
    /// A sequence longer than the positions, or an id outside the vocabulary.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        self.forward_masked(ids, None)
    }

    /// As [`TextEncoder::forward`] with a mask `[batch, n]`: no token looks at those where it is 0.
    ///
    /// # Errors
    /// As [`TextEncoder::forward`]; a mask of another shape.
    pub fn forward_masked(&self, ids: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let (batch, n) = ids.dims2()?;
        let (limit, d) = (self.config.max_position_embeddings, self.config.hidden_size);
        if n > limit {
            return Err(Error::invalid(format!("{n} tokens, more than max_position_embeddings = {limit}")));
        }
        let flat = ids.flatten_all()?.to_dtype(DType::U32)?;
        if let Some(id) = flat.to_vec1::<u32>()?.into_iter().find(|&id| id as usize >= self.config.vocab_size) {
            return Err(Error::invalid(format!("token id {id}, outside vocab_size = {}", self.config.vocab_size)));
        }
        let mut x = composed(&[&self.tokens, &self.positions], |x| {
            let tokens = x[0].index_select(&flat, 0)?.reshape((batch, n, d))?;
            Ok(tokens.broadcast_add(&x[1].narrow(0, 0, n)?)?)
        })?;
        let bias = mask.map(|mask| bias(mask, batch, n)).transpose()?;
        for block in &self.blocks {
            x = block.forward(&x, bias.as_ref())?;
        }
        self.norm.forward(&x)
    }
}

/// What is added to the scores: the lowest number for later tokens and for those that the mask hides.
fn bias(mask: &Tensor, batch: usize, n: usize) -> Result<Tensor> {
    if mask.dims() != [batch, n] {
        let what = "attention_mask".into();
        return Err(Error::Shape { what, found: mask.dims().into(), expected: vec![batch, n] });
    }
    let later: Vec<f32> = (0..n * n).map(|i| if i % n > i / n { f32::MIN } else { 0.0 }).collect();
    let later = Tensor::from_vec(later, (1, 1, n, n), mask.device())?;
    let hidden = (mask.to_dtype(DType::F32)?.affine(-1.0, 1.0)? * f64::from(f32::MIN))?;
    Ok(hidden.reshape((batch, 1, 1, n))?.broadcast_add(&later)?)
}
