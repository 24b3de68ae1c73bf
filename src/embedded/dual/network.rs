//! The dual encoder's two sides.
//!
//! Picture: the encoder's coarsest map sees every object whole. Each of its positions p, knowing where it is by a learnt
//! vector e_p, says what is there, v_p = GEGLU(W(silu(norm x_p) + e_p)); their mean is a sum over objects, in which
//! colour and place stay bound to class. Beside it stands a summary of all three maps, for style and background.
//! Text: the state of the end token, which alone has seen all words, through two linear layers.

use crate::diffusion::layers::{GroupNorm, Linear, composed, concat, geglu, reshape, silu};
use crate::diffusion::weights::{Init, Weights};
use crate::embedded::encoder::{EPS, Encoder, REDUCTION};
use crate::error::{Error, Result};
use crate::scene::SIDE;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// Shape of both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DualConfig {
    /// Channels of the picture encoder at 1/2, 1/4 and 1/8 of the resolution.
    pub channels: [usize; 3],
    /// Groups of the normalisations.
    pub groups: usize,
    /// Side of the pictures.
    pub side: usize,
    /// Width between the linear layers of either side.
    pub hidden: usize,
    /// Width of the summary of the three maps.
    pub summary: usize,
    /// Width of the text encoder's states.
    pub text_width: usize,
    /// Width of the embeddings.
    pub width: usize,
}

impl Default for DualConfig {
    fn default() -> Self {
        Self { channels: [32, 64, 96], groups: 8, side: SIDE, hidden: 256, summary: 64, text_width: 128, width: 256 }
    }
}

/// Both sides; embeddings are not yet of unit length.
#[derive(Debug, Clone)]
pub struct Network {
    config: DualConfig,
    encoder: Encoder,
    norm: GroupNorm,
    positions: Tensor,
    local: Linear,
    summary: Linear,
    picture: Linear,
    text: [Linear; 2],
    logit_scale: Tensor,
}

impl Network {
    /// Builds the network from its weights.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(config: &DualConfig, weights: &Weights) -> Result<Self> {
        let DualConfig { channels, groups, side, hidden, summary, text_width, width } = *config;
        let linear = |name: &str, from, to| Linear::load(&weights.at(name), from, to, true);
        let places = (side / REDUCTION).pow(2);
        Ok(Self {
            encoder: Encoder::load(channels, groups, &weights.at("encoder"))?,
            norm: GroupNorm::load(&weights.at("norm"), groups, channels[2], EPS)?,
            positions: weights.get("positions", &[places, channels[2]], Init::Normal(0.5))?,
            local: linear("local", channels[2], 2 * hidden)?,
            summary: linear("summary", channels.iter().sum(), summary)?,
            picture: linear("picture", hidden + summary, width)?,
            text: [linear("text.0", text_width, hidden)?, linear("text.1", hidden, width)?],
            logit_scale: weights.get("logit_scale", &[1], Init::Zeros)?,
            config: config.clone(),
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &DualConfig {
        &self.config
    }

    /// Logarithm of the inverse temperature, less that of its start: `[1]`.
    #[must_use]
    pub fn logit_scale(&self) -> &Tensor {
        &self.logit_scale
    }

    /// Embeddings `[batch, width]` of pictures `[batch, side, side, 3]` in [−1, 1].
    ///
    /// # Errors
    /// Pictures of another size.
    pub fn pictures(&self, pictures: &Tensor) -> Result<Tensor> {
        let side = self.config.side;
        let (batch, h, w, _) = pictures.dims4()?;
        if (h, w) != (side, side) {
            let what = "pictures for the embedded dual encoder".into();
            return Err(Error::Shape { what, found: pictures.dims().into(), expected: vec![batch, side, side, 3] });
        }
        let maps = self.encoder.forward(pictures)?;
        let mean = |x: &Tensor| composed(&[&silu(x)?], |x| Ok(x[0].flatten(1, 2)?.mean(1)?));
        let summary = concat(&[&mean(&maps.fine)?, &mean(&maps.middle)?, &mean(&maps.coarse)?])?;
        let summary = silu(&self.summary.forward(&summary)?)?;
        let places = self.positions.dim(0)?;
        let x = reshape(&self.norm.forward_silu(&maps.coarse)?, (batch, places, self.config.channels[2]))?;
        let x = composed(&[&x, &self.positions], |x| Ok(x[0].broadcast_add(&x[1])?))?;
        let local = geglu(&self.local.forward(&x)?)?;
        let local = composed(&[&local], |x| Ok(x[0].mean(1)?))?;
        self.picture.forward(&concat(&[&local, &summary])?)
    }

    /// Embeddings `[batch, width]` of the text encoder's states at the end tokens, `[batch, text width]`.
    ///
    /// # Errors
    /// States of another width.
    pub fn texts(&self, ends: &Tensor) -> Result<Tensor> {
        self.text[1].forward(&silu(&self.text[0].forward(ends)?)?)
    }
}
