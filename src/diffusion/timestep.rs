//! The timestep as a vector: sines and cosines, then two linear layers.

use crate::diffusion::layers::Linear;
use crate::diffusion::module::{Builder, Hooked, Layout, Module};
use crate::diffusion::tap::Tap;
use crate::diffusion::unet::Activation;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};

/// Sines and cosines of t·fᵢ, fᵢ = 10000^(−i/(half − shift)), i = 0..half: diffusers' `Timesteps`.
#[derive(Debug)]
pub(crate) struct Sinusoid {
    frequencies: Tensor,
    cosine_first: bool,
    odd: bool,
}

impl Sinusoid {
    pub(crate) fn new(channels: usize, cosine_first: bool, shift: f64, device: &Device) -> Result<Self> {
        let half = channels / 2;
        // The exponents are rounded to f32 as the reference rounds them: at t = 999 one rounding of a frequency
        // moves the angle by 6e-5.
        let log = -(10000f64.ln()) as f32;
        let frequency = |i: usize| f64::from(log * i as f32 / (half as f64 - shift) as f32).exp() as f32;
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let frequencies = Tensor::from_vec(frequencies, (1, half), device)?;
        Ok(Self { frequencies, cosine_first, odd: channels % 2 == 1 })
    }

    /// `[batch] → [batch, channels]`, in f32 whatever the network's type: half precision has no room for t·fᵢ.
    pub(crate) fn forward(&self, timesteps: &Tensor) -> Result<Tensor> {
        let angles = timesteps.to_dtype(DType::F32)?.unsqueeze(1)?.broadcast_mul(&self.frequencies)?;
        let (sin, cos) = (angles.sin()?, angles.cos()?);
        let both = if self.cosine_first { [cos, sin] } else { [sin, cos] };
        let both = Tensor::cat(&both, 1)?;
        Ok(if self.odd { both.pad_with_zeros(1, 0, 1)? } else { both })
    }
}

/// Two linear layers with a nonlinearity between: diffusers' `TimestepEmbedding`.
#[derive(Debug)]
pub(crate) struct TimeEmbedding {
    at: Module,
    linear_1: Hooked<Linear>,
    linear_2: Hooked<Linear>,
    activation: Activation,
    post: Option<Activation>,
}

impl TimeEmbedding {
    /// `layout` says whether an item has one such vector or several.
    pub(crate) fn load(
        b: &Builder,
        layout: Layout,
        (inputs, width): (usize, usize),
        activation: Activation,
        post: Option<Activation>,
    ) -> Result<Self> {
        Ok(Self {
            at: b.module(layout, inputs, width, true),
            linear_1: b.linear("linear_1", layout, inputs, width, true)?,
            linear_2: b.linear("linear_2", layout, width, width, true)?,
            activation,
            post,
        })
    }

    /// `[batch, channels] → [batch, width]`, or `[batch, n, channels] → [batch, n, width]`.
    pub(crate) fn forward(&self, x: &Tensor, tap: &mut Tap<'_>) -> Result<Tensor> {
        tap.around(&self.at, x, |x, tap| {
            let x = self.linear_1.forward(x, tap)?;
            let x = self.linear_2.forward(&self.activation.forward(&x)?, tap)?;
            self.post.map_or(Ok(x.clone()), |post| post.forward(&x))
        })
    }
}
