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

use super::adam::Moments;
use super::device::{Found, OnDevice};
use super::forward::{self, nested_residuals, residuals};
use super::gather::{Gather, Gradients};
use super::path::Path;
use super::rule::{Batch, Pass, Rule, Second};
use super::start::normalise;
use super::step::{Settings, Step, explained_variance};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::kernels::gathered::Panels;
use crate::kernels::sparse::{add_scaled, dot, scale};
use crate::random::stream;
use candle_core::Device;
use rayon::prelude::*;

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
    /// What the encoder read of the last batch: room for the next.
    xc: Vec<f32>,
    /// Of the decoder, then of the batch.
    panels: Panels,
    /// Weights and moments while the steps are taken elsewhere; those above are then older.
    device: Option<OnDevice>,
}

impl Trainer {
    pub(crate) fn new(weights: Weights, rule: Box<dyn Rule>) -> Self {
        let zeros = |t: &Vec<f32>| Moments::zeros(t.len());
        let moments = [zeros(&weights.w_enc), zeros(&weights.b_enc), zeros(&weights.w_dec), zeros(&weights.b_dec)];
        let latents = weights.latents;
        let (main, second) = (Path::new(latents), Path::new(latents));
        Self {
            weights,
            rule,
            moments,
            silent: vec![0; latents],
            done: 0,
            main,
            second,
            xc: Vec::new(),
            panels: Panels::default(),
            device: None,
        }
    }

    /// Takes the steps from here on on `device`.
    ///
    /// # Errors
    /// Of the tensor library.
    pub(crate) fn move_to(&mut self, device: &Device) -> Result<()> {
        let dense = self.rule.dense();
        self.device = Some(OnDevice::new(&self.weights, &self.moments, self.rule.as_mut(), dense, device)?);
        Ok(())
    }

    /// Brings weights and moments back from a device.
    pub(crate) fn fetch(&mut self) -> Result<()> {
        match &self.device {
            Some(device) => device.fetch(&mut self.weights, &mut self.moments, self.rule.as_mut()),
            None => Ok(()),
        }
    }

    /// Latents that were silent for the whole window.
    fn dead(&self, window: u64) -> Vec<u32> {
        (0..self.weights.latents as u32).filter(|&j| self.silent[j as usize] >= window).collect()
    }

