//! Group and layer normalisation, forward and backward, channels-last.

use super::pointwise::{dot, sigmoid, silu_slope, sum};
use super::product::for_each_chunk;
use super::wide::wide;
use rayon::prelude::*;

/// y = γ (x − μ)/√(σ² + ε) + β over each group of channels of each item, then SiLU if `silu`.
///
/// `x` is `[items, positions, channels]`; μ and σ² are taken over positions and the group's channels.
#[allow(clippy::too_many_arguments)]
pub fn group_norm(
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    groups: usize,
    item: usize,
    eps: f32,
    silu: bool,
    y: &mut [f32],
) {
    let channels = gamma.len();
    for_each_chunk(y, item, |(i, y)| {
        let x = &x[i * item..(i + 1) * item];
        let (mean, inverse) = statistics(x, channels, groups, eps);
        let scale: Vec<f32> = gamma.iter().zip(&inverse).map(|(g, s)| g * s).collect();
        let shift: Vec<f32> = beta.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        affine(x, &scale, &shift, silu, y);
    });
}

/// Mean and 1/√(σ² + ε) of each channel's group.
fn statistics(x: &[f32], channels: usize, groups: usize, eps: f32) -> (Vec<f32>, Vec<f32>) {
    let width = channels / groups;
    let count = (x.len() / groups) as f64;
    let mut sums = vec![0f32; channels];
    channel_sums(x, &mut sums);
    let pool = |sums: &[f32]| -> Vec<f64> {
        sums.chunks(width).map(|g| g.iter().map(|&v| f64::from(v)).sum::<f64>() / count).collect()
    };
    let means = pool(&sums);
    let mean: Vec<f32> = (0..channels).map(|c| means[c / width] as f32).collect();
    sums.fill(0.0);
    channel_squares(x, &mean, &mut sums);
    let variances = pool(&sums);
    let inverse = (0..channels).map(|c| (1.0 / (variances[c / width] + f64::from(eps)).sqrt()) as f32).collect();
    (mean, inverse)
}

/// Gradients of [`group_norm`]: returns dγ and dβ, writes dx.
#[allow(clippy::too_many_arguments)]
pub fn group_norm_back(
    x: &[f32],
    dy: &[f32],
    gamma: &[f32],
    beta: &[f32],
    groups: usize,
    item: usize,
    eps: f32,
    silu: bool,
    dx: &mut [f32],
) -> (Vec<f32>, Vec<f32>) {
    let channels = gamma.len();
    let width = channels / groups;
    let one = |(i, dx): (usize, &mut [f32])| {
        let (x, dy) = (&x[i * item..(i + 1) * item], &dy[i * item..(i + 1) * item]);
        let (mean, inverse) = statistics(x, channels, groups, eps);
        let (mut sum_dy, mut sum_dy_x) = (vec![0f32; channels], vec![0f32; channels]);
        let scale: Vec<f32> = gamma.iter().zip(&inverse).map(|(g, s)| g * s).collect();
        let shift: Vec<f32> = beta.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        inner_gradient(x, dy, &scale, &shift, &mean, &inverse, silu, dx, &mut sum_dy, &mut sum_dy_x);
        // dx = inverse (γ dv − m1 − x̂ m2), with m1, m2 the group's means of γ dv and γ dv x̂.
        let count = (item / groups) as f32;
        let group_mean = |sums: &[f32], c: usize| -> f32 {
            let g = c / width * width;
            (g..g + width).map(|j| gamma[j] * sums[j]).sum::<f32>() / count
        };
        let by_x: Vec<f32> = (0..channels).map(|c| -inverse[c] * inverse[c] * group_mean(&sum_dy_x, c)).collect();
        let constant: Vec<f32> =
            (0..channels).map(|c| -inverse[c] * group_mean(&sum_dy, c) - by_x[c] * mean[c]).collect();
        outer_gradient(x, &scale, &by_x, &constant, dx);
        (sum_dy_x, sum_dy)
    };
    let parts: Vec<(Vec<f32>, Vec<f32>)> = if rayon::current_num_threads() > 1 {
        dx.par_chunks_mut(item).enumerate().map(one).collect()
    } else {
        dx.chunks_mut(item).enumerate().map(one).collect()
    };
    total(parts, channels)
}

/// Sums the items' gradients in order.
fn total(parts: Vec<(Vec<f32>, Vec<f32>)>, channels: usize) -> (Vec<f32>, Vec<f32>) {
    let mut all = (vec![0f32; channels], vec![0f32; channels]);
    for (g, b) in parts {
        super::pointwise::add(&mut all.0, &g);
        super::pointwise::add(&mut all.1, &b);
    }
    all
}

