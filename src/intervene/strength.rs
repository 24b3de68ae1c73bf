//! How strong an edit is: β and what it is measured by.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The weight β of the added direction at each token, and what normalises it.
///
/// The paper adapts β to the activation: spatial edits use β‖Z\[i,j\]‖ (4000, 400 and 1000 for early, middle and
/// final stage), global ones β‖Z\[i,j\]‖ / Σ‖Z‖ (8, 10 and 10), with Z the code of the unedited Δ. Those numbers
/// depend on the scale of codes; [`Strength::Relative`] does not, and is the default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Strength {
    /// The same β at every token.
    Constant(f64),
    /// β ‖Z\[i,j\]‖ (the paper's spatial edit).
    Code(f64),
    /// β ‖Z\[i,j\]‖ / Σᵢⱼ ‖Z\[i,j\]‖ (the paper's global edit).
    CodeShare(f64),
    /// What is added has β times the mean norm of Δ over the grid: β · meanᵢⱼ‖Δ\[i,j\]‖ / ‖Σ f‖. This library's own.
    Relative(f64),
}

impl Strength {
    /// β without its normaliser.
    #[must_use]
    pub fn beta(self) -> f64 {
        let (Strength::Constant(b) | Strength::Code(b) | Strength::CodeShare(b) | Strength::Relative(b)) = self;
        b
    }

    /// The same normaliser with another β.
    #[must_use]
    pub fn with_beta(self, beta: f64) -> Self {
        match self {
            Strength::Constant(_) => Strength::Constant(beta),
            Strength::Code(_) => Strength::Code(beta),
            Strength::CodeShare(_) => Strength::CodeShare(beta),
            Strength::Relative(_) => Strength::Relative(beta),
        }
    }

    /// Whether the code of the activation is needed to compute it.
    pub(crate) fn needs_code(self) -> bool {
        matches!(self, Strength::Code(_) | Strength::CodeShare(_))
    }

    /// βᵢⱼ for every token: `code` and `delta` hold the norms of Z and Δ, `direction` is ‖Σ f‖.
    pub(crate) fn per_token(self, code: &[f64], delta: &[f64], direction: f64) -> Vec<f64> {
        match self {
            Strength::Constant(b) => vec![b; delta.len()],
            Strength::Code(b) => code.iter().map(|z| b * z).collect(),
            Strength::CodeShare(b) => {
                let sum: f64 = code.iter().sum();
                code.iter().map(|z| if sum > 0.0 { b * z / sum } else { 0.0 }).collect()
            }
            Strength::Relative(b) => {
                let mean = delta.iter().sum::<f64>() / delta.len().max(1) as f64;
                let each = if direction > 0.0 { b * mean / direction } else { 0.0 };
                vec![each; delta.len()]
            }
        }
    }
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match self {
            Strength::Constant(_) => "",
            Strength::Code(_) => " × norm of the code",
            Strength::CodeShare(_) => " × share of the code's norm",
            Strength::Relative(_) => " × mean norm of the residual update",
        };
        write!(f, "{}{of}", self.beta())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalisers_follow_their_formulas() {
        let (code, delta) = ([1.0, 3.0, 0.0], [2.0, 4.0, 6.0]);
        let at = |s: Strength| s.per_token(&code, &delta, 2.0);
        assert_eq!(at(Strength::Constant(0.5)), [0.5; 3]);
        assert_eq!(at(Strength::Code(2.0)), [2.0, 6.0, 0.0]);
        assert_eq!(at(Strength::CodeShare(8.0)), [2.0, 6.0, 0.0]);
        assert_eq!(at(Strength::Relative(3.0)), [6.0; 3]); // 3 · 4 / 2
        assert_eq!(Strength::CodeShare(1.0).per_token(&[0.0; 2], &[1.0; 2], 1.0), [0.0; 2]);
        assert_eq!(Strength::Relative(1.0).per_token(&[], &[1.0; 2], 0.0), [0.0; 2]);
    }
}
