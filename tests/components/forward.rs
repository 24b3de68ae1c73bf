//! `denoscope forward` against the goldens of the single components.

use crate::support::{golden, relative_error, tensors};
use candle_core::Tensor;
use denoscope::diffusion::forward::{Component, Forward};
use denoscope::diffusion::weights::Kept;
use denoscope::error::Result;
use std::collections::HashMap;
use std::path::Path;

/// A folder with a golden model in a component's place, and a file with inputs.
struct Model(tempfile::TempDir);

impl Model {
    fn new(from: &str, component: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join(component);
        std::fs::create_dir(&to).unwrap();
        for entry in std::fs::read_dir(golden(from)).unwrap() {
            let name = entry.unwrap().file_name();
            if name != "golden.safetensors" {
                std::fs::copy(golden(from).join(&name), to.join(&name)).unwrap();
            }
        }
        Self(folder)
    }

    fn command(&self, component: Component, inputs: &[(&str, &Tensor)], captures: &[&str]) -> Forward {
        let map: HashMap<String, Tensor> = inputs.iter().map(|(n, t)| ((*n).into(), (*t).clone())).collect();
        let path = self.0.path().join("inputs.safetensors");
        candle_core::safetensors::save(&map, &path).unwrap();
        Forward {
            model: self.0.path().to_str().unwrap().into(),
            component,
            inputs: path,
            out: self.0.path().join("outputs.safetensors"),
            weights: Kept::F32,
            vae_tiling: false,
            capture: captures.iter().map(|s| s.parse().unwrap()).collect(),
        }
    }
}

fn agree(found: &HashMap<String, Tensor>, name: &str, expected: &Tensor) {
    let error = relative_error(&found[name], expected);
    assert!(error <= 1e-5, "{name}: {error:e}");
}

#[test]
fn a_unet_with_captures_is_written_as_diffusers_lays_it_out() {
    let model = Model::new("unet/two_levels", "unet");
    let g = tensors(&golden("unet/two_levels/golden.safetensors"));
    let inputs: Vec<_> = ["sample", "timestep", "encoder_hidden_states"].map(|n| (n, &g[n])).to_vec();
    let sites = ["mid_block.attentions.0:output", "time_embedding:output", "mid_block.attentions.0:residual"];
    let command = model.command(Component::Unet, &inputs, &sites);
    command.clone().run().unwrap();
    let found = tensors(&command.out);
    assert_eq!(found.len(), 4);
    agree(&found, "sample", &g["out"]);
    agree(&found, sites[0], &g[sites[0]]);
    agree(&found, sites[1], &g[sites[1]]);
    assert_eq!(found[sites[2]].dims(), g[sites[0]].dims());
}

#[test]
fn a_transformer_takes_mask_and_size() {
    let model = Model::new("pixart/sized", "transformer");
    let g = tensors(&golden("pixart/sized/golden.safetensors"));
    let names = ["sample", "timestep", "encoder_hidden_states", "encoder_attention_mask", "resolution", "aspect_ratio"];
    let inputs: Vec<_> = names.map(|n| (n, &g[n])).to_vec();
    let sites = ["transformer_blocks.1:output", "adaln_single.emb.resolution_embedder:output", "pos_embed:input"];
    let found = model.command(Component::Transformer, &inputs, &sites).outputs().unwrap();
    agree(&found, "sample", &g["out"]);
    for site in sites {
        agree(&found, site, &g[site]);
    }
    // Without a mask every position is seen; one timestep may be a bare number.
    let bare: Vec<_> = inputs.iter().filter(|i| i.0 != "encoder_attention_mask").copied().collect();
    agree(&model.command(Component::Transformer, &bare, &[]).outputs().unwrap(), "sample", &g["unmasked"]);
    let fault = |inputs: &[(&str, &Tensor)], sites: &[&str]| -> String {
        model.command(Component::Transformer, inputs, sites).outputs().unwrap_err().to_string()
    };
    assert!(fault(&inputs[1..], &[]).contains("\"sample\""));
    let half = fault(&inputs[..5], &[]);
    assert!(half.contains("resolution and aspect_ratio"), "{half}");
    let extra = fault(&[&inputs[..], &[("aspect_ration", &g["resolution"])]].concat(), &[]);
    assert!(extra.contains("aspect_ration") && extra.contains("nearest: aspect_ratio"), "{extra}");
    assert!(fault(&inputs, &["transformer_blocks.2:output"]).contains("transformer_blocks.1"));
}

