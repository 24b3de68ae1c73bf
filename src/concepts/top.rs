//! What excites a latent: top pictures by the spatial mean of its map, mean and variance of that, and latents that
//! fire the same way everywhere.
//!
//! γ_c = meanᵢⱼ z_c\[i,j\] (Emergence, section 4.1).

use super::maps::Maps;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A picture and the spatial mean γ of a latent's map on it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The item.
    pub item: usize,
    /// γ.
    pub mean: f32,
}

/// What is known of one latent over all pictures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Firing {
    /// Pictures on which it fires.
    pub items: usize,
    /// Tokens on which it fires.
    pub tokens: usize,
    /// Mean of γ over all pictures.
    pub mean: f64,
    /// Variance of γ over all pictures.
    pub variance: f64,
    /// Greatest activation.
    pub max: f32,
    /// The pictures with the greatest γ, greatest first.
    pub top: Vec<Example>,
}

/// Streams items and keeps, for every latent, its top pictures and the moments of γ.
///
/// Memory grows with latents × cells when maps are kept, else with latents.
#[derive(Debug)]
pub struct Summary {
    grid: (usize, usize),
    keep: usize,
    items: usize,
    firing: Vec<Firing>,
    /// Σγ, Σγ² by latent.
    sums: Vec<(f64, f64)>,
    /// Σz, Σz² by latent and cell.
    cells: Vec<(f64, f64)>,
}

impl Summary {
    /// A summary of `latents` latents on a `(height, width)` grid that keeps `keep` pictures for each.
    #[must_use]
    pub fn new(latents: usize, grid: (usize, usize), keep: usize) -> Self {
        Self {
            grid,
            keep,
            items: 0,
            firing: vec![Firing::default(); latents],
            sums: vec![(0.0, 0.0); latents],
            cells: vec![(0.0, 0.0); latents * grid.0 * grid.1],
        }
    }

    /// Adds the next item.
    ///
    /// # Errors
    /// When the maps are of another size than the grid, or of an SAE with more latents.
    pub fn add(&mut self, maps: &Maps) -> Result<()> {
        let cells = self.grid.0 * self.grid.1;
        let highest = maps.active().last().map_or(0, |&l| l as usize + 1);
        if maps.tokens() != cells || highest > self.firing.len() {
            return Err(Error::Shape {
                what: format!("maps of item {} (tokens, latents)", self.items),
                found: vec![maps.tokens(), highest],
                expected: vec![cells, self.firing.len()],
            });
        }
        for n in 0..maps.active().len() {
            let (latent, tokens, values) = maps.nth(n);
            let mean = values.iter().sum::<f32>() / cells as f32;
            let firing = &mut self.firing[latent];
            firing.items += 1;
            firing.tokens += tokens.len();
            firing.max = values.iter().copied().fold(firing.max, f32::max);
            let place = firing.top.partition_point(|e| e.mean >= mean);
            if place < self.keep {
                firing.top.insert(place, Example { item: self.items, mean });
                firing.top.truncate(self.keep);
            }
            let (sum, square) = &mut self.sums[latent];
            *sum += f64::from(mean);
            *square += f64::from(mean).powi(2);
            for (&t, &v) in tokens.iter().zip(values) {
                let (sum, square) = &mut self.cells[latent * cells + t as usize];
                *sum += f64::from(v);
                *square += f64::from(v).powi(2);
            }
        }
        self.items += 1;
        Ok(())
    }

    /// Pictures so far.
    #[must_use]
    pub fn items(&self) -> usize {
        self.items
    }

    /// What is known of `latent`.
    ///
    /// # Errors
    /// When there is no such latent.
    pub fn firing(&self, latent: usize) -> Result<Firing> {
        let n = self.firing.len();
        let firing = self.firing.get(latent).ok_or_else(|| Error::invalid(format!("latent {latent} of {n}")))?;
        let (mean, variance) = self.moments(self.sums[latent]);
        Ok(Firing { mean, variance, ..firing.clone() })
    }

    /// The pictures with the greatest γ of `latent`, greatest first.
    ///
    /// # Errors
    /// When there is no such latent.
    pub fn top(&self, latent: usize) -> Result<Vec<Example>> {
        Ok(self.firing(latent)?.top)
    }

    /// Mean and variance over all pictures of the activation of `latent`, cell by cell.
    ///
    /// # Errors
    /// When there is no such latent.
    pub fn maps(&self, latent: usize) -> Result<(Vec<f32>, Vec<f32>)> {
        self.firing(latent)?;
        let cells = self.grid.0 * self.grid.1;
        let moments = self.cells[latent * cells..(latent + 1) * cells].iter().map(|&s| self.moments(s));
        Ok(moments.map(|(m, v)| (m as f32, v as f32)).unzip())
    }

