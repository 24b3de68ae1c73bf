//! Rows of few terms: what sparse autoencoders spend their time on beside one dense product.
//!
//! Four rows are taken at a time, so that what is summed is loaded and stored once for the four. The order of every
//! sum is fixed by the arguments.

use super::wide::wide;

/// Numbers summed side by side in a dot product.
const LANES: usize = 32;

/// Scores compared with the threshold at a time.
const CHUNK: usize = 64;

/// The first `width` numbers of row `i` of rows that lie `stride` apart.
#[inline(always)]
fn row(matrix: &[f32], i: u32, stride: usize, width: usize) -> &[f32] {
    &matrix[i as usize * stride..i as usize * stride + width]
}

#[inline(always)]
fn dot_here(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] += x[i] * y[i];
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0] + rest
}

#[inline(always)]
fn add_here(y: &mut [f32], s: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += s * x;
    }
}

/// y += Σ scales_i · matrix[rows_i], with as much of each row as y holds.
#[inline(always)]
fn add_rows_here(y: &mut [f32], scales: &[f32], rows: &[u32], matrix: &[f32], stride: usize) {
    let d = y.len();
    let (four_scales, four_rows) = (scales.chunks_exact(4), rows.chunks_exact(4));
    for (s, i) in four_scales.remainder().iter().zip(four_rows.remainder()) {
        add_here(y, *s, row(matrix, *i, stride, d));
    }
    for (s, i) in four_scales.zip(four_rows) {
        let [a, b, c, e] = [0, 1, 2, 3].map(|at| row(matrix, i[at], stride, d));
        for ((((y, a), b), c), e) in y.iter_mut().zip(a).zip(b).zip(c).zip(e) {
            *y += (s[0] * a + s[1] * b) + (s[2] * c + s[3] * e);
        }
    }
}

wide! {
    /// ⟨a, b⟩.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
        dot_here(a, b)
    }

    /// y += s·x.
    pub(crate) fn add_scaled(y: &mut [f32], s: f32, x: &[f32]) {
        add_here(y, s, x);
    }

    /// y ·= s.
    pub(crate) fn scale(y: &mut [f32], s: f32) {
        for y in y {
            *y *= s;
        }
    }

    /// y += Σ_i scales_i · matrix[rows_i], with rows of y's length.
    pub(crate) fn add_rows(y: &mut [f32], scales: &[f32], rows: &[u32], matrix: &[f32]) {
        let d = y.len();
        add_rows_here(y, scales, rows, matrix, d);
    }

    /// The same where y is a part of a row: rows lie `stride` apart, and `matrix` begins where the part does.
    pub(crate) fn add_parts(y: &mut [f32], scales: &[f32], rows: &[u32], matrix: &[f32], stride: usize) {
        add_rows_here(y, scales, rows, matrix, stride);
    }

    /// sums_i += ⟨matrix[rows_i], r⟩ over a part of the rows, as in [`add_parts`].
    pub(crate) fn dot_parts(sums: &mut [f32], r: &[f32], rows: &[u32], matrix: &[f32], stride: usize) {
        for (sum, i) in sums.iter_mut().zip(rows) {
            *sum += dot_here(r, row(matrix, *i, stride, r.len()));
        }
    }

    /// r = Σ_i scales_i · matrix[rows_i] − sign·target, slopes_i = ⟨matrix[rows_i], r⟩; returns ‖r‖².
    pub(crate) fn residual(r: &mut [f32], target: &[f32], sign: f32, scales: &[f32], rows: &[u32], matrix: &[f32], slopes: &mut [f32]) -> f32 {
        for (r, t) in r.iter_mut().zip(target) {
            *r = -sign * t;
        }
        let d = r.len();
        add_rows_here(r, scales, rows, matrix, d);
        for (slope, i) in slopes.iter_mut().zip(rows) {
            *slope = dot_here(r, row(matrix, *i, d, d));
        }
        dot_here(r, r)
    }

    /// Adam: w −= rate·m/(√(v·correction) + ε) after m = β₁m + (1 − β₁)g, v = β₂v + (1 − β₂)g².
    pub(crate) fn adam(w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], betas: (f32, f32), rate: f32, correction: f32, epsilon: f32) {
        let (b1, b2) = betas;
        for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
            *m = b1 * *m + (1.0 - b1) * g;
            *v = b2 * *v + (1.0 - b2) * g * g;
            *w -= rate * *m / ((*v * correction).sqrt() + epsilon);
        }
    }

    /// The first chunk of scores at or after `from` (in chunks of [`CHUNK`]) with a `scores + bias` above `threshold`;
    /// the number of chunks if there is none.
    fn next_above(scores: &[f32], bias: &[f32], threshold: f32, from: usize) -> usize {
        let chunks = scores.chunks_exact(CHUNK).zip(bias.chunks_exact(CHUNK));
        for (number, (s, b)) in chunks.enumerate().skip(from) {
            let mut above = 0u32;
            for i in 0..CHUNK {
                above |= u32::from(s[i] + b[i] > threshold);
            }
            if above != 0 {
                return number;
            }
        }
        scores.len() / CHUNK
    }

    /// The same with a threshold for every score.
    fn next_over(scores: &[f32], bias: &[f32], thresholds: &[f32], from: usize) -> usize {
        let chunks = scores.chunks_exact(CHUNK).zip(bias.chunks_exact(CHUNK)).zip(thresholds.chunks_exact(CHUNK));
        for (number, ((s, b), t)) in chunks.enumerate().skip(from) {
            let mut over = 0u32;
            for i in 0..CHUNK {
                over |= u32::from(s[i] + b[i] > t[i]);
            }
            if over != 0 {
                return number;
            }
        }
        scores.len() / CHUNK
    }
}

