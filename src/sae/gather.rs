//! The gradients of a step, latent by latent: summed, used and forgotten.

use super::blocks::{self, Rows, Totals};
use super::path::Path;
use super::weights::Weights;
use crate::kernels::gathered::Panels;
use crate::kernels::sparse::{add_scaled, dot};
use rayon::prelude::*;
use std::cell::RefCell;

/// Latents that one thread takes at a time where entries are few; fixed, so that partial sums do not depend on threads.
const LATENTS: usize = 32;

/// What the gradients of a latent are summed from.
pub(crate) struct Gather<'a> {
    pub(crate) d: usize,
    pub(crate) main: &'a Path,
    pub(crate) second: &'a Path,
    pub(crate) levels: &'a [usize],
    pub(crate) xc: &'a [f32],
    /// Of xc, where they are read.
    pub(crate) panels: &'a Panels,
    /// Whether the second codes train the decoder too.
    pub(crate) trains_decoder: bool,
    /// Weight of the encoder row in its own gradient.
    pub(crate) penalty: f32,
}

/// The gradients of the rows of some latents, but for the factor of all.
#[derive(Default)]
pub(crate) struct Gradients {
    pub(crate) enc: Vec<f32>,
    pub(crate) dec: Vec<f32>,
    /// Σ s of every latent, of both codes.
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

thread_local! {
    /// Room that serves one piece of work after another, see [`Blocked`](blocks::Blocked).
    static ROOM: RefCell<Gradients> = RefCell::default();
}

impl Gradients {
    /// Zeros for so many latents, in the room of the thread.
    fn zeros(latents: usize, d: usize) -> Self {
        let mut room = ROOM.take();
        let Self { enc, dec, first, second } = &mut room;
        for (numbers, n) in [(enc, latents * d), (dec, latents * d), (first, latents), (second, latents)] {
            numbers.clear();
            numbers.resize(n, 0.0);
        }
        room
    }

    /// Leaves the room to the next piece of work.
    pub(crate) fn done(self) {
        ROOM.set(self);
    }
}

impl Gather<'_> {
    /// How many latents one thread takes at a time.
    pub(crate) fn latents_at_once(&self) -> usize {
        if self.main.is_dense() || self.second.is_dense() { blocks::AT_ONCE } else { LATENTS }
    }

    /// The gradients of the latents from `from` on that have the rows `w_enc` and `w_dec`. [`Gradients::done`] with them.
    pub(crate) fn latents(&self, from: usize, w_enc: &[f32], w_dec: &[f32]) -> Gradients {
        let (d, tokens) = (self.d, self.xc.len() / self.d);
        let mut gradients = Gradients::zeros(w_enc.len() / d, d);
        let Gradients { enc, dec, first, second } = &mut gradients;
        if self.penalty > 0.0 {
            add_scaled(enc, self.penalty, w_enc);
        }
        let xc = Rows { rows: self.xc, panels: self.panels, first: 0 };
        // A latent's decoder row meets the residual of its level.
        let (mut done, to, all) = (from, from + first.len(), [self.main.codes.latents]);
        let levels = if self.levels.is_empty() { &all[..] } else { self.levels };
        for (level, &end) in levels.iter().enumerate() {
            let end = end.min(to);
            if done < end {
                let (rows, sums) = ((done - from) * d..(end - from) * d, done - from..end - from);
                let totals =
                    Totals { enc: &mut enc[rows.clone()], dec: &mut dec[rows.clone()], slopes: &mut first[sums] };
                add(self.main, done, (tokens, d), xc, Some(level * tokens), &w_dec[rows], totals);
                done = end;
            }
        }
        let totals = Totals { enc, dec, slopes: second };
        add(self.second, from, (tokens, d), xc, self.trains_decoder.then_some(0), w_dec, totals);
        gradients
    }

    /// ‖gradient‖² over the shared weights, but for the factor of all; `sum_r` is Σ r over the tokens.
    pub(crate) fn squares(&self, weights: &Weights, sum_r: &[f32]) -> f64 {
        let d = weights.d;
        let at_once = self.latents_at_once();
        let parts: Vec<(f64, Vec<f32>)> =
            (weights.w_enc.par_chunks(at_once * d), weights.w_dec.par_chunks(at_once * d))
                .into_par_iter()
                .enumerate()
                .map(|(number, (w_enc, w_dec))| {
                    let (mut squares, mut through) = (0.0, vec![0.0; d]);
                    let mut gradients = self.latents(number * at_once, w_enc, w_dec);
                    let Gradients { enc, dec, first, second } = &mut gradients;
                    let rows = enc.chunks_exact(d).zip(dec.chunks_exact_mut(d)).enumerate();
                    for (i, (g_enc, g_dec)) in rows {
                        let (w_enc, w_dec) = (&w_enc[i * d..(i + 1) * d], &w_dec[i * d..(i + 1) * d]);
                        let (first, other) = (first[i], second[i]);
                        add_scaled(&mut through, -(first + other), w_enc);
                        let along = dot(g_dec, w_dec);
                        add_scaled(g_dec, -along, w_dec);
                        let bias = if self.trains_decoder { first + other } else { other };
                        squares += f64::from(dot(g_enc, g_enc) + dot(g_dec, g_dec) + bias * bias);
                    }
                    gradients.done();
                    (squares, through)
                })
                .collect();
        let mut sum = sum_r.to_vec();
        parts.iter().for_each(|(_, through)| add_scaled(&mut sum, 1.0, through));
        parts.iter().map(|p| p.0).sum::<f64>() + f64::from(dot(&sum, &sum))
    }
}

/// Adds what the entries of a path say of the latents from `first` on; decoder rows learn from the rows of the residual
/// from `learns` on, if from any.
fn add(
    path: &Path,
    first: usize,
    shape: (usize, usize),
    xc: Rows<'_>,
    learns: Option<usize>,
    w_dec: &[f32],
    totals: Totals<'_>,
) {
    let r = learns.map(|first| path.learns(first));
    match r {
        Some(r) if path.late => {
            blocks::gather_with_slopes(&path.codes, first, shape.1, xc.panels, (r.panels, w_dec), totals);
        }
        _ => blocks::gather(&path.by_latent, first, shape, xc, r, totals),
    }
}
