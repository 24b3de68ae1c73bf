//! A training under way: batches in, steps, log, checkpoints, and the SAE at its end.

use super::adam::Adam;
use super::options::Resolved;
use super::report::{Row, Trained, csv};
use super::resume::{self, Identity};
use super::rule::Rule;
use super::train::{Settings, Trainer};
use super::{Options, Sae};
use crate::activations::shard::atomically;
use crate::activations::{Activations, Batches};
use crate::error::Result;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Lines of the log of one training.
const LOG: usize = 200;

/// Tokens of the training data on which the result is judged.
const JUDGED: usize = 65_536;

/// Time between two checkpoints: losing less is not worth the writing.
const CHECKPOINT: Duration = Duration::from_secs(60);

/// A training that is taken step by step; [`TopK::train`](super::TopK::train) takes all steps at once.
pub struct Training {
    pub(crate) trainer: Trainer,
    /// Activations are multiplied by this on their way in.
    pub(crate) scale: f32,
    pub(crate) history: Vec<Row>,
    pub(crate) options: Options,
    pub(crate) resolved: Resolved,
    /// Tokens in one of its rows, see [`Form::steps`](super::form::Form::steps).
    pub(crate) tokens: usize,
    pub(crate) training: Activations,
    pub(crate) held_out: Option<Activations>,
    /// The batches of an epoch.
    pub(crate) batches: Option<(usize, Batches)>,
    pub(crate) batch: Vec<f32>,
    pub(crate) identity: Identity,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) saved: Instant,
    pub(crate) checkpoint_every: Option<usize>,
}

impl Training {
    /// Steps of the whole training.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.resolved.steps
    }

    /// Steps done.
    #[must_use]
    pub fn done(&self) -> usize {
        self.trainer.done
    }

    /// The log so far.
    #[must_use]
    pub fn history(&self) -> &[Row] {
        &self.history
    }

    /// Takes one step, unless all are done; says whether it did.
    ///
    /// # Errors
    /// If the activations cannot be read, the loss diverges or a checkpoint cannot be written.
    pub fn step(&mut self) -> Result<bool> {
        let (step, resolved) = (self.trainer.done, &self.resolved);
        if step >= resolved.steps {
            return Ok(false);
        }
        let epoch = step / resolved.steps_per_epoch;
        let batches = match &mut self.batches {
            Some((e, batches)) if *e == epoch => batches,
            other => {
                *other = None; // gives its buffer back before the next is read
                let rows = resolved.batch / self.tokens;
                let mut batches = self.training.epoch(rows, self.options.seed, epoch as u64)?;
                batches.seek((step % resolved.steps_per_epoch) * rows);
                &mut other.insert((epoch, batches)).1
            }
        };
        batches.next_into(&mut self.batch)?;
        let learning_rate = self.options.rate(resolved, step);
        let found = self.trainer.step(&self.batch, &self.settings(step, learning_rate))?;
        let done = step + 1;
        if let Some(explained_variance) = found.explained_variance {
            let (tokens, loss, l0, dead_share) = (done * self.resolved.batch, found.loss, found.l0, found.dead);
            self.history.push(Row { step: done, tokens, loss, explained_variance, l0, dead_share, learning_rate });
        }
        if let Some(folder) = &self.folder {
            let due = self.checkpoint_every.map_or(self.saved.elapsed() >= CHECKPOINT, |n| done % n == 0);
            if due || done == self.resolved.steps {
                resume::save(folder, &self.identity, &mut self.trainer, self.scale, &self.history)?;
                self.saved = Instant::now();
            }
        }
        Ok(true)
    }

    fn settings(&self, step: usize, learning_rate: f32) -> Settings {
        let (options, every) = (&self.options, (self.resolved.steps / LOG).max(1));
        Settings {
            adam: Adam::step(options.betas, options.epsilon, learning_rate, step + 1),
            scale: self.scale,
            aux_alpha: options.aux_alpha,
            aux_k: options.aux_k,
            dead_window: self.resolved.dead_window,
            progress: step as f32 / self.resolved.steps as f32,
            judge: step.is_multiple_of(every) || step + 1 == self.resolved.steps,
            clip: options.clip,
            shrink: learning_rate * options.weight_decay,
        }
    }

    /// The SAE as it is now, in its inference form, with its measures; writes it to the training's folder.
    ///
    /// # Errors
    /// If the activations cannot be read, or the result cannot be written.
    pub fn finish(self) -> Result<Trained> {
        let End { sae, dead_share, options, history, training, held_out, folder, .. } = self.end()?;
        let training = sae.measure(&training)?;
        let held_out = held_out.map(|h| sae.measure(&h)).transpose()?;
        let trained = Trained { sae, options, history, training, held_out, dead_share };
        if let Some(folder) = &folder {
            trained.sae.save(folder)?;
            let log = csv(&trained.history);
            atomically(&folder.join("log.csv"), |out| out.write_all(log.as_bytes()))?;
        }
        Ok(trained)
    }

    /// The SAE as it is now, not yet judged.
    pub(crate) fn end(self) -> Result<End> {
        let dead_share = self.trainer.dead_share(self.resolved.dead_window);
        let mut sae = unscaled(self.trainer.rule.fold(self.trainer.weights), self.scale);
        let about = self.training.about();
        sae.about = (!about.fingerprint.is_empty()).then(|| about.clone());
        sae.facts.insert("recipe".into(), self.identity.recipe()?);
        sae.facts.insert("training".into(), self.options.facts()?);
        let judged = (JUDGED / (self.training.tokens_per_item() * self.tokens)).clamp(1, self.training.len());
        Ok(End {
            sae,
            rule: self.trainer.rule,
            scale: self.scale,
            dead_share,
            options: self.options,
            history: self.history,
            training: self.training.range(0..judged)?,
            held_out: self.held_out,
            folder: self.folder,
        })
    }
}

/// A training that is over.
pub(crate) struct End {
    pub(crate) sae: Sae,
    pub(crate) rule: Box<dyn Rule>,
    pub(crate) scale: f32,
    pub(crate) dead_share: f64,
    pub(crate) options: Options,
    pub(crate) history: Vec<Row>,
    /// The part of the training data on which the result is judged.
    pub(crate) training: Activations,
    pub(crate) held_out: Option<Activations>,
    pub(crate) folder: Option<PathBuf>,
}

/// The same SAE for activations as they are: of s·x it reads, x it shall read.
///
/// No architecture minds a common factor of its pre-activations and thresholds, so that only biases and thresholds
/// change: with b' = b_dec/s, b_enc' = b_enc/s and θ' = θ/s, every latent is 1/s of what it was and the decoder keeps its
/// unit rows.
fn unscaled(mut sae: Sae, scale: f32) -> Sae {
    for b in sae.b_dec.iter_mut().chain(&mut sae.b_enc) {
        *b /= scale;
    }
    sae.architecture = sae.architecture.scaled(1.0 / scale);
    sae
}
