//! From activations to codes, and from codes to what they leave unexplained.

use super::Sae;
use super::blocks::{self, Blocked};
use super::codes::Codes;
use super::select::Selector;
use super::weights::Weights;
use crate::kernels::gathered::Panels;
use crate::kernels::sparse::{above as kernel_above, add_rows, add_scaled, dot, residual};
use crate::kernels::{Factor, Matrix};
use rayon::prelude::*;
use std::cell::RefCell;

/// Floats of pre-activations held at once: a tile of rows × all latents.
///
/// 2²¹ (8 MB) keeps a tile in the last-level cache between the product and the selection.
const TILE: usize = 1 << 21;

/// A tile has so many rows, if they are at most so many floats: the encoder passes through the cache once for every 256.
const LEAST: usize = 512;
const MOST: usize = 1 << 24;

/// Rows that one thread takes at a time; fixed, so that partial sums do not depend on threads.
pub(crate) const ROWS: usize = 64;

/// s·x − b for every row of `x`, in `out`.
pub(crate) fn centre(x: &[f32], b: &[f32], s: f32, out: &mut Vec<f32>) {
    let rows = ROWS * b.len();
    out.resize(x.len(), 0.0);
    out.par_chunks_mut(rows).zip(x.par_chunks(rows)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(b.len()).zip(x.chunks_exact(b.len())) {
            for ((out, x), b) in out.iter_mut().zip(x).zip(b) {
                *out = s * x - b;
            }
        }
    });
}

/// Codes of centred rows `xc` = x − b_dec, appended to `codes`.
pub(crate) fn encode(sae: &Sae, xc: &[f32], codes: &mut Codes) {
    tiles(sae.d, &sae.w_enc, xc, |scores| sae.architecture.encode(scores, &sae.b_enc, codes));
}

thread_local! {
    /// Room for a tile, which serves one batch after another.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// xc·W_encᵀ, a tile of rows at a time: never all rows × latents.
pub(crate) fn tiles(d: usize, w_enc: &[f32], xc: &[f32], mut each: impl FnMut(&[f32])) {
    let n = w_enc.len() / d;
    let most = (TILE / n).max(LEAST.min(MOST / n)).clamp(ROWS, 4096);
    let encoder = Factor::new(Matrix::rows(w_enc, d).t(), (d, n), xc.len() / d);
    let mut room = SCORES.take();
    room.resize(most.min(xc.len() / d) * n, 0.0);
    for tile in xc.chunks(most * d) {
        let rows = tile.len() / d;
        let scores = &mut room[..rows * n];
        encoder.product(scores, tile, rows);
        each(scores);
    }
    SCORES.set(room);
}

/// The k largest positive of every row of `scores` + `b_enc`, appended to `codes`.
pub(crate) fn top(scores: &[f32], b_enc: &[f32], k: usize, codes: &mut Codes) {
    let find = |selector: &mut Selector, row: &[f32], [found]: &mut [Found; 1]| selector.row(row, b_enc, found);
    rows(scores, b_enc.len(), [codes], || Selector::new(k), find);
}

/// The same among the latents in `among` only.
pub(crate) fn top_among(scores: &[f32], b_enc: &[f32], k: usize, among: &[u32], codes: &mut Codes) {
    let find =
        |selector: &mut Selector, row: &[f32], [found]: &mut [Found; 1]| selector.row_among(among, row, b_enc, found);
    rows(scores, b_enc.len(), [codes], || Selector::new(k), find);
}

/// Both, while a row is in the cache.
pub(crate) fn top_both(
    scores: &[f32],
    b_enc: &[f32],
    (k, k_among): (usize, usize),
    among: &[u32],
    codes: [&mut Codes; 2],
) {
    let find = |(all, some): &mut (Selector, Selector), row: &[f32], [first, second]: &mut [Found; 2]| {
        all.row(row, b_enc, first);
        some.row_among(among, row, b_enc, second);
    };
    rows(scores, b_enc.len(), codes, || (Selector::new(k), Selector::new(k_among)), find);
}

/// What was found in some rows.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) index: Vec<u32>,
    pub(crate) value: Vec<f32>,
    /// Where the entries of each row end.
    ends: Vec<usize>,
}

