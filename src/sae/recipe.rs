//! What the recipes of all architectures have in common: options, folder, the loop.

use super::form::Form;
use super::report::{Row, Trained};
use super::resume::{self, Identity};
use super::rule::{Rule, risen};
use super::train::Trainer;
use super::training::Training;
use super::weights::Weights;
use super::{Options, start};
use crate::activations::Activations;
use crate::error::{Error, Result};
use crate::kernels::sparse::scale;
use crate::progress::Progress;
use crate::random::stream;
use candle_core::Device;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Instant;

/// The part of a recipe that is not the architecture's own.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) expansion: usize,
    pub(crate) options: Options,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) checkpoint_every: Option<usize>,
    pub(crate) stop_at: Option<usize>,
    /// Where steps are taken.
    pub(crate) device: Device,
}

/// Gives a recipe the methods by which all are set: it has a field `recipe`.
macro_rules! settings {
    ($name:ident) => {
        impl $name {
            /// All options at once.
            #[must_use]
            pub fn options(mut self, options: $crate::sae::Options) -> Self {
                self.recipe.options = options;
                self
            }

            /// Takes the steps on `device`, a GPU: as dense products, so that a CPU is faster without. The result is the
            /// same up to rounding.
            #[must_use]
            pub fn on(mut self, device: &candle_core::Device) -> Self {
                self.recipe.device = device.clone();
                self
            }

            /// See [`Options::epochs`](crate::sae::Options::epochs).
            #[must_use]
            pub fn epochs(mut self, epochs: usize) -> Self {
                self.recipe.options.epochs = Some(epochs);
                self
            }

            /// See [`Options::batch`](crate::sae::Options::batch).
            #[must_use]
            pub fn batch(mut self, tokens: usize) -> Self {
                self.recipe.options.batch = Some(tokens);
                self
            }

            /// See [`Options::learning_rate`](crate::sae::Options::learning_rate).
            #[must_use]
            pub fn learning_rate(mut self, rate: f32) -> Self {
                self.recipe.options.learning_rate = Some(rate);
                self
            }

            /// See [`Options::seed`](crate::sae::Options::seed).
            #[must_use]
            pub fn seed(mut self, seed: u64) -> Self {
                self.recipe.options.seed = seed;
                self
            }

            /// See [`Options::holdout`](crate::sae::Options::holdout).
            #[must_use]
            pub fn holdout(mut self, share: f64) -> Self {
                self.recipe.options.holdout = share;
                self
            }

            /// Keeps checkpoints, the log and the result in `folder`: a training that was killed goes on from there, to
            /// the same bits, and one that is finished is read back.
            #[must_use]
            pub fn run(mut self, folder: impl Into<std::path::PathBuf>) -> Self {
                self.recipe.folder = Some(folder.into());
                self
            }
        }
    };
}
pub(crate) use settings;

/// Gives a recipe on single activations all methods that they have: it has a field `recipe` and a method `form`.
macro_rules! recipe {
    ($name:ident) => {
        $crate::sae::recipe::settings!($name);

        impl $name {
            /// Trains on `activations`.
            ///
            /// # Errors
            /// If the architecture's settings do not fit the number of latents, there are fewer tokens than a batch, an
            /// activation cannot be read or is not finite, the loss diverges, or the folder holds another training.
            pub fn train(
                &self,
                activations: &$crate::activations::Activations,
            ) -> $crate::error::Result<$crate::sae::Trained> {
                self.recipe.train(&self.form(), activations)
            }

            /// The same, to be taken step by step.
            ///
            /// # Errors
            /// As [`train`](Self::train), but for the loss.
            pub fn begin(
                &self,
                activations: &$crate::activations::Activations,
            ) -> $crate::error::Result<$crate::sae::Training> {
                self.recipe.begin(&self.form(), activations)
            }
        }
    };
}
pub(crate) use recipe;

/// The same for recipes with a sparsity penalty: they have `settings.sparsity_warm_up`.
macro_rules! sparsity {
    ($name:ident) => {
        impl $name {
            /// Share of the training over which the sparsity penalty rises linearly from zero (0.1): at full strength from
            /// the start it silences latents before they have found a direction.
            #[must_use]
            pub fn sparsity_warm_up(mut self, share: f32) -> Self {
                self.settings.sparsity_warm_up = share;
                self
            }
        }
    };
}
pub(crate) use sparsity;

/// Share of the training over which a sparsity penalty rises.
pub(crate) fn sparsity_warm_up() -> f32 {
    0.1
}

/// How many of `n` items a held-out share keeps out.
pub(crate) fn held_out(n: usize, share: f64) -> Result<usize> {
    if !(0.0..1.0).contains(&share) {
        return Err(Error::invalid(format!("a held-out share of {share}: expected 0 to below 1")));
    }
    // One item alone cannot be split; otherwise a share above zero keeps out at least one.
    Ok(if share == 0.0 || n < 2 { 0 } else { ((n as f64 * share).round() as usize).clamp(1, n - 1) })
}

/// Refuses a sparsity penalty that cannot be meant.
pub(crate) fn check_sparsity(what: &str, coefficient: f32, warm_up: f32) -> Result<()> {
    if !(coefficient >= 0.0 && coefficient.is_finite()) {
        return Err(Error::invalid(format!("{what} = {coefficient}: expected 0 or more")));
    }
    if !(0.0..=1.0).contains(&warm_up) {
        return Err(Error::invalid(format!("sparsity warm-up of {warm_up}: expected 0 to 1")));
    }
    Ok(())
}

