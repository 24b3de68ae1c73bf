//! Pointwise nonlinearities.

use super::{op, tape};
use crate::error::Result;
use crate::kernels::pointwise;
use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Tensor};

/// x · σ(x).
///
/// # Errors
/// Of the tensor library.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if op::fused(x) {
        return tape::apply1(&x.contiguous()?, Swish(1.0));
    }
    Ok(x.silu()?)
}

/// x · σ(1.702 x), the activation of OpenAI's CLIP.
///
/// # Errors
/// Of the tensor library.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if op::fused(x) {
        return tape::apply1(&x.contiguous()?, Swish(1.702));
    }
    Ok((x * candle_nn::ops::sigmoid(&(x * 1.702)?)?)?)
}

/// x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³))): the tanh approximation of GELU (Hendrycks and Gimpel 2016), as PixArt and
/// T5 have it.
///
/// # Errors
/// Of the tensor library.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if op::fused(x) {
        return tape::apply1(&x.contiguous()?, GeluTanh);
    }
    Ok(x.gelu()?)
}

/// `[…, 2n] → […, n]`: the first half times the exact (erf) GELU of the second, as diffusers' `GEGLU` has it.
///
/// # Errors
/// Of the tensor library.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    if op::fused(x) {
        return tape::apply1(&x.contiguous()?, Geglu);
    }
    let n = x.dim(D::Minus1)? / 2;
    let hidden = x.narrow(D::Minus1, 0, n)?;
    let gate = x.narrow(D::Minus1, n, n)?.contiguous()?.gelu_erf()?;
    Ok((hidden * gate)?)
}

struct Swish(f32);

impl CustomOp1 for Swish {
    fn name(&self) -> &'static str {
        "swish"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = op::slice(storage, layout)?;
        let mut y = vec![0f32; x.len()];
        pointwise::swish(x, self.0, &mut y);
        op::output(y, layout.shape())
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        op::read(x, |values| {
            op::read(dy, |dy| {
                let mut dx = vec![0f32; values.len()];
                pointwise::swish_back(values, dy, self.0, &mut dx);
                op::like(dx, x).map(Some)
            })
        })
    }
}

struct GeluTanh;

impl CustomOp1 for GeluTanh {
    fn name(&self) -> &'static str {
        "gelu-tanh"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = op::slice(storage, layout)?;
        let mut y = vec![0f32; x.len()];
        crate::kernels::chunks(&mut y, NUMBERS, |i, y| pointwise::gelu_tanh(&x[i * NUMBERS..][..y.len()], y));
        op::output(y, layout.shape())
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        op::read(x, |values| {
            op::read(dy, |dy| {
                let mut dx = vec![0f32; values.len()];
                crate::kernels::chunks(&mut dx, NUMBERS, |i, dx| {
                    let part = i * NUMBERS..i * NUMBERS + dx.len();
                    pointwise::gelu_tanh_back(&values[part.clone()], &dy[part], dx);
                });
                op::like(dx, x).map(Some)
            })
        })
    }
}

struct Geglu;

impl CustomOp1 for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = op::slice(storage, layout)?;
        let mut shape = layout.dims().to_vec();
        let n = shape.last().copied().unwrap_or(0) / 2;
        let mut y = vec![0f32; x.len() / 2];
        crate::kernels::chunks(&mut y, ROWS * n, |i, y| {
            pointwise::geglu(&x[2 * i * ROWS * n..][..2 * y.len()], n, y);
        });
        if let Some(last) = shape.last_mut() {
            *last = n;
        }
        op::output(y, shape)
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let n = x.dim(D::Minus1)? / 2;
        op::read(x, |values| {
            op::read(dy, |dy| {
                let mut dx = vec![0f32; values.len()];
                crate::kernels::chunks(&mut dx, 2 * ROWS * n, |i, dx| {
                    let dy = &dy[i * ROWS * n..][..dx.len() / 2];
                    pointwise::geglu_back(&values[2 * i * ROWS * n..][..dx.len()], dy, n, dx);
                });
                op::like(dx, x).map(Some)
            })
        })
    }
}

/// Rows that one task takes.
const ROWS: usize = 256;

/// Numbers that one task takes.
const NUMBERS: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::super::gradient_check::against_composed;
    use super::*;

    #[test]
    fn fused_activations_agree_with_composed_ones() {
        against_composed(&[&[3, 5, 34]], |x| silu(&x[0]), |x| Ok(x[0].silu()?));
        let composed = |x: &[Tensor]| -> Result<Tensor> { Ok((&x[0] * candle_nn::ops::sigmoid(&(&x[0] * 1.702)?)?)?) };
        against_composed(&[&[3, 5, 34]], |x| quick_gelu(&x[0]), composed);
        let composed = |x: &[Tensor]| -> Result<Tensor> {
            let gate = x[0].narrow(D::Minus1, 17, 17)?.contiguous()?.gelu_erf()?;
            Ok((x[0].narrow(D::Minus1, 0, 17)? * gate)?)
        };
        against_composed(&[&[3, 5, 34]], |x| geglu(&x[0]), composed);
        // Two tasks; the library's own operation is made of the same formula.
        against_composed(&[&[3, 700, 34]], |x| gelu_tanh(&x[0]), |x| Ok(x[0].gelu()?));
    }
}
