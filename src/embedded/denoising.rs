//! What every denoiser is trained on: ε-prediction on cached latents, with help that falls to nothing.
//!
//! Stable Diffusion's noise schedule; squared error weighted by min(SNR, γ)/SNR (Hang et al. 2023); every sample gets a
//! new phrasing of its scene's caption, and one in ten an empty one, which is what guidance needs. Timesteps are
//! stratified: sample i of a batch of n draws from the i-th of n equal parts of the process, which lowers the variance
//! of the gradient at no cost.
//!
//! Three helps that a short training needs fall to nothing over its course: what objects cover weighs more than the
//! backdrop around them, which is learned early; cross-attention is [grounded](super::grounding); and a middle block is
//! told the [layout](super::layout).

use crate::diffusion::captions::Captions;
use crate::diffusion::hook::Half;
use crate::diffusion::layers::composed;
use crate::diffusion::open::Fields;
use crate::diffusion::tap::{Pass, Tap};
use crate::diffusion::vae::{Vae, VaeConfig};
use crate::diffusion::weights::Weights;
use crate::embedded::files::write_json;
use crate::embedded::grounding::{Covers, Watch};
use crate::embedded::latents::Latents;
use crate::embedded::layout::ReadOut;
use crate::embedded::noise::{BETA_END, BETA_START, NoiseSchedule, STEPS as TIMESTEPS};
use crate::embedded::options::Options;
use crate::embedded::reading::phrase;
use crate::embedded::trainer::{Loss, Micro, Trainer};
use crate::error::{Error, Result};
use crate::random::stream;
use crate::scene::{Scene, Split};
use candle_core::{D, DType, Device, Tensor};
use serde_json::{Value, json};
use std::path::Path;

/// Samples a step.
const BATCH: usize = 32;
/// γ of the loss weights.
const GAMMA: f64 = 5.0;
/// Least weight of the predicted picture's error. Where nearly all is noise an error of noise says next to nothing about
/// the picture (SNR .005 at the last step), and that is where it is decided what goes where.
const FLOOR: f64 = 0.25;
/// Weight at the start of what an object covers, beyond that of the backdrop.
const COVERED: f32 = 2.0;
/// Weight at the start of the grounding loss, which is about 0.8 then; the squared error is about 0.1.
const GROUNDING: f64 = 0.03;
/// Weight at the start of the layout's loss, which is 9.3 from a transformer that has not had it, 2 after 400 steps and .9 at
/// the end. With this and [`FLOOR`], 360,000 samples took `scene-dit` from .42 to .93 of the objects right; what each of the
/// two does alone has not been measured.
const LAYOUT: f64 = 0.01;
/// Share of empty captions.
const EMPTY: f32 = 0.1;

/// The scenes that a denoiser learns from, and how noise comes to them.
#[derive(Debug)]
struct Scenes {
    latents: Latents,
    covers: Covers,
    noise: NoiseSchedule,
    channels: usize,
    seed: u64,
}

/// A network that predicts noise, as its loss needs it.
pub trait Denoises {
    /// Heads of an attention.
    const HEADS: usize;

    /// The cross-attentions that are grounded.
    fn grounded(&self) -> Vec<String>;

    /// The module that is told the layout, and its channels.
    fn middle(&self) -> (String, usize);

    /// Tokens of a caption before its first word's.
    fn first(&self) -> usize;

    /// What the text encoder, which stays as it is, makes of texts.
    ///
    /// # Errors
    /// Of the tensor library.
    fn captions(&self, texts: &[&str]) -> Result<Captions>;

    /// The noise in `sample[n, side, side, channels]` at `times[n]`.
    ///
    /// # Errors
    /// Of the network.
    fn predict(&self, sample: &Tensor, times: &Tensor, captions: &Captions, tap: &mut Tap<'_>) -> Result<Tensor>;
}

impl Scenes {
    /// The first `n` scenes of the training split, through the autoencoder of a model's folder; latents are kept in
    /// `cache`. Everything random comes from streams of `seed`.
    ///
    /// # Errors
    /// Of the autoencoder or of files.
    fn make(folder: &Path, n: usize, cache: &Path, threads: usize, seed: u64) -> Result<Self> {
        let config = VaeConfig::read(&mut Fields::read(&folder.join("vae/config.json"))?)?;
        let weights = [folder.join("vae/diffusion_pytorch_model.safetensors")];
        let vae = Vae::load(&config, &Weights::open(&weights, &Device::Cpu, DType::F32)?)?;
        if let Some(dir) = cache.parent() {
            std::fs::create_dir_all(dir).map_err(Error::file(dir))?;
        }
        Self::of(&vae, n, cache, threads, seed)
    }

