//! Latents whose concept vectors point the same way: cos(f_a, f_b), greatest first.

use crate::error::Result;
use crate::sae::Sae;
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// Latents compared with all others at once: bounds the memory to this many rows of cosines.
const ROWS: usize = 1024;

/// For every latent the `n` others with the greatest cosine of their concept vectors, greatest first. A vector of zeros
/// has cosine 0 with all.
///
/// ```
/// use denoscope::concepts::neighbours;
/// use denoscope::sae::Sae;
///
/// let mut sae = Sae::random(2, 3, 1, 0)?;
/// sae.w_dec = vec![1.0, 0.0, 0.0, 1.0, 0.6, 0.8];
/// assert_eq!(neighbours(&sae, 1)?[0], [(2, 0.6)]);
/// # Ok::<(), denoscope::Error>(())
/// ```
///
/// # Errors
/// Of the tensor library.
pub fn neighbours(sae: &Sae, n: usize) -> Result<Vec<Vec<(usize, f32)>>> {
    let mut unit = sae.w_dec.clone();
    for row in unit.chunks_exact_mut(sae.d) {
        let norm = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        row.iter_mut().for_each(|v| *v = if norm > 0.0 { (f64::from(*v) / norm) as f32 } else { 0.0 });
    }
    let all = Tensor::from_vec(unit, (sae.latents, sae.d), &Device::Cpu)?;
    let transposed = all.t()?;
    let mut found = Vec::with_capacity(sae.latents);
    for first in (0..sae.latents).step_by(ROWS) {
        let rows = ROWS.min(sae.latents - first);
        let cosines = all.narrow(0, first, rows)?.matmul(&transposed)?.to_vec2::<f32>()?;
        let nearest = |(i, row): (usize, Vec<f32>)| {
            let mut order: Vec<usize> = (0..row.len()).filter(|&j| j != first + i).collect();
            let by = |a: &usize, b: &usize| row[*b].total_cmp(&row[*a]).then(a.cmp(b));
            if order.len() > n {
                order.select_nth_unstable_by(n, by);
                order.truncate(n);
            }
            order.sort_by(by);
            order.into_iter().map(|j| (j, row[j])).collect::<Vec<_>>()
        };
        found.par_extend(cosines.into_par_iter().enumerate().map(nearest));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_those_of_all_pairs() {
        let sae = Sae::random(5, 40, 2, 3).unwrap();
        let cosine = |a: usize, b: usize| -> f32 {
            sae.concept_vector(a).iter().zip(sae.concept_vector(b)).map(|(x, y)| x * y).sum()
        };
        for (a, found) in neighbours(&sae, 4).unwrap().iter().enumerate() {
            let mut all: Vec<usize> = (0..40).filter(|&b| b != a).collect();
            all.sort_by(|&b, &c| cosine(a, c).total_cmp(&cosine(a, b)));
            assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), all[..4]);
            assert!((found[0].1 - cosine(a, all[0])).abs() < 1e-5);
        }
        let few = Sae::random(5, 2, 1, 3).unwrap();
        assert_eq!(neighbours(&few, 4).unwrap()[1].len(), 1);
    }
}
