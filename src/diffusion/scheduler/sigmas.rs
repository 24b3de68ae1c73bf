//! Noise levels for the schedulers that think in σ = √((1 − ᾱ)/ᾱ).

/// Exponent of Karras' spacing (Karras et al. 2022, section 3).
const RHO: f64 = 7.0;

/// Linear interpolation of `table` at the fractional index `t`.
pub(super) fn interpolate(table: &[f64], t: f64) -> f64 {
    let low = (t.max(0.0) as usize).min(table.len() - 1);
    let high = (low + 1).min(table.len() - 1);
    table[low] + (t - low as f64).clamp(0.0, 1.0) * (table[high] - table[low])
}

/// σᵢ = (σ_max^(1/ρ) + i/(n − 1) (σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ.
pub(super) fn karras(min: f64, max: f64, n: usize) -> Vec<f64> {
    let (low, high) = (min.powf(1.0 / RHO), max.powf(1.0 / RHO));
    (0..n).map(|i| (high + i as f64 / (n.max(2) - 1) as f64 * (low - high)).powf(RHO)).collect()
}

/// The fractional timestep at which ln σ, interpolated linearly in `table` (ascending), has this value.
pub(super) fn timestep(sigma: f64, table: &[f64]) -> f64 {
    let log = sigma.max(1e-10).ln();
    let below = table.iter().rposition(|s| log >= s.ln()).unwrap_or(0);
    let low = below.min(table.len() - 2);
    let (a, b) = (table[low].ln(), table[low + 1].ln());
    let weight = ((a - log) / (a - b)).clamp(0.0, 1.0);
    (1.0 - weight) * low as f64 + weight * (low + 1) as f64
}
