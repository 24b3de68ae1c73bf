//! SAELens' folder: `cfg.json` and `sae_weights.safetensors` (sae_lens/saes/sae.py, loading/pretrained_sae_loaders.py).
//!
//! SAELens multiplies row vectors from the left, so that its `W_enc` is `[d, latents]`; ours is turned on the way. Our
//! own facts travel in the `metadata` of `cfg.json`, under `denoscope`.
//!
//! Read are the architectures standard, topk, jumprelu and gated in their inference forms, and what SAELens saves during
//! training: batchtopk and matryoshka_batchtopk with their running threshold, jumprelu with `log_threshold`. Before
//! version 6 the facts were flat beside the rest, and TopK was an `activation_fn` of the standard architecture.

use super::super::gated;
use super::super::tensors::{self, Array, Arrays};
use super::super::weights::Weights;
use super::{Architecture, Sae, bias_shift, fold_norms, source, transposed};
use crate::activations::shard::atomically;
use crate::diffusion::open::Fields;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

pub(super) const CONFIG: &str = "cfg.json";
pub(super) const WEIGHTS: &str = "sae_weights.safetensors";

/// The version whose layout is written. Without one SAELens takes a file for an older one and drops the metadata.
const VERSION: &str = "6.0.0";

/// Fields that say how an SAE was trained or what for, and change nothing in its computation.
const NOTES: [&str; 48] = [
    // Version 6, training
    "decoder_init_norm",
    "l1_coefficient",
    "l1_warm_up_steps",
    "lp_norm",
    "l0_coefficient",
    "l0_warm_up_steps",
    "aux_loss_coefficient",
    "use_sparse_activations",
    "topk_threshold_lr",
    "matryoshka_widths",
    "use_matryoshka_aux_loss",
    "jumprelu_init_threshold",
    "jumprelu_bandwidth",
    "jumprelu_sparsity_loss_mode",
    "jumprelu_tanh_scale",
    "jumprelu_ste_to_input",
    "pre_act_loss_coefficient",
    "target_l0",
    // Any version
    "dtype",
    "device",
    // Before version 6: where the activations came from
    "model_name",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "hook_layer",
    "hook_point_layer",
    "hook_head_index",
    "hook_point_head_index",
    "hook_name_out",
    "hook_head_index_out",
    "hf_hook_name",
    "context_size",
    "seqpos",
    "seqpos_slice",
    "prepend_bos",
    "exclude_special_tokens",
    "dataset_path",
    "dataset_trust_remote_code",
    "sae_lens_training_version",
    "neuronpedia_id",
    // Before version 6: training
    "expansion_factor",
    "mse_loss_normalization",
    "noise_scale",
    "l1_warm_up_steps_fraction",
    "decoder_orthogonal_init",
    "decoder_heuristic_init",
    "init_encoder_as_decoder_transpose",
    "normalize_sae_decoder",
    "scale_sparsity_penalty_by_decoder_norm",
];

