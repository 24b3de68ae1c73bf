//! The weights that every architecture trains.

use super::{Architecture, Sae};

/// Encoder and decoder, in the units of scaled activations while they are trained.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Weights {
    pub(crate) d: usize,
    pub(crate) latents: usize,
    /// `[latents, d]`.
    pub(crate) w_enc: Vec<f32>,
    /// `[latents]`.
    pub(crate) b_enc: Vec<f32>,
    /// `[latents, d]`.
    pub(crate) w_dec: Vec<f32>,
    /// `[d]`.
    pub(crate) b_dec: Vec<f32>,
}

impl Weights {
    /// The SAE of these weights, with nothing known about it.
    pub(crate) fn sae(self, architecture: Architecture) -> Sae {
        let Self { d, latents, w_enc, b_enc, w_dec, b_dec } = self;
        Sae { architecture, d, latents, w_enc, b_enc, w_dec, b_dec, about: None, facts: serde_json::Map::new() }
    }
}
