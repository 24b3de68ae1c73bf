//! What an evaluation asks of a model: pictures for prompts and seeds, with or without edits.

use crate::diffusion::hook::Hook;
use crate::diffusion::pipeline::Pipeline;
use crate::error::{Error, Result};
use crate::progress::Part;
use image::RgbImage;
use std::collections::HashMap;

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
#[derive(Debug, Clone, Copy)]
pub struct Settled<'a> {
    pipeline: &'a Pipeline,
    steps: usize,
    guidance: f64,
}

impl<'a> Settled<'a> {
    /// `pipeline` with `steps` denoising steps and its own guidance scale.
    #[must_use]
    pub fn new(pipeline: &'a Pipeline, steps: usize) -> Self {
        Self { pipeline, steps, guidance: pipeline.guidance() }
    }

    /// With another guidance scale.
    #[must_use]
    pub fn guidance(mut self, guidance: f64) -> Self {
        self.guidance = guidance;
        self
    }
}

impl Generate for Settled<'_> {
    fn generate(&mut self, prompts: &[String], seeds: &[u64], mut hooks: Vec<Box<dyn Hook>>) -> Result<Vec<RgbImage>> {
        let mut request = self.pipeline.prompts(prompts).seeds(seeds).steps(self.steps).guidance(self.guidance);
        for hook in &mut hooks {
            request = request.with(hook.as_mut());
        }
        Ok(request.run()?.into_iter().map(|picture| picture.image).collect())
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
