//! The sparse sums of a step where entries are many: taken block by block, so that what is read stays in the cache.
//!
//! A token with few entries reads a few rows of the dictionary, and no order of reading helps. Where a token has
//! hundreds (a large k, AuxK, the dense start of ReLU), each row is read by many tokens: blocks of latents, tokens and
//! channels are small enough to be read from the second-level cache again and again. The order of every sum depends on
//! the shapes and the number of entries alone.

use super::codes::{ByLatent, Codes};
use super::forward::cut;
use super::weights::Weights;
use crate::kernels::sparse::{add_parts, add_rows, add_scaled, dot, dot_parts};
use rayon::prelude::*;

/// Share of tokens × latents from which entries are taken in blocks: a block of 256 latents then has several entries of
/// a token, which share the reading and writing of its row.
const DENSE: f64 = 0.01;

/// Latents and channels of a block: 256 KB of a dictionary, half of a second-level cache.
const LATENTS: usize = 256;
const CHANNELS: usize = 256;

/// Tokens of a block, and of what one thread takes at a time.
const TOKENS: usize = 256;

/// Whether so many entries are taken in blocks.
pub(crate) fn pay(entries: usize, tokens: usize, latents: usize) -> bool {
    entries as f64 > DENSE * tokens as f64 * latents as f64
}

/// Latents that one thread takes at a time in the update, if entries are taken in blocks.
pub(crate) const UPDATE: usize = LATENTS;

/// Rows of residuals, and of what they are residuals of.
type Rows<'a> = (&'a mut [f32], &'a [f32]);