/// Writes `sae` in the layout of version 6.
pub(super) fn write(sae: &Sae, folder: &Path) -> Result<()> {
    let mut metadata = Map::new();
    metadata.insert("sae_lens_version".into(), json!(VERSION));
    let mut facts = sae.facts.clone();
    if let Some(about) = &sae.about {
        metadata.insert("model_name".into(), json!(about.model));
        metadata.insert("hook_name".into(), json!(about.site.to_string()));
        facts.insert("activations".into(), json!(about));
    }
    metadata.insert("denoscope".into(), Value::Object(facts));
    let mut config = json!({
        "architecture": sae.architecture.name(),
        "d_in": sae.d,
        "d_sae": sae.latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": true,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    });
    let (n, d) = (sae.latents, sae.d);
    let w_enc = transposed(&sae.w_enc, n, d);
    let mut arrays = vec![
        ("W_enc", Array::floats(&w_enc, &[d, n])),
        ("b_enc", Array::floats(&sae.b_enc, &[n])),
        ("W_dec", Array::floats(&sae.w_dec, &[n, d])),
        ("b_dec", Array::floats(&sae.b_dec, &[d])),
    ];
    match &sae.architecture {
        Architecture::ReLU => {}
        Architecture::TopK { k } => {
            config["k"] = json!(k);
            config["rescale_acts_by_decoder_norm"] = json!(false);
        }
        Architecture::JumpReLU { threshold } => arrays.push(("threshold", Array::floats(threshold, &[n]))),
    }
    tensors::write(&folder.join(WEIGHTS), &arrays, None)?;
    let path = folder.join(CONFIG);
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::format(&path, e))?;
    atomically(&path, |out| out.write_all(text.as_bytes()))
}

/// Reads what SAELens wrote.
pub(super) fn read(folder: &Path) -> Result<Sae> {
    let (path, weights) = (folder.join(CONFIG), folder.join(WEIGHTS));
    let mut f = Fields::read(&path)?;
    let (d, n): (usize, usize) = (f.require("d_in")?, f.require("d_sae")?);
    let (architecture, k) = architecture(&mut f)?;
    f.only("normalize_activations", &[json!("none"), json!(false)])?;
    f.only("finetuning_scaling_factor", &[false])?;
    let hook = f.optional::<String>("hook_name")?.or(f.optional("hook_point")?).unwrap_or_default();
    let reshaped: String =
        f.get("reshape_activations", if hook.contains("hook_z") { "hook_z" } else { "none" }.into())?;
    if reshaped != "none" {
        return Err(f.refuse("reshape_activations", &json!(reshaped), "supported: \"none\""));
    }
    let off_input: bool = f.get("apply_b_dec_to_input", true)?;
    let by_norm: bool = f.get("rescale_acts_by_decoder_norm", false)?;
    let mut metadata: Map<String, Value> = f.get("metadata", Map::new())?;
    f.ignore(&["sae_lens_version"]);
    f.ignore(&NOTES);
    f.finish()?;

    let file = Arrays::read(&weights)?;
    let own: &[&str] = match architecture.as_str() {
        "standard" | "topk" => &["b_enc"],
        "jumprelu" if file.names()?.iter().any(|n| n == "log_threshold") => &["b_enc", "log_threshold"],
        "jumprelu" => &["b_enc", "threshold"],
        "gated" => &["b_gate", "b_mag", "r_mag"],
        _ => &["b_enc", "topk_threshold"],
    };
    let mut names = file.names()?;
    names.sort();
    // For a while SAELens stored a factor of every latent, mostly of ones.
    if names.iter().any(|n| n == "scaling_factor") && file.floats("scaling_factor", &[n])?.iter().all(|f| *f == 1.0) {
        names.retain(|n| n != "scaling_factor");
    }
    let mut expected = [&["W_dec", "W_enc", "b_dec"], own].concat();
    expected.sort_unstable();
    if names != expected {
        let (found, expected) = (names.join(", "), expected.join(", "));
        return Err(Error::format(&weights, format!("holds {found}, expected {expected} for {architecture}")));
    }

    let mut w = Weights {
        d,
        latents: n,
        w_enc: transposed(&file.floats("W_enc", &[d, n])?, d, n),
        b_enc: file.floats(own[0], &[n])?,
        w_dec: file.floats("W_dec", &[n, d])?,
        b_dec: file.floats("b_dec", &[d])?,
    };
    let shift = if off_input { vec![0.0; n] } else { bias_shift(&w.w_enc, &w.b_dec) };
    w.b_enc.iter_mut().zip(&shift).for_each(|(b, s)| *b += s);
    if by_norm {
        fold_norms(d, &mut w.w_enc, &mut w.b_enc, &mut w.w_dec);
    }
    let mut sae = match architecture.as_str() {
        "standard" => w.sae(Architecture::ReLU),
        "topk" => w.sae(Architecture::TopK { k }),
        "jumprelu" => {
            let mut threshold = file.floats(own[1], &[n])?;
            if own[1] == "log_threshold" {
                threshold.iter_mut().for_each(|t| *t = t.exp());
            }
            w.sae(Architecture::JumpReLU { threshold })
        }
        "gated" => {
            let (r_mag, mut b_mag) = (file.floats("r_mag", &[n])?, file.floats("b_mag", &[n])?);
            b_mag.iter_mut().zip(&r_mag).zip(&shift).for_each(|((b, r), s)| *b += r.exp() * s);
            gated::fold(w, &r_mag, &b_mag)
        }
        _ => w.sae(Architecture::JumpReLU { threshold: vec![file.floats("topk_threshold", &[])?[0]; n] }),
    };
    match metadata.remove("denoscope") {
        Some(Value::Object(facts)) => sae.facts = facts,
        _ => sae.facts.extend([source("SAELens", &path)?]),
    }
    if let Some(about) = sae.facts.remove("activations") {
        sae.about = Some(
            serde_json::from_value(about)
                .map_err(|e| Error::format(&path, format!("metadata.denoscope.activations: {e}")))?,
        );
    }
    Ok(sae)
}

/// The architecture's name as version 6 has it, and k (0 where it has none).
fn architecture(f: &mut Fields) -> Result<(String, usize)> {
    let names = ["standard", "topk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk"];
    f.only("architecture", &names)?;
    f.only("activation_fn", &["relu", "topk"])?;
    f.only("activation_fn_str", &["relu", "topk"])?;
    let name: String = f.get("architecture", "standard".into())?;
    let function = f.optional::<String>("activation_fn")?.or(f.optional("activation_fn_str")?).unwrap_or("relu".into());
    let mut arguments: Map<String, Value> = f.get("activation_fn_kwargs", Map::new())?;
    let k = if function == "topk" { arguments.remove("k") } else { f.optional("k")? };
    if !arguments.is_empty() {
        return Err(f.refuse("activation_fn_kwargs", &Value::Object(arguments), "supported: k of topk"));
    }
    let named = match (name.as_str(), function.as_str()) {
        ("standard" | "topk", "topk") => "topk",
        (_, "topk") => return Err(f.refuse("activation_fn", &json!("topk"), &format!("architecture is {name}"))),
        (name, _) => name,
    };
    // A mean number of latents, as batchtopk has it, may be broken; it decides nothing after training.
    match (named, k.as_ref().and_then(Value::as_u64)) {
        ("topk", Some(k)) => Ok((named.into(), k as usize)),
        ("topk", None) => Err(f.refuse("k", &k.unwrap_or(Value::Null), "expected a whole number")),
        ("batchtopk" | "matryoshka_batchtopk", _) => Ok((named.into(), 0)),
        (_, _) if k.is_none() => Ok((named.into(), 0)),
        _ => Err(f.refuse("k", &k.unwrap_or(Value::Null), &format!("architecture {named} has none"))),
    }
}
