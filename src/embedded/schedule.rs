//! Learning rate over a training: linear warm-up, then half a cosine down to a floor.

/// The learning rate's course over the work done, counted in steps or in time, whichever is further.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Highest learning rate, reached after the warm-up.
    pub peak: f64,
    /// Steps over which the rate rises linearly from 0.
    pub warmup: usize,
    /// Share of the peak that is left at the end.
    pub floor: f64,
}

impl Schedule {
    /// η = peak · min(1, (step + 1)/warmup) · (floor + (1 − floor)(1 + cos π f)/2), with `done` = f in [0, 1].
    #[must_use]
    pub fn rate(&self, step: usize, done: f64) -> f64 {
        let rise = ((step + 1) as f64 / self.warmup.max(1) as f64).min(1.0);
        let fall = 0.5 * (1.0 + (std::f64::consts::PI * done.clamp(0.0, 1.0)).cos());
        self.peak * rise * (self.floor + (1.0 - self.floor) * fall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls_to_the_floor() {
        let schedule = Schedule { peak: 2e-3, warmup: 10, floor: 0.1 };
        assert!((schedule.rate(0, 0.0) - 2e-4).abs() < 1e-12);
        assert!((schedule.rate(9, 0.0) - 2e-3).abs() < 1e-12);
        assert!((schedule.rate(500, 0.5) - 2e-3 * 0.55).abs() < 1e-12);
        assert!((schedule.rate(999, 1.0) - 2e-4).abs() < 1e-12);
    }
}