/// As [`residuals`](super::forward::residuals): the squares and the sum of every chunk of tokens.
pub(crate) fn residuals(
    weights: &Weights,
    codes: &Codes,
    target: &[f32],
    sign: f32,
    r: &mut [f32],
    slopes: &mut [f32],
) -> Vec<(f64, Vec<f32>)> {
    let d = weights.d;
    let chunks = r.chunks_mut(TOKENS * d).zip(target.chunks(TOKENS * d));
    let jobs: Vec<_> = chunks.zip(cut(codes, slopes, TOKENS)).enumerate().collect();
    let part = |(number, ((r, target), slopes)): (usize, (Rows<'_>, &mut [f32]))| {
        let starts = starts(codes, number * TOKENS, r.len() / d);
        r.iter_mut().zip(target).for_each(|(r, t)| *r = -sign * t);
        slopes.fill(0.0);
        let base = codes.offsets[number * TOKENS];
        for from in (0..d).step_by(CHANNELS) {
            let (width, dictionary) = (CHANNELS.min(d - from), &weights.w_dec[from..]);
            for block in starts.windows(2) {
                for ((&start, &end), row) in block[0].iter().zip(&block[1]).zip(r.chunks_exact_mut(d)) {
                    let row = &mut row[from..from + width];
                    add_parts(row, &codes.value[start..end], &codes.index[start..end], dictionary, d);
                }
            }
            for block in starts.windows(2) {
                for ((&start, &end), row) in block[0].iter().zip(&block[1]).zip(r.chunks_exact(d)) {
                    let (row, slopes) = (&row[from..from + width], &mut slopes[start - base..end - base]);
                    dot_parts(slopes, row, &codes.index[start..end], dictionary, d);
                }
            }
        }
        let (mut squares, mut sum) = (0.0, vec![0.0; d]);
        for row in r.chunks_exact(d) {
            squares += f64::from(dot(row, row));
            add_scaled(&mut sum, 1.0, row);
        }
        (squares, sum)
    };
    jobs.into_par_iter().map(part).collect()
}

/// Where the entries of every block of latents begin, token by token; one block more than there are.
fn starts(codes: &Codes, first: usize, tokens: usize) -> Vec<Vec<usize>> {
    let blocks = codes.latents.div_ceil(LATENTS);
    let mut starts = vec![vec![0; tokens]; blocks + 1];
    for t in 0..tokens {
        let mut at = codes.offsets[first + t];
        let end = codes.offsets[first + t + 1];
        for (block, starts) in starts.iter_mut().enumerate() {
            while at < end && (codes.index[at] as usize) < block * LATENTS {
                at += 1;
            }
            starts[t] = at;
        }
    }
    starts
}

/// Adds Σ s·xc to the rows of `g_enc` and, where decoder rows learn from a residual, Σ z·r to those of `g_dec`, for the
/// latents from `first` on; and Σ s to `sums`.
///
/// `residual` says from which residual a latent's decoder row learns.
#[allow(clippy::too_many_arguments)]
pub(crate) fn gather<'a>(
    entries: &ByLatent,
    first: usize,
    d: usize,
    xc: &[f32],
    residual: impl Fn(usize) -> Option<&'a [f32]>,
    g_enc: &mut [f32],
    g_dec: &mut [f32],
    sums: &mut [f32],
) {
    let latents = sums.len();
    let tokens = xc.len() / d;
    let all = entries.offsets[first]..entries.offsets[first + latents];
    for (j, sum) in sums.iter_mut().enumerate() {
        *sum += entries.slope[entries.offsets[first + j]..entries.offsets[first + j + 1]].iter().sum::<f32>();
    }
    if !pay(all.len(), tokens, latents) {
        for (j, (g_enc, g_dec)) in g_enc.chunks_exact_mut(d).zip(g_dec.chunks_exact_mut(d)).enumerate() {
            let range = entries.offsets[first + j]..entries.offsets[first + j + 1];
            add_rows(g_enc, &entries.slope[range.clone()], &entries.token[range.clone()], xc);
            if let Some(r) = residual(first + j) {
                add_rows(g_dec, &entries.value[range.clone()], &entries.token[range], r);
            }
        }
        return;
    }
    for from in (0..d).step_by(CHANNELS) {
        let width = CHANNELS.min(d - from);
        let mut next: Vec<usize> = entries.offsets[first..first + latents].to_vec();
        for until in (TOKENS..tokens + TOKENS).step_by(TOKENS) {
            let rows = g_enc.chunks_exact_mut(d).zip(g_dec.chunks_exact_mut(d));
            for (j, ((g_enc, g_dec), next)) in rows.zip(&mut next).enumerate() {
                let (start, last) = (*next, entries.offsets[first + j + 1]);
                while *next < last && (entries.token[*next] as usize) < until {
                    *next += 1;
                }
                let range = start..*next;
                let token = &entries.token[range.clone()];
                add_parts(&mut g_enc[from..from + width], &entries.slope[range.clone()], token, &xc[from..], d);
                if let Some(r) = residual(first + j) {
                    add_parts(&mut g_dec[from..from + width], &entries.value[range], token, &r[from..], d);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;
    use crate::sae::forward;

    /// Codes with the given share of all entries.
    fn codes(tokens: usize, latents: usize, share: f32) -> Codes {
        let mut random = stream(4, "blocks", latents as u64);
        let mut codes = Codes::empty(latents);
        for _ in 0..tokens {
            for j in 0..latents {
                if random.range(0.0, 1.0) < share {
                    codes.index.push(j as u32);
                    codes.value.push(random.range(0.1, 1.0));
                }
            }
            codes.offsets.push(codes.index.len());
        }
        codes
    }

    fn close(a: &[f32], b: &[f32]) {
        let far = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(a.len() == b.len() && far < 2e-3, "{far}");
    }

    #[test]
    fn blocks_find_what_entries_one_by_one_find() {
        // Neither latents, tokens nor channels fill their last block.
        let (tokens, latents, d) = (300, 600, 270);
        let mut random = stream(5, "blocks", 0);
        let w_dec = random.normals(latents * d);
        let weights = Weights { d, latents, w_enc: Vec::new(), b_enc: Vec::new(), w_dec, b_dec: vec![0.0; d] };
        let target = random.normals(tokens * d);
        let codes = codes(tokens, latents, 0.03);
        assert!(pay(codes.index.len(), tokens, latents));
        let (mut r, mut slopes) = (vec![9.0; tokens * d], vec![9.0; codes.index.len()]);
        let found = forward::residuals(&weights, &codes, &target, -1.0, &mut r, &mut slopes);
        let (mut squares, mut sum) = (0.0, vec![0.0f32; d]);
        for t in 0..tokens {
            let (index, value) = codes.token(t);
            let mut row: Vec<f32> = target[t * d..(t + 1) * d].to_vec();
            add_rows(&mut row, value, index, &weights.w_dec);
            close(&row, &r[t * d..(t + 1) * d]);
            let expected: Vec<f32> =
                index.iter().map(|&j| dot(&row, &weights.w_dec[j as usize * d..(j as usize + 1) * d])).collect();
            close(&expected, &slopes[codes.offsets[t]..codes.offsets[t + 1]]);
            squares += f64::from(dot(&row, &row));
            add_scaled(&mut sum, 1.0, &row);
        }
        assert!((found.squares / squares - 1.0).abs() < 1e-5);
        close(&sum, &found.sum);

        let mut entries = ByLatent::default();
        entries.sort(&codes, &slopes);
        let (first, n) = (512, latents - 512);
        let (mut g_enc, mut g_dec, mut sums) = (vec![1.0; n * d], vec![2.0; n * d], vec![3.0; n]);
        let learns = |j: usize| j.is_multiple_of(2).then_some(&r[..]);
        gather(&entries, first, d, &target, learns, &mut g_enc, &mut g_dec, &mut sums);
        for j in 0..n {
            let range = entries.offsets[first + j]..entries.offsets[first + j + 1];
            let (mut enc, mut dec) = (vec![1.0; d], vec![2.0; d]);
            add_rows(&mut enc, &entries.slope[range.clone()], &entries.token[range.clone()], &target);
            if j % 2 == 0 {
                add_rows(&mut dec, &entries.value[range.clone()], &entries.token[range.clone()], &r);
            }
            let scale = 1.0 / range.len() as f32; // sums of many large slopes
            let scaled = |x: &[f32]| x.iter().map(|v| v * scale).collect::<Vec<_>>();
            close(&scaled(&enc), &scaled(&g_enc[j * d..(j + 1) * d]));
            close(&scaled(&dec), &scaled(&g_dec[j * d..(j + 1) * d]));
            close(&scaled(&[3.0 + entries.slope[range].iter().sum::<f32>()]), &scaled(&sums[j..=j]));
        }
    }
}