    /// One step on `x` = `[tokens, d]`.
    pub(crate) fn step(&mut self, x: &[f32], settings: &Settings) -> Result<Step> {
        let (d, latents) = (self.weights.d, self.weights.latents);
        let tokens = x.len() / d;
        let dead = self.dead(settings.dead_window);
        if let Some(device) = &mut self.device {
            let Found { step, fired, smallest, errors } = device.step(x, &dead, settings)?;
            finite(step.loss, self.done)?;
            if let Some(code) = smallest {
                self.rule.smallest(code);
            }
            listen(&mut self.silent, tokens, |j| fired[j]);
            if let Some((seed, errors)) = settings.resample.zip(errors) {
                // Rare: on the host, and back.
                let device = device.device().clone();
                self.fetch()?;
                self.main.r = errors;
                self.restart_dead(x.len(), settings.dead_window, seed);
                self.move_to(&device)?;
            }
            self.done += 1;
            return Ok(step);
        }
        let mut xc = std::mem::take(&mut self.xc);
        self.rule.input(x, &self.weights.b_dec, settings.scale, &mut xc);
        let (main, second, weights) = (&mut self.main, &mut self.second, &self.weights);
        main.codes.clear();
        second.codes.clear();
        let k_aux = if settings.aux_alpha > 0.0 { settings.aux_k } else { 0 };
        let batch = Batch { weights, xc: &xc, dead: &dead, k_aux, progress: settings.progress };
        self.rule.encode(&batch, &mut main.codes, &mut second.codes);

        let panels = &mut self.panels;
        if main.is_dense() || second.is_dense() {
            panels.fill(&weights.w_dec, d);
        }
        let levels = self.rule.levels();
        let unread = !self.rule.reads_slopes();
        main.make_room(x.len() * levels.len().max(1), unread && levels.is_empty());
        let mut found = if levels.is_empty() {
            residuals(weights, panels, &main.codes, &xc, 1.0, &mut main.r, &mut main.slopes)
        } else {
            nested_residuals(weights, levels, &main.codes, &xc, &mut main.r, &mut main.slopes)
        };
        let whole = &main.r[main.r.len() - x.len()..];
        let size = if second.codes.index.is_empty() { 0 } else { x.len() };
        second.make_room(size, unread && self.rule.second() == Second::Error);
        if !second.codes.index.is_empty() {
            match self.rule.second() {
                Second::Input => {
                    residuals(weights, panels, &second.codes, &xc, 1.0, &mut second.r, &mut second.slopes);
                }
                Second::Error => {
                    residuals(weights, panels, &second.codes, whole, -1.0, &mut second.r, &mut second.slopes);
                    // The weight of this loss goes into its residual and slopes once, and so into every gradient.
                    second.r.par_chunks_mut(forward::ROWS * d).for_each(|rows| scale(rows, settings.aux_alpha));
                    scale(&mut second.slopes, settings.aux_alpha);
                }
            }
        }
        let mut judged = settings.judge.then(|| explained_variance(&xc, whole, d));
        if let Some(own) = self.rule.loss(Pass { weights, xc: &xc, settings, panels, main, second }) {
            (found, judged) = (own.residuals, own.explained_variance);
        }
        let loss = found.squares / x.len() as f64;
        finite(loss, self.done)?;
        self.rule.terms(settings, main, second);
        main.sort(d);
        if second.codes.index.is_empty() {
            second.by_latent.clear(latents);
        } else {
            second.sort(d);
        }
        let counts = main.codes.counts();
        listen(&mut self.silent, tokens, |j| counts[j] > 0);
        let (l0, dead) = (main.codes.l0(), dead.len() as f64 / latents as f64);
        let report = Step { loss, l0, dead, explained_variance: judged };
        self.update(&xc, found.sum, settings);
        self.xc = xc;
        if let Some(seed) = settings.resample.filter(|_| !self.rule.revives()) {
            self.restart_dead(x.len(), settings.dead_window, seed);
        }
        self.done += 1;
        Ok(report)
    }

