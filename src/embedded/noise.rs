//! The forward process of diffusion, as Stable Diffusion has it.

/// Steps of the whole process.
pub const STEPS: usize = 1000;
/// First β of the schedule.
pub const BETA_START: f64 = 0.00085;
/// Last β of the schedule.
pub const BETA_END: f64 = 0.012;

/// ᾱₜ = Π (1 − βₛ), with √β rising linearly (diffusers' `scaled_linear`).
#[derive(Debug, Clone)]
pub struct NoiseSchedule {
    kept: Vec<f64>,
}

impl Default for NoiseSchedule {
    fn default() -> Self {
        let (from, to) = (BETA_START.sqrt(), BETA_END.sqrt());
        let mut product = 1.0;
        let beta = |t: usize| (from + (to - from) * t as f64 / (STEPS - 1) as f64).powi(2);
        let kept = (0..STEPS).map(|t| {
            product *= 1.0 - beta(t);
            product
        });
        Self { kept: kept.collect() }
    }
}

impl NoiseSchedule {
    /// ᾱₜ.
    #[must_use]
    pub fn kept(&self, t: usize) -> f64 {
        self.kept[t]
    }

    /// What latents and noise are multiplied with at step t: (√ᾱₜ, √(1 − ᾱₜ)).
    #[must_use]
    pub fn mix(&self, t: usize) -> (f32, f32) {
        (self.kept[t].sqrt() as f32, (1.0 - self.kept[t]).sqrt() as f32)
    }

    /// max(min(SNR, γ), floor)/SNR with SNR = ᾱₜ/(1 − ᾱₜ): the weight of a noise prediction's squared error (Hang et al.
    /// 2023), with a least weight of the predicted picture's (truncated SNR, Salimans & Ho 2022).
    #[must_use]
    pub fn weight(&self, t: usize, gamma: f64, floor: f64) -> f64 {
        let snr = self.kept[t] / (1.0 - self.kept[t]);
        snr.min(gamma).max(floor) / snr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_stable_diffusion() {
        // diffusers: DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).alphas_cumprod
        let schedule = NoiseSchedule::default();
        assert!((schedule.kept(0) - 0.99915).abs() < 1e-6);
        assert!((schedule.kept(999) - 0.00466).abs() < 1e-5, "{}", schedule.kept(999));
        assert!((schedule.weight(999, 5.0, 0.0) - 1.0).abs() < 1e-12);
        assert!(schedule.weight(0, 5.0, 0.0) < 0.01);
        let snr = 0.00466 / (1.0 - 0.00466);
        assert!((schedule.weight(999, 5.0, 0.25) * snr - 0.25).abs() < 1e-3);
    }
}
