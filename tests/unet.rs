//! The U-Net against diffusers, on the models that `tests/golden/make_unet.py` made.

mod hooked;

use candle_core::{DType, Device, Tensor};
use denoscope::Result;
use denoscope::diffusion::hook::{Hook, Kind, Site, Visit};
use denoscope::diffusion::tap::Tap;
use denoscope::diffusion::unet::{Unet, UnetConfig};
use denoscope::diffusion::weights::Weights;
use hooked::{Edit, Look, relative, started, values};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

const CASES: [&str; 5] = ["two_levels", "three_levels", "four_levels", "one_level", "no_middle"];

struct Case {
    folder: PathBuf,
    unet: Unet,
    golden: HashMap<String, Tensor>,
}

impl Case {
    fn open(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/unet").join(name);
        let config = UnetConfig::read(&folder.join("config.json")).unwrap();
        let files = [folder.join("diffusion_pytorch_model.safetensors")];
        let weights = Weights::open(&files, &Device::Cpu, DType::F32).unwrap();
        let unet = Unet::load(&config, &weights).unwrap();
        weights.finish().unwrap();
        let golden = candle_core::safetensors::load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
        Self { folder, unet, golden }
    }

    fn run(&self, tap: &mut Tap<'_>) -> Result<Tensor> {
        let sample = self.golden["sample"].permute((0, 2, 3, 1))?.contiguous()?;
        let out = self.unet.forward(&sample, &self.golden["timestep"], &self.golden["encoder_hidden_states"], tap)?;
        Ok(out.permute((0, 3, 1, 2))?.contiguous()?)
    }

    fn run_with(&self, hook: &mut dyn Hook) -> Result<Tensor> {
        self.run(&mut started(hook, self.golden["sample"].dim(0)?))
    }
}

#[test]
fn outputs_agree_with_diffusers() {
    for name in CASES {
        let case = Case::open(name);
        let error = relative(&case.run(&mut Tap::none()).unwrap(), &case.golden["out"]);
        assert!(error <= 1e-5, "{name}: {error:e}");
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
        let mut modules = case.unet.modules();
        modules.sort();
        assert_eq!(modules, paths, "{name}: our modules against diffusers'");

        for path in &paths {
            if case.unet.module(path).unwrap().has_residual() {
                sites.push(Site::new(path, Kind::Residual));
            }
        }
        let mut look = Look::at(sites);
        let plain = case.run(&mut Tap::none()).unwrap();
        let looked = case.run_with(&mut look).unwrap();
        assert_eq!(values(&plain), values(&looked), "{name}: looking must not change the result");

        for (site, (shape, norm, product)) in &digests {
            let site: Site = site.parse().unwrap();
            let found = look.take(case.unet.module(&site.module).unwrap(), &site);
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
            let error = relative(&look.take(case.unet.module(&site.module).unwrap(), &site), expected);
            assert!(error <= 1e-5, "{name} {site}: {error:e}");
        }
        let path = paths.iter().find(|p| p.starts_with("up_blocks") && p.ends_with("attentions.0")).unwrap();
        let site = |kind| Site::new(path, kind);
        let difference = (look.take(case.unet.module(&site(Kind::Output).module).unwrap(), &site(Kind::Output))
            - look.take(case.unet.module(&site(Kind::Input).module).unwrap(), &site(Kind::Input)))
        .unwrap();
        assert_eq!(
            values(&difference),
            values(&look.take(case.unet.module(&site(Kind::Residual).module).unwrap(), &site(Kind::Residual)))
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
    assert!(edits >= 15);
}

#[test]
fn an_unwanted_half_keeps_its_bits() {
    let case = Case::open("two_levels");
    let plain = case.run(&mut Tap::none()).unwrap();
    let out = case.run_with(&mut Edit("mid_block.attentions.0:residual".parse().unwrap())).unwrap();
    let half = |x: &Tensor, from| values(&x.narrow(0, from, 2).unwrap());
    assert_eq!(half(&plain, 0), half(&out, 0));
    assert_ne!(half(&plain, 2), half(&out, 2));
}

#[test]
fn sites_that_do_not_exist_are_refused_by_name() {
    let case = Case::open("two_levels");
    let refusal = |site: &str| case.run_with(&mut Look::at(vec![site.parse().unwrap()])).unwrap_err().to_string();
    let message = refusal("mid_block.atentions.0:output");
    assert!(message.contains("no module") && message.contains("mid_block.attentions.0"), "{message}");
    let message = refusal("down_blocks.0:residual");
    assert!(
        message.contains("down_blocks.0:residual") && message.contains("8 and 8 channels, on another"),
        "{message}"
    );
    assert!(refusal("up_blocks.0.resnets.0:residual").contains("24 and 12 channels"));
}

/// Returns a tensor of the wrong shape.
struct Wrong;

impl Hook for Wrong {
    fn sites(&self) -> Vec<Site> {
        vec![Site::new("mid_block", Kind::Output)]
    }

    fn visit(&mut self, _: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(activation.transpose(1, 2)?))
    }
}

#[test]
fn a_misshapen_replacement_is_refused() {
    let message = Case::open("two_levels").run_with(&mut Wrong).unwrap_err().to_string();
    assert!(message.contains("mid_block:output") && message.contains("[2, 6, 12]"), "{message}");
}

#[test]
fn misshapen_inputs_are_refused() {
    let case = Case::open("two_levels");
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let run = |sample: &[usize], t: &[usize], text: &[usize]| {
        case.unet.forward(&zeros(sample), &zeros(t), &zeros(text), &mut Tap::none()).map(|_| ())
    };
    run(&[2, 4, 6, 5], &[1], &[2, 3, 7]).unwrap();
    for (sample, t, text, name) in [
        ([2, 4, 6, 4], [2], [2, 3, 7], "sample"),
        ([2, 4, 6, 5], [3], [2, 3, 7], "timesteps"),
        ([2, 4, 6, 5], [2], [2, 3, 8], "text"),
        ([2, 4, 6, 5], [2], [1, 3, 7], "text"),
    ] {
        let message = run(&sample, &t, &text).unwrap_err().to_string();
        assert!(message.starts_with(name), "{message}");
    }
}
