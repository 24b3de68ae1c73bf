//! Scaled dot-product attention on channels-last slices, forward and backward.

use super::panels::{self, Packed};
use super::pointwise::{exponentials_of_rows, scale_and_add, softmax_back_rows, softmax_rows};
use super::product::{Matrix, Precision, for_each_chunk, on_tiles, product};

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
    if panels::available() && !on_tiles(precision) && !s.causal {
        return by_panels(q, k, v, s, bias, out);
    }
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

/// Queries that are processed together by panels at most, and keys: their scores, 288 KiB, stay in a second-level cache.
const QUERIES: usize = 192;
const KEYS: usize = 384;

/// Keys come in blocks: what was summed for the ones before is scaled down where a larger score turns up (Milakov and
/// Gimelshein 2018, "Online normalizer calculation for softmax"; Dao et al. 2022).
fn by_panels(q: &[f32], k: &[f32], v: &[f32], s: Shape, bias: Option<Bias<'_>>, out: &mut [f32]) {
    let c = s.channels();
    // Every block of keys, with its values, is packed once for all queries.
    let blocks = s.m.div_ceil(KEYS);
    let mut packed: Vec<Option<[Packed; 2]>> = (0..out.len() / (s.n * c) * s.heads * blocks).map(|_| None).collect();
    for_each_chunk(&mut packed, 1, |(i, packed)| {
        let (item, h, from) = (i / (s.heads * blocks), i / blocks % s.heads, i % blocks * KEYS);
        let (keys, at) = (KEYS.min(s.m - from), (item * s.m + from) * c);
        let (k, v) = (s.head(&k[at..], h).t(), s.head(&v[at..], h));
        packed[0] = Some([Packed::new(k, (1, s.width), keys), Packed::new(v, (1, keys), s.width)]);
    });
    // Blocks of queries of about the same size; all of an item but the last are whole.
    let queries = s.n.div_ceil(s.n.div_ceil(QUERIES));
    let mut pieces: Vec<(usize, usize, &mut [f32])> = Vec::new();
    for (item, out) in out.chunks_mut(s.n * c).enumerate() {
        pieces.extend(out.chunks_mut(queries * c).enumerate().map(|(b, o)| (item, b * queries, o)));
    }
    for_each_chunk(&mut pieces, 1, |(_, piece)| {
        let (item, first, out) = &mut piece[0];
        let q = &q[(*item * s.n + *first) * c..];
        let mut room = Room::new(s, out.len() / c);
        for h in 0..s.heads {
            let packed = &packed[(*item * s.heads + h) * blocks..][..blocks];
            attend(q, packed, s, bias, (*item, h, *first), &mut room, out);
        }
    });
}

/// Rows of this width, up to whole registers.
fn padded(width: usize) -> usize {
    width.next_multiple_of(16)
}

/// What [`attend`] needs for some queries, allocated once for all heads.
struct Room {
    scores: Vec<f32>,
    part: Vec<f32>,
    largest: Vec<f32>,
    sums: Vec<f32>,
    shrink: Vec<f32>,
}

impl Room {
    fn new(s: Shape, rows: usize) -> Self {
        let zeros = |row: usize| vec![0f32; rows * row];
        let (scores, part) = (zeros(padded(KEYS.min(s.m))), zeros(padded(s.width)));
        Self { scores, part, largest: zeros(1), sums: zeros(1), shrink: zeros(1) }
    }
}

/// Head `h` of some queries' output, from query `first` of `item` on.
fn attend(
    q: &[f32],
    blocks: &[Option<[Packed; 2]>],
    s: Shape,
    bias: Option<Bias<'_>>,
    (item, h, first): (usize, usize, usize),
    room: &mut Room,
    out: &mut [f32],
) {
    let (c, at) = (s.channels(), h * s.width);
    let rows = out.len() / c;
    let Room { scores, part, largest, sums, shrink } = room;
    largest.fill(f32::NEG_INFINITY);
    sums.fill(0.0);
    for (i, [keys, values]) in blocks.iter().flatten().enumerate() {
        let from = i * KEYS;
        let n = KEYS.min(s.m - from);
        let (row, part_row) = (padded(n), padded(s.width));
        let scores = &mut scores[..rows * row];
        keys.multiply(rows, |_, r| &q[r * c + at..], true, scores, row);
        // Keys that are not there get the weight zero, whole registers of scores the same treatment.
        if row > n {
            scores.chunks_exact_mut(row).for_each(|row| row[n..].fill(f32::MIN));
        }
        let scale = match bias {
            None => s.scale,
            Some(bias) => {
                let start = item * bias.item + h * bias.head + from;
                for (r, row) in scores.chunks_exact_mut(row).enumerate() {
                    scale_and_add(&mut row[..n], s.scale, &bias.data[start + (first + r) * bias.query..][..n]);
                }
                1.0
            }
        };
        exponentials_of_rows(scores, row, scale, largest, sums, shrink);
        values.multiply(rows, |_, r| &scores[r * row..], true, part, part_row);
        for ((out, part), shrink) in out.chunks_exact_mut(c).zip(part.chunks_exact(part_row)).zip(&*shrink) {
            let out = &mut out[at..at + s.width];
            if from == 0 {
                out.copy_from_slice(&part[..s.width]);
            } else {
                scale_and_add(out, *shrink, &part[..s.width]);
            }
        }
    }
    for (out, sum) in out.chunks_exact_mut(c).zip(&*sums) {
        let inverse = 1.0 / sum;
        out[at..at + s.width].iter_mut().for_each(|o| *o *= inverse);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    #[test]
    fn attention_agrees_with_the_definition() {
        // Two blocks of queries and of keys each way of computing, and a lone key.
        for (n, m, biased) in [(300, 400, false), (200, 500, true), (5, 1, false)] {
            let (heads, width, scale) = (2, 18, 0.3f32);
            let c = heads * width;
            let s = Shape { n, m, heads, width, scale, causal: false };
            let draw = |name: &str, rows: usize| stream(4, name, 0).normals(2 * rows * c);
            let (q, k, v) = (draw("q", n), draw("k", m), draw("v", m));
            let numbers = stream(4, "bias", 0).normals(2 * heads * n * m);
            let bias = biased.then_some(Bias { data: &numbers, item: heads * n * m, head: n * m, query: m });
            let mut out = vec![f32::NAN; q.len()];
            attention(&q, &k, &v, s, bias, Precision::Full, &mut out);
            for (row, out) in out.chunks_exact(width).enumerate() {
                let (item, i, h) = (row / heads / n, row / heads % n, row % heads);
                let key = |x: &[f32], j: usize| x[(item * m + j) * c + h * width..][..width].to_vec();
                let query = &q[(item * n + i) * c + h * width..][..width];
                let weights: Vec<f64> = (0..m)
                    .map(|j| {
                        let score: f32 = query.iter().zip(key(&k, j)).map(|(a, b)| a * b).sum::<f32>() * scale;
                        let extra = bias.map_or(0.0, |b| b.data[item * b.item + h * b.head + i * b.query + j]);
                        f64::from(score + extra).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                for (d, found) in out.iter().enumerate() {
                    let sum: f64 = weights.iter().enumerate().map(|(j, w)| w * f64::from(key(&v, j)[d])).sum();
                    let error = (f64::from(*found) - sum / total).abs();
                    assert!(error < 1e-5, "{n}×{m} row {row}, channel {d}: {error}");
                }
            }
        }
    }
}
