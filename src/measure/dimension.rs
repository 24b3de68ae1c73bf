//! How many directions activations spread over.

use crate::activations::Activations;
use crate::error::{Error, Result};
use crate::kernels::{Matrix, Precision, product};

/// The participation ratio of activations, (Σ λ)² / Σ λ² = (tr Σ)² / ‖Σ‖², with λ the eigenvalues of their covariance Σ: 1
/// where all lie on a line, d where every channel varies alike and by itself. A code of k directions explains the more,
/// the smaller it is.
///
/// ```
/// use denoscope::activations::Activations;
/// use denoscope::measure::participation_ratio;
/// // Two channels that vary alike and apart, a third that is constant.
/// let rows = vec![1.0, 1.0, 5.0, -1.0, 1.0, 5.0, 1.0, -1.0, 5.0, -1.0, -1.0, 5.0];
/// let found = participation_ratio(&Activations::from_vec((2, 2), 3, rows)?)?;
/// assert!((found - 2.0).abs() < 1e-6);
/// # Ok::<(), denoscope::Error>(())
/// ```
///
/// # Errors
/// Activations that cannot be read, or that do not vary.
pub fn participation_ratio(activations: &Activations) -> Result<f64> {
    let d = activations.d();
    let (mut sum, mut squares, mut n) = (vec![0.0f64; d], vec![0.0f64; d * d], 0.0);
    let mut about = Vec::new();
    for i in 0..activations.len() {
        let mut rows = activations.item(i)?;
        // About the first token, so that a large mean does not eat the digits of a small variance.
        if about.is_empty() {
            about = rows[..d].to_vec();
        }
        rows.chunks_exact_mut(d).for_each(|row| row.iter_mut().zip(&about).for_each(|(v, a)| *v -= a));
        for row in rows.chunks_exact(d) {
            sum.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
            n += 1.0;
        }
        let (tokens, all) = (rows.len() / d, Matrix::rows(&rows, d));
        let mut gram = vec![0.0; d * d];
        product(&mut gram, d, all.t(), all, (d, tokens, d), false, Precision::Full);
        squares.iter_mut().zip(&gram).for_each(|(s, g)| *s += f64::from(*g));
    }
    let covariance = |a: usize, b: usize| squares[a * d + b] / n - sum[a] / n * (sum[b] / n);
    let trace: f64 = (0..d).map(|a| covariance(a, a)).sum();
    let whole: f64 = (0..d * d).map(|at| covariance(at / d, at % d).powi(2)).sum();
    if !(trace > 0.0 && whole > 0.0) {
        return Err(Error::invalid(format!("{activations}: they do not vary")));
    }
    Ok(trace * trace / whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    #[test]
    fn it_is_that_of_the_eigenvalues_and_of_no_shift_or_turn() {
        // Independent channels of variance 9, 4, 1, far from the origin; and the same turned.
        let mut random = stream(3, "participation", 0);
        let plain: Vec<f32> = (0..4000).flat_map(|_| [3.0, 2.0, 1.0].map(|s| 100.0 + s * random.normal())).collect();
        let (c, s) = (0.6f32, 0.8f32);
        let turned = plain.chunks_exact(3).flat_map(|v| [c * v[0] - s * v[1], s * v[0] + c * v[1], v[2]]).collect();
        let of = |rows| participation_ratio(&Activations::from_vec((10, 10), 3, rows).unwrap()).unwrap();
        let (a, b) = (of(plain), of(turned));
        let expected = 14.0f64.powi(2) / (81.0 + 16.0 + 1.0);
        assert!((a - expected).abs() < 0.06 && (a - b).abs() < 1e-3, "{a} {b} {expected}");
        let flat = Activations::from_vec((1, 2), 3, vec![1.0; 6]).unwrap();
        assert!(participation_ratio(&flat).unwrap_err().to_string().contains("do not vary"));
    }
}
