//! From a capture of several steps to an SAE of trajectories and an edit along one, on a tiny random model.

use denoscope::Result;
use denoscope::activations::{Capture, Store};
use denoscope::diffusion::hook::{Half, Kind};
use denoscope::diffusion::pipeline::Pipeline;
use denoscope::intervene::{Between, Quadrant, Strength, Trajectory};
use denoscope::sae::{Join, Modulation, Prediction, Residualized, Tide, TrajectorySae};
use std::path::Path;

const MODULE: &str = "mid_block.attentions.0";
const PROMPTS: [&str; 6] =
    ["a red house", "a fish", "a tree at night", "a boat", "a blue house", "two fish in a green meadow"];

fn model() -> Pipeline {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pipeline/tiny");
    Pipeline::open(folder.to_str().unwrap()).unwrap()
}

fn store(model: &Pipeline, folder: &Path) -> Store {
    let capture = Capture::new(model).at(MODULE, Kind::Residual).at_steps([0, 2, 4]).prompts(&PROMPTS).steps(5);
    capture.half(Half::Conditional).half(Half::Unconditional).run(folder).unwrap()
}

fn refusal<T>(result: Result<T>) -> String {
    result.err().expect("should be refused").to_string()
}

#[test]
fn a_feature_of_captured_trajectories_steers_the_picture_it_came_from() {
    let (model, folder, runs) = (model(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = store(&model, folder.path());
    assert!(refusal(whole.trajectories([1.0, 0.5, 0.0])).contains("several guidance halves"));
    let store = whole.half(Half::Conditional).unwrap();
    let trajectories = store.trajectories([1.0, 0.5, 0.0]).unwrap();
    assert_eq!((trajectories.len(), trajectories.steps()), (6, 3));
    assert_eq!(trajectories.about().iter().map(|a| a.step).collect::<Vec<_>>(), [0, 2, 4]);
    assert!(refusal(store.trajectories_at([0, 1])).contains("step 1 is not in the store"));
    // The middle row of a token's path is its row in the capture of that step.
    let d = trajectories.d();
    let (path, middle) = (trajectories.item(4).unwrap(), store.stage(0.5).unwrap().item(4).unwrap());
    assert_eq!(path[4 * d..5 * d], middle[d..2 * d]);

    let prediction = Prediction { lambdas: vec![0.1], ..Prediction::default() };
    let recipe = Residualized::new(1, 6).prediction(prediction).epochs(3).run(runs.path().join("concat"));
    let trained = recipe.train(&trajectories).unwrap();
    let sae = TrajectorySae::open(runs.path().join("concat/trajectory.safetensors")).unwrap();
    assert_eq!(sae.parts, trained.parts);
    assert!(refusal(sae.measure(&store.trajectories_at([0, 2]).unwrap())).contains("steps and channels"));
    let unconditional = whole.half(Half::Unconditional).unwrap().trajectories([1.0, 0.5, 0.0]).unwrap();
    assert!(refusal(sae.encode_all(&unconditional)).contains("half unconditional"));

    let plain = || model.prompt(PROMPTS[1]).seed(1).steps(5);
    let before = plain().run().unwrap().image;
    let edit = Trajectory::new(&sae, [3]).strength(Strength::Relative(1.0));
    let picture = |edit: Trajectory| plain().with(edit).run().unwrap().image;
    let after = picture(edit.clone());
    assert_ne!(after, before);
    assert_eq!(after, picture(edit.clone()));
    assert_eq!(picture(edit.clone().strength(Strength::Relative(0.0))), before);
    assert_ne!(picture(edit.clone().region(Quadrant::TopLeft)), after);
    assert_ne!(picture(edit.clone().control(1)), after);
    assert_ne!(picture(edit.clone().steps_between(Between::Nothing)), after);
    let elsewhere = edit.at("mid_block.attentions.0:output".parse().unwrap());
    assert!(refusal(plain().with(elsewhere).run()).contains("mid_block.attentions.0:residual"));
    let pooled = Residualized::new(1, 6).join(Join::Pooled).epochs(1).train(&trajectories).unwrap();
    assert_ne!(picture(Trajectory::new(&pooled, [pooled.latents() + 2])), before);
}

#[test]
fn a_temporal_aware_sae_is_a_plain_one_at_each_captured_step() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let store = store(&model, folder.path()).half(Half::Conditional).unwrap();
    let trajectories = store.trajectories([1.0, 0.5, 0.0]).unwrap();
    let trained = Tide::new(2, 3).epochs(2).train(&trajectories).unwrap();
    let (sae, captured) = (trained.step(1), store.stage(0.5).unwrap());
    assert_eq!(sae.about.as_ref(), Some(captured.about()));
    assert_eq!(sae.encode_all(&captured).unwrap(), trained.encode_all(&trajectories).unwrap()[1]);
    assert!(refusal(model.modulation(0, &[0, 2, 4], 5)).contains("U-Net"));
    assert_eq!(trained.modulation.t, Modulation::identity(&trajectories).t);
}

#[test]
fn a_transformers_own_modulation_is_where_training_may_start() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pixart/pipeline/tiny");
    let (model, folder) = (Pipeline::open(folder.to_str().unwrap()).unwrap(), tempfile::tempdir().unwrap());
    let kept = [0, 2, 3];
    let capture = Capture::new(&model).at("transformer_blocks.1", Kind::Output).at_steps(kept).steps(4);
    let (h, w) = model.picture_size();
    let picture = image::RgbImage::from_fn(w as u32, h as u32, |x, y| image::Rgb([x as u8, y as u8, 90]));
    let store = capture.prompts(&PROMPTS[..2]).pictures([&picture, &picture]).run(folder.path()).unwrap();
    let trajectories = store.trajectories_at(kept).unwrap().sampled(0.1, 0).unwrap();
    let own = model.modulation(1, &kept, 4).unwrap();
    let start = Modulation::pretrained(&trajectories, &own.scale_mlp, &own.shift_mlp).unwrap();
    let (scale, _) = start.at(trajectories.about()[2].t());
    assert_eq!(scale, own.scale_mlp.get(2).unwrap().to_vec1::<f32>().unwrap());
    assert_ne!(own.scale_mlp.get(0).unwrap().to_vec1::<f32>().unwrap(), scale, "it depends on the step");
    let recipe = Tide::new(2, 3).epochs(1).modulation(start.clone());
    let frozen = recipe.clone().train_modulation(false).train(&trajectories).unwrap();
    assert_eq!(frozen.modulation.scale, start.scale);
    assert_ne!(recipe.train(&trajectories).unwrap().modulation.scale, start.scale);
    assert!(refusal(model.modulation(1, &[4], 4)).contains("step 4 of a generation of 4 steps"));
}
