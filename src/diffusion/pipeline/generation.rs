//! The two ways to ask for pictures: one, or many.

use super::request::Request;
use super::{Picture, Pipeline};
use crate::diffusion::captions::Precomputed;
use crate::diffusion::hook::Hook;
use crate::diffusion::scheduler::{SchedulerConfig, SchedulerKind};
use crate::error::{Error, Result};
use candle_core::Tensor;

/// The generation of one picture: settings, then [`run`](Generation::run).
#[must_use = "nothing is generated before .run()"]
pub struct Generation<'a>(Request<'a>);

/// The generation of many pictures, in batches: settings, then [`run`](Generations::run). What a picture looks like
/// does not depend on the batches.
#[must_use = "nothing is generated before .run()"]
pub struct Generations<'a>(Request<'a>);

macro_rules! settings {
    ($builder:ident) => {
        impl<'a> $builder<'a> {
            /// Denoising steps (50).
            pub fn steps(mut self, steps: usize) -> Self {
                self.0.steps = steps;
                self
            }

            /// Guidance scale g: the output is u + g (c − u) for the outputs without (u) and with (c) the prompt.
            /// With g ≤ 1 only the conditional half is computed. Default: the model's own.
            pub fn guidance(mut self, guidance: f64) -> Self {
                self.0.guidance = guidance;
                self
            }

            /// The prompt of the unconditional half (empty).
            pub fn negative(mut self, prompt: &str) -> Self {
                self.0.negative = prompt.into();
                self
            }

            /// Captions computed beforehand, one a prompt or one for all, in place of the text encoder's reading; the
            /// prompts then only name the pictures. Without a negative caption among them the negative prompt is
            /// read.
            pub fn precomputed(mut self, captions: &Precomputed) -> Self {
                self.0.precomputed = Some(captions.clone());
                self
            }

            /// Another kind of scheduler over the model's noise schedule.
            pub fn scheduler(mut self, kind: SchedulerKind) -> Self {
                self.0.scheduler = self.0.pipeline.scheduler_as(kind);
                self
            }

            /// Another scheduler in every detail.
            pub fn scheduler_config(mut self, config: &SchedulerConfig) -> Self {
                self.0.scheduler = config.clone();
                self
            }

            /// Height and width in pixels, multiples of the autoencoder's factor. Default: the model's own.
            pub fn size(mut self, height: usize, width: usize) -> Self {
                self.0.size = (height, width);
                self
            }

            /// Keeps the final latents in [`Picture::latents`].
            pub fn keep_latents(mut self) -> Self {
                self.0.keep_latents = true;
                self
            }

            /// Keeps pictures of the clean latent x̂₀ that is predicted at these steps, in [`Picture::clean`].
            pub fn keep_x0(mut self, steps: &[usize]) -> Self {
                self.0.keep_clean = steps.to_vec();
                self
            }

            /// Adds a hook, by value or as `&mut hook`. Hooks at one site are called in the order of their adding.
            pub fn with(mut self, hook: impl Hook + 'a) -> Self {
                self.0.hooks.push(Box::new(hook));
                self
            }
        }
    };
}

settings!(Generation);
settings!(Generations);

impl<'a> Generation<'a> {
    pub(super) fn new(pipeline: &'a Pipeline, prompt: &str) -> Self {
        Self(Request::new(pipeline, vec![prompt.into()]))
    }

    /// Seed of the initial noise (0), see [`Pipeline::noise`].
    pub fn seed(mut self, seed: u64) -> Self {
        self.0.seeds = vec![seed];
        self
    }

    /// One picture of this prompt for each seed.
    pub fn seeds(mut self, seeds: &[u64]) -> Generations<'a> {
        self.0.prompts = vec![self.0.prompts.concat(); seeds.len()];
        self.0.seeds = seeds.to_vec();
        Generations(self.0)
    }

    /// Initial latents `[h, w, channels]` in place of seeded noise, of unit variance.
    ///
    /// # Errors
    /// Of the tensor library; another shape is refused by [`run`](Generation::run).
    pub fn latents(mut self, latents: &Tensor) -> Result<Self> {
        self.0.latents = Some(latents.unsqueeze(0)?);
        Ok(self)
    }

    /// Generates the picture.
    ///
    /// # Errors
    /// Settings or hooks that do not fit the model, before any work; a hook's own error.
    pub fn run(self) -> Result<Picture> {
        self.0.run()?.pop().ok_or_else(|| Error::invalid("generation: no picture"))
    }
}

impl<'a> Generations<'a> {
    pub(super) fn new<S: AsRef<str>>(pipeline: &'a Pipeline, prompts: &[S]) -> Self {
        let mut request = Request::new(pipeline, prompts.iter().map(|p| p.as_ref().to_string()).collect());
        request.seeds = (0..prompts.len() as u64).collect();
        Self(request)
    }

    /// One seed a prompt. Default: 0, 1, 2, …
    pub fn seeds(mut self, seeds: &[u64]) -> Self {
        self.0.seeds = seeds.to_vec();
        self
    }

    /// Seeds `first`, `first + 1`, …
    pub fn seed(mut self, first: u64) -> Self {
        self.0.seeds = (0..self.0.prompts.len() as u64).map(|i| first.wrapping_add(i)).collect();
        self
    }

    /// How many pictures are denoised at once (8).
    pub fn batch(mut self, pictures: usize) -> Self {
        self.0.batch = pictures;
        self
    }

    /// Initial latents `[prompts, h, w, channels]` in place of seeded noise, of unit variance.
    pub fn latents(mut self, latents: &Tensor) -> Self {
        self.0.latents = Some(latents.clone());
        self
    }

    /// Generates the pictures, in the order of the prompts.
    ///
    /// # Errors
    /// Settings or hooks that do not fit the model, before any work; a hook's own error.
    pub fn run(self) -> Result<Vec<Picture>> {
        self.0.run()
    }
}
