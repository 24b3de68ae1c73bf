//! dictionary_learning's folder: `ae.pt` and `config.json` (dictionary_learning/dictionary.py and trainers/).
//!
//! The class is named in the configuration of the trainer, and says which tensors there are and what is done with them.

use super::super::gated;
use super::super::weights::Weights;
use super::{Architecture, Sae, bias_shift, fold_norms, source, transposed};
use crate::diffusion::open::Fields;
use crate::error::{Error, Result};
use crate::pickle::{Dictionary, Saved};
use serde_json::{Map, Value, json};
use std::path::Path;

const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "ae.pt";

/// The classes, and the tensors of each.
const CLASSES: [(&str, &[&str]); 7] = [
    ("AutoEncoder", &["bias", "decoder.weight", "encoder.bias", "encoder.weight"]),
    ("AutoEncoderNew", &["decoder.bias", "decoder.weight", "encoder.bias", "encoder.weight"]),
    ("AutoEncoderTopK", &["b_dec", "decoder.weight", "encoder.bias", "encoder.weight", "k", "threshold"]),
    ("BatchTopKSAE", &["b_dec", "decoder.weight", "encoder.bias", "encoder.weight", "k", "threshold"]),
    ("GatedAutoEncoder", &["decoder.weight", "decoder_bias", "encoder.weight", "gate_bias", "mag_bias", "r_mag"]),
    ("JumpReluAutoEncoder", &["W_dec", "W_enc", "b_dec", "b_enc", "threshold"]),
    ("MatryoshkaBatchTopKSAE", &["W_dec", "W_enc", "b_dec", "b_enc", "group_sizes", "k", "threshold"]),
];

/// Reads what dictionary_learning wrote.
pub(super) fn read(folder: &Path) -> Result<Sae> {
    let path = folder.join(CONFIG);
    let trainer: Map<String, Value> = Fields::read(&path)?.require("trainer")?;
    let mut f = Fields::parse(&path, &Value::Object(trainer).to_string())?;
    let class: String = f.require("dict_class")?;
    let (d, n): (usize, usize) = (f.require("activation_dim")?, f.require("dict_size")?);
    let Some((class, names)) = CLASSES.iter().find(|(c, _)| *c == class) else {
        let known = CLASSES.map(|(c, _)| c).join(", ");
        return Err(f.refuse("trainer.dict_class", &json!(class), &format!("supported: {known}")));
    };
    let saved = Saved::read(&folder.join(WEIGHTS))?;
    let tensors = saved.dictionary(&saved.root)?;
    // Older versions of the class have no threshold; it decides nothing at inference there.
    let older: Vec<&str> = names.iter().copied().filter(|n| *n != "threshold").collect();
    let names = if *class == "AutoEncoderTopK" && tensors.names() == older { &older } else { *names };
    tensors.only(names, class)?;

    let own = |name: &str| tensors.floats(name, &[n]);
    let linear = |b_enc: &str, b_dec: &str| -> Result<Weights> {
        Ok(Weights {
            d,
            latents: n,
            w_enc: tensors.floats("encoder.weight", &[n, d])?,
            b_enc: own(b_enc)?,
            w_dec: transposed(&tensors.floats("decoder.weight", &[d, n])?, d, n),
            b_dec: tensors.floats(b_dec, &[d])?,
        })
    };
    let rows = || -> Result<Weights> {
        Ok(Weights {
            d,
            latents: n,
            w_enc: transposed(&tensors.floats("W_enc", &[d, n])?, d, n),
            b_enc: own("b_enc")?,
            w_dec: tensors.floats("W_dec", &[n, d])?,
            b_dec: tensors.floats("b_dec", &[d])?,
        })
    };
    let mut sae = match *class {
        "AutoEncoder" | "AutoEncoderNew" => {
            let mut w = linear("encoder.bias", if *class == "AutoEncoder" { "bias" } else { "decoder.bias" })?;
            if *class == "AutoEncoderNew" {
                on_input(&mut w);
            }
            // So does the package when it reads one.
            fold_norms(d, &mut w.w_enc, &mut w.b_enc, &mut w.w_dec);
            w.sae(Architecture::ReLU)
        }
        "AutoEncoderTopK" => linear("encoder.bias", "b_dec")?.sae(Architecture::TopK { k: k(&tensors, &mut f)? }),
        "BatchTopKSAE" => above_one(linear("encoder.bias", "b_dec")?, &tensors, folder)?,
        "MatryoshkaBatchTopKSAE" => above_one(rows()?, &tensors, folder)?,
        "GatedAutoEncoder" => gated::fold(linear("gate_bias", "decoder_bias")?, &own("r_mag")?, &own("mag_bias")?),
        _ => {
            let mut w = rows()?;
            on_input(&mut w);
            w.sae(Architecture::JumpReLU { threshold: own("threshold")? })
        }
    };
    sae.facts.extend([source("dictionary_learning", &path)?]);
    Ok(sae)
}

/// For classes that do not take the decoder bias off the input.
fn on_input(w: &mut Weights) {
    let shift = bias_shift(&w.w_enc, &w.b_dec);
    w.b_enc.iter_mut().zip(shift).for_each(|(b, s)| *b += s);
}

/// k, in which weights and configuration must agree.
fn k(tensors: &Dictionary<'_>, f: &mut Fields) -> Result<usize> {
    let stored = tensors.floats("k", &[])?[0] as usize;
    match f.optional::<usize>("k")? {
        Some(k) if k != stored => Err(f.refuse("trainer.k", &json!(k), &format!("{WEIGHTS} says {stored}"))),
        _ => Ok(stored),
    }
}

/// An SAE with one threshold for all latents, which must have been estimated.
fn above_one(w: Weights, tensors: &Dictionary<'_>, folder: &Path) -> Result<Sae> {
    let threshold = tensors.floats("threshold", &[])?[0];
    if threshold < 0.0 {
        let problem = format!("threshold is {threshold}: it was saved before one was estimated");
        return Err(Error::format(folder.join(WEIGHTS), problem));
    }
    Ok(super::super::rule::above_one(w, threshold))
}
