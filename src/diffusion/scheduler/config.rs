//! `scheduler/scheduler_config.json`.

use super::schedule::NoiseSchedule;
use super::{Ddim, DpmSolver, Euler, Pndm, Scheduler};
use crate::diffusion::open::Fields;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Which scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum SchedulerKind {
    /// `DDIMScheduler` (Song et al. 2021), deterministic.
    #[serde(rename = "DDIMScheduler")]
    Ddim,
    /// `PNDMScheduler` (Liu et al. 2022).
    #[serde(rename = "PNDMScheduler")]
    Pndm,
    /// `DPMSolverMultistepScheduler`, DPM-Solver++ (Lu et al. 2022).
    #[serde(rename = "DPMSolverMultistepScheduler")]
    DpmSolver,
    /// `EulerDiscreteScheduler` (Karras et al. 2022, algorithm 2 without churn).
    #[serde(rename = "EulerDiscreteScheduler")]
    Euler,
}

/// How β rises from first to last timestep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Evenly.
    Linear,
    /// Evenly in √β.
    ScaledLinear,
    /// So that ᾱ(t) = cos²((t + 0.008)/1.008 · π/2), β ≤ 0.999 (Nichol & Dhariwal 2021).
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
}

/// What the network's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise ε.
    Epsilon,
    /// v = α ε − σ x₀ (Salimans & Ho 2022).
    VPrediction,
    /// The clean latent x₀.
    Sample,
}

/// Which timesteps are visited (Lin et al. 2024, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Evenly from 0 to T − 1.
    Linspace,
    /// Every T/n-th, from `steps_offset` on.
    Leading,
    /// Every T/n-th, back from T − 1.
    Trailing,
}

/// Formula of the second-order update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Solver {
    /// The midpoint rule.
    Midpoint,
    /// Heun's rule.
    Heun,
}

/// Where σ ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// At 0.
    Zero,
    /// At the σ of timestep 0.
    SigmaMin,
}

/// A scheduler's configuration; fields as diffusers names them. A field that a kind of scheduler does not know is
/// carried along for others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchedulerConfig {
    /// Which scheduler.
    #[serde(rename = "_class_name")]
    pub kind: SchedulerKind,
    /// T, the number of timesteps of training.
    pub num_train_timesteps: usize,
    /// First β.
    pub beta_start: f64,
    /// Last β.
    pub beta_end: f64,
    /// How β rises.
    pub beta_schedule: BetaSchedule,
    /// All β, in place of the three fields above.
    pub trained_betas: Option<Vec<f64>>,
    /// Whether the table is stretched so that the last timestep is pure noise (Lin et al. 2024, algorithm 1).
    pub rescale_betas_zero_snr: bool,
    /// What the network predicts.
    pub prediction_type: Prediction,
    /// Which timesteps are visited.
    pub timestep_spacing: Spacing,
    /// Added to every timestep of [`Spacing::Leading`].
    pub steps_offset: usize,
    /// DDIM: whether x̂₀ is clipped.
    pub clip_sample: bool,
    /// DDIM: to ± this.
    pub clip_sample_range: f64,
    /// DDIM, PNDM: whether the last step goes to ᾱ = 1 rather than to that of timestep 0.
    pub set_alpha_to_one: bool,
    /// PNDM: whether the Runge–Kutta steps at the start are left out.
    pub skip_prk_steps: bool,
    /// DPM-Solver: 1 or 2.
    pub solver_order: usize,
    /// DPM-Solver: formula of the second order.
    pub solver_type: Solver,
    /// DPM-Solver: whether the last step is of first order when there are fewer than 15.
    pub lower_order_final: bool,
    /// DPM-Solver: whether the last step is of first order in any case.
    pub euler_at_final: bool,
    /// DPM-Solver: timesteps whose log signal-to-noise ratio λ lies below are not visited.
    pub lambda_min_clipped: f64,
    /// DPM-Solver, Euler: σ as in Karras et al. (2022), equation 5, ρ = 7.
    pub use_karras_sigmas: bool,
    /// Euler: smallest of Karras' σ.
    pub sigma_min: Option<f64>,
    /// Euler: largest of Karras' σ.
    pub sigma_max: Option<f64>,
    /// DPM-Solver, Euler: where σ ends.
    pub final_sigmas_type: FinalSigma,
}

