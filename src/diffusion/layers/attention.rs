//! Scaled dot-product attention.

use super::{op, tape};
use crate::error::{Error, Result};
use crate::kernels::attention::{self as kernel, Bias, Shape};
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
        let attend = Attend { heads, scale: scale as f32, causal, bias: None };
        return tape::apply3(&q.contiguous()?, &k.contiguous()?, &v.contiguous()?, attend);
    }
    composed(q, k, v, None, heads, scale, causal)
}

/// softmax(Q Kᵀ · scale + bias) V for every head, as [`attention`] otherwise.
///
/// `bias[1 or batch, 1 or heads, 1 or n, m]` is a mask (very negative where a key is hidden) or a bias by position. A
/// bias that is trained costs the fused path, which has no gradient for it.
///
/// # Errors
/// A bias of another shape; of the tensor library.
pub fn biased_attention(q: &Tensor, k: &Tensor, v: &Tensor, bias: &Tensor, heads: usize, scale: f64) -> Result<Tensor> {
    let (b, h, n, m) = bias.dims4()?;
    let whole = [q.dim(0)?, heads, q.dim(1)?, k.dim(1)?];
    if m != whole[3] || [b, h, n].iter().zip(whole).any(|(found, expected)| *found != 1 && *found != expected) {
        let what = "bias of an attention (1 in place of any but the last is fine)".into();
        return Err(Error::Shape { what, found: bias.dims().into(), expected: whole.into() });
    }
    if op::fused(q) && !tape::wants_gradient(bias) {
        let bias = Some(bias.to_dtype(DType::F32)?.contiguous()?);
        let attend = Attend { heads, scale: scale as f32, causal: false, bias };
        return tape::apply3(&q.contiguous()?, &k.contiguous()?, &v.contiguous()?, attend);
    }
    tape::composed(&[q, k, v, bias], |x| composed(&x[0], &x[1], &x[2], Some(&x[3]), heads, scale, false))
}

fn composed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bias: Option<&Tensor>,
    heads: usize,
    scale: f64,
    causal: bool,
) -> Result<Tensor> {
    let (batch, n, channels) = q.dims3()?;
    let m = k.dim(1)?;
    let split = |x: &Tensor, len: usize| -> Result<Tensor> {
        Ok(x.reshape((batch, len, heads, channels / heads))?.transpose(1, 2)?.contiguous()?)
    };
    let (q, k, v) = (split(q, n)?, split(k, m)?, split(v, m)?);
    let mut scores = (q.matmul(&k.t()?)? * scale)?;
    if let Some(bias) = bias {
        scores = scores.broadcast_add(&bias.to_dtype(scores.dtype())?)?;
    }
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
    bias: Option<Tensor>,
}

/// Calls `work` with the numbers of a bias and the steps from one item, head or query to the next.
fn with_bias<T>(
    bias: Option<&Tensor>,
    work: impl FnOnce(Option<Bias<'_>>) -> candle_core::Result<T>,
) -> candle_core::Result<T> {
    let Some(bias) = bias else { return work(None) };
    let (b, h, n, m) = bias.dims4()?;
    let step = |count: usize, size: usize| if count == 1 { 0 } else { size };
    op::read(bias, |data| work(Some(Bias { data, item: step(b, h * n * m), head: step(h, n * m), query: step(n, m) })))
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
        with_bias(self.bias.as_ref(), |bias| {
            kernel::attention(q, k, v, s, bias, precision(), &mut out);
            Ok(())
        })?;
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
                        with_bias(self.bias.as_ref(), |bias| {
                            kernel::attention_back(qs, ks, vs, dout, s, bias, precision(), &mut dq, &mut dk, &mut dv);
                            Ok(())
                        })?;
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
                |x| composed(&x[0], &x[1], &x[2], None, 3, 0.3, causal),
            );
        }
    }

    #[test]
    fn fused_biased_attention_agrees_with_composed() {
        let (n, m) = (300, 35);
        for shape in [[1, 1, 1, m], [2, 1, 1, m], [1, 3, n, m], [2, 3, n, m]] {
            let values = crate::random::stream(1, "bias", 0).normals(shape.iter().product());
            let bias = Tensor::from_vec(values, &shape, &candle_core::Device::Cpu).unwrap();
            against_composed(
                &[&[2, n, 36], &[2, m, 36], &[2, m, 36]],
                |x| biased_attention(&x[0], &x[1], &x[2], &bias, 3, 0.3),
                |x| composed(&x[0], &x[1], &x[2], Some(&bias), 3, 0.3, false),
            );
        }
        // A bias that is trained gets its gradient.
        against_composed(
            &[&[2, 5, 36], &[2, m, 36], &[2, m, 36], &[1, 3, 5, m]],
            |x| biased_attention(&x[0], &x[1], &x[2], &x[3], 3, 0.3),
            |x| composed(&x[0], &x[1], &x[2], Some(&x[3]), 3, 0.3, false),
        );
    }

    #[test]
    fn a_misshapen_bias_is_refused() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &candle_core::Device::Cpu).unwrap();
        let (q, k) = (zeros(&[2, 5, 6]), zeros(&[2, 7, 6]));
        let error = biased_attention(&q, &k, &k, &zeros(&[3, 1, 1, 7]), 2, 1.0).unwrap_err().to_string();
        assert!(error.contains("[3, 1, 1, 7]") && error.contains("[2, 2, 5, 7]"), "{error}");
    }
}
