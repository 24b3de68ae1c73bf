//! The registry of architectures in training.

use super::recipe::L1;
use super::rule::Rule;
use super::{batch_topk, gated, jump_relu, matryoshka, relu, temporal, topk};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// An architecture with its own settings, by the name that SAELens gives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "architecture")]
pub(crate) enum Form {
    #[serde(rename = "topk")]
    TopK(topk::Settings),
    #[serde(rename = "batchtopk")]
    BatchTopK(batch_topk::Settings),
    #[serde(rename = "matryoshka_batchtopk")]
    Matryoshka(matryoshka::Settings),
    #[serde(rename = "standard")]
    ReLU(L1),
    #[serde(rename = "jumprelu")]
    JumpReLU(jump_relu::Settings),
    #[serde(rename = "gated")]
    Gated(L1),
    /// Reads trajectories, which a configuration of single activations cannot name.
    #[serde(rename = "temporal_aware_topk", skip_deserializing)]
    Tide(temporal::rule::Settings),
}

impl Form {
    /// The rule at the start of a training of `latents` latents.
    ///
    /// # Errors
    /// If the settings do not fit the latents.
    pub(crate) fn rule(&self, latents: usize) -> Result<Box<dyn Rule>> {
        Ok(match self {
            Form::TopK(s) => Box::new(topk::TopKRule::new(*s, latents)?),
            Form::BatchTopK(s) => Box::new(batch_topk::BatchTopKRule::new(*s, latents)?),
            Form::Matryoshka(s) => Box::new(matryoshka::MatryoshkaRule::new(s, latents)?),
            Form::ReLU(s) => Box::new(relu::ReLURule::new(*s)?),
            Form::JumpReLU(s) => Box::new(jump_relu::JumpReLURule::new(*s, latents)?),
            Form::Gated(s) => Box::new(gated::GatedRule::new(*s, latents)?),
            Form::Tide(s) => Box::new(temporal::rule::TideRule::new(s, latents)?),
        })
    }

    /// Tokens of an SAE in one row of the activations it is trained on: the steps of a trajectory, or 1.
    pub(crate) fn steps(&self) -> usize {
        match self {
            Form::Tide(s) => s.start.t.len(),
            _ => 1,
        }
    }
}
