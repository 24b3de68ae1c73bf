//! How well an SAE of trajectories stands for them.

use super::TrajectorySae;
use crate::activations::Trajectories;
use crate::error::Result;
use crate::sae::Quality;
use crate::sae::measure::{Summary, Tally};
use crate::sae::report::show_table;

/// Reconstruction and sparsity on some trajectories; a "token" is a whole trajectory, and L0 is over all its steps.
#[derive(Debug, Clone, PartialEq)]
pub struct TrajectoryQuality {
    /// Of the rows that the SAE reads: the standardised first step and the scaled residuals of the others. Variants with
    /// and without prediction read different rows: between them only `activation` compares.
    pub residual: Quality,
    /// Of the activations themselves, each step restored from the restored one before: errors are carried on.
    pub activation: Quality,
    /// Of the activations themselves, each step restored from the true one before: what the SAE misses of a step's own
    /// contribution. Without prediction the same as `activation`.
    pub one_step: Quality,
    /// Of the activations of each step, as in `activation`.
    pub steps: Vec<StepQuality>,
}

/// Reconstruction of the activations of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepQuality {
    /// Progress of the step: 1 = noise, 0 = the last.
    pub t: f64,
    /// Mean over channels of 1 − Var(h − ĥ)/Var(h).
    pub explained_variance: f64,
    /// Mean (h − ĥ)² / mean (h − h̄)².
    pub scaled_mse: f64,
}

impl TrajectoryQuality {
    pub(super) fn of(sae: &TrajectorySae, trajectories: &Trajectories) -> Result<Self> {
        let predictors = &sae.predictors;
        predictors.fits(trajectories)?;
        let mut residual = Tally::new(&vec![0.0; predictors.width()], sae.features());
        let mut activation = Tally::new(&predictors.mean, sae.features());
        let mut one_step = Tally::new(&predictors.mean, sae.features());
        for i in 0..trajectories.len() {
            let rows = trajectories.item(i)?;
            let residuals = predictors.residuals(&rows)?;
            let codes = sae.encode_residuals(&residuals)?;
            let decoded = sae.decode_residuals(&codes)?;
            residual.add(&residuals, &codes, &decoded);
            one_step.add(&rows, &codes, &predictors.restore_given(&rows, &decoded)?);
            activation.add(&rows, &codes, &predictors.restore(&decoded)?);
        }
        let d = predictors.d;
        let step = |i: usize| {
            let Summary { explained_variance, scaled_mse, .. } =
                activation.summary(i * d..(i + 1) * d, trajectories.step(i))?;
            Ok(StepQuality { t: predictors.about[i].t(), explained_variance, scaled_mse })
        };
        Ok(Self {
            residual: residual.quality(trajectories)?,
            activation: activation.quality(trajectories)?,
            one_step: one_step.quality(trajectories)?,
            steps: (0..predictors.steps).map(step).collect::<Result<_>>()?,
        })
    }

    /// What a notebook shows: both spaces side by side.
    pub fn evcxr_display(&self) {
        show_table(&self.columns());
    }

    /// The columns of a table.
    pub(crate) fn columns(&self) -> [(&'static str, &Quality); 3] {
        [("residual space", &self.residual), ("activation space", &self.activation), ("one step ahead", &self.one_step)]
    }
}

impl std::fmt::Display for TrajectoryQuality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { residual, activation, one_step, .. } = self;
        write!(f, "residual space: {residual}; activation space: {activation}; one step ahead: {one_step}")
    }
}
