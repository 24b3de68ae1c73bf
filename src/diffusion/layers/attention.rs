//! Scaled dot-product attention.

use super::{op, tape};
use crate::error::Result;
use crate::kernels::attention::{self as kernel, Shape};
use crate::kernels::precision;
use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Tensor};

/// softmax(Q Kᵀ · scale) V for every head.
///
/// `q[batch, n, heads·width]`, `k` and `v` `[batch, m, heads·width]` → `[batch, n, heads·width]`. `causal` lets
/// token i see tokens ≤ i only (n = m). `scale` is usually 1/√width.
///
/// # Errors
/// Of the tensor library.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, scale: f64, causal: bool) -> Result<Tensor> {
    if op::fused(q) {
        let attend = Attend { heads, scale: scale as f32, causal };
        return tape::apply3(&q.contiguous()?, &k.contiguous()?, &v.contiguous()?, attend);
    }
    composed(q, k, v, heads, scale, causal)
}

fn composed(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, scale: f64, causal: bool) -> Result<Tensor> {
    let (batch, n, channels) = q.dims3()?;
    let m = k.dim(1)?;
    let split = |x: &Tensor, len: usize| -> Result<Tensor> {
        Ok(x.reshape((batch, len, heads, channels / heads))?.transpose(1, 2)?.contiguous()?)
    };
    let (q, k, v) = (split(q, n)?, split(k, m)?, split(v, m)?);
    let mut scores = (q.matmul(&k.t()?)? * scale)?;
    if causal {
        let mask: Vec<f32> = (0..n * m).map(|i| if i % m > i / m { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (n, m), q.device())?.to_dtype(scores.dtype())?;
        scores = scores.broadcast_add(&mask)?;
    }
    let dtype = scores.dtype();
    let weights = candle_nn::ops::softmax(&scores.to_dtype(DType::F32)?, D::Minus1)?.to_dtype(dtype)?;
    Ok(weights.matmul(&v)?.transpose(1, 2)?.reshape((batch, n, channels))?)
}

struct Attend {
    heads: usize,
    scale: f32,
    causal: bool,
}

impl Attend {
    fn shape(
        &self,
        q: &candle_core::Shape,
        k: &candle_core::Shape,
        v: &candle_core::Shape,
    ) -> candle_core::Result<Shape> {
        let (batch, n, channels) = q.dims3()?;
        let (key_batch, m, key_channels) = k.dims3()?;
        let fits = key_batch == batch && key_channels == channels && k == v && channels % self.heads == 0;
        if !fits || (self.causal && n != m) {
            candle_core::bail!("attention with {} heads does not fit q {q:?}, k {k:?}, v {v:?}", self.heads);
        }
        let width = channels / self.heads;
        Ok(Shape { n, m, heads: self.heads, width, scale: self.scale, causal: self.causal })
    }
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> candle_core::Result<(CpuStorage, candle_core::Shape)> {
        let s = self.shape(lq.shape(), lk.shape(), lv.shape())?;
        let (q, k, v) = (op::slice(q, lq)?, op::slice(k, lk)?, op::slice(v, lv)?);
        let mut out = vec![0f32; q.len()];
        kernel::attention(q, k, v, s, precision(), &mut out);
        op::output(out, lq.shape())
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _out: &Tensor,
        dout: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let s = self.shape(q.shape(), k.shape(), v.shape())?;
        op::read(q, |qs| {
            op::read(k, |ks| {
                op::read(v, |vs| {
                    op::read(dout, |dout| {
                        let (mut dq, mut dk, mut dv) =
                            (vec![0f32; qs.len()], vec![0f32; ks.len()], vec![0f32; vs.len()]);
                        kernel::attention_back(qs, ks, vs, dout, s, precision(), &mut dq, &mut dk, &mut dv);
                        Ok((Some(op::like(dq, q)?), Some(op::like(dk, k)?), Some(op::like(dv, v)?)))
                    })
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::against_composed;
    use super::*;

    #[test]
    fn fused_attention_agrees_with_composed() {
        // 300 queries make two blocks; 70 × 36 × 300 is enough work for tiles.
        for (n, m, causal) in [(300, 70, false), (33, 33, true), (5, 9, false)] {
            against_composed(
                &[&[2, n, 36], &[2, m, 36], &[2, m, 36]],
                |x| attention(&x[0], &x[1], &x[2], 3, 0.3, causal),
                |x| composed(&x[0], &x[1], &x[2], 3, 0.3, causal),
            );
        }
    }
}
