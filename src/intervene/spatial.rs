//! The spatial edit: put an object into a region, and take it away elsewhere (Emergence, section 3.4).
//!
//! With C the latents of the object, S the region, f_c the concept vectors and z_c the activation at the token:
//!
//! * inside S: Δ′\[i,j\] = Δ\[i,j\] + βᵢⱼ Σ_c f_c
//! * outside: Δ′\[i,j\] = Δ\[i,j\] − Σ_c z_c\[i,j\] f_c

use super::edit::{Common, edit, length, shift};
use super::region::Region;
use super::space::Space;
use super::strength::Strength;
use crate::diffusion::hook::Visit;
use crate::error::Result;
use crate::sae::Sae;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What happens to the object's latents outside the region.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Removal {
    /// Δ − Σ z_c f_c: each latent's own part is taken away, so that it reads zero. The default.
    Activation,
    /// Δ − Σ f_c: the formula as it is printed, with no activation in it.
    Literal,
    /// `γ` times the latent's own part is taken away: Δ − γ Σ z_c f_c.
    Scaled(f64),
    /// Nothing is taken away.
    None,
}

/// A spatial edit of the residual update of one module.
#[derive(Debug, Clone)]
pub struct Spatial {
    common: Common,
    region: Region,
    removal: Removal,
}

edit!(Spatial);

impl Spatial {
    /// An edit of the concepts `latents` of `sae`, at the place and in the stage that the SAE was trained at.
    #[must_use]
    pub fn new(sae: &Sae, latents: impl IntoIterator<Item = usize>) -> Self {
        Self::within(Arc::new(sae.clone()), latents.into_iter().collect())
    }

    /// As [`new`](Self::new), with any space of concepts.
    #[must_use]
    pub fn within(space: Arc<dyn Space>, latents: Vec<usize>) -> Self {
        let common = Common::new("spatial", space, latents, Strength::Relative(1.0));
        Self { common, region: Region::Everywhere, removal: Removal::Activation }
    }

    /// Where the object should be (default: everywhere).
    #[must_use]
    pub fn region(mut self, region: impl Into<Region>) -> Self {
        self.region = region.into();
        self
    }

    /// β and its normaliser (default: as strong as the residual update itself).
    #[must_use]
    pub fn strength(mut self, strength: Strength) -> Self {
        self.common.strength = strength;
        self
    }

    /// What happens outside the region (default: each latent's own part is taken away).
    #[must_use]
    pub fn removal(mut self, removal: Removal) -> Self {
        self.removal = removal;
        self
    }

    /// One weight for every latent in the sum Σ w_c f_c (default: all 1, as in the paper). Their number is checked
    /// when the edit is first applied.
    #[must_use]
    pub fn weights(mut self, weights: &[f32]) -> Self {
        self.common.weights = weights.to_vec();
        self
    }
}

