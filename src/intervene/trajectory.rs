//! The trajectory edit: add a feature of whole trajectories along its path, locally or everywhere.
//!
//! With v_i the path of a feature over the sampled steps, in activation units, and m a mask:
//! Δ′\[x,y\] = Δ\[x,y\] + β m\[x,y\] v_i at the steps of i.

use super::edit::{Common, edit, shift};
use super::region::Region;
use super::space::{Origin, Space};
use super::strength::Strength;
use super::transfer::FeatureScores;
use crate::activations::around;
use crate::diffusion::hook::{Visit, step_at};
use crate::error::{Error, Result};
use crate::random::stream;
use crate::sae::TrajectorySae;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What is added at steps between those of the trajectories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Between {
    /// A point on the line between the vectors of the two neighbouring sampled steps, by progress t. The default.
    Line,
    /// The vector of the nearest sampled step.
    Nearest,
    /// Nothing: the edit acts at the sampled steps only.
    Nothing,
}

/// How much of the edit every token gets.
#[derive(Debug, Clone)]
enum Mask {
    Region(Region),
    Weights { grid: (usize, usize), weights: Vec<f32> },
}

/// An edit that follows features of a [`TrajectorySae`] through the steps.
///
/// With [`Strength::Relative`] what is added is β ‖Δ‖ q_i / max_j q_j long, where q_i = ‖v_i‖ / ‖σ_i‖ is the path's length
/// beside what activations of the step vary by: β is the strength at the step where the feature is strongest, and the
/// others keep their proportion to it. [`Strength::Constant`] adds β v_i as it is; the strengths by codes are refused,
/// since no code of a trajectory is known before its last step.
///
/// ```no_run
/// use denoscope::diffusion::pipeline::Pipeline;
/// use denoscope::intervene::{Quadrant, Strength, Trajectory};
/// use denoscope::sae::TrajectorySae;
///
/// let model = Pipeline::open("scene-unet")?;
/// let sae = TrajectorySae::open("work/trajectories/trajectory.safetensors")?;
/// let edit = Trajectory::new(&sae, [17]).region(Quadrant::TopLeft).strength(Strength::Relative(0.5));
/// let picture = model.prompt("a red house in a meadow").with(edit).run()?;
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Trajectory {
    common: Common,
    sae: Arc<TrajectorySae>,
    mask: Mask,
    between: Between,
}

edit!(Trajectory);

/// Features as they are at one moment.
#[derive(Debug)]
struct Moment {
    sae: Arc<TrajectorySae>,
    t: f64,
}

impl Space for Moment {
    fn width(&self) -> usize {
        self.sae.d()
    }

    fn latents(&self) -> usize {
        self.sae.features()
    }

    fn encode(&self, _: &[f32]) -> Result<Vec<Vec<(usize, f32)>>> {
        Err(Error::invalid(
            "trajectory edit: the code of a trajectory needs all its steps, an edit sees one: use Strength::Constant or \
             Strength::Relative",
        ))
    }

    fn vector(&self, latent: usize) -> Vec<f32> {
        self.sae.trajectory(latent).map_or_else(|_| vec![0.0; self.width()], |path| path.at(self.t))
    }

    fn bias(&self) -> Vec<f32> {
        // Never reconstructed from: a moment has no code.
        vec![0.0; self.width()]
    }

    fn origin(&self) -> Option<Origin> {
        let about = self.sae.predictors.about.first().filter(|a| !a.fingerprint.is_empty())?;
        Some(Origin { site: about.site.clone(), grid: Some(about.grid), t: None, half: Some(about.half) })
    }
}

impl Trajectory {
    /// An edit that adds `features` of `sae` at every step, everywhere, at the place where it was trained.
    #[must_use]
    pub fn new(sae: &TrajectorySae, features: impl IntoIterator<Item = usize>) -> Self {
        let sae = Arc::new(sae.clone());
        let space = Arc::new(Moment { sae: sae.clone(), t: 1.0 });
        let common = Common::new("trajectory", space, features.into_iter().collect(), Strength::Relative(1.0));
        Self { common, sae, mask: Mask::Region(Region::Everywhere), between: Between::Line }
    }

