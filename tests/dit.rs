//! The PixArt transformer against diffusers, on the models that `tests/golden/make_pixart.py` made.

mod hooked;

use candle_core::{DType, Device, Tensor};
use denoscope::Result;
use denoscope::diffusion::captions::Captions;
use denoscope::diffusion::dit::{Dit, DitConfig, MicroConditions};
use denoscope::diffusion::hook::{Hook, Kind, Site};
use denoscope::diffusion::tap::Tap;
use denoscope::diffusion::weights::Weights;
use hooked::{Edit, Look, relative, started, values};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

const CASES: [&str; 6] = ["sized", "unsized", "uncaptioned", "gelu", "geglu_approximate", "linear_silu"];

struct Case {
    folder: PathBuf,
    dit: Dit,
    golden: HashMap<String, Tensor>,
}

impl Case {
    fn open(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pixart").join(name);
        let config = DitConfig::open(&folder.join("config.json")).unwrap();
        let files = [folder.join("diffusion_pytorch_model.safetensors")];
        let weights = Weights::open(&files, &Device::Cpu, DType::F32).unwrap();
        let dit = Dit::load(&config, &weights).unwrap();
        weights.finish().unwrap();
        let golden = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
        Self { folder, dit, golden }
    }

    fn size(&self) -> Option<MicroConditions> {
        let (resolution, aspect_ratio) = (self.golden.get("resolution")?, self.golden.get("aspect_ratio")?);
        Some(MicroConditions { resolution: resolution.clone(), aspect_ratio: aspect_ratio.clone() })
    }

    fn captions(&self, masked: bool) -> Captions {
        let mask = masked.then(|| &self.golden["encoder_attention_mask"]);
        Captions::new(&self.golden["encoder_hidden_states"], mask).unwrap()
    }

    fn run(&self, masked: bool, tap: &mut Tap<'_>) -> Result<Tensor> {
        let sample = self.golden["sample"].permute((0, 2, 3, 1))?.contiguous()?;
        let captions = self.captions(masked);
        let out = self.dit.forward(&sample, &self.golden["timestep"], &captions, self.size().as_ref(), tap)?;
        Ok(out.permute((0, 3, 1, 2))?.contiguous()?)
    }

    fn run_with(&self, hook: &mut dyn Hook) -> Result<Tensor> {
        self.run(true, &mut started(hook, self.golden["sample"].dim(0)?))
    }
}

#[test]
fn outputs_agree_with_diffusers() {
    for name in CASES {
        let case = Case::open(name);
        for (what, masked) in [("out", true), ("unmasked", false)] {
            let error = relative(&case.run(masked, &mut Tap::none()).unwrap(), &case.golden[what]);
            assert!(error <= 1e-5, "{name} {what}: {error:e}");
        }
    }
}

