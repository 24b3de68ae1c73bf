//! TIDE's step: modulation before the encoder, its own loss behind the decoder.

use super::modulation::factor;
use super::{Modulation, Terms, loss};
use crate::error::{Error, Result};
use crate::kernels::sparse::{add_rows, add_scaled};
use crate::random::fnv1a;
use crate::sae::adam::Adam;
use crate::sae::architecture::check_k;
use crate::sae::codes::Codes;
use crate::sae::device::Dense;
use crate::sae::forward::{self, ROWS, Residuals, cut};
use crate::sae::path::Path;
use crate::sae::rule::{Batch, Judged, Own, Pass, Rule};
use crate::sae::step::explained_variance;
use crate::sae::weights::Weights;
use crate::sae::{Architecture, Sae};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What is this architecture's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(super) k: usize,
    pub(crate) terms: Terms,
    pub(crate) undo: bool,
    pub(crate) train_modulation: bool,
    /// k starts at this multiple of itself,
    pub(super) sparsity_start: f32,
    /// and is reached after this share of the training.
    pub(super) sparsity_share: f32,
    /// Share of the tokens, and the seed of their choice.
    pub(super) sample: f64,
    /// Of the modulation to start from.
    pub(super) digest: String,
    #[serde(skip, default = "nothing")]
    pub(crate) start: Arc<Modulation>,
}

/// In the place of a modulation that is not in the text.
fn nothing() -> Arc<Modulation> {
    Arc::new(Modulation { t: Vec::new(), d: 0, scale: Vec::new(), shift: Vec::new() })
}

impl Settings {
    pub(super) fn new(k: usize) -> Self {
        Self {
            k,
            terms: Terms::default(),
            undo: true,
            train_modulation: true,
            sparsity_start: 1.0,
            sparsity_share: 0.5,
            sample: 1.0,
            digest: String::new(),
            start: nothing(),
        }
    }

    /// The same with a modulation to start from.
    pub(super) fn starting(mut self, modulation: Modulation) -> Self {
        let numbers = modulation.scale.iter().chain(&modulation.shift).flat_map(|v| v.to_le_bytes());
        self.digest = format!("{:016x}", fnv1a(numbers));
        self.start = Arc::new(modulation);
        self
    }

    /// How many latents may fire when this share of the training is done.
    pub(crate) fn k_at(&self, progress: f32, latents: usize) -> usize {
        let left = if self.sparsity_share > 0.0 { (1.0 - progress / self.sparsity_share).max(0.0) } else { 0.0 };
        let k = self.k as f32 * (1.0 + (self.sparsity_start - 1.0) * left);
        (k.round() as usize).clamp(1, latents)
    }
}

pub(crate) struct TideRule {
    settings: Settings,
    d: usize,
    steps: usize,
    scale: Own,
    shift: Own,
    /// s·x of the batch.
    u: Vec<f32>,
    /// The k of this step.
    k: usize,
}

/// A batch behind the decoder.
struct Halves {
    /// Σ (x̂ − x)² of every chunk of tokens.
    squares: Vec<f64>,
    /// x̂ − x.
    error: Vec<f32>,
    /// What is compared: x̂, or the modulated m̂.
    decoded: Vec<f32>,
}