/// Runs a search on every row of scores, and appends what it finds, any number of entries, to each of the codes.
/// `begin` makes what searches of one thread share.
fn rows<const N: usize, S>(
    scores: &[f32],
    latents: usize,
    mut codes: [&mut Codes; N],
    begin: impl Fn() -> S + Sync,
    find: impl Fn(&mut S, &[f32], &mut [Found; N]) + Sync,
) {
    let chunk = |rows: &[f32]| {
        let (mut state, mut all) = (begin(), std::array::from_fn(|_| Found::default()));
        for row in rows.chunks_exact(latents) {
            find(&mut state, row, &mut all);
            all.iter_mut().for_each(|found| found.ends.push(found.index.len()));
        }
        all
    };
    let parts: Vec<[Found; N]> = scores.par_chunks(ROWS * latents).map(chunk).collect();
    for part in parts {
        for (Found { index, value, ends }, codes) in part.into_iter().zip(codes.iter_mut()) {
            let base = codes.index.len();
            codes.index.extend(index);
            codes.value.extend(value);
            codes.offsets.extend(ends.iter().map(|end| base + end));
        }
    }
}

/// Everything above `threshold` in the rows of `scores` + `b_enc`, appended to `codes`.
pub(crate) fn above(scores: &[f32], b_enc: &[f32], threshold: f32, codes: &mut Codes) {
    each_row(scores, b_enc.len(), codes, |row, index, value| {
        kernel_above(row, b_enc, threshold, |i, score| {
            index.push(i as u32);
            value.push(score);
        });
    });
}

