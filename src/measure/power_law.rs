//! Scaling: a power law through measurements.
//!
//! y = a·xᵇ is the line log y = log a + b log x; b and log a are those of least squares in logarithms.

use super::interval::{Interval, bootstrap};
use crate::error::{Error, Result};

/// y = a·xᵇ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerLaw {
    /// a.
    pub factor: f64,
    /// b, with its 95 % bootstrap interval over the measurements.
    pub exponent: Interval,
    /// Share of the variance of log y that the law explains.
    pub explained: f64,
}

impl PowerLaw {
    /// Fits measurements `y` at `x`.
    ///
    /// ```
    /// use denoscope::measure::PowerLaw;
    /// let law = PowerLaw::fit(&[1.0, 2.0, 4.0, 8.0], &[3.0, 1.5, 0.75, 0.375])?;
    /// assert!((law.exponent.value + 1.0).abs() < 1e-12 && (law.at(16.0) - 0.1875).abs() < 1e-12);
    /// # Ok::<(), denoscope::Error>(())
    /// ```
    ///
    /// # Errors
    /// Fewer than two different x, as many y as x missing, or a number that is not positive.
    pub fn fit(x: &[f64], y: &[f64]) -> Result<Self> {
        if x.len() != y.len() {
            return Err(Error::invalid(format!("power law: {} values of y for {} of x", y.len(), x.len())));
        }
        if let Some(v) = x.iter().chain(y).find(|v| !(**v > 0.0 && v.is_finite())) {
            return Err(Error::invalid(format!("power law: {v}, expected positive numbers")));
        }
        let (x, y): (Vec<f64>, Vec<f64>) = x.iter().zip(y).map(|(x, y)| (x.ln(), y.ln())).unzip();
        let all: Vec<usize> = (0..x.len()).collect();
        let Some((level, slope)) = line(&x, &y, &all) else {
            return Err(Error::invalid(format!("power law: {} measurements, expected two different x", x.len())));
        };
        // A resample with one x only has no slope; it counts as the whole.
        let exponent = bootstrap(x.len(), 0, &|drawn| line(&x, &y, drawn).map_or(slope, |l| l.1));
        let mean = y.iter().sum::<f64>() / y.len() as f64;
        let rest: f64 = x.iter().zip(&y).map(|(x, y)| (y - level - slope * x).powi(2)).sum();
        let total: f64 = y.iter().map(|y| (y - mean).powi(2)).sum();
        let explained = if total > 0.0 { 1.0 - rest / total } else { 1.0 };
        Ok(Self { factor: level.exp(), exponent, explained })
    }

    /// a·xᵇ.
    #[must_use]
    pub fn at(&self, x: f64) -> f64 {
        self.factor * x.powf(self.exponent.value)
    }
}

/// Level and slope of the line of least squares through the drawn points.
fn line(x: &[f64], y: &[f64], drawn: &[usize]) -> Option<(f64, f64)> {
    let n = drawn.len() as f64;
    let mean = |v: &[f64]| drawn.iter().map(|&i| v[i]).sum::<f64>() / n;
    let (mx, my) = (mean(x), mean(y));
    let spread: f64 = drawn.iter().map(|&i| (x[i] - mx).powi(2)).sum();
    let both: f64 = drawn.iter().map(|&i| (x[i] - mx) * (y[i] - my)).sum();
    (spread > 1e-12).then(|| (my - both / spread * mx, both / spread))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    #[test]
    fn a_noisy_law_is_found_within_its_interval() {
        let mut random = stream(0, "law", 0);
        let x: Vec<f64> = (1..40).map(f64::from).collect();
        let y: Vec<f64> = x.iter().map(|x| 2.0 * x.powf(-0.7) * f64::from(0.05 * random.normals(1)[0]).exp()).collect();
        let law = PowerLaw::fit(&x, &y).unwrap();
        assert!(law.exponent.contains(-0.7) && law.exponent.high - law.exponent.low < 0.1, "{}", law.exponent);
        assert!(law.explained > 0.98 && (law.factor - 2.0).abs() < 0.2);
    }

    #[test]
    fn what_has_no_law_is_refused() {
        let refused = |x: &[f64], y: &[f64]| PowerLaw::fit(x, y).unwrap_err().to_string();
        assert!(refused(&[1.0, 2.0], &[1.0]).contains("1 values of y"));
        assert!(refused(&[1.0, 2.0], &[1.0, 0.0]).contains("positive"));
        assert!(refused(&[3.0, 3.0], &[1.0, 2.0]).contains("two different"));
    }
}
