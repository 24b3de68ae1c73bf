//! Files of finished SAEs, in SAELens' folder layout: `cfg.json` and `sae_weights.safetensors`.
//!
//! SAELens multiplies row vectors from the left, so that its `W_enc` is `[d, latents]`; ours are turned on the way.
//! Our own facts travel in the `metadata` of `cfg.json`, under `denoscope`.

use super::tensors::{self, Array, Arrays};
use super::{Architecture, Sae};
use crate::activations::shard::atomically;
use crate::error::{Error, Result};
use crate::kernels::sparse::{dot, scale};
use serde_json::{Map, Value, json};
use std::path::Path;

const CONFIG: &str = "cfg.json";
const WEIGHTS: &str = "sae_weights.safetensors";

impl Sae {
    /// Writes the SAE to `folder` as SAELens (version 6) reads it.
    ///
    /// # Errors
    /// If a file cannot be written; a file that was there before then stays whole.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        self.check()?;
        let Architecture::TopK { k } = self.architecture;
        let mut metadata = Map::new();
        let mut facts = self.facts.clone();
        if let Some(about) = &self.about {
            metadata.insert("model_name".into(), json!(about.model));
            metadata.insert("hook_name".into(), json!(about.site.to_string()));
            facts.insert("activations".into(), json!(about));
        }
        metadata.insert("denoscope".into(), Value::Object(facts));
        let config = json!({
            "architecture": self.architecture.name(),
            "d_in": self.d,
            "d_sae": self.latents,
            "k": k,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": true,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "rescale_acts_by_decoder_norm": false,
            "metadata": metadata,
        });
        let (n, d) = (self.latents, self.d);
        let arrays = [
            ("W_enc", Array::floats(&transposed(&self.w_enc, n, d), &[d, n])),
            ("b_enc", Array::floats(&self.b_enc, &[n])),
            ("W_dec", Array::floats(&self.w_dec, &[n, d])),
            ("b_dec", Array::floats(&self.b_dec, &[d])),
        ];
        tensors::write(&folder.join(WEIGHTS), &arrays, None)?;
        let path = folder.join(CONFIG);
        let text = serde_json::to_string_pretty(&config).map_err(|e| Error::format(&path, e))?;
        atomically(&path, |out| out.write_all(text.as_bytes()))
    }

    /// Reads an SAE from a folder in SAELens' layout (version 6).
    ///
    /// # Errors
    /// If a file is missing or damaged, a shape is not what the configuration says, or the configuration asks for
    /// anything that is not supported: it is refused by name, never guessed.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
        let config: Value = serde_json::from_str(&text).map_err(|e| Error::format(&path, e))?;
        let number = |key: &str| -> Result<usize> {
            let found = &config[key];
            found
                .as_u64()
                .map(|n| n as usize)
                .ok_or_else(|| Error::format(&path, format!("{key} is {found}, expected a number")))
        };
        let only = |key: &str, default: Value, allowed: &[Value]| -> Result<Value> {
            let found = config.get(key).unwrap_or(&default);
            if allowed.contains(found) {
                return Ok(found.clone());
            }
            let names: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            Err(Error::format(&path, format!("{key} is {found}, supported: {}", names.join(", "))))
        };
        only("architecture", Value::Null, &[json!("topk")])?;
        only("apply_b_dec_to_input", json!(true), &[json!(true)])?;
        only("normalize_activations", json!("none"), &[json!("none")])?;
        only("reshape_activations", json!("none"), &[json!("none")])?;
        let by_norm = only("rescale_acts_by_decoder_norm", json!(false), &[json!(true), json!(false)])? == json!(true);
        let (d, n) = (number("d_in")?, number("d_sae")?);
        let file = Arrays::read(&folder.join(WEIGHTS))?;
        let expected = ["W_dec", "W_enc", "b_dec", "b_enc"];
        let mut names = file.names()?;
        names.sort();
        if names != expected {
            return Err(Error::format(
                folder.join(WEIGHTS),
                format!("holds {}, expected {}", names.join(", "), expected.join(", ")),
            ));
        }
        let mut facts = config["metadata"]["denoscope"].as_object().cloned().unwrap_or_default();
        let about = match facts.remove("activations") {
            Some(about) => Some(
                serde_json::from_value(about)
                    .map_err(|e| Error::format(&path, format!("metadata.denoscope.activations: {e}")))?,
            ),
            None => None,
        };
        let mut sae = Sae {
            architecture: Architecture::TopK { k: number("k")? },
            d,
            latents: n,
            w_enc: transposed(&file.floats("W_enc", &[d, n])?, d, n),
            b_enc: file.floats("b_enc", &[n])?,
            w_dec: file.floats("W_dec", &[n, d])?,
            b_dec: file.floats("b_dec", &[d])?,
            about,
            facts,
        };
        if by_norm {
            sae.fold_norms();
        }
        sae.check().map_err(|e| Error::format(folder, e))?;
        Ok(sae)
    }

    /// Moves the decoder rows' lengths into the encoder: exact where latents are chosen by activation × length.
    fn fold_norms(&mut self) {
        let rows = self.w_dec.chunks_exact_mut(self.d).zip(self.w_enc.chunks_exact_mut(self.d));
        for ((decoder, encoder), b) in rows.zip(&mut self.b_enc) {
            let norm = dot(decoder, decoder).sqrt();
            if norm > 0.0 {
                scale(decoder, 1.0 / norm);
                scale(encoder, norm);
                *b *= norm;
            }
        }
    }
}

/// `[rows, columns]` to `[columns, rows]`.
fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| x[r * columns + c])).collect()
}
