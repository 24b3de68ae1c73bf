//! The architectures in their inference forms: what a file holds and what encodes.

use super::codes::Codes;
use super::forward;
use crate::error::{Error, Result};
use crate::kernels::sparse::over;

/// How latents are made from pre-activations p = W_enc (x − b_dec) + b_enc.
///
/// These are inference forms. Several ways of training end in one of them: BatchTopK, Matryoshka and Gated SAEs are
/// folded to [`JumpReLU`](Architecture::JumpReLU), which gives the same codes. What is not named here is refused by
/// every reader, never guessed.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Architecture {
    /// z = ReLU(p).
    ReLU,
    /// z = TopK(ReLU(p)): the k largest positive pre-activations of a token.
    TopK {
        /// Latents that may fire on a token.
        k: usize,
    },
    /// z = p where p > θ and p > 0, else 0.
    JumpReLU {
        /// θ of every latent.
        threshold: Vec<f32>,
    },
}

impl Architecture {
    /// The name in files, as SAELens spells it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Architecture::ReLU => "standard",
            Architecture::TopK { .. } => "topk",
            Architecture::JumpReLU { .. } => "jumprelu",
        }
    }

    /// Refuses numbers that `latents` latents cannot have.
    pub(crate) fn check(&self, latents: usize) -> Result<()> {
        match self {
            Architecture::ReLU => Ok(()),
            Architecture::TopK { k } => check_k(*k, latents),
            Architecture::JumpReLU { threshold } => check_tensor("threshold", threshold, &[latents]),
        }
    }

    /// The same for pre-activations that are `factor` times what they were.
    pub(crate) fn scaled(mut self, factor: f32) -> Self {
        if let Architecture::JumpReLU { threshold } = &mut self {
            threshold.iter_mut().for_each(|t| *t *= factor);
        }
        self
    }

    /// Codes of the rows of `scores` + `b_enc`, appended to `codes`.
    pub(crate) fn encode(&self, scores: &[f32], b_enc: &[f32], codes: &mut Codes) {
        match self {
            Architecture::ReLU => forward::above(scores, b_enc, 0.0, codes),
            Architecture::TopK { k } => forward::top(scores, b_enc, *k, codes),
            Architecture::JumpReLU { threshold } => {
                // A negative threshold lets nothing more through than ReLU does.
                let floor: Vec<f32> = threshold.iter().map(|t| t.max(0.0)).collect();
                forward::each_row(scores, b_enc.len(), codes, |row, index, value| {
                    over(row, b_enc, &floor, |i, p| {
                        index.push(i as u32);
                        value.push(p);
                    });
                });
            }
        }
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Architecture::ReLU => "ReLU",
            Architecture::TopK { .. } => "TopK",
            Architecture::JumpReLU { .. } => "JumpReLU",
        })
    }
}

/// Refuses a k that `latents` latents cannot have.
pub(crate) fn check_k(k: usize, latents: usize) -> Result<()> {
    if k == 0 || k > latents {
        return Err(Error::invalid(format!("k = {k} of {latents} latents: expected 1 ≤ k ≤ latents")));
    }
    Ok(())
}

/// Refuses a tensor of another size than `shape`, or with numbers that are not finite.
pub(crate) fn check_tensor(what: &str, tensor: &[f32], shape: &[usize]) -> Result<()> {
    if tensor.len() != shape.iter().product::<usize>() {
        return Err(Error::Shape { what: what.into(), found: vec![tensor.len()], expected: shape.to_vec() });
    }
    match tensor.iter().find(|v| !v.is_finite()) {
        Some(v) => Err(Error::invalid(format!("{what} holds {v}: expected finite numbers"))),
        None => Ok(()),
    }
}
