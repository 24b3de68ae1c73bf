//! The Matryoshka architecture with BatchTopK (Bussmann et al. 2025).

use super::Sae;
use super::batch_topk::{self, BatchTopKRule};
use super::codes::Codes;
use super::device::{Dense, Selection};
use super::form::Form;
use super::path::Path;
use super::recipe::{Recipe, recipe};
use super::rule::{Batch, Rule};
use super::step::Settings as Step;
use super::weights::Weights;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A recipe for a Matryoshka SAE: BatchTopK whose first latents also reconstruct the input on their own.
///
/// For nested prefixes of m₁ < m₂ < … = all latents the loss is the sum of ‖x − (W_dec[..m]ᵀ z[..m] + b_dec)‖². General
/// concepts go to the early latents, special ones to the late, and a general latent is not hollowed out by its special
/// cases.
///
/// ```
/// # use denoscope::{activations::Activations, sae::Matryoshka};
/// # let data = denoscope::random::stream(0, "example", 0).normals(40 * 16 * 6);
/// # let activations = Activations::from_vec((4, 4), 6, data)?;
/// let trained = Matryoshka::new(4, 3).widths([4, 12, 24]).train(&activations)?;
/// assert_eq!(trained.latents, 24);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Matryoshka {
    pub(crate) recipe: Recipe,
    settings: Settings,
}

/// What is this architecture's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) k: usize,
    /// `None`: 1/16, 1/8, 1/4, 1/2 and all of the latents.
    #[serde(default)]
    pub(crate) widths: Option<Vec<usize>>,
}

impl Matryoshka {
    /// `expansion`·d latents, of which `k` fire on a token in the mean.
    #[must_use]
    pub fn new(expansion: usize, k: usize) -> Self {
        Self { recipe: Recipe::new(expansion), settings: Settings { k, widths: None } }
    }

    /// The sizes of the nested prefixes, rising to the number of latents. Otherwise 1/16, 1/8, 1/4, 1/2 and all of the
    /// latents: the paper's five levels grow about as fast.
    #[must_use]
    pub fn widths(mut self, widths: impl IntoIterator<Item = usize>) -> Self {
        self.settings.widths = Some(widths.into_iter().collect());
        self
    }

    fn form(&self) -> Form {
        Form::Matryoshka(self.settings.clone())
    }
}

recipe!(Matryoshka);

pub(crate) struct MatryoshkaRule {
    inner: BatchTopKRule,
    levels: Vec<usize>,
}

impl MatryoshkaRule {
    pub(crate) fn new(settings: &Settings, latents: usize) -> Result<Self> {
        let inner = BatchTopKRule::new(batch_topk::Settings { k: settings.k }, latents)?;
        let levels = match &settings.widths {
            Some(widths) => widths.clone(),
            // In a dictionary of a few latents levels fall together.
            None => {
                let mut levels: Vec<usize> = (0..5).map(|i| (latents >> (4 - i)).max(1)).collect();
                levels.dedup();
                levels
            }
        };
        if levels.last() != Some(&latents) || levels[0] == 0 || !levels.is_sorted_by(|a, b| a < b) {
            return Err(Error::invalid(format!(
                "widths {levels:?}: expected to rise from above 0 to {latents} latents"
            )));
        }
        Ok(Self { inner, levels })
    }
}

impl Rule for MatryoshkaRule {
    fn encode(&mut self, batch: &Batch<'_>, main: &mut Codes, second: &mut Codes) {
        self.inner.encode(batch, main, second);
    }

    fn levels(&self) -> &[usize] {
        &self.levels
    }

    fn terms(&mut self, settings: &Step, main: &mut Path, second: &mut Path) {
        self.inner.terms(settings, main, second);
    }

    fn dense(&self) -> Dense {
        Dense::Largest { selection: Selection::Batch(self.inner.k), levels: self.levels.clone() }
    }

    fn smallest(&mut self, code: f32) {
        self.inner.smallest(code);
    }

    fn budget(&self) -> Option<usize> {
        self.inner.budget()
    }

    fn state(&mut self) -> Vec<(&'static str, &mut Vec<f32>)> {
        self.inner.state()
    }

    fn fold(&self, weights: Weights) -> Sae {
        self.inner.fold(weights)
    }
}
