//! Changing the size of a feature map.

use super::{op, tape};
use crate::error::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

/// `[batch, h, w, c] → [batch, 2h, 2w, c]`, every pixel four times.
///
/// # Errors
/// Of the tensor library.
pub fn upsample_nearest(x: &Tensor) -> Result<Tensor> {
    if op::fused(x) {
        return tape::apply1(&x.contiguous()?, Upsample);
    }
    composed(x)
}

fn composed(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let x = x.reshape((b, h, 1, w, 1, c))?;
    Ok(x.broadcast_as((b, h, 2, w, 2, c))?.reshape((b, 2 * h, 2 * w, c))?)
}

struct Upsample;

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        "upsample-nearest"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (b, h, w, c) = layout.shape().dims4()?;
        let x = op::slice(storage, layout)?;
        let mut y = vec![0f32; 4 * x.len()];
        for (row, out) in x.chunks_exact(w * c).zip(y.chunks_exact_mut(4 * w * c)) {
            let (first, second) = out.split_at_mut(2 * w * c);
            for (pixel, out) in row.chunks_exact(c).zip(first.chunks_exact_mut(2 * c)) {
                out[..c].copy_from_slice(pixel);
                out[c..].copy_from_slice(pixel);
            }
            second.copy_from_slice(first);
        }
        op::output(y, (b, 2 * h, 2 * w, c))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (_, _, w, c) = x.dims4()?;
        op::read(dy, |dy| {
            let mut dx = vec![0f32; dy.len() / 4];
            for (row, dy) in dx.chunks_exact_mut(w * c).zip(dy.chunks_exact(4 * w * c)) {
                let (first, second) = dy.split_at(2 * w * c);
                for (i, pixel) in row.chunks_exact_mut(c).enumerate() {
                    let at = 2 * i * c;
                    for j in 0..c {
                        pixel[j] = (first[at + j] + first[at + c + j]) + (second[at + j] + second[at + c + j]);
                    }
                }
            }
            op::like(dx, x).map(Some)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::against_composed;
    use super::*;

    #[test]
    fn fused_upsampling_agrees_with_composed() {
        against_composed(&[&[2, 3, 5, 7]], |x| upsample_nearest(&x[0]), |x| composed(&x[0]));
    }
}