impl SchedulerConfig {
    /// diffusers' defaults of one kind.
    #[must_use]
    pub fn new(kind: SchedulerKind) -> Self {
        let sigmas = matches!(kind, SchedulerKind::DpmSolver | SchedulerKind::Euler);
        Self {
            kind,
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            rescale_betas_zero_snr: false,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: if sigmas { Spacing::Linspace } else { Spacing::Leading },
            steps_offset: 0,
            clip_sample: kind == SchedulerKind::Ddim,
            clip_sample_range: 1.0,
            set_alpha_to_one: kind == SchedulerKind::Ddim,
            skip_prk_steps: false,
            solver_order: 2,
            solver_type: Solver::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            lambda_min_clipped: f64::MIN,
            use_karras_sigmas: false,
            sigma_min: None,
            sigma_max: None,
            final_sigmas_type: FinalSigma::Zero,
        }
    }

    /// DDIM with the noise schedule of Stable Diffusion 1.x, which the embedded model shares.
    #[must_use]
    pub fn stable_diffusion() -> Self {
        Self {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            steps_offset: 1,
            clip_sample: false,
            set_alpha_to_one: false,
            ..Self::new(SchedulerKind::Ddim)
        }
    }

    /// Reads a `scheduler_config.json`, as the kind that it names.
    ///
    /// # Errors
    /// A field or value that this implementation does not have, by name.
    pub fn read(fields: &mut Fields) -> Result<Self> {
        let kind = fields.require("_class_name")?;
        Self::read_as(kind, fields)
    }

    /// Reads the configuration of any scheduler as that of `kind`: shared fields keep their values, the others get
    /// this kind's defaults.
    ///
    /// # Errors
    /// As [`SchedulerConfig::read`].
    pub fn read_as(kind: SchedulerKind, fields: &mut Fields) -> Result<Self> {
        let d = Self::new(kind);
        let config = Self {
            kind,
            num_train_timesteps: fields.get("num_train_timesteps", d.num_train_timesteps)?,
            beta_start: fields.get("beta_start", d.beta_start)?,
            beta_end: fields.get("beta_end", d.beta_end)?,
            beta_schedule: fields.get("beta_schedule", d.beta_schedule)?,
            trained_betas: fields.optional("trained_betas")?,
            rescale_betas_zero_snr: fields.get("rescale_betas_zero_snr", d.rescale_betas_zero_snr)?,
            prediction_type: fields.get("prediction_type", d.prediction_type)?,
            timestep_spacing: fields.get("timestep_spacing", d.timestep_spacing)?,
            steps_offset: fields.get("steps_offset", d.steps_offset)?,
            clip_sample: fields.get("clip_sample", d.clip_sample)?,
            clip_sample_range: fields.get("clip_sample_range", d.clip_sample_range)?,
            set_alpha_to_one: fields.get("set_alpha_to_one", d.set_alpha_to_one)?,
            skip_prk_steps: fields.get("skip_prk_steps", d.skip_prk_steps)?,
            solver_order: fields.get("solver_order", d.solver_order)?,
            solver_type: fields.get("solver_type", d.solver_type)?,
            lower_order_final: fields.get("lower_order_final", d.lower_order_final)?,
            euler_at_final: fields.get("euler_at_final", d.euler_at_final)?,
            lambda_min_clipped: fields.get("lambda_min_clipped", d.lambda_min_clipped)?,
            use_karras_sigmas: fields.get("use_karras_sigmas", d.use_karras_sigmas)?,
            sigma_min: fields.optional("sigma_min")?,
            sigma_max: fields.optional("sigma_max")?,
            final_sigmas_type: fields.get("final_sigmas_type", d.final_sigmas_type)?,
        };
        for off in ["thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"] {
            fields.only(off, &[false])?;
        }
        fields.only("algorithm_type", &["dpmsolver++"])?;
        fields.only("interpolation_type", &["linear"])?;
        fields.only("timestep_type", &["discrete"])?;
        fields.only::<Value>("variance_type", &[])?;
        fields.ignore(&["dynamic_thresholding_ratio", "sample_max_value", "flow_shift"]);
        fields.finish()?;
        config.check().map_err(|e| Error::format(fields.path(), e))?;
        Ok(config)
    }

