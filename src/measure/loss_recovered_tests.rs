//! Analytic cases on the embedded model.

use super::*;
use crate::activations::{Description, Trajectories};
use crate::diffusion::hook::Kind;
use crate::sae::{Architecture, Join, Modulation, Prediction as Options, Predictors};
use crate::scene::{Scene, Split};
use std::sync::Arc;

const MODULE: &str = "mid_block.attentions.0";

fn pictures(n: usize) -> (Vec<RgbImage>, Vec<String>) {
    let scenes: Vec<Scene> = (0..n).map(|i| Scene::sample(Split::Test, i as u64)).collect();
    (scenes.iter().map(|s| s.render().image).collect(), scenes.iter().map(|s| s.full_caption().text).collect())
}

/// An SAE of all channels of both signs, that reconstructs everything.
fn identity(d: usize) -> Sae {
    Sae::neurons(d, 2 * d).unwrap()
}

/// An SAE whose latents never fire, so that it says `mean` to everything.
fn constant(mean: &[f32]) -> Sae {
    let mut sae = identity(mean.len());
    sae.architecture = Architecture::JumpReLU { threshold: vec![1e9; sae.latents] };
    sae.b_dec = mean.to_vec();
    sae
}

fn close(a: f64, b: f64, within: f64) {
    assert!((a - b).abs() < within, "{a} against {b}");
}

#[test]
fn the_identity_recovers_all_and_the_mean_nothing() {
    let model = Pipeline::open("scene-unet").unwrap();
    let (images, prompts) = pictures(3);
    for kind in [Kind::Residual, Kind::Output] {
        let loss = LossRecovered::new(&model, Site::new(MODULE, kind)).bins(2, 1).seed(5);
        let all = loss.of(&identity(128), &images, &prompts).unwrap();
        assert_eq!((all.bins.len(), all.means.len()), (2, 2));
        assert_eq!(all.bins[1].timesteps, 500..1000);
        for bin in all.bins.iter().chain([&all.all]) {
            close(bin.recovered.value, 1.0, 1e-4);
            assert!(bin.ablated > bin.clean && bin.recovered.n == 3, "{all}");
        }
        // Denoising is hard where little noise is left, and the loss says so.
        assert!(all.bins[0].clean > all.bins[1].clean, "{all}");
        let one = loss.clone().bins(1, 1);
        let mean = one.of(&identity(128), &images, &prompts).unwrap().means[0].1.clone();
        let nothing = one.of(&constant(&mean), &images, &prompts).unwrap();
        close(nothing.all.recovered.value, 0.0, 1e-6);
        close(nothing.all.replaced, nothing.all.ablated, 1e-9);
        // Half of the way from the mean lies between.
        struct Between(Vec<f32>);
        impl Reconstruct for Between {
            fn channels(&self) -> usize {
                self.0.len()
            }
            fn reconstruct(&self, seen: &[Seen]) -> Result<Vec<Vec<f32>>> {
                let row = |row: &[f32]| row.iter().zip(&self.0).map(|(x, m)| (x + m) / 2.0).collect::<Vec<_>>();
                Ok(seen.iter().map(|s| s.rows.chunks_exact(self.0.len()).flat_map(row).collect()).collect())
            }
        }
        let half = one.of(&Between(mean), &images, &prompts).unwrap().all.recovered.value;
        assert!(half > 0.1 && half < 1.0, "{half}");
    }
}

#[test]
fn every_kind_of_sae_can_stand_in() {
    let model = Pipeline::open("scene-unet").unwrap();
    let (images, prompts) = pictures(2);
    let at = [2usize, 7];
    let loss = LossRecovered::new(&model, Site::new(MODULE, Kind::Residual)).at_steps(at, 10);
    // A modulation that is undone leaves the identity.
    let d = 128;
    let scale: Vec<f32> = (0..2 * d).map(|i| 0.3 * (i as f32).sin()).collect();
    let shift: Vec<f32> = (0..2 * d).map(|i| 0.2 * (i as f32).cos()).collect();
    let t: Vec<f64> = at.iter().map(|&s| progress_t(s, 10)).collect();
    let about = |step: usize| Description {
        model: "none".into(),
        fingerprint: String::new(),
        site: Site::new(MODULE, Kind::Residual),
        step,
        steps: 10,
        half: Half::Conditional,
        guidance: 1.0,
        grid: (8, 8),
        d,
    };
    let modulation = Modulation { d, t, scale, shift };
    let tide = TideSae::new(identity(d), modulation, at.map(about).to_vec()).unwrap();
    let found = loss.of(&tide, &images, &prompts).unwrap();
    assert_eq!(found.bins.len(), 2);
    close(found.all.recovered.value, 1.0, 1e-3);

    // Predictors of random trajectories at these steps, and the identity in residual space.
    let noise = crate::random::stream(3, "rows", 0).normals(2 * 40 * d);
    let steps = at.iter().enumerate().map(|(i, &step)| {
        let items = (0..40).map(|seed| crate::activations::Item { prompt: String::new(), seed }).collect();
        let rows = noise[i * 40 * d..(i + 1) * 40 * d].to_vec();
        crate::activations::Activations::described(Description { grid: (1, 1), ..about(step) }, items, rows)
    });
    let trajectories = Trajectories::join(steps.collect::<Result<_>>().unwrap()).unwrap();
    let predictors = Arc::new(Predictors::fit(&trajectories, &Options::default()).unwrap());
    let parts = vec![identity(d); 2];
    let sae = TrajectorySae::new(predictors, Join::PerStep, parts).unwrap();
    let found = loss.of(&sae, &images, &prompts).unwrap();
    close(found.all.recovered.value, 1.0, 1e-2);
    let other = loss.clone().at_steps([2, 8], 10).of(&sae, &images, &prompts).unwrap_err().to_string();
    assert!(other.contains("at_steps"), "{other}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = Pipeline::open("scene-unet").unwrap();
    let (images, prompts) = pictures(2);
    let loss = LossRecovered::new(&model, Site::new(MODULE, Kind::Residual));
    let refusal = |r: Result<Recovered>| r.unwrap_err().to_string();
    assert!(refusal(loss.of(&identity(5), &images, &prompts)).contains("[5]"));
    assert!(refusal(loss.of(&identity(128), &images, &prompts[..1])).contains("2 pictures with 1 prompts"));
    assert!(refusal(loss.of(&identity(128), &[RgbImage::new(8, 8)], &prompts[..1])).contains("[8, 8]"));
    assert!(refusal(loss.clone().at_steps([10], 10).of(&identity(128), &images, &prompts)).contains("step 10"));
    assert!(refusal(loss.bins(0, 1).of(&identity(128), &images, &prompts)).contains("0 bins"));
    let nowhere = LossRecovered::new(&model, Site::new("mid_block.nothing", Kind::Residual));
    assert!(refusal(nowhere.of(&identity(128), &images, &prompts)).contains("mid_block.nothing"));
}
