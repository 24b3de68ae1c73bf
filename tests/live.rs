//! Activations straight from the running model are what a store of them holds.

use denoscope::prelude::*;
use std::sync::Arc;

const MODULE: &str = "mid_block.attentions.0";

#[test]
fn a_running_model_gives_what_a_store_holds() {
    let model = Arc::new(Pipeline::open("scene-unet").unwrap());
    let scenes: Vec<Scene> = (0..6).map(|i| Scene::sample(Split::Test, i)).collect();
    let prompts: Vec<String> = scenes.iter().map(|s| s.full_caption().text).collect();
    let renders: Vec<Render> = scenes.iter().map(Scene::render).collect();
    for noised in [false, true] {
        let mut capture =
            Capture::new(&model).at(MODULE, Kind::Residual).stages([0.5]).steps(4).prompts(&prompts).seed(9);
        if noised {
            capture = capture.pictures(renders.iter().map(|r| &r.image));
        }
        let folder = tempfile::tempdir().unwrap();
        let stored = capture.run(folder.path()).unwrap().only().unwrap();
        let live = capture.live(&model).unwrap();
        assert_eq!((live.about(), live.items()), (stored.about(), stored.items()));
        // What a shuffle hands out has gone through half precision in both.
        let draw = |x: &Activations| x.batches(100, 1).unwrap().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(draw(&live), draw(&stored), "noised: {noised}");
        let train = |x: &Activations| TopK::new(2, 5).batch(64).epochs(2).train(x).unwrap();
        let (a, b) = (train(&live), train(&stored));
        // Pictures made in other company differ in their last digits.
        let differ = (a.training.explained_variance - b.training.explained_variance).abs();
        assert!(differ < 0.02, "noised: {noised}: {differ}");
    }
    let capture = Capture::new(&model).at(MODULE, Kind::Residual).prompts(&prompts);
    let refusal = |r: Result<Activations>| r.unwrap_err().to_string();
    assert!(refusal(capture.live(&model)).contains("3 steps"));
    let other = Arc::new(Pipeline::open("scene-unet").unwrap());
    assert!(refusal(capture.clone().stages([0.5]).live(&other)).contains("the same model"));
}

#[test]
fn a_capture_a_training_and_its_loss_by_command() {
    use denoscope::activations::command::Capture;
    use denoscope::measure::command::Evaluate;
    use denoscope::sae::command::Train;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text.replace("FOLDER", &folder.path().display().to_string())).unwrap();
        path
    };
    let captured = r#"{"model": "scene-unet", "sites": ["mid_block.attentions.0:residual"], "steps": 6,
        "scenes": {"split": "Test", "count": 8, "noised": true}, "stages": [0.5], "store": "FOLDER/store"}"#;
    Capture { config: write("capture.json", captured) }.run().unwrap();
    let train = r#"{"activations": {"store": "FOLDER/store"}, "sae": {"architecture": "topk", "k": 6}, "expansion": 2,
        "options": {"epochs": 20, "batch": 128}, "run": "FOLDER/sae"}"#;
    Train { config: write("train.json", train) }.run().unwrap();
    let sae = folder.path().join("sae");
    assert!(
        ["cfg.json", "sae_weights.safetensors", "log.csv", "report.html", "train.json", "checkpoint.safetensors"]
            .iter()
            .all(|file| sae.join(file).is_file())
    );
    Evaluate { sae, config: None, latents: None, loss: Some(2) }.run().unwrap();
    for (from, to, word) in [
        ("\"scenes\"", "\"prompts\": \"p.txt\", \"scenes\"", "either prompts or scenes"),
        ("\"stages\": [0.5]", "\"stages\": [0.5], \"at_steps\": [1]", "not both"),
        (":residual", "", "PATH:KIND"),
        ("\"steps\"", "\"step\"", "step"),
        ("mid_block.attentions.0", "mid_block.attention.0", "mid_block.attentions.0"),
    ] {
        let refused =
            Capture { config: write("wrong.json", &captured.replace(from, to)) }.run().unwrap_err().to_string();
        assert!(refused.contains(word), "{from}: {refused}");
    }
}