    fn of(vae: &Vae, n: usize, cache: &Path, threads: usize, seed: u64) -> Result<Self> {
        Ok(Self {
            latents: Latents::make(vae, n, cache, threads)?,
            covers: Covers::render(n),
            noise: NoiseSchedule::default(),
            channels: vae.config().latent_channels,
            seed,
        })
    }

    /// The loss of a micro-batch.
    ///
    /// # Errors
    /// Of the network.
    fn loss<N: Denoises>(&self, network: &N, read_out: &ReadOut, micro: &Micro) -> Result<Loss> {
        let size = self.latents.of(0).len();
        let n = (micro.samples.end - micro.samples.start) as usize;
        let (mut noisy, mut noise, mut times) =
            (Vec::with_capacity(n * size), Vec::with_capacity(n * size), Vec::new());
        let (mut weights, mut texts, mut grounded, mut shown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let help = 1.0 - micro.done;
        for sample in micro.samples.clone() {
            let s = &mut stream(self.seed, "sample", sample);
            let index = s.below(self.latents.len());
            let stratum = (sample % BATCH as u64) as f32;
            let t = ((stratum + s.uniform()) / BATCH as f32 * TIMESTEPS as f32) as usize;
            let t = t.min(TIMESTEPS - 1);
            let (keep, add) = self.noise.mix(t);
            let epsilon = s.normals(size);
            noisy.extend(self.latents.of(index).iter().zip(&epsilon).map(|(x, e)| keep * x + add * e));
            noise.extend(epsilon);
            times.push(t as f32);
            let weight = self.noise.weight(t, GAMMA, FLOOR) as f32;
            weights.extend(self.covers.any(index).into_iter().map(|c| weight * (1.0 + help as f32 * COVERED * c)));
            let scene = Scene::sample(Split::Train, index as u64);
            let caption = phrase(&scene, s);
            shown.push((index, scene));
            let empty = s.chance(EMPTY);
            grounded.push(if empty { Vec::new() } else { self.covers.grounded(index, &caption, network.first()) });
            texts.push(if empty { String::new() } else { caption.text });
        }
        let side = (size / self.channels).isqrt();
        let shape = (n, side, side, self.channels);
        let device = &Device::Cpu;
        let mut captions = network.captions(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
        captions.embeds = captions.embeds.detach();
        let times = Tensor::from_vec(times, n, device)?;
        let mut watch = Watch::new(network.grounded());
        let mut middle = read_out.watch();
        let mut tap = Tap::new(vec![&mut watch, &mut middle]);
        let (halves, items) = (vec![Half::Conditional], (0..n).collect());
        tap.begin(Pass { step: 0, steps: 1, timestep: 0.0, halves, items });
        let found = network.predict(&Tensor::from_vec(noisy, shape, device)?, &times, &captions, &mut tap)?;
        drop(tap);
        let noise = Tensor::from_vec(noise, shape, device)?;
        let weights = Tensor::from_vec(weights, (n, side, side), device)?;
        let mut square = 0.0;
        let denoising = composed(&[&found], |x| {
            let squares = (&x[0] - &noise)?.sqr()?.mean(D::Minus1)?;
            square = squares.mean_all()?.to_scalar()?;
            Ok((squares * &weights)?.mean_all()?)
        })?;
        let layout = read_out.loss(&middle, &self.covers, &shown)?;
        let mut terms = vec![(&denoising, 1.0), (&layout, help * LAYOUT)];
        let grounding = watch.loss(&grounded, N::HEADS)?;
        terms.extend(grounding.iter().map(|loss| (loss, help * GROUNDING)));
        let of = |loss: &Tensor| Ok::<_, Error>(loss.to_scalar::<f32>()?);
        let parts = vec![square, grounding.as_ref().map_or(Ok(0.0), of)?, of(&layout)?];
        let losses: Vec<&Tensor> = terms.iter().map(|(loss, _)| *loss).collect();
        let total = composed(&losses, |x| {
            let mut total = x[0].clone();
            for (x, (_, weight)) in x.iter().zip(&terms).skip(1) {
                total = (total + (x * *weight)?)?;
            }
            Ok(total)
        })?;
        Ok(Loss { total, parts })
    }
}

/// A denoiser's stage of the recipe: what it is called, where it goes and how long it learns.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The stage's name.
    pub name: &'a str,
    /// The model's folder, which has an autoencoder.
    pub folder: &'a Path,
    /// The network's folder in it.
    pub network: &'a str,
    /// The class of the pipeline in diffusers.
    pub class: &'a str,
    /// The pipeline's components beside autoencoder and scheduler, as `model_index.json` has them.
    pub components: Value,
    /// Scenes, unless the options say otherwise.
    pub scenes: usize,
    /// Steps, unless the options say otherwise.
    pub steps: usize,
    /// Samples of one pass.
    pub micro: usize,
    /// Of everything random.
    pub seed: u64,
}

impl Stage<'_> {
    /// Trains `network`, which is made of `weights`, and completes the model's folder.
    ///
    /// # Errors
    /// Of files (the autoencoder comes first) and of the training.
    pub fn train<N: Denoises + Sync>(
        &self,
        options: &Options,
        network: &N,
        weights: &Weights,
        config: &Value,
    ) -> Result<()> {
        let mut settings = options.settings(self.name, self.steps);
        settings.batch = BATCH;
        settings.micro = self.micro;
        settings.schedule.peak = 1e-3;
        settings.columns = vec!["square", "grounding", "layout"];
        let (cache, n) = (settings.dir.join("latents.f32"), options.scenes.unwrap_or(self.scenes));
        let scenes = Scenes::make(self.folder, n, &cache, settings.threads, self.seed)?;
        let beside = Weights::seeded(self.seed, &Device::Cpu);
        let (module, width) = network.middle();
        let read_out = ReadOut::load(&beside.at("layout"), &module, width)?;
        let mut trainer = Trainer::of([weights.vars(), beside.vars()].concat(), settings)?;
        write_index(self.folder, self.class, &self.components)?;
        let folder = self.folder.join(self.network);
        trainer.run(
            |micro| scenes.loss(network, &read_out, micro),
            |trainer| {
                write_json(&folder.join("config.json"), config)?;
                let path = folder.join("diffusion_pytorch_model.safetensors");
                weights.save(&path, DType::F16, Some(&trainer.averages()?))
            },
        )
    }
}

/// Writes `model_index.json` and the scheduler, as diffusers expects them of a pipeline of this class; `components` are
/// those beside autoencoder and scheduler.
fn write_index(dir: &Path, class: &str, components: &Value) -> Result<()> {
    let mut index = json!({
        "_class_name": class,
        "_diffusers_version": "0.32.2",
        "_guidance_scale": 4.0,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    for (name, component) in components.as_object().into_iter().flatten() {
        index[name] = component.clone();
    }
    let scheduler = json!({
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.32.2",
        "beta_end": BETA_END,
        "beta_schedule": "scaled_linear",
        "beta_start": BETA_START,
        "clip_sample": false,
        "num_train_timesteps": TIMESTEPS,
        "prediction_type": "epsilon",
        "set_alpha_to_one": false,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": null,
    });
    write_json(&dir.join("model_index.json"), &index)?;
    write_json(&dir.join("scheduler/scheduler_config.json"), &scheduler)
}

/// What every denoiser is tested for.
#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::diffusion::layers::tape::against_graph;

    pub(in crate::embedded) fn gradients_are_those_of_the_graph(network: &impl Denoises, weights: &Weights) {
        let folder = tempfile::tempdir().unwrap();
        let vae = Vae::load(&VaeConfig::embedded(), &Weights::seeded(1, &Device::Cpu)).unwrap();
        let scenes = Scenes::of(&vae, 3, &folder.path().join("latents.f32"), 1, 5).unwrap();
        let micro = Micro { step: 0, done: 0.25, samples: 0..2 };
        let beside = Weights::seeded(2, &Device::Cpu);
        let (module, width) = network.middle();
        let read_out = ReadOut::load(&beside.at("layout"), &module, width).unwrap();
        let vars = [weights.vars(), beside.vars()].concat();
        against_graph(&vars, || Ok(scenes.loss(network, &read_out, &micro)?.total));
    }
}
