//! The noise schedule of training, and which of its timesteps are visited.

use super::config::{BetaSchedule, SchedulerConfig, SchedulerKind, Spacing};
use crate::error::{Error, Result};
use candle_core::Tensor;

/// ᾱ closest to zero where it would be zero and σ infinite: the smallest subnormal half-precision number.
const SMALLEST: f32 = 1.0 / 16_777_216.0;

/// ᾱ of every timestep: x_t = √ᾱ x₀ + √(1 − ᾱ) ε.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    alphas_cumprod: Vec<f64>,
}

impl NoiseSchedule {
    /// The table of a configuration, rounded to f32 where diffusers rounds.
    pub(super) fn new(config: &SchedulerConfig) -> Self {
        let mut alphas = cumulative(&betas(config));
        if config.rescale_betas_zero_snr {
            alphas = cumulative(&zero_terminal(&alphas));
            if matches!(config.kind, SchedulerKind::DpmSolver | SchedulerKind::Euler)
                && let Some(last) = alphas.last_mut()
            {
                *last = SMALLEST;
            }
        }
        Self { alphas_cumprod: alphas.into_iter().map(f64::from).collect() }
    }

    /// ᾱ by timestep.
    #[must_use]
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// σ = √((1 − ᾱ)/ᾱ) by timestep.
    #[must_use]
    pub fn sigmas(&self) -> Vec<f64> {
        self.alphas_cumprod.iter().map(|a| ((1.0 - a) / a).sqrt()).collect()
    }

    /// Noisy samples for training: √ᾱ x₀ + √(1 − ᾱ) ε, item by item along the first dimension.
    ///
    /// # Errors
    /// A number of timesteps other than that of items, or a timestep beyond the table.
    pub fn add_noise(&self, clean: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Result<Tensor> {
        if clean.rank() == 0 || timesteps.len() != clean.dim(0)? {
            let what = "timesteps to add noise at".to_string();
            return Err(Error::Shape { what, found: vec![timesteps.len()], expected: clean.dims().into() });
        }
        let table = &self.alphas_cumprod;
        if let Some(t) = timesteps.iter().find(|t| **t >= table.len()) {
            return Err(Error::invalid(format!("timestep {t}: expected 0 to {}", table.len() - 1)));
        }
        let mut shape = vec![1; clean.rank()];
        shape[0] = timesteps.len();
        let column = |f: fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f32> = timesteps.iter().map(|&t| f(table[t]) as f32).collect();
            Ok(Tensor::from_vec(values, shape.clone(), clean.device())?.to_dtype(clean.dtype())?)
        };
        let (signal, sigma) = (column(f64::sqrt)?, column(|a| (1.0 - a).sqrt())?);
        Ok((clean.broadcast_mul(&signal)? + noise.broadcast_mul(&sigma)?)?)
    }
}

/// β of every timestep in f32.
fn betas(config: &SchedulerConfig) -> Vec<f32> {
    let n = config.num_train_timesteps;
    if let Some(betas) = &config.trained_betas {
        return betas.iter().map(|&b| b as f32).collect();
    }
    match config.beta_schedule {
        BetaSchedule::Linear => line(config.beta_start, config.beta_end, n),
        BetaSchedule::ScaledLinear => {
            line(config.beta_start.sqrt(), config.beta_end.sqrt(), n).into_iter().map(|r| r * r).collect()
        }
        BetaSchedule::SquaredCosine => {
            let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
            let at = |i: usize| i as f64 / n as f64;
            (0..n).map(|i| (1.0 - bar(at(i + 1)) / bar(at(i))).min(0.999) as f32).collect()
        }
    }
}

/// n numbers from `a` to `b`, computed in f32 from both ends to the middle, as PyTorch does.
fn line(a: f64, b: f64, n: usize) -> Vec<f32> {
    let (a, b) = (a as f32, b as f32);
    let step = (b - a) / (n - 1) as f32;
    (0..n).map(|i| if i < n / 2 { a + step * i as f32 } else { b - step * (n - 1 - i) as f32 }).collect()
}

/// ∏ (1 − β), multiplied in f64 and rounded.
fn cumulative(betas: &[f32]) -> Vec<f32> {
    let mut product = 1f64;
    let mut next = |b: &f32| {
        product *= f64::from(1.0 - b);
        product as f32
    };
    betas.iter().map(&mut next).collect()
}

/// β that take √ᾱ linearly to zero at the last timestep.
fn zero_terminal(alphas_cumprod: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = alphas_cumprod.iter().map(|a| a.sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let bar: Vec<f32> = roots.iter().map(|r| ((r - last) * (first / (first - last))).powi(2)).collect();
    (0..bar.len()).map(|i| 1.0 - if i == 0 { bar[0] } else { bar[i] / bar[i - 1] }).collect()
}

/// The timesteps that DDIM, PNDM and Euler visit, ascending; only those of [`Spacing::Linspace`] may be fractions.
pub(super) fn spaced(config: &SchedulerConfig, steps: usize) -> Vec<f64> {
    let total = config.num_train_timesteps;
    match config.timestep_spacing {
        Spacing::Linspace if steps == 1 => vec![0.0],
        Spacing::Linspace => {
            let step = (total - 1) as f64 / (steps - 1) as f64;
            (0..steps).map(|i| if i + 1 == steps { (total - 1) as f64 } else { step * i as f64 }).collect()
        }
        Spacing::Leading => (0..steps).map(|i| (i * (total / steps) + config.steps_offset) as f64).collect(),
        Spacing::Trailing => trailing(total, total, steps),
    }
}

/// Every `total/steps`-th timestep, back from `last` − 1; ascending.
pub(super) fn trailing(last: usize, total: usize, steps: usize) -> Vec<f64> {
    let ratio = total as f64 / steps as f64;
    let n = (last as f64 / ratio).ceil() as usize;
    (0..n).rev().map(|i| (last as f64 - i as f64 * ratio).round_ties_even() - 1.0).collect()
}
