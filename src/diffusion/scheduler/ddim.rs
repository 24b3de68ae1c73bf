//! Denoising diffusion implicit models (Song et al. 2021, equation 12) with η = 0.

use super::config::{Prediction, SchedulerConfig};
use super::schedule::spaced;
use super::{clean, combine};
use crate::error::Result;
use candle_core::Tensor;

/// x_s = √ᾱ_s x̂₀ + √(1 − ᾱ_s) ε̂: deterministic.
#[derive(Debug, Clone)]
pub struct Ddim {
    prediction: Prediction,
    clip: Option<f64>,
    timesteps: Vec<f64>,
    /// ᾱ before and after each step.
    alphas: Vec<(f64, f64)>,
}

impl Ddim {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Self {
        let schedule = config.noise_schedule();
        let table = schedule.alphas_cumprod();
        let timesteps: Vec<f64> = spaced(config, steps).into_iter().rev().map(f64::round_ties_even).collect();
        let end = if config.set_alpha_to_one { 1.0 } else { table[0] };
        let stride = config.num_train_timesteps / steps;
        let alpha = |t: i64| usize::try_from(t).map_or(end, |t| table[t.min(table.len() - 1)]);
        let alphas = timesteps.iter().map(|&t| (alpha(t as i64), alpha(t as i64 - stride as i64))).collect();
        let clip = config.clip_sample.then_some(config.clip_sample_range);
        Self { prediction: config.prediction_type, clip, timesteps, alphas }
    }

    pub(super) fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    pub(super) fn predict_clean(&self, output: &Tensor, i: usize, sample: &Tensor) -> Result<Tensor> {
        let (now, _) = self.alphas[i];
        let clean = clean(self.prediction, output, sample, now.sqrt(), (1.0 - now).sqrt())?;
        match self.clip {
            Some(range) => Ok(clean.clamp(-range as f32, range as f32)?),
            None => Ok(clean),
        }
    }

    pub(super) fn step(&self, output: &Tensor, i: usize, sample: &Tensor) -> Result<Tensor> {
        let (now, next) = self.alphas[i];
        let (alpha, sigma) = (now.sqrt(), (1.0 - now).sqrt());
        let clean = self.predict_clean(output, i, sample)?;
        let noise = match self.prediction {
            Prediction::Epsilon => output.clone(),
            Prediction::VPrediction => combine(alpha, output, sigma, sample)?,
            // From the output itself: x̂₀ may have been clipped.
            Prediction::Sample => combine(1.0 / sigma, sample, -alpha / sigma, output)?,
        };
        combine(next.sqrt(), &clean, (1.0 - next).sqrt(), &noise)
    }
}
