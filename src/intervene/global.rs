//! The global edit: add a concept at every token, to change style (Emergence, section 3.4).
//!
//! Δ′\[i,j\] = Δ\[i,j\] + βᵢⱼ Σ_c f_c for all i, j.

use super::edit::{Common, edit, length, shift};
use super::space::Space;
use super::strength::Strength;
use crate::diffusion::hook::Visit;
use crate::error::Result;
use crate::sae::Sae;
use candle_core::Tensor;
use std::sync::Arc;

/// A global edit of the residual update of one module.
#[derive(Debug, Clone)]
pub struct Global {
    common: Common,
}

edit!(Global);

impl Global {
    /// An edit that adds the concepts `latents` of `sae`, at the place and in the stage that the SAE was trained at.
    #[must_use]
    pub fn new(sae: &Sae, latents: impl IntoIterator<Item = usize>) -> Self {
        Self::within(Arc::new(sae.clone()), latents.into_iter().collect())
    }

    /// An edit that adds Σ w_c f_c over pairs of latent and weight, as [`Contrast::of`](crate::concepts::Contrast::of)
    /// gives them. With [`Strength::Constant`] β, latents are raised by β times what tells the label's pictures from
    /// others.
    #[must_use]
    pub fn mix(sae: &Sae, weighted: &[(usize, f32)]) -> Self {
        let weights: Vec<f32> = weighted.iter().map(|w| w.1).collect();
        Self::new(sae, weighted.iter().map(|w| w.0)).weights(&weights)
    }

    /// As [`new`](Self::new), with any space of concepts.
    #[must_use]
    pub fn within(space: Arc<dyn Space>, latents: Vec<usize>) -> Self {
        Self { common: Common::new("global", space, latents, Strength::Relative(1.0)) }
    }

    /// β and its normaliser (default: as strong as the residual update itself).
    #[must_use]
    pub fn strength(mut self, strength: Strength) -> Self {
        self.common.strength = strength;
        self
    }

    /// One weight for every latent in the sum Σ w_c f_c (default: all 1). Their number is checked when the edit is
    /// first applied.
    #[must_use]
    pub fn weights(mut self, weights: &[f32]) -> Self {
        self.common.weights = weights.to_vec();
        self
    }
}

impl Global {
    fn change(&self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        let common = &self.common;
        let direction = common.direction();
        let length = length(&direction);
        common.edit(visit, activation, common.strength.needs_code(), &|item| {
            let beta = common.strength.per_token(&item.code_norms(), &item.norms(), length);
            for (row, beta) in item.rows.chunks_exact_mut(item.width).zip(beta) {
                shift(row, &direction, beta);
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::edit::toy::*;
    use super::*;
    use crate::diffusion::hook::Hook;

    #[test]
    fn the_papers_normaliser_spreads_beta_over_the_code() {
        // ‖Z[j]‖ = j + 1 (latent 0 reads channel 0), Σ = 36.
        let mut edit = Global::within(space(), vec![1]).strength(Strength::CodeShare(72.0));
        let out = rows(&edit.visit(&visit(&site()), &activation()).unwrap().unwrap());
        for (row, values) in out.iter().enumerate() {
            let (i, j) = ((row / 8) as f32, (row % 8) as f32);
            let beta = 2.0 * (j + 1.0);
            let expected = [j + 1.0 + beta, -1.0, i + beta];
            assert!(values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{values:?} {expected:?}");
        }
    }

    #[test]
    fn nothing_to_do_returns_none() {
        let mut none = Global::within(space(), vec![]);
        assert!(none.visit(&visit(&site()), &activation()).unwrap().is_none());
        let mut zero = Global::within(space(), vec![0]).strength(Strength::Relative(0.0));
        assert!(zero.visit(&visit(&site()), &activation()).unwrap().is_none());
    }
}
