//! The path of a feature through activation space, and its measures in time.

use super::Predictors;
use crate::activations::around;

/// What a feature adds to the activations of every step, per unit of its activation.
///
/// The profile in time is p_i = ‖v_i‖ / Σ_j ‖v_j‖, with v_i in deviations of each channel: the size of activations
/// changes so much over the steps that in their own units every profile would look like it.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureTrajectory {
    /// The feature.
    pub feature: usize,
    /// Progress t of every step: 1 = noise, 0 = the last.
    pub t: Vec<f64>,
    /// σ_i ⊙ v_i, `[steps, d]`: in activation units.
    pub vectors: Vec<f32>,
    /// ‖v_i‖, in deviations.
    standard_norms: Vec<f64>,
    d: usize,
}

fn norm<'a>(v: impl IntoIterator<Item = &'a f32>) -> f64 {
    v.into_iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt()
}

impl FeatureTrajectory {
    pub(super) fn new(predictors: &Predictors, feature: usize, direction: &[f32]) -> Self {
        let d = predictors.d;
        let v = predictors.standard_path(direction);
        let standard_norms = v.chunks_exact(d).map(|v| v.iter().map(|v| v * v).sum::<f64>().sqrt()).collect();
        let vectors = v.iter().zip(&predictors.deviation).map(|(v, s)| (v * f64::from(*s)) as f32).collect();
        let t = predictors.about.iter().map(crate::activations::Description::t).collect();
        Self { feature, t, vectors, standard_norms, d }
    }

    /// Number of steps.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.t.len()
    }

    /// What is added at step `i`, in activation units.
    ///
    /// # Panics
    /// If there is no such step.
    #[must_use]
    pub fn vector(&self, i: usize) -> &[f32] {
        &self.vectors[i * self.d..(i + 1) * self.d]
    }

    /// The length of what is added at every step, in activation units.
    #[must_use]
    pub fn norms(&self) -> Vec<f64> {
        self.vectors.chunks_exact(self.d).map(norm).collect()
    }

    /// The temporal profile p, which adds up to 1 (all 0 for a feature that adds nothing).
    #[must_use]
    pub fn profile(&self) -> Vec<f64> {
        let sum: f64 = self.standard_norms.iter().sum();
        self.standard_norms.iter().map(|n| if sum > 0.0 { n / sum } else { 0.0 }).collect()
    }

    /// The profile's centre of mass in progress, Σ p_i t_i: near 1 for what happens early, near 0 for late.
    #[must_use]
    pub fn centre(&self) -> f64 {
        self.profile().iter().zip(&self.t).map(|(p, t)| p * t).sum()
    }

    /// The profile's entropy over the largest there is, −Σ p ln p / ln steps: 0 at one step only, 1 evenly at all.
    #[must_use]
    pub fn entropy(&self) -> f64 {
        let sum: f64 = self.profile().iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        sum / (self.steps() as f64).ln()
    }

    /// cos(v_i, v_{i+1}) in activation units, for every transition; 0 where one of the two is nothing.
    #[must_use]
    pub fn cosines(&self) -> Vec<f64> {
        let cosine = |i: usize| {
            let (a, b) = (self.vector(i), self.vector(i + 1));
            let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let norms = norm(a) * norm(b);
            if norms > 0.0 { dot / norms } else { 0.0 }
        };
        (0..self.steps() - 1).map(cosine).collect()
    }

    /// Persistence: the mean of [`cosines`](Self::cosines) over transitions. 1 keeps its direction from the first step
    /// to the last, 0 is new at every step or there at one only.
    #[must_use]
    pub fn persistence(&self) -> f64 {
        self.cosines().iter().sum::<f64>() / (self.steps() - 1) as f64
    }

    /// What is added at progress `t`: between two steps the line between their vectors, beyond the ends the nearest.
    #[must_use]
    pub fn at(&self, t: f64) -> Vec<f32> {
        let (before, after, share) = around(&self.t, t);
        let on_line = |(a, b): (&f32, &f32)| a + share as f32 * (b - a);
        self.vector(before).iter().zip(self.vector(after)).map(on_line).collect()
    }

    /// What a notebook shows: the measures in one line.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl std::fmt::Display for FeatureTrajectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let profile: Vec<String> = self.profile().iter().map(|p| format!("{p:.2}")).collect();
        write!(
            f,
            "feature {}: profile {}, centre t = {:.2}, entropy {:.2}, persistence {:.2}",
            self.feature,
            profile.join(" "),
            self.centre(),
            self.entropy(),
            self.persistence()
        )
    }
}
