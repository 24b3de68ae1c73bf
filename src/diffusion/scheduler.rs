//! Schedulers: from noise to latent in a few dozen evaluations of the network, as diffusers defines them.
//!
//! Coefficients are computed in f64 from the f32 table ᾱ that diffusers builds; tensors stay in f32. A scheduler is
//! set for a number of steps and is used once, from its first timestep to its last.

mod config;
mod ddim;
mod dpm_solver;
mod euler;
mod pndm;
mod schedule;
mod sigmas;

pub use config::{BetaSchedule, FinalSigma, Prediction, SchedulerConfig, SchedulerKind, Solver, Spacing};
pub use ddim::Ddim;
pub use dpm_solver::DpmSolver;
pub use euler::Euler;
pub use pndm::Pndm;
pub use schedule::NoiseSchedule;

use crate::error::Result;
use candle_core::Tensor;

/// A scheduler, set for a number of steps.
///
/// ```
/// use denoscope::diffusion::scheduler::SchedulerConfig;
/// let ddim = SchedulerConfig::stable_diffusion().scheduler(50)?;
/// assert_eq!(ddim.timesteps()[..3], [981.0, 961.0, 941.0]);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub enum Scheduler {
    /// Denoising diffusion implicit models, η = 0.
    Ddim(Ddim),
    /// Pseudo numerical methods.
    Pndm(Pndm),
    /// DPM-Solver++, multistep.
    DpmSolver(DpmSolver),
    /// Euler's method in σ.
    Euler(Euler),
}

macro_rules! each {
    ($self:expr, $s:ident => $body:expr) => {
        match $self {
            Scheduler::Ddim($s) => $body,
            Scheduler::Pndm($s) => $body,
            Scheduler::DpmSolver($s) => $body,
            Scheduler::Euler($s) => $body,
        }
    };
}

impl Scheduler {
    /// What the network is told at each evaluation, noisiest first. PNDM evaluates more often than it was asked for
    /// steps.
    #[must_use]
    pub fn timesteps(&self) -> &[f64] {
        each!(self, s => s.timesteps())
    }

    /// Standard deviation of the noise that generation starts from.
    #[must_use]
    pub fn init_noise_sigma(&self) -> f64 {
        match self {
            Scheduler::Euler(s) => s.init_noise_sigma(),
            _ => 1.0,
        }
    }

    /// What the network sees at evaluation `i` of `sample`.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn scale_input(&self, sample: &Tensor, i: usize) -> Result<Tensor> {
        match self {
            Scheduler::Euler(s) => s.scale_input(sample, i),
            _ => Ok(sample.clone()),
        }
    }

    /// The clean latent x̂₀ that `output` predicts at evaluation `i` (the posterior mean).
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn predict_clean(&self, output: &Tensor, i: usize, sample: &Tensor) -> Result<Tensor> {
        each!(self, s => s.predict_clean(output, i, sample))
    }

    /// The sample after evaluation `i`, whose network output is `output`. Steps are taken in order.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn step(&mut self, output: &Tensor, i: usize, sample: &Tensor) -> Result<Tensor> {
        match self {
            Scheduler::Ddim(s) => s.step(output, i, sample),
            Scheduler::Pndm(s) => s.step(output, i, sample),
            Scheduler::DpmSolver(s) => s.step(output, i, sample),
            Scheduler::Euler(s) => s.step(output, i, sample),
        }
    }
}

/// a·x + b·y with the coefficients in f64.
fn combine(a: f64, x: &Tensor, b: f64, y: &Tensor) -> Result<Tensor> {
    Ok(((x * a)? + (y * b)?)?)
}

/// x̂₀ from a network's output where x = α x₀ + σ ε with α² + σ² = 1.
fn clean(prediction: Prediction, output: &Tensor, sample: &Tensor, alpha: f64, sigma: f64) -> Result<Tensor> {
    match prediction {
        Prediction::Epsilon => combine(1.0 / alpha, sample, -sigma / alpha, output),
        Prediction::VPrediction => combine(alpha, sample, -sigma, output),
        Prediction::Sample => Ok(output.clone()),
    }
}
