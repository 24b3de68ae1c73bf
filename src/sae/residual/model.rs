//! A trained SAE of trajectories.

use super::{FeatureTrajectory, Join, Predictors, TrajectoryQuality};
use crate::activations::Trajectories;
use crate::error::{Error, Result};
use crate::kernels::sparse::add_rows;
use crate::sae::{Codes, Sae};
use std::sync::Arc;

/// An SAE of trajectories: predictors, and one or several dictionaries of what they leave.
///
/// A *feature* is a latent with the steps at which it acts. With [`Join::Concat`] features are the latents; otherwise
/// feature i·n + j is latent j (of n) at step i, and its path starts there.
#[derive(Debug, Clone, PartialEq)]
pub struct TrajectorySae {
    /// The way into residual space and back.
    pub predictors: Arc<Predictors>,
    /// What a row of `parts` is.
    pub join: Join,
    /// The dictionaries: one of all steps for [`Join::Concat`] (steps · d channels) and [`Join::Pooled`] (d channels), one
    /// of each step for [`Join::PerStep`].
    pub parts: Vec<Sae>,
}

impl TrajectorySae {
    /// Puts predictors and dictionaries together.
    ///
    /// # Errors
    /// If there are as many dictionaries or channels as `join` does not have, or dictionaries of several sizes.
    pub fn new(predictors: Arc<Predictors>, join: Join, parts: Vec<Sae>) -> Result<Self> {
        let expected = match join {
            Join::Concat => (1, predictors.width()),
            Join::Pooled => (1, predictors.d),
            Join::PerStep => (predictors.steps, predictors.d),
        };
        let latents = parts.first().map_or(0, |p| p.latents);
        if parts.len() != expected.0 || parts.iter().any(|p| p.d != expected.1 || p.latents != latents) {
            let list: Vec<String> = parts.iter().map(|p| format!("{}×{}", p.latents, p.d)).collect();
            return Err(Error::invalid(format!(
                "{join} SAE of {} steps of {} channels: found dictionaries {}, expected {} of equal size on {} channels",
                predictors.steps,
                predictors.d,
                list.join(", "),
                expected.0,
                expected.1
            )));
        }
        parts.iter().try_for_each(Sae::check)?;
        Ok(Self { predictors, join, parts })
    }

