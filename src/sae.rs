//! Sparse autoencoders: activations as sums of few concept vectors.
//!
//! An SAE writes a token's activation x as a sparse sum of unit vectors, x̂ = Σ_j z_j f_j + b, with few z_j > 0. Each
//! latent j has an encoder row, which says when it fires, and a decoder row f_j, its *concept vector*.
//!
//! | to | see |
//! |---|---|
//! | train one | [`TopK`], [`BatchTopK`], [`Matryoshka`], [`ReLU`], [`JumpReLU`], [`Gated`] |
//! | train several on one stream of batches | [`Training::together`] |
//! | train one on several steps together | [`Residualized`], [`Tide`] |
//! | use one | [`Sae::encode`], [`Sae::concept_vector`] |
//! | judge one | [`Sae::measure`], with [`Sae::random`] and [`Sae::neurons`] as controls |
//! | judge it by what the model loses | [`LossRecovered`](crate::measure::LossRecovered) |
//! | keep one | [`Sae::save`], [`Sae::load`] |

mod adam;
mod alike;
mod architecture;
mod batch_topk;
mod blocks;
mod codes;
pub mod command;
mod device;
mod files;
mod form;
mod forward;
mod gated;
mod gather;
mod jump_relu;
mod matryoshka;
mod measure;
mod neurons;
mod options;
mod part;
mod path;
mod recipe;
mod relu;
pub(crate) mod report;
mod residual;
mod resume;
mod rule;
mod select;
mod start;
mod step;
mod temporal;
mod tensors;
mod topk;
mod train;
mod training;
mod weights;

pub use alike::Likeness;
pub use architecture::Architecture;
pub use batch_topk::BatchTopK;
pub use codes::Codes;
pub use gated::Gated;
pub use jump_relu::JumpReLU;
pub use matryoshka::Matryoshka;
pub use measure::Quality;
pub use options::{Options, Schedule, Start};
pub use relu::ReLU;
pub use report::{Row, Trained};
pub use residual::{
    FeatureTrajectory, Fit, Join, Prediction, Predictors, Residualized, Spread, Standardise, StepQuality,
    TrainedTrajectories, TrajectoryQuality, TrajectorySae, Weigh,
};
pub use temporal::{Modulation, Terms, Tide, TideSae, TrainedTide};
pub use topk::TopK;
pub use training::Training;

use architecture::check_tensor;

use crate::activations::{Activations, Description};
use crate::digest;
use crate::error::{Error, Result};
use crate::kernels::sparse::add_rows;
use crate::random::stream;
use std::fmt;

/// A sparse autoencoder in its inference form: plain data, in the units of the activations it was trained on.
///
/// z = activation(W_enc (x − b_dec) + b_enc), x̂ = W_decᵀ z + b_dec, with the activation that [`Architecture`] says.
#[derive(Clone, PartialEq)]
pub struct Sae {
    /// How latents are made.
    pub architecture: Architecture,
    /// Channels of an activation.
    pub d: usize,
    /// Number of latents.
    pub latents: usize,
    /// Encoder `[latents, d]`: a latent is a row.
    pub w_enc: Vec<f32>,
    /// Encoder bias `[latents]`.
    pub b_enc: Vec<f32>,
    /// Decoder `[latents, d]`: a latent is a row, of unit length after training.
    pub w_dec: Vec<f32>,
    /// Decoder bias `[d]`, also taken off the input.
    pub b_dec: Vec<f32>,
    /// Where the activations of its training were taken, if they came from a model.
    pub about: Option<Description>,
    /// Further facts that travel in the file: how it was trained.
    pub facts: serde_json::Map<String, serde_json::Value>,
}

/// Weights as one digest: nobody reads a million numbers.
impl fmt::Debug for Sae {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = digest::of_arrays(&[&self.w_enc, &self.b_enc, &self.w_dec, &self.b_dec]);
        f.debug_struct("Sae")
            .field("architecture", &self.architecture)
            .field("d", &self.d)
            .field("latents", &self.latents)
            .field("weights", &weights)
            .field("about", &self.about)
            .field("facts", &self.facts)
            .finish()
    }
}

