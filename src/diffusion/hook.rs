//! Hooks: look at, or replace, what flows through a model while it denoises.
//!
//! A hook point is a diffusers module path, a [`Kind`] of tensor, a step and a guidance [`Half`]. A module without
//! a hook does no work for it, and a hook that only looks leaves the result bit-identical.

use crate::error::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which tensor of a module a hook sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// What enters the module.
    Input,
    /// What leaves it.
    Output,
    /// The residual update Δ = output − input (Emergence, section 3): only where both have one shape.
    Residual,
}

impl Kind {
    /// All kinds, in the order of their names' use.
    pub const ALL: [Kind; 3] = [Kind::Input, Kind::Output, Kind::Residual];

    /// The name in paths and files: `input`, `output` or `residual`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Input => "input",
            Kind::Output => "output",
            Kind::Residual => "residual",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Kind::ALL
            .into_iter()
            .find(|k| k.name() == s)
            .ok_or_else(|| Error::unknown("kind of tensor", s, Kind::ALL.map(Kind::name)))
    }
}

/// Which half of classifier-free guidance a tensor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    /// Computed with the prompt.
    Conditional,
    /// Computed with the negative or empty prompt.
    Unconditional,
}

impl Half {
    /// The name in files: `conditional` or `unconditional`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Half::Conditional => "conditional",
            Half::Unconditional => "unconditional",
        }
    }
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A place in a model: a diffusers module path and a kind of tensor, written `mid_block.attentions.0:residual`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Site {
    /// The module path, as diffusers names it.
    pub module: String,
    /// Which of its tensors.
    pub kind: Kind,
}

impl Site {
    /// The tensor `kind` of `module`.
    pub fn new(module: impl Into<String>, kind: Kind) -> Self {
        Self { module: module.into(), kind }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.module, self.kind)
    }
}

impl FromStr for Site {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let (module, kind) = s.rsplit_once(':').ok_or_else(|| {
            Error::invalid(format!("site {s:?}: expected PATH:KIND, as in mid_block.attentions.0:residual"))
        })?;
        Ok(Site::new(module, kind.parse()?))
    }
}

/// Where and when a hook is being called.
#[derive(Debug, Clone)]
pub struct Visit<'a> {
    /// The place.
    pub site: &'a Site,
    /// Denoising step, 0 = the noisiest.
    pub step: usize,
    /// How many steps this generation takes.
    pub steps: usize,
    /// The scheduler's timestep (0..1000), as the network sees it.
    pub timestep: f64,
    /// Which guidance half.
    pub half: Half,
    /// Height and width of the grid of tokens; `(1, n)` for a sequence that is no picture.
    pub grid: (usize, usize),
    /// One id for every item of the batch: position in the list of prompts of this generation.
    pub items: &'a [usize],
}

impl Visit<'_> {
    /// Progress as the papers count it: 1 at the first step (noise), 0 at the last.
    #[must_use]
    pub fn t(&self) -> f64 {
        progress_t(self.step, self.steps)
    }
}

/// t = 1 − step/(steps − 1): 1 at the first step (noise), 0 at the last.
#[must_use]
pub fn progress_t(step: usize, steps: usize) -> f64 {
    1.0 - step as f64 / (steps.max(2) - 1) as f64
}

/// The step whose t is nearest to `t` (ties go to the earlier step).
#[must_use]
pub fn step_at(t: f64, steps: usize) -> usize {
    let exact = (1.0 - t.clamp(0.0, 1.0)) * (steps.max(1) - 1) as f64;
    (exact - 1e-9).round().max(0.0) as usize
}

/// Something that looks at activations, or replaces them, during a forward pass.
///
/// The tensor is `[items, tokens, channels]`, tokens row by row (y before x). Returning `None` leaves the model
/// untouched, to the bit; returning a tensor of the same shape replaces the one seen. For [`Kind::Residual`] the
/// replacement Δ′ makes the module's output `input + Δ′`.
pub trait Hook: Send {
    /// The places this hook wants to see.
    fn sites(&self) -> Vec<Site>;

    /// Whether it wants to see them at this step and half (called once a step and half, before the pass).
    fn wants(&self, _step: usize, _steps: usize, _half: Half) -> bool {
        true
    }

    /// What it changes and how strongly, for the message when a generation breaks; `None` if it only looks.
    fn about(&self) -> Option<String> {
        None
    }

    /// A digest of all that determines what it does to a picture; `None` if that cannot be told, and pictures made with
    /// it are then not [kept](crate::measure::generate::Settled::kept_in).
    fn identity(&self) -> Option<u64> {
        None
    }

    /// Looks at an activation and may replace it.
    ///
    /// # Errors
    /// Whatever stops the generation.
    fn visit(&mut self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>>;
}

impl<H: Hook + ?Sized> Hook for &mut H {
    fn sites(&self) -> Vec<Site> {
        (**self).sites()
    }

    fn wants(&self, step: usize, steps: usize, half: Half) -> bool {
        (**self).wants(step, steps, half)
    }

    fn about(&self) -> Option<String> {
        (**self).about()
    }

    fn identity(&self) -> Option<u64> {
        (**self).identity()
    }

    fn visit(&mut self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        (**self).visit(visit, activation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_round_trip_and_name_their_faults() {
        let site: Site = "mid_block.attentions.0:residual".parse().unwrap();
        assert_eq!(site, Site::new("mid_block.attentions.0", Kind::Residual));
        assert_eq!(site.to_string(), "mid_block.attentions.0:residual");
        assert!("mid_block".parse::<Site>().unwrap_err().to_string().contains("PATH:KIND"));
        assert!("a:residul".parse::<Site>().unwrap_err().to_string().contains("residual"));
    }

    #[test]
    fn stages_map_to_steps_and_back() {
        assert_eq!([1.0, 0.5, 0.0].map(|t| step_at(t, 50)), [0, 24, 49]);
        assert!((progress_t(0, 50) - 1.0).abs() < 1e-12 && progress_t(49, 50).abs() < 1e-12);
        assert_eq!(step_at(0.5, 1), 0);
    }
}
