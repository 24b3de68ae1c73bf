//! `text_encoder/config.json` of a T5 encoder.

use crate::diffusion::open::Fields;
use crate::diffusion::text::Activation;
use crate::error::{Error, Result};
use serde_json::{Value, json};

/// The shape of a T5 encoder, as transformers' `T5Config` names it.
#[derive(Debug, Clone, PartialEq)]
pub struct T5Config {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of a token's vector.
    pub d_model: usize,
    /// Width of a head; heads × width need not be `d_model`.
    pub d_kv: usize,
    /// Width between the linear layers of a feed-forward network.
    pub d_ff: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Heads of the self-attention.
    pub num_heads: usize,
    /// Classes of distance between two tokens, each with a bias of its own.
    pub relative_attention_num_buckets: usize,
    /// Tokens further apart than this share the last class.
    pub relative_attention_max_distance: usize,
    /// ε of the normalisations.
    pub layer_norm_epsilon: f64,
    /// Nonlinearity of the feed-forward networks.
    pub dense_act_fn: Activation,
    /// Whether a second linear layer multiplies what leaves the nonlinearity.
    pub is_gated_act: bool,
}

impl Default for T5Config {
    /// transformers' defaults (T5 small).
    fn default() -> Self {
        Self {
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            dense_act_fn: Activation::Relu,
            is_gated_act: false,
        }
    }
}

impl T5Config {
    /// Reads a `config.json`. Fields that transformers writes along but that do not enter the computation (dropout,
    /// initial ranges, the decoder's and generation settings) are passed over.
    ///
    /// # Errors
    /// A value that this implementation does not have, by name.
    pub fn read(fields: &mut Fields) -> Result<Self> {
        let d = Self::default();
        // The names that transformers translates win over its own, as they do there.
        let mut either = |name: &str, general: &str, default: usize| -> Result<usize> {
            let own = fields.get(name, default)?;
            let value = fields.get(general, own)?;
            if value == 0 {
                return Err(fields.refuse(name, &json!(value), "expected a positive number"));
            }
            Ok(value)
        };
        let d_model = either("d_model", "hidden_size", d.d_model)?;
        let d_kv = either("d_kv", "head_dim", d.d_kv)?;
        let num_layers = either("num_layers", "num_hidden_layers", d.num_layers)?;
        let num_heads = either("num_heads", "num_attention_heads", d.num_heads)?;
        let (is_gated_act, dense_act_fn) = feed_forward(fields)?;
        let config = Self {
            vocab_size: fields.get("vocab_size", d.vocab_size)?,
            d_model,
            d_kv,
            d_ff: fields.get("d_ff", d.d_ff)?,
            num_layers,
            num_heads,
            relative_attention_num_buckets: fields
                .get("relative_attention_num_buckets", d.relative_attention_num_buckets)?,
            relative_attention_max_distance: fields
                .get("relative_attention_max_distance", d.relative_attention_max_distance)?,
            layer_norm_epsilon: fields.get("layer_norm_epsilon", d.layer_norm_epsilon)?,
            dense_act_fn,
            is_gated_act,
        };
        fields.only("model_type", &["t5"])?;
        fields.only("is_decoder", &[false])?;
        fields.only("add_cross_attention", &[false])?;
        // Pruned heads leave weights of another shape.
        fields.only("pruned_heads", &[json!({})])?;
        config.check(fields)?;
        Ok(config)
    }

    /// The content of a `config.json` that transformers opens.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let act = json!(self.dense_act_fn);
        let name = act.as_str().unwrap_or_default();
        let feed_forward = match (self.is_gated_act, name) {
            (true, "gelu_new") => "gated-gelu".to_string(),
            (true, name) => format!("gated-{name}"),
            (false, name) => name.to_string(),
        };
        json!({
            "architectures": ["T5EncoderModel"],
            "model_type": "t5",
            "vocab_size": self.vocab_size,
            "d_model": self.d_model,
            "d_kv": self.d_kv,
            "d_ff": self.d_ff,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "relative_attention_num_buckets": self.relative_attention_num_buckets,
            "relative_attention_max_distance": self.relative_attention_max_distance,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "feed_forward_proj": feed_forward,
            "is_encoder_decoder": false,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "torch_dtype": "float32",
        })
    }

    /// Half of the classes are for tokens before, half for tokens after; half of those stand for one distance each.
    pub(super) fn exact_distances(&self) -> usize {
        self.relative_attention_num_buckets / 2 / 2
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        let refuse = |name: &str, value: usize, why: String| Err(fields.refuse(name, &json!(value), &why));
        if self.relative_attention_num_buckets < 4 {
            let why = "expected at least 4: near and far, before and after".into();
            return refuse("relative_attention_num_buckets", self.relative_attention_num_buckets, why);
        }
        if self.relative_attention_max_distance <= self.exact_distances() {
            let why = format!("expected more than the {} distances with a class of their own", self.exact_distances());
            return refuse("relative_attention_max_distance", self.relative_attention_max_distance, why);
        }
        for (name, value) in [("vocab_size", self.vocab_size), ("d_ff", self.d_ff)] {
            if value == 0 {
                return refuse(name, value, "expected a positive number".into());
            }
        }
        Ok(())
    }
}