#[test]
fn every_module_agrees_and_looking_changes_no_bit() {
    for name in CASES {
        let case = Case::open(name);
        let text = std::fs::read_to_string(case.folder.join("digests.json")).unwrap();
        let digests: BTreeMap<String, (Vec<usize>, f64, f64)> = serde_json::from_str(&text).unwrap();
        let mut sites: Vec<Site> = digests.keys().map(|s| s.parse().unwrap()).collect();
        let mut paths: Vec<String> = sites.iter().map(|s| s.module.clone()).collect();
        paths.sort();
        paths.dedup();
        let mut modules = case.dit.modules();
        modules.sort();
        assert_eq!(modules, paths, "{name}: our modules against diffusers'");

        for path in &paths {
            if case.dit.module(path).unwrap().has_residual() {
                sites.push(Site::new(path, Kind::Residual));
            }
        }
        let mut look = Look::at(sites);
        let plain = case.run(true, &mut Tap::none()).unwrap();
        let looked = case.run_with(&mut look).unwrap();
        assert_eq!(values(&plain), values(&looked), "{name}: looking must not change the result");

        for (site, (shape, norm, product)) in &digests {
            let site: Site = site.parse().unwrap();
            let found = look.take(case.dit.module(&site.module).unwrap(), &site);
            assert_eq!(found.dims(), shape, "{name} {site}");
            let (mut squares, mut sum) = (0f64, 0f64);
            for (k, v) in values(&found).into_iter().enumerate() {
                squares += f64::from(v).powi(2);
                sum += f64::from(v) * (0.37 * k as f64).cos();
            }
            let tolerance = 1e-5 * norm;
            assert!((squares.sqrt() - norm).abs() <= tolerance, "{name} {site}: norm {} for {norm}", squares.sqrt());
            let spread = (found.elem_count() as f64 / 2.0).sqrt().max(1.0);
            assert!((sum - product).abs() <= tolerance * spread, "{name} {site}: {sum} for {product}");
        }
        for (site, expected) in &case.golden {
            let Ok(site) = site.parse::<Site>() else { continue };
            if site.module.starts_with("edited:") {
                continue;
            }
            let error = relative(&look.take(case.dit.module(&site.module).unwrap(), &site), expected);
            assert!(error <= 1e-5, "{name} {site}: {error:e}");
        }
        let site = |kind| Site::new("transformer_blocks.0", kind);
        let difference = (look.take(case.dit.module(&site(Kind::Output).module).unwrap(), &site(Kind::Output))
            - look.take(case.dit.module(&site(Kind::Input).module).unwrap(), &site(Kind::Input)))
        .unwrap();
        assert_eq!(
            values(&difference),
            values(&look.take(case.dit.module(&site(Kind::Residual).module).unwrap(), &site(Kind::Residual)))
        );
    }
}

#[test]
fn replacing_an_activation_does_what_a_python_hook_does() {
    let mut edits = 0;
    for name in CASES {
        let case = Case::open(name);
        for (key, expected) in &case.golden {
            let Some(site) = key.strip_prefix("edited:") else { continue };
            let out = case.run_with(&mut Edit(site.parse().unwrap())).unwrap();
            let error = relative(&out, expected);
            assert!(error <= 1e-5, "{name} {site}: {error:e}");
            assert!(relative(&out, &case.golden["out"]) > 1e-4, "{name} {site}: the edit changed nothing");
            edits += 1;
        }
    }
    assert!(edits >= 19, "{edits}");
}

#[test]
fn the_modulation_of_every_block_is_diffusers() {
    for name in CASES {
        let case = Case::open(name);
        for block in 0..case.dit.config().num_layers {
            let m = case.dit.modulation(block, &case.golden["timestep"], case.size().as_ref()).unwrap();
            let six = [m.shift_msa, m.scale_msa, m.gate_msa, m.shift_mlp, m.scale_mlp, m.gate_mlp];
            let found = Tensor::stack(&six, 1).unwrap();
            let error = relative(&found, &case.golden[&format!("modulation.{block}")]);
            assert!(error <= 1e-5, "{name}, block {block}: {error:e}");
        }
        let beyond = case.dit.modulation(9, &case.golden["timestep"], case.size().as_ref()).unwrap_err();
        assert!(beyond.to_string().contains("block 9"), "{beyond}");
    }
}

#[test]
fn misshapen_inputs_are_refused() {
    let case = Case::open("sized");
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let sized = |batch| Some(MicroConditions::new(batch, 8, 12, &Device::Cpu).unwrap());
    let run = |sample: &[usize], t: &[usize], text: &[usize], mask: &[usize], size: Option<MicroConditions>| {
        let captions = Captions { embeds: zeros(text), mask: Some(zeros(mask)) };
        let out = case.dit.forward(&zeros(sample), &zeros(t), &captions, size.as_ref(), &mut Tap::none());
        out.map(|_| ())
    };
    run(&[2, 4, 6, 5], &[1], &[2, 3, 7], &[2, 3], sized(2)).unwrap();
    for (sample, t, text, mask, size, name) in [
        ([2, 4, 6, 4], [2], [2, 3, 7], [2, 3], sized(2), "sample"),
        ([2, 1, 6, 5], [2], [2, 3, 7], [2, 3], sized(2), "sample"),
        ([2, 4, 6, 5], [3], [2, 3, 7], [2, 3], sized(2), "timesteps"),
        ([2, 4, 6, 5], [2], [2, 3, 8], [2, 3], sized(2), "captions"),
        ([2, 4, 6, 5], [2], [1, 3, 7], [1, 3], sized(2), "captions"),
        ([2, 4, 6, 5], [2], [2, 3, 7], [2, 4], sized(2), "mask"),
        ([2, 4, 6, 5], [2], [2, 3, 7], [2, 3], sized(1), "resolution"),
        ([2, 4, 6, 5], [2], [2, 3, 7], [2, 3], None, "this model needs resolution and aspect_ratio"),
    ] {
        let message = run(&sample, &t, &text, &mask, size).unwrap_err().to_string();
        assert!(message.starts_with(name), "{name}: {message}");
    }
}

