//! How linear predictors between neighbouring steps are found.

use super::Predictors;
use super::moments::{Moments, Spreads};
use crate::activations::Trajectories;
use crate::error::{Error, Result};
use crate::kernels::cholesky::Cholesky;
use crate::kernels::{Matrix, Precision, product};
use crate::sae::recipe::held_out;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// By what a step is divided after its mean is taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standardise {
    /// Every channel by its own standard deviation: each weighs the same.
    Channel,
    /// All channels of a step by one number, their root mean variance: loud channels weigh more, as they do in the
    /// activations.
    Step,
}

/// By what residuals are divided before an SAE reads them, and so how much each step weighs in its loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weigh {
    /// Each step's by their root mean square: every step weighs the same, however little of it is unpredictable.
    Equal,
    /// By 1: a step weighs as much as it is unpredictable.
    Residual,
    /// So that an error counts by what it does to the activations of its step and of all later ones, which it is carried
    /// on to: by g_0/g_i, with g_i² = Σ_{j ≥ i} ‖A_{j−1} ⋯ A_i‖² / d.
    Path,
}

/// Options of [`Predictors::fit`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prediction {
    /// Whether a step is predicted from the one before at all (true). Without it the "residuals" are the standardised
    /// steps themselves: the paper's NoResid.
    pub predict: bool,
    /// The λ to choose from, for each transition by the explained variance of held-out items (1e-6 to 1). The
    /// penalty is λ‖A‖² beside the *mean* of ‖h̃_{i+1} − A h̃_i‖² over tokens, so that λ is in units of the variance of a
    /// channel.
    pub lambdas: Vec<f64>,
    /// The greatest λ is taken whose explained variance is less than this below the best (0.02). Channels go together, and
    /// a map that is hardly penalised has long rows for what hardly ever happens: true activations never meet them, but
    /// the errors of a code do, and a reconstruction carries them on. On the middle block of `scene-unet` (five steps,
    /// k = 40) the best λ explains .77 to .93 of a step, and a code of one shared dictionary restored −1.8 of the
    /// variance of the activations with it.
    pub tolerance: f64,
    /// By what steps are divided (each channel by its deviation).
    pub standardise: Standardise,
    /// By what residuals are divided (each step's by their root mean square).
    pub weigh: Weigh,
    /// Share of the items (the last ones) that are kept out of the fit, to choose λ and to judge it by (0.05).
    pub holdout: f64,
}

impl Default for Prediction {
    fn default() -> Self {
        Self {
            predict: true,
            lambdas: vec![1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0],
            tolerance: 0.02,
            standardise: Standardise::Channel,
            weigh: Weigh::Equal,
            holdout: 0.05,
        }
    }
}

/// How well one step is predicted from the one before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// The λ that was chosen.
    pub lambda: f64,
    /// 1 − Σ‖h̃_{i+1} − A_i h̃_i‖² / Σ‖h̃_{i+1}‖² on held-out items (on those of the fit, where none were kept out).
    pub explained: f64,
    /// The same on the items of the fit.
    pub explained_in_fit: f64,
    /// Every λ that was tried, with the explained variance on held-out items.
    pub tried: Vec<(f64, f64)>,
}

/// Σ a·b.
fn sum_product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Mean ‖h̃_{i+1} − A h̃_i‖² = E‖h̃_{i+1}‖² − 2 tr(A Cᵀ) + tr(A M Aᵀ), with C = E h̃_{i+1}h̃_iᵀ and M = E h̃_i h̃_iᵀ.
fn error(a: &[f64], moments: &Moments, transition: usize, d: usize) -> f64 {
    let (own, cross) = (&moments.own[transition], &moments.cross[transition]);
    let rows: Vec<f64> = (a.par_chunks(d), cross.par_chunks(d))
        .into_par_iter()
        .map(|(a, c)| {
            let quadratic: f64 = own.chunks_exact(d).zip(a).map(|(row, v)| v * sum_product(row, a)).sum();
            quadratic - 2.0 * sum_product(a, c)
        })
        .collect();
    (moments.squares[transition + 1] + rows.iter().sum::<f64>()).max(0.0)
}

