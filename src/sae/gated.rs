//! The Gated architecture (Rajamanoharan et al. 2024a).

use super::codes::Codes;
use super::device::Dense;
use super::form::Form;
use super::path::Path;
use super::recipe::{L1, Recipe, recipe, sparsity};
use super::rule::{Batch, Own, Rule, Second, dense_start};
use super::step::Settings as Step;
use super::weights::Weights;
use super::{Architecture, Sae, forward};
use crate::error::Result;
use crate::kernels::sparse::{above, scale};

/// A recipe for a Gated SAE: z = 1\[π > 0\]·ReLU(e^r·a + b_mag) with a = W_enc (x − b_dec) and the gate π = a + b_gate.
///
/// Which latents fire and how strongly are two paths through one encoder, so that the L1 penalty on the gate does not
/// shrink the magnitudes. The loss is ‖x − x̂‖² + λ Σ ReLU(π) + ‖x − x̂_gate‖², where x̂_gate decodes ReLU(π) with the
/// decoder taken as a constant: the only way in which the gate learns.
///
/// What is saved is a [JumpReLU](super::Architecture::JumpReLU) SAE with the encoder e^r·W_enc, the bias b_mag and the
/// threshold max(0, b_mag − e^r·b_gate), which gives the same codes (section 3.2 of the paper).
///
/// ```
/// # use denoscope::{activations::Activations, sae::Gated};
/// # let data = denoscope::random::stream(0, "example", 0).normals(40 * 16 * 6);
/// # let activations = Activations::from_vec((4, 4), 6, data)?;
/// let dense = Gated::new(4, 0.1).train(&activations)?;
/// let sparse = Gated::new(4, 1.0).train(&activations)?;
/// assert!(sparse.training.l0 < dense.training.l0);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Gated {
    pub(crate) recipe: Recipe,
    settings: L1,
}

impl Gated {
    /// `expansion`·d latents under an L1 penalty of weight `l1` on the gate (λ, for inputs with a mean ‖x‖² of d:
    /// SAELens' `l1_coefficient`).
    #[must_use]
    pub fn new(expansion: usize, l1: f32) -> Self {
        Self { recipe: Recipe::new(expansion), settings: L1::new(l1) }
    }

    fn form(&self) -> Form {
        Form::Gated(self.settings)
    }
}

recipe!(Gated);
sparsity!(Gated);

/// b_gate is the encoder bias of the shared weights.
pub(crate) struct GatedRule {
    settings: L1,
    pub(crate) r_mag: Own,
    pub(crate) b_mag: Own,
}

impl GatedRule {
    pub(crate) fn new(settings: L1, latents: usize) -> Result<Self> {
        settings.check()?;
        let zeros = || Own::new(vec![0.0; latents]);
        Ok(Self { settings, r_mag: zeros(), b_mag: zeros() })
    }

    fn gains(&self) -> Vec<f32> {
        self.r_mag.value.iter().map(|r| r.exp()).collect()
    }
}

impl Rule for GatedRule {
    /// Both codes have the entries whose gate is open: magnitudes in the first, gates in the second.
    fn encode(&mut self, batch: &Batch<'_>, main: &mut Codes, second: &mut Codes) {
        let (gains, b_gate) = (self.gains(), &batch.weights.b_enc);
        batch.tiles(|scores| {
            forward::above(scores, b_gate, 0.0, second);
            forward::each_row(scores, batch.weights.latents, main, |row, index, value| {
                above(row, b_gate, 0.0, |i, _| {
                    index.push(i as u32);
                    value.push((gains[i] * row[i] + self.b_mag.value[i]).max(0.0));
                });
            });
        });
    }

    fn second(&self) -> Second {
        Second::Input
    }

    fn reads_slopes(&self) -> bool {
        true
    }

    fn terms(&mut self, step: &Step, main: &mut Path, second: &mut Path) {
        let half = self.settings.slope(step.progress);
        second.slopes.iter_mut().for_each(|s| *s += half);
        let gains = self.gains();
        let Path { codes, slopes, .. } = &mut *main;
        for ((&j, &z), slope) in codes.index.iter().zip(&codes.value).zip(slopes) {
            let j = j as usize;
            if z > 0.0 {
                self.b_mag.gradient[j] += *slope;
                self.r_mag.gradient[j] += *slope * (z - self.b_mag.value[j]); // e^r·a
            }
            *slope *= gains[j];
        }
        main.drop_silent();
    }

    fn dense(&self) -> Dense {
        Dense::Gated(self.settings)
    }

    fn own(&mut self) -> Vec<&mut Own> {
        vec![&mut self.r_mag, &mut self.b_mag]
    }

    fn update(&mut self, adam: &super::adam::Adam, c: f32) {
        self.r_mag.update(adam, c);
        self.b_mag.update(adam, c);
    }

    fn gradient_squares(&self) -> f64 {
        self.r_mag.squares() + self.b_mag.squares()
    }

    fn state(&mut self) -> Vec<(&'static str, &mut Vec<f32>)> {
        let r = self.r_mag.state(["r_mag", "r_mag.m", "r_mag.v"]);
        let b = self.b_mag.state(["b_mag", "b_mag.m", "b_mag.v"]);
        r.into_iter().chain(b).collect()
    }

    fn revives(&self) -> bool {
        false
    }

    fn restart(&mut self, j: usize) {
        self.r_mag.restart(j, 0.0);
        self.b_mag.restart(j, 0.0);
    }

    fn start(&self, d: usize, latents: usize) -> f32 {
        dense_start(d, latents)
    }

    fn fold(&self, weights: Weights) -> Sae {
        fold(weights, &self.r_mag.value, &self.b_mag.value)
    }
}

/// The JumpReLU SAE with the codes of a Gated one, whose b_gate is in `weights.b_enc`.
///
/// With p = e^r·a + b_mag the gate a > −b_gate is open where p > b_mag − e^r·b_gate.
pub(crate) fn fold(mut weights: Weights, r_mag: &[f32], b_mag: &[f32]) -> Sae {
    let rows = weights.w_enc.chunks_exact_mut(weights.d).zip(&mut weights.b_enc).zip(r_mag.iter().zip(b_mag));
    let threshold = rows
        .map(|((row, b), (r, b_mag))| {
            let gain = r.exp();
            scale(row, gain);
            let threshold = (b_mag - gain * *b).max(0.0);
            *b = *b_mag;
            threshold
        })
        .collect();
    weights.sae(Architecture::JumpReLU { threshold })
}
