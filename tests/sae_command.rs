//! `denoscope train` and `denoscope evaluate` on a file of activations.

use denoscope::activations::Activations;
use denoscope::measure::command::Evaluate;
use denoscope::random::stream;
use denoscope::sae::command::Train;
use denoscope::sae::{BatchTopK, Options, Sae};
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

/// Writes a file with a matrix `x` of 600 tokens and a vector `y`; returns the numbers of both.
fn data(folder: &Path) -> Vec<f32> {
    let x = stream(0, "command", 0).normals(600 * 5);
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = |shape| TensorView::new(Dtype::F32, shape, &bytes).unwrap();
    let tensors = [("x", view(vec![600, 5])), ("y", view(vec![3000]))];
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
        (", \"tensor\": \"x\"", "", "x, y"),
        ("\"tensor\"", "\"store\": \"s\", \"tensor\"", "either store"),
        ("\"expansion\": 3,", "", "expansion"),
    ] {
        let refused = Train { config: config(folder.path(), &[(from, to)]) }.run().unwrap_err().to_string();
        assert!(refused.contains(word), "{from}: {refused}");
    }
}
