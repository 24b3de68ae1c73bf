//! How far over a picture a feature's activation is spread.

use crate::sae::Codes;

/// Spatial spread of activation maps: means over maps that are not all zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Gini coefficient of a map's values: 0 the same everywhere, 1 − 1/n on one of n tokens only.
    pub gini: f64,
    /// Entropy of a map's shares over the largest there is, −Σ p ln p / ln n: 1 the same everywhere, 0 on one token.
    pub entropy: f64,
    /// Share of the tokens on which the map is above zero.
    pub area: f64,
    /// Maps that were counted.
    pub maps: usize,
}

impl Spread {
    /// Of one map; `None` if it is zero everywhere. Values must not be negative.
    #[must_use]
    pub fn of_map(map: &[f32]) -> Option<Self> {
        let mut sorted: Vec<f64> = map.iter().map(|v| f64::from(*v)).collect();
        sorted.sort_by(f64::total_cmp);
        let (n, sum) = (sorted.len() as f64, sorted.iter().sum::<f64>());
        if sum <= 0.0 {
            return None;
        }
        // G = Σ_i (2i − n − 1) x_i / (n Σ x), over values that rise with i = 1 … n.
        let weighted: f64 = sorted.iter().enumerate().map(|(i, x)| (2.0 * (i + 1) as f64 - n - 1.0) * x).sum();
        let entropy: f64 = sorted.iter().filter(|x| **x > 0.0).map(|x| -(x / sum) * (x / sum).ln()).sum();
        let area = sorted.iter().filter(|x| **x > 0.0).count() as f64 / n;
        Some(Self { gini: weighted / (n * sum), entropy: if n > 1.0 { entropy / n.ln() } else { 0.0 }, area, maps: 1 })
    }

    /// Of the maps of `feature` on every item of `codes`; `None` if it fires on none.
    #[must_use]
    pub fn of(codes: &Codes, feature: usize) -> Option<Self> {
        let all: Vec<Self> = (0..codes.items()).filter_map(|item| Self::of_map(&codes.map(feature, item))).collect();
        let mean = |f: fn(&Self) -> f64| all.iter().map(f).sum::<f64>() / all.len() as f64;
        let found =
            Self { gini: mean(|s| s.gini), entropy: mean(|s| s.entropy), area: mean(|s| s.area), maps: all.len() };
        (found.maps > 0).then_some(found)
    }
}
