//! Capture: generate pictures, keep what flows by.

use super::live::Live;
use super::noised::{self, Noised};
use super::{Activations, Item, Plan, Recorder, Seen, Store, Writer};
use crate::diffusion::hook::{Half, Kind, Site, step_at};
use crate::diffusion::pipeline::Pipeline;
use crate::error::{Error, Result};
use crate::progress::{Part, Progress};
use image::RgbImage;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Items of a shard: what is lost at most when a capture is killed. With 50 steps on two cores the embedded model
/// makes that many pictures in about a minute.
const SHARD: usize = 32;

/// Generates a picture for each prompt and keeps activations of it in a [`Store`], with the pictures.
///
/// ```no_run
/// use denoscope::activations::Capture;
/// use denoscope::diffusion::hook::Kind;
/// use denoscope::diffusion::pipeline::Pipeline;
///
/// let model = Pipeline::open("scene-unet")?;
/// let prompts = ["a red house in a meadow", "a fish and a tree at night"];
/// let store = Capture::new(&model)
///     .at("mid_block.attentions.0", Kind::Residual)
///     .stages([1.0, 0.5, 0.0])
///     .prompts(&prompts)
///     .run("work/mid")?;
/// let middle = store.stage(0.5)?;
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is captured before .run(folder)"]
pub struct Capture<'a> {
    pipeline: &'a Pipeline,
    sites: Vec<Site>,
    kept: Kept,
    halves: Vec<Half>,
    prompts: Vec<String>,
    pictures: Option<Vec<RgbImage>>,
    seed: u64,
    steps: usize,
    guidance: f64,
    batch: Option<usize>,
    shard: usize,
}

/// Which steps are kept.
#[derive(Debug, Clone)]
enum Kept {
    Stages(Vec<f64>),
    Steps(Vec<usize>),
    All,
}

impl<'a> Capture<'a> {
    /// A capture from `pipeline`: of its conditional half, at the paper's three stages, unless asked otherwise.
    pub fn new(pipeline: &'a Pipeline) -> Self {
        Self {
            pipeline,
            sites: Vec::new(),
            kept: Kept::Stages(vec![1.0, 0.5, 0.0]),
            halves: Vec::new(),
            prompts: Vec::new(),
            pictures: None,
            seed: 0,
            steps: 50,
            guidance: pipeline.guidance(),
            batch: None,
            shard: SHARD,
        }
    }

    /// Adds a place to keep: a module path and the kind of tensor.
    pub fn at(mut self, module: &str, kind: Kind) -> Self {
        let site = Site::new(module, kind);
        if !self.sites.contains(&site) {
            self.sites.push(site);
        }
        self
    }

    /// Adds the residual updates Δ of several modules.
    pub fn residuals<S: AsRef<str>>(self, modules: impl IntoIterator<Item = S>) -> Self {
        modules.into_iter().fold(self, |capture, module| capture.at(module.as_ref(), Kind::Residual))
    }

    /// Keeps the steps nearest to these values of t: 1 = the first step (noise), 0 = the last. Default: 1, 0.5, 0.
    pub fn stages(mut self, t: impl AsRef<[f64]>) -> Self {
        self.kept = Kept::Stages(t.as_ref().to_vec());
        self
    }

    /// Keeps these steps, counted from the noisiest.
    pub fn at_steps(mut self, steps: impl AsRef<[usize]>) -> Self {
        self.kept = Kept::Steps(steps.as_ref().to_vec());
        self
    }

    /// Keeps every step.
    pub fn all_steps(mut self) -> Self {
        self.kept = Kept::All;
        self
    }

    /// Adds a guidance half to keep. Default: the conditional one alone.
    pub fn half(mut self, half: Half) -> Self {
        if !self.halves.contains(&half) {
            self.halves.push(half);
        }
        self
    }

    /// One picture for each of these prompts.
    pub fn prompts<S: AsRef<str>>(mut self, prompts: &[S]) -> Self {
        self.prompts = prompts.iter().map(|p| p.as_ref().to_string()).collect();
        self
    }

