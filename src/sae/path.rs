//! Codes on their way through a step of training, and what they leave.

use super::blocks::{self, Rows};
use super::codes::{ByLatent, Codes};
use crate::kernels::gathered::Panels;

/// Codes on their way through a step; the buffers live from step to step.
pub(crate) struct Path {
    pub(crate) codes: Codes,
    /// What their reconstruction leaves, `[tokens, d]`, or `[levels, tokens, d]` for nested dictionaries; where a rule has
    /// another loss than the squares, half its gradient by the reconstruction.
    pub(crate) r: Vec<f32>,
    /// ½ ∂‖r‖²/∂z of every entry; of none if they are `late`.
    pub(crate) slopes: Vec<f32>,
    /// Whether slopes are found together with the gradients of the decoder, which read the same rows of r: where entries
    /// are many and the rule reads no slopes.
    pub(crate) late: bool,
    /// Its entries by latent, unless they are `late`.
    pub(crate) by_latent: ByLatent,
    /// Of r.
    panels: Panels,
}

impl Path {
    pub(crate) fn new(latents: usize) -> Self {
        let (codes, by_latent, panels) = (Codes::empty(latents), ByLatent::default(), Panels::default());
        Self { codes, r: Vec::new(), slopes: Vec::new(), late: false, by_latent, panels }
    }

    /// Makes room for what the codes leave: `size` numbers, and slopes unless the rule can do without until the update.
    pub(crate) fn make_room(&mut self, size: usize, may_be_late: bool) {
        self.late = may_be_late && self.is_dense();
        self.r.resize(size, 0.0);
        self.slopes.resize(if self.late { 0 } else { self.codes.index.len() }, 0.0);
    }

    /// Whether its entries are so many that they are taken in panels.
    pub(crate) fn is_dense(&self) -> bool {
        blocks::pay(self.codes.index.len(), self.codes.tokens(), self.codes.latents)
    }

    /// What decoder rows learn from, from row `first` on.
    pub(crate) fn learns(&self, first: usize) -> Rows<'_> {
        Rows { rows: &self.r, panels: &self.panels, first }
    }

    /// Drops the entries whose value is 0.
    pub(crate) fn drop_silent(&mut self) {
        let kept = self.codes.retain(|value| value > 0.0);
        for (to, from) in kept.iter().enumerate() {
            self.slopes[to] = self.slopes[*from];
        }
        self.slopes.truncate(kept.len());
    }

    /// Readies entries and residuals for the update.
    pub(crate) fn sort(&mut self, d: usize) {
        if !self.late {
            self.by_latent.sort(&self.codes, &self.slopes);
        }
        if self.is_dense() {
            self.panels.fill(&self.r, d);
        }
    }
}
