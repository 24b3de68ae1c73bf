//! AdamW over contiguous slices, with the weights' running average beside it.
//!
//! Loshchilov & Hutter 2019 (decoupled decay): with gradient g, m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g²,
//! w ← w − η(m̂/(√v̂ + ε) + λw), m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ). Everything about one number is read and written
//! once a step; a composed optimiser passes over memory some ten times.

use crate::error::{Error, Result};
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Storage, Tensor, Var};
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::Mutex;

/// Decay of the first moment.
const BETA1: f32 = 0.9;
/// Decay of the second moment; 0.99 forgets the large early gradients sooner than 0.999, which short runs need.
const BETA2: f32 = 0.99;
/// Added to the root of the second moment.
const EPSILON: f32 = 1e-8;

/// One trainable tensor with its optimiser state, all on the host.
#[derive(Debug)]
pub struct Parameter {
    /// Full name of the weight.
    pub name: String,
    /// The variable that the network reads.
    pub var: Var,
    /// Weight decay applies: only to tensors of two or more dimensions, so neither to biases nor to norms.
    pub decays: bool,
    /// The weight itself.
    pub value: Vec<f32>,
    /// Running mean of the gradient.
    pub first: Vec<f32>,
    /// Running mean of the squared gradient.
    pub second: Vec<f32>,
    /// Running average of the weight.
    pub average: Vec<f32>,
    gradient: Vec<f32>,
}

impl Parameter {
    /// State of zeros for one variable.
    ///
    /// # Errors
    /// A variable that is not f32.
    pub fn new(name: String, var: Var) -> Result<Self> {
        let value = var.as_detached_tensor().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let n = value.len();
        let decays = var.rank() >= 2;
        let average = value.clone();
        let zeros = vec![0.0; n];
        Ok(Self { name, var, decays, value, first: zeros.clone(), second: zeros.clone(), average, gradient: zeros })
    }

    /// Copies `value` into the variable, in place where the device allows.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn publish(&self) -> Result<()> {
        write(&self.var, &self.value)
    }
}

/// Overwrites a variable's numbers.
///
/// # Errors
/// Of the tensor library.
pub fn write(var: &Var, values: &[f32]) -> Result<()> {
    if var.device().is_cpu() {
        var.inplace_op1(&Overwrite(values))?;
    } else {
        var.set(&Tensor::from_slice(values, var.shape(), &Device::Cpu)?.to_device(var.device())?)?;
    }
    Ok(())
}

/// Copies host numbers over a tensor's own storage.
struct Overwrite<'a>(&'a [f32]);

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (Some((start, end)), CpuStorage::F32(numbers)) = (layout.contiguous_offsets(), storage) else {
            candle_core::bail!("only contiguous f32 variables can be overwritten, found {layout:?}");
        };
        numbers[start..end].copy_from_slice(self.0);
        Ok(())
    }
}

/// Adds `scale` times a contiguous host tensor to `sum`.
fn add(sum: &mut [f32], tensor: &Tensor, scale: f32) -> Result<()> {
    let tensor = tensor.to_device(&Device::Cpu)?;
    let (storage, layout) = tensor.storage_and_layout();
    let (Some((start, end)), Storage::Cpu(CpuStorage::F32(numbers))) = (layout.contiguous_offsets(), &*storage) else {
        return Err(Error::invalid(format!("a gradient that is not contiguous f32: {layout:?}")));
    };
    for (s, g) in sum.iter_mut().zip(&numbers[start..end]) {
        *s += scale * g;
    }
    Ok(())
}

/// What one step is made with.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Number of the step, from 0.
    pub step: usize,
    /// Learning rate η.
    pub rate: f64,
    /// Weight decay λ.
    pub decay: f64,
    /// Largest norm of the whole gradient.
    pub clip: f64,
    /// Decay of the average of weights, after its warm-up.
    pub average: f64,
}

