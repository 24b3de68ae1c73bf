//! One step of training, written out: closed-form sparse gradients, one dense product.
//!
//! This is the step of every architecture; a [`Rule`] says which latents fire and what else is in the loss. Written here
//! for TopK:
//!
//! With xc = x − b_dec, codes z and residual r = W_decᵀ z − xc, the loss of a batch of B tokens is
//! L = (‖r‖² + α‖r_aux‖²) / (B·d), where r_aux = W_decᵀ z_aux − e is what the dead latents leave of the error e = −r,
//! taken as a constant. For every entry z_j > 0 of a token (p the pre-activation):
//!
//! - ∂L/∂W_dec_j = c·z_j r, ∂L/∂p_j = c·⟨W_dec_j, r⟩ =: c·s_j, ∂L/∂W_enc_j = c·s_j xc, ∂L/∂b_enc_j = c·s_j,
//! - ∂L/∂b_dec = c·(Σ r − Σ_j W_enc_j Σ s_j), since b_dec is also taken off the input, with c = 2/(B·d),
//!
//! and the same for entries of z_aux with r_aux and c·α, but for the bias, which the auxiliary decoding leaves out.
//! Entries are sorted by latent, so that a latent's gradient is summed, used and forgotten by one thread: no
//! gradient of a whole matrix exists, and the order of every sum is fixed.

use super::adam::{Adam, Moments};
use super::codes::{ByLatent, Codes};
use super::forward::{self, nested_residuals, residuals};
use super::rule::{Batch, Pass, Rule, Second};
use super::start::normalise;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::kernels::sparse::{add_rows, add_scaled, dot, scale};
use rayon::prelude::*;

/// Latents that one thread takes at a time; fixed, so that partial sums do not depend on threads.
const LATENTS: usize = 32;

/// An SAE in training, in the units of scaled activations.
pub(crate) struct Trainer {
    pub(crate) weights: Weights,
    pub(crate) rule: Box<dyn Rule>,
    /// Of W_enc, b_enc, W_dec, b_dec.
    pub(crate) moments: [Moments; 4],
    /// Tokens since each latent fired.
    pub(crate) silent: Vec<u64>,
    /// Steps done.
    pub(crate) done: usize,
    main: Path,
    second: Path,
}

/// Codes on their way through a step; the buffers live from step to step.
pub(crate) struct Path {
    pub(crate) codes: Codes,
    /// What their reconstruction leaves, `[tokens, d]`, or `[levels, tokens, d]` for nested dictionaries; where a rule has
    /// another loss than the squares, half its gradient by the reconstruction.
    pub(crate) r: Vec<f32>,
    /// ½ ∂‖r‖²/∂z of every entry.
    pub(crate) slopes: Vec<f32>,
    by_latent: ByLatent,
}

impl Path {
    fn new(latents: usize) -> Self {
        Self { codes: Codes::empty(latents), r: Vec::new(), slopes: Vec::new(), by_latent: ByLatent::default() }
    }

    /// Drops the entries whose value is 0.
    pub(crate) fn drop_silent(&mut self) {
        let kept = self.codes.retain(|value| value > 0.0);
        for (to, from) in kept.iter().enumerate() {
            self.slopes[to] = self.slopes[*from];
        }
        self.slopes.truncate(kept.len());
    }

    fn sort(&mut self) {
        self.by_latent.sort(&self.codes, &self.slopes);
    }
}

/// What a step needs beside the batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) adam: Adam,
    /// Inputs are multiplied by this.
    pub(crate) scale: f32,
    pub(crate) aux_alpha: f32,
    pub(crate) aux_k: usize,
    pub(crate) dead_window: u64,
    /// Share of the steps of the training that are done.
    pub(crate) progress: f32,
    /// Whether the explained variance of the batch is wanted.
    pub(crate) judge: bool,
    /// The largest length of the gradient of all weights.
    pub(crate) clip: Option<f32>,
    /// What the encoder matrix loses of itself: learning rate × weight decay.
    pub(crate) shrink: f32,
}