/// Runs a search on every row of scores, which may find any number of entries, and appends them to `codes`.
pub(crate) fn each_row(
    scores: &[f32],
    latents: usize,
    codes: &mut Codes,
    find: impl Fn(&[f32], &mut Vec<u32>, &mut Vec<f32>) + Sync,
) {
    rows(scores, latents, [codes], || (), |(), row, [found]| find(row, &mut found.index, &mut found.value));
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
/// The bias is in neither: the target is already centred. ½‖r‖² has the slope ∂/∂z_j = ⟨W_dec_j, r⟩. `panels` are those
/// of the decoder, if they [`pay`](blocks::pay); slopes may then be left for the update, with no room for any.
pub(crate) fn residuals(
    weights: &Weights,
    panels: &Panels,
    codes: &Codes,
    target: &[f32],
    sign: f32,
    r: &mut [f32],
    slopes: &mut [f32],
) -> Residuals {
    let d = weights.d;
    let in_panels = blocks::pay(codes.index.len(), codes.tokens(), codes.latents);
    let rows = if in_panels { blocks::AT_ONCE } else { ROWS };
    let late = in_panels && slopes.is_empty();
    let slopes = if late { (0..codes.tokens()).map(|_| &mut [][..]).collect() } else { cut(codes, slopes, rows) };
    let chunks = r.chunks_mut(rows * d).zip(target.chunks(rows * d));
    let jobs: Vec<_> = chunks.zip(slopes).enumerate().collect();
    let parts = jobs
        .into_par_iter()
        .map(|(number, ((r, target), slopes))| {
            let (mut squares, mut sum) = (0.0, vec![0.0; d]);
            let offsets = &codes.offsets[number * rows..=number * rows + r.len() / d];
            if in_panels {
                r.iter_mut().zip(target).for_each(|(r, t)| *r = -sign * t);
                Blocked::with(offsets, &codes.index, 0..codes.latents, |entries| {
                    entries.add(&codes.value[offsets[0]..], panels, d, r);
                    if !late {
                        entries.dot(panels, d, r, slopes);
                    }
                });
            }
            for (t, (r, target)) in r.chunks_exact_mut(d).zip(target.chunks_exact(d)).enumerate() {
                squares += f64::from(if in_panels {
                    dot(r, r)
                } else {
                    let (index, value) = codes.token(number * rows + t);
                    let slopes = &mut slopes[offsets[t] - offsets[0]..offsets[t + 1] - offsets[0]];
                    residual(r, target, sign, value, index, &weights.w_dec, slopes)
                });
                add_scaled(&mut sum, 1.0, r);
            }
            (squares, sum)
        })
        .collect();
    added(parts, d)
}

/// The slope ⟨W_dec_j, r⟩ of every entry of the codes, for any r.
pub(crate) fn slopes(weights: &Weights, panels: &Panels, codes: &Codes, r: &[f32], slopes: &mut [f32]) {
    let d = weights.d;
    let in_panels = blocks::pay(codes.index.len(), codes.tokens(), codes.latents);
    let rows = if in_panels { blocks::AT_ONCE } else { ROWS };
    let jobs: Vec<_> = r.chunks(rows * d).zip(cut(codes, slopes, rows)).enumerate().collect();
    jobs.into_par_iter().for_each(|(number, (r, slopes))| {
        let offsets = &codes.offsets[number * rows..=number * rows + r.len() / d];
        if in_panels {
            let within = 0..codes.latents;
            return Blocked::with(offsets, &codes.index, within, |entries| entries.dot(panels, d, r, slopes));
        }
        for (r, bounds) in r.chunks_exact(d).zip(offsets.windows(2)) {
            let slopes = &mut slopes[bounds[0] - offsets[0]..bounds[1] - offsets[0]];
            for (slope, &j) in slopes.iter_mut().zip(&codes.index[bounds[0]..bounds[1]]) {
                *slope = dot(r, &weights.w_dec[j as usize * d..(j as usize + 1) * d]);
            }
        }
    });
}

/// The same for nested prefixes of the latents, which end at `levels`, each decoding on its own.
///
/// With r_m = W_dec[..levels_m]ᵀ z[..levels_m] − target, the gradient of ½Σ_m ‖r_m‖² by a decoder row of level m is
/// z_j R_m with R_m = Σ_{n ≥ m} r_n, and the slope is ⟨W_dec_j, R_m⟩. `r` is `[levels, tokens, d]` and becomes R; its
/// last level is the residual of the whole dictionary, whose squares are returned. The sum is of R_0.
pub(crate) fn nested_residuals(
    weights: &Weights,
    levels: &[usize],
    codes: &Codes,
    target: &[f32],
    r: &mut [f32],
    slopes: &mut [f32],
) -> Residuals {
    let d = weights.d;
    let mut chunks: Vec<_> = r.chunks_mut(target.len()).map(|level| level.chunks_mut(ROWS * d)).collect();
    let mut jobs = Vec::new();
    for (number, (target, slopes)) in target.chunks(ROWS * d).zip(cut(codes, slopes, ROWS)).enumerate() {
        let levels: Vec<&mut [f32]> = chunks.iter_mut().filter_map(Iterator::next).collect();
        jobs.push((number, levels, target, slopes));
    }
    let parts = jobs
        .into_par_iter()
        .map(|(number, mut r, target, slopes)| {
            let (mut squares, mut sum, mut first) = (0.0, vec![0.0; d], 0);
            for (t, target) in target.chunks_exact(d).enumerate() {
                let (index, value) = codes.token(number * ROWS + t);
                squares += nested_row(weights, levels, (index, value), target, &mut r, t, &mut slopes[first..]);
                first += index.len();
                add_scaled(&mut sum, 1.0, &r[0][t * d..(t + 1) * d]);
            }
            (squares, sum)
        })
        .collect();
    added(parts, d)
}

/// One token of [`nested_residuals`]: row `t` of every level's rows in `r`.
fn nested_row(
    weights: &Weights,
    levels: &[usize],
    (index, value): (&[u32], &[f32]),
    target: &[f32],
    r: &mut [&mut [f32]],
    t: usize,
    slopes: &mut [f32],
) -> f64 {
    let d = weights.d;
    let row = t * d..(t + 1) * d;
    let last = levels.len() - 1;
    // Entries rise by latent: those of a level are contiguous.
    let end = |m: usize| index.partition_point(|&j| (j as usize) < levels[m]);
    let mut from = 0;
    for m in 0..=last {
        let (before, here) = r.split_at_mut(m);
        let here = &mut here[0][row.clone()];
        match before.last() {
            Some(before) => here.copy_from_slice(&before[row.clone()]),
            None => here.iter_mut().zip(target).for_each(|(r, t)| *r = -t),
        }
        let to = end(m);
        add_rows(here, &value[from..to], &index[from..to], &weights.w_dec);
        from = to;
    }
    let whole = &r[last][row.clone()];
    let squares = f64::from(dot(whole, whole));
    for m in (0..=last).rev() {
        if m < last {
            let (here, after) = r.split_at_mut(m + 1);
            add_scaled(&mut here[m][row.clone()], 1.0, &after[0][row.clone()]);
        }
        let from = if m == 0 { 0 } else { end(m - 1) };
        for e in from..end(m) {
            let j = index[e] as usize;
            slopes[e] = dot(&r[m][row.clone()], &weights.w_dec[j * d..(j + 1) * d]);
        }
    }
    squares
}

/// The slopes of the entries of every chunk of `rows` rows: contiguous, but of varying number.
pub(crate) fn cut<'a>(codes: &Codes, slopes: &'a mut [f32], rows: usize) -> Vec<&'a mut [f32]> {
    let (tokens, mut rest) = (codes.tokens(), slopes);
    let mut parts = Vec::with_capacity(tokens.div_ceil(rows));
    for first in (0..tokens).step_by(rows) {
        let (mine, others) = rest.split_at_mut(codes.offsets[(first + rows).min(tokens)] - codes.offsets[first]);
        parts.push(mine);
        rest = others;
    }
    parts
}

/// Sums of the parts in their order.
fn added(parts: Vec<(f64, Vec<f32>)>, d: usize) -> Residuals {
    let (mut squares, mut sum) = (0.0, vec![0.0; d]);
    for (part, row) in &parts {
        squares += part;
        add_scaled(&mut sum, 1.0, row);
    }
    Residuals { squares, sum }
}
