//! Activations of given pictures on the embedded model: what the store holds is what one pass by hand gives.

use candle_core::{Device, Tensor};
use denoscope::diffusion::hook::{Half, Hook, Kind, Site, Visit};
use denoscope::diffusion::tap::{Pass, Tap};
use denoscope::prelude::*;

/// Keeps the last activation that it sees.
struct Last(Site, Vec<f32>);

impl Hook for Last {
    fn sites(&self) -> Vec<Site> {
        vec![self.0.clone()]
    }

    fn visit(&mut self, _visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        self.1 = activation.flatten_all()?.to_vec1()?;
        Ok(None)
    }
}

const MODULE: &str = "mid_block.attentions.0";

#[test]
fn noised_pictures_give_the_activations_of_one_pass() {
    let model = Pipeline::open("scene-unet").unwrap();
    let scenes: Vec<Scene> = (0..3).map(|i| Scene::sample(Split::Test, i)).collect();
    let prompts: Vec<String> = scenes.iter().map(|s| s.full_caption().text).collect();
    let renders: Vec<Render> = scenes.iter().map(Scene::render).collect();
    let folder = tempfile::tempdir().unwrap();
    let capture = |images: &[&Render]| {
        Capture::new(&model)
            .at(MODULE, Kind::Residual)
            .stages([1.0, 0.0])
            .steps(10)
            .prompts(&prompts)
            .pictures(images.iter().map(|r| &r.image))
            .seed(40)
            .shard(2)
            .run(folder.path())
    };
    let all: Vec<&Render> = renders.iter().collect();
    let store = capture(&all).unwrap();
    assert_eq!(store.image(1).unwrap(), renders[1].image);

    // Item 1 at the last step, by hand: x = √ᾱ x₀ + √(1 − ᾱ) ε.
    let pixels: Vec<f32> = renders[1].image.as_raw().iter().map(|&v| f32::from(v) / 127.5 - 1.0).collect();
    let picture = Tensor::from_vec(pixels, (1, 64, 64, 3), &Device::Cpu).unwrap();
    let clean = (model.vae.encode(&picture).unwrap().mean * model.vae.scaling_factor()).unwrap();
    let timestep = *model.scheduler.scheduler(10).unwrap().timesteps().last().unwrap();
    let kept = model.scheduler.noise_schedule().alphas_cumprod()[timestep as usize];
    let noise = model.noise(&[41], 16, 16).unwrap();
    let x = ((clean * kept.sqrt()).unwrap() + (noise * (1.0 - kept).sqrt()).unwrap()).unwrap();
    let text = model.encode_prompts(&prompts[1..2]).unwrap();
    let mut last = Last(Site::new(MODULE, Kind::Residual), Vec::new());
    let mut tap = Tap::new(vec![&mut last]);
    tap.begin(Pass { step: 9, steps: 10, timestep, halves: vec![Half::Conditional], items: vec![0] });
    let at = Tensor::new(&[timestep as f32], &Device::Cpu).unwrap();
    model.unet().unwrap().forward(&x, &at, &text, &mut tap).unwrap();
    drop(tap);
    let stored = store.stage(0.0).unwrap().item(1).unwrap();
    let difference: f32 = stored.iter().zip(&last.1).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
    let norm: f32 = last.1.iter().map(|v| v * v).sum::<f32>().sqrt();
    // Half precision on disk keeps 11 bits.
    assert!(stored.len() == last.1.len() && difference < 1e-3 * norm, "differs by {difference} of {norm}");

    // Other pictures, or too few, do not mix with what is there.
    let other = capture(&[all[1], all[0], all[2]]).unwrap_err().to_string();
    assert!(other.contains("source"), "{other}");
    let few = capture(&all[..2]).unwrap_err().to_string();
    assert!(few.contains("2 pictures for 3 prompts"), "{few}");
}

#[test]
fn pictures_of_another_size_are_refused() {
    let model = Pipeline::open("scene-unet").unwrap();
    let small = image::RgbImage::new(32, 32);
    let folder = tempfile::tempdir().unwrap();
    let capture = Capture::new(&model).at(MODULE, Kind::Residual).prompts(&["a house"]).pictures([&small]);
    let error = capture.run(folder.path().join("x")).unwrap_err().to_string();
    assert!(error.contains("picture 0") && error.contains("64"), "{error}");
}
