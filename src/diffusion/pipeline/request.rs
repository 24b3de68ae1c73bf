//! What is to be generated, and the loop that does it.

use super::Pipeline;
use super::picture::{Picture, Settings, to_image};
use crate::diffusion::captions::{Captions, Precomputed};
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::hook::{Half, Hook};
use crate::diffusion::scheduler::SchedulerConfig;
use crate::diffusion::tap::{Pass, Tap};
use crate::error::{Error, Result};
use crate::progress::Progress;
use candle_core::{DType, Tensor};
use image::RgbImage;
use std::ops::Range;

/// Pictures denoised at once unless asked otherwise. On two cores 64×64 pictures gain nothing beyond this, and the
/// buffers of larger batches leave the cache.
pub(super) const BATCH: usize = 8;

/// Denoising steps unless asked otherwise.
pub(super) const STEPS: usize = 50;

/// Pixels decoded at once: keeps the decoder's buffers small at 512×512.
const DECODED: usize = 512 * 512;

/// The settings of a generation of one or more pictures.
pub(super) struct Request<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) prompts: Vec<String>,
    pub(super) seeds: Vec<u64>,
    pub(super) steps: usize,
    pub(super) guidance: f64,
    pub(super) negative: String,
    pub(super) scheduler: SchedulerConfig,
    pub(super) size: (usize, usize),
    pub(super) batch: usize,
    pub(super) latents: Option<Tensor>,
    pub(super) precomputed: Option<Precomputed>,
    pub(super) keep_latents: bool,
    pub(super) keep_clean: Vec<usize>,
    pub(super) hooks: Vec<Box<dyn Hook + 'a>>,
}

/// What is the same for every batch.
struct Common {
    /// One for all prompts, or one for each.
    negative: Option<Captions>,
    settings: Settings,
    timesteps: Vec<f64>,
    /// Height and width of the latents.
    grid: (usize, usize),
    /// What the hooks change.
    edits: Vec<String>,
}

impl<'a> Request<'a> {
    pub(super) fn new(pipeline: &'a Pipeline, prompts: Vec<String>) -> Self {
        Self {
            pipeline,
            prompts,
            seeds: vec![0],
            steps: STEPS,
            guidance: pipeline.guidance,
            negative: String::new(),
            scheduler: pipeline.scheduler.clone(),
            size: pipeline.picture_size(),
            batch: BATCH,
            latents: None,
            precomputed: None,
            keep_latents: false,
            keep_clean: Vec::new(),
            hooks: Vec::new(),
        }
    }

    /// Whether the unconditional half is computed at all, as diffusers decides it.
    fn guided(&self) -> bool {
        self.guidance > 1.0
    }

    pub(super) fn run(mut self) -> Result<Vec<Picture>> {
        let common = self.check()?;
        let mut hooks = std::mem::take(&mut self.hooks);
        let mut tap = Tap::new(hooks.iter_mut().map(|h| h.as_mut() as &mut dyn Hook).collect());
        let (n, steps) = (self.prompts.len(), common.timesteps.len());
        let mut progress = Progress::new("generating", n * steps);
        let mut pictures = Vec::with_capacity(n);
        for start in (0..n).step_by(self.batch) {
            let items = start..(start + self.batch).min(n);
            pictures.extend(self.batch(&common, items, &mut tap, &mut progress)?);
        }
        Ok(pictures)
    }

    /// Refuses what cannot work before any work is done.
    fn check(&self) -> Result<Common> {
        let n = self.prompts.len();
        let refuse = |message: String| Err(Error::invalid(message));
        if n == 0 || self.batch == 0 {
            return refuse(format!("generation: {n} prompts in batches of {}", self.batch));
        }
        if self.seeds.len() != n {
            return refuse(format!("generation: {} seeds for {n} prompts", self.seeds.len()));
        }
        if !self.guidance.is_finite() {
            return refuse(format!("generation: guidance {}", self.guidance));
        }
        let scheduler = self.scheduler.scheduler(self.steps)?;
        let timesteps = scheduler.timesteps().to_vec();
        if let Some(step) = self.keep_clean.iter().find(|s| **s >= timesteps.len()) {
            return refuse(format!("generation: prediction after step {step} of {}", timesteps.len()));
        }
        let factor = self.pipeline.vae.factor();
        let (height, width) = self.size;
        let step = factor * self.pipeline.denoiser.patch();
        if height == 0 || width == 0 || height % step != 0 || width % step != 0 {
            return refuse(format!("generation: pictures of {width}×{height}, expected multiples of {step}"));
        }
        let grid = (height / factor, width / factor);
        if let Some(latents) = &self.latents {
            let expected = vec![n, grid.0, grid.1, self.pipeline.denoiser.channels()];
            if latents.dims() != expected {
                return Err(Error::Shape { what: "initial latents".into(), found: latents.dims().into(), expected });
            }
        }
        let sites: Vec<_> = self.hooks.iter().flat_map(|h| h.sites()).collect();
        self.pipeline.check(&sites)?;
        let mut hooks: Vec<String> = sites.iter().map(ToString::to_string).collect();
        hooks.sort();
        hooks.dedup();
        let negative = self.guided().then(|| self.negative_captions()).transpose()?;
        let given = self.precomputed.as_ref().map(|p| &p.prompts);
        for captions in [given, negative.as_ref()].into_iter().flatten() {
            if captions.len() != 1 && captions.len() != n {
                return refuse(format!("generation: {} captions for {n} prompts", captions.len()));
            }
        }
        let edits = self.hooks.iter().filter_map(|h| h.about()).collect();
        let settings = Settings {
            model: self.pipeline.name.clone(),
            fingerprint: self.pipeline.fingerprint.clone(),
            steps: self.steps,
            guidance: self.guidance,
            negative: self.negative.clone(),
            scheduler: self.scheduler.kind,
            captions: self.precomputed.as_ref().map(Precomputed::digest).transpose()?,
            hooks,
        };
        Ok(Common { negative, settings, timesteps, grid, edits })
    }

