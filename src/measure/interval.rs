//! Intervals around measured shares and means: Wilson's score interval and the seeded percentile bootstrap.

use crate::error::{Error, Result};
use crate::random::stream;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Resamples of a bootstrap. At 2000 the ends of a 95 % interval of a mean move by about 2 % of its width from
/// seed to seed.
const RESAMPLES: usize = 2000;

/// A measured value with an interval around it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// What was measured.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// How many trials or samples stand behind it.
    pub n: usize,
}

impl Interval {
    /// Values, lower ends and upper ends, as charts and tables take them.
    #[must_use]
    pub fn columns<'a>(intervals: impl IntoIterator<Item = &'a Interval>) -> [Vec<f64>; 3] {
        let mut columns = [const { Vec::new() }; 3];
        for i in intervals {
            for (column, x) in columns.iter_mut().zip([i.value, i.low, i.high]) {
                column.push(x);
            }
        }
        columns
    }

    /// Whether `x` lies within the interval, ends included.
    #[must_use]
    pub fn contains(&self, x: f64) -> bool {
        self.low <= x && x <= self.high
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} [{:.3}, {:.3}] (n = {})", self.value, self.low, self.high, self.n)
    }
}

/// 95 % interval of a share by Wilson's score (E. B. Wilson, 1927): with p = s/n and z = 1.96,
/// (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n).
///
/// It stays within [0, 1] and is sensible at 0 and n successes. Without trials it is the whole of [0, 1] around NaN.
#[must_use]
pub fn wilson(successes: usize, trials: usize) -> Interval {
    const Z: f64 = 1.959_963_984_540_054;
    if trials == 0 {
        return Interval { value: f64::NAN, low: 0.0, high: 1.0, n: 0 };
    }
    let n = trials as f64;
    let p = successes.min(trials) as f64 / n;
    let scale = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt() / scale;
    // The exact ends at p = 0 and 1 are 0 and 1; rounding must not put the value outside its interval.
    Interval { value: p, low: (centre - half).clamp(0.0, p), high: (centre + half).clamp(p, 1.0), n: trials }
}

/// 95 % percentile bootstrap of any statistic of `n` samples: `statistic` gets the indices of a resample.
///
/// The value is the statistic of the samples as they are; the ends are the 2.5 and 97.5 percentiles over 2000
/// resamples drawn with `seed`. Resamples on which the statistic is not finite are left out.
#[must_use]
pub fn bootstrap(n: usize, seed: u64, statistic: &dyn Fn(&[usize]) -> f64) -> Interval {
    let mut indices: Vec<usize> = (0..n).collect();
    let value = if n == 0 { f64::NAN } else { statistic(&indices) };
    let mut random = stream(seed, "bootstrap", n as u64);
    let mut drawn = Vec::with_capacity(RESAMPLES);
    for _ in 0..if n == 0 { 0 } else { RESAMPLES } {
        indices.iter_mut().for_each(|i| *i = random.below(n));
        let x = statistic(&indices);
        if x.is_finite() {
            drawn.push(x);
        }
    }
    drawn.sort_unstable_by(f64::total_cmp);
    let at = |q: f64| match drawn.len() {
        0 => f64::NAN,
        m => {
            // Linear interpolation between order statistics, as numpy.percentile does.
            let place = q * (m - 1) as f64;
            let (below, part) = (place.floor() as usize, place.fract());
            drawn[below] + part * (drawn[(below + 1).min(m - 1)] - drawn[below])
        }
    };
    Interval { value, low: at(0.025), high: at(0.975), n }
}

/// 95 % bootstrap interval of the mean of `values`.
#[must_use]
pub fn mean(values: &[f64], seed: u64) -> Interval {
    bootstrap(values.len(), seed, &|pick| pick.iter().map(|&i| values[i]).sum::<f64>() / pick.len() as f64)
}

/// 95 % bootstrap interval of mean(aᵢ − bᵢ): how far two settings differ on the same trials. What trials have in common
/// (an easy prompt, a lucky seed) falls out, so that it is narrower than the intervals of a and b suggest.
///
/// # Errors
/// Different numbers of trials.
pub fn difference(a: &[f64], b: &[f64]) -> Result<Interval> {
    paired(a.len(), b.len())?;
    Ok(mean(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>(), 0))
}

/// Refuses to pair different numbers of trials.
pub(super) fn paired(found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape {
        what: "trials that are compared one by one".into(),
        found: vec![found],
        expected: vec![expected],
    })
}

/// 1 for what is so, 0 for what is not: shares as means.
pub(super) fn ones(of: impl IntoIterator<Item = bool>) -> Vec<f64> {
    of.into_iter().map(|b| f64::from(u8::from(b))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_agrees_with_published_values() {
        // statsmodels proportion_confint(s, n, method="wilson"): (8, 10) and (0, 20) and (20, 20).
        for (s, n, low, high) in
            [(8, 10, 0.490_16, 0.943_32), (0, 20, 0.0, 0.161_13), (20, 20, 0.838_87, 1.0), (1, 4, 0.045_59, 0.699_36)]
        {
            let i = wilson(s, n);
            assert!((i.low - low).abs() < 2e-5 && (i.high - high).abs() < 2e-5, "{s}/{n}: {i:?}");
            assert!(i.contains(i.value));
        }
        assert!(wilson(0, 0).value.is_nan());
    }

    #[test]
    fn bootstrap_of_a_mean_has_the_width_theory_gives() {
        let values = stream(5, "values", 0).normals(400).iter().map(|&v| f64::from(v) + 3.0).collect::<Vec<_>>();
        let i = mean(&values, 1);
        // ±1.96 σ/√n = ±0.098.
        assert!((i.high - i.low - 0.196).abs() < 0.03, "{i}");
        assert!(i.contains(i.value) && i.contains(3.0), "{i}");
        assert_eq!(i, mean(&values, 1));
        assert_ne!(i, mean(&values, 2));
    }

    #[test]
    fn what_trials_share_falls_out_of_a_difference() {
        let shared = stream(6, "shared", 0).normals(100);
        let a: Vec<f64> = shared.iter().map(|&v| f64::from(v) + 0.1).collect();
        let b: Vec<f64> = shared.iter().map(|&v| f64::from(v)).collect();
        let (i, j) = (mean(&a, 0), mean(&b, 0));
        assert!(i.low < j.high, "apart by themselves");
        let d = difference(&a, &b).unwrap();
        assert!((d.value - 0.1).abs() < 1e-9 && d.low > 0.09, "{d}");
        assert!(difference(&a, &b[1..]).unwrap_err().to_string().contains("99"));
    }

    #[test]
    fn a_single_value_has_no_width() {
        let i = mean(&[2.5], 0);
        assert_eq!((i.value, i.low, i.high), (2.5, 2.5, 2.5));
        assert!(mean(&[], 0).value.is_nan());
    }
}