    /// Steps of a trajectory.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.predictors.steps
    }

    /// Channels of a token at one step.
    #[must_use]
    pub fn d(&self) -> usize {
        self.predictors.d
    }

    /// Number of features.
    #[must_use]
    pub fn features(&self) -> usize {
        match self.join {
            Join::Concat => self.latents(),
            Join::Pooled | Join::PerStep => self.latents() * self.steps(),
        }
    }

    /// Latents of one dictionary.
    #[must_use]
    pub fn latents(&self) -> usize {
        self.parts[0].latents
    }

    /// The step at which a feature enters; `None` if it may at every step ([`Join::Concat`]).
    #[must_use]
    pub fn enters(&self, feature: usize) -> Option<usize> {
        (self.join != Join::Concat).then(|| feature / self.latents())
    }

    /// The dictionary of a step.
    fn part(&self, step: usize) -> &Sae {
        &self.parts[step % self.parts.len()]
    }

    fn exists(&self, feature: usize) -> Result<()> {
        if feature < self.features() {
            return Ok(());
        }
        Err(Error::invalid(format!("feature {feature} of {}", self.features())))
    }

    /// The decoder row of a feature in residual space, `[steps, d]`: zero at steps where it does not act.
    ///
    /// # Errors
    /// If there is no such feature.
    pub fn direction(&self, feature: usize) -> Result<Vec<f32>> {
        self.exists(feature)?;
        let Some(step) = self.enters(feature) else {
            return Ok(self.parts[0].concept_vector(feature).to_vec());
        };
        let mut direction = vec![0.0; self.predictors.width()];
        let row = self.part(step).concept_vector(feature % self.latents());
        direction[step * self.d()..(step + 1) * self.d()].copy_from_slice(row);
        Ok(direction)
    }

    /// The path of a feature through activation space.
    ///
    /// # Errors
    /// If there is no such feature.
    pub fn trajectory(&self, feature: usize) -> Result<FeatureTrajectory> {
        Ok(FeatureTrajectory::new(&self.predictors, feature, &self.direction(feature)?))
    }

    /// The codes of trajectories `[n, steps, d]`, as one item: one entry for every feature that fires.
    ///
    /// # Errors
    /// If the length is not a multiple of steps · d, or a number is not finite.
    pub fn encode(&self, rows: &[f32]) -> Result<Codes> {
        self.encode_residuals(&self.predictors.residuals(rows)?)
    }

    /// The same from residual space.
    pub(super) fn encode_residuals(&self, rows: &[f32]) -> Result<Codes> {
        if self.join == Join::Concat {
            return self.parts[0].encode(rows);
        }
        let (steps, d, n) = (self.steps(), self.d(), rows.len() / self.predictors.width());
        let each = (0..steps)
            .map(|step| {
                let rows: Vec<f32> = rows.chunks_exact(d).skip(step).step_by(steps).flatten().copied().collect();
                self.part(step).encode(&rows)
            })
            .collect::<Result<Vec<_>>>()?;
        let mut codes = Codes { tokens_per_item: n, ..Codes::empty(self.features()) };
        for t in 0..n {
            for (step, part) in each.iter().enumerate() {
                let (index, value) = part.token(t);
                let base = (step * self.latents()) as u32;
                codes.index.extend(index.iter().map(|j| base + j));
                codes.value.extend_from_slice(value);
            }
            codes.offsets.push(codes.index.len());
        }
        Ok(codes)
    }

    /// The codes of every trajectory of every item.
    ///
    /// # Errors
    /// If the trajectories are of other steps, another place or shape, or cannot be read.
    pub fn encode_all(&self, trajectories: &Trajectories) -> Result<Codes> {
        self.predictors.fits(trajectories)?;
        let mut all = Codes::empty(self.features());
        for i in 0..trajectories.len() {
            all.append(&self.encode(&trajectories.item(i)?)?);
        }
        all.tokens_per_item = trajectories.tokens_per_item();
        Ok(all)
    }

    /// The trajectories that codes stand for, `[n, steps, d]` in activation units.
    ///
    /// # Errors
    /// If the codes have another number of features.
    pub fn decode(&self, codes: &Codes) -> Result<Vec<f32>> {
        self.predictors.restore(&self.decode_residuals(codes)?)
    }

    /// The same in residual space.
    pub(super) fn decode_residuals(&self, codes: &Codes) -> Result<Vec<f32>> {
        if codes.latents != self.features() {
            return Err(Error::invalid(format!("codes of {} features for {}", codes.latents, self.features())));
        }
        if self.join == Join::Concat {
            return Ok(self.parts[0].decode(codes));
        }
        let (steps, n, d) = (self.steps(), self.latents(), self.d());
        let mut out = Vec::with_capacity(codes.tokens() * self.predictors.width());
        for t in 0..codes.tokens() {
            let (index, value) = codes.token(t);
            let mut from = 0;
            for step in 0..steps {
                let part = self.part(step);
                let to = index.partition_point(|&j| (j as usize) < (step + 1) * n);
                let latents: Vec<u32> = index[from..to].iter().map(|j| j - (step * n) as u32).collect();
                out.extend_from_slice(&part.b_dec);
                let at = out.len() - d;
                add_rows(&mut out[at..], &value[from..to], &latents, &part.w_dec);
                from = to;
            }
        }
        Ok(out)
    }

    /// Measures it on every trajectory, in residual space and in activation space.
    ///
    /// # Errors
    /// As [`encode_all`](Self::encode_all), or if nothing varies.
    pub fn measure(&self, trajectories: &Trajectories) -> Result<TrajectoryQuality> {
        TrajectoryQuality::of(self, trajectories)
    }

    /// What a notebook shows: the SAE in a few lines.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl std::fmt::Display for TrajectorySae {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = &self.parts[0];
        write!(f, "{} {} SAE: {} features, {}", self.join, part.architecture, self.features(), self.predictors)
    }
}
