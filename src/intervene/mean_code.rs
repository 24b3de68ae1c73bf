//! What latents do on average somewhere: the mean code of some tokens, for mean ablation and feature transfer.
//!
//! m_c = mean of z_c over the tokens of a region, in all items.

use super::region::Region;
use super::space::Space;
use crate::activations::{Activations, Trajectories};
use crate::error::{Error, Result};
use crate::sae::TrajectorySae;

/// The mean activation of every latent over some tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanCode {
    /// m_c by latent.
    values: Vec<f32>,
    /// Tokens behind the mean.
    tokens: usize,
}

impl MeanCode {
    /// The mean over the tokens of `region` in every item of `activations`.
    ///
    /// ```
    /// use denoscope::activations::Activations;
    /// use denoscope::intervene::{MeanCode, Quadrant, Region};
    /// use denoscope::sae::Sae;
    ///
    /// let sae = Sae::random(3, 6, 2, 0)?;
    /// let activations = Activations::from_vec((2, 2), 3, (0..24).map(|v| v as f32).collect())?;
    /// let everywhere = MeanCode::of(&sae, &activations, &Region::Everywhere)?;
    /// let corner = MeanCode::of(&sae, &activations, &Quadrant::TopLeft.into())?;
    /// assert_eq!((everywhere.tokens(), corner.tokens()), (8, 2));
    /// # Ok::<(), denoscope::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the channels do not agree, the region holds no cell, or an activation cannot be read.
    pub fn of(space: &dyn Space, activations: &Activations, region: &Region) -> Result<Self> {
        let width = space.width();
        if activations.d() != width {
            let (found, expected) = (vec![activations.d()], vec![width]);
            return Err(Error::Shape { what: format!("{activations} for an SAE"), found, expected });
        }
        let cells = region.on_grid(activations.grid())?;
        let mut rows = Vec::new();
        let mut sums = vec![0f64; space.latents()];
        let mut tokens = 0;
        for i in 0..activations.len() {
            let item = activations.item(i)?;
            rows.clear();
            let inside = item.chunks_exact(width).zip(&cells).filter(|(_, inside)| **inside);
            inside.for_each(|(row, _)| rows.extend_from_slice(row));
            for code in space.encode(&rows)? {
                code.iter().for_each(|&(latent, value)| sums[latent] += f64::from(value));
                tokens += 1;
            }
        }
        let values = sums.into_iter().map(|s| (s / tokens.max(1) as f64) as f32).collect();
        Ok(Self { values, tokens })
    }

    /// The mean over the tokens of `region` in every item of `trajectories`, of what features do on whole paths.
    ///
    /// # Errors
    /// When the trajectories do not fit, the region holds no cell, or an activation cannot be read.
    pub fn of_trajectories(sae: &TrajectorySae, trajectories: &Trajectories, region: &Region) -> Result<Self> {
        sae.predictors.fits(trajectories)?;
        let cells = region.on_grid(trajectories.grid())?;
        let mut sums = vec![0f64; sae.features()];
        let mut tokens = 0;
        for i in 0..trajectories.len() {
            let codes = sae.encode(&trajectories.item(i)?)?;
            for token in (0..cells.len()).filter(|&t| cells[t]) {
                let (index, value) = codes.token(token);
                index.iter().zip(value).for_each(|(&feature, &v)| sums[feature as usize] += f64::from(v));
                tokens += 1;
            }
        }
        let values = sums.into_iter().map(|s| (s / tokens.max(1) as f64) as f32).collect();
        Ok(Self { values, tokens })
    }

    /// The means themselves, one for every latent.
    ///
    /// # Errors
    /// A mean that is not finite.
    pub fn from_values(values: Vec<f32>, tokens: usize) -> Result<Self> {
        match values.iter().position(|v| !v.is_finite()) {
            Some(latent) => Err(Error::invalid(format!("mean code: latent {latent} is {}", values[latent]))),
            None => Ok(Self { values, tokens }),
        }
    }

    /// m_c by latent.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Tokens behind the mean.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Σ_c m_c.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.values.iter().map(|v| f64::from(*v)).sum()
    }

    /// The means of some latents.
    ///
    /// # Errors
    /// A latent that does not exist.
    pub fn at(&self, latents: &[usize]) -> Result<Vec<f32>> {
        let n = self.values.len();
        let get = |&l: &usize| {
            self.values.get(l).copied().ok_or_else(|| Error::invalid(format!("latent {l} of a mean code of {n}")))
        };
        latents.iter().map(get).collect()
    }

    /// The `k` latents with the greatest means, greatest first; silent ones are left out.
    #[must_use]
    pub fn top(&self, k: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.values.len()).filter(|&l| self.values[l] > 0.0).collect();
        order.sort_by(|&a, &b| self.values[b].total_cmp(&self.values[a]).then(a.cmp(&b)));
        order.truncate(k);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::super::edit::toy::*;
    use super::*;
    use crate::intervene::Quadrant;

    /// Two items on a 2 × 4 grid: token j of item i is (j + 1, −1, i).
    fn activations() -> Activations {
        let data: Vec<f32> = activation().flatten_all().unwrap().to_vec1().unwrap();
        Activations::from_vec((2, 4), 3, data).unwrap()
    }

    #[test]
    fn the_mean_is_over_the_regions_tokens_only() {
        let all = MeanCode::of(space().as_ref(), &activations(), &Region::Everywhere).unwrap();
        assert_eq!((all.values(), all.tokens()), (&[4.5, 0.0][..], 16));
        let corner = MeanCode::of(space().as_ref(), &activations(), &Quadrant::TopRight.into()).unwrap();
        assert_eq!((corner.values(), corner.tokens()), (&[3.5, 0.0][..], 4)); // tokens 2 and 3
        assert_eq!((all.sum(), all.top(5), all.at(&[1, 0]).unwrap()), (4.5, vec![0], vec![0.0, 4.5]));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let e = all_of(2).unwrap_err().to_string();
        assert!(e.contains("[2]") && e.contains("[3]"), "{e}");
        let e = MeanCode::from_values(vec![0.0, f32::NAN], 1).unwrap_err().to_string();
        assert!(e.contains("latent 1 is NaN"), "{e}");
        let e = MeanCode::from_values(vec![0.0], 1).unwrap().at(&[4]).unwrap_err().to_string();
        assert!(e.contains("latent 4 of a mean code of 1"), "{e}");
    }

    fn all_of(width: usize) -> Result<MeanCode> {
        let activations = Activations::from_vec((2, 4), width, vec![1.0; 8 * width]).unwrap();
        MeanCode::of(space().as_ref(), &activations, &Region::Everywhere)
    }
}
