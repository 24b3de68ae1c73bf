//! Two-dimensional convolution, channels-last.

use super::linear::row_sum;
use super::{op, tape};
use crate::diffusion::weights::{Init, Weights};
use crate::error::Result;
use crate::kernels::convolution::{self, Shape};
use crate::kernels::{Matrix, precision};
use candle_core::{CpuStorage, CustomOp3, Layout, Tensor};

/// Rows and columns of zeros around a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// This many on every side.
    Same(usize),
    /// One below and one to the right, as the VAE's downsampling convolution has it.
    BottomRight,
}

impl Padding {
    /// Zeros before the first and after the last row or column.
    #[must_use]
    pub fn ends(self) -> (usize, usize) {
        match self {
            Padding::Same(n) => (n, n),
            Padding::BottomRight => (0, 1),
        }
    }
}

/// A convolution with a square kernel: `weight[out, in, k, k]`, `bias[out]` in files.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    k: usize,
    stride: usize,
    padding: Padding,
}

impl Conv2d {
    /// Reads `weight` and `bias` at `weights`.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(
        weights: &Weights,
        inputs: usize,
        outputs: usize,
        k: usize,
        stride: usize,
        padding: Padding,
    ) -> Result<Self> {
        let init = Init::FanIn(k * k * inputs);
        let weight = weights.convolution("weight", outputs, inputs, k, init)?;
        let bias = weights.get("bias", &[outputs], init)?;
        Ok(Self { weight, bias, k, stride, padding })
    }

    /// `[batch, h, w, in] → [batch, h′, w′, out]`, h′ = (h + padding − k)/stride + 1.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if op::fused(x) {
            let convolve = Convolve { k: self.k, stride: self.stride, padding: self.padding };
            return tape::apply3(&x.contiguous()?, &op::widened(&self.weight)?, &self.bias, convolve);
        }
        self.composed(x)
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let (before, after) = self.padding.ends();
        let k = self.k;
        let (_, _, _, inputs) = x.dims4()?;
        let outputs = self.weight.dim(1)?;
        let w = op::widened(&self.weight)?.reshape((k, k, inputs, outputs))?.permute((3, 2, 0, 1))?.contiguous()?;
        let x = x.permute((0, 3, 1, 2))?.contiguous()?;
        let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
        let y = x.conv2d(&w, 0, self.stride, 1, 1)?;
        Ok(y.permute((0, 2, 3, 1))?.broadcast_add(&self.bias)?)
    }
}

struct Convolve {
    k: usize,
    stride: usize,
    padding: Padding,
}

impl Convolve {
    fn shape(&self, x: &candle_core::Shape, weight: &candle_core::Shape) -> candle_core::Result<Shape> {
        let (batch, h, w, inputs) = x.dims4()?;
        let (depth, outputs) = weight.dims2()?;
        if depth != self.k * self.k * inputs {
            let expected = depth / (self.k * self.k);
            candle_core::bail!("a convolution of {expected} input channels was given a tensor of shape {x:?}");
        }
        let (before, after) = self.padding.ends();
        if h + before + after < self.k || w + before + after < self.k {
            candle_core::bail!("a {0}×{0} convolution was given a picture of {h}×{w}", self.k);
        }
        let padding = [before, after, before, after];
        Ok(Shape { batch, input: (h, w), inputs, outputs, k: self.k, stride: self.stride, padding })
    }
}

impl CustomOp3 for Convolve {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, candle_core::Shape)> {
        let s = self.shape(lx.shape(), lw.shape())?;
        let (ho, wo) = s.output();
        let mut y = vec![0f32; s.batch * ho * wo * s.outputs];
        let weight = Matrix::rows(op::slice(w, lw)?, s.outputs);
        convolution::convolution(op::slice(x, lx)?, weight, Some(op::slice(b, lb)?), s, precision(), &mut y);
        op::output(y, (s.batch, ho, wo, s.outputs))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let s = self.shape(x.shape(), w.shape())?;
        op::read(dy, |dy_values| {
            let dx = if tape::wants_gradient(x) {
                let mut dx = vec![0f32; x.elem_count()];
                op::read(w, |w| {
                    convolution::input_gradient(dy_values, w, s, precision(), &mut dx);
                    Ok(())
                })?;
                Some(op::like(dx, x)?)
            } else {
                None
            };
            let dw = if tape::wants_gradient(w) {
                let dw = op::read(x, |x| Ok(convolution::weight_gradient(x, dy_values, s, precision())))?;
                Some(op::like(dw, w)?)
            } else {
                None
            };
            let db = if tape::wants_gradient(b) { Some(row_sum(dy, s.outputs)?) } else { None };
            Ok((dx, dw, db))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::against_composed;
    use super::*;

    #[test]
    fn fused_convolution_agrees_with_composed() {
        for (k, stride, padding) in [(3, 1, Padding::Same(1)), (3, 2, Padding::Same(1)), (1, 1, Padding::Same(0))] {
            let layer = |x: &[Tensor]| Conv2d { weight: x[1].clone(), bias: x[2].clone(), k, stride, padding };
            against_composed(
                &[&[2, 6, 10, 5], &[k * k * 5, 7], &[7]],
                |x| layer(x).forward(&x[0]),
                |x| layer(x).composed(&x[0]),
            );
        }
    }
}
