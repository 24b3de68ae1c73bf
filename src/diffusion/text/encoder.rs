//! The causal transformer over a prompt's tokens.

use super::block::{Block, Sight};
use super::config::TextConfig;
use crate::diffusion::layers::{LayerNorm, composed};
use crate::diffusion::weights::{Init, Weights};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};

/// Standard deviation of freshly drawn embeddings, as transformers initialises CLIP.
const EMBEDDING_STD: f32 = 0.02;

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
                .map(|i| Block::load(&config.block(), &model.at(format!("encoder.layers.{i}"))))
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
            x = block.forward(&x, bias.as_ref().map_or(Sight::Backwards, Sight::Bias))?;
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