    /// The `n` latents whose γ varies least over the pictures, among those that fire on at least the share `live` of
    /// them: concepts that do not depend on the prompt (Emergence, figures 17 and 18). A latent that hardly ever
    /// fires has no variance either; the paper does not say how it leaves those out, so `live` is this library's.
    #[must_use]
    pub fn context_free(&self, n: usize, live: f64) -> Vec<usize> {
        let least = (live * self.items as f64).max(1.0);
        let fires = |l: &usize| self.firing[*l].items as f64 >= least;
        let mut found: Vec<(f64, usize)> =
            (0..self.firing.len()).filter(fires).map(|l| (self.moments(self.sums[l]).1, l)).collect();
        found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        found.into_iter().take(n).map(|(_, l)| l).collect()
    }

    /// The `n` most selective latents: those whose γ varies most against its mean (greatest variance/mean²), among
    /// those that fire on at least twice as many pictures as are kept for a latent. What is left out fires too
    /// rarely for its top pictures to have anything in common.
    #[must_use]
    pub fn selective(&self, n: usize) -> Vec<usize> {
        let score = |l: usize| {
            let (mean, variance) = self.moments(self.sums[l]);
            variance / (mean * mean).max(f64::MIN_POSITIVE)
        };
        let mut found: Vec<(f64, usize)> = (0..self.firing.len())
            .filter(|&l| self.firing[l].items >= (2 * self.keep).max(1))
            .map(|l| (score(l), l))
            .collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        found.into_iter().take(n).map(|(_, l)| l).collect()
    }

    fn moments(&self, (sum, square): (f64, f64)) -> (f64, f64) {
        let n = self.items.max(1) as f64;
        let mean = sum / n;
        (mean, (square / n - mean * mean).max(0.0))
    }
}

/// The `n` latents with the greatest γ on one picture, greatest first.
#[must_use]
pub fn top_concepts(maps: &Maps, n: usize) -> Vec<(usize, f32)> {
    let mut means: Vec<(usize, f32)> = maps.means().collect();
    means.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    means.truncate(n);
    means
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maps on a 1 × 2 grid: `[latent][token]`.
    fn maps(dense: [[f32; 2]; 3]) -> Maps {
        let value: Vec<f32> = (0..2).flat_map(|t| dense.map(|m| m[t])).collect();
        Maps::new(3, &[0, 3, 6], &[0, 1, 2, 0, 1, 2], &value).unwrap()
    }

    #[test]
    fn moments_and_top_pictures() {
        let mut s = Summary::new(3, (1, 2), 2);
        for (a, b) in [(1.0, 4.0), (5.0, 4.0), (3.0, 5.0)] {
            s.add(&maps([[a, 1.0], [b, 0.0], [0.0, 0.0]])).unwrap();
        }
        // γ of latent 0: 1, 3, 2; of latent 1: 2, 2, 2.5.
        assert_eq!(s.top(0).unwrap(), [Example { item: 1, mean: 3.0 }, Example { item: 2, mean: 2.0 }]);
        assert_eq!(s.top(1).unwrap(), [Example { item: 2, mean: 2.5 }, Example { item: 0, mean: 2.0 }]);
        let f = s.firing(0).unwrap();
        assert_eq!((f.items, f.tokens, f.max), (3, 6, 5.0));
        assert!((f.mean - 2.0).abs() < 1e-9 && (f.variance - 2.0 / 3.0).abs() < 1e-9);
        let (mean, variance) = s.maps(0).unwrap();
        assert_eq!(mean, [3.0, 1.0]);
        assert!((variance[0] - 8.0 / 3.0).abs() < 1e-6 && variance[1] == 0.0);
        assert_eq!(s.context_free(2, 0.5), [1, 0]);
        assert!(s.selective(3).is_empty(), "three pictures are fewer than twice the two that are kept");
        s.add(&maps([[2.0, 0.0], [2.0, 0.0], [0.0, 0.0]])).unwrap();
        // γ of latent 0: 1, 3, 2, 2 varies more than that of latent 1: 2, 2, 2.5, 2; latent 2 never fires.
        assert_eq!(s.selective(3), [0, 1]);
        assert_eq!(s.firing(2).unwrap().items, 0);
        assert!(s.top(3).unwrap_err().to_string().contains("latent 3 of 3"));
        assert!(s.add(&Maps::new(3, &[0, 0], &[], &[]).unwrap()).is_err());
    }

    #[test]
    fn top_concepts_of_a_picture() {
        assert_eq!(top_concepts(&maps([[1.0, 1.0], [0.0, 6.0], [2.0, 0.0]]), 2), [(1, 3.0), (0, 1.0)]);
    }
}