/// The configuration of PixArt-XL-2-1024-MS, as published.
const XL: &str = r#"{
  "_class_name": "Transformer2DModel", "_diffusers_version": "0.22.0.dev0", "activation_fn": "gelu-approximate",
  "attention_bias": true, "attention_head_dim": 72, "attention_type": "default", "caption_channels": 4096,
  "cross_attention_dim": 1152, "double_self_attention": false, "dropout": 0.0, "in_channels": 4,
  "norm_elementwise_affine": false, "norm_eps": 1e-06, "norm_num_groups": 32, "norm_type": "ada_norm_single",
  "num_attention_heads": 16, "num_embeds_ada_norm": 1000, "num_layers": 28, "num_vector_embeds": null,
  "only_cross_attention": false, "out_channels": 8, "patch_size": 2, "sample_size": 128, "upcast_attention": false,
  "use_linear_projection": false }"#;

#[test]
fn the_published_configuration_is_read_and_written_back() {
    let config = DitConfig::parse(XL).unwrap();
    assert_eq!(config, DitConfig { caption_channels: Some(4096), ..DitConfig::default() });
    assert!(config.additional_conditions());
    assert_eq!((config.width(), config.position_scale(), config.outputs()), (1152, 2.0, 8));
    assert_eq!(DitConfig::parse(&config.to_json().to_string()).unwrap(), config);
    let none = DitConfig::parse(r#"{"out_channels": null, "cross_attention_dim": null}"#).unwrap();
    assert_eq!((none.outputs(), none.caption_width()), (4, None));
    assert_eq!(DitConfig::parse("{}").unwrap(), DitConfig::default());
}

#[test]
fn unsupported_values_are_refused_by_field() {
    for (field, value, says) in [
        ("_class_name", r#""DiTTransformer2DModel""#, "PixArtTransformer2DModel"),
        ("norm_type", r#""ada_norm_zero""#, "ada_norm_single"),
        ("attention_type", r#""gated""#, "default"),
        ("only_cross_attention", "true", "false"),
        ("double_self_attention", "true", "false"),
        ("num_vector_embeds", "10", "null"),
        ("num_embeds_ada_norm", "null", "number"),
        ("activation_fn", r#""relu""#, "gelu-approximate"),
        ("sample_size", "[64, 96]", "usize"),
        ("sample_size", "1", "patch"),
        ("patch_size", "0", "positive"),
        ("in_channels", "-4", "usize"),
        ("cross_attention_dim", "0", "positive"),
        ("attention_head_dim", "71", "multiple of 3"),
        ("interpolation_scale", "0", "divided"),
        ("norm_eps", r#""small""#, "f64"),
    ] {
        let message = DitConfig::parse(&format!(r#"{{"{field}": {value}}}"#)).unwrap_err().to_string();
        assert!(message.contains(field) && message.contains(says), "{field} = {value}: {message}");
    }
    let four = r#"{"attention_head_dim": 3, "num_attention_heads": 2}"#;
    assert!(DitConfig::parse(four).unwrap_err().to_string().contains("multiple of 4"));
    let wide = r#"{"caption_channels": 8, "cross_attention_dim": 768}"#;
    assert!(DitConfig::parse(wide).unwrap_err().to_string().contains("cross_attention_dim = 768"));
    let message = DitConfig::parse(r#"{"caption_chanels": 4}"#).unwrap_err().to_string();
    assert!(message.contains("caption_chanels") && message.contains("caption_channels"), "{message}");
}
