//! Adding one vector to every position of an item.

use super::{op, tape};
use crate::error::Result;
use crate::kernels::{chunks, pointwise};
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

/// `x[batch, h, w, c] + v[batch, c]`, as a residual block takes in the time.
///
/// # Errors
/// Of the tensor library.
pub fn shift(x: &Tensor, v: &Tensor) -> Result<Tensor> {
    if op::fused(x) {
        return tape::apply2(&x.contiguous()?, &v.contiguous()?, Shift);
    }
    composed(x, v)
}

fn composed(x: &Tensor, v: &Tensor) -> Result<Tensor> {
    Ok(x.broadcast_add(&v.unsqueeze(1)?.unsqueeze(1)?)?)
}

struct Shift;

impl CustomOp2 for Shift {
    fn name(&self) -> &'static str {
        "shift"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, h, w, c) = lx.shape().dims4()?;
        if lv.dims() != [batch, c] {
            candle_core::bail!("shift: found a vector of shape {:?}, expected {:?}", lv.dims(), [batch, c]);
        }
        let (x, v) = (op::slice(x, lx)?, op::slice(v, lv)?);
        let mut y = vec![0f32; x.len()];
        chunks(&mut y, h * w * c, |i, y| {
            let v = &v[i * c..][..c];
            for (y, x) in y.chunks_exact_mut(c).zip(x[i * h * w * c..].chunks_exact(c)) {
                pointwise::sum_of(y, x, v);
            }
        });
        op::output(y, lx.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        v: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (_, h, w, c) = x.dims4()?;
        let dv = op::read(dy, |dy| {
            let mut dv = vec![0f32; v.elem_count()];
            chunks(&mut dv, c, |i, dv| {
                for row in dy[i * h * w * c..][..h * w * c].chunks_exact(c) {
                    pointwise::add(dv, row);
                }
            });
            op::like(dv, v)
        })?;
        Ok((Some(dy.clone()), Some(dv)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::against_composed;
    use super::*;

    #[test]
    fn fused_shift_agrees_with_composed() {
        against_composed(&[&[2, 3, 5, 7], &[2, 7]], |x| shift(&x[0], &x[1]), |x| composed(&x[0], &x[1]));
    }
}
