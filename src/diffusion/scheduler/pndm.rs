//! Pseudo numerical methods for diffusion models on manifolds (Liu et al. 2022).

use super::config::{Prediction, SchedulerConfig};
use super::schedule::spaced;
use super::{clean, combine};
use crate::error::{Error, Result};
use candle_core::Tensor;

/// Steps of Runge–Kutta type (four evaluations each) to begin with, unless left out, then a linear multistep method
/// over the last four outputs.
#[derive(Debug, Clone)]
pub struct Pndm {
    prediction: Prediction,
    timesteps: Vec<f64>,
    /// How many of the timesteps are Runge–Kutta evaluations.
    runge_kutta: usize,
    stride: i64,
    table: Vec<f64>,
    end: f64,
    /// Past outputs, newest last.
    outputs: Vec<Tensor>,
    /// Weighted sum of the outputs of a Runge–Kutta step.
    sum: Option<Tensor>,
    /// Where the current step began.
    start: Option<Tensor>,
}

/// How many steps are of Runge–Kutta type, and how many outputs the multistep formula looks at.
const ORDER: usize = 4;

impl Pndm {
    pub(super) fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        let least = if config.skip_prk_steps { 2 } else { ORDER };
        if steps < least {
            return Err(Error::invalid(format!("{steps} denoising steps with PNDM: expected at least {least}")));
        }
        let schedule = config.noise_schedule();
        let ascending: Vec<f64> = spaced(config, steps).into_iter().map(f64::round_ties_even).collect();
        let stride = config.num_train_timesteps / steps;
        let descending = || ascending.iter().rev().copied();
        let (runge_kutta, timesteps) = if config.skip_prk_steps {
            // The second evaluation is made twice as near, as in the sampler of latent diffusion.
            let mut timesteps: Vec<f64> = descending().collect();
            timesteps.insert(1, timesteps[1]);
            (0, timesteps)
        } else {
            let half = (stride / 2) as f64;
            let mut pairs: Vec<f64> = ascending[steps - ORDER..].iter().flat_map(|&t| [t, t + half]).collect();
            pairs.pop();
            let mut doubled: Vec<f64> = pairs.iter().flat_map(|&t| [t, t]).collect();
            doubled.pop();
            doubled.remove(0);
            doubled.reverse();
            let n = doubled.len();
            doubled.extend(ascending[..steps - 3].iter().rev());
            (n, doubled)
        };
        let table = schedule.alphas_cumprod().to_vec();
        Ok(Self {
            prediction: config.prediction_type,
            timesteps,
            runge_kutta,
            stride: stride as i64,
            end: if config.set_alpha_to_one { 1.0 } else { table[0] },
            table,
            outputs: Vec::new(),
            sum: None,
            start: None,
        })
    }

    pub(super) fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn alpha(&self, timestep: i64) -> f64 {
        usize::try_from(timestep).map_or(self.end, |t| self.table[t.min(self.table.len() - 1)])
    }

    pub(super) fn predict_clean(&self, output: &Tensor, i: usize, sample: &Tensor) -> Result<Tensor> {
        let alpha = self.alpha(self.timesteps[i] as i64);
        clean(self.prediction, output, sample, alpha.sqrt(), (1.0 - alpha).sqrt())
    }

    pub(super) fn step(&mut self, output: &Tensor, i: usize, sample: &Tensor) -> Result<Tensor> {
        if i < self.runge_kutta { self.runge_kutta(output, i, sample) } else { self.multistep(output, i, sample) }
    }

    /// Equation 13: four evaluations, weighted 1/6, 1/3, 1/3, 1/6.
    fn runge_kutta(&mut self, output: &Tensor, i: usize, sample: &Tensor) -> Result<Tensor> {
        let back = if i % 2 == 1 { 0 } else { self.stride / 2 };
        let to = self.timesteps[i] as i64 - back;
        let from = self.timesteps[i / 4 * 4] as i64;
        let add = |sum: Option<Tensor>, weight: f64| -> Result<Tensor> {
            match sum {
                Some(sum) => combine(1.0, &sum, weight, output),
                None => Ok((output * weight)?),
            }
        };
        let mut direction = output.clone();
        match i % 4 {
            0 => {
                self.sum = Some(add(self.sum.take(), 1.0 / 6.0)?);
                self.outputs.push(output.clone());
                self.start = Some(sample.clone());
            }
            3 => direction = add(self.sum.take(), 1.0 / 6.0)?,
            _ => self.sum = Some(add(self.sum.take(), 1.0 / 3.0)?),
        }
        let start = self.start.clone().unwrap_or_else(|| sample.clone());
        self.transfer(&start, from, to, &direction)
    }

    /// Equation 12: Adams–Bashforth over up to four outputs. Without Runge–Kutta steps the first step is taken
    /// twice, the second time with the mean of both outputs.
    fn multistep(&mut self, output: &Tensor, i: usize, sample: &Tensor) -> Result<Tensor> {
        let t = self.timesteps[i] as i64;
        let (mut from, mut to) = (t, t - self.stride);
        if i == 1 {
            (from, to) = (t + self.stride, t);
        } else {
            if self.outputs.len() > ORDER - 1 {
                self.outputs.drain(..self.outputs.len() - (ORDER - 1));
            }
            self.outputs.push(output.clone());
        }
        let mut sample = sample.clone();
        let direction = match (&self.outputs[..], i) {
            ([_], 0) => {
                self.start = Some(sample.clone());
                output.clone()
            }
            ([first], _) => {
                let mean = combine(0.5, output, 0.5, first)?;
                sample = self.start.take().unwrap_or(sample);
                mean
            }
            ([b, a], _) => combine(1.5, a, -0.5, b)?,
            ([c, b, a], _) => combine(1.0, &combine(23.0 / 12.0, a, -16.0 / 12.0, b)?, 5.0 / 12.0, c)?,
            ([d, c, b, a], _) => {
                let newer = combine(55.0 / 24.0, a, -59.0 / 24.0, b)?;
                (newer + combine(37.0 / 24.0, c, -9.0 / 24.0, d)?)?
            }
            // The list was just cut to three and one added.
            _ => output.clone(),
        };
        self.transfer(&sample, from, to, &direction)
    }

    /// Equation 9: along the direction ε from timestep `from` to `to`.
    fn transfer(&self, sample: &Tensor, from: i64, to: i64, output: &Tensor) -> Result<Tensor> {
        let (now, next) = (self.alpha(from), self.alpha(to));
        let noise = match self.prediction {
            Prediction::VPrediction => combine(now.sqrt(), output, (1.0 - now).sqrt(), sample)?,
            _ => output.clone(),
        };
        let denominator = now * (1.0 - next).sqrt() + (now * (1.0 - now) * next).sqrt();
        combine((next / now).sqrt(), sample, -(next - now) / denominator, &noise)
    }
}
