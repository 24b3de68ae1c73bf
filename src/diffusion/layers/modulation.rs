//! Scale, shift and gate of every channel by one vector an item, as adaptive layer norms have them.

use super::{op, tape};
use crate::error::Result;
use crate::kernels::{chunks, pointwise};
use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

/// x·(1 + scale) + shift: `x[batch, …, c]`, `scale` and `shift` `[batch, c]`.
///
/// # Errors
/// Of the tensor library.
pub fn modulate(x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
    if op::fused(x) {
        return tape::apply3(&x.contiguous()?, &scale.contiguous()?, &shift.contiguous()?, Modulate);
    }
    let factor = across(&(scale + 1.0)?, x)?;
    Ok(x.broadcast_mul(&factor)?.broadcast_add(&across(shift, x)?)?)
}

/// base + x·gate: `base` and `x` `[batch, …, c]`, `gate[batch, c]`.
///
/// # Errors
/// Of the tensor library.
pub fn gated(base: &Tensor, x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    if op::fused(x) {
        return tape::apply3(&base.contiguous()?, &x.contiguous()?, &gate.contiguous()?, Gated);
    }
    Ok((base + x.broadcast_mul(&across(gate, x)?)?)?)
}

/// `[batch, c]` with a dimension of one for every one that `x` has between.
fn across(v: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (batch, c) = v.dims2()?;
    let mut shape = vec![1; x.rank()];
    (shape[0], shape[x.rank() - 1]) = (batch, c);
    Ok(v.reshape(shape)?)
}

/// The most rows that one task takes.
const ROWS: usize = 256;

/// Checks that `vectors` have one row for each item of `x`; the numbers of a task, and how many tasks an item makes.
fn tasks(name: &str, x: &Layout, vectors: &[&Layout]) -> candle_core::Result<(usize, usize)> {
    let dims = x.dims();
    let (batch, c) = (dims[0], dims[dims.len() - 1]);
    if let Some(v) = vectors.iter().find(|v| v.dims() != [batch, c]) {
        candle_core::bail!("{name}: found a vector of shape {:?}, expected {:?}", v.dims(), [batch, c]);
    }
    // Tasks are equal, and none spans two items.
    let rows = x.shape().elem_count() / (batch * c).max(1);
    let most = (1..=ROWS).rev().find(|n| rows.is_multiple_of(*n)).unwrap_or(1);
    Ok((most * c, rows / most))
}

struct Modulate;

struct Gated;

type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// dx and Σ dy·x of every item, for y = x·(factor + one).
fn scaled_back(x: &Tensor, factor: &Tensor, dy: &[f32], plus_one: bool) -> candle_core::Result<(Tensor, Tensor)> {
    let (batch, c) = factor.dims2()?;
    let item = x.elem_count() / batch.max(1);
    op::read(x, |xs| {
        op::read(factor, |factors| {
            let (mut dx, mut sums) = (vec![0f32; xs.len()], vec![0f32; batch * c]);
            let mut items: Vec<_> = dx.chunks_mut(item).zip(sums.chunks_mut(c)).collect();
            chunks(&mut items, 1, |i, part| {
                let (dx, sum) = &mut part[0];
                let numbers = i * item..(i + 1) * item;
                let factor = &factors[i * c..][..c];
                pointwise::scaled_back(&xs[numbers.clone()], &dy[numbers], factor, plus_one, dx, sum);
            });
            Ok((op::like(dx, x)?, op::like(sums, factor)?))
        })
    })
}

impl CustomOp3 for Modulate {
    fn name(&self) -> &'static str {
        "modulate"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        scale: &CpuStorage,
        ls: &Layout,
        shift: &CpuStorage,
        lt: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (n, per_item) = tasks("modulate", lx, &[ls, lt])?;
        let c = ls.dims()[1];
        let (x, scale, shift) = (op::slice(x, lx)?, op::slice(scale, ls)?, op::slice(shift, lt)?);
        let mut y = vec![0f32; x.len()];
        chunks(&mut y, n, |i, y| {
            let v = i / per_item * c..(i / per_item + 1) * c;
            pointwise::modulate(&x[i * n..][..n], &scale[v.clone()], &shift[v], y);
        });
        op::output(y, lx.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        scale: &Tensor,
        shift: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<Gradients> {
        op::read(dy, |dy| {
            let (dx, dscale) = scaled_back(x, scale, dy, true)?;
            let (batch, c) = shift.dims2()?;
            let item = dy.len() / batch.max(1);
            let mut dshift = vec![0f32; batch * c];
            chunks(&mut dshift, c, |i, sum| {
                dy[i * item..][..item].chunks_exact(c).for_each(|row| pointwise::add(sum, row));
            });
            Ok((Some(dx), Some(dscale), Some(op::like(dshift, shift)?)))
        })
    }
}

impl CustomOp3 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(
        &self,
        base: &CpuStorage,
        lb: &Layout,
        x: &CpuStorage,
        lx: &Layout,
        gate: &CpuStorage,
        lg: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (n, per_item) = tasks("gated", lx, &[lg])?;
        let c = lg.dims()[1];
        if lb.dims() != lx.dims() {
            candle_core::bail!("gated: found {:?} to be added to {:?}", lx.dims(), lb.dims());
        }
        let (base, x, gate) = (op::slice(base, lb)?, op::slice(x, lx)?, op::slice(gate, lg)?);
        let mut y = vec![0f32; x.len()];
        chunks(&mut y, n, |i, y| {
            pointwise::gated(&base[i * n..][..n], &x[i * n..][..n], &gate[i / per_item * c..][..c], y);
        });
        op::output(y, lx.shape())
    }

    fn bwd(
        &self,
        _base: &Tensor,
        x: &Tensor,
        gate: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<Gradients> {
        let (dx, dgate) = op::read(dy, |dy| scaled_back(x, gate, dy, false))?;
        Ok((Some(dy.clone()), Some(dx), Some(dgate)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::against_composed;
    use super::*;

    #[test]
    fn fused_modulation_agrees_with_composed() {
        against_composed(
            &[&[2, 3, 5, 7], &[2, 7], &[2, 7]],
            |x| modulate(&x[0], &x[1], &x[2]),
            |x| {
                let factor = across(&(&x[1] + 1.0)?, &x[0])?;
                Ok(x[0].broadcast_mul(&factor)?.broadcast_add(&across(&x[2], &x[0])?)?)
            },
        );
        against_composed(
            &[&[2, 15, 7], &[2, 15, 7], &[2, 7]],
            |x| gated(&x[0], &x[1], &x[2]),
            |x| Ok((&x[0] + x[1].broadcast_mul(&across(&x[2], &x[1])?)?)?),
        );
    }

    #[test]
    fn vectors_that_do_not_fit_are_refused() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let (x, v) = (zeros(&[2, 3, 7]), zeros(&[2, 7]));
        let error = modulate(&x, &v, &zeros(&[1, 7])).unwrap_err().to_string();
        assert!(error.contains("[1, 7]") && error.contains("[2, 7]"), "{error}");
        assert!(gated(&zeros(&[2, 4, 7]), &x, &v).is_err());
    }
}
