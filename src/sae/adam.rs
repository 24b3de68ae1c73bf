//! Adam (Kingma & Ba 2015, algorithm 1), fused and in place.

use crate::kernels::sparse::adam as kernel;

/// One step's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adam {
    pub(crate) beta1: f32,
    pub(crate) beta2: f32,
    /// Learning rate over 1 − β₁ᵗ.
    pub(crate) rate: f32,
    /// 1 / (1 − β₂ᵗ).
    pub(crate) correction: f32,
    pub(crate) epsilon: f32,
}

impl Adam {
    /// Settings of step `t` = 1, 2, …
    pub(crate) fn step(betas: (f32, f32), epsilon: f32, rate: f32, t: usize) -> Self {
        // In double precision: 1 − 0.999ᵗ loses digits in single.
        let power = |b: f32| 1.0 - f64::from(b).powf(t as f64);
        Self {
            beta1: betas.0,
            beta2: betas.1,
            rate: (f64::from(rate) / power(betas.0)) as f32,
            correction: (1.0 / power(betas.1)) as f32,
            epsilon,
        }
    }

    /// w ← w − rate·m̂/(√v̂ + ε), with m ← β₁m + (1 − β₁)g and v ← β₂v + (1 − β₂)g².
    pub(crate) fn apply(&self, w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        kernel(w, m, v, g, (self.beta1, self.beta2), self.rate, self.correction, self.epsilon);
    }
}

/// First and second moments of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    pub(crate) m: Vec<f32>,
    pub(crate) v: Vec<f32>,
}

impl Moments {
    pub(crate) fn zeros(n: usize) -> Self {
        Self { m: vec![0.0; n], v: vec![0.0; n] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_steps_follow_the_algorithm() {
        let (mut w, mut moments) = (vec![1.0f32], Moments::zeros(1));
        let (mut w64, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
        for (t, g) in [0.5f64, -2.0, 0.25].into_iter().enumerate() {
            let t = t + 1;
            Adam::step((0.9, 0.999), 1e-8, 0.1, t).apply(&mut w, &mut moments.m, &mut moments.v, &[g as f32]);
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            w64 -= 0.1 * (m / (1.0 - 0.9f64.powi(t as i32))) / ((v / (1.0 - 0.999f64.powi(t as i32))).sqrt() + 1e-8);
            assert!((f64::from(w[0]) - w64).abs() < 1e-5, "step {t}: {} against {w64}", w[0]);
        }
    }
}