    /// Given pictures in place of generated ones, one for each prompt (TIDE, algorithm 1): each is encoded, the noise
    /// of its seed is added as at the kept step, x_t = √ᾱₜ x₀ + √(1 − ᾱₜ) ε, and one pass of the model with the
    /// prompt is captured. No sampler runs, so this takes one pass a stage, and what the pictures show may be known
    /// exactly.
    pub fn pictures<'b>(mut self, pictures: impl IntoIterator<Item = &'b RgbImage>) -> Self {
        self.pictures = Some(pictures.into_iter().cloned().collect());
        self
    }

    /// Picture i starts from the noise of seed `first` + i. Default: 0.
    pub fn seed(mut self, first: u64) -> Self {
        self.seed = first;
        self
    }

    /// Denoising steps. Default: 50.
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// Guidance scale. Default: the model's own.
    pub fn guidance(mut self, guidance: f64) -> Self {
        self.guidance = guidance;
        self
    }

    /// Pictures denoised at once; the result does not depend on it.
    pub fn batch(mut self, pictures: usize) -> Self {
        self.batch = Some(pictures);
        self
    }

    /// Items of a shard (32): what is lost at most when the capture is killed, and what is held in memory.
    pub fn shard(mut self, items: usize) -> Self {
        self.shard = items;
        self
    }

    /// Captures into `folder`, going on where an interrupted capture stopped; a complete one is opened as it is.
    ///
    /// # Errors
    /// A site that the model does not have, nothing to capture, or a folder with a capture of something else: all
    /// before any work. Then whatever stops the generation, or a full disk; shards written before stay valid.
    pub fn run(&self, folder: impl AsRef<Path>) -> Result<Store> {
        let plan = self.checked()?;
        let noised = self.pictures.as_ref().map(|p| Noised::new(self.pipeline, p, self.steps)).transpose()?;
        let writer = Writer::open(folder, plan)?;
        let plan = writer.plan();
        let recorder = Recorder::new(&plan.sites, &plan.kept, &plan.halves);
        let total = plan.items.len();
        let mut progress = Progress::new("capture, pictures", total);
        if let Some((_, items)) = writer.missing() {
            progress = progress.from(items.start);
        }
        while let Some((shard, items)) = writer.missing() {
            let wanted = &plan.items[items.clone()];
            if let Some(noised) = &noised {
                let files = noised.capture(&recorder, plan, items.clone())?;
                writer.write(shard, &recorder.take(), &files)?;
                progress.at(items.end, "");
                continue;
            }
            let prompts: Vec<&str> = wanted.iter().map(|item| item.prompt.as_str()).collect();
            let seeds: Vec<u64> = wanted.iter().map(|item| item.seed).collect();
            let mut generation =
                self.pipeline.prompts(&prompts).seeds(&seeds).steps(self.steps).guidance(self.guidance);
            if let Some(batch) = self.batch {
                generation = generation.batch(batch);
            }
            let part = Part::begin(); // pictures are counted here, a shard at a time
            let pictures = generation.with(recorder.clone()).run()?;
            drop(part);
            let files = pictures.iter().map(|p| p.png()).collect::<Result<Vec<_>>>()?;
            writer.write(shard, &recorder.take(), &files)?;
            progress.at(items.end, "");
        }
        writer.finish()
    }

    /// The activations without storing any: items are made by `model`, the one that this capture is from, whenever their
    /// tokens are asked for. One site, one stage and one half only.
    ///
    /// A shuffle holds as many items as fit its [buffer](Activations::buffer), so that an epoch runs the model once for
    /// each item (twice where what is judged lies before or after it). For a training of one epoch that is less work than
    /// a store, and no disk; several epochs, or several trainings that cannot go
    /// [together](crate::sae::Training::together), are cheaper from a store.
    ///
    /// ```no_run
    /// use denoscope::prelude::*;
    /// use std::sync::Arc;
    ///
    /// let model = Arc::new(Pipeline::open("scene-unet")?);
    /// let prompts: Vec<String> =
    ///     (0..10_000).map(|i| Scene::sample(Split::Train, i).full_caption().text).collect();
    /// let middle = Capture::new(&model)
    ///     .at("mid_block.attentions.0", Kind::Residual)
    ///     .stages([0.5])
    ///     .prompts(&prompts)
    ///     .live(&model)?;
    /// let sae = TopK::new(4, 20).epochs(1).train(&middle)?;
    /// # Ok::<(), denoscope::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run), before any work; several sites, stages or halves; another model.
    pub fn live(&self, model: &Arc<Pipeline>) -> Result<Activations> {
        if !std::ptr::eq(self.pipeline, &raw const **model) {
            return Err(Error::invalid(format!(
                "a capture from {} asked to run {}: give the same model",
                self.pipeline.name(),
                model.name()
            )));
        }
        let plan = self.checked()?;
        Live {
            pipeline: model.clone(),
            plan,
            pictures: self.pictures.clone(),
            steps: self.steps,
            batch: self.batch,
            turn: Mutex::new(()),
        }
        .activations()
    }

    /// The plan, after what can be known to fail.
    fn checked(&self) -> Result<Plan> {
        self.pipeline.check(&self.sites)?;
        // Some schedulers take one pass more than they are asked for.
        let steps = self.pipeline.scheduler.scheduler(self.steps)?.timesteps().len();
        if let Some(found) = self.pictures.as_ref().map(Vec::len).filter(|&n| n != self.prompts.len()) {
            return Err(Error::invalid(format!("capture: {found} pictures for {} prompts", self.prompts.len())));
        }
        Ok(self.plan(steps))
    }

    fn plan(&self, steps: usize) -> Plan {
        let mut kept = match &self.kept {
            Kept::Stages(stages) => stages.iter().map(|&t| step_at(t, steps)).collect(),
            Kept::Steps(steps) => steps.clone(),
            Kept::All => (0..steps).collect(),
        };
        kept.sort_unstable();
        kept.dedup();
        let item =
            |(i, prompt): (usize, &String)| Item { prompt: prompt.clone(), seed: self.seed.wrapping_add(i as u64) };
        Plan {
            model: self.pipeline.name().into(),
            fingerprint: self.pipeline.fingerprint().into(),
            sites: self.sites.clone(),
            steps,
            kept,
            halves: if self.halves.is_empty() { vec![Half::Conditional] } else { self.halves.clone() },
            guidance: self.guidance,
            source: self.pictures.as_ref().map_or(Seen::Generated, |p| Seen::Noised(noised::digest(p))),
            shard_items: self.shard,
            items: self.prompts.iter().enumerate().map(item).collect(),
        }
    }
}
