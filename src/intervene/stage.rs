//! When an edit acts: the stages of denoising, or any window of progress t.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A stage of denoising (Emergence, section 4.3), in progress t: 1 at the noisiest step, 0 at the last.
///
/// The paper gives closed ranges; a step on a border belongs to the earlier stage here, so that no step is in two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// t in [0.6, 1]: composition forms. Edited with the SAE of t = 1.
    Early,
    /// t in [0.2, 0.6): composition is settled, style is not. Edited with the SAE of t = 0.5.
    Middle,
    /// t in [0, 0.2): only texture is left. Edited with the SAE of t = 0.
    Final,
}

impl Stage {
    /// The three, in the order in which they happen.
    pub const ALL: [Stage; 3] = [Stage::Early, Stage::Middle, Stage::Final];

    /// The stage that progress `t` belongs to.
    #[must_use]
    pub fn of(t: f64) -> Stage {
        // 1e-9: t = 1 − i/(steps − 1) does not hit 0.6 exactly in floating point.
        if t >= 0.6 - 1e-9 {
            Stage::Early
        } else if t >= 0.2 - 1e-9 {
            Stage::Middle
        } else {
            Stage::Final
        }
    }

    /// The t whose SAE and dictionary the paper uses for this stage: 1, 0.5 or 0.
    #[must_use]
    pub fn t(self) -> f64 {
        match self {
            Stage::Early => 1.0,
            Stage::Middle => 0.5,
            Stage::Final => 0.0,
        }
    }

    /// `early`, `middle` or `final`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Early => "early",
            Stage::Middle => "middle",
            Stage::Final => "final",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Stage {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let found = Stage::ALL.into_iter().find(|stage| stage.name() == s);
        found.ok_or_else(|| Error::unknown("stage", s, Stage::ALL.map(Stage::name)))
    }
}

/// The steps at which an edit acts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Window {
    /// The steps of one stage; an SAE trained at a t of another stage is refused.
    Stage(Stage),
    /// Steps with `low ≤ t ≤ high`, whatever t the SAE was trained at.
    Between {
        /// Least progress.
        low: f64,
        /// Greatest progress.
        high: f64,
    },
}

impl Window {
    /// Every step.
    pub const ALWAYS: Window = Window::Between { low: 0.0, high: 1.0 };

    /// Whether a step with progress `t` is in it.
    #[must_use]
    pub fn contains(&self, t: f64) -> bool {
        match *self {
            Window::Stage(stage) => Stage::of(t) == stage,
            Window::Between { low, high } => low - 1e-9 <= t && t <= high + 1e-9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::hook::progress_t;

    #[test]
    fn every_step_is_in_exactly_one_stage() {
        for steps in [1, 5, 10, 11, 50, 51] {
            for step in 0..steps {
                let t = progress_t(step, steps);
                let n = Stage::ALL.iter().filter(|s| Window::Stage(**s).contains(t)).count();
                assert_eq!(n, 1, "step {step} of {steps}");
            }
        }
        // 11 steps: t = 1.0, 0.9, … 0.0.
        let early = (0..11).filter(|&i| Stage::of(progress_t(i, 11)) == Stage::Early).count();
        let middle = (0..11).filter(|&i| Stage::of(progress_t(i, 11)) == Stage::Middle).count();
        assert_eq!((early, middle), (5, 4));
    }

    #[test]
    fn a_stage_holds_the_t_of_its_own_sae() {
        for stage in Stage::ALL {
            assert_eq!(Stage::of(stage.t()), stage);
        }
        assert!(Window::ALWAYS.contains(0.0) && Window::ALWAYS.contains(1.0));
        assert!(!Window::Between { low: 0.3, high: 0.4 }.contains(0.5));
    }
}