    /// A transfer of features ([`FeatureScores`]) along their paths: the `k` features that are most the target's come with
    /// their means in the target, the `k` that are most the source's go with theirs,
    ///
    /// Δ′\[x,y\] = Δ\[x,y\] + β m\[x,y\] ( Σ_{c∈T} m_c^tgt v_c − Σ_{c∈S} m_c^src v_c ), β = 1 unless
    /// [`strength`](Self::strength) says otherwise. (A feature's own activation at the token is not known before the last
    /// step, so that the mean is what can be taken away.)
    #[must_use]
    pub fn transfer(sae: &TrajectorySae, scores: &FeatureScores, k: usize) -> Self {
        let mut all = scores.added(k);
        all.extend(scores.removed(k).into_iter().map(|(c, mean)| (c, -mean)));
        let (features, weights): (Vec<usize>, Vec<f32>) = all.into_iter().unzip();
        Self::new(sae, features).weights(&weights).strength(Strength::Constant(1.0))
    }

    /// β and its normaliser (default: as strong as the residual update itself, where the features are strongest).
    #[must_use]
    pub fn strength(mut self, strength: Strength) -> Self {
        self.common.strength = strength;
        self
    }

    /// One weight for every feature in the sum Σ w_c v_c (default: all 1; negative ones take a feature away). Their
    /// number is checked when the edit is first applied.
    #[must_use]
    pub fn weights(mut self, weights: &[f32]) -> Self {
        self.common.weights = weights.to_vec();
        self
    }

    /// The local edit: m is 1 inside the region and 0 outside (default: everywhere).
    #[must_use]
    pub fn region(mut self, region: impl Into<Region>) -> Self {
        self.mask = Mask::Region(region.into());
        self
    }

    /// The local edit with any m, on the grid of the module, row by row. With m the map of a feature's activation and
    /// `Strength::Constant(-1.0)` the feature is taken out of that picture.
    #[must_use]
    pub fn mask(mut self, grid: (usize, usize), weights: &[f32]) -> Self {
        self.mask = Mask::Weights { grid, weights: weights.to_vec() };
        self
    }

    /// What is added between the sampled steps.
    #[must_use]
    pub fn steps_between(mut self, between: Between) -> Self {
        self.between = between;
        self
    }

    /// m on a grid.
    fn weights_on(&self, grid: (usize, usize)) -> Result<Vec<f64>> {
        match &self.mask {
            Mask::Region(region) => Ok(region.on_grid(grid)?.into_iter().map(|m| f64::from(u8::from(m))).collect()),
            Mask::Weights { grid: own, weights } => {
                if *own != grid || weights.len() != grid.0 * grid.1 {
                    return Err(Error::Shape {
                        what: format!("mask of {} weights for trajectory edit", weights.len()),
                        found: vec![own.0, own.1],
                        expected: vec![grid.0, grid.1],
                    });
                }
                match weights.iter().find(|w| !w.is_finite()) {
                    Some(w) => Err(Error::invalid(format!("mask for trajectory edit holds {w}"))),
                    None => Ok(weights.iter().map(|w| f64::from(*w)).collect()),
                }
            }
        }
    }

    /// Σ w_c v_c at every sampled step, or its control.
    fn path(&self) -> Result<Vec<Vec<f64>>> {
        let d = self.sae.d();
        let mut path = vec![vec![0.0; d]; self.sae.steps()];
        for (&feature, &weight) in self.common.latents.iter().zip(&self.common.weights) {
            let own = self.sae.trajectory(feature)?;
            for (sum, v) in path.iter_mut().zip(own.vectors.chunks_exact(d)) {
                sum.iter_mut().zip(v).for_each(|(s, v)| *s += f64::from(weight) * f64::from(*v));
            }
        }
        Ok(match self.common.control {
            Some(seed) => turned(&path, seed),
            None => path,
        })
    }