#[test]
fn captions_are_not_asked_for_where_nothing_reads_them() {
    let model = Model::new("pixart/uncaptioned", "transformer");
    let g = tensors(&golden("pixart/uncaptioned/golden.safetensors"));
    let inputs: Vec<_> = ["sample", "timestep", "resolution", "aspect_ratio"].map(|n| (n, &g[n])).to_vec();
    let found = model.command(Component::Transformer, &inputs, &[]).outputs().unwrap();
    agree(&found, "sample", &g["out"]);
}

#[test]
fn both_halves_of_an_autoencoder_run() {
    let model = Model::new("vae/three_levels", "vae");
    let g = tensors(&golden("vae/three_levels/golden.safetensors"));
    let run = |component, name, capture: &[&str]| -> Result<HashMap<String, Tensor>> {
        model.command(component, &[(name, &g[name])], capture).outputs()
    };
    agree(&run(Component::VaeEncode, "sample", &[]).unwrap(), "latents", &g["mean"]);
    agree(&run(Component::VaeDecode, "latents", &[]).unwrap(), "sample", &g["decoded"]);
    let hooks = run(Component::VaeDecode, "latents", &["decoder:output"]).unwrap_err().to_string();
    assert!(hooks.contains("decoder:output"), "{hooks}");
}

#[test]
fn both_text_encoders_run() {
    let model = Model::new("t5/gated", "text_encoder");
    let g = tensors(&golden("t5/gated/golden.safetensors"));
    let inputs = [("input_ids", &g["input_ids"]), ("attention_mask", &g["attention_mask"])];
    let found = model.command(Component::Text, &inputs, &[]).outputs().unwrap();
    agree(&found, "last_hidden_state", &g["last_hidden_state"]);
    let model = Model::new("text/quick", "text_encoder");
    let g = tensors(&golden("text/quick/golden.safetensors"));
    let ids = &g["input_ids"];
    let found = model.command(Component::Text, &[("input_ids", ids)], &[]).outputs().unwrap();
    agree(&found, "last_hidden_state", &g["last_hidden_state"]);
    // A file of its own, as the model's golden is older.
    let masked = tensors(&golden("text/masked.safetensors"));
    let inputs = [("input_ids", ids), ("attention_mask", &masked["attention_mask"])];
    let found = model.command(Component::Text, &inputs, &[]).outputs().unwrap();
    agree(&found, "last_hidden_state", &masked["last_hidden_state"]);
    assert!(relative_error(&found["last_hidden_state"], &g["last_hidden_state"]) > 1e-3);
    let inputs = [("input_ids", ids), ("attention_mask", &masked["attention_mask"].narrow(1, 0, 3).unwrap())];
    let refused = model.command(Component::Text, &inputs, &[]).outputs().unwrap_err().to_string();
    assert!(refused.contains("attention_mask"), "{refused}");
}

#[test]
fn a_missing_component_is_named() {
    let model = Model::new("vae/plain", "vae");
    let g = tensors(&golden("vae/plain/golden.safetensors"));
    let error = model.command(Component::Unet, &[("sample", &g["sample"])], &[]).outputs().unwrap_err().to_string();
    assert!(error.contains("model_index.json"), "{error}");
    assert!(Path::new(&model.0.path().join("inputs.safetensors")).is_file());
}
