//! DPM-Solver++ in its multistep form (Lu et al. 2022, algorithm 2).

use super::config::{FinalSigma, Prediction, SchedulerConfig, Solver, Spacing};
use super::schedule::trailing;
use super::sigmas::{interpolate, karras, timestep};
use super::{clean, combine};
use crate::error::Result;
use candle_core::Tensor;

/// Solves the equation in λ = ln(α/σ) from the last one or two predictions of x̂₀.
#[derive(Debug, Clone)]
pub struct DpmSolver {
    prediction: Prediction,
    solver: Solver,
    order: usize,
    lower_last: bool,
    timesteps: Vec<f64>,
    /// One more than there are timesteps.
    sigmas: Vec<f64>,
    previous: Option<Tensor>,
}

/// Fewer steps than this end with one of first order.
const FEW: usize = 15;

/// α and σ of the variance-preserving form, and λ, for σ/α.
fn parts(sigma: f64) -> (f64, f64, f64) {
    let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
    (alpha, sigma * alpha, -sigma.ln())
}

impl DpmSolver {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Self {
        let schedule = config.noise_schedule();
        let table = schedule.sigmas();
        let total = config.num_train_timesteps;
        // λ falls with the timestep: those below the limit lie at the end.
        let clipped = table.iter().filter(|s| -s.ln() < config.lambda_min_clipped).count();
        let last = total - clipped;
        let mut timesteps: Vec<f64> = match config.timestep_spacing {
            Spacing::Linspace => {
                let step = last.saturating_sub(1) as f64 / steps as f64;
                (1..=steps).rev().map(|i| (i as f64 * step).round_ties_even()).collect()
            }
            Spacing::Leading => {
                (1..=steps).rev().map(|i| (i * (last / (steps + 1)) + config.steps_offset) as f64).collect()
            }
            Spacing::Trailing => trailing(last, total, steps).into_iter().rev().collect(),
        };
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| interpolate(&table, t)).collect();
        if config.use_karras_sigmas {
            sigmas = karras(table[0], table[table.len() - 1], steps);
            timesteps = sigmas.iter().map(|&s| timestep(s, &table).round_ties_even()).collect();
        }
        sigmas.push(match config.final_sigmas_type {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => table[0],
        });
        let lower_last = config.euler_at_final
            || (config.lower_order_final && timesteps.len() < FEW)
            || config.final_sigmas_type == FinalSigma::Zero;
        Self {
            prediction: config.prediction_type,
            solver: config.solver_type,
            order: config.solver_order,
            lower_last,
            timesteps,
            sigmas,
            previous: None,
        }
    }

    pub(super) fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    pub(super) fn predict_clean(&self, output: &Tensor, i: usize, sample: &Tensor) -> Result<Tensor> {
        let (alpha, sigma, _) = parts(self.sigmas[i]);
        clean(self.prediction, output, sample, alpha, sigma)
    }

    pub(super) fn step(&mut self, output: &Tensor, i: usize, sample: &Tensor) -> Result<Tensor> {
        let clean = self.predict_clean(output, i, sample)?;
        let previous = self.previous.replace(clean.clone());
        let (_, sigma, lambda) = parts(self.sigmas[i]);
        let (next_alpha, next_sigma, next_lambda) = parts(self.sigmas[i + 1]);
        let h = next_lambda - lambda;
        // e^(−h) − 1, which is −1 where the last σ is 0 and h infinite.
        let decay = (-h).exp_m1();
        let first = combine(next_sigma / sigma, sample, -next_alpha * decay, &clean)?;
        let last = i + 1 == self.timesteps.len() && self.lower_last;
        let Some(previous) = previous.filter(|_| self.order > 1 && !last) else { return Ok(first) };
        let ratio = (lambda - parts(self.sigmas[i - 1]).2) / h;
        let change = combine(1.0 / ratio, &clean, -1.0 / ratio, &previous)?;
        let weight = match self.solver {
            Solver::Midpoint => -0.5 * next_alpha * decay,
            Solver::Heun => next_alpha * (decay / h + 1.0),
        };
        combine(1.0, &first, weight, &change)
    }
}