    /// The two sampled steps around progress t, and how far it is to the second; `None` where nothing is added.
    fn around(&self, visit: &Visit<'_>) -> Option<(usize, usize, f64)> {
        let times: Vec<f64> = self.sae.predictors.about.iter().map(crate::activations::Description::t).collect();
        if self.between == Between::Nothing {
            return times.iter().position(|&t| step_at(t, visit.steps) == visit.step).map(|i| (i, i, 0.0));
        }
        let (before, after, share) = around(&times, visit.t());
        Some(match self.between {
            Between::Nearest if share < 0.5 => (before, before, 0.0),
            Between::Nearest => (after, after, 0.0),
            _ => (before, after, share),
        })
    }

    fn change(&self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        let common = &self.common;
        if common.strength.needs_code() {
            common.space.encode(&[])?;
        }
        let Some((before, after, share)) = self.around(visit) else { return Ok(None) };
        let mask = self.weights_on(visit.grid)?;
        let path = self.path()?;
        let on_line = |a: f64, b: f64| a + share * (b - a);
        let v: Vec<f64> = path[before].iter().zip(&path[after]).map(|(a, b)| on_line(*a, *b)).collect();
        // ‖σ_i‖: what activations of a step vary by.
        let sizes: Vec<f64> = self.sae.predictors.deviation.chunks_exact(self.sae.d()).map(super::edit::norm).collect();
        let norms = path.iter().map(|v| v.iter().map(|x| x * x).sum::<f64>().sqrt());
        let strongest = norms.zip(&sizes).map(|(v, size)| v / size).fold(0.0, f64::max);
        let length = strongest * on_line(sizes[before], sizes[after]);
        common.edit(visit, activation, false, &|item| {
            let beta = common.strength.per_token(&[], &item.norms(), length);
            for ((row, beta), m) in item.rows.chunks_exact_mut(item.width).zip(beta).zip(&mask) {
                if *m != 0.0 {
                    shift(row, &v, beta * m);
                }
            }
            Ok(())
        })
    }
}