/// What one chunk of tokens adds to the sums of a step.
struct Sums {
    /// Of the half gradients by the reconstruction.
    g: Vec<f32>,
    /// Of the modulation's scale and shift, `[steps, d]`.
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl TideRule {
    pub(crate) fn new(settings: &Settings, latents: usize) -> Result<Self> {
        check_k(settings.k, latents)?;
        settings.terms.check()?;
        if !(settings.sparsity_start >= 1.0 && settings.sparsity_start.is_finite()) {
            let problem = format!("k starting at {} times itself: expected 1 or more", settings.sparsity_start);
            return Err(Error::invalid(problem));
        }
        if !(0.0..=1.0).contains(&settings.sparsity_share) {
            let problem = format!("k reached at {} of the training: expected 0 to 1", settings.sparsity_share);
            return Err(Error::invalid(problem));
        }
        let start = &settings.start;
        let (scale, shift) = (Own::new(start.scale.clone()), Own::new(start.shift.clone()));
        let (d, steps, k) = (start.d, start.t.len(), settings.k);
        Ok(Self { settings: settings.clone(), d, steps, scale, shift, u: Vec::new(), k })
    }

    /// Scale and shift of the row `row` of a batch, whose rows are steps of tokens.
    fn of(&self, row: usize) -> (&[f32], &[f32]) {
        let at = row % self.steps * self.d;
        (&self.scale.value[at..at + self.d], &self.shift.value[at..at + self.d])
    }

    /// One row: turns its residual `r` into half the gradient by the reconstruction, `error` becomes x̂ − x and `decoded`
    /// x̂ (or what else is compared). Returns the squares of the error.
    fn row(&self, row: usize, xc: &[f32], b: &[f32], r: &mut [f32], error: &mut [f32], decoded: &mut [f32]) -> f64 {
        let (terms, (scale, _)) = (&self.settings.terms, self.of(row));
        let u = &self.u[row * self.d..(row + 1) * self.d];
        for ((e, r), a) in error.iter_mut().zip(&*r).zip(scale) {
            *e = r / factor(*a);
        }
        let squares = error.iter().map(|e| f64::from(*e) * f64::from(*e)).sum();
        if self.settings.undo {
            decoded.iter_mut().zip(u).zip(&*error).for_each(|((y, u), e)| *y = u + e);
            r.iter_mut().zip(&*error).for_each(|(r, e)| *r = terms.mse * e);
            loss::cosine(r, terms.cosine, u, decoded);
            r.iter_mut().zip(scale).for_each(|(r, a)| *r /= factor(*a));
        } else {
            // The modulated activation is the target, and a constant: a modulation could make it small.
            let target: Vec<f32> = xc.iter().zip(b).map(|(x, b)| x + b).collect();
            decoded.iter_mut().zip(&target).zip(&*r).for_each(|((y, m), r)| *y = m + r);
            r.iter_mut().for_each(|r| *r *= terms.mse);
            loss::cosine(r, terms.cosine, &target, decoded);
        }
        squares
    }

    /// Turns the residuals of a batch into half gradients by the reconstruction.
    fn halves(&self, xc: &[f32], b: &[f32], r: &mut [f32]) -> Halves {
        let (d, rows) = (self.d, ROWS * self.d);
        let (mut error, mut decoded) = (vec![0.0; xc.len()], vec![0.0; xc.len()]);
        let chunks =
            (xc.par_chunks(rows), r.par_chunks_mut(rows), error.par_chunks_mut(rows), decoded.par_chunks_mut(rows));
        let chunks = chunks.into_par_iter().enumerate().map(|(number, (xc, r, error, decoded))| {
            let rows = xc.chunks_exact(d).zip(r.chunks_exact_mut(d));
            let rows = rows.zip(error.chunks_exact_mut(d).zip(decoded.chunks_exact_mut(d)));
            rows.enumerate().map(|(i, ((xc, r), (e, y)))| self.row(number * ROWS + i, xc, b, r, e, y)).sum()
        });
        let squares = chunks.collect();
        Halves { squares, error, decoded }
    }

    /// Adds to the slopes what the loss says of codes alone.
    fn add_terms_of_codes(&self, codes: &Codes, slopes: &mut [f32]) {
        let (steps, terms) = (self.steps, &self.settings.terms);
        // A token has one pair of neighbouring steps less than steps.
        let together = terms.temporal * steps as f32 / (steps.max(2) - 1) as f32;
        cut(codes, slopes, ROWS).into_par_iter().enumerate().for_each(|(number, mut slopes)| {
            for t in number * ROWS..((number + 1) * ROWS).min(codes.tokens()) {
                let (mine, rest) = slopes.split_at_mut(codes.token(t).0.len());
                slopes = rest;
                if together > 0.0 {
                    let before = (t % steps > 0).then(|| t - 1);
                    let after = (t % steps + 1 < steps).then_some(t + 1);
                    loss::temporal(mine, codes, t, before.into_iter().chain(after), together);
                }
                loss::sparsity(mine, terms, codes.token(t).1, self.k, self.d);
            }
        });
    }

    /// What the decoder bias and the modulation learn from, chunk by chunk of the batch.
    ///
    /// With h = Σ_j s_j W_enc_j, what reaches m through the encoder, and g, what reaches m̂: ∂L/∂c = h − g and
    /// ∂L/∂a = h ⊙ u − g ⊙ x̂, where g counts only if the modulation is undone.
    fn sums(&self, weights: &Weights, main: &Path, second: &Path, decoded: &[f32]) -> Vec<Sums> {
        let (d, steps, trains) = (self.d, self.steps, self.settings.train_modulation);
        let tokens = main.codes.tokens();
        let chunk = |number: usize| {
            let zeros = || if trains { vec![0.0; steps * d] } else { Vec::new() };
            let mut sums = Sums { g: vec![0.0; d], scale: zeros(), shift: zeros() };
            for t in number * ROWS..((number + 1) * ROWS).min(tokens) {
                let range = t * d..(t + 1) * d;
                let g = &main.r[range.clone()];
                add_scaled(&mut sums.g, 1.0, g);
                if !trains {
                    continue;
                }
                let mut h = vec![0.0; d];
                for Path { codes, slopes, .. } in [main, second] {
                    if !codes.index.is_empty() {
                        let entries = codes.offsets[t]..codes.offsets[t + 1];
                        add_rows(&mut h, &slopes[entries.clone()], &codes.index[entries], &weights.w_enc);
                    }
                }
                let (u, y, at) = (&self.u[range.clone()], &decoded[range], t % steps * d);
                for c in 0..d {
                    let back = if self.settings.undo { g[c] } else { 0.0 };
                    sums.shift[at + c] += h[c] - back;
                    sums.scale[at + c] += h[c] * u[c] - back * y[c];
                }
            }
            sums
        };
        (0..tokens.div_ceil(ROWS)).into_par_iter().map(chunk).collect()
    }
}

impl Rule for TideRule {
    fn input(&mut self, x: &[f32], b_dec: &[f32], scale: f32, out: &mut Vec<f32>) {
        let d = self.d;
        self.u.clear();
        self.u.extend(x.iter().map(|v| scale * v));
        out.resize(x.len(), 0.0);
        out.par_chunks_mut(d).with_min_len(ROWS).zip(self.u.par_chunks(d)).enumerate().for_each(|(row, (out, u))| {
            let (a, c) = self.of(row);
            for ((((out, u), a), c), b) in out.iter_mut().zip(u).zip(a).zip(c).zip(b_dec) {
                *out = u * factor(*a) + c - b;
            }
        });
    }