/// `relu`, `gated-gelu` and the like; the fields that transformers derives from it win where a file has them.
fn feed_forward(fields: &mut Fields) -> Result<(bool, Activation)> {
    let name = "feed_forward_proj";
    let text: String = fields.get(name, "relu".into())?;
    let (gated, act) = match text.split('-').collect::<Vec<_>>()[..] {
        // What T5 1.1 calls GELU is its tanh approximation.
        ["gated", "gelu"] => (true, "gelu_new"),
        ["gated", act] => (true, act),
        [act] => (false, act),
        _ => return Err(fields.refuse(name, &json!(text), "expected an activation, or gated- and an activation")),
    };
    let act = fields.get("dense_act_fn", act.to_string())?;
    let activation = serde_json::from_value(json!(act))
        .map_err(|e| Error::format(fields.path(), format!("field {name} = {text:?}, dense_act_fn = {act:?}: {e}")))?;
    Ok((fields.get("is_gated_act", gated)?, activation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Result<T5Config> {
        T5Config::read(&mut Fields::parse(Path::new("config.json"), text)?)
    }

    #[test]
    fn the_encoder_of_pixart_is_read() {
        let config = read(
            r#"{"architectures": ["T5EncoderModel"], "classifier_dropout": 0.0, "d_ff": 10240, "d_kv": 64,
                "d_model": 4096, "decoder_start_token_id": 0, "dense_act_fn": "gelu_new", "dropout_rate": 0.1,
                "eos_token_id": 1, "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0,
                "is_encoder_decoder": true, "is_gated_act": true, "layer_norm_epsilon": 1e-06, "model_type": "t5",
                "num_decoder_layers": 24, "num_heads": 64, "num_layers": 24, "output_past": true, "pad_token_id": 0,
                "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32,
                "tie_word_embeddings": false, "torch_dtype": "float32", "use_cache": true, "vocab_size": 32128}"#,
        )
        .unwrap();
        let expected = T5Config {
            d_model: 4096,
            d_ff: 10240,
            num_layers: 24,
            num_heads: 64,
            dense_act_fn: Activation::GeluNew,
            is_gated_act: true,
            ..T5Config::default()
        };
        assert_eq!(config, expected);
        assert_eq!(read("{}").unwrap(), T5Config::default());
        let gated = read(r#"{"feed_forward_proj": "gated-silu", "hidden_size": 96}"#).unwrap();
        assert_eq!((gated.dense_act_fn, gated.is_gated_act, gated.d_model), (Activation::Silu, true, 96));
        for config in [T5Config::default(), expected, gated] {
            assert_eq!(read(&config.to_json().to_string()).unwrap(), config);
        }
    }

    #[test]
    fn unsupported_values_are_refused_by_field() {
        for (field, value) in [
            ("feed_forward_proj", r#""gated-selu""#),
            ("feed_forward_proj", r#""fast-gated-gelu""#),
            ("dense_act_fn", r#""tanh""#),
            ("model_type", r#""umt5""#),
            ("is_decoder", "true"),
            ("pruned_heads", r#"{"0": [1]}"#),
            ("relative_attention_num_buckets", "3"),
            ("relative_attention_max_distance", "8"),
            ("num_heads", "0"),
            ("vocab_size", "-1"),
            ("d_ff", "0"),
        ] {
            let error = read(&format!(r#"{{"{field}": {value}}}"#)).unwrap_err().to_string();
            assert!(error.contains(field), "{field} = {value}: {error}");
        }
    }
}