/// One step from the gradients of several micro-batches, `gradients[micro][parameter]`; they are averaged in the
/// order of the micro-batches. Returns the norm of the gradient before clipping.
///
/// # Errors
/// A gradient that is not finite; gradients of another type or shape.
pub fn step(parameters: &mut [Parameter], gradients: &[Vec<Tensor>], with: &Step) -> Result<f64> {
    let scale = 1.0 / gradients.len() as f32;
    let squares: Vec<f64> = parameters
        .par_iter_mut()
        .enumerate()
        .map(|(p, parameter)| {
            parameter.gradient.fill(0.0);
            for micro in gradients {
                add(&mut parameter.gradient, &micro[p], scale)?;
            }
            // Blocks in f32, their sum in f64: as fast as f32 alone, and no drift over millions of numbers.
            Ok(parameter.gradient.chunks(256).map(|c| f64::from(c.iter().map(|g| g * g).sum::<f32>())).sum())
        })
        .collect::<Result<_>>()?;
    let norm = squares.iter().sum::<f64>().sqrt();
    if !norm.is_finite() {
        return Err(Error::invalid(format!("step {}: the gradient's norm is {norm}", with.step)));
    }
    let shrink = (with.clip / norm.max(1e-12)).min(1.0) as f32;
    let t = with.step as i32 + 1;
    let correct1 = 1.0 / (1.0 - BETA1.powi(t));
    let correct2 = 1.0 / (1.0 - BETA2.powi(t));
    let rate = with.rate as f32;
    // The average starts as the weights themselves and lengthens its memory with the steps taken.
    let keep = with.average.min((1.0 + f64::from(t)) / (10.0 + f64::from(t))) as f32;
    parameters.par_iter_mut().try_for_each(|p| {
        let decay = if p.decays { with.decay as f32 } else { 0.0 };
        let state = p.value.iter_mut().zip(&mut p.first).zip(&mut p.second).zip(&mut p.average).zip(&p.gradient);
        for ((((w, m), v), a), g) in state {
            let g = g * shrink;
            *m = BETA1 * *m + (1.0 - BETA1) * g;
            *v = BETA2 * *v + (1.0 - BETA2) * g * g;
            let direction = *m * correct1 / ((*v * correct2).sqrt() + EPSILON);
            *w -= rate * (direction + decay * *w);
            *a = keep * *a + (1.0 - keep) * *w;
        }
        p.publish()
    })?;
    Ok(norm)
}

/// The gradient of every variable from those of one backward pass, contiguous; a variable that the loss does not reach is
/// refused by name, since an optimiser that leaves weights at their start hides a mistake.
///
/// # Errors
/// A variable without gradient.
pub fn collect(
    parameters: &[(String, Var)],
    mut gradients: HashMap<candle_core::TensorId, Tensor>,
) -> Result<Vec<Tensor>> {
    parameters
        .iter()
        .map(|(name, var)| {
            let gradient = gradients
                .remove(&var.id())
                .ok_or_else(|| Error::invalid(format!("the loss does not depend on the weight {name}")))?;
            Ok(gradient.contiguous()?)
        })
        .collect()
}

/// Slots that workers fill in any order and that are read in order.
#[derive(Debug)]
pub(crate) struct Slots<T>(Mutex<Vec<Option<T>>>);

impl<T> Slots<T> {
    pub(crate) fn new(n: usize) -> Self {
        Self(Mutex::new((0..n).map(|_| None).collect()))
    }

    pub(crate) fn fill(&self, i: usize, value: T) {
        self.0.lock().expect("slots lock")[i] = Some(value);
    }

    /// All values, if every slot was filled.
    pub(crate) fn take(self) -> Option<Vec<T>> {
        self.0.into_inner().expect("slots lock").into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: f32) -> Parameter {
        Parameter::new("w".into(), Var::from_vec(vec![value; 4], (2, 2), &Device::Cpu).unwrap()).unwrap()
    }

    #[test]
    fn first_step_moves_by_the_rate_and_decays() {
        let mut p = [one(1.0)];
        let g = vec![vec![Tensor::from_vec(vec![0.5f32, -0.5, 0.5, -0.5], (2, 2), &Device::Cpu).unwrap()]];
        let with = Step { step: 0, rate: 0.1, decay: 0.01, clip: 100.0, average: 0.9 };
        let norm = step(&mut p, &g, &with).unwrap();
        assert!((norm - 1.0).abs() < 1e-6);
        // After one step m̂/√v̂ is the gradient's sign.
        let moved = p[0].var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (w, sign) in moved.iter().zip([1.0, -1.0, 1.0, -1.0]) {
            assert!((w - (1.0 - 0.1 * (sign + 0.01))).abs() < 1e-5, "{w}");
        }
    }

    #[test]
    fn clipping_bounds_the_norm_that_adam_sees() {
        let mut p = [one(0.0)];
        let g = vec![vec![Tensor::full(50.0f32, (2, 2), &Device::Cpu).unwrap()]; 2];
        let with = Step { step: 0, rate: 0.1, decay: 0.0, clip: 1.0, average: 0.9 };
        assert!((step(&mut p, &g, &with).unwrap() - 100.0).abs() < 1e-3);
        assert!((p[0].first[0] - 0.1 * 0.5).abs() < 1e-6, "{}", p[0].first[0]);
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_refused() {
        let mut p = [one(0.0)];
        let g = vec![vec![Tensor::full(f32::NAN, (2, 2), &Device::Cpu).unwrap()]];
        let with = Step { step: 3, rate: 0.1, decay: 0.0, clip: 1.0, average: 0.9 };
        assert!(step(&mut p, &g, &with).unwrap_err().to_string().contains("step 3"));
    }
}