    fn encode(&mut self, batch: &Batch<'_>, main: &mut Codes, second: &mut Codes) {
        self.k = self.settings.k_at(batch.progress, batch.weights.latents);
        batch.tiles(|scores| batch.top(scores, self.k, main, second));
    }

    fn reads_slopes(&self) -> bool {
        true
    }

    fn loss(&mut self, pass: Pass<'_>) -> Option<Judged> {
        let Pass { weights, xc, settings, panels, main, second } = pass;
        let Halves { squares, error, decoded } = self.halves(xc, &weights.b_dec, &mut main.r);
        forward::slopes(weights, panels, &main.codes, &main.r, &mut main.slopes);
        self.add_terms_of_codes(&main.codes, &mut main.slopes);
        let mut residuals = Residuals { squares: squares.iter().sum(), sum: vec![0.0; self.d] };
        for part in self.sums(weights, main, second, &decoded) {
            add_scaled(&mut residuals.sum, 1.0, &part.g);
            for (own, part) in [(&mut self.scale, &part.scale), (&mut self.shift, &part.shift)] {
                own.gradient.iter_mut().zip(part).for_each(|(g, p)| *g += p);
            }
        }
        let explained_variance = settings.judge.then(|| explained_variance(&self.u, &error, self.d));
        Some(Judged { residuals, explained_variance })
    }

    fn dense(&self) -> Dense {
        Dense::Tide(self.settings.clone())
    }

    fn own(&mut self) -> Vec<&mut Own> {
        vec![&mut self.scale, &mut self.shift]
    }

    fn weight_penalty(&self) -> f32 {
        self.settings.terms.weights
    }

    fn gradient_squares(&self) -> f64 {
        self.scale.squares() + self.shift.squares()
    }

    fn update(&mut self, adam: &Adam, c: f32) {
        if self.settings.train_modulation {
            self.scale.update(adam, c);
            self.shift.update(adam, c);
        }
    }

    fn state(&mut self) -> Vec<(&'static str, &mut Vec<f32>)> {
        let scale = self.scale.state(["modulation.scale", "modulation.scale.m", "modulation.scale.v"]);
        let shift = self.shift.state(["modulation.shift", "modulation.shift.m", "modulation.shift.v"]);
        scale.into_iter().chain(shift).collect()
    }

    fn fold(&self, weights: Weights) -> Sae {
        weights.sae(Architecture::TopK { k: self.settings.k })
    }
}
