//! The Cholesky decomposition M = L Lᵀ of a positive definite matrix, in double precision.

use rayon::prelude::*;

/// L of a symmetric positive definite M, by rows.
#[derive(Debug, Clone)]
pub(crate) struct Cholesky {
    n: usize,
    /// Row i holds i + 1 numbers that count; what is right of the diagonal is not read.
    lower: Vec<f64>,
}

/// Σ a·b in eight running sums, which vectorises and keeps one order.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for i in 0..8 {
            lanes[i] += x[i] * y[i];
        }
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f64>()
}

impl Cholesky {
    /// Decomposes `m` = `[n, n]`, of which the lower triangle is read. `None` if it is not positive definite in double
    /// precision; a pivot that rounding leaves of nothing counts as none.
    pub(crate) fn new(mut m: Vec<f64>, n: usize) -> Option<Self> {
        // Column by column, with the rows below it in parallel: every number is one dot product of two rows.
        for j in 0..n {
            let (above, below) = m.split_at_mut((j + 1) * n);
            let row = &mut above[j * n..];
            let whole = row[j];
            let pivot = whole - dot(&row[..j], &row[..j]);
            if pivot.is_nan() || pivot <= 1e-14 * whole {
                return None;
            }
            let root = pivot.sqrt();
            row[j] = root;
            let row = &row[..j];
            let entry = |other: &mut [f64]| other[j] = (other[j] - dot(&other[..j], row)) / root;
            if (n - j) * j > 1 << 15 {
                below.par_chunks_mut(n).with_min_len(32).for_each(entry);
            } else {
                below.chunks_mut(n).for_each(entry);
            }
        }
        Some(Self { n, lower: m })
    }

    /// B M⁻¹ in place of `b` = `[rows, n]`.
    pub(crate) fn divide(&self, b: &mut [f64]) {
        let n = self.n;
        b.par_chunks_mut(n).for_each(|x| {
            // M is symmetric: the row b M⁻¹ solves M xᵀ = bᵀ. First L y = b, then Lᵀ x = y.
            for i in 0..n {
                let row = &self.lower[i * n..i * n + i];
                x[i] = (x[i] - dot(row, &x[..i])) / self.lower[i * n + i];
            }
            for i in (0..n).rev() {
                x[i] /= self.lower[i * n + i];
                let (before, here) = x.split_at_mut(i);
                for (v, l) in before.iter_mut().zip(&self.lower[i * n..i * n + i]) {
                    *v -= here[0] * l;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    #[test]
    fn dividing_a_product_gives_the_factor_back() {
        for n in [1, 7, 40, 230] {
            let mut random = stream(0, "cholesky", n as u64);
            let a: Vec<f64> = random.normals(n * 2 * n).into_iter().map(f64::from).collect();
            let m: Vec<f64> = (0..n * n)
                .map(|at| dot(&a[at / n * 2 * n..(at / n + 1) * 2 * n], &a[at % n * 2 * n..(at % n + 1) * 2 * n]))
                .collect();
            let x: Vec<f64> = random.normals(3 * n).into_iter().map(f64::from).collect();
            let mut b: Vec<f64> =
                (0..3 * n).map(|at| (0..n).map(|j| x[at / n * n + j] * m[j * n + at % n]).sum()).collect();
            Cholesky::new(m, n).unwrap().divide(&mut b);
            for (found, x) in b.iter().zip(&x) {
                assert!((found - x).abs() < 1e-8, "n {n}: {found} against {x}");
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_is_refused() {
        assert!(Cholesky::new(vec![1.0, 2.0, 2.0, 1.0], 2).is_none());
        assert!(Cholesky::new(vec![1.0, 1.0, 1.0, 1.0], 2).is_none());
        assert!(Cholesky::new(vec![f64::NAN], 1).is_none());
        assert!(Cholesky::new(vec![0.0], 1).is_none());
    }
}
