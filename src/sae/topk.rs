//! The TopK architecture (Gao et al. 2024; the recipe of Emergence, section 3).

use super::architecture::check_k;
use super::codes::Codes;
use super::device::{Dense, Selection};
use super::form::Form;
use super::recipe::{Recipe, recipe};
use super::rule::{Batch, Rule};
use super::weights::Weights;
use super::{Architecture, Sae};
use crate::error::Result;
use serde::{Deserialize, Serialize};

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
    pub(crate) recipe: Recipe,
    settings: Settings,
}

/// What is this architecture's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) k: usize,
}

impl TopK {
    /// `expansion`·d latents, of which at most `k` fire on a token.
    #[must_use]
    pub fn new(expansion: usize, k: usize) -> Self {
        Self { recipe: Recipe::new(expansion), settings: Settings { k } }
    }

    fn form(&self) -> Form {
        Form::TopK(self.settings)
    }
}

recipe!(TopK);

pub(crate) struct TopKRule {
    k: usize,
}

impl TopKRule {
    pub(crate) fn new(settings: Settings, latents: usize) -> Result<Self> {
        check_k(settings.k, latents)?;
        Ok(Self { k: settings.k })
    }
}

impl Rule for TopKRule {
    fn encode(&mut self, batch: &Batch<'_>, main: &mut Codes, second: &mut Codes) {
        batch.tiles(|scores| batch.top(scores, self.k, main, second));
    }

    fn dense(&self) -> Dense {
        Dense::Largest { selection: Selection::Token(self.k), levels: Vec::new() }
    }

    fn fold(&self, weights: Weights) -> Sae {
        weights.sae(Architecture::TopK { k: self.k })
    }
}
