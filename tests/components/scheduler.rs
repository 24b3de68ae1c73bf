use crate::support::{golden, relative_error, tensors};
use candle_core::{DType, Device, Tensor};
use denoscope::diffusion::open::Fields;
use denoscope::diffusion::scheduler::{SchedulerConfig, SchedulerKind};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Case {
    steps: usize,
    timesteps: Vec<f64>,
    config: String,
    init_noise_sigma: f64,
}

/// The stand-in for a network that made the goldens.
fn network(x: &Tensor, t: f64) -> Tensor {
    (((x * 1.3).unwrap() + 0.01 * t).unwrap().sin().unwrap() - (x * 0.2).unwrap()).unwrap()
}

fn read(config: &str) -> denoscope::Result<SchedulerConfig> {
    SchedulerConfig::read(&mut Fields::parse(Path::new("scheduler_config.json"), config)?)
}

#[test]
fn every_step_agrees_with_diffusers() {
    let text = std::fs::read_to_string(golden("scheduler/golden.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    let g = tensors(&golden("scheduler/golden.safetensors"));
    for (i, case) in cases.iter().enumerate() {
        let config = read(&case.config).unwrap();
        let what = format!("case {i}, {:?}", config.kind);
        let mut scheduler = config.scheduler(case.steps).unwrap();
        let found = scheduler.timesteps().to_vec();
        assert_eq!(found.len(), case.timesteps.len(), "{what}: {found:?}");
        for (a, b) in found.iter().zip(&case.timesteps) {
            assert!((a - b).abs() <= 1e-4, "{what}: {found:?}, expected {:?}", case.timesteps);
        }
        assert!((scheduler.init_noise_sigma() / case.init_noise_sigma - 1.0).abs() < 1e-6, "{what}");
        let expected = &g[&i.to_string()];
        // The chain runs freely: what is compared at step j has gone through all steps before.
        let mut x = expected.get(0).unwrap();
        for (j, &t) in found.iter().enumerate() {
            let output = network(&scheduler.scale_input(&x, j).unwrap(), t);
            x = scheduler.step(&output, j, &x).unwrap();
            let error = relative_error(&x, &expected.get(j + 1).unwrap());
            assert!(error <= 1e-5, "{what}, step {j}: {error:e}");
        }
        let schedule = config.noise_schedule();
        let table: Vec<f32> = schedule.alphas_cumprod().iter().map(|&a| a as f32).collect();
        let n = table.len();
        let error = relative_error(&Tensor::from_vec(table, n, &Device::Cpu).unwrap(), &g[&format!("{i}.alphas")]);
        assert!(error <= 1e-6, "{what}, alphas: {error:e}");
        let noisy = schedule.add_noise(&g[&format!("{i}.clean")], &g[&format!("{i}.noise")], &[1, 33, 70]).unwrap();
        assert!(relative_error(&noisy, &g[&format!("{i}.noisy")]) <= 1e-6, "{what}: noise");
    }
}

/// With the true noise as output every scheduler stays on the line between noise and clean sample and predicts it
/// exactly at every step.
#[test]
fn a_perfect_network_is_followed_exactly() {
    let x0 = Tensor::from_vec(denoscope::random::stream(1, "clean", 0).normals(24), (2, 12), &Device::Cpu).unwrap();
    let eps = Tensor::from_vec(denoscope::random::stream(1, "noise", 0).normals(24), (2, 12), &Device::Cpu).unwrap();
    let base = SchedulerConfig { set_alpha_to_one: true, ..SchedulerConfig::stable_diffusion() };
    for kind in [SchedulerKind::Ddim, SchedulerKind::Pndm, SchedulerKind::DpmSolver, SchedulerKind::Euler] {
        let config = base.with_kind(kind);
        let mut scheduler = config.scheduler(12).unwrap();
        let first = scheduler.timesteps()[0] as usize;
        let alpha = config.noise_schedule().alphas_cumprod()[first];
        let mut x = if kind == SchedulerKind::Euler {
            (&x0 + (&eps * ((1.0 - alpha) / alpha).sqrt()).unwrap()).unwrap()
        } else {
            ((&x0 * alpha.sqrt()).unwrap() + (&eps * (1.0 - alpha).sqrt()).unwrap()).unwrap()
        };
        for i in 0..scheduler.timesteps().len() {
            let clean = scheduler.predict_clean(&eps, i, &x).unwrap();
            // The second evaluation of PNDM is made at the first one's end, told the later timestep.
            assert!(kind == SchedulerKind::Pndm || relative_error(&clean, &x0) < 1e-4, "{kind:?}, step {i}");
            x = scheduler.step(&eps, i, &x).unwrap();
        }
        assert!(relative_error(&x, &x0) < 1e-4, "{kind:?}: {x} {x0}");
    }
}

#[test]
fn written_configs_read_back_and_hold_no_foreign_fields() {
    for kind in [SchedulerKind::Ddim, SchedulerKind::Pndm, SchedulerKind::DpmSolver, SchedulerKind::Euler] {
        let config = SchedulerConfig::new(kind);
        let json = config.to_json();
        assert_eq!(read(&json.to_string()).unwrap(), config);
        assert_eq!(json.get("skip_prk_steps").is_some(), kind == SchedulerKind::Pndm);
        assert_eq!(json.get("solver_order").is_some(), kind == SchedulerKind::DpmSolver);
    }
}

#[test]
fn bad_values_are_named() {
    for (config, named) in [
        (r#"{}"#, "_class_name"),
        (r#"{"_class_name": "LMSDiscreteScheduler"}"#, "LMSDiscreteScheduler"),
        (r#"{"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}"#, "beta_schedule"),
        (r#"{"_class_name": "DDIMScheduler", "thresholding": true}"#, "thresholding"),
        (r#"{"_class_name": "DDIMScheduler", "beta_strat": 0.1}"#, "beta_start"),
        (r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}"#, "solver_order = 3"),
        (r#"{"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++"}"#, "sde-dpmsolver++"),
        (r#"{"_class_name": "PNDMScheduler", "prediction_type": "sample"}"#, "prediction_type"),
    ] {
        let error = read(config).unwrap_err().to_string();
        assert!(error.contains(named), "{config}: {error}");
    }
    let ddim = SchedulerConfig::stable_diffusion();
    for steps in [0, 1001] {
        assert!(ddim.scheduler(steps).unwrap_err().to_string().contains("1 to 1000"));
    }
    assert!(ddim.scheduler(1000).unwrap_err().to_string().contains("timestep 1000"));
    let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    assert!(ddim.noise_schedule().add_noise(&x, &x, &[1]).is_err());
    assert!(ddim.noise_schedule().add_noise(&x, &x, &[1, 1000]).unwrap_err().to_string().contains("1000"));
}
