//! `text_encoder/config.json`.

use super::block::BlockShape;
use crate::diffusion::layers::{composed, gelu_tanh, quick_gelu, silu};
use crate::diffusion::open::Fields;
use crate::error::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The nonlinearity between the two linear layers of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x · σ(1.702 x).
    QuickGelu,
    /// x · Φ(x), through the error function.
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`].
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluNew,
    /// x · σ(x).
    #[serde(alias = "swish")]
    Silu,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// Applies it to every element.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Activation::QuickGelu => quick_gelu(x),
            Activation::Gelu => composed(&[x], |x| Ok(x[0].gelu_erf()?)),
            Activation::GeluNew => gelu_tanh(x),
            Activation::Silu => silu(x),
            Activation::Relu => composed(&[x], |x| Ok(x[0].relu()?)),
        }
    }
}

/// The shape of a text encoder, as transformers' `CLIPTextConfig` names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of a token's vector.
    pub hidden_size: usize,
    /// Width between the two linear layers of a block.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads of the self-attention.
    pub num_attention_heads: usize,
    /// The longest sequence.
    pub max_position_embeddings: usize,
    /// Nonlinearity of the blocks.
    pub hidden_act: Activation,
    /// ε of the layer normalisations.
    pub layer_norm_eps: f64,
    /// Id of the end-of-text token.
    pub eos_token_id: u32,
}

impl Default for TextConfig {
    /// transformers' defaults (CLIP ViT-B/32).
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

impl TextConfig {
    /// Reads a `config.json`. Fields that transformers writes along but that do not enter the computation
    /// (dropout, initial ranges, generation settings) are passed over.
    ///
    /// # Errors
    /// A value that this implementation does not have, by name.
    pub fn read(fields: &mut Fields) -> Result<Self> {
        let d = Self::default();
        let config = Self {
            vocab_size: fields.get("vocab_size", d.vocab_size)?,
            hidden_size: fields.get("hidden_size", d.hidden_size)?,
            intermediate_size: fields.get("intermediate_size", d.intermediate_size)?,
            num_hidden_layers: fields.get("num_hidden_layers", d.num_hidden_layers)?,
            num_attention_heads: fields.get("num_attention_heads", d.num_attention_heads)?,
            max_position_embeddings: fields.get("max_position_embeddings", d.max_position_embeddings)?,
            hidden_act: fields.get("hidden_act", d.hidden_act)?,
            layer_norm_eps: fields.get("layer_norm_eps", d.layer_norm_eps)?,
            eos_token_id: fields.get("eos_token_id", d.eos_token_id)?,
        };
        fields.only("model_type", &["clip_text_model"])?;
        fields.only("architectures", &[json!(["CLIPTextModel"])])?;
        fields.only("use_attention_mask", &[false])?;
        if config.num_attention_heads == 0 || !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            let problem = format!(
                "hidden_size = {} does not divide into num_attention_heads = {}",
                config.hidden_size, config.num_attention_heads
            );
            return Err(Error::format(fields.path(), problem));
        }
        Ok(config)
    }

    /// Sizes of a block.
    pub(super) fn block(&self) -> BlockShape {
        BlockShape {
            width: self.hidden_size,
            wide: self.intermediate_size,
            heads: self.num_attention_heads,
            eps: self.layer_norm_eps,
            activation: self.hidden_act,
        }
    }

    /// The content of a `config.json` that transformers opens.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut value = json!(self);
        value["architectures"] = json!(["CLIPTextModel"]);
        value["model_type"] = json!("clip_text_model");
        value["projection_dim"] = json!(self.hidden_size);
        value["bos_token_id"] = json!(self.eos_token_id.saturating_sub(1));
        value["pad_token_id"] = json!(self.eos_token_id);
        value["torch_dtype"] = json!("float32");
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(json: &Value) -> Result<TextConfig> {
        TextConfig::read(&mut Fields::parse(Path::new("c"), &json.to_string())?)
    }

    #[test]
    fn configs_round_trip_and_faults_are_named() {
        let config =
            TextConfig { hidden_size: 96, hidden_act: Activation::Gelu, eos_token_id: 7, ..TextConfig::default() };
        assert_eq!(read(&config.to_json()).unwrap(), config);
        for (field, value) in [
            ("hidden_act", json!("selu")),
            ("num_attention_heads", json!(7)),
            ("model_type", json!("bert")),
            ("use_attention_mask", json!(true)),
        ] {
            let mut json = config.to_json();
            json[field] = value;
            let error = read(&json).unwrap_err().to_string();
            assert!(error.contains(field), "{field}: {error}");
        }
    }
}
