//! Where training starts: unit directions, the centre of the data, its scale.

use super::forward::ROWS;
use super::options::Start;
use crate::activations::Activations;
use crate::error::{Error, Result};
use crate::kernels::sparse::{dot, scale};
use crate::random::Stream;
use rayon::prelude::*;

/// Tokens from which centre and scale are estimated (the number that public code of the recipe takes).
pub(crate) const SAMPLE: usize = 32_768;

/// Iterations of Weiszfeld's algorithm; the distance to the fixed point falls by an order of magnitude every few.
const ITERATIONS: usize = 20;

/// Random unit rows `[rows, d]`.
pub(crate) fn unit_rows(d: usize, rows: usize, random: &mut Stream) -> Vec<f32> {
    let mut all = random.normals(rows * d);
    all.chunks_exact_mut(d).for_each(normalise);
    all
}

/// Makes `row` a unit vector; a zero row stays.
pub(crate) fn normalise(row: &mut [f32]) {
    let norm = dot(row, row).sqrt();
    if norm > 0.0 {
        scale(row, 1.0 / norm);
    }
}

/// Up to `most` tokens in random order.
pub(crate) fn sample(activations: &Activations, most: usize, seed: u64) -> Result<Vec<f32>> {
    let mut out = Vec::new();
    activations.batches(most.min(activations.tokens()), seed)?.next_into(&mut out)?;
    Ok(out)
}

/// The mean row.
pub(crate) fn mean(x: &[f32], d: usize) -> Vec<f32> {
    weighted_mean(x, d, |_| 1.0)
}

/// Σ w(row)·row / Σ w(row), in double precision and a fixed order.
fn weighted_mean(x: &[f32], d: usize, weight: impl Fn(&[f32]) -> f64 + Sync) -> Vec<f32> {
    let parts: Vec<(f64, Vec<f64>)> = x
        .par_chunks(ROWS * d)
        .map(|rows| {
            let (mut total, mut sum) = (0.0, vec![0.0; d]);
            for row in rows.chunks_exact(d) {
                let w = weight(row);
                total += w;
                sum.iter_mut().zip(row).for_each(|(s, v)| *s += w * f64::from(*v));
            }
            (total, sum)
        })
        .collect();
    let total: f64 = parts.iter().map(|p| p.0).sum();
    let mut sum = vec![0.0; d];
    for (_, part) in &parts {
        sum.iter_mut().zip(part).for_each(|(s, v)| *s += v);
    }
    sum.iter().map(|s| (s / total) as f32).collect()
}

/// The point with the least sum of distances to the rows, by Weiszfeld's iteration from the mean.
pub(crate) fn geometric_median(x: &[f32], d: usize) -> Vec<f32> {
    let mut centre = mean(x, d);
    for _ in 0..ITERATIONS {
        centre = weighted_mean(x, d, |row| {
            let squares: f32 = row.iter().zip(&centre).map(|(v, c)| (v - c) * (v - c)).sum();
            1.0 / f64::from(squares).sqrt().max(1e-12)
        });
    }
    centre
}

/// The decoder bias to start from.
pub(crate) fn bias(x: &[f32], d: usize, start: Start) -> Vec<f32> {
    match start {
        Start::GeometricMedian => geometric_median(x, d),
        Start::Mean => mean(x, d),
        Start::Zero => vec![0.0; d],
    }
}

/// The scale s with mean ‖s·x‖² = d.
pub(crate) fn unit_scale(x: &[f32], d: usize) -> Result<f32> {
    let squares: f64 = x.par_chunks(ROWS * d).map(|r| f64::from(dot(r, r))).collect::<Vec<_>>().iter().sum();
    let mean = squares / (x.len() / d) as f64;
    if mean > 0.0 {
        Ok((d as f64 / mean).sqrt() as f32)
    } else {
        Err(Error::invalid("every activation is zero: nothing to train on"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_geometric_median_ignores_an_outlier() {
        // Four corners of a square and their centre, and one point far away.
        let x = [-1.0, -1.0, 1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1e6, 0.0];
        let median = geometric_median(&x, 2);
        assert!(median.iter().all(|v| v.abs() < 0.3), "{median:?}");
        assert!(mean(&x, 2)[0] > 1e5);
    }

    #[test]
    fn the_scale_makes_the_mean_square_norm_d() {
        let s = unit_scale(&[3.0, 4.0, 0.0, 0.0, 0.0, 5.0], 3).unwrap();
        assert!((s * s * 25.0 - 3.0).abs() < 1e-5);
        assert!(unit_scale(&[0.0; 6], 3).is_err());
    }
}
