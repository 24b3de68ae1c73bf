//! The nonlinearities that a configuration can name.

use super::config::Activation;
use crate::diffusion::layers::{GroupNorm, composed, silu};
use crate::diffusion::module::Hooked;
use crate::diffusion::tap::Tap;
use crate::error::Result;
use candle_core::Tensor;

impl Activation {
    /// Applies it to every element.
    pub(crate) fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Activation::Silu => silu(x),
            Activation::Gelu => composed(&[x], |x| Ok(x[0].gelu_erf()?)),
            Activation::Relu => composed(&[x], |x| Ok(x[0].relu()?)),
            Activation::Mish => composed(&[x], |x| {
                // ln(1 + eˣ) = max(x, 0) + ln(1 + e^−|x|), which cannot overflow.
                let softplus = (x[0].relu()? + (x[0].abs()?.neg()?.exp()? + 1.0)?.log()?)?;
                Ok((&x[0] * softplus.tanh()?)?)
            }),
        }
    }

    /// Applies it to what `norm` makes of `x`, in one pass where there is such a kernel.
    pub(crate) fn after(self, norm: &Hooked<GroupNorm>, x: &Tensor, tap: &mut Tap<'_>) -> Result<Tensor> {
        let fused = |norm: &GroupNorm, x: &Tensor| match self {
            Activation::Silu => norm.forward_silu(x),
            _ => self.forward(&norm.forward(x)?),
        };
        norm.then(x, fused, |y| self.forward(y), tap)
    }
}