/// What is the own of an architecture with an L1 penalty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct L1 {
    pub(crate) l1: f32,
    #[serde(default = "sparsity_warm_up")]
    pub(crate) sparsity_warm_up: f32,
}

impl L1 {
    pub(crate) fn new(l1: f32) -> Self {
        Self { l1, sparsity_warm_up: sparsity_warm_up() }
    }

    pub(crate) fn check(&self) -> Result<()> {
        check_sparsity("l1", self.l1, self.sparsity_warm_up)
    }

    /// What the penalty adds to the slope of an active latent; slopes are of half the loss.
    pub(crate) fn slope(&self, progress: f32) -> f32 {
        risen(self.l1, self.sparsity_warm_up, progress) / 2.0
    }
}

impl Recipe {
    pub(crate) fn new(expansion: usize) -> Self {
        Self {
            expansion,
            options: Options::default(),
            folder: None,
            checkpoint_every: None,
            stop_at: None,
            device: Device::Cpu,
        }
    }

    pub(crate) fn train(&self, form: &Form, activations: &Activations) -> Result<Trained> {
        self.run(form, activations)?.finish()
    }

    /// All steps of a training.
    pub(crate) fn run(&self, form: &Form, activations: &Activations) -> Result<Training> {
        let mut training = self.begin(form, activations)?;
        let mut progress =
            Progress::new(format!("SAE, {} latents", training.trainer.weights.latents), training.steps())
                .from(training.done());
        while training.step()? {
            if let Some(row) = training.history().last() {
                let Row { loss, explained_variance, l0, dead_share, .. } = row;
                let dead = 100.0 * dead_share;
                progress.at(
                    training.done(),
                    format!(
                        "· loss {loss:.4}, explained variance {explained_variance:.3}, L0 {l0:.1}, dead {dead:.1} %"
                    ),
                );
            }
            if self.stop_at == Some(training.done()) {
                return Err(Error::invalid(format!("stopped at step {}", training.done())));
            }
        }
        Ok(training)
    }

    pub(crate) fn begin(&self, form: &Form, activations: &Activations) -> Result<Training> {
        let tokens = form.steps();
        let latents = self.expansion * (activations.d() / tokens);
        let rule = form.rule(latents)?;
        let (training, held_out) = self.split(activations)?;
        let mut resolved = self.options.resolve(training.tokens() * tokens, latents)?;
        // Whole trajectories only, at least one.
        resolved.batch = (resolved.batch / tokens).max(1) * tokens;
        let options = Options {
            learning_rate: Some(resolved.learning_rate),
            batch: Some(resolved.batch),
            epochs: Some(resolved.steps / resolved.steps_per_epoch),
            dead_window: Some(resolved.dead_window),
            ..self.options.clone()
        };
        let identity = Identity::new(form.clone(), latents, &options, &training)?;
        let resumed = match &self.folder {
            Some(folder) => resume::load(folder, &identity)?,
            None => None,
        };
        let (mut trainer, scale, history) = match resumed {
            Some(state) => state,
            None => {
                let mut rule = rule;
                let (weights, scale) = self.initial(&training, (latents, tokens), rule.as_mut())?;
                (Trainer::new(weights, rule), scale, Vec::new())
            }
        };

        if !self.device.is_cpu() {
            trainer.move_to(&self.device)?;
        }
        Ok(Training {
            trainer,
            scale,
            history,
            options,
            resolved,
            tokens,
            training,
            held_out,
            batches: None,
            batch: Vec::new(),
            identity,
            folder: self.folder.clone(),
            saved: Instant::now(),
            checkpoint_every: self.checkpoint_every,
        })
    }

    /// The items to train on, and those kept out.
    fn split(&self, activations: &Activations) -> Result<(Activations, Option<Activations>)> {
        let n = activations.len();
        let out = held_out(n, self.options.holdout)?;
        let training = activations.range(0..n - out)?;
        let held_out = if out > 0 { Some(activations.range(n - out..n)?) } else { None };
        Ok((training, held_out))
    }

    /// Initial weights, for scaled activations, and the scale.
    fn initial(
        &self,
        training: &Activations,
        (latents, tokens): (usize, usize),
        rule: &mut dyn Rule,
    ) -> Result<(Weights, f32)> {
        let (d, seed) = (training.d() / tokens, self.options.seed);
        let sample = start::sample(training, start::SAMPLE / tokens, seed)?;
        let factor = if self.options.normalise { start::unit_scale(&sample, d)? } else { 1.0 };
        let b_dec = if tokens > 1 {
            // The decoder works on what the rule makes of its input.
            let mut input = Vec::new();
            rule.input(&sample, &vec![0.0; d], factor, &mut input);
            start::bias(&input, d, self.options.start)
        } else {
            start::bias(&sample, d, self.options.start).iter().map(|b| b * factor).collect()
        };
        drop(sample);
        let w_dec = start::unit_rows(d, latents, &mut stream(seed, "initial dictionary", 0));
        // Tied: encoder and decoder start as one dictionary.
        let mut w_enc = w_dec.clone();
        let length = rule.start(d, latents);
        if length < 1.0 {
            scale(&mut w_enc, length);
        }
        Ok((Weights { d, latents, w_enc, b_enc: vec![0.0; latents], w_dec, b_dec }, factor))
    }
}