/// Calls `offer(i, score)` for every `scores[i] + bias[i]` above a threshold that `offer` may raise; it gets and
/// returns the threshold.
pub(crate) fn above(scores: &[f32], bias: &[f32], threshold: f32, mut offer: impl FnMut(usize, f32, f32) -> f32) {
    let mut threshold = threshold;
    let (mut number, whole) = (0, scores.len() / CHUNK);
    let mut range = |range: std::ops::Range<usize>, threshold: &mut f32| {
        for i in range {
            let score = scores[i] + bias[i];
            if score > *threshold {
                *threshold = offer(i, score, *threshold);
            }
        }
    };
    loop {
        number = next_above(scores, bias, threshold, number);
        if number >= whole {
            break;
        }
        range(number * CHUNK..(number + 1) * CHUNK, &mut threshold);
        number += 1;
    }
    range(whole * CHUNK..scores.len(), &mut threshold);
}

/// Calls `offer(i, score)` for every `scores[i] + bias[i]` above `thresholds[i]`.
pub(crate) fn over(scores: &[f32], bias: &[f32], thresholds: &[f32], mut offer: impl FnMut(usize, f32)) {
    let (mut number, whole) = (0, scores.len() / CHUNK);
    let mut range = |range: std::ops::Range<usize>| {
        for i in range {
            let score = scores[i] + bias[i];
            if score > thresholds[i] {
                offer(i, score);
            }
        }
    };
    loop {
        number = next_over(scores, bias, thresholds, number);
        if number >= whole {
            break;
        }
        range(number * CHUNK..(number + 1) * CHUNK);
        number += 1;
    }
    range(whole * CHUNK..scores.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_add_up_whatever_their_number_and_length() {
        let matrix: Vec<f32> = (0..7 * 67).map(|v| (v % 13) as f32).collect();
        for n in 0..7 {
            let (rows, scales): (Vec<u32>, Vec<f32>) =
                ((0..n as u32).map(|i| 6 - i).collect(), (0..n).map(|i| i as f32 + 1.0).collect());
            let mut y = vec![1.0; 67];
            add_rows(&mut y, &scales, &rows, &matrix);
            let mut r = vec![0.0; 67];
            let mut slopes = vec![0.0; n];
            let squares = residual(&mut r, &[2.0; 67], 1.0, &scales, &rows, &matrix, &mut slopes);
            for c in 0..67 {
                let sum: f32 = (0..n).map(|i| scales[i] * matrix[(6 - i) * 67 + c]).sum();
                assert_eq!((y[c], r[c]), (1.0 + sum, sum - 2.0));
            }
            assert_eq!(squares, r.iter().map(|v| v * v).sum::<f32>());
            for i in 0..n {
                assert_eq!(slopes[i], r.iter().zip(&matrix[(6 - i) * 67..]).map(|(a, b)| a * b).sum::<f32>());
            }
        }
    }

    #[test]
    fn parts_of_rows_add_up_to_rows() {
        let matrix: Vec<f32> = (0..7 * 67).map(|v| (v % 13) as f32).collect();
        let (rows, scales) = ([6, 0, 3, 2, 5], [1.0, -2.0, 3.0, 0.5, 4.0]);
        let (mut whole, mut parts, mut sums) = (vec![1.0; 67], vec![1.0; 67], [0.0; 5]);
        add_rows(&mut whole, &scales, &rows, &matrix);
        for from in (0..67).step_by(32) {
            let part = &mut parts[from..(from + 32).min(67)];
            add_parts(part, &scales, &rows, &matrix[from..], 67);
            dot_parts(&mut sums, part, &rows, &matrix[from..], 67);
        }
        assert_eq!(whole, parts);
        for (sum, &i) in sums.iter().zip(&rows) {
            assert_eq!(*sum, dot(&whole, &matrix[i as usize * 67..(i as usize + 1) * 67]));
        }
    }

    #[test]
    fn everything_above_a_rising_threshold_is_offered() {
        let scores: Vec<f32> = (0..200).map(|i| ((i * 37) % 101) as f32).collect();
        let mut seen = Vec::new();
        above(&scores, &[0.5; 200], 50.0, |i, score, threshold| {
            assert_eq!(score, scores[i] + 0.5);
            seen.push(i);
            threshold.max(score)
        });
        let mut best = 50.0;
        let records: Vec<usize> = (0..200)
            .filter(|&i| {
                scores[i] + 0.5 > best && {
                    best = scores[i] + 0.5;
                    true
                }
            })
            .collect();
        assert_eq!(seen, records);
    }

    #[test]
    fn everything_over_its_own_threshold_is_offered() {
        let scores: Vec<f32> = (0..200).map(|i| ((i * 37) % 101) as f32).collect();
        let thresholds: Vec<f32> = (0..200).map(|i| if i < 130 { 200.0 } else { (i % 90) as f32 }).collect();
        let mut seen = Vec::new();
        over(&scores, &[0.5; 200], &thresholds, |i, score| {
            assert_eq!(score, scores[i] + 0.5);
            seen.push(i);
        });
        let expected: Vec<usize> = (0..200).filter(|&i| scores[i] + 0.5 > thresholds[i]).collect();
        assert!(expected.len() > 10);
        assert_eq!(seen, expected);
    }
}
