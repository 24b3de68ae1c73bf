//! What an edit needs of an SAE: its code, its concept vectors, and where it was trained.

use crate::diffusion::hook::{Half, Site};
use crate::error::Result;
use crate::sae::Sae;
use std::fmt::Debug;

/// Where the activations of an SAE came from; an edit elsewhere is refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// Module and tensor.
    pub site: Site,
    /// Height and width of its grid, when known.
    pub grid: Option<(usize, usize)>,
    /// Progress t of the step, when it was one step.
    pub t: Option<f64>,
    /// Guidance half, when it was one half.
    pub half: Option<Half>,
}

/// The space of concepts that an edit works in: an SAE, seen from an intervention.
pub trait Space: Debug + Send + Sync {
    /// Channels of an activation.
    fn width(&self) -> usize;
    /// Number of latents.
    fn latents(&self) -> usize;
    /// The active latents of every row of `rows` (`[tokens, width]`), in the scale in which
    /// [`vector`](Space::vector) times the value is that latent's part of the activation.
    ///
    /// # Errors
    /// When the length is not a multiple of the width.
    fn encode(&self, rows: &[f32]) -> Result<Vec<Vec<(usize, f32)>>>;
    /// The concept vector f of a latent, in the units of the activation.
    fn vector(&self, latent: usize) -> Vec<f32>;
    /// The bias b of a reconstruction x̂ = Σ z f + b, in the units of the activation.
    fn bias(&self) -> Vec<f32>;
    /// Where it was trained, when known.
    fn origin(&self) -> Option<Origin>;
}

impl Space for Sae {
    fn width(&self) -> usize {
        self.d
    }

    fn latents(&self) -> usize {
        self.latents
    }

    fn encode(&self, rows: &[f32]) -> Result<Vec<Vec<(usize, f32)>>> {
        let codes = Sae::encode(self, rows)?;
        let token = |t: usize| {
            let (index, value) = codes.token(t);
            index.iter().zip(value).map(|(&l, &v)| (l as usize, v)).collect()
        };
        Ok((0..codes.tokens()).map(token).collect())
    }

    fn vector(&self, latent: usize) -> Vec<f32> {
        self.concept_vector(latent).to_vec()
    }

    fn bias(&self) -> Vec<f32> {
        self.b_dec.clone()
    }

    fn origin(&self) -> Option<Origin> {
        let about = self.about.as_ref()?;
        Some(Origin { site: about.site.clone(), grid: Some(about.grid), t: Some(about.t()), half: Some(about.half) })
    }
}
