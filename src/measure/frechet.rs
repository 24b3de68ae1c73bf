//! The Fréchet distance between two sets of pictures, in the features of some network.
//!
//! With μ and Σ the mean and covariance of the features of a set (Heusel et al. 2017, where they are Inception's and the
//! distance is called FID),
//!
//! d² = ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½).
//!
//! Distances in different networks are different scales. With few pictures it is biased upwards, alike for sets of equal
//! size: beside it stands what two sets of the same kind come to.

use crate::error::{Error, Result};
use crate::kernels::eigen::Eigen;

/// Mean and covariance of features.
#[derive(Debug, Clone, PartialEq)]
pub struct Gaussian {
    mean: Vec<f64>,
    /// With n − 1 in the denominator, as numpy.cov has it.
    covariance: Vec<f64>,
}

impl Gaussian {
    /// Of rows of `width` features, one row a picture.
    ///
    /// # Errors
    /// Fewer than two rows, numbers that do not make rows, or one that is not finite.
    pub fn of(features: &[f32], width: usize) -> Result<Self> {
        let n = features.len() / width.max(1);
        if width == 0 || n < 2 || !features.len().is_multiple_of(width) {
            let found = vec![features.len()];
            return Err(Error::Shape { what: "features of pictures".into(), found, expected: vec![n.max(2), width] });
        }
        if let Some(at) = features.iter().position(|v| !v.is_finite()) {
            return Err(Error::invalid(format!("features: picture {} has {}", at / width, features[at])));
        }
        let mut mean = vec![0.0; width];
        for row in features.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / n as f64);
        }
        let mut covariance = vec![0.0; width * width];
        for row in features.chunks_exact(width) {
            let centred: Vec<f64> = row.iter().zip(&mean).map(|(v, m)| f64::from(*v) - m).collect();
            for (out, a) in covariance.chunks_exact_mut(width).zip(&centred) {
                out.iter_mut().zip(&centred).for_each(|(c, b)| *c += a * b / (n - 1) as f64);
            }
        }
        Ok(Self { mean, covariance })
    }

    /// d² to another set.
    ///
    /// # Errors
    /// Features of another width; covariances without a root.
    pub fn distance(&self, other: &Self) -> Result<f64> {
        let d = self.mean.len();
        if other.mean.len() != d {
            let (found, expected) = (vec![other.mean.len()], vec![d]);
            return Err(Error::Shape { what: "features to compare".into(), found, expected });
        }
        let none = || Error::invalid("Fréchet distance: the covariance has no root");
        let root = Eigen::symmetric(self.covariance.clone(), d).ok_or_else(none)?.root();
        let product = |a: &[f64], b: &[f64]| {
            let mut out = vec![0.0; d * d];
            for (row, a) in out.chunks_exact_mut(d).zip(a.chunks_exact(d)) {
                for (a, b) in a.iter().zip(b.chunks_exact(d)) {
                    row.iter_mut().zip(b).for_each(|(o, b)| *o += a * b);
                }
            }
            out
        };
        // Σ_a Σ_b has the eigenvalues of the symmetric Σ_a^½ Σ_b Σ_a^½.
        let mut inner = product(&product(&root, &other.covariance), &root);
        for i in 0..d {
            for j in 0..i {
                let both = f64::midpoint(inner[i * d + j], inner[j * d + i]);
                (inner[i * d + j], inner[j * d + i]) = (both, both);
            }
        }
        let roots: f64 = Eigen::symmetric(inner, d).ok_or_else(none)?.values.iter().map(|l| l.max(0.0).sqrt()).sum();
        let apart: f64 = self.mean.iter().zip(&other.mean).map(|(a, b)| (a - b).powi(2)).sum();
        let trace = |c: &[f64]| c.iter().step_by(d + 1).sum::<f64>();
        Ok((apart + trace(&self.covariance) + trace(&other.covariance) - 2.0 * roots).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    #[test]
    fn distances_of_known_gaussians() {
        let diagonal = |mean: &[f64], variance: [f64; 2]| Gaussian {
            mean: mean.to_vec(),
            covariance: vec![variance[0], 0.0, 0.0, variance[1]],
        };
        let (a, b) = (diagonal(&[0.0, 1.0], [4.0, 9.0]), diagonal(&[3.0, 1.0], [1.0, 16.0]));
        // Along each axis (μ_a − μ_b)² + (σ_a − σ_b)².
        assert!((a.distance(&b).unwrap() - (9.0 + 1.0 + 1.0)).abs() < 1e-10);
        assert!(a.distance(&a).unwrap() < 1e-10);
        // (numpy, scipy.linalg.sqrtm) of two full covariances.
        let full = |c: [f64; 4]| Gaussian { mean: vec![0.5, -0.5], covariance: c.to_vec() };
        let d = full([2.0, 0.8, 0.8, 1.0]).distance(&full([1.0, -0.3, -0.3, 3.0])).unwrap();
        assert!((d - 1.169_479_1).abs() < 1e-6, "{d}");
    }

    #[test]
    fn moments_are_those_of_the_rows_and_what_has_none_is_refused() {
        let rows = [1.0f32, 2.0, 3.0, 6.0, 5.0, 1.0];
        let g = Gaussian::of(&rows, 2).unwrap();
        assert_eq!(g.mean, [3.0, 3.0]);
        assert_eq!(g.covariance, [4.0, -1.0, -1.0, 7.0]);
        let mut random = stream(2, "frechet", 0);
        let draw = |n: usize, shift: f32, r: &mut crate::random::Stream| -> Vec<f32> {
            r.normals(n * 5).into_iter().map(|v| v + shift).collect()
        };
        let [a, b, c] = [0.0, 0.0, 1.0].map(|shift| Gaussian::of(&draw(4000, shift, &mut random), 5).unwrap());
        assert!(a.distance(&b).unwrap() < 0.02 && (a.distance(&c).unwrap() - 5.0).abs() < 0.4);
        assert!(Gaussian::of(&rows[..2], 2).unwrap_err().to_string().contains("[2, 2]"));
        assert!(Gaussian::of(&[1.0, f32::NAN, 2.0, 3.0], 2).unwrap_err().to_string().contains("picture 0"));
        assert!(a.distance(&g).is_err());
    }
}