/// What a step found, before its update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// ‖x − x̂‖²/d, mean over the batch.
    pub(crate) loss: f64,
    /// Mean number of latents that fired.
    pub(crate) l0: f64,
    /// Share of dead latents.
    pub(crate) dead: f64,
    /// Mean over channels of 1 − Var(x − x̂)/Var(x), if wanted.
    pub(crate) explained_variance: Option<f64>,
}

impl Trainer {
    pub(crate) fn new(weights: Weights, rule: Box<dyn Rule>) -> Self {
        let zeros = |t: &Vec<f32>| Moments::zeros(t.len());
        let moments = [zeros(&weights.w_enc), zeros(&weights.b_enc), zeros(&weights.w_dec), zeros(&weights.b_dec)];
        let latents = weights.latents;
        let (main, second) = (Path::new(latents), Path::new(latents));
        Self { weights, rule, moments, silent: vec![0; latents], done: 0, main, second }
    }

    /// One step on `x` = `[tokens, d]`.
    pub(crate) fn step(&mut self, x: &[f32], settings: &Settings) -> Result<Step> {
        let (d, latents) = (self.weights.d, self.weights.latents);
        let tokens = x.len() / d;
        let xc = self.rule.input(x, &self.weights.b_dec, settings.scale);
        let dead: Vec<u32> = (0..latents as u32).filter(|&j| self.silent[j as usize] >= settings.dead_window).collect();
        let (main, second, weights) = (&mut self.main, &mut self.second, &self.weights);
        main.codes.clear();
        second.codes.clear();
        let k_aux = if settings.aux_alpha > 0.0 { settings.aux_k } else { 0 };
        let batch = Batch { weights, xc: &xc, dead: &dead, k_aux, progress: settings.progress };
        self.rule.encode(&batch, &mut main.codes, &mut second.codes);

        let levels = self.rule.levels();
        main.r.resize(x.len() * levels.len().max(1), 0.0);
        main.slopes.resize(main.codes.index.len(), 0.0);
        let mut found = if levels.is_empty() {
            residuals(weights, &main.codes, &xc, 1.0, &mut main.r, &mut main.slopes)
        } else {
            nested_residuals(weights, levels, &main.codes, &xc, &mut main.r, &mut main.slopes)
        };
        let whole = &main.r[main.r.len() - x.len()..];
        second.slopes.resize(second.codes.index.len(), 0.0);
        if !second.codes.index.is_empty() {
            second.r.resize(x.len(), 0.0);
            match self.rule.second() {
                Second::Input => {
                    residuals(weights, &second.codes, &xc, 1.0, &mut second.r, &mut second.slopes);
                }
                Second::Error => {
                    residuals(weights, &second.codes, whole, -1.0, &mut second.r, &mut second.slopes);
                    // The weight of this loss goes into its residual and slopes once, and so into every gradient.
                    second.r.par_chunks_mut(forward::ROWS * d).for_each(|rows| scale(rows, settings.aux_alpha));
                    scale(&mut second.slopes, settings.aux_alpha);
                }
            }
        }
        let mut judged = settings.judge.then(|| explained_variance(&xc, whole, d));
        if let Some(own) = self.rule.loss(Pass { weights, xc: &xc, settings, main, second }) {
            (found, judged) = (own.residuals, own.explained_variance);
        }
        let loss = found.squares / x.len() as f64;
        if !loss.is_finite() {
            return Err(Error::invalid(format!(
                "the loss is {loss} at step {}: a lower learning rate may help",
                self.done
            )));
        }
        self.rule.terms(settings, main, second);
        main.sort();
        if second.codes.index.is_empty() {
            second.by_latent.clear(latents);
        } else {
            second.sort();
        }
        for (j, silent) in self.silent.iter_mut().enumerate() {
            *silent = if main.by_latent.count(j) > 0 { 0 } else { *silent + tokens as u64 };
        }
        let (l0, dead) = (main.codes.l0(), dead.len() as f64 / latents as f64);
        let report = Step { loss, l0, dead, explained_variance: judged };
        self.update(&xc, found.sum, settings);
        self.done += 1;
        Ok(report)
    }

