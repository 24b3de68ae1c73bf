//! Scaled dot-product attention on channels-last slices, forward and backward.

use super::pointwise::{scale_and_add, softmax_back_rows, softmax_rows};
use super::product::{Matrix, Precision, for_each_chunk, product};

/// Sizes of an attention.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Queries per item.
    pub n: usize,
    /// Keys per item.
    pub m: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub width: usize,
    /// What scores are multiplied by before the softmax.
    pub scale: f32,
    /// Whether query i sees keys ≤ i only.
    pub causal: bool,
}

impl Shape {
    fn channels(&self) -> usize {
        self.heads * self.width
    }

    /// Head `h` of some rows.
    fn head<'a>(&self, x: &'a [f32], h: usize) -> Matrix<'a> {
        Matrix::rows(&x[h * self.width..], self.channels())
    }
}

/// Numbers that are added to the scores before the softmax: a mask, or a bias by position. Rows of keys; a step of 0
/// gives all items, heads or queries the same rows.
#[derive(Debug, Clone, Copy)]
pub struct Bias<'a> {
    /// The rows.
    pub data: &'a [f32],
    /// From an item's first row to the next item's.
    pub item: usize,
    /// From a head's first row to the next head's.
    pub head: usize,
    /// From a query's row to the next query's.
    pub query: usize,
}

/// Queries that are processed together: bounds the matrix of scores at 256 × keys.
const ROWS: usize = 256;

/// Turns the scores of head `h` for the queries from `first` on into probabilities, in place.
fn probabilities(scores: &mut [f32], s: Shape, bias: Option<Bias<'_>>, item: usize, h: usize, first: usize) {
    let Some(bias) = bias else { return softmax_rows(scores, s.m, s.scale, first, s.causal) };
    let start = item * bias.item + h * bias.head;
    for (r, row) in scores.chunks_exact_mut(s.m).enumerate() {
        scale_and_add(row, s.scale, &bias.data[start + (first + r) * bias.query..][..s.m]);
    }
    softmax_rows(scores, s.m, 1.0, first, s.causal);
}

/// out = softmax(Q Kᵀ · scale + bias) V for every item and head.
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    s: Shape,
    bias: Option<Bias<'_>>,
    precision: Precision,
    out: &mut [f32],
) {
    let c = s.channels();
    let blocks = s.n.div_ceil(ROWS);
    // Items are cut into blocks of queries; all blocks but an item's last are whole.
    let mut pieces: Vec<(usize, usize, &mut [f32])> = Vec::new();
    for (item, out) in out.chunks_mut(s.n * c).enumerate() {
        pieces.extend(out.chunks_mut(ROWS * c).enumerate().map(|(b, o)| (item, b, o)));
    }
    debug_assert_eq!(pieces.len() % blocks, 0);
    for_each_chunk(&mut pieces, 1, |(_, piece)| {
        let (item, block, out) = &mut piece[0];
        let rows = out.len() / c;
        let first = *block * ROWS;
        let q = &q[(*item * s.n + first) * c..];
        let (k, v) = (&k[*item * s.m * c..], &v[*item * s.m * c..]);
        let mut scores = vec![0f32; rows * s.m];
        for h in 0..s.heads {
            product(&mut scores, s.m, s.head(q, h), s.head(k, h).t(), (rows, s.width, s.m), false, precision);
            probabilities(&mut scores, s, bias, *item, h, first);
            let p = Matrix::rows(&scores, s.m);
            product(&mut out[h * s.width..], c, p, s.head(v, h), (rows, s.m, s.width), false, precision);
        }
    });
}

/// Gradients of [`attention`] with respect to queries, keys and values (not the bias), from the gradient of its output.
///
/// Probabilities are computed again, block by block, rather than kept.
#[allow(clippy::too_many_arguments)]
pub fn attention_back(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    dout: &[f32],
    s: Shape,
    bias: Option<Bias<'_>>,
    precision: Precision,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let c = s.channels();
    let mut items: Vec<(&mut [f32], &mut [f32], &mut [f32])> = dq
        .chunks_mut(s.n * c)
        .zip(dk.chunks_mut(s.m * c))
        .zip(dv.chunks_mut(s.m * c))
        .map(|((dq, dk), dv)| (dq, dk, dv))
        .collect();
    for_each_chunk(&mut items, 1, |(item, chunk)| {
        let (dq, dk, dv) = &mut chunk[0];
        let (k, v) = (&k[item * s.m * c..], &v[item * s.m * c..]);
        let mut p = vec![0f32; ROWS.min(s.n) * s.m];
        let mut ds = p.clone();
        for first in (0..s.n).step_by(ROWS) {
            let rows = ROWS.min(s.n - first);
            let (q, dout) = (&q[(item * s.n + first) * c..], &dout[(item * s.n + first) * c..]);
            let (p, ds) = (&mut p[..rows * s.m], &mut ds[..rows * s.m]);
            let later = first > 0;
            for h in 0..s.heads {
                let at = h * s.width;
                product(p, s.m, s.head(q, h), s.head(k, h).t(), (rows, s.width, s.m), false, precision);
                probabilities(p, s, bias, item, h, first);
                product(ds, s.m, s.head(dout, h), s.head(v, h).t(), (rows, s.width, s.m), false, precision);
                let pt = Matrix::rows(p, s.m).t();
                product(&mut dv[at..], c, pt, s.head(dout, h), (s.m, rows, s.width), later, precision);
                softmax_back_rows(p, ds, s.m, s.scale);
                let dsm = Matrix::rows(ds, s.m);
                product(&mut dq[first * c + at..], c, dsm, s.head(k, h), (rows, s.m, s.width), false, precision);
                product(&mut dk[at..], c, dsm.t(), s.head(q, h), (s.m, rows, s.width), later, precision);
            }
        }
    });
}