    /// What guidance leads away from: captions that were given, else the negative prompt's.
    fn negative_captions(&self) -> Result<Captions> {
        match self.precomputed.as_ref().and_then(|p| p.negative.as_ref()) {
            Some(given) => given.to_device(&self.pipeline.device),
            None => self.pipeline.captions(&[&self.negative]),
        }
    }

    /// Denoises and decodes the items of one batch.
    fn batch(
        &self,
        common: &Common,
        items: Range<usize>,
        tap: &mut Tap<'_>,
        progress: &mut Progress,
    ) -> Result<Vec<Picture>> {
        let (n, steps) = (items.len(), common.timesteps.len());
        let mut scheduler = self.scheduler.scheduler(self.steps)?;
        let conditional = match &self.precomputed {
            Some(given) => given.prompts.part(items.start, n)?.to_device(&self.pipeline.device)?,
            None => self.pipeline.captions(&self.prompts[items.clone()])?,
        };
        let (captions, halves) = match &common.negative {
            Some(negative) => {
                let both = negative.part(items.start, n)?.and(&conditional)?;
                (both, vec![Half::Unconditional, Half::Conditional])
            }
            None => (conditional, vec![Half::Conditional]),
        };
        let noise = match &self.latents {
            Some(latents) => {
                latents.narrow(0, items.start, n)?.to_device(&self.pipeline.device)?.to_dtype(DType::F32)?
            }
            None => self.pipeline.noise(&self.seeds[items.clone()], common.grid.0, common.grid.1)?,
        };
        let mut x = (noise * scheduler.init_noise_sigma())?;
        let mut kept = Vec::new();
        for (i, &timestep) in common.timesteps.iter().enumerate() {
            let input = scheduler.scale_input(&x, i)?;
            let input = Tensor::cat(&vec![&input; halves.len()], 0)?;
            tap.begin(Pass { step: i, steps, timestep, halves: halves.clone(), items: items.clone().collect() });
            let output = self.pipeline.predict(&input, timestep, &captions, tap)?.to_dtype(DType::F32)?;
            let output = if halves.len() == 2 {
                let (without, with) = (output.narrow(0, 0, n)?, output.narrow(0, n, n)?);
                (&without + ((with - &without)? * self.guidance)?)?
            } else {
                output
            };
            if self.keep_clean.contains(&i) {
                kept.push((i, scheduler.predict_clean(&output, i, &x)?));
            }
            x = if steps == 1 && matches!(self.pipeline.denoiser, Denoiser::Dit(_)) {
                // PixArt's distilled models jump to the clean latent (diffusers does so for one step of any).
                scheduler.predict_clean(&output, i, &x)?
            } else {
                scheduler.step(&output, i, &x)?
            };
            if !x.sum_all()?.to_scalar::<f32>()?.is_finite() {
                let first = &self.prompts[items.start];
                let edits = match common.edits.join(", ") {
                    edits if edits.is_empty() => "no edit".to_string(),
                    edits => edits,
                };
                return Err(Error::NotFinite(format!(
                    "the latents are not finite after step {i} of {steps} (batch that begins with {first:?}; {edits})"
                )));
            }
            progress.at(items.start * steps + n * (i + 1), "");
        }
        let images = self.decode(&x)?;
        let mut previews: Vec<Vec<(usize, RgbImage)>> = vec![Vec::new(); n];
        for (step, clean) in kept {
            for (preview, image) in previews.iter_mut().zip(self.decode(&clean)?) {
                preview.push((step, image));
            }
        }
        let parts = images.into_iter().zip(previews).zip(items).enumerate();
        parts
            .map(|(j, ((image, clean), item))| {
                Ok(Picture {
                    image,
                    prompt: self.prompts[item].clone(),
                    seed: self.seeds[item],
                    settings: common.settings.clone(),
                    latents: self.keep_latents.then(|| x.get(j)).transpose()?,
                    clean,
                })
            })
            .collect()
    }

    /// The pictures of scaled latents.
    fn decode(&self, latents: &Tensor) -> Result<Vec<RgbImage>> {
        let vae = &self.pipeline.vae;
        let (n, h, w, _) = latents.dims4()?;
        let unscaled = (latents / vae.scaling_factor())?;
        let at_once = (DECODED / (h * w * vae.factor() * vae.factor())).max(1);
        let mut images = Vec::with_capacity(n);
        for start in (0..n).step_by(at_once) {
            let decoded = vae.decode(&unscaled.narrow(0, start, at_once.min(n - start))?)?;
            for i in 0..decoded.dim(0)? {
                images.push(to_image(&decoded.get(i)?)?);
            }
        }
        Ok(images)
    }
}
