//! The network at the heart of a pipeline: a U-Net or a diffusion transformer.

use crate::diffusion::captions::Captions;
use crate::diffusion::dit::{Dit, MicroConditions};
use crate::diffusion::hook::Site;
use crate::diffusion::module::Module;
use crate::diffusion::tap::Tap;
use crate::diffusion::unet::{Counts, Unet};
use crate::error::Result;
use candle_core::Tensor;

/// What predicts the noise in a latent.
#[derive(Debug)]
pub enum Denoiser {
    /// Stable Diffusion's.
    Unet(Box<Unet>),
    /// PixArt's.
    Dit(Box<Dit>),
}

macro_rules! each {
    ($self:expr, $d:ident => $body:expr) => {
        match $self {
            Denoiser::Unet($d) => $body,
            Denoiser::Dit($d) => $body,
        }
    };
}

impl Denoiser {
    /// All paths that hooks can name.
    #[must_use]
    pub fn modules(&self) -> Vec<String> {
        each!(self, d => d.modules())
    }

    /// The module at `path`.
    ///
    /// # Errors
    /// A path that does not exist (with the nearest ones).
    pub fn module(&self, path: &str) -> Result<&Module> {
        each!(self, d => d.module(path))
    }

    /// Refuses sites that this network does not have.
    ///
    /// # Errors
    /// A path that does not exist, or the residual of a module whose input and output differ in shape.
    pub fn check<'a>(&self, sites: impl IntoIterator<Item = &'a Site>) -> Result<()> {
        each!(self, d => d.check(sites))
    }

    /// Channels of a latent.
    #[must_use]
    pub fn channels(&self) -> usize {
        each!(self, d => d.config().in_channels)
    }

    /// Channels of the output, of which the first [`channels`](Self::channels) are the prediction and others, if
    /// there are any, a variance that no scheduler here uses.
    #[must_use]
    pub fn outputs(&self) -> usize {
        match self {
            Denoiser::Unet(unet) => unet.config().out_channels,
            Denoiser::Dit(dit) => dit.config().outputs(),
        }
    }

    /// Height and width of the latents it was trained on, if its configuration says so.
    #[must_use]
    pub fn sample_size(&self) -> Option<(usize, usize)> {
        match self {
            Denoiser::Unet(unet) => match unet.config().sample_size.as_ref()? {
                Counts::Same(n) => Some((*n, *n)),
                Counts::Each(sides) => (sides.len() == 2).then(|| (sides[0], sides[1])),
            },
            Denoiser::Dit(dit) => Some((dit.config().sample_size, dit.config().sample_size)),
        }
    }

    /// Height and width of latents must be multiples of this.
    #[must_use]
    pub fn patch(&self) -> usize {
        match self {
            Denoiser::Unet(_) => 1,
            Denoiser::Dit(dit) => dit.config().patch_size,
        }
    }

    /// Predicts the noise in `sample[batch, h, w, channels]` at `timesteps[batch]` (or one for all) given `captions` of
    /// `batch` prompts, for pictures of this height and width in pixels → `[batch, h, w, channels]`. (A U-Net looks at
    /// every position of a caption and is not told the size.)
    ///
    /// # Errors
    /// Shapes that do not fit; sites that do not exist; a hook's own.
    pub fn forward(
        &self,
        sample: &Tensor,
        timesteps: &Tensor,
        captions: &Captions,
        (height, width): (usize, usize),
        tap: &mut Tap<'_>,
    ) -> Result<Tensor> {
        match self {
            Denoiser::Unet(unet) => unet.forward(sample, timesteps, &captions.embeds, tap),
            Denoiser::Dit(dit) => {
                let size = || MicroConditions::new(sample.dim(0)?, height, width, sample.device());
                let size = dit.config().additional_conditions().then(size).transpose()?;
                let output = dit.forward(sample, timesteps, captions, size.as_ref(), tap)?;
                Ok(output.narrow(3, 0, self.channels())?.contiguous()?)
            }
        }
    }
}
