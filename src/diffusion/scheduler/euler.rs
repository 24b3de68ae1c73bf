//! Euler's method for the probability-flow equation in σ (Karras et al. 2022, algorithm 2 without churn).

use super::combine;
use super::config::{FinalSigma, Prediction, SchedulerConfig, Spacing};
use super::schedule::spaced;
use super::sigmas::{interpolate, karras, timestep};
use crate::error::Result;
use candle_core::Tensor;

/// x ← x + (σ′ − σ)(x − x̂₀)/σ for samples x = x₀ + σ ε.
#[derive(Debug, Clone)]
pub struct Euler {
    prediction: Prediction,
    timesteps: Vec<f64>,
    /// One more than there are timesteps.
    sigmas: Vec<f64>,
    leading: bool,
}

impl Euler {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Self {
        let table = config.noise_schedule().sigmas();
        // f32, as the network is told.
        let mut timesteps: Vec<f64> = spaced(config, steps).into_iter().rev().map(|t| f64::from(t as f32)).collect();
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| interpolate(&table, t)).collect();
        if config.use_karras_sigmas {
            let min = config.sigma_min.unwrap_or(sigmas[sigmas.len() - 1]);
            let max = config.sigma_max.unwrap_or(sigmas[0]);
            sigmas = karras(min, max, steps);
            timesteps = sigmas.iter().map(|&s| f64::from(timestep(s, &table) as f32)).collect();
        }
        sigmas.push(match config.final_sigmas_type {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => table[0],
        });
        let leading = config.timestep_spacing == Spacing::Leading;
        Self { prediction: config.prediction_type, timesteps, sigmas, leading }
    }

    pub(super) fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    pub(super) fn init_noise_sigma(&self) -> f64 {
        let largest = self.sigmas.iter().copied().fold(0.0, f64::max);
        if self.leading { (largest * largest + 1.0).sqrt() } else { largest }
    }

    pub(super) fn scale_input(&self, sample: &Tensor, i: usize) -> Result<Tensor> {
        let sigma = self.sigmas[i];
        Ok((sample / (sigma * sigma + 1.0).sqrt())?)
    }

    pub(super) fn predict_clean(&self, output: &Tensor, i: usize, sample: &Tensor) -> Result<Tensor> {
        let sigma = self.sigmas[i];
        let total = sigma * sigma + 1.0;
        match self.prediction {
            Prediction::Epsilon => combine(1.0, sample, -sigma, output),
            Prediction::VPrediction => combine(1.0 / total, sample, -sigma / total.sqrt(), output),
            Prediction::Sample => Ok(output.clone()),
        }
    }

    pub(super) fn step(&self, output: &Tensor, i: usize, sample: &Tensor) -> Result<Tensor> {
        let (now, next) = (self.sigmas[i], self.sigmas[i + 1]);
        let clean = self.predict_clean(output, i, sample)?;
        let slope = ((sample - clean)? / now)?;
        combine(1.0, sample, next - now, &slope)
    }
}
