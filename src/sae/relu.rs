//! The ReLU architecture with an L1 penalty (Bricken et al. 2023).

use super::codes::Codes;
use super::device::Dense;
use super::form::Form;
use super::path::Path;
use super::recipe::{L1, Recipe, recipe, sparsity};
use super::rule::{Batch, Rule, dense_start};
use super::step::Settings as Step;
use super::weights::Weights;
use super::{Architecture, Sae, forward};
use crate::error::Result;

/// A recipe for a ReLU SAE: z = ReLU(W_enc (x − b_dec) + b_enc), with the loss ‖x − x̂‖² + λ Σ z.
///
/// Decoder rows have unit length, so that Σ z is what others weigh by their norms. At the start half of the latents fire
/// on every token, and a step costs as much as a dense one; it gets faster as the codes get sparse. Nothing revives a
/// latent that no token makes positive.
///
/// ```
/// # use denoscope::{activations::Activations, sae::ReLU};
/// # let data = denoscope::random::stream(0, "example", 0).normals(40 * 16 * 6);
/// # let activations = Activations::from_vec((4, 4), 6, data)?;
/// let dense = ReLU::new(4, 0.1).train(&activations)?;
/// let sparse = ReLU::new(4, 1.0).train(&activations)?;
/// assert!(sparse.training.l0 < dense.training.l0);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ReLU {
    pub(crate) recipe: Recipe,
    settings: L1,
}

impl ReLU {
    /// `expansion`·d latents under an L1 penalty of weight `l1` (λ, for inputs with a mean ‖x‖² of d: SAELens'
    /// `l1_coefficient`).
    #[must_use]
    pub fn new(expansion: usize, l1: f32) -> Self {
        Self { recipe: Recipe::new(expansion), settings: L1::new(l1) }
    }

    fn form(&self) -> Form {
        Form::ReLU(self.settings)
    }
}

recipe!(ReLU);
sparsity!(ReLU);

pub(crate) struct ReLURule {
    settings: L1,
}

impl ReLURule {
    pub(crate) fn new(settings: L1) -> Result<Self> {
        settings.check()?;
        Ok(Self { settings })
    }
}

impl Rule for ReLURule {
    fn encode(&mut self, batch: &Batch<'_>, main: &mut Codes, _: &mut Codes) {
        batch.tiles(|scores| forward::above(scores, &batch.weights.b_enc, 0.0, main));
    }

    fn reads_slopes(&self) -> bool {
        true
    }

    fn terms(&mut self, step: &Step, main: &mut Path, _: &mut Path) {
        let half = self.settings.slope(step.progress);
        main.slopes.iter_mut().for_each(|s| *s += half);
    }

    fn dense(&self) -> Dense {
        Dense::Positive(self.settings)
    }

    fn revives(&self) -> bool {
        false
    }

    fn start(&self, d: usize, latents: usize) -> f32 {
        dense_start(d, latents)
    }

    fn fold(&self, weights: Weights) -> Sae {
        weights.sae(Architecture::ReLU)
    }
}
