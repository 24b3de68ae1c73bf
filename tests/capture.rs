//! Capture from a tiny random model, into a store and back.

use candle_core::Tensor;
use denoscope::Result;
use denoscope::activations::Capture;
use denoscope::diffusion::hook::{Half, Hook, Kind, Site, Visit};
use denoscope::diffusion::pipeline::Pipeline;
use std::path::Path;

const MODULE: &str = "mid_block.attentions.0";
const PROMPTS: [&str; 3] = ["a red house", "a fish", "a tree at night"];

fn model() -> Pipeline {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pipeline/tiny");
    Pipeline::open(folder.to_str().unwrap()).unwrap()
}

fn capture(model: &Pipeline) -> Capture<'_> {
    Capture::new(model).at(MODULE, Kind::Residual).stages([1.0, 0.0]).prompts(&PROMPTS).seed(5).steps(4).shard(2)
}

/// Keeps one step's activation.
struct Look {
    step: usize,
    seen: Vec<f32>,
}

impl Hook for Look {
    fn sites(&self) -> Vec<Site> {
        vec![Site::new(MODULE, Kind::Residual)]
    }
    fn visit(&mut self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        if visit.step == self.step && visit.half == Half::Conditional {
            self.seen = activation.flatten_all()?.to_vec1()?;
        }
        Ok(None)
    }
}

#[test]
fn what_is_captured_is_what_a_hook_sees() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let store = capture(&model).run(folder.path()).unwrap();
    for (i, prompt) in PROMPTS.iter().enumerate() {
        let mut look = Look { step: 3, seen: Vec::new() };
        let seed = 5 + i as u64;
        let picture = model.prompt(prompt).seed(seed).steps(4).with(&mut look).run().unwrap();
        let activations = store.stage(0.0).unwrap();
        let found = activations.item(i).unwrap();
        assert_eq!(found.len(), look.seen.len());
        let largest = look.seen.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (a, b) in found.iter().zip(&look.seen) {
            assert!((a - b).abs() <= 1e-3 * largest, "{a} against {b}");
        }
        assert_eq!((activations.items()[i].prompt.as_str(), activations.items()[i].seed), (*prompt, seed));
        let stored = store.image(i).unwrap();
        let difference = stored.iter().zip(picture.image.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(difference <= 1, "the stored picture is the one that was generated");
    }
}

#[test]
fn captures_resume_and_do_not_mix() {
    let (model, whole, broken) = (model(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    capture(&model).run(whole.path()).unwrap();
    capture(&model).run(broken.path()).unwrap();
    let place = format!("shards/{MODULE}/residual/step-0003/conditional/00001.safetensors");
    let lost = broken.path().join(&place);
    std::fs::remove_file(&lost).unwrap();
    capture(&model).batch(1).run(broken.path()).unwrap();
    let values = |folder: &Path| capture(&model).run(folder).unwrap().stage(0.0).unwrap().item(2).unwrap();
    for (a, b) in values(whole.path()).iter().zip(values(broken.path())) {
        assert!((a - b).abs() <= 2e-3 * (1.0 + a.abs()), "{a} against {b}");
    }

    let refused = |c: Capture<'_>| c.run(whole.path()).unwrap_err().to_string();
    assert!(refused(capture(&model).guidance(3.0)).contains("guidance"));
    assert!(refused(capture(&model).seed(6)).contains("item 0"));
    assert!(refused(capture(&model).stages([1.0])).contains("kept steps [0, 3], wanted [0]"));
    assert!(refused(capture(&model).half(Half::Unconditional)).contains("halves"));
    let typo = Capture::new(&model).at("mid_block.atentions.0", Kind::Residual).prompts(&PROMPTS);
    let empty = tempfile::tempdir().unwrap();
    assert!(typo.run(empty.path()).unwrap_err().to_string().contains(MODULE), "near names are offered");
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0, "and nothing is begun");
}
