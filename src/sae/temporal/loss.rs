//! Gradients of TIDE's loss, token by token.
//!
//! The factor c = 2/(B·d) of every gradient is left out, as in the shared step: what stands here is ½·B·d times the
//! derivative of the mean over B tokens.

use super::Terms;
use crate::sae::codes::Codes;

/// Adds to `g` the gradient of λ(1 − cos(x, y)) by y, for one token: ½ d λ (cos·y/‖y‖² − x/(‖x‖‖y‖)).
pub(super) fn cosine(g: &mut [f32], lambda: f32, x: &[f32], y: &[f32]) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let (xx, yy) = (dot(x, x), dot(y, y));
    if lambda == 0.0 || xx == 0.0 || yy == 0.0 {
        return;
    }
    let norms = (xx * yy).sqrt();
    let half = 0.5 * x.len() as f64 * f64::from(lambda);
    let (by_y, by_x) = ((half * dot(x, y) / (norms * yy)) as f32, (half / norms) as f32);
    for ((g, x), y) in g.iter_mut().zip(x).zip(y) {
        *g += by_y * y - by_x * x;
    }
}

/// Adds to the slopes of token `t` what the consistency of its codes with those of `neighbours` says:
/// λ·steps/(steps − 1)·(z_t − z_neighbour). There is one pair less than steps.
pub(super) fn temporal(
    slopes: &mut [f32],
    codes: &Codes,
    t: usize,
    neighbours: impl Iterator<Item = usize>,
    weight: f32,
) {
    for other in neighbours {
        let (index, value) = codes.token(t);
        for ((slope, &j), z) in slopes.iter_mut().zip(index).zip(value) {
            *slope += weight * (z - codes.get(other, j as usize));
        }
    }
}

/// Adds to the slopes of one token's code `z` what the sparsity says: d λ H'(S − S*) S (1/Σz − z/Σz²).
pub(super) fn sparsity(slopes: &mut [f32], terms: &Terms, z: &[f32], k: usize, d: usize) {
    let (sum, squares): (f32, f32) = (z.iter().sum(), z.iter().map(|z| z * z).sum());
    if terms.sparsity == 0.0 || squares <= 0.0 {
        return;
    }
    let s = sum * sum / (k as f32 * squares);
    let slope = (s - terms.sparsity_target).clamp(-terms.huber_delta, terms.huber_delta);
    let all = d as f32 * terms.sparsity * slope * s;
    for (out, z) in slopes.iter_mut().zip(z) {
        *out += all * (1.0 / sum - z / squares);
    }
}
