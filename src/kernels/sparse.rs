//! Rows of few terms: what sparse autoencoders spend their time on beside one dense product.
//!
//! Four rows are taken at a time, so that what is summed is loaded and stored once for the four. The order of every
//! sum is fixed by the arguments.

use super::wide::wide;

/// Numbers summed side by side in a dot product.
const LANES: usize = 32;

/// Scores whose comparisons with a threshold fill a word.
const CHUNK: usize = 64;

/// Words that are filled before they are read.
const WORDS: usize = 64;

/// Row `i` of rows of `d` numbers.
#[inline(always)]
fn row(matrix: &[f32], i: u32, d: usize) -> &[f32] {
    &matrix[i as usize * d..i as usize * d + d]
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

/// y += Σ scales_i · matrix[rows_i], with rows of y's length.
#[inline(always)]
fn add_rows_here(y: &mut [f32], scales: &[f32], rows: &[u32], matrix: &[f32]) {
    let d = y.len();
    let (four_scales, four_rows) = (scales.chunks_exact(4), rows.chunks_exact(4));
    for (s, i) in four_scales.remainder().iter().zip(four_rows.remainder()) {
        add_here(y, *s, row(matrix, *i, d));
    }
    for (s, i) in four_scales.zip(four_rows) {
        let [a, b, c, e] = [0, 1, 2, 3].map(|at| row(matrix, i[at], d));
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
        add_rows_here(y, scales, rows, matrix);
    }

    /// r = Σ_i scales_i · matrix[rows_i] − sign·target, slopes_i = ⟨matrix[rows_i], r⟩; returns ‖r‖².
    pub(crate) fn residual(r: &mut [f32], target: &[f32], sign: f32, scales: &[f32], rows: &[u32], matrix: &[f32], slopes: &mut [f32]) -> f32 {
        for (r, t) in r.iter_mut().zip(target) {
            *r = -sign * t;
        }
        let d = r.len();
        add_rows_here(r, scales, rows, matrix);
        for (slope, i) in slopes.iter_mut().zip(rows) {
            *slope = dot_here(r, row(matrix, *i, d));
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

    /// One bit for every score, 64 to a word: whether `scores + bias` is above `threshold`.
    fn bits_above(scores: &[f32], bias: &[f32], threshold: f32, words: &mut [u64]) {
        for ((s, b), word) in scores.chunks(CHUNK).zip(bias.chunks(CHUNK)).zip(words) {
            let mut flags = [0u8; CHUNK];
            for ((s, b), flag) in s.iter().zip(b).zip(&mut flags) {
                *flag = u8::from(s + b > threshold);
            }
            *word = bits(&flags);
        }
    }

    /// The same with a threshold for every score.
    fn bits_over(scores: &[f32], bias: &[f32], thresholds: &[f32], words: &mut [u64]) {
        let chunks = scores.chunks(CHUNK).zip(bias.chunks(CHUNK)).zip(thresholds.chunks(CHUNK));
        for (((s, b), t), word) in chunks.zip(words) {
            let mut flags = [0u8; CHUNK];
            for (((s, b), t), flag) in s.iter().zip(b).zip(t).zip(&mut flags) {
                *flag = u8::from(s + b > *t);
            }
            *word = bits(&flags);
        }
    }

    /// How many of `values` are at least `least`.
    pub(crate) fn at_least(values: &[i32], least: i32) -> usize {
        values.iter().map(|v| u32::from(*v >= least)).sum::<u32>() as usize
    }

    /// Puts the bits of every positive `scores + bias` to `values`, and 0 for the others: they are in the same order.
    pub(crate) fn positive_bits(scores: &[f32], bias: &[f32], values: &mut [i32]) {
        for ((s, b), v) in scores.iter().zip(bias).zip(values) {
            *v = (s + b).max(0.0).to_bits() as i32;
        }
    }
}

/// Flags of 0 or 1 as the bits of a word.
#[inline(always)]
fn bits(flags: &[u8; CHUNK]) -> u64 {
    let mut word = 0;
    for (at, eight) in flags.as_chunks::<8>().0.iter().enumerate() {
        // Every flag meets one of eight factors that puts it among the upper eight bits, with no carry.
        let byte = u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        word |= byte << (8 * at);
    }
    word
}

/// Calls `offer(i, score)` for every `scores[i] + bias[i]` above a threshold, by rising i.
pub(crate) fn above(scores: &[f32], bias: &[f32], threshold: f32, mut offer: impl FnMut(usize, f32)) {
    let mut words = [0; WORDS];
    for (number, (scores, bias)) in scores.chunks(WORDS * CHUNK).zip(bias.chunks(WORDS * CHUNK)).enumerate() {
        let words = &mut words[..scores.len().div_ceil(CHUNK)];
        bits_above(scores, bias, threshold, words);
        each_bit(words, |i| offer(number * WORDS * CHUNK + i, scores[i] + bias[i]));
    }
}

/// Calls `offer(i, score)` for every `scores[i] + bias[i]` above `thresholds[i]`, by rising i.
pub(crate) fn over(scores: &[f32], bias: &[f32], thresholds: &[f32], mut offer: impl FnMut(usize, f32)) {
    let (mut words, size) = ([0; WORDS], WORDS * CHUNK);
    let parts = scores.chunks(size).zip(bias.chunks(size)).zip(thresholds.chunks(size));
    for (number, ((scores, bias), thresholds)) in parts.enumerate() {
        let words = &mut words[..scores.len().div_ceil(CHUNK)];
        bits_over(scores, bias, thresholds, words);
        each_bit(words, |i| offer(number * size + i, scores[i] + bias[i]));
    }
}

#[inline(always)]
fn each_bit(words: &[u64], mut found: impl FnMut(usize)) {
    for (number, word) in words.iter().enumerate() {
        let mut left = *word;
        while left != 0 {
            found(number * CHUNK + left.trailing_zeros() as usize);
            left &= left - 1;
        }
    }
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
    fn everything_above_a_threshold_is_offered() {
        for n in [1, 63, 64, 200, WORDS * CHUNK + 70] {
            let scores: Vec<f32> = (0..n).map(|i| ((i * 37) % 101) as f32).collect();
            let mut seen = Vec::new();
            above(&scores, &vec![0.5; n], 50.0, |i, score| {
                assert_eq!(score, scores[i] + 0.5);
                seen.push(i);
            });
            let expected: Vec<usize> = (0..n).filter(|&i| scores[i] + 0.5 > 50.0).collect();
            assert_eq!(seen, expected);
            assert!(n < 200 || expected.len() > n / 3);
        }
    }

    #[test]
    fn positive_numbers_are_in_the_order_of_their_bits() {
        let (scores, bias) = ([-3.0, 0.5, -0.0, 2.0, 1e-30, f32::MAX], [1.0, -1.0, 0.0, 0.25, 0.0, 0.0]);
        let mut values = [9; 6];
        positive_bits(&scores, &bias, &mut values);
        assert_eq!(values.map(|v| f32::from_bits(v as u32)), [0.0, 0.0, 0.0, 2.25, 1e-30, f32::MAX]);
        assert_eq!([1, values[3], values[5]].map(|least| at_least(&values, least)), [3, 2, 1]);
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
