//! Scale and shift of every channel at every step.

use crate::activations::{Description, Trajectories, around};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};

/// 1 + a is kept away from zero by this: what a step erases cannot be brought back.
pub(in crate::sae) const LEAST: f32 = 0.1;

/// The modulation x ⊙ (1 + a_t) + c_t at some steps.
///
/// It acts on activations that are scaled to a mean ‖x‖² of d, as they are where adaLN acts: behind a layer norm.
///
/// ```
/// use denoscope::sae::Modulation;
///
/// let modulation = Modulation::new(vec![1.0, 0.0], 2, vec![0.5, 0.0, 1.0, 0.0], vec![0.0, 3.0, 0.0, 1.0])?;
/// // Half-way between the two steps.
/// let (scale, shift) = modulation.at(0.5);
/// assert_eq!((scale, shift), (vec![0.75, 0.0], vec![0.0, 2.0]));
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Modulation {
    /// Progress of every step, falling: 1 = noise, 0 = the last.
    pub t: Vec<f64>,
    /// Channels.
    pub d: usize,
    /// a, `[steps, d]`.
    pub scale: Vec<f32>,
    /// c, `[steps, d]`.
    pub shift: Vec<f32>,
}

impl Modulation {
    /// A modulation at steps of progress `t` from its numbers `[steps, d]`.
    ///
    /// # Errors
    /// If the shapes do not fit, a number is not finite or t does not fall.
    pub fn new(t: Vec<f64>, d: usize, scale: Vec<f32>, shift: Vec<f32>) -> Result<Self> {
        for (what, values) in [("scale", &scale), ("shift", &shift)] {
            if values.len() != t.len() * d || t.is_empty() {
                let (found, expected) = (vec![values.len()], vec![t.len(), d]);
                return Err(Error::Shape { what: format!("modulation: {what}"), found, expected });
            }
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                let (step, channel) = (at / d, at % d);
                let problem = format!("modulation: {what} of {} at step {step}, channel {channel}", values[at]);
                return Err(Error::invalid(format!("{problem}: expected finite numbers")));
            }
        }
        if !t.is_sorted_by(|a, b| a > b) {
            return Err(Error::invalid(format!("modulation at t = {t:?}: expected to fall")));
        }
        Ok(Self { t, d, scale, shift })
    }

    /// The modulation that changes nothing, at the steps of `trajectories`.
    #[must_use]
    pub fn identity(trajectories: &Trajectories) -> Self {
        let t: Vec<f64> = trajectories.about().iter().map(Description::t).collect();
        let zeros = vec![0.0; t.len() * trajectories.d()];
        Self { t, d: trajectories.d(), scale: zeros.clone(), shift: zeros }
    }

    /// A pretrained modulation, `scale` and `shift` `[steps, d]`, at the steps of `trajectories`: of a diffusion
    /// transformer, [`Pipeline::modulation`](crate::diffusion::pipeline::Pipeline::modulation) has them.
    ///
    /// # Errors
    /// If the tensors have another shape, or a number is not finite.
    pub fn pretrained(trajectories: &Trajectories, scale: &Tensor, shift: &Tensor) -> Result<Self> {
        let t: Vec<f64> = trajectories.about().iter().map(Description::t).collect();
        let values = |what: &str, tensor: &Tensor| -> Result<Vec<f32>> {
            let expected = [t.len(), trajectories.d()];
            if tensor.dims() != expected {
                let what = format!("modulation for {trajectories}: {what}");
                return Err(Error::Shape { what, found: tensor.dims().to_vec(), expected: expected.to_vec() });
            }
            Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
        };
        let (scale, shift) = (values("scale", scale)?, values("shift", shift)?);
        Self::new(t, trajectories.d(), scale, shift)
    }

    /// Scale and shift at progress `t`: between two steps on the line, beyond the ends those of the nearest.
    #[must_use]
    pub fn at(&self, t: f64) -> (Vec<f32>, Vec<f32>) {
        let (before, after, share) = around(&self.t, t);
        let row = |values: &[f32]| {
            let (a, b) = (&values[before * self.d..][..self.d], &values[after * self.d..][..self.d]);
            a.iter().zip(b).map(|(a, b)| a + share as f32 * (b - a)).collect()
        };
        (row(&self.scale), row(&self.shift))
    }
}

/// 1 + a, kept away from zero.
pub(super) fn factor(scale: f32) -> f32 {
    let f = 1.0 + scale;
    if f.abs() < LEAST { LEAST.copysign(f) } else { f }
}
