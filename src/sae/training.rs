//! A training under way: batches in, steps, log, checkpoints, and the SAE at its end.

use super::adam::Adam;
use super::options::Resolved;
use super::report::{Row, Trained, csv};
use super::resume::{self, Identity};
use super::rule::Rule;
use super::step::Settings;
use super::train::Trainer;
use super::{Architecture, Options, Sae};
use crate::activations::shard::atomically;
use crate::activations::{Activations, Batches, Mixing};
use crate::error::{Error, Result};
use crate::progress::Progress;
use serde_json::json;
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

    /// Whether all steps are done, or it ended early (see [`Options::patience`]).
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.done() >= self.steps() || self.options.patience.is_some_and(|lines| stalled(&self.history, lines))
    }

    /// Takes one step, unless it is over; says whether it did.
    ///
    /// # Errors
    /// If the activations cannot be read, the loss diverges or a checkpoint cannot be written.
    pub fn step(&mut self) -> Result<bool> {
        if self.is_over() {
            return Ok(false);
        }
        let mut batch = std::mem::take(&mut self.batch); // its room is used again
        self.read(&mut batch)?;
        self.learn(&batch)?;
        self.batch = batch;
        Ok(true)
    }

    /// Trains several SAEs on one stream of batches: activations are read, or made by the model, once for all.
    ///
    /// Each becomes, to the bit, what it becomes alone. Their results are in the order in which they were given.
    ///
    /// ```
    /// # use denoscope::{activations::Activations, sae::{BatchTopK, TopK, Training}};
    /// # let data = denoscope::random::stream(0, "example", 0).normals(40 * 16 * 6);
    /// # let activations = Activations::from_vec((4, 4), 6, data)?;
    /// let small = TopK::new(2, 2).begin(&activations)?;
    /// let large = BatchTopK::new(8, 2).begin(&activations)?;
    /// let trained = Training::together(vec![small, large])?;
    /// assert_eq!(trained[0].sae, TopK::new(2, 2).train(&activations)?.sae);
    /// # Ok::<(), denoscope::Error>(())
    /// ```
    ///
    /// # Errors
    /// If they do not read the same batches: other activations, batch, seed, epochs or held-out share; or one is at
    /// another step than the others (finish it alone). Otherwise as [`step`](Self::step).
    pub fn together(mut trainings: Vec<Self>) -> Result<Vec<Trained>> {
        let Some((first, others)) = trainings.split_first_mut() else { return Ok(Vec::new()) };
        for other in others.iter() {
            first.reads_as(other)?;
        }
        let mut progress = Progress::new(format!("{} SAEs", others.len() + 1), first.steps());
        let mut batch = Vec::new();
        let mut step = first.done();
        while !(first.is_over() && others.iter().all(Self::is_over)) {
            first.read_at(step, &mut batch)?;
            for training in std::iter::once(&mut *first).chain(others.iter_mut()).filter(|t| !t.is_over()) {
                training.learn(&batch)?;
            }
            step += 1;
            progress.at(step, "");
        }
        let mixing = first.mixing();
        let finished = |training: Self| Ok(Trained { mixing, ..training.finish()? });
        trainings.into_iter().map(finished).collect()
    }

    /// Refuses a training that has other batches to read.
    fn reads_as(&self, other: &Self) -> Result<()> {
        let facts = |t: &Self| {
            [
                ("activations", t.identity.digest().to_string()),
                ("tokens of a batch", t.resolved.batch.to_string()),
                ("steps", t.resolved.steps.to_string()),
                ("seed", t.options.seed.to_string()),
                ("items to train on", t.training.len().to_string()),
                ("steps of a row", t.tokens.to_string()),
                ("steps done", t.done().to_string()),
            ]
        };
        match facts(self).into_iter().zip(facts(other)).find(|(a, b)| a != b) {
            None => Ok(()),
            Some(((what, a), (_, b))) => {
                Err(Error::invalid(format!("trainings on one stream of batches: {what} {a} and {b}")))
            }
        }
    }

    /// How well the batches so far of this epoch were mixed, if any were read.
    #[must_use]
    pub fn mixing(&self) -> Option<Mixing> {
        self.batches.as_ref().map(|(_, batches)| batches.mixing())
    }

    /// The batch of the next step.
    fn read(&mut self, batch: &mut Vec<f32>) -> Result<()> {
        self.read_at(self.done(), batch)
    }

    /// The batch of step `step`.
    fn read_at(&mut self, step: usize, batch: &mut Vec<f32>) -> Result<()> {
        let resolved = &self.resolved;
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
        batches.next_into(batch)?;
        Ok(())
    }

    /// The step that comes next, on its batch.
    fn learn(&mut self, batch: &[f32]) -> Result<()> {
        let step = self.done();
        let learning_rate = self.options.rate(&self.resolved, step);
        let found = self.trainer.step(batch, &self.settings(step, learning_rate))?;
        let done = step + 1;
        if let Some(explained_variance) = found.explained_variance {
            let (tokens, loss, l0, dead_share) = (done * self.resolved.batch, found.loss, found.l0, found.dead);
            self.history.push(Row { step: done, tokens, loss, explained_variance, l0, dead_share, learning_rate });
        }
        if let Some(folder) = &self.folder {
            let due = self.checkpoint_every.map_or(self.saved.elapsed() >= CHECKPOINT, |n| done.is_multiple_of(n));
            if due || self.is_over() {
                self.trainer.fetch()?;
                resume::save(folder, &self.identity, &mut self.trainer, self.scale, &self.history)?;
                self.saved = Instant::now();
            }
        }
        Ok(())
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
            resample: options.resamples(&self.resolved, step).then_some(options.seed),
            shrink: learning_rate * options.weight_decay,
        }
    }

    /// The SAE as it is now, in its inference form, with its measures; writes it to the training's folder.
    ///
    /// # Errors
    /// If the activations cannot be read, or the result cannot be written.
    pub fn finish(self) -> Result<Trained> {
        let mixing = self.mixing();
        let End { sae, dead_share, options, history, training, held_out, folder, .. } = self.end()?;
        let training = sae.measure(&training)?;
        let held_out = held_out.map(|h| sae.measure(&h)).transpose()?;
        let trained = Trained { sae, options, history, training, held_out, dead_share, mixing };
        if let Some(folder) = &folder {
            trained.sae.save(folder)?;
            let log = csv(&trained.history);
            atomically(&folder.join("log.csv"), |out| out.write_all(log.as_bytes()))?;
        }
        Ok(trained)
    }

    /// The SAE as it is now, not yet judged.
    pub(crate) fn end(mut self) -> Result<End> {
        self.trainer.fetch()?;
        let dead_share = self.trainer.dead_share(self.resolved.dead_window);
        let mut sae = unscaled(self.trainer.rule.fold(self.trainer.weights), self.scale);
        let about = self.training.about();
        sae.about = (!about.fingerprint.is_empty()).then(|| about.clone());
        sae.facts.insert("recipe".into(), self.identity.recipe()?);
        sae.facts.insert("training".into(), self.options.facts()?);
        if let Some(k) = self.trainer.rule.budget() {
            let (on, tokens) = match &self.held_out {
                Some(held_out) => ("held out", held_out),
                None => ("training", &self.training),
            };
            calibrate(&mut sae, k, tokens, on)?;
        }
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

/// Sets the one threshold of `sae` to that above which `k` latents fire on a token of `activations` in the mean, and says
/// so in its facts.
///
/// The running mean of a training's thresholds is that of older weights, on tokens that these have been fitted to.
fn calibrate(sae: &mut Sae, k: usize, activations: &Activations, on: &str) -> Result<()> {
    let Architecture::JumpReLU { threshold } = &mut sae.architecture else { return Ok(()) };
    let Some(trained) = threshold.first().copied().filter(|t| *t > 0.0) else { return Ok(()) };
    let items = (JUDGED / activations.tokens_per_item()).clamp(1, activations.len());
    let most = items * activations.tokens_per_item() * k;
    let mut values = Vec::new();
    sae.architecture = Architecture::JumpReLU { threshold: vec![trained / 2.0; sae.latents] };
    for i in 0..items {
        values.extend(sae.encode(&activations.item(i)?)?.value);
    }
    let found = match values.len() > most {
        // p > θ for the `most` largest.
        true => *values.select_nth_unstable_by(most, |a, b| b.total_cmp(a)).1,
        // These tokens have less to say than k latents: a lower threshold would only let noise through.
        false => trained,
    };
    sae.architecture = Architecture::JumpReLU { threshold: vec![found; sae.latents] };
    // As short as they are written in text, from which they are read back as they were.
    let short = |v: f32| v.to_string().parse::<f64>().map_err(Error::invalid);
    let facts = json!({ "value": short(found)?, "on": on, "running_mean": short(trained)? });
    sae.facts.insert("threshold".into(), facts);
    Ok(())
}

/// Whether the last `lines` of a log have brought no smaller loss.
fn stalled(history: &[Row], lines: usize) -> bool {
    let best = history.iter().enumerate().min_by(|a, b| a.1.loss.total_cmp(&b.1.loss)).map_or(0, |(at, _)| at);
    history.len() > best + lines
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
