//! Moments of trajectories, streamed item by item: no pass holds all rows.

use crate::activations::Trajectories;
use crate::error::Result;
use crate::kernels::{Matrix, Precision, product};

/// Trajectories that are summed in single precision before they go into the double-precision sum.
const ROWS: usize = 1024;

/// Mean and standard deviation of every channel at every step, `[steps, d]`.
pub(super) struct Spreads {
    pub(super) mean: Vec<f64>,
    pub(super) deviation: Vec<f64>,
}

impl Spreads {
    /// One pass over the trajectories.
    pub(super) fn of(trajectories: &Trajectories) -> Result<Self> {
        let width = trajectories.steps() * trajectories.d();
        // About the first row, so that a large mean does not eat the digits of a small variance.
        let mut about = Vec::new();
        let (mut sum, mut squares, mut n) = (vec![0.0; width], vec![0.0; width], 0.0);
        for i in 0..trajectories.len() {
            let item = trajectories.item(i)?;
            for row in item.chunks_exact(width) {
                if about.is_empty() {
                    about = row.to_vec();
                }
                for (((s, q), v), a) in sum.iter_mut().zip(&mut squares).zip(row).zip(&about) {
                    let v = f64::from(*v) - f64::from(*a);
                    *s += v;
                    *q += v * v;
                }
                n += 1.0;
            }
        }
        let mean = sum.iter().zip(&about).map(|(s, a)| s / n + f64::from(*a)).collect();
        let deviation = sum.iter().zip(&squares).map(|(s, q)| (q / n - (s / n) * (s / n)).max(0.0).sqrt()).collect();
        Ok(Self { mean, deviation })
    }
}

/// Means of h̃_i h̃_iᵀ, of h̃_{i+1} h̃_iᵀ and of ‖h̃_i‖² over some trajectories.
pub(super) struct Moments {
    /// `[d, d]` of every step but the last.
    pub(super) own: Vec<Vec<f64>>,
    /// `[d, d]` of every transition: row = channel of the later step.
    pub(super) cross: Vec<Vec<f64>>,
    /// Of every step.
    pub(super) squares: Vec<f64>,
}

impl Moments {
    /// One pass over the trajectories; `standardise` turns rows `[n, steps, d]` into h̃.
    pub(super) fn of(trajectories: &Trajectories, standardise: impl Fn(&[f32]) -> Vec<f32>) -> Result<Self> {
        let (steps, d) = (trajectories.steps(), trajectories.d());
        let width = steps * d;
        let zeros = || vec![vec![0.0; d * d]; steps - 1];
        let mut moments = Self { own: zeros(), cross: zeros(), squares: vec![0.0; steps] };
        let (mut rows, mut part) = (Vec::new(), vec![0.0f32; d * d]);
        for i in 0..trajectories.len() {
            rows.extend(standardise(&trajectories.item(i)?));
            if rows.len() >= ROWS * width || i + 1 == trajectories.len() {
                moments.add(&rows, d, &mut part);
                rows.clear();
            }
        }
        let n = trajectories.tokens() as f64;
        moments.own.iter_mut().chain(&mut moments.cross).flatten().chain(&mut moments.squares).for_each(|v| *v /= n);
        Ok(moments)
    }

    fn add(&mut self, rows: &[f32], d: usize, part: &mut [f32]) {
        let steps = self.squares.len();
        let n = rows.len() / (steps * d);
        let at = |step: usize| Matrix { data: &rows[step * d..], row: steps * d, column: 1 };
        let mut gather = |a: usize, b: usize, sum: &mut [f64]| {
            product(part, d, at(a).t(), at(b), (d, n, d), false, Precision::Full);
            sum.iter_mut().zip(&*part).for_each(|(s, v)| *s += f64::from(*v));
        };
        for i in 0..steps - 1 {
            gather(i, i, &mut self.own[i]);
            gather(i + 1, i, &mut self.cross[i]);
        }
        for row in rows.chunks_exact(steps * d) {
            for (sum, h) in self.squares.iter_mut().zip(row.chunks_exact(d)) {
                *sum += h.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
            }
        }
    }
}