impl Predictors {
    /// Finds mean and deviation of every step and the ridge regressions between neighbouring steps, in two passes over
    /// the trajectories (one, without prediction).
    ///
    /// # Errors
    /// If a trajectory has fewer than two steps, no λ or an unusable one is given, several λ are to be chosen from with
    /// nothing held out, the equations are singular at every λ, or the trajectories cannot be read.
    pub fn fit(trajectories: &Trajectories, options: &Prediction) -> Result<Self> {
        let (steps, d) = (trajectories.steps(), trajectories.d());
        if steps < 2 {
            return Err(Error::invalid(format!("{trajectories}: a trajectory of {steps} step: expected at least 2")));
        }
        if !(options.tolerance >= 0.0 && options.tolerance.is_finite()) {
            return Err(Error::invalid(format!("tolerance {}: expected a number from 0 up", options.tolerance)));
        }
        if options.predict
            && (options.lambdas.is_empty() || !options.lambdas.iter().all(|l| *l >= 0.0 && l.is_finite()))
        {
            return Err(Error::invalid(format!("λ from {:?}: expected finite numbers from 0 up", options.lambdas)));
        }
        let out = held_out(trajectories.len(), options.holdout)?;
        if options.predict && out == 0 && options.lambdas.len() > 1 {
            return Err(Error::invalid(format!(
                "{} values of λ to choose from and no item held out: give one λ or a held-out share",
                options.lambdas.len()
            )));
        }
        let inside = trajectories.range(0..trajectories.len() - out)?;
        let Spreads { mean, mut deviation } = Spreads::of(&inside)?;
        if options.standardise == Standardise::Step {
            for step in deviation.chunks_exact_mut(d) {
                let all = (step.iter().map(|s| s * s).sum::<f64>() / d as f64).sqrt();
                step.fill(all);
            }
        }
        // A channel that does not vary is 0 after its mean is taken off, whatever it is divided by. Rounding leaves it a
        // deviation of some 1e-8 of its mean.
        for (s, m) in deviation.iter_mut().zip(&mean) {
            if *s <= 1e-7 * m.abs() {
                *s = 1.0;
            }
        }
        let narrow = |v: &[f64]| v.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let mut predictors = Self {
            steps,
            d,
            mean: narrow(&mean),
            deviation: narrow(&deviation),
            maps: Vec::new(),
            scale: vec![1.0; steps],
            fits: Vec::new(),
            options: options.clone(),
            about: trajectories.about(),
        };
        if !options.predict {
            return Ok(predictors);
        }
        let standardise = |rows: &[f32]| predictors.standardise(rows);
        let moments = Moments::of(&inside, standardise)?;
        let others = match out {
            0 => None,
            n => Some(Moments::of(&trajectories.range(trajectories.len() - n..trajectories.len())?, standardise)?),
        };
        let judge = others.as_ref().unwrap_or(&moments);
        let (mut maps, mut scale) = (Vec::with_capacity((steps - 1) * d * d), vec![1.0]);
        for transition in 0..steps - 1 {
            let explained = |a: &[f64], moments: &Moments| {
                1.0 - error(a, moments, transition, d) / moments.squares[transition + 1].max(f64::MIN_POSITIVE)
            };
            let mut maps_of: Vec<(f64, f64, Vec<f64>)> = Vec::new();
            for &lambda in &options.lambdas {
                let Some(map) = ridge(&moments, transition, d, lambda) else { continue };
                maps_of.push((lambda, explained(&map, judge), map));
            }
            let tried = maps_of.iter().map(|(lambda, found, _)| (*lambda, *found)).collect();
            let enough = maps_of.iter().map(|m| m.1).fold(f64::NEG_INFINITY, f64::max) - options.tolerance;
            let chosen = maps_of.into_iter().filter(|m| m.1 >= enough).max_by(|a, b| a.0.total_cmp(&b.0));
            let Some((lambda, found, map)) = chosen else {
                return Err(Error::invalid(format!(
                    "{trajectories}: step {transition} does not determine a linear map to the next (singular at every λ \
                     of {:?}): a larger λ would",
                    options.lambdas
                )));
            };
            predictors.fits.push(Fit { lambda, explained: found, explained_in_fit: explained(&map, &moments), tried });
            let rms = (error(&map, &moments, transition, d) / d as f64).sqrt();
            // What is predicted to the last digit leaves rounding, which is not to be blown up to a signal.
            scale.push(if options.weigh == Weigh::Equal && rms > 1e-5 { rms as f32 } else { 1.0 });
            maps.extend(narrow(&map));
        }
        if options.weigh == Weigh::Path {
            let gains = gains(&maps, steps, d);
            scale = gains.iter().map(|g| (gains[0] / g) as f32).collect();
        }
        (predictors.maps, predictors.scale) = (maps, scale);
        Ok(predictors)
    }
}

/// g of every step: by how much the activations of a path grow, root mean square over channels and summed in squares
/// over steps, when a step's own contribution grows by 1 in every channel.
fn gains(maps: &[f32], steps: usize, d: usize) -> Vec<f64> {
    let squares = |m: &[f32]| m.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>() / d as f64;
    let gain = |i: usize| {
        let mut sum = 1.0;
        let mut carried: Vec<f32> = Vec::new();
        for map in maps.chunks_exact(d * d).skip(i) {
            carried = if carried.is_empty() {
                map.to_vec()
            } else {
                let mut next = vec![0.0; d * d];
                let (a, b) = (Matrix::rows(map, d), Matrix::rows(&carried, d));
                product(&mut next, d, a, b, (d, d, d), false, Precision::Full);
                next
            };
            sum += squares(&carried);
        }
        sum.sqrt()
    };
    (0..steps).map(gain).collect()
}

/// A = C (M + λI)⁻¹.
fn ridge(moments: &Moments, transition: usize, d: usize, lambda: f64) -> Option<Vec<f64>> {
    let mut own = moments.own[transition].clone();
    own.iter_mut().step_by(d + 1).for_each(|v| *v += lambda);
    let mut map = moments.cross[transition].clone();
    Cholesky::new(own, d)?.divide(&mut map);
    Some(map)
}
