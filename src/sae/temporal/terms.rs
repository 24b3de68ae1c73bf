//! The terms of TIDE's loss and their weights.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Weights of the loss
/// L = λ_mse ‖x − x̂‖²/d + λ_cos (1 − cos(x, x̂)) + λ_temporal ‖z_t − z_{t+1}‖²/d + λ_sparsity H_δ(S − S*) + λ_weights ‖W‖²,
/// the means over tokens, or pairs of neighbouring steps of a token, of activations scaled to a mean ‖x‖² of d.
///
/// The paper gives none of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Terms {
    /// λ_mse (1).
    pub mse: f32,
    /// λ_cos.
    pub cosine: f32,
    /// λ_temporal, on the codes z of a token at neighbouring steps. Only latents that fire are drawn together.
    pub temporal: f32,
    /// λ_sparsity. A count of latents that fire has no gradient, and TopK fixes it anyhow; S is here their *effective*
    /// number, over k: S = (Σz)²/(k Σz²), 1 where all k fire alike and 1/k where one outshines the rest.
    pub sparsity: f32,
    /// S*.
    pub sparsity_target: f32,
    /// δ, where the Huber loss goes from ½x² to δ(|x| − δ/2).
    pub huber_delta: f32,
    /// λ_weights, on ‖W_enc‖² (a sum). Decoder rows have unit length, so that ‖W_dec‖² in it is a constant.
    pub weights: f32,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            mse: 1.0,
            cosine: 0.1,
            temporal: 0.001,
            sparsity: 0.001,
            sparsity_target: 0.5,
            huber_delta: 0.1,
            weights: 1e-7,
        }
    }
}

impl Terms {
    /// The squares alone: the loss of a plain TopK SAE.
    #[must_use]
    pub fn squares() -> Self {
        let none = 0.0;
        Self { cosine: none, temporal: none, sparsity: none, weights: none, ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<()> {
        let terms = [
            ("mse", self.mse),
            ("cosine", self.cosine),
            ("temporal", self.temporal),
            ("sparsity", self.sparsity),
            ("sparsity_target", self.sparsity_target),
            ("weights", self.weights),
        ];
        for (name, value) in terms {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(Error::invalid(format!("loss term {name} = {value}: expected 0 or more")));
            }
        }
        if !(self.huber_delta > 0.0 && self.huber_delta.is_finite()) {
            return Err(Error::invalid(format!("huber_delta = {}: expected more than 0", self.huber_delta)));
        }
        Ok(())
    }
}
