//! Ablation: take latents away, so that they read zero: Δ′\[i,j\] = Δ\[i,j\] − γ Σ_c z_c\[i,j\] f_c, inside a region.
//!
//! Mean ablation leaves them at their mean m_c instead: Δ′ = Δ − γ Σ_c (z_c − m_c) f_c. What a latent says of this
//! picture is gone, what it always says stays.

use super::edit::{Common, add_parts, edit, shift};
use super::mean_code::MeanCode;
use super::region::Region;
use super::space::Space;
use super::strength::Strength;
use crate::diffusion::hook::Visit;
use crate::error::Result;
use crate::sae::Sae;
use candle_core::Tensor;
use std::sync::Arc;

/// An ablation of latents in the residual update of one module.
#[derive(Debug, Clone)]
pub struct Ablate {
    common: Common,
    region: Region,
    means: Option<MeanCode>,
}

edit!(Ablate);

impl Ablate {
    /// Takes the concepts `latents` of `sae` away, at the place and in the stage that the SAE was trained at.
    #[must_use]
    pub fn new(sae: &Sae, latents: impl IntoIterator<Item = usize>) -> Self {
        Self::within(Arc::new(sae.clone()), latents.into_iter().collect())
    }

    /// As [`new`](Self::new), with any space of concepts.
    #[must_use]
    pub fn within(space: Arc<dyn Space>, latents: Vec<usize>) -> Self {
        Self {
            common: Common::new("ablation", space, latents, Strength::Constant(1.0)),
            region: Region::Everywhere,
            means: None,
        }
    }

    /// Mean ablation: the latents are left at their means, active before or not. That there is a mean for each is
    /// checked when the edit is first applied.
    #[must_use]
    pub fn to_mean(mut self, means: &MeanCode) -> Self {
        self.means = Some(means.clone());
        self
    }

    /// Where the latents are taken away (default: everywhere).
    #[must_use]
    pub fn region(mut self, region: impl Into<Region>) -> Self {
        self.region = region.into();
        self
    }

    /// The share γ of each latent's part that is taken away (default 1; 0 changes nothing, 2 turns it around).
    #[must_use]
    pub fn share(mut self, gamma: f64) -> Self {
        self.common.strength = Strength::Constant(gamma);
        self
    }
}

impl Ablate {
    fn change(&self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        let common = &self.common;
        let cells = self.region.on_grid(visit.grid)?;
        let means = match &self.means {
            Some(means) => common.latents.iter().copied().zip(means.at(&common.latents)?).collect(),
            None => Vec::new(),
        };
        common.edit(visit, activation, true, &|item| {
            for (token, row) in item.rows.chunks_exact_mut(item.width).enumerate() {
                if cells[token] {
                    let own = item.code[token].iter().filter(|(l, _)| common.latents.contains(l));
                    let gone: Vec<(usize, f32)> = own.copied().chain(means.iter().map(|&(l, m)| (l, -m))).collect();
                    let part = common.or_control(add_parts(common.space.as_ref(), &gone));
                    shift(row, &part, -common.strength.beta());
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::edit::toy::*;
    use super::*;
    use crate::diffusion::hook::Hook;
    use crate::intervene::Quadrant;

    #[test]
    fn active_latents_lose_their_part_inside_the_region() {
        let mut edit = Ablate::within(space(), vec![0, 1]).region(Quadrant::TopLeft).share(0.5);
        let out = rows(&edit.visit(&visit(&site()), &activation()).unwrap().unwrap());
        let before = rows(&activation());
        assert_eq!(out[1], [2.0, -1.0 - 2.0, 0.0]); // − ½ · 2 f_0
        assert_eq!(out[2..4], before[2..4]);
        assert_eq!(out[8 + 4..], before[8 + 4..]);
    }

    #[test]
    fn mean_ablation_leaves_the_mean() {
        let means = MeanCode::from_values(vec![3.0, 0.5], 1).unwrap();
        let mut edit = Ablate::within(space(), vec![0, 1]).region(Quadrant::TopLeft).to_mean(&means);
        let out = rows(&edit.visit(&visit(&site()), &activation()).unwrap().unwrap());
        // Token 1 is (2, −1, 0) with z = {0: 2}: + (3 − 2) f_0 + ½ f_1.
        assert_eq!(out[1], [2.5, 1.0, 0.5]);
        assert_eq!(out[2], [3.0, -1.0, 0.0]);
        let mut short = Ablate::within(space(), vec![1]).to_mean(&MeanCode::from_values(vec![3.0], 1).unwrap());
        let e = short.visit(&visit(&site()), &activation()).unwrap_err().to_string();
        assert!(e.contains("latent 1 of a mean code of 1"), "{e}");
    }

    #[test]
    fn nothing_to_do_returns_none() {
        let mut zero = Ablate::within(space(), vec![0]).share(0.0);
        assert!(zero.visit(&visit(&site()), &activation()).unwrap().is_none());
    }
}