    /// Refuses combinations that diffusers does not have either, or that are not implemented here.
    fn check(&self) -> Result<()> {
        let refuse = |what: &str| Err(Error::invalid(what.to_string()));
        match self.kind {
            _ if self.num_train_timesteps < 2 => refuse("num_train_timesteps: expected at least 2"),
            _ if self.trained_betas.as_ref().is_some_and(|b| b.len() != self.num_train_timesteps) => {
                refuse("trained_betas: expected num_train_timesteps of them")
            }
            SchedulerKind::Pndm if self.prediction_type == Prediction::Sample => {
                refuse("prediction_type = \"sample\" is not supported for PNDMScheduler")
            }
            SchedulerKind::Pndm if self.rescale_betas_zero_snr => {
                refuse("rescale_betas_zero_snr is not supported for PNDMScheduler")
            }
            SchedulerKind::DpmSolver if !(1..=2).contains(&self.solver_order) => {
                Err(Error::invalid(format!("solver_order = {} is not supported: 1 or 2", self.solver_order)))
            }
            _ => Ok(()),
        }
    }

    /// The same noise schedule and prediction under another kind of scheduler, with that kind's own defaults for
    /// everything else.
    #[must_use]
    pub fn with_kind(&self, kind: SchedulerKind) -> Self {
        if kind == self.kind {
            return self.clone();
        }
        let (old, new) = (Self::new(self.kind), Self::new(kind));
        let spacing =
            if self.timestep_spacing == old.timestep_spacing { new.timestep_spacing } else { self.timestep_spacing };
        Self {
            num_train_timesteps: self.num_train_timesteps,
            beta_start: self.beta_start,
            beta_end: self.beta_end,
            beta_schedule: self.beta_schedule,
            trained_betas: self.trained_betas.clone(),
            rescale_betas_zero_snr: self.rescale_betas_zero_snr,
            prediction_type: self.prediction_type,
            timestep_spacing: spacing,
            steps_offset: self.steps_offset,
            clip_sample: self.clip_sample,
            set_alpha_to_one: self.set_alpha_to_one,
            skip_prk_steps: true,
            ..new
        }
    }

    /// The table ᾱ of this configuration.
    #[must_use]
    pub fn noise_schedule(&self) -> NoiseSchedule {
        NoiseSchedule::new(self)
    }

    /// This scheduler set for `steps` steps.
    ///
    /// # Errors
    /// A number of steps that it cannot take; a combination of fields that is not supported.
    pub fn scheduler(&self, steps: usize) -> Result<Scheduler> {
        self.check()?;
        if steps == 0 || steps > self.num_train_timesteps {
            let range = self.num_train_timesteps;
            return Err(Error::invalid(format!("{steps} denoising steps: expected 1 to {range}")));
        }
        let scheduler = match self.kind {
            SchedulerKind::Ddim => Scheduler::Ddim(Ddim::new(self, steps)),
            SchedulerKind::Pndm => Scheduler::Pndm(Pndm::new(self, steps)?),
            SchedulerKind::DpmSolver => Scheduler::DpmSolver(DpmSolver::new(self, steps)),
            SchedulerKind::Euler => Scheduler::Euler(Euler::new(self, steps)),
        };
        let last = (self.num_train_timesteps - 1) as f64;
        match scheduler.timesteps().iter().find(|t| **t > last) {
            Some(t) => Err(Error::invalid(format!(
                "{steps} denoising steps with steps_offset = {} visit timestep {t}, beyond the last one, {last}",
                self.steps_offset
            ))),
            None => Ok(scheduler),
        }
    }

    /// The content of a `scheduler_config.json` that diffusers opens: every field that this kind knows.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut value = json!(self);
        let foreign: &[&str] = match self.kind {
            SchedulerKind::Ddim => &["skip_prk_steps"],
            SchedulerKind::Pndm => &["clip_sample", "clip_sample_range", "rescale_betas_zero_snr"],
            SchedulerKind::DpmSolver | SchedulerKind::Euler => {
                &["skip_prk_steps", "clip_sample", "clip_sample_range", "set_alpha_to_one"]
            }
        };
        let solver = ["solver_order", "solver_type", "lower_order_final", "euler_at_final", "lambda_min_clipped"];
        let sigmas = ["use_karras_sigmas", "final_sigmas_type"];
        let range = ["sigma_min", "sigma_max"];
        let mut drop: Vec<&str> = foreign.to_vec();
        if self.kind != SchedulerKind::DpmSolver {
            drop.extend(solver);
        }
        if self.kind != SchedulerKind::Euler {
            drop.extend(range);
        }
        if !matches!(self.kind, SchedulerKind::DpmSolver | SchedulerKind::Euler) {
            drop.extend(sigmas);
        }
        if let Value::Object(map) = &mut value {
            map.retain(|name, v| {
                !(drop.contains(&name.as_str()) || name == "lambda_min_clipped" && *v == json!(f64::MIN))
            });
        }
        value
    }
}
