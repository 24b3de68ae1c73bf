//! What one row of an SAE's input is: a whole trajectory, or one step of it.

use super::Predictors;
use crate::activations::{Activations, Description, Rows, Trajectories};
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How the steps of a trajectory come before an SAE. (The paper's ablation has Concat and NoConcat; what the latter is
/// exactly is not public. Here it is [`Pooled`](Join::Pooled), and [`PerStep`](Join::PerStep) is the other reading.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// One row of steps · d numbers: a latent is a path over all steps.
    Concat,
    /// Every step is a row of its own and all share one dictionary and one budget: steps compete for the latents that
    /// may fire. A latent is a direction that any step may add.
    Pooled,
    /// Every step is a row of its own with a dictionary of its own; each has its equal part of latents and of the budget.
    PerStep,
}

impl Join {
    /// `concat`, `pooled` or `per step`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Join::Concat => "concat",
            Join::Pooled => "pooled",
            Join::PerStep => "per step",
        }
    }
}

impl std::fmt::Display for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Trajectories in residual space, or one step of them.
#[derive(Debug)]
struct Residuals {
    trajectories: Trajectories,
    predictors: Arc<Predictors>,
    step: Option<usize>,
}

impl Rows for Residuals {
    fn item(&self, i: usize) -> Result<Vec<f32>> {
        let rows = self.predictors.residuals(&self.trajectories.item(i)?)?;
        Ok(match self.step {
            None => rows,
            Some(step) => {
                let d = self.predictors.d;
                rows.chunks_exact(d).skip(step).step_by(self.predictors.steps).flatten().copied().collect()
            }
        })
    }
}

/// The matrices on which the SAEs of `join` are trained: one, or one a step.
pub(super) fn views(trajectories: &Trajectories, predictors: &Arc<Predictors>, join: Join) -> Vec<Activations> {
    let items = Arc::new(trajectories.items().to_vec());
    let view = |about: Description, step: Option<usize>| {
        let rows = Residuals { trajectories: trajectories.clone(), predictors: predictors.clone(), step };
        Activations::derived(about, items.clone(), Arc::new(rows))
    };
    // What is trained on residuals is not for activations: no place goes with it.
    let nowhere = |about: Description| Description { fingerprint: String::new(), ..about };
    let first = nowhere(trajectories.step(0).about().clone());
    match join {
        Join::Concat => vec![view(Description { d: predictors.width(), ..first }, None)],
        // The rows of a token's steps follow one another: the same numbers, cut shorter.
        Join::Pooled => {
            let (h, w) = first.grid;
            vec![view(Description { grid: (h, w * predictors.steps), ..first }, None)]
        }
        Join::PerStep => trajectories.about().into_iter().enumerate().map(|(i, a)| view(nowhere(a), Some(i))).collect(),
    }
}