    /// Gradients latent by latent, each used at once; then the decoder bias and what is the architecture's own.
    fn update(&mut self, xc: &[f32], mut sum_r: Vec<f32>, settings: &Settings) {
        let d = self.weights.d;
        let whole = 2.0 / xc.len() as f32;
        let (adam, trains_decoder) = (settings.adam, self.rule.second() == Second::Error);
        let gather = Gather {
            main: &self.main,
            second: &self.second,
            levels: self.rule.levels(),
            xc,
            trains_decoder,
            penalty: 2.0 * self.rule.weight_penalty() / whole,
        };
        let c = match settings.clip {
            Some(most) => {
                let length =
                    (gather.squares(&self.weights, &sum_r) + self.rule.gradient_squares()).sqrt() as f32 * whole;
                if length > most { whole * (most / length) } else { whole }
            }
            None => whole,
        };
        let [enc, enc_b, dec, dec_b] = &mut self.moments;
        let size = LATENTS * d;
        let encoder = (
            self.weights.w_enc.par_chunks_mut(size),
            enc.m.par_chunks_mut(size),
            enc.v.par_chunks_mut(size),
            self.weights.b_enc.par_chunks_mut(LATENTS),
            enc_b.m.par_chunks_mut(LATENTS),
            enc_b.v.par_chunks_mut(LATENTS),
        );
        let decoder = (self.weights.w_dec.par_chunks_mut(size), dec.m.par_chunks_mut(size), dec.v.par_chunks_mut(size));
        let through_encoder: Vec<Vec<f32>> = (encoder, decoder)
            .into_par_iter()
            .enumerate()
            .map(|(number, ((w_enc, m_enc, v_enc, b_enc, m_b, v_b), (w_dec, m_dec, v_dec)))| {
                let mut through = vec![0.0; d];
                let (mut g_enc, mut g_dec) = (vec![0.0; d], vec![0.0; d]);
                for i in 0..b_enc.len() {
                    let (j, row) = (number * LATENTS + i, i * d..(i + 1) * d);
                    let (first, other) = gather.latent(j, &w_enc[row.clone()], &mut g_enc, &mut g_dec);
                    add_scaled(&mut through, -(first + other), &w_enc[row.clone()]);
                    scale(&mut g_enc, c);
                    scale(&mut g_dec, c);
                    if settings.shrink > 0.0 {
                        scale(&mut w_enc[row.clone()], 1.0 - settings.shrink);
                    }
                    adam.apply(&mut w_enc[row.clone()], &mut m_enc[row.clone()], &mut v_enc[row.clone()], &g_enc);
                    let g_b = if trains_decoder { first + other } else { other };
                    adam.apply(&mut b_enc[i..=i], &mut m_b[i..=i], &mut v_b[i..=i], &[c * g_b]);
                    // The part along the row would only change its length, which the next line takes back.
                    let w = &mut w_dec[row.clone()];
                    let along = dot(&g_dec, w);
                    add_scaled(&mut g_dec, -along, w);
                    adam.apply(w, &mut m_dec[row.clone()], &mut v_dec[row], &g_dec);
                    normalise(w);
                }
                through
            })
            .collect();
        for part in &through_encoder {
            add_scaled(&mut sum_r, 1.0, part);
        }
        scale(&mut sum_r, c);
        adam.apply(&mut self.weights.b_dec, &mut dec_b.m, &mut dec_b.v, &sum_r);
        self.rule.update(&adam, c);
    }

    /// Share of latents that were silent for the whole window.
    pub(crate) fn dead_share(&self, window: u64) -> f64 {
        self.silent.iter().filter(|&&s| s >= window).count() as f64 / self.silent.len() as f64
    }
}

/// What the gradients of a latent are summed from.
struct Gather<'a> {
    main: &'a Path,
    second: &'a Path,
    levels: &'a [usize],
    xc: &'a [f32],
    trains_decoder: bool,
    /// Weight of the encoder row in its own gradient.
    penalty: f32,
}