impl Spatial {
    fn change(&self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        let common = &self.common;
        let cells = self.region.on_grid(visit.grid)?;
        let direction = common.direction();
        let length = length(&direction);
        let removes_code = matches!(self.removal, Removal::Activation | Removal::Scaled(_));
        common.edit(visit, activation, common.strength.needs_code() || removes_code, &|item| {
            let beta = common.strength.per_token(&item.code_norms(), &item.norms(), length);
            for (token, row) in item.rows.chunks_exact_mut(item.width).enumerate() {
                if cells[token] {
                    shift(row, &direction, beta[token]);
                    continue;
                }
                match self.removal {
                    Removal::Activation => shift(row, &common.part(&item.code[token]), -1.0),
                    Removal::Scaled(gamma) => shift(row, &common.part(&item.code[token]), -gamma),
                    Removal::Literal => shift(row, &direction, -1.0),
                    Removal::None => {}
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
    use crate::diffusion::hook::{Half, Hook, Site};
    use crate::intervene::{Quadrant, Stage};

    fn apply(mut edit: Spatial) -> Result<Option<Tensor>> {
        let site = edit.sites().remove(0);
        edit.visit(&visit(&site), &activation())
    }

    #[test]
    fn inside_the_direction_is_added_and_outside_the_latents_are_removed() {
        // Latent 0 reads channel 0 (j + 1), latent 1 reads channel 1 (−1, so silent).
        let edit = Spatial::within(space(), vec![0, 1]).region(Quadrant::TopRight).strength(Strength::Constant(10.0));
        let out = rows(&apply(edit).unwrap().unwrap());
        for (row, values) in out.iter().enumerate() {
            let (i, j) = (row / 8, row % 8);
            let (a, c) = (j as f32 + 1.0, i as f32);
            let expected = match j {
                2 | 3 => [a + 10.0, -1.0 + 20.0, c + 10.0], // + 10 (f_0 + f_1)
                _ => [a, -1.0 - 2.0 * a, c],                // − (j + 1) f_0
            };
            assert_eq!(values, &expected, "item {i} token {j}");
        }
    }

    #[test]
    fn the_published_formula_without_activation_can_be_followed() {
        let edit = Spatial::within(space(), vec![1])
            .region(Quadrant::BottomLeft)
            .strength(Strength::Code(2.0))
            .removal(Removal::Literal);
        let out = rows(&apply(edit).unwrap().unwrap());
        assert_eq!(out[0], [0.0, -1.0, -1.0]); // Δ − f_1
        assert_eq!(out[4], [5.0 + 10.0, -1.0, 10.0]); // ‖Z‖ = 5 at token 4: + 2 · 5 f_1
        assert_eq!(out[8 + 5], [6.0 + 12.0, -1.0, 13.0]);
    }

    #[test]
    fn relative_strength_adds_a_share_of_the_mean_norm() {
        let edit = Spatial::within(space(), vec![0])
            .region(Region::Box { left: 0.0, top: 0.0, right: 0.25, bottom: 0.5 })
            .strength(Strength::Relative(3.0))
            .removal(Removal::None);
        let (before, after) = (rows(&activation()), rows(&apply(edit).unwrap().unwrap()));
        let norm = |r: &[f32]| r.iter().map(|v| v * v).sum::<f32>().sqrt();
        let mean = before[8..].iter().map(|r| norm(r)).sum::<f32>() / 8.0;
        assert!((after[8][1] - before[8][1] - 3.0 * mean).abs() < 1e-4);
        assert_eq!((after[8][0], &after[9]), (before[8][0], &before[9]));
    }

    #[test]
    fn weights_scale_their_latents() {
        let edit = Spatial::within(space(), vec![0, 1]).strength(Strength::Constant(1.0));
        let out = rows(&apply(edit.clone().weights(&[0.5, 3.0])).unwrap().unwrap());
        assert_eq!(out[0], [1.0 + 3.0, -1.0 + 1.0, 3.0]);
        assert!(apply(edit.weights(&[1.0])).unwrap_err().to_string().contains("1 weights for 2 latents"));
    }

    #[test]
    fn no_strength_or_no_latent_leaves_the_activation_alone() {
        let edit = |latents| Spatial::within(space(), latents).region(Quadrant::TopLeft);
        assert!(apply(edit(vec![])).unwrap().is_none());
        assert!(apply(edit(vec![0]).strength(Strength::Code(0.0))).unwrap().is_none());
        assert!(apply(edit(vec![0]).only(&[7])).unwrap().is_none());
        assert!(apply(edit(vec![0])).unwrap().is_some());
    }

    #[test]
    fn only_some_items_can_be_edited() {
        let edit = Spatial::within(space(), vec![0]).only(&[1]).strength(Strength::Constant(1.0));
        let (before, after) = (rows(&activation()), rows(&apply(edit).unwrap().unwrap()));
        assert_eq!(before[..8], after[..8]);
        assert_eq!(after[8], [1.0, 1.0, 1.0]);
    }

    #[test]
    fn the_control_keeps_the_norm_and_turns_the_direction() {
        let edit = Spatial::within(space(), vec![0, 1]).region(Quadrant::TopLeft).strength(Strength::Constant(4.0));
        let before = rows(&activation());
        let change = |edit: Spatial| -> Vec<Vec<f32>> {
            let after = rows(&apply(edit).unwrap().unwrap());
            before.iter().zip(after).map(|(b, a)| b.iter().zip(a).map(|(b, a)| a - b).collect()).collect()
        };
        let (real, control) = (change(edit.clone()), change(edit.clone().control(9)));
        for (r, c) in real.iter().zip(&control) {
            let dot: f32 = r.iter().zip(c).map(|(a, b)| a * b).sum();
            let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((norm(r) - norm(c)).abs() < 1e-4, "{r:?} {c:?}");
            assert!(norm(r) > 0.0 && dot.abs() < 0.99 * norm(r) * norm(c));
        }
        assert_eq!(control, change(edit.clone().control(9)));
        assert_ne!(control, change(edit.control(10)));
    }

    #[test]
    fn an_sae_of_another_place_is_refused() {
        let edit = || Spatial::within(space(), vec![0]);
        let say = |mut edit: Spatial, f: &dyn Fn(&mut Visit<'_>), t: &Tensor| {
            let site = edit.sites().remove(0);
            let mut v = visit(&site);
            f(&mut v);
            edit.visit(&v, t).unwrap_err().to_string()
        };
        let a = activation();
        let other = Site::new("up_blocks.1.attentions.0", crate::diffusion::hook::Kind::Residual);
        let e = say(edit().at(other), &|_| {}, &a);
        assert!(e.contains("mid_block.attentions.0:residual") && e.contains("up_blocks.1"), "{e}");
        let e = say(edit(), &|v| v.grid = (4, 2), &a);
        assert!(e.contains("grid (2, 4)") && e.contains("(4, 2)"), "{e}");
        let e = say(edit(), &|_| {}, &a.reshape((2, 12, 2)).unwrap());
        assert!(e.contains("[12, 2]") && e.contains("[8, 3]"), "{e}");
        let e = say(edit().stage(Stage::Final), &|_| {}, &a);
        assert!(e.contains("t = 1 (early)") && e.contains("final stage"), "{e}");
        let e = say(Spatial::within(space(), vec![2]), &|_| {}, &a);
        assert!(e.contains("latent 2 of an SAE with 2"), "{e}");
        // A window of t without a stage is the way to use it elsewhere on purpose.
        let mut wide = edit().between(0.0, 1.0);
        assert!(wide.visit(&visit(&site()), &a).unwrap().is_some());
    }

    #[test]
    fn overflow_stops_with_the_strength() {
        let e = apply(Spatial::within(space(), vec![0]).strength(Strength::Code(1e39))).unwrap_err().to_string();
        assert!(e.contains("e39") || e.contains("1000000000000000"), "{e}");
        assert!(e.contains("after the edit at step 0 of 10"), "{e}");
        let nan = (activation() * f64::NAN).unwrap();
        let mut edit = Spatial::within(space(), vec![0]);
        let e = edit.visit(&visit(&site()), &nan).unwrap_err().to_string();
        assert!(e.contains("before the edit at step 0") && e.contains("strength 1 "), "{e}");
    }

    #[test]
    fn the_edit_acts_in_its_stage_and_half() {
        let edit = Spatial::within(space(), vec![0]);
        let steps = |edit: &Spatial, half| (0..11).filter(|&i| edit.wants(i, 11, half)).collect::<Vec<_>>();
        assert_eq!(steps(&edit, Half::Conditional), [0, 1, 2, 3, 4]); // the SAE's own t = 1 is early
        assert!(steps(&edit, Half::Unconditional).is_empty());
        assert_eq!(steps(&edit.clone().both_halves().stage(Stage::Final), Half::Unconditional), [9, 10]);
        assert_eq!(steps(&edit.half(Half::Unconditional).between(0.45, 0.55), Half::Unconditional), [5]);
    }
}
