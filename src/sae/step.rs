//! What a step of training needs beside the batch, and what it finds.

use super::adam::Adam;

/// What a step needs beside the batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) adam: Adam,
    /// Inputs are multiplied by this.
    pub(crate) scale: f32,
    pub(crate) aux_alpha: f32,
    pub(crate) aux_k: usize,
    pub(crate) dead_window: u64,
    /// Share of the steps of the training that are done.
    pub(crate) progress: f32,
    /// Whether the explained variance of the batch is wanted.
    pub(crate) judge: bool,
    /// The largest length of the gradient of all weights.
    pub(crate) clip: Option<f32>,
    /// Whether dead latents start anew after this step, and the seed by which tokens are drawn for them.
    pub(crate) resample: Option<u64>,
    /// What the encoder matrix loses of itself: learning rate × weight decay.
    pub(crate) shrink: f32,
}

/// What a step found, before its update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// ‖x − x̂‖²/d, mean over the batch.
    pub(crate) loss: f64,
    /// Mean number of latents that fired.
    pub(crate) l0: f64,
    /// Share of dead latents.
    pub(crate) dead: f64,
    /// Mean over channels of 1 − Var(x − x̂)/Var(x), if wanted.
    pub(crate) explained_variance: Option<f64>,
}

/// Mean over channels of 1 − Var(r)/Var(x); constant channels do not count.
pub(crate) fn explained_variance(x: &[f32], r: &[f32], d: usize) -> f64 {
    let moments = |x: &[f32]| {
        let (mut sum, mut squares) = (vec![0.0f64; d], vec![0.0f64; d]);
        for row in x.chunks_exact(d) {
            for ((s, q), &v) in sum.iter_mut().zip(&mut squares).zip(row) {
                *s += f64::from(v);
                *q += f64::from(v) * f64::from(v);
            }
        }
        let n = (x.len() / d) as f64;
        sum.into_iter().zip(squares).map(|(s, q)| q / n - (s / n) * (s / n)).collect::<Vec<f64>>()
    };
    let (x, r) = rayon::join(|| moments(x), || moments(r));
    let shares: Vec<f64> = x.iter().zip(&r).filter(|(x, _)| **x > 0.0).map(|(x, r)| 1.0 - r / x).collect();
    shares.iter().sum::<f64>() / shares.len().max(1) as f64
}
