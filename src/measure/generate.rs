//! What an evaluation asks of a model: pictures for prompts and seeds, with or without edits.

use super::kept::Kept;
use crate::diffusion::hook::Hook;
use crate::diffusion::pipeline::Pipeline;
use crate::error::{Error, Result};
use crate::progress::Part;
use image::RgbImage;
use std::collections::HashMap;
use std::path::PathBuf;

/// A model with its steps and guidance settled.
pub trait Generate {
    /// One picture for every prompt and seed, with the hooks in place.
    ///
    /// # Errors
    /// Whatever stops the generation.
    fn generate(&mut self, prompts: &[String], seeds: &[u64], hooks: Vec<Box<dyn Hook>>) -> Result<Vec<RgbImage>>;
}

/// Any function of prompts, seeds and hooks.
pub struct ByFunction<F>(pub F);

impl<F> Generate for ByFunction<F>
where
    F: FnMut(&[String], &[u64], Vec<Box<dyn Hook>>) -> Result<Vec<RgbImage>>,
{
    fn generate(&mut self, prompts: &[String], seeds: &[u64], hooks: Vec<Box<dyn Hook>>) -> Result<Vec<RgbImage>> {
        (self.0)(prompts, seeds, hooks)
    }
}

/// A pipeline with steps and guidance settled.
#[derive(Debug, Clone)]
pub struct Settled<'a> {
    pipeline: &'a Pipeline,
    steps: usize,
    guidance: f64,
    kept: Option<Kept>,
}

impl<'a> Settled<'a> {
    /// `pipeline` with `steps` denoising steps and its own guidance scale.
    #[must_use]
    pub fn new(pipeline: &'a Pipeline, steps: usize) -> Self {
        Self { pipeline, steps, guidance: pipeline.guidance(), kept: None }
    }

    /// With another guidance scale.
    #[must_use]
    pub fn guidance(mut self, guidance: f64) -> Self {
        self.guidance = guidance;
        self
    }

    /// Keeps pictures below `folder`, and reads there those that it has: an evaluation that was interrupted goes on where
    /// it stopped, and one that was finished takes seconds. Pictures are known by model, steps, guidance, prompts, seeds
    /// and the [identities](Hook::identity) of all hooks; those made with a hook that has none are made anew. The folder
    /// may be deleted at any time.
    #[must_use]
    pub fn kept_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.kept = Some(Kept::new(folder.into()));
        self
    }
}

impl Generate for Settled<'_> {
    fn generate(&mut self, prompts: &[String], seeds: &[u64], mut hooks: Vec<Box<dyn Hook>>) -> Result<Vec<RgbImage>> {
        let place = self.kept.as_ref().and_then(|kept| {
            let settings = format!("{} steps, guidance {}", self.steps, self.guidance);
            kept.place(&[self.pipeline.fingerprint(), &settings], prompts, seeds, &hooks)
        });
        if let Some(place) = &place
            && let Some(known) = place.read(prompts.len())?
        {
            return Ok(known);
        }
        let mut request = self.pipeline.prompts(prompts).seeds(seeds).steps(self.steps).guidance(self.guidance);
        for hook in &mut hooks {
            request = request.with(hook.as_mut());
        }
        let made: Vec<RgbImage> = request.run()?.into_iter().map(|picture| picture.image).collect();
        if let Some(place) = place {
            place.write(&made)?;
        }
        Ok(made)
    }
}

/// A model that makes the unedited pictures once.
pub(crate) struct Remembering<'a> {
    model: &'a mut dyn Generate,
    unedited: HashMap<(Vec<String>, Vec<u64>), Vec<RgbImage>>,
}

impl<'a> Remembering<'a> {
    pub(crate) fn new(model: &'a mut dyn Generate) -> Self {
        Self { model, unedited: HashMap::new() }
    }
}

impl Generate for Remembering<'_> {
    fn generate(&mut self, prompts: &[String], seeds: &[u64], hooks: Vec<Box<dyn Hook>>) -> Result<Vec<RgbImage>> {
        if !hooks.is_empty() {
            return self.model.generate(prompts, seeds, hooks);
        }
        let key = (prompts.to_vec(), seeds.to_vec());
        if let Some(known) = self.unedited.get(&key) {
            return Ok(known.clone());
        }
        let made = self.model.generate(prompts, seeds, hooks)?;
        self.unedited.insert(key, made.clone());
        Ok(made)
    }
}

/// Generates and checks that there is a picture for every prompt.
pub(crate) fn pictures(
    model: &mut dyn Generate,
    prompts: &[String],
    seeds: &[u64],
    hooks: Vec<Box<dyn Hook>>,
) -> Result<Vec<RgbImage>> {
    let _parts = Part::begin(); // evaluations count trials
    let images = model.generate(prompts, seeds, hooks)?;
    if images.len() != prompts.len() {
        return Err(Error::Shape {
            what: "pictures of a generation".into(),
            found: vec![images.len()],
            expected: vec![prompts.len()],
        });
    }
    Ok(images)
}