wide! {
    fn channel_sums(x: &[f32], sums: &mut [f32]) {
        for row in x.chunks_exact(sums.len()) {
            for (s, &v) in sums.iter_mut().zip(row) {
                *s += v;
            }
        }
    }

    fn channel_squares(x: &[f32], mean: &[f32], sums: &mut [f32]) {
        for row in x.chunks_exact(sums.len()) {
            for ((s, &v), &m) in sums.iter_mut().zip(row).zip(mean) {
                *s += (v - m) * (v - m);
            }
        }
    }

    fn affine(x: &[f32], scale: &[f32], shift: &[f32], silu: bool, y: &mut [f32]) {
        let c = scale.len();
        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for i in 0..c {
                y[i] = x[i] * scale[i] + shift[i];
            }
            if silu {
                for v in y.iter_mut() {
                    *v *= sigmoid(*v);
                }
            }
        }
    }

    /// dv = dy · silu′(v) into `dv`; Σ dv and Σ dv x̂ per channel.
    fn inner_gradient(
        x: &[f32], dy: &[f32], scale: &[f32], shift: &[f32], mean: &[f32], inverse: &[f32], silu: bool,
        dv: &mut [f32], sum_dy: &mut [f32], sum_dy_x: &mut [f32],
    ) {
        let c = scale.len();
        for ((dv, x), dy) in dv.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dy.chunks_exact(c)) {
            if silu {
                for i in 0..c {
                    dv[i] = dy[i] * silu_slope(x[i] * scale[i] + shift[i]);
                }
            } else {
                dv.copy_from_slice(dy);
            }
            for i in 0..c {
                sum_dy[i] += dv[i];
                sum_dy_x[i] += dv[i] * (x[i] - mean[i]) * inverse[i];
            }
        }
    }

    fn outer_gradient(x: &[f32], scale: &[f32], by_x: &[f32], constant: &[f32], dx: &mut [f32]) {
        let c = scale.len();
        for (dx, x) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for i in 0..c {
                dx[i] = dx[i] * scale[i] + x[i] * by_x[i] + constant[i];
            }
        }
    }

    fn layer_norm_rows(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
        let c = gamma.len();
        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            let mean = sum(x) / c as f32;
            for i in 0..c {
                y[i] = x[i] - mean;
            }
            let inverse = 1.0 / (dot(y, y) / c as f32 + eps).sqrt();
            for i in 0..c {
                y[i] = y[i] * inverse * gamma[i] + beta[i];
            }
        }
    }

    fn layer_norm_back_rows(
        x: &[f32], dy: &[f32], gamma: &[f32], eps: f32, dx: &mut [f32], dgamma: &mut [f32], dbeta: &mut [f32],
    ) {
        let c = gamma.len();
        let mut normal = vec![0f32; c];
        for ((dx, x), dy) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dy.chunks_exact(c)) {
            let mean = sum(x) / c as f32;
            for i in 0..c {
                normal[i] = x[i] - mean;
            }
            let inverse = 1.0 / (dot(&normal, &normal) / c as f32 + eps).sqrt();
            for i in 0..c {
                normal[i] *= inverse;
                dgamma[i] += dy[i] * normal[i];
                dbeta[i] += dy[i];
                dx[i] = dy[i] * gamma[i];
            }
            let first = sum(dx) / c as f32;
            let second = dot(dx, &normal) / c as f32;
            for i in 0..c {
                dx[i] = inverse * (dx[i] - first - normal[i] * second);
            }
        }
    }
}

/// Rows that one task normalises: enough work for a thread, and fixed, so that sums do not depend on threads.
const ROWS: usize = 256;

/// y = γ (x − μ)/√(σ² + ε) + β for every row.
pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    let chunk = ROWS * gamma.len();
    for_each_chunk(y, chunk, |(i, y)| layer_norm_rows(&x[i * chunk..i * chunk + y.len()], gamma, beta, eps, y));
}

/// Gradients of [`layer_norm`]: returns dγ and dβ, writes dx.
pub fn layer_norm_back(x: &[f32], dy: &[f32], gamma: &[f32], eps: f32, dx: &mut [f32]) -> (Vec<f32>, Vec<f32>) {
    let c = gamma.len();
    let chunk = ROWS * c;
    let one = |(i, dx): (usize, &mut [f32])| {
        let range = i * chunk..i * chunk + dx.len();
        let (mut dgamma, mut dbeta) = (vec![0f32; c], vec![0f32; c]);
        layer_norm_back_rows(&x[range.clone()], &dy[range], gamma, eps, dx, &mut dgamma, &mut dbeta);
        (dgamma, dbeta)
    };
    let parts: Vec<_> = if rayon::current_num_threads() > 1 {
        dx.par_chunks_mut(chunk).enumerate().map(one).collect()
    } else {
        dx.chunks_mut(chunk).enumerate().map(one).collect()
    };
    total(parts, c)
}
