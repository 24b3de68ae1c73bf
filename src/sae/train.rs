//! One step of training, written out: closed-form sparse gradients, one dense product.
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

use super::Sae;
use super::adam::{Adam, Moments};
use super::codes::{ByLatent, Codes};
use super::forward::{self, residuals};
use super::start::normalise;
use crate::error::{Error, Result};
use crate::kernels::sparse::{add_rows, add_scaled, dot, scale};
use rayon::prelude::*;

/// Latents that one thread takes at a time; fixed, so that partial sums do not depend on threads.
const LATENTS: usize = 32;

/// An SAE in training, in the units of scaled activations.
pub(crate) struct Trainer {
    pub(crate) sae: Sae,
    /// Of W_enc, b_enc, W_dec, b_dec.
    pub(crate) moments: [Moments; 4],
    /// Tokens since each latent fired.
    pub(crate) silent: Vec<u64>,
    /// Steps done.
    pub(crate) done: usize,
    scratch: Scratch,
}

/// Buffers that live from step to step.
#[derive(Default)]
struct Scratch {
    codes: Option<(Codes, Codes)>,
    r: Vec<f32>,
    r_aux: Vec<f32>,
    slopes: Vec<f32>,
    by_latent: ByLatent,
    by_latent_aux: ByLatent,
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
    /// Whether the explained variance of the batch is wanted.
    pub(crate) judge: bool,
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
    pub(crate) fn new(sae: Sae) -> Self {
        let zeros = |t: &Vec<f32>| Moments::zeros(t.len());
        let moments = [zeros(&sae.w_enc), zeros(&sae.b_enc), zeros(&sae.w_dec), zeros(&sae.b_dec)];
        let silent = vec![0; sae.latents];
        Self { sae, moments, silent, done: 0, scratch: Scratch::default() }
    }

    /// One step on `x` = `[tokens, d]`.
    pub(crate) fn step(&mut self, x: &[f32], settings: &Settings) -> Result<Step> {
        let (d, latents) = (self.sae.d, self.sae.latents);
        let tokens = x.len() / d;
        let xc = forward::centre(x, &self.sae.b_dec, settings.scale);
        let dead: Vec<u32> = (0..latents as u32).filter(|&j| self.silent[j as usize] >= settings.dead_window).collect();
        let scratch = &mut self.scratch;
        let (codes, aux) = scratch.codes.get_or_insert_with(|| (Codes::empty(latents), Codes::empty(latents)));
        codes.clear();
        aux.clear();
        let aux_k = if settings.aux_alpha > 0.0 { settings.aux_k } else { 0 };
        forward::encode_with_dead(&self.sae, &xc, codes, &dead, aux_k, aux);

        scratch.r.resize(x.len(), 0.0);
        scratch.slopes.resize(codes.index.len(), 0.0);
        let main = residuals(&self.sae, codes, &xc, 1.0, &mut scratch.r, &mut scratch.slopes);
        scratch.by_latent.sort(codes, &scratch.slopes);
        let loss = main.squares / x.len() as f64;
        if !loss.is_finite() {
            return Err(Error::invalid(format!(
                "the loss is {loss} at step {}: a lower learning rate may help",
                self.done
            )));
        }
        if aux.index.is_empty() {
            scratch.by_latent_aux.clear(latents);
        } else {
            scratch.r_aux.resize(x.len(), 0.0);
            scratch.slopes.resize(aux.index.len(), 0.0);
            residuals(&self.sae, aux, &scratch.r, -1.0, &mut scratch.r_aux, &mut scratch.slopes);
            // The weight of this loss goes into its residual and slopes once, and so into every gradient.
            scratch.r_aux.par_chunks_mut(forward::ROWS * d).for_each(|rows| scale(rows, settings.aux_alpha));
            scale(&mut scratch.slopes, settings.aux_alpha);
            scratch.by_latent_aux.sort(aux, &scratch.slopes);
        }
        let explained_variance = settings.judge.then(|| explained_variance(&xc, &scratch.r, d));
        for (j, silent) in self.silent.iter_mut().enumerate() {
            *silent = if scratch.by_latent.count(j) > 0 { 0 } else { *silent + tokens as u64 };
        }
        let report = Step { loss, l0: codes.l0(), dead: dead.len() as f64 / latents as f64, explained_variance };
        self.update(&xc, main.sum, settings);
        self.done += 1;
        Ok(report)
    }

    /// Gradients latent by latent, each used at once; then the decoder bias.
    fn update(&mut self, xc: &[f32], mut sum_r: Vec<f32>, settings: &Settings) {
        let d = self.sae.d;
        let c = 2.0 / xc.len() as f32;
        let adam = settings.adam;
        let Scratch { r, r_aux, by_latent, by_latent_aux, .. } = &self.scratch;
        let [enc, enc_b, dec, dec_b] = &mut self.moments;
        let size = LATENTS * d;
        let encoder = (
            self.sae.w_enc.par_chunks_mut(size),
            enc.m.par_chunks_mut(size),
            enc.v.par_chunks_mut(size),
            self.sae.b_enc.par_chunks_mut(LATENTS),
            enc_b.m.par_chunks_mut(LATENTS),
            enc_b.v.par_chunks_mut(LATENTS),
        );
        let decoder = (self.sae.w_dec.par_chunks_mut(size), dec.m.par_chunks_mut(size), dec.v.par_chunks_mut(size));
        let through_encoder: Vec<Vec<f32>> = (encoder, decoder)
            .into_par_iter()
            .enumerate()
            .map(|(number, ((w_enc, m_enc, v_enc, b_enc, m_b, v_b), (w_dec, m_dec, v_dec)))| {
                let mut through = vec![0.0; d];
                let (mut g_enc, mut g_dec) = (vec![0.0; d], vec![0.0; d]);
                for i in 0..b_enc.len() {
                    let (j, row) = (number * LATENTS + i, i * d..(i + 1) * d);
                    g_enc.fill(0.0);
                    g_dec.fill(0.0);
                    let mut g_b = gather(by_latent, j, xc, r, &mut g_enc, &mut g_dec);
                    g_b += gather(by_latent_aux, j, xc, r_aux, &mut g_enc, &mut g_dec);
                    add_scaled(&mut through, -g_b, &w_enc[row.clone()]);
                    scale(&mut g_enc, c);
                    scale(&mut g_dec, c);
                    adam.apply(&mut w_enc[row.clone()], &mut m_enc[row.clone()], &mut v_enc[row.clone()], &g_enc);
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
        adam.apply(&mut self.sae.b_dec, &mut dec_b.m, &mut dec_b.v, &sum_r);
    }

    /// Share of latents that were silent for the whole window.
    pub(crate) fn dead_share(&self, window: u64) -> f64 {
        self.silent.iter().filter(|&&s| s >= window).count() as f64 / self.silent.len() as f64
    }
}

/// Adds latent `j`'s Σ s·xc to `g_enc` and Σ z·r to `g_dec`; returns Σ s.
fn gather(entries: &ByLatent, j: usize, xc: &[f32], r: &[f32], g_enc: &mut [f32], g_dec: &mut [f32]) -> f32 {
    let range = entries.offsets[j]..entries.offsets[j + 1];
    let (tokens, values, slopes) =
        (&entries.token[range.clone()], &entries.value[range.clone()], &entries.slope[range]);
    add_rows(g_enc, slopes, tokens, xc);
    add_rows(g_dec, values, tokens, r);
    slopes.iter().sum()
}

/// Mean over channels of 1 − Var(r)/Var(x); constant channels do not count.
fn explained_variance(x: &[f32], r: &[f32], d: usize) -> f64 {
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