    /// Gradients latent by latent, each used at once; then the decoder bias and what is the architecture's own.
    fn update(&mut self, xc: &[f32], mut sum_r: Vec<f32>, settings: &Settings) {
        let d = self.weights.d;
        let whole = 2.0 / xc.len() as f32;
        let (adam, trains_decoder) = (settings.adam, self.rule.second() == Second::Error);
        if self.main.is_dense() || self.second.is_dense() {
            self.panels.fill(xc, d);
        }
        let gather = Gather {
            d,
            panels: &self.panels,
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
        let at_once = gather.latents_at_once();
        let size = at_once * d;
        let encoder = (
            self.weights.w_enc.par_chunks_mut(size),
            enc.m.par_chunks_mut(size),
            enc.v.par_chunks_mut(size),
            self.weights.b_enc.par_chunks_mut(at_once),
            enc_b.m.par_chunks_mut(at_once),
            enc_b.v.par_chunks_mut(at_once),
        );
        let decoder = (self.weights.w_dec.par_chunks_mut(size), dec.m.par_chunks_mut(size), dec.v.par_chunks_mut(size));
        let through_encoder: Vec<Vec<f32>> = (encoder, decoder)
            .into_par_iter()
            .enumerate()
            .map(|(number, ((w_enc, m_enc, v_enc, b_enc, m_b, v_b), (w_dec, m_dec, v_dec)))| {
                let mut through = vec![0.0; d];
                let mut gradients = gather.latents(number * at_once, w_enc, w_dec);
                let Gradients { enc, dec, first, second } = &mut gradients;
                let rows = enc.chunks_exact_mut(d).zip(dec.chunks_exact_mut(d));
                for (i, (g_enc, g_dec)) in rows.enumerate() {
                    let (first, other) = (first[i], second[i]);
                    let row = i * d..(i + 1) * d;
                    add_scaled(&mut through, -(first + other), &w_enc[row.clone()]);
                    scale(g_enc, c);
                    scale(g_dec, c);
                    if settings.shrink > 0.0 {
                        scale(&mut w_enc[row.clone()], 1.0 - settings.shrink);
                    }
                    adam.apply(&mut w_enc[row.clone()], &mut m_enc[row.clone()], &mut v_enc[row.clone()], g_enc);
                    let g_b = if trains_decoder { first + other } else { other };
                    adam.apply(&mut b_enc[i..=i], &mut m_b[i..=i], &mut v_b[i..=i], &[c * g_b]);
                    // The part along the row would only change its length, which the next line takes back.
                    let w = &mut w_dec[row.clone()];
                    let along = dot(g_dec, w);
                    add_scaled(g_dec, -along, w);
                    adam.apply(w, &mut m_dec[row.clone()], &mut v_dec[row], g_dec);
                    normalise(w);
                }
                gradients.done();
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

    /// Gives every dead latent the direction of the error of a token, drawn with the square of its error for a weight,
    /// and an encoder row of a fifth of the length that those of the others have; see [`Options::resample`].
    ///
    /// [`Options::resample`]: crate::sae::Options::resample
    fn restart_dead(&mut self, size: usize, window: u64, seed: u64) {
        let d = self.weights.d;
        let dead = self.dead(window);
        let alive = self.weights.latents - dead.len();
        let errors = &self.main.r[self.main.r.len() - size..];
        let mut until = 0.0;
        let sums: Vec<f64> = errors
            .chunks_exact(d)
            .map(|r| {
                until += f64::from(dot(r, r));
                until
            })
            .collect();
        if dead.is_empty() || alive == 0 || until == 0.0 {
            return;
        }
        let length = |j: usize| {
            f64::from(dot(&self.weights.w_enc[j * d..(j + 1) * d], &self.weights.w_enc[j * d..(j + 1) * d])).sqrt()
        };
        let whole: f64 = (0..self.weights.latents).filter(|&j| self.silent[j] < window).map(length).sum();
        let share = 0.2 * (whole / alive as f64) as f32;
        let mut random = stream(seed, "resampled latents", self.done as u64);
        for j in dead.into_iter().map(|j| j as usize) {
            let drawn = f64::from(random.range(0.0, 1.0)) * until;
            let t = sums.partition_point(|s| *s <= drawn).min(sums.len() - 1);
            let rows = j * d..(j + 1) * d;
            let (decoder, encoder) = (&mut self.weights.w_dec[rows.clone()], &mut self.weights.w_enc[rows.clone()]);
            decoder.iter_mut().zip(&errors[t * d..(t + 1) * d]).for_each(|(w, r)| *w = -r); // r is x̂ − x
            normalise(decoder);
            encoder.iter_mut().zip(decoder.iter()).for_each(|(e, w)| *e = share * w);
            self.weights.b_enc[j] = 0.0;
            for (moments, range) in self.moments.iter_mut().zip([rows.clone(), j..j + 1, rows, 0..0]) {
                moments.m[range.clone()].fill(0.0);
                moments.v[range].fill(0.0);
            }
            self.rule.restart(j);
            self.silent[j] = 0;
        }
    }

    /// Share of latents that were silent for the whole window.
    pub(crate) fn dead_share(&self, window: u64) -> f64 {
        self.dead(window).len() as f64 / self.silent.len() as f64
    }
}

/// Counts the tokens since each latent fired, after a step of `tokens`.
fn listen(silent: &mut [u64], tokens: usize, fired: impl Fn(usize) -> bool) {
    for (j, silent) in silent.iter_mut().enumerate() {
        *silent = if fired(j) { 0 } else { *silent + tokens as u64 };
    }
}

/// Refuses the loss of a step that is no number.
fn finite(loss: f64, step: usize) -> Result<()> {
    if loss.is_finite() {
        return Ok(());
    }
    Err(Error::invalid(format!("the loss is {loss} at step {step}: a lower learning rate may help")))
}
