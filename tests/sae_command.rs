//! `denoscope train` and `denoscope evaluate` on a file of activations.

use denoscope::activations::{Activations, Trajectories};
use denoscope::measure::command::Evaluate;
use denoscope::random::stream;
use denoscope::sae::command::Train;
use denoscope::sae::{BatchTopK, Join, Options, Prediction, Residualized, Sae, Terms, Tide, TideSae, TrajectorySae};
use safetensors::tensor::{Dtype, TensorView};
use std::path::{Path, PathBuf};

/// Writes the configuration with some texts replaced.
fn config(folder: &Path, changes: &[(&str, &str)]) -> PathBuf {
    let mut text = r#"{
        "activations": {"file": "FOLDER/x.safetensors", "tensor": "x"},
        "sae": {"architecture": "batchtopk", "k": 2},
        "expansion": 3,
        "options": {"epochs": 4, "batch": 100, "seed": 7},
        "run": "FOLDER/run"
    }"#
    .to_string();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let path = folder.join("config.json");
    std::fs::write(&path, text.replace("FOLDER", &folder.display().to_string())).unwrap();
    path
}

/// Writes a file with a matrix `x` of 600 tokens, a vector `y` and trajectories `p`; returns the numbers of each.
fn data(folder: &Path) -> Vec<f32> {
    let x = stream(0, "command", 0).normals(600 * 5);
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = |shape| TensorView::new(Dtype::F32, shape, &bytes).unwrap();
    let tensors = [("x", view(vec![600, 5])), ("y", view(vec![3000])), ("p", view(vec![200, 3, 5]))];
    std::fs::write(folder.join("x.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    x
}

#[test]
fn a_configuration_trains_what_the_library_trains() {
    let folder = tempfile::tempdir().unwrap();
    let x = data(folder.path());
    Train { config: config(folder.path(), &[]) }.run().unwrap();
    let options = Options { epochs: Some(4), batch: Some(100), seed: 7, ..Options::default() };
    let activations = Activations::from_vec((1, 1), 5, x).unwrap();
    let expected = BatchTopK::new(3, 2).options(options).train(&activations).unwrap();
    let run = folder.path().join("run");
    assert_eq!(Sae::load(&run).unwrap(), expected.sae);
    assert_eq!(std::fs::read_to_string(run.join("log.csv")).unwrap(), expected.csv());
    // The kept configuration trains, and is evaluated, again.
    Train { config: run.join("train.json") }.run().unwrap();
    let latents = folder.path().join("latents.csv");
    Evaluate { sae: run, config: None, latents: Some(latents.clone()), loss: None }.run().unwrap();
    let text = std::fs::read_to_string(latents).unwrap();
    assert_eq!((text.lines().count(), text.lines().next()), (16, Some("latent,density,silent_tokens")));
}

/// Trains and judges an SAE of the trajectories `p`; returns them and the folder of the run.
fn of_trajectories(folder: &Path, sae: &str) -> (Trajectories, PathBuf) {
    data(folder);
    let single = "\"architecture\": \"batchtopk\", \"k\": 2";
    let config = config(folder, &[("\"tensor\": \"x\"", "\"tensor\": \"p\""), (single, sae)]);
    Train { config }.run().unwrap();
    let run = folder.join("run");
    // The kept configuration reads the finished training back.
    Train { config: run.join("train.json") }.run().unwrap();
    let latents = folder.join("latents.csv");
    Evaluate { sae: run.clone(), config: None, latents: Some(latents.clone()), loss: None }.run().unwrap();
    assert!(std::fs::read_to_string(latents).unwrap().lines().count() > 15);
    let loss = Evaluate { sae: run.clone(), config: None, latents: None, loss: Some(1) }.run().unwrap_err();
    assert!(loss.to_string().contains("single activations"), "{loss}");
    (Trajectories::open(folder.join("x.safetensors"), Some("p")).unwrap(), run)
}

#[test]
fn temporal_aware_saes_are_trained_as_by_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let sae = r#""architecture": "temporal_aware_topk", "k": 2, "terms": {"cosine": 0.2}, "undo": false,
        "progressive": [2.0, 0.5]"#;
    let (trajectories, run) = of_trajectories(folder.path(), sae);
    let terms = Terms { cosine: 0.2, ..Terms::default() };
    // Options that are not named are those of this architecture.
    let recipe = Tide::new(3, 2).terms(terms).undo(false).progressive(2.0, 0.5).epochs(4).batch(100).seed(7);
    assert_eq!(TideSae::open(run.join("tide.safetensors")).unwrap(), recipe.train(&trajectories).unwrap().sae);
    assert!(run.join("report.html").exists() && run.join("log.csv").exists());
}

#[test]
fn residualized_saes_are_trained_as_by_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let sae = r#""architecture": "residualized", "k": 6, "join": "per_step", "dictionary": "topk",
        "prediction": {"lambdas": [0.1]}"#;
    let (trajectories, run) = of_trajectories(folder.path(), sae);
    let prediction = Prediction { lambdas: vec![0.1], ..Prediction::default() };
    let recipe = Residualized::new(3, 6).join(Join::PerStep).topk().prediction(prediction);
    let expected = recipe.epochs(4).batch(100).seed(7).train(&trajectories).unwrap();
    assert_eq!(TrajectorySae::open(run.join("trajectory.safetensors")).unwrap(), expected.sae);
    for step in 0..3 {
        assert!(run.join(format!("step-{step}/report.html")).exists());
    }
}

#[test]
fn configurations_that_cannot_be_meant_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    data(folder.path());
    for (from, to, word) in [
        ("batchtopk", "supertopk", "supertopk"),
        ("\"k\": 2", "\"l1\": 2", "l1"),
        ("\"epochs\"", "\"epoch\"", "epoch"),
        ("\"tensor\": \"x\"", "\"tensor\": \"z\"", "\"z\""),
        ("\"tensor\": \"x\"", "\"tensor\": \"y\"", "[3000]"),
        (", \"tensor\": \"x\"", "", "p, x, y"),
        ("batchtopk\", \"k\": 2", "residualized\", \"k\": 3, \"joint\": 1", "joint"),
        ("batchtopk\"", "temporal_aware_topk\"", "[600, 5]"),
        ("batchtopk", "supertopk", "temporal_aware_topk"),
        ("\"options\": {", "\"options\": 3, \"x\": {", "x"),
        ("\"tensor\"", "\"store\": \"s\", \"tensor\"", "either store"),
        ("\"expansion\": 3,", "", "expansion"),
    ] {
        let refused = Train { config: config(folder.path(), &[(from, to)]) }.run().unwrap_err().to_string();
        assert!(refused.contains(word), "{from}: {refused}");
    }
}
