//! Group and layer normalisation.

use super::{op, tape};
use crate::diffusion::weights::{Init, Weights};
use crate::error::{Error, Result};
use crate::kernels::normalisation as kernel;
use candle_core::{CpuStorage, CustomOp3, D, DType, Device, Layout, Shape, Tensor};

/// Normalises each item's groups of channels over all positions: y = γ (x − μ)/√(σ² + ε) + β.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Reads `weight[channels]` and `bias[channels]`.
    ///
    /// # Errors
    /// A missing or misshapen tensor; channels that the groups do not divide.
    pub fn load(weights: &Weights, groups: usize, channels: usize, eps: f64) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(Error::invalid(format!(
                "{}: {channels} channels do not divide into {groups} groups",
                weights.path()
            )));
        }
        let weight = weights.get("weight", &[channels], Init::Ones)?;
        let bias = weights.get("bias", &[channels], Init::Zeros)?;
        Ok(Self { weight, bias, groups, eps })
    }

    /// `[batch, …, channels]`, same shape out.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, false)
    }

    /// [`GroupNorm::forward`] followed by SiLU, in one pass.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, true)
    }

    fn run(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        if op::fused(x) {
            let normalise = GroupNormalise { groups: self.groups, eps: self.eps as f32, silu };
            return tape::apply3(&x.contiguous()?, &self.weight, &self.bias, normalise);
        }
        let y = self.composed(x)?;
        Ok(if silu { y.silu()? } else { y })
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let shape = x.dims().to_vec();
        let channels = x.dim(D::Minus1)?;
        let x = x.reshape((shape[0], (), self.groups, channels / self.groups))?;
        let mean = x.mean_keepdim((1, 3))?;
        let x = x.broadcast_sub(&mean)?;
        let variance = x.sqr()?.mean_keepdim((1, 3))?;
        let x = x.broadcast_div(&(variance + self.eps)?.sqrt()?)?.reshape(shape)?;
        Ok(x.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)?)
    }
}

/// Normalises each token's channels: y = γ (x − μ)/√(σ² + ε) + β.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Reads `weight[channels]` and `bias[channels]`.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(weights: &Weights, channels: usize, eps: f64) -> Result<Self> {
        let weight = weights.get("weight", &[channels], Init::Ones)?;
        let bias = weights.get("bias", &[channels], Init::Zeros)?;
        Ok(Self { weight, bias, eps })
    }

    /// The normalisation alone, γ = 1 and β = 0, which are no weights.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn plain(channels: usize, eps: f64, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self { weight: Tensor::ones(channels, dtype, device)?, bias: Tensor::zeros(channels, dtype, device)?, eps })
    }

    /// `[…, channels]`, same shape out.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if op::fused(x) {
            let normalise = LayerNormalise { eps: self.eps as f32 };
            return tape::apply3(&x.contiguous()?, &self.weight, &self.bias, normalise);
        }
        self.composed(x)
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let mean = x.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_sub(&mean)?;
        let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        Ok(x.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)?)
    }
}

struct GroupNormalise {
    groups: usize,
    eps: f32,
    silu: bool,
}

struct LayerNormalise {
    eps: f32,
}

type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

fn gradients(dx: Vec<f32>, (dg, db): (Vec<f32>, Vec<f32>), x: &Tensor, g: &Tensor) -> candle_core::Result<Gradients> {
    Ok((Some(op::like(dx, x)?), Some(op::like(dg, g)?), Some(op::like(db, g)?)))
}

impl CustomOp3 for GroupNormalise {
    fn name(&self) -> &'static str {
        "group-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        g: &CpuStorage,
        lg: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, g, b) = (op::slice(x, lx)?, op::slice(g, lg)?, op::slice(b, lb)?);
        if lx.dims().last() != Some(&g.len()) {
            candle_core::bail!("a group norm of {} channels was given a tensor of shape {:?}", g.len(), lx.shape());
        }
        let mut y = vec![0f32; x.len()];
        kernel::group_norm(x, g, b, self.groups, x.len() / lx.dims()[0], self.eps, self.silu, &mut y);
        op::output(y, lx.shape())
    }

    fn bwd(&self, x: &Tensor, g: &Tensor, b: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Gradients> {
        op::read(x, |xs| {
            op::read(dy, |dy| {
                op::read(g, |gs| {
                    op::read(b, |b| {
                        let mut dx = vec![0f32; xs.len()];
                        let item = xs.len() / x.dim(0)?;
                        let rest =
                            kernel::group_norm_back(xs, dy, gs, b, self.groups, item, self.eps, self.silu, &mut dx);
                        gradients(dx, rest, x, g)
                    })
                })
            })
        })
    }
}

impl CustomOp3 for LayerNormalise {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        g: &CpuStorage,
        lg: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, g, b) = (op::slice(x, lx)?, op::slice(g, lg)?, op::slice(b, lb)?);
        if lx.dims().last() != Some(&g.len()) {
            candle_core::bail!("a layer norm of {} channels was given a tensor of shape {:?}", g.len(), lx.shape());
        }
        let mut y = vec![0f32; x.len()];
        kernel::layer_norm(x, g, b, self.eps, &mut y);
        op::output(y, lx.shape())
    }

    fn bwd(&self, x: &Tensor, g: &Tensor, _b: &Tensor, _y: &Tensor, dy: &Tensor) -> candle_core::Result<Gradients> {
        op::read(x, |xs| {
            op::read(dy, |dy| {
                op::read(g, |gs| {
                    let mut dx = vec![0f32; xs.len()];
                    let rest = kernel::layer_norm_back(xs, dy, gs, self.eps, &mut dx);
                    gradients(dx, rest, x, g)
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
    fn fused_normalisations_agree_with_composed_ones() {
        let group = |x: &[Tensor]| GroupNorm { weight: x[1].clone(), bias: x[2].clone(), groups: 3, eps: 1e-5 };
        let shapes: [&[usize]; 3] = [&[2, 3, 5, 12], &[12], &[12]];
        against_composed(&shapes, |x| group(x).forward(&x[0]), |x| group(x).composed(&x[0]));
        against_composed(&shapes, |x| group(x).forward_silu(&x[0]), |x| Ok(group(x).composed(&x[0])?.silu()?));
        let layer = |x: &[Tensor]| LayerNorm { weight: x[1].clone(), bias: x[2].clone(), eps: 1e-5 };
        let shapes: [&[usize]; 3] = [&[3, 150, 21], &[21], &[21]];
        against_composed(&shapes, |x| layer(x).forward(&x[0]), |x| layer(x).composed(&x[0]));
    }
}
