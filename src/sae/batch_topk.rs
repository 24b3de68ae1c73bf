//! The BatchTopK architecture (Bussmann, Leask & Nanda 2024).

use super::architecture::check_k;
use super::codes::Codes;
use super::device::{Dense, Selection};
use super::form::Form;
use super::path::Path;
use super::recipe::{Recipe, recipe};
use super::rule::{Batch, Rule, above_one};
use super::step::Settings as Step;
use super::weights::Weights;
use super::{Sae, forward};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// A recipe for a BatchTopK SAE: of all pre-activations of a batch of B tokens the B·k largest positive ones fire, so
/// that a token may take more latents than another.
///
/// What is saved cannot depend on a batch: its latents fire above one threshold. It is a
/// [JumpReLU](super::Architecture::JumpReLU) SAE. The threshold is the one above which `k` latents fire on a held-out
/// token in the mean (on a token of the training, where nothing is held out). Public code takes the running mean of the
/// smallest activation that a batch kept, which belongs to older weights, and to tokens that these have been fitted to;
/// it is in the file's facts, too.
///
/// ```
/// # use denoscope::{activations::Activations, sae::BatchTopK};
/// # let data = denoscope::random::stream(0, "example", 0).normals(40 * 16 * 6);
/// # let activations = Activations::from_vec((4, 4), 6, data)?;
/// let trained = BatchTopK::new(4, 3).train(&activations)?;
/// let l0 = trained.training.l0;
/// assert!(l0 > 2.5 && l0 < 3.5, "{l0}");
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct BatchTopK {
    pub(crate) recipe: Recipe,
    settings: Settings,
}

/// What is this architecture's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) k: usize,
}

impl BatchTopK {
    /// `expansion`·d latents, of which `k` fire on a token in the mean.
    #[must_use]
    pub fn new(expansion: usize, k: usize) -> Self {
        Self { recipe: Recipe::new(expansion), settings: Settings { k } }
    }

    fn form(&self) -> Form {
        Form::BatchTopK(self.settings)
    }
}

recipe!(BatchTopK);

/// Share of the running mean that one batch makes up once a hundred have been seen (SAELens' `topk_threshold_lr`); the
/// first hundred have a plain mean, so that the start at zero is not in it.
const SHARE: f32 = 0.01;

pub(crate) struct BatchTopKRule {
    pub(super) k: usize,
    /// Running mean of the smallest activation kept, and the batches in it.
    threshold: Vec<f32>,
    /// The smallest activation of the last batch was about twice this. Only speed depends on it.
    guess: f32,
    bits: Vec<u32>,
}

impl BatchTopKRule {
    pub(crate) fn new(settings: Settings, latents: usize) -> Result<Self> {
        check_k(settings.k, latents)?;
        Ok(Self { k: settings.k, threshold: vec![0.0, 0.0], guess: 0.0, bits: Vec::new() })
    }
}

impl Rule for BatchTopKRule {
    fn encode(&mut self, batch: &Batch<'_>, main: &mut Codes, second: &mut Codes) {
        let most = self.k * batch.tokens();
        let mut from = self.guess;
        loop {
            main.clear();
            second.clear();
            let mut threshold = from;
            batch.tiles(|scores| {
                forward::above(scores, &batch.weights.b_enc, threshold, main);
                if main.index.len() > 2 * most {
                    threshold = main.keep_largest(most, &mut self.bits);
                }
                batch.revive(scores, second);
            });
            if main.index.len() >= most || from == 0.0 {
                break;
            }
            from = 0.0; // the guess was too high
        }
        let full = main.index.len() >= most;
        main.keep_largest(most, &mut self.bits);
        let smallest = main.value.iter().copied().fold(f32::INFINITY, f32::min);
        self.guess = if full { smallest / 2.0 } else { 0.0 };
    }

    fn terms(&mut self, _: &Step, main: &mut Path, _: &mut Path) {
        self.smallest(main.codes.value.iter().copied().fold(f32::INFINITY, f32::min));
    }

    fn dense(&self) -> Dense {
        Dense::Largest { selection: Selection::Batch(self.k), levels: Vec::new() }
    }

    fn smallest(&mut self, code: f32) {
        if code.is_finite() {
            let [mean, batches] = &mut self.threshold[..] else { return };
            *batches += 1.0;
            *mean += (code - *mean) * SHARE.max(1.0 / *batches);
        }
    }

    fn budget(&self) -> Option<usize> {
        Some(self.k)
    }

    fn state(&mut self) -> Vec<(&'static str, &mut Vec<f32>)> {
        vec![("threshold", &mut self.threshold)]
    }

    fn fold(&self, weights: Weights) -> Sae {
        above_one(weights, self.threshold[0])
    }
}
