//! How large a study's run is.

use crate::error::{Error, Result};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The environment variable that chooses the scale.
pub const VARIABLE: &str = "DENOSCOPE_SCALE";

/// The size of a run. The same cells run at each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Seconds a notebook: shows that every cell works; its numbers mean nothing.
    Smoke,
    /// Minutes a notebook on two cores, with the embedded model. The default.
    Laptop,
    /// The published model at the paper's sizes: GPU hours, and weights at hand.
    Paper,
}

impl Scale {
    /// All of them, smallest first.
    pub const ALL: [Scale; 3] = [Scale::Smoke, Scale::Laptop, Scale::Paper];

    /// `smoke`, `laptop` or `paper`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Scale::Smoke => "smoke",
            Scale::Laptop => "laptop",
            Scale::Paper => "paper",
        }
    }

    /// What the environment variable `DENOSCOPE_SCALE` says; [`Scale::Laptop`] without it.
    ///
    /// # Errors
    /// Another word than the three.
    pub fn here() -> Result<Self> {
        match std::env::var(VARIABLE) {
            Ok(word) if !word.is_empty() => word.parse(),
            _ => Ok(Scale::Laptop),
        }
    }

    /// The one of three values that belongs to this scale.
    pub fn pick<T>(self, smoke: T, laptop: T, paper: T) -> T {
        match self {
            Scale::Smoke => smoke,
            Scale::Laptop => laptop,
            Scale::Paper => paper,
        }
    }
}

/// The path in an environment variable that [`Scale::Paper`] needs; `what` says of what.
///
/// # Errors
/// When the variable is not set.
pub(super) fn named(variable: &str, what: impl fmt::Display) -> Result<PathBuf> {
    let missing = |_| Error::invalid(format!("the scale `paper` takes {what}: set {variable} to it"));
    std::env::var(variable).map(PathBuf::from).map_err(missing)
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scale {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let known = || Error::unknown("scale", s, Scale::ALL.map(Scale::name));
        Scale::ALL.into_iter().find(|scale| scale.name() == s).ok_or_else(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_misspellings_are_answered() {
        for scale in Scale::ALL {
            assert_eq!(scale.name().parse::<Scale>().unwrap(), scale);
        }
        let said = "laptob".parse::<Scale>().unwrap_err().to_string();
        assert!(said.contains("laptob") && said.contains("laptop"), "{said}");
        assert_eq!(Scale::ALL.map(|s| s.pick(1, 2, 3)), [1, 2, 3]);
    }
}