impl Gather<'_> {
    /// The gradients of the rows of latent `j`, but for the factor of all; returns Σ s of both codes.
    fn latent(&self, j: usize, w_enc: &[f32], g_enc: &mut [f32], g_dec: &mut [f32]) -> (f32, f32) {
        g_enc.fill(0.0);
        g_dec.fill(0.0);
        if self.penalty > 0.0 {
            add_scaled(g_enc, self.penalty, w_enc);
        }
        // A latent's decoder row meets the residual of its level.
        let level = self.levels.iter().position(|&end| j < end).unwrap_or(0);
        let residual = &self.main.r[level * self.xc.len()..(level + 1) * self.xc.len()];
        let first = gather(&self.main.by_latent, j, self.xc, Some(residual), g_enc, g_dec);
        let decoded = self.trains_decoder.then_some(&self.second.r[..]);
        (first, gather(&self.second.by_latent, j, self.xc, decoded, g_enc, g_dec))
    }

    /// ‖gradient‖² over the shared weights, but for the factor of all; `sum_r` is as in [`Trainer::update`].
    fn squares(&self, weights: &Weights, sum_r: &[f32]) -> f64 {
        let d = weights.d;
        let parts: Vec<(f64, Vec<f32>)> = (0..weights.latents.div_ceil(LATENTS))
            .into_par_iter()
            .map(|number| {
                let (mut squares, mut through) = (0.0, vec![0.0; d]);
                let (mut g_enc, mut g_dec) = (vec![0.0; d], vec![0.0; d]);
                for j in number * LATENTS..((number + 1) * LATENTS).min(weights.latents) {
                    let (w_enc, w_dec) = (&weights.w_enc[j * d..(j + 1) * d], &weights.w_dec[j * d..(j + 1) * d]);
                    let (first, other) = self.latent(j, w_enc, &mut g_enc, &mut g_dec);
                    add_scaled(&mut through, -(first + other), w_enc);
                    let along = dot(&g_dec, w_dec);
                    add_scaled(&mut g_dec, -along, w_dec);
                    let bias = if self.trains_decoder { first + other } else { other };
                    squares += f64::from(dot(&g_enc, &g_enc) + dot(&g_dec, &g_dec) + bias * bias);
                }
                (squares, through)
            })
            .collect();
        let mut sum = sum_r.to_vec();
        parts.iter().for_each(|(_, through)| add_scaled(&mut sum, 1.0, through));
        parts.iter().map(|p| p.0).sum::<f64>() + f64::from(dot(&sum, &sum))
    }
}

/// Adds latent `j`'s Σ s·xc to `g_enc` and, if its decoder row learns from `r`, Σ z·r to `g_dec`; returns Σ s.
fn gather(entries: &ByLatent, j: usize, xc: &[f32], r: Option<&[f32]>, g_enc: &mut [f32], g_dec: &mut [f32]) -> f32 {
    let range = entries.offsets[j]..entries.offsets[j + 1];
    let (tokens, values, slopes) =
        (&entries.token[range.clone()], &entries.value[range.clone()], &entries.slope[range]);
    add_rows(g_enc, slopes, tokens, xc);
    if let Some(r) = r {
        add_rows(g_dec, values, tokens, r);
    }
    slopes.iter().sum()
}

/// Mean over channels of 1 − Var(r)/Var(x); constant channels do not count.
pub(crate) fn explained_variance(x: &[f32], r: &[f32], d: usize) -> f64 {
    let moments = |x: &[f32]| {
        let (mut sum, mut squares) = (vec![0.0f64; d], vec![0.0f64; d]);
        for row in x.chunks_exact(d) {
            for ((s, q), &v) in sum.iter_mut().zip(&mut squares).zip(row) {
                *s += f64::from(v);
                *q += f64::from(v) * f64::from(v);
            }
        }
        let n = (x.len() / d) as f64;
        sum.into_iter().zip(squares).map(|(s, q)| q / n - (s / n) * (s / n)).collect::<Vec<f64>>()
    };
    let (x, r) = rayon::join(|| moments(x), || moments(r));
    let shares: Vec<f64> = x.iter().zip(&r).filter(|(x, _)| **x > 0.0).map(|(x, r)| 1.0 - r / x).collect();
    shares.iter().sum::<f64>() / shares.len().max(1) as f64
}
