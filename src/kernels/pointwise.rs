//! Pointwise functions and their derivatives, written so that they vectorise.

use super::wide::wide;

/// eˣ to within 2 units in the last place for −87 ≤ x ≤ 88, clamped outside. (Cody–Waite reduction by ln 2, then a
/// polynomial of degree 6, as in Cephes' `expf`.)
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer in the low bits of the significand.
    const MAGIC: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5.0e-1;
    let y = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23;
    y * f32::from_bits(exponent)
}

/// The error function to 1.5e-7 (Abramowitz and Stegun 7.1.26), given e^(−x²).
#[inline(always)]
fn erf_with(x: f32, exp_minus_square: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let p = ((((1.061_405_4 * t - 1.453_152_1) * t + 1.421_413_8) * t - 0.284_496_72) * t + 0.254_829_6) * t;
    (1.0 - p * exp_minus_square).copysign(x)
}

/// Standard normal distribution function Φ(x) and density φ(x).
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let e = exp(-0.5 * x * x);
    let cdf = 0.5 * (1.0 + erf_with(x * std::f32::consts::FRAC_1_SQRT_2, e));
    (cdf, e * 0.398_942_3)
}

/// σ(x) = 1/(1 + e^(−x)).
#[inline(always)]
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// d/dx of x·σ(x).
#[inline(always)]
#[must_use]
pub fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

/// 2√(2/π), and that times 0.044715: the coefficients of the tanh approximation of GELU.
const TWICE_U: f32 = 1.595_769;
const TWICE_U_CUBIC: f32 = 0.071_354_814;

wide! {
    /// y = x·σ(s·x): SiLU for s = 1, CLIP's quick GELU for s = 1.702.
    pub fn swish(x: &[f32], s: f32, y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * sigmoid(s * x);
        }
    }

    /// dx = dy · d/dx of x·σ(s·x).
    pub fn swish_back(x: &[f32], dy: &[f32], s: f32, dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let g = sigmoid(s * x);
            *dx = dy * g * (1.0 + s * x * (1.0 - g));
        }
    }

    /// y = x·σ(2u), u = √(2/π)(x + 0.044715 x³): the tanh approximation of GELU, since (1 + tanh u)/2 = σ(2u).
    pub fn gelu_tanh(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * sigmoid(x * (TWICE_U + TWICE_U_CUBIC * x * x));
        }
    }

    /// dx = dy · d/dx of [`gelu_tanh`].
    pub fn gelu_tanh_back(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let square = x * x;
            let g = sigmoid(x * (TWICE_U + TWICE_U_CUBIC * square));
            *dx = dy * (g + x * g * (1.0 - g) * (TWICE_U + 3.0 * TWICE_U_CUBIC * square));
        }
    }

    /// Rows x·(1 + scale) + shift.
    pub fn modulate(x: &[f32], scale: &[f32], shift: &[f32], y: &mut [f32]) {
        let c = scale.len();
        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for i in 0..c {
                y[i] = x[i] * (1.0 + scale[i]) + shift[i];
            }
        }
    }

    /// Rows base + x·gate.
    pub fn gated(base: &[f32], x: &[f32], gate: &[f32], y: &mut [f32]) {
        let c = gate.len();
        for ((y, base), x) in y.chunks_exact_mut(c).zip(base.chunks_exact(c)).zip(x.chunks_exact(c)) {
            for i in 0..c {
                y[i] = base[i] + x[i] * gate[i];
            }
        }
    }

    /// Rows dx = dy·factor (+ dy if `plus_one`), and sum += Σ dy·x over the rows.
    pub fn scaled_back(x: &[f32], dy: &[f32], factor: &[f32], plus_one: bool, dx: &mut [f32], sum: &mut [f32]) {
        let c = factor.len();
        let one = if plus_one { 1.0 } else { 0.0 };
        for ((dx, dy), x) in dx.chunks_exact_mut(c).zip(dy.chunks_exact(c)).zip(x.chunks_exact(c)) {
            for i in 0..c {
                dx[i] = dy[i] * (one + factor[i]);
                sum[i] += dy[i] * x[i];
            }
        }
    }

    /// y = y·scale + x.
    pub fn scale_and_add(y: &mut [f32], scale: f32, x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = *y * scale + x;
        }
    }

    /// Rows `[hidden(n), gate(n)]` → hidden · gate · Φ(gate).
    pub fn geglu(x: &[f32], n: usize, y: &mut [f32]) {
        for (y, x) in y.chunks_exact_mut(n).zip(x.chunks_exact(2 * n)) {
            let (hidden, gate) = x.split_at(n);
            for ((y, &h), &g) in y.iter_mut().zip(hidden).zip(gate) {
                *y = h * g * normal(g).0;
            }
        }
    }

    /// The gradient of [`geglu`] with respect to its rows.
    pub fn geglu_back(x: &[f32], dy: &[f32], n: usize, dx: &mut [f32]) {
        for ((dx, x), dy) in dx.chunks_exact_mut(2 * n).zip(x.chunks_exact(2 * n)).zip(dy.chunks_exact(n)) {
            let (hidden, gate) = x.split_at(n);
            let (dh, dg) = dx.split_at_mut(n);
            for i in 0..n {
                let (cdf, density) = normal(gate[i]);
                dh[i] = dy[i] * gate[i] * cdf;
                dg[i] = dy[i] * hidden[i] * (cdf + gate[i] * density);
            }
        }
    }

    /// Softmax of every row of `width` numbers times `scale`, in place; entries after `visible(row)` become zero.
    pub fn softmax_rows(x: &mut [f32], width: usize, scale: f32, first_visible: usize, causal: bool) {
        for (r, row) in x.chunks_exact_mut(width).enumerate() {
            let visible = if causal { (first_visible + r + 1).min(width) } else { width };
            let (seen, hidden) = row.split_at_mut(visible);
            hidden.fill(0.0);
            let mut lanes = [f32::NEG_INFINITY; 16];
            let chunks = seen.chunks_exact(16);
            for &v in chunks.remainder() {
                lanes[0] = lanes[0].max(v);
            }
            for chunk in chunks {
                for (l, &v) in lanes.iter_mut().zip(chunk) {
                    *l = if v > *l { v } else { *l };
                }
            }
            let max = lanes.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
            for v in seen.iter_mut() {
                *v = exp((*v - max) * scale);
            }
            let inverse = 1.0 / sum(seen);
            for v in seen.iter_mut() {
                *v *= inverse;
            }
        }
    }

    /// x = e^(scale·x − largest) for every row of `width` numbers, with `largest` and `sums` (of all numbers of the row so
    /// far) brought up to date, and `shrink` what sums before are to be multiplied by.
    pub fn exponentials_of_rows(
        x: &mut [f32], width: usize, scale: f32, largest: &mut [f32], sums: &mut [f32], shrink: &mut [f32],
    ) {
        for (r, row) in x.chunks_exact_mut(width).enumerate() {
            let mut lanes = [f32::NEG_INFINITY; 16];
            let chunks = row.chunks_exact(16);
            for &v in chunks.remainder() {
                lanes[0] = lanes[0].max(v);
            }
            for chunk in chunks {
                for (l, &v) in lanes.iter_mut().zip(chunk) {
                    *l = if v > *l { v } else { *l };
                }
            }
            let before = largest[r];
            // Never −∞: a block of keys may be hidden as a whole.
            let max = before.max(lanes.iter().fold(f32::MIN, |m, &v| m.max(v * scale)));
            let mut lanes = [0f32; 16];
            let mut chunks = row.chunks_exact_mut(16);
            for chunk in &mut chunks {
                for (l, v) in lanes.iter_mut().zip(chunk) {
                    *v = exp(*v * scale - max);
                    *l += *v;
                }
            }
            for v in chunks.into_remainder() {
                *v = exp(*v * scale - max);
                lanes[0] += *v;
            }
            shrink[r] = exp(before - max);
            sums[r] = sums[r] * shrink[r] + lanes.iter().sum::<f32>();
            largest[r] = max;
        }
    }

    /// dS = P ∘ (dP − rowsum(P ∘ dP)) · scale, in place on dP.
    pub fn softmax_back_rows(p: &[f32], dp: &mut [f32], width: usize, scale: f32) {
        for (p, dp) in p.chunks_exact(width).zip(dp.chunks_exact_mut(width)) {
            let inner = dot(p, dp);
            for (dp, &p) in dp.iter_mut().zip(p) {
                *dp = p * (*dp - inner) * scale;
            }
        }
    }

    /// y += x.
    pub fn add(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }

    /// y = a + b.
    pub fn sum_of(y: &mut [f32], a: &[f32], b: &[f32]) {
        for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
            *y = a + b;
        }
    }
}