impl Sae {
    /// The control: a random dictionary of unit vectors with the encoder tied to it and no bias.
    ///
    /// # Errors
    /// If `k` is 0 or exceeds the number of latents.
    pub fn random(d: usize, latents: usize, k: usize, seed: u64) -> Result<Self> {
        let architecture = Architecture::TopK { k };
        let w_dec = start::unit_rows(d, latents, &mut stream(seed, "random dictionary", 0));
        let (w_enc, b_enc, b_dec) = (w_dec.clone(), vec![0.0; latents], vec![0.0; d]);
        let sae =
            Self { architecture, d, latents, w_enc, b_enc, w_dec, b_dec, about: None, facts: serde_json::Map::new() };
        sae.check()?;
        Ok(sae)
    }

    /// The same SAE with its decoder bias at the mean of `activations`: what makes a random dictionary a fair control.
    ///
    /// # Errors
    /// If the activations have another number of channels or cannot be read.
    pub fn centred(mut self, activations: &Activations) -> Result<Self> {
        self.fits(activations)?;
        let sample = start::sample(activations, activations.tokens().min(start::SAMPLE), 0)?;
        self.b_dec = start::mean(&sample, self.d);
        Ok(self)
    }

    /// The concept vector of `latent`: its decoder row.
    ///
    /// # Panics
    /// If there is no such latent.
    #[must_use]
    pub fn concept_vector(&self, latent: usize) -> &[f32] {
        &self.w_dec[latent * self.d..(latent + 1) * self.d]
    }

    /// The codes of tokens `x` = `[tokens, d]`, as one item.
    ///
    /// # Errors
    /// If the length of `x` is not a multiple of d, or a number is not finite.
    pub fn encode(&self, x: &[f32]) -> Result<Codes> {
        if !x.len().is_multiple_of(self.d) {
            return Err(Error::Shape {
                what: "tokens to encode".into(),
                found: vec![x.len()],
                expected: vec![x.len() / self.d, self.d],
            });
        }
        if let Some(at) = x.iter().position(|v| !v.is_finite()) {
            return Err(Error::invalid(format!(
                "{} at row {}, channel {} of the tokens to encode",
                x[at],
                at / self.d,
                at % self.d
            )));
        }
        let mut codes = Codes::empty(self.latents);
        let mut xc = Vec::new();
        forward::centre(x, &self.b_dec, 1.0, &mut xc);
        forward::encode(self, &xc, &mut codes);
        codes.tokens_per_item = x.len() / self.d;
        Ok(codes)
    }

    /// The codes of every token of every item.
    ///
    /// # Errors
    /// If the activations have another number of channels, or cannot be read.
    pub fn encode_all(&self, activations: &Activations) -> Result<Codes> {
        self.fits(activations)?;
        let mut all = Codes::empty(self.latents);
        for i in 0..activations.len() {
            all.append(&self.encode(&activations.item(i)?)?);
        }
        all.tokens_per_item = activations.tokens_per_item();
        Ok(all)
    }

    /// The activations that `codes` stand for: x̂ = W_decᵀ z + b_dec, `[tokens, d]`.
    #[must_use]
    pub fn decode(&self, codes: &Codes) -> Vec<f32> {
        let mut out = Vec::with_capacity(codes.tokens() * self.d);
        for t in 0..codes.tokens() {
            out.extend_from_slice(&self.b_dec);
            let row = &mut out[t * self.d..];
            let (index, value) = codes.token(t);
            add_rows(row, value, index, &self.w_dec);
        }
        out
    }

    /// Refuses activations with another number of channels.
    pub(crate) fn fits(&self, activations: &Activations) -> Result<()> {
        if activations.d() == self.d {
            return Ok(());
        }
        Err(Error::Shape {
            what: format!("{activations} for an SAE"),
            found: vec![activations.d()],
            expected: vec![self.d],
        })
    }

    /// Refuses an SAE whose numbers do not make one.
    pub(crate) fn check(&self) -> Result<()> {
        self.architecture.check(self.latents)?;
        let (d, latents) = (self.d, self.latents);
        check_tensor("W_enc", &self.w_enc, &[latents, d])?;
        check_tensor("b_enc", &self.b_enc, &[latents])?;
        check_tensor("W_dec", &self.w_dec, &[latents, d])?;
        check_tensor("b_dec", &self.b_dec, &[d])
    }

    /// What a notebook shows: the SAE in one line.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl std::fmt::Display for Sae {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} SAE: {} latents of {} channels", self.architecture, self.latents, self.d)?;
        if let Architecture::TopK { k } = self.architecture {
            write!(f, ", k = {k}")?;
        }
        match &self.about {
            Some(about) => write!(f, ", {about}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "sae/tests.rs"]
mod tests;
