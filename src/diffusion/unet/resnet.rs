//! Residual blocks: diffusers' `ResnetBlock2D`.

use super::config::{Activation, TimeNorm, UnetConfig};
use crate::diffusion::layers::{Conv2d, GroupNorm, Linear, Padding, add, composed, shift};
use crate::diffusion::module::{Builder, Hooked, Layout, Module};
use crate::diffusion::tap::Tap;
use crate::error::Result;
use candle_core::Tensor;

/// y = (x + conv₂(φ(norm₂(conv₁(φ(norm₁ x)) + W φ(t))))) / scale, x projected where the channels differ.
#[derive(Debug)]
pub(crate) struct Resnet {
    at: Module,
    norm1: Hooked<GroupNorm>,
    conv1: Hooked<Conv2d>,
    time_emb_proj: Hooked<Linear>,
    norm2: Hooked<GroupNorm>,
    conv2: Hooked<Conv2d>,
    conv_shortcut: Option<Hooked<Conv2d>>,
    activation: Activation,
    time_norm: TimeNorm,
    scale: f64,
}

impl Resnet {
    pub(crate) fn load(config: &UnetConfig, inputs: usize, outputs: usize, scale: f64, b: &Builder) -> Result<Self> {
        let (groups, eps) = (config.norm_num_groups, config.norm_eps);
        let time_norm = config.resnet_time_scale_shift;
        let time_outputs = if time_norm == TimeNorm::ScaleShift { 2 * outputs } else { outputs };
        let same = Padding::Same(1);
        let shortcut = || b.conv("conv_shortcut", inputs, outputs, 1, 1, Padding::Same(0));
        Ok(Self {
            at: b.module(Layout::Map, inputs, outputs, true),
            norm1: b.group_norm("norm1", groups, inputs, eps)?,
            conv1: b.conv("conv1", inputs, outputs, 3, 1, same)?,
            time_emb_proj: b.linear("time_emb_proj", Layout::Vector, config.time_dim(), time_outputs, true)?,
            norm2: b.group_norm("norm2", groups, outputs, eps)?,
            conv2: b.conv("conv2", outputs, outputs, 3, 1, same)?,
            conv_shortcut: (inputs != outputs).then(shortcut).transpose()?,
            activation: config.act_fn,
            time_norm,
            scale,
        })
    }

    /// `x[batch, h, w, in]`, `time[batch, width]` with the nonlinearity already applied → `[batch, h, w, out]`.
    pub(crate) fn forward(&self, x: &Tensor, time: &Tensor, tap: &mut Tap<'_>) -> Result<Tensor> {
        tap.around(&self.at, x, |x, tap| {
            let h = self.activation.after(&self.norm1, x, tap)?;
            let h = self.conv1.forward(&h, tap)?;
            let time = self.time_emb_proj.forward(time, tap)?;
            let h = match self.time_norm {
                TimeNorm::Default => self.activation.after(&self.norm2, &shift(&h, &time)?, tap)?,
                TimeNorm::ScaleShift => {
                    let n = h.dim(3)?;
                    let h = composed(&[&self.norm2.forward(&h, tap)?, &time], |x| {
                        let [factor, moved] = [0, n].map(|from| x[1].narrow(1, from, n)?.unsqueeze(1)?.unsqueeze(1));
                        Ok(x[0].broadcast_mul(&(factor? + 1.0)?)?.broadcast_add(&moved?)?)
                    })?;
                    self.activation.forward(&h)?
                }
            };
            let h = self.conv2.forward(&h, tap)?;
            let y = match &self.conv_shortcut {
                Some(shortcut) => add(&shortcut.forward(x, tap)?, &h)?,
                None => add(x, &h)?,
            };
            if self.scale == 1.0 { Ok(y) } else { composed(&[&y], |y| Ok((&y[0] / self.scale)?)) }
        })
    }
}
