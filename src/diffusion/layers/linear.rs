//! y = x Wᵀ + b.

use super::{op, tape};
use crate::diffusion::weights::{Init, Weights};
use crate::error::Result;
use crate::kernels::{Matrix, pointwise, precision, product, product_and_bias};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Layout, Shape, Tensor};

/// A linear layer: `weight[out, in]`, `bias[out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Reads `weight` and, if `bias`, `bias` at `weights`.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(weights: &Weights, inputs: usize, outputs: usize, bias: bool) -> Result<Self> {
        let weight = weights.matrix("weight", outputs, inputs, Init::FanIn(inputs))?;
        let bias = bias.then(|| weights.get("bias", &[outputs], Init::FanIn(inputs))).transpose()?;
        Ok(Self { weight, bias })
    }

    /// A layer of given weights.
    #[must_use]
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// `[…, in] → […, out]`.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = op::widened(&self.weight)?;
        if op::fused(x) {
            let x = x.contiguous()?;
            return Ok(match &self.bias {
                Some(bias) => tape::apply3(&x, &weight, bias, Product)?,
                None => tape::apply2(&x, &weight, Product)?,
            });
        }
        composed(x, &weight, self.bias.as_ref())
    }
}

fn composed(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let y = x.reshape(((), x.dim(D::Minus1)?))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(b) => y.broadcast_add(b)?,
        None => y,
    };
    *shape.last_mut().expect("a tensor of rank ≥ 1") = y.dim(1)?;
    Ok(y.reshape(shape)?)
}

struct Product;

fn forward(
    (x, lx): (&CpuStorage, &Layout),
    (w, lw): (&CpuStorage, &Layout),
    bias: Option<&[f32]>,
) -> candle_core::Result<(CpuStorage, Shape)> {
    let (outputs, inputs) = lw.shape().dims2()?;
    let mut shape = lx.dims().to_vec();
    if shape.last() != Some(&inputs) {
        candle_core::bail!("a linear layer of {inputs} inputs was given a tensor of shape {shape:?}");
    }
    let x = op::slice(x, lx)?;
    let w = op::slice(w, lw)?;
    let rows = x.len() / inputs;
    let mut y = vec![0f32; rows * outputs];
    let (a, b) = (Matrix::rows(x, inputs), Matrix::rows(w, inputs).t());
    match bias {
        Some(bias) => product_and_bias(&mut y, a, b, (rows, inputs, outputs), bias, precision()),
        None => product(&mut y, outputs, a, b, (rows, inputs, outputs), false, precision()),
    }
    *shape.last_mut().expect("checked above") = outputs;
    op::output(y, shape)
}

fn backward(x: &Tensor, w: &Tensor, dy: &Tensor) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
    let (outputs, inputs) = w.dims2()?;
    let rows = x.elem_count() / inputs;
    op::read(dy, |dy| {
        let dx = if tape::wants_gradient(x) {
            let mut dx = vec![0f32; rows * inputs];
            op::read(w, |w| {
                let (a, b) = (Matrix::rows(dy, outputs), Matrix::rows(w, inputs));
                product(&mut dx, inputs, a, b, (rows, outputs, inputs), false, precision());
                Ok(())
            })?;
            Some(op::like(dx, x)?)
        } else {
            None
        };
        let dw = if tape::wants_gradient(w) {
            let mut dw = vec![0f32; outputs * inputs];
            op::read(x, |x| {
                let (a, b) = (Matrix::rows(dy, outputs).t(), Matrix::rows(x, inputs));
                product(&mut dw, inputs, a, b, (outputs, rows, inputs), false, precision());
                Ok(())
            })?;
            Some(op::like(dw, w)?)
        } else {
            None
        };
        Ok((dx, dw))
    })
}

/// The sum of all rows.
pub(super) fn row_sum(dy: &Tensor, width: usize) -> candle_core::Result<Tensor> {
    op::read(dy, |dy| {
        let mut sums = vec![0f32; width];
        dy.chunks_exact(width).for_each(|row| pointwise::add(&mut sums, row));
        Tensor::from_vec(sums, width, &candle_core::Device::Cpu)
    })
}

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        forward((x, lx), (w, lw), None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        backward(x, w, dy)
    }
}

impl CustomOp3 for Product {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        forward((x, lx), (w, lw), Some(op::slice(b, lb)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = backward(x, w, dy)?;
        let db = if tape::wants_gradient(b) { Some(row_sum(dy, b.elem_count())?) } else { None };
        Ok((dx, dw, db))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::against_composed;
    use super::*;

    #[test]
    fn fused_linear_agrees_with_composed() {
        let fused = |x: &[Tensor]| Linear::new(x[1].clone(), x.get(2).cloned()).forward(&x[0]);
        let plain = |x: &[Tensor]| composed(&x[0], &x[1], x.get(2));
        against_composed(&[&[2, 70, 33], &[50, 33], &[50]], fused, plain);
        against_composed(&[&[2, 70, 33], &[50, 33]], fused, plain);
    }

    #[test]
    fn a_wrong_width_is_refused() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let error = Linear::new(zeros(&[4, 3]), None).forward(&zeros(&[2, 5])).unwrap_err();
        assert!(error.to_string().contains("3 inputs"), "{error}");
    }
}
