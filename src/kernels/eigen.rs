//! Eigenvalues and eigenvectors of symmetric matrices, by Jacobi rotations.
//!
//! Rotations J in the plane of rows p and q set A_pq to zero, A ← Jᵀ A J, round after round over all pairs, until what is
//! beside the diagonal is rounding (Golub and Van Loan, *Matrix Computations*, section 8.5). Convergence is quadratic;
//! matrices of a few hundred rows take well under a second.

/// Rounds over all pairs after which a matrix counts as not convergent; six to ten are what is needed.
const ROUNDS: usize = 60;

/// A = V diag(λ) Vᵀ of a symmetric matrix.
#[derive(Debug, Clone)]
pub struct Eigen {
    /// λ, in no order.
    pub values: Vec<f64>,
    /// V, `[n, n]`: column j belongs to λ_j.
    pub vectors: Vec<f64>,
}

impl Eigen {
    /// Of the symmetric `a`, `[n, n]`; `None` if a number is not finite or the rotations do not converge.
    ///
    /// # Panics
    /// If `a` has not n² numbers.
    #[must_use]
    pub fn symmetric(mut a: Vec<f64>, n: usize) -> Option<Self> {
        assert_eq!(a.len(), n * n, "a matrix of {n} rows");
        let mut v = vec![0.0; n * n];
        v.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
        let whole = a.iter().map(|x| x * x).sum::<f64>();
        if !whole.is_finite() {
            return None;
        }
        for _ in 0..ROUNDS {
            let beside: f64 =
                (0..n).flat_map(|p| (p + 1..n).map(move |q| (p, q))).map(|(p, q)| a[p * n + q].powi(2)).sum();
            if beside <= 1e-28 * whole {
                let values = (0..n).map(|i| a[i * (n + 1)]).collect();
                return Some(Self { values, vectors: v });
            }
            for p in 0..n {
                for q in p + 1..n {
                    rotate(&mut a, &mut v, n, p, q);
                }
            }
        }
        None
    }

    /// V diag(√λ) Vᵀ, with eigenvalues that rounding made negative taken for 0: the root of a covariance.
    #[must_use]
    pub fn root(&self) -> Vec<f64> {
        let n = self.values.len();
        let roots: Vec<f64> = self.values.iter().map(|l| l.max(0.0).sqrt()).collect();
        let mut out = vec![0.0; n * n];
        for (row, u) in out.chunks_exact_mut(n).zip(self.vectors.chunks_exact(n)) {
            for (x, w) in row.iter_mut().zip(self.vectors.chunks_exact(n)) {
                *x = u.iter().zip(w).zip(&roots).map(|((a, b), r)| a * b * r).sum();
            }
        }
        out
    }
}

fn rotate(a: &mut [f64], v: &mut [f64], n: usize, p: usize, q: usize) {
    let apq = a[p * n + q];
    if apq == 0.0 {
        return;
    }
    // The smaller angle, tan φ = sign(θ)/(|θ| + √(θ² + 1)).
    let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let c = 1.0 / t.hypot(1.0);
    let s = t * c;
    for k in 0..n {
        let (x, y) = (a[k * n + p], a[k * n + q]);
        (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
    }
    for k in 0..n {
        let (x, y) = (a[p * n + k], a[q * n + k]);
        (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
        let (x, y) = (v[k * n + p], v[k * n + q]);
        (v[k * n + p], v[k * n + q]) = (c * x - s * y, s * x + c * y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    #[test]
    fn a_matrix_is_what_its_eigenvectors_say_and_its_root_squared() {
        let n = 23;
        let mut random = stream(1, "eigen", 0);
        let half: Vec<f64> = random.normals(n * n).into_iter().map(f64::from).collect();
        let product = |a: &[f64], b: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            (0..n * n).map(|at| (0..n).map(|k| a[at / n * n + k] * b(k, at % n)).sum()).collect()
        };
        let a = product(&half, &|k, j| half[j * n + k]);
        let eigen = Eigen::symmetric(a.clone(), n).unwrap();
        let v = &eigen.vectors;
        let scaled: Vec<f64> = (0..n * n).map(|at| v[at] * eigen.values[at % n]).collect();
        let back = product(&scaled, &|k, j| v[j * n + k]);
        let orthogonal = product(v, &|k, j| v[j * n + k]);
        let root = eigen.root();
        let squared = product(&root, &|k, j| root[k * n + j]);
        for at in 0..n * n {
            assert!((back[at] - a[at]).abs() < 1e-9 && (squared[at] - a[at]).abs() < 1e-9, "{at}");
            assert!((orthogonal[at] - f64::from(u8::from(at % (n + 1) == 0))).abs() < 1e-11);
        }
    }

    #[test]
    fn known_eigenvalues_and_what_has_none() {
        let mut values = Eigen::symmetric(vec![2.0, 1.0, 1.0, 2.0], 2).unwrap().values;
        values.sort_by(f64::total_cmp);
        assert!((values[0] - 1.0).abs() < 1e-14 && (values[1] - 3.0).abs() < 1e-14);
        assert_eq!(Eigen::symmetric(vec![0.0; 9], 3).unwrap().values, [0.0; 3]);
        assert!(Eigen::symmetric(vec![f64::NAN; 4], 2).is_none());
    }
}