/// Sum in sixteen lanes, then the lanes in order.
#[inline(always)]
#[must_use]
pub fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = x.chunks_exact(16);
    let mut rest = 0.0;
    for &v in chunks.remainder() {
        rest += v;
    }
    for chunk in chunks {
        for (l, &v) in lanes.iter_mut().zip(chunk) {
            *l += v;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Inner product in sixteen lanes, then the lanes in order.
#[inline(always)]
#[must_use]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (cx, cy) = (x.chunks_exact(16), y.chunks_exact(16));
    let mut rest = 0.0;
    for (&a, &b) in cx.remainder().iter().zip(cy.remainder()) {
        rest += a * b;
    }
    for (a, b) in cx.zip(cy) {
        for ((l, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *l += a * b;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_accurate_over_its_range() {
        for i in -8600..8700 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) / exact - 1.0).abs();
            assert!(error < 3e-7, "exp({x}): relative error {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e9) < 1e-37);
    }

    #[test]
    fn rows_in_blocks_make_one_softmax() {
        // Two rows of 40, the second with its first block hidden.
        let scores: Vec<f32> =
            (0..80).map(|i| if (40..57).contains(&i) { f32::NEG_INFINITY } else { i as f32 % 7.3 }).collect();
        let mut expected = scores.clone();
        softmax_rows(&mut expected, 40, 0.7, 0, false);
        let (mut largest, mut sums, mut shrink) = ([f32::NEG_INFINITY; 2], [0f32; 2], [0f32; 2]);
        let mut done: Vec<Vec<f32>> = vec![Vec::new(); 2];
        for (from, width) in [(0, 17), (17, 23)] {
            let mut part: Vec<f32> = (0..2).flat_map(|r| scores[40 * r + from..][..width].to_vec()).collect();
            exponentials_of_rows(&mut part, width, 0.7, &mut largest, &mut sums, &mut shrink);
            for (r, done) in done.iter_mut().enumerate() {
                done.iter_mut().for_each(|v| *v *= shrink[r]);
                done.extend(&part[r * width..(r + 1) * width]);
            }
        }
        for (i, expected) in expected.iter().enumerate() {
            let found = done[i / 40][i % 40] / sums[i / 40];
            assert!((found - expected).abs() < 1e-6, "{i}: {found}, expected {expected}");
        }
    }

    #[test]
    fn normal_distribution_function_at_known_points() {
        for (x, cdf) in [(0.0, 0.5), (1.0, 0.841_344_7), (-2.0, 0.022_750_13), (3.5, 0.999_767_4)] {
            assert!((normal(x).0 - cdf).abs() < 3e-7, "{x}: {}", normal(x).0);
        }
    }
}
