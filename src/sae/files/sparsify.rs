//! sparsify's folder: `cfg.json` and `sae.safetensors` (EleutherAI, sparsify/sparse_coder.py).
//!
//! `encoder.weight`, `encoder.bias`, `W_dec` and `b_dec` are as ours; all are TopK after a ReLU.

use super::super::tensors::{self, Array, Arrays};
use super::super::weights::Weights;
use super::{Architecture, Sae, source};
use crate::activations::shard::atomically;
use crate::diffusion::open::Fields;
use crate::error::{Error, Result};
use serde_json::json;
use std::path::Path;

const CONFIG: &str = "cfg.json";
pub(super) const WEIGHTS: &str = "sae.safetensors";

/// Writes `sae` as sparsify reads it.
pub(super) fn write(sae: &Sae, folder: &Path) -> Result<()> {
    let Architecture::TopK { k } = sae.architecture else {
        return Err(Error::invalid(format!(
            "a {} SAE cannot be saved for sparsify, which has TopK only: save it for SAELens",
            sae.architecture
        )));
    };
    let (n, d) = (sae.latents, sae.d);
    let config = json!({
        "activation": "topk",
        "expansion_factor": n.div_ceil(d),
        "normalize_decoder": true,
        "num_latents": n,
        "k": k,
        "multi_topk": false,
        "skip_connection": false,
        "transcode": false,
        "d_in": d,
    });
    let arrays = [
        ("encoder.weight", Array::floats(&sae.w_enc, &[n, d])),
        ("encoder.bias", Array::floats(&sae.b_enc, &[n])),
        ("W_dec", Array::floats(&sae.w_dec, &[n, d])),
        ("b_dec", Array::floats(&sae.b_dec, &[d])),
    ];
    tensors::write(&folder.join(WEIGHTS), &arrays, None)?;
    let path = folder.join(CONFIG);
    let text = serde_json::to_string(&config).map_err(|e| Error::format(&path, e))?;
    atomically(&path, |out| out.write_all(text.as_bytes()))
}

/// Reads what sparsify wrote.
pub(super) fn read(folder: &Path) -> Result<Sae> {
    let (path, weights) = (folder.join(CONFIG), folder.join(WEIGHTS));
    let mut f = Fields::read(&path)?;
    let (d, k): (usize, usize) = (f.require("d_in")?, f.require("k")?);
    f.only("activation", &["topk"])?;
    // Of these an SAE has none: they make something else of the same weights.
    for field in ["signed", "skip_connection", "transcode"] {
        f.only(field, &[false])?;
    }
    let (latents, expansion): (usize, usize) = (f.get("num_latents", 0)?, f.get("expansion_factor", 32)?);
    let n = if latents > 0 { latents } else { d * expansion };
    f.ignore(&["normalize_decoder", "multi_topk"]);
    f.finish()?;
    let file = Arrays::read(&weights)?;
    let mut names = file.names()?;
    names.sort();
    let expected = ["W_dec", "b_dec", "encoder.bias", "encoder.weight"];
    if names != expected {
        let (found, expected) = (names.join(", "), expected.join(", "));
        return Err(Error::format(&weights, format!("holds {found}, expected {expected}")));
    }
    let w = Weights {
        d,
        latents: n,
        w_enc: file.floats("encoder.weight", &[n, d])?,
        b_enc: file.floats("encoder.bias", &[n])?,
        w_dec: file.floats("W_dec", &[n, d])?,
        b_dec: file.floats("b_dec", &[d])?,
    };
    let mut sae = w.sae(Architecture::TopK { k });
    sae.facts.extend([source("sparsify", &path)?]);
    Ok(sae)
}
