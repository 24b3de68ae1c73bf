//! The TopK architecture's training (Gao et al. 2024; the recipe of Emergence, section 3).

use super::report::{Row, Trained};
use super::resume::{self, Identity};
use super::train::Trainer;
use super::training::Training;
use super::{Architecture, Options, Sae, start};
use crate::activations::Activations;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::random::stream;
use std::path::PathBuf;
use std::time::Instant;

/// A recipe for a TopK SAE: z = TopK(ReLU(W_enc (x − b_dec) + b_enc)), x̂ = W_decᵀ z + b_dec.
///
/// ```
/// use denoscope::activations::Activations;
/// use denoscope::sae::TopK;
///
/// // 40 items of 4×4 tokens: each token is one of 6 directions, at some strength.
/// let mut random = denoscope::random::stream(0, "example", 0);
/// let data: Vec<f32> = (0..40 * 16)
///     .flat_map(|_| {
///         let mut token = [0.0f32; 6];
///         token[random.below(6)] = random.range(1.0, 2.0);
///         token
///     })
///     .collect();
/// let activations = Activations::from_vec((4, 4), 6, data)?;
///
/// let trained = TopK::new(4, 2).train(&activations)?;
/// assert!(trained.held_out.as_ref().unwrap().explained_variance > 0.9);
/// assert_eq!(trained.concept_vector(0).len(), 6); // it stands for its SAE
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TopK {
    expansion: usize,
    k: usize,
    options: Options,
    folder: Option<PathBuf>,
    pub(crate) checkpoint_every: Option<usize>,
    pub(crate) stop_at: Option<usize>,
}

impl TopK {
    /// `expansion`·d latents, of which at most `k` fire on a token.
    #[must_use]
    pub fn new(expansion: usize, k: usize) -> Self {
        Self { expansion, k, options: Options::default(), folder: None, checkpoint_every: None, stop_at: None }
    }

    /// All options at once.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// See [`Options::epochs`].
    #[must_use]
    pub fn epochs(mut self, epochs: usize) -> Self {
        self.options.epochs = Some(epochs);
        self
    }

    /// See [`Options::batch`].
    #[must_use]
    pub fn batch(mut self, tokens: usize) -> Self {
        self.options.batch = Some(tokens);
        self
    }

    /// See [`Options::learning_rate`].
    #[must_use]
    pub fn learning_rate(mut self, rate: f32) -> Self {
        self.options.learning_rate = Some(rate);
        self
    }

    /// See [`Options::seed`].
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.options.seed = seed;
        self
    }

    /// See [`Options::holdout`].
    #[must_use]
    pub fn holdout(mut self, share: f64) -> Self {
        self.options.holdout = share;
        self
    }

    /// Keeps checkpoints, the log and the result in `folder`: a training that was killed goes on from there, to the
    /// same bits, and one that is finished is read back.
    #[must_use]
    pub fn run(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Trains on `activations`.
    ///
    /// # Errors
    /// If k exceeds the number of latents, there are fewer tokens than a batch, an activation cannot be read or is
    /// not finite, the loss diverges, or the folder holds another training.
    pub fn train(&self, activations: &Activations) -> Result<Trained> {
        let mut training = self.begin(activations)?;
        let mut progress =
            Progress::new(format!("SAE, {} latents", self.expansion * activations.d()), training.steps());
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
        training.finish()
    }

    /// The same, to be taken step by step.
    ///
    /// # Errors
    /// If k exceeds the number of latents, there are fewer tokens than a batch, an activation cannot be read or is
    /// not finite, or the folder holds another training.
    pub fn begin(&self, activations: &Activations) -> Result<Training> {
        let d = activations.d();
        let latents = self.expansion * d;
        if self.k == 0 || self.k > latents {
            return Err(Error::invalid(format!("k = {} of {latents} latents: expected 1 ≤ k ≤ latents", self.k)));
        }
        let (training, held_out) = self.split(activations)?;
        let resolved = self.options.resolve(training.tokens(), latents)?;
        let options = Options {
            learning_rate: Some(resolved.learning_rate),
            batch: Some(resolved.batch),
            epochs: Some(resolved.steps / resolved.steps_per_epoch),
            dead_window: Some(resolved.dead_window),
            ..self.options.clone()
        };
        let identity = Identity::new(Architecture::TopK { k: self.k }, latents, &options, &training)?;
        let resumed = match &self.folder {
            Some(folder) => resume::load(folder, &identity)?,
            None => None,
        };
        let (trainer, scale, history) = match resumed {
            Some(state) => state,
            None => {
                let (sae, scale) = self.initial(&training, latents)?;
                (Trainer::new(sae), scale, Vec::new())
            }
        };

        Ok(Training {
            trainer,
            scale,
            history,
            options,
            resolved,
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
        let (n, share) = (activations.len(), self.options.holdout);
        if !(0.0..1.0).contains(&share) {
            return Err(Error::invalid(format!("a held-out share of {share}: expected 0 to below 1")));
        }
        // One item alone cannot be split; otherwise a share above zero keeps out at least one.
        let out = if share == 0.0 || n < 2 { 0 } else { ((n as f64 * share).round() as usize).clamp(1, n - 1) };
        let training = activations.range(0..n - out)?;
        let held_out = if out > 0 { Some(activations.range(n - out..n)?) } else { None };
        Ok((training, held_out))
    }

    /// Initial weights, for scaled activations, and the scale.
    fn initial(&self, training: &Activations, latents: usize) -> Result<(Sae, f32)> {
        let (d, seed) = (training.d(), self.options.seed);
        let mut sample = start::sample(training, start::SAMPLE, seed)?;
        let b_dec = start::bias(&sample, d, self.options.start);
        let scale = if self.options.normalise { start::unit_scale(&sample, d)? } else { 1.0 };
        sample.clear();
        let w_dec = start::unit_rows(d, latents, &mut stream(seed, "initial dictionary", 0));
        let sae = Sae {
            architecture: Architecture::TopK { k: self.k },
            d,
            latents,
            // Tied: encoder and decoder start as one dictionary.
            w_enc: w_dec.clone(),
            b_enc: vec![0.0; latents],
            w_dec,
            b_dec: b_dec.iter().map(|b| b * scale).collect(),
            about: None,
            facts: serde_json::Map::new(),
        };
        Ok((sae, scale))
    }
}
