//! From activations to codes, and from codes to what they leave unexplained.

use super::codes::Codes;
use super::select::Selector;
use super::{Architecture, Sae};
use crate::kernels::sparse::{add_scaled, residual};
use crate::kernels::{Matrix, Precision, product};
use rayon::prelude::*;

/// Floats of pre-activations held at once: a tile of rows × all latents.
///
/// 2²¹ (8 MB) keeps a tile in the last-level cache between the product and the selection.
const TILE: usize = 1 << 21;

/// Rows that one thread takes at a time; fixed, so that partial sums do not depend on threads.
pub(crate) const ROWS: usize = 64;

/// s·x − b for every row of `x`.
pub(crate) fn centre(x: &[f32], b: &[f32], s: f32) -> Vec<f32> {
    let mut out = x.to_vec();
    out.par_chunks_mut(ROWS * b.len()).for_each(|rows| {
        for row in rows.chunks_exact_mut(b.len()) {
            for (v, b) in row.iter_mut().zip(b) {
                *v = s * *v - b;
            }
        }
    });
    out
}

/// Codes of centred rows `xc` = x − b_dec, appended to `codes`.
pub(crate) fn encode(sae: &Sae, xc: &[f32], codes: &mut Codes) {
    let Architecture::TopK { k } = sae.architecture;
    tiles(sae, xc, |scores| {
        top(scores, sae.latents, k, codes, &|selector, row, index, value| selector.row(row, &sae.b_enc, index, value));
    });
}

/// The same, and beside it in `aux` the `k_aux` largest positive pre-activations among the `dead` latents.
pub(crate) fn encode_with_dead(sae: &Sae, xc: &[f32], codes: &mut Codes, dead: &[u32], k_aux: usize, aux: &mut Codes) {
    let Architecture::TopK { k } = sae.architecture;
    let k_aux = k_aux.min(dead.len());
    tiles(sae, xc, |scores| {
        top(scores, sae.latents, k, codes, &|selector, row, index, value| selector.row(row, &sae.b_enc, index, value));
        if k_aux > 0 {
            top(scores, sae.latents, k_aux, aux, &|selector, row, index, value| {
                selector.row_among(dead, row, &sae.b_enc, index, value)
            });
        }
    });
}

/// xc·W_encᵀ, a tile of rows at a time: never all rows × latents.
fn tiles(sae: &Sae, xc: &[f32], mut each: impl FnMut(&[f32])) {
    let (d, n) = (sae.d, sae.latents);
    let most = (TILE / n).clamp(ROWS, 4096);
    let mut scores = vec![0.0; most.min(xc.len() / d) * n];
    for tile in xc.chunks(most * d) {
        let rows = tile.len() / d;
        let scores = &mut scores[..rows * n];
        product(
            scores,
            n,
            Matrix::rows(tile, d),
            Matrix::rows(&sae.w_enc, d).t(),
            (rows, d, n),
            false,
            Precision::Full,
        );
        each(scores);
    }
}

/// Runs one selection on every row of scores and appends what it finds to `codes`.
fn top(
    scores: &[f32],
    latents: usize,
    k: usize,
    codes: &mut Codes,
    select: &(impl Fn(&mut Selector, &[f32], &mut [u32], &mut [f32]) -> usize + Sync),
) {
    let rows = scores.len() / latents;
    let (mut index, mut value, mut count) = (vec![0u32; rows * k], vec![0f32; rows * k], vec![0usize; rows]);
    (
        scores.par_chunks(ROWS * latents),
        index.par_chunks_mut(ROWS * k),
        value.par_chunks_mut(ROWS * k),
        count.par_chunks_mut(ROWS),
    )
        .into_par_iter()
        .for_each(|(scores, index, value, count)| {
            let mut selector = Selector::new(k);
            let rows = scores.chunks_exact(latents).zip(index.chunks_exact_mut(k)).zip(value.chunks_exact_mut(k));
            for (((row, index), value), count) in rows.zip(count) {
                *count = select(&mut selector, row, index, value);
            }
        });
    for ((index, value), count) in index.chunks_exact(k).zip(value.chunks_exact(k)).zip(count) {
        codes.index.extend_from_slice(&index[..count]);
        codes.value.extend_from_slice(&value[..count]);
        codes.offsets.push(codes.index.len());
    }
}

/// What [`residuals`] finds.
pub(crate) struct Residuals {
    /// Σ over tokens and channels of r².
    pub(crate) squares: f64,
    /// Σ over tokens of r, `[d]`.
    pub(crate) sum: Vec<f32>,
}

/// r = W_decᵀ z − sign·target for every token, and for every entry of the codes the slope ⟨W_dec_j, r⟩.
///
/// The bias is in neither: the target is already centred. ½‖r‖² has the slope ∂/∂z_j = ⟨W_dec_j, r⟩.
pub(crate) fn residuals(
    sae: &Sae,
    codes: &Codes,
    target: &[f32],
    sign: f32,
    r: &mut [f32],
    slopes: &mut [f32],
) -> Residuals {
    let d = sae.d;
    // Entries of a chunk of rows are contiguous, but their number varies: cut the slopes by hand.
    let mut rest = slopes;
    let mut jobs = Vec::with_capacity(codes.tokens().div_ceil(ROWS));
    for (number, (r, target)) in r.chunks_mut(ROWS * d).zip(target.chunks(ROWS * d)).enumerate() {
        let first = number * ROWS;
        let last = first + r.len() / d;
        let (mine, others) = rest.split_at_mut(codes.offsets[last] - codes.offsets[first]);
        rest = others;
        jobs.push((first, r, target, mine));
    }
    let parts: Vec<(f64, Vec<f32>)> = jobs
        .into_par_iter()
        .map(|(first, r, target, slopes)| {
            let (mut squares, mut sum, mut at) = (0.0, vec![0.0; d], 0);
            for (t, (r, target)) in r.chunks_exact_mut(d).zip(target.chunks_exact(d)).enumerate() {
                let (index, value) = codes.token(first + t);
                let slopes = &mut slopes[at..at + index.len()];
                squares += f64::from(residual(r, target, sign, value, index, &sae.w_dec, slopes));
                at += index.len();
                add_scaled(&mut sum, 1.0, r);
            }
            (squares, sum)
        })
        .collect();
    let (mut squares, mut sum) = (0.0, vec![0.0; d]);
    for (part, row) in &parts {
        squares += part;
        add_scaled(&mut sum, 1.0, row);
    }
    Residuals { squares, sum }
}