/// The path turned as a whole into random directions: every step keeps its length, and any two their angle.
fn turned(path: &[Vec<f64>], seed: u64) -> Vec<Vec<f64>> {
    let d = path[0].len();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    // Gram–Schmidt on the path; what is left after several rounds of rounding is not a direction of its own.
    let (mut basis, mut coordinates): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (Vec::new(), Vec::new());
    for v in path {
        let (mut rest, mut own) = (v.clone(), Vec::new());
        for e in &basis {
            let along = dot(&rest, e);
            rest.iter_mut().zip(e).for_each(|(r, e)| *r -= along * e);
            own.push(along);
        }
        let length = dot(&rest, &rest).sqrt();
        if length > 1e-9 * dot(v, v).sqrt() && basis.len() < d {
            own.push(length);
            basis.push(rest.iter().map(|r| r / length).collect());
        }
        coordinates.push(own);
    }
    // As many random orthonormal directions.
    let mut random = stream(seed, "control trajectory", d as u64);
    let mut directions: Vec<Vec<f64>> = Vec::new();
    while directions.len() < basis.len() {
        let mut v: Vec<f64> = random.normals(d).into_iter().map(f64::from).collect();
        for _ in 0..2 {
            // Twice is enough.
            for e in &directions {
                let along = dot(&v, e);
                v.iter_mut().zip(e).for_each(|(v, e)| *v -= along * e);
            }
        }
        let length = dot(&v, &v).sqrt();
        v.iter_mut().for_each(|x| *x /= length);
        directions.push(v);
    }
    let turn = |own: &Vec<f64>| {
        let mut v = vec![0.0; d];
        for (c, e) in own.iter().zip(&directions) {
            v.iter_mut().zip(e).for_each(|(v, e)| *v += c * e);
        }
        v
    };
    coordinates.iter().map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::super::edit::toy::*;
    use super::*;
    use crate::activations::Trajectories;
    use crate::diffusion::hook::{Half, Hook};
    use crate::intervene::Quadrant;
    use crate::sae::{Join, Prediction, Predictors, Sae};

    /// Steps t = 1, 0.5 and 0 with three channels; feature f of six acts at step f / 2, on channel f.
    fn sae() -> TrajectorySae {
        let data = stream(0, "steered", 0).normals(200 * 9);
        let trajectories = Trajectories::from_vec((1, 1), 3, 3, data).unwrap();
        let mut predictors = Predictors::fit(&trajectories, &Prediction::default()).unwrap();
        // Each step inherits half of the one before; deviations of 1, 2 and 4.
        predictors.maps = [0.5, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.5].repeat(2);
        predictors.scale = vec![1.0; 3];
        predictors.deviation = [1.0f32, 2.0, 4.0].iter().flat_map(|s| [*s; 3]).collect();
        let mut part = Sae::random(3, 2, 1, 0).unwrap();
        part.w_dec = vec![1.0, 0.0, 0.0, 0.0, 0.6, 0.8];
        TrajectorySae::new(Arc::new(predictors), Join::Pooled, vec![part]).unwrap()
    }

    fn apply(edit: &mut Trajectory, step: usize) -> Result<Option<Tensor>> {
        let site = edit.sites().remove(0);
        let mut v = visit(&site);
        (v.step, v.steps) = (step, 9);
        edit.visit(&v, &activation())
    }

    /// What is added to every row.
    fn added(edit: &mut Trajectory, step: usize) -> Vec<Vec<f32>> {
        let after = rows(&apply(edit, step).unwrap().unwrap());
        rows(&activation()).iter().zip(after).map(|(b, a)| b.iter().zip(a).map(|(b, a)| a - b).collect()).collect()
    }

    #[test]
    fn a_constant_strength_adds_the_path_where_the_mask_says() {
        // Feature 0: channel 0 from the first step on: 1, then ½ deviation of 2, then ¼ of 4: always 1.
        let mut edit = Trajectory::new(&sae(), [0]).strength(Strength::Constant(3.0)).region(Quadrant::TopRight);
        for step in [0, 4, 8, 6] {
            for (row, v) in added(&mut edit, step).iter().enumerate() {
                let inside = [2, 3].contains(&(row % 8));
                assert_eq!(v, &if inside { [3.0, 0.0, 0.0] } else { [0.0; 3] }, "step {step} row {row}");
            }
        }
        // Feature 3 enters at the second step with (0, 1.2, 1.6): nothing before, on the line between.
        let mut late = Trajectory::new(&sae(), [3]).strength(Strength::Constant(1.0));
        let close = |a: &[f32], b: [f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close(&added(&mut late, 0)[5], [0.0; 3]));
        assert!(close(&added(&mut late, 2)[5], [0.0, 0.6, 0.8]));
        assert!(close(&added(&mut late, 4)[5], [0.0, 1.2, 1.6]));
        let mut nearest = late.clone().steps_between(Between::Nearest);
        assert!(close(&added(&mut nearest, 1)[5], [0.0; 3]) && close(&added(&mut nearest, 3)[5], [0.0, 1.2, 1.6]));
        let mut alone = late.clone().steps_between(Between::Nothing);
        assert!(apply(&mut alone, 3).unwrap().is_none() && apply(&mut alone, 4).unwrap().is_some());
        // Weights add features up; a soft mask scales.
        let mask: Vec<f32> = (0..8).map(|i| i as f32 / 4.0).collect();
        let mut both = Trajectory::new(&sae(), [0, 3]).weights(&[2.0, -1.0]).mask((2, 4), &mask);
        both = both.strength(Strength::Constant(1.0));
        assert!(close(&added(&mut both, 4)[8 + 6], [3.0, -1.8, -2.4]));
    }

    #[test]
    fn a_relative_strength_is_reached_where_the_feature_is_strongest() {
        // Feature 0 against deviations √3·(1, 2, 4): strongest at the first step, half and a quarter of it later.
        let mut edit = Trajectory::new(&sae(), [0]).strength(Strength::Relative(0.5));
        let mean = |item: usize| {
            let norms: Vec<f32> = rows(&activation())[item * 8..][..8]
                .iter()
                .map(|r| r.iter().map(|v| v * v).sum::<f32>().sqrt())
                .collect();
            norms.iter().sum::<f32>() / 8.0
        };
        for (step, share) in [(0, 1.0), (4, 0.5), (8, 0.25)] {
            let v = added(&mut edit, step);
            assert!((v[3][0] - 0.5 * share * mean(0)).abs() < 1e-5, "step {step}: {}", v[3][0]);
            assert!((v[11][0] - 0.5 * share * mean(1)).abs() < 1e-5);
        }
    }

    #[test]
    fn a_transfer_adds_the_targets_means_and_takes_the_sources() {
        use crate::intervene::MeanCode;
        let means = |values: &[f32]| MeanCode::from_values(values.to_vec(), 8).unwrap();
        let (source, target) = (means(&[4.0, 0.0, 0.0, 1.0, 0.0, 0.0]), means(&[0.0, 0.0, 0.0, 1.0, 0.0, 3.0]));
        let scores = FeatureScores::between(source, target).unwrap();
        let of = |mut edit: Trajectory| [0, 4, 8].map(|step| added(&mut edit, step)[0].clone());
        let transfer = of(Trajectory::transfer(&sae(), &scores, 1));
        let by_hand = Trajectory::new(&sae(), [5, 0]).weights(&[3.0, -4.0]).strength(Strength::Constant(1.0));
        assert_eq!(transfer, of(by_hand));
        assert!(transfer[0].iter().any(|v| v.abs() > 0.1));
    }

    #[test]
    fn the_control_keeps_lengths_and_angles() {
        let edit = Trajectory::new(&sae(), [0, 3, 4]).strength(Strength::Constant(1.0));
        let of = |mut edit: Trajectory| [0, 4, 8].map(|step| added(&mut edit, step)[0].clone());
        let (own, control) = (of(edit.clone()), of(edit.clone().control(5)));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        for a in 0..3 {
            for b in 0..3 {
                let (x, y) = (dot(&own[a], &own[b]), dot(&control[a], &control[b]));
                assert!((x - y).abs() < 1e-4, "{a} {b}: {x} against {y}");
            }
        }
        assert!(dot(&own[0], &control[0]).abs() < 0.99 * dot(&own[0], &own[0]));
        assert_eq!(control, of(edit.clone().control(5)));
        assert_ne!(control, of(edit.control(6)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let say = |mut edit: Trajectory| apply(&mut edit, 0).unwrap_err().to_string();
        let edit = || Trajectory::new(&sae(), [0]);
        assert!(say(edit().strength(Strength::Code(1.0))).contains("needs all its steps"));
        assert!(say(edit().mask((4, 2), &[1.0; 8])).contains("found shape [4, 2], expected [2, 4]"));
        assert!(say(edit().mask((2, 4), &[f32::NAN; 8])).contains("NaN"));
        assert!(say(Trajectory::new(&sae(), [6])).contains("latent 6 of an SAE with 6"));
        assert!(say(edit().weights(&[1.0, 2.0])).contains("2 weights for 1 latents"));
        assert!(apply(&mut edit().strength(Strength::Constant(0.0)), 0).unwrap().is_none());
        assert!(!edit().wants(0, 9, Half::Unconditional) && edit().wants(8, 9, Half::Conditional));
    }
}
