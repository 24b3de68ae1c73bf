//! The transformer over a prompt's tokens.

use super::config::T5Config;
use crate::diffusion::layers::{Linear, add, biased_attention, composed};
use crate::diffusion::text::Activation;
use crate::diffusion::weights::{Init, Weights};
use crate::error::{Error, Result};
use candle_core::{D, DType, Device, Tensor};

/// y = γ x/√(mean x² + ε): neither mean nor bias (Zhang and Sennrich 2019).
#[derive(Debug, Clone)]
struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    fn load(config: &T5Config, weights: &Weights) -> Result<Self> {
        Ok(Self { weight: weights.get("weight", &[config.d_model], Init::Ones)?, eps: config.layer_norm_epsilon })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        composed(&[x, &self.weight], |x| {
            let wide = x[0].to_dtype(DType::F32)?;
            let size = (wide.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
            Ok(wide.broadcast_div(&size)?.to_dtype(x[0].dtype())?.broadcast_mul(&x[1])?)
        })
    }
}

/// wo(φ(wi x)), or wo(φ(wi_0 x) ⊙ wi_1 x) if gated.
#[derive(Debug, Clone)]
struct FeedForward {
    up: Linear,
    gate: Option<Linear>,
    down: Linear,
    activation: Activation,
}

impl FeedForward {
    fn load(config: &T5Config, weights: &Weights) -> Result<Self> {
        let (d, wide) = (config.d_model, config.d_ff);
        let up = |name| Linear::load(&weights.at(name), d, wide, false);
        Ok(Self {
            up: up(if config.is_gated_act { "wi_0" } else { "wi" })?,
            gate: config.is_gated_act.then(|| up("wi_1")).transpose()?,
            down: Linear::load(&weights.at("wo"), wide, d, false)?,
            activation: config.dense_act_fn,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut h = self.activation.forward(&self.up.forward(x)?)?;
        if let Some(gate) = &self.gate {
            h = composed(&[&h, &gate.forward(x)?], |x| Ok((&x[0] * &x[1])?))?;
        }
        self.down.forward(&h)
    }
}

/// One pre-normalised block: x + attention(norm x), then x + mlp(norm x).
#[derive(Debug, Clone)]
struct Block {
    norm1: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm2: RmsNorm,
    ff: FeedForward,
    heads: usize,
}

impl Block {
    fn load(config: &T5Config, weights: &Weights) -> Result<Self> {
        let (d, inner) = (config.d_model, config.num_heads * config.d_kv);
        let (first, second) = (weights.at("layer.0"), weights.at("layer.1"));
        let attention = first.at("SelfAttention");
        let linear = |name, from, to| Linear::load(&attention.at(name), from, to, false);
        Ok(Self {
            norm1: RmsNorm::load(config, &first.at("layer_norm"))?,
            query: linear("q", d, inner)?,
            key: linear("k", d, inner)?,
            value: linear("v", d, inner)?,
            out: linear("o", inner, d)?,
            norm2: RmsNorm::load(config, &second.at("layer_norm"))?,
            ff: FeedForward::load(config, &second.at("DenseReluDense"))?,
            heads: config.num_heads,
        })
    }

    /// `bias[1 or batch, heads, n, n]` is added to the scores, which T5 does not scale.
    fn forward(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let h = self.norm1.forward(x)?;
        let (q, k, v) = (self.query.forward(&h)?, self.key.forward(&h)?, self.value.forward(&h)?);
        let x = add(x, &self.out.forward(&biased_attention(&q, &k, &v, bias, self.heads, 1.0)?)?)?;
        add(&x, &self.ff.forward(&self.norm2.forward(&x)?)?)
    }
}

/// T5's encoder, transformers' `T5EncoderModel`; differentiable.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use denoscope::diffusion::{t5::{T5Config, T5Encoder}, weights::Weights};
///
/// let config = T5Config { vocab_size: 10, d_model: 8, d_kv: 3, num_heads: 2, d_ff: 6, num_layers: 1, ..T5Config::default() };
/// let encoder = T5Encoder::load(&config, &Weights::seeded(1, &Device::Cpu))?;
/// let ids = Tensor::new(&[[8u32, 3, 4, 1], [8, 1, 0, 0]], &Device::Cpu)?;
/// let mask = Tensor::new(&[[1u8, 1, 1, 1], [1, 1, 0, 0]], &Device::Cpu)?;
/// assert_eq!(encoder.forward(&ids, Some(&mask))?.dims(), [2, 4, 8]);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct T5Encoder {
    config: T5Config,
    tokens: Tensor,
    /// `[classes of distance, heads]`; all blocks share those of the first.
    distances: Tensor,
    blocks: Vec<Block>,
    norm: RmsNorm,
    device: Device,
}

impl T5Encoder {
    /// Builds the network from its weights.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(config: &T5Config, weights: &Weights) -> Result<Self> {
        let encoder = weights.at("encoder");
        let blocks = encoder.at("block");
        // One matrix under two names, of which a file may hold either or both.
        let own = weights.has("shared.weight") || !weights.has("encoder.embed_tokens.weight");
        let table = if own { "shared.weight" } else { "encoder.embed_tokens.weight" };
        encoder.skip("embed_tokens.weight");
        let shape = [config.relative_attention_num_buckets, config.num_heads];
        Ok(Self {
            tokens: weights.get(table, &[config.vocab_size, config.d_model], Init::Normal(1.0))?,
            distances: blocks.get(
                "0.layer.0.SelfAttention.relative_attention_bias.weight",
                &shape,
                Init::Normal(0.1),
            )?,
            blocks: (0..config.num_layers).map(|i| Block::load(config, &blocks.at(i))).collect::<Result<_>>()?,
            norm: RmsNorm::load(config, &encoder.at("final_layer_norm"))?,
            config: config.clone(),
            device: weights.device().clone(),
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &T5Config {
        &self.config
    }

    /// Token ids `[batch, n]` and a mask `[batch, n]` (1 = a token, 0 = padding, which nothing looks at) → the last
    /// hidden state after the final normalisation, `[batch, n, d_model]`.
    ///
    /// # Errors
    /// A mask of another shape, or an id outside the vocabulary.
    pub fn forward(&self, ids: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let (batch, n) = ids.dims2()?;
        let flat = ids.flatten_all()?.to_dtype(DType::U32)?;
        if let Some(id) = flat.to_vec1::<u32>()?.into_iter().find(|&id| id as usize >= self.config.vocab_size) {
            return Err(Error::invalid(format!("token id {id}, outside vocab_size = {}", self.config.vocab_size)));
        }
        let mut x = composed(&[&self.tokens], |x| {
            Ok(x[0].index_select(&flat, 0)?.reshape((batch, n, self.config.d_model))?)
        })?;
        let bias = self.bias(n, mask, batch)?;
        for block in &self.blocks {
            x = block.forward(&x, &bias)?;
        }
        self.norm.forward(&x)
    }

    /// What is added to the scores of every block: the bias of the distance, and the lowest number where a key is
    /// padding.
    fn bias(&self, n: usize, mask: Option<&Tensor>, batch: usize) -> Result<Tensor> {
        let classes: Vec<u32> = (0..n * n).map(|i| self.class(i / n, i % n)).collect();
        let classes = Tensor::from_vec(classes, n * n, &self.device)?;
        let hidden = match mask {
            Some(mask) if mask.dims() != [batch, n] => {
                let what = "attention_mask".into();
                return Err(Error::Shape { what, found: mask.dims().into(), expected: vec![batch, n] });
            }
            Some(mask) => Some((mask.to_dtype(DType::F32)?.affine(-1.0, 1.0)? * f64::from(f32::MIN))?),
            None => None,
        };
        composed(&[&self.distances], |x| {
            let bias = x[0].index_select(&classes, 0)?.reshape((n, n, self.config.num_heads))?;
            let bias = bias.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()?;
            Ok(match &hidden {
                Some(hidden) => bias.broadcast_add(&hidden.reshape((batch, 1, 1, n))?.to_dtype(bias.dtype())?)?,
                None => bias,
            })
        })
    }

    /// The class of the distance between a query and a key: one for each small distance, then on a logarithmic
    /// scale. In f32, for a distance may lie right where two classes meet.
    fn class(&self, query: usize, key: usize) -> u32 {
        let half = self.config.relative_attention_num_buckets / 2;
        let exact = self.config.exact_distances();
        let distance = query.abs_diff(key);
        let class = if distance < exact {
            distance
        } else {
            let far = (self.config.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
            let grade = (distance as f32 / exact as f32).ln() / far * (half - exact) as f32;
            (exact + grade as usize).min(half - 1)
        };
        (class + if key > query { half } else { 0 }) as u32
    }
}
