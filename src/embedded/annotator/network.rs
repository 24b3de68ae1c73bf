//! Encoder and decoder with skip connections, and two heads for the whole picture.

use crate::diffusion::layers::{Conv2d, GroupNorm, Linear, Padding, composed, concat, silu, upsample_nearest};
use crate::diffusion::weights::Weights;
use crate::embedded::encoder::{Block, EPS, Encoder, FOLD, Features};
use crate::error::Result;
use crate::scene::{Background, Class, Colour, Part, Style};
use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

/// Shape of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnotatorConfig {
    /// Channels at 1/2, 1/4 and 1/8 of the resolution.
    pub channels: [usize; 3],
    /// Groups of the normalisations.
    pub groups: usize,
    /// Names of the classes; index 0 of the class scores is the backdrop.
    pub classes: Vec<String>,
    /// Names of the colours; index 0 of the colour scores is no named colour.
    pub colours: Vec<String>,
    /// Names of the parts; index 0 of the part scores is the backdrop.
    pub parts: Vec<String>,
    /// Names of the styles.
    pub styles: Vec<String>,
    /// Names of the backgrounds.
    pub backgrounds: Vec<String>,
}

impl Default for AnnotatorConfig {
    fn default() -> Self {
        Self {
            channels: [48, 80, 96],
            groups: 8,
            classes: Class::ALL.iter().map(ToString::to_string).collect(),
            colours: Colour::ALL.iter().map(ToString::to_string).collect(),
            parts: Part::ALL.iter().map(ToString::to_string).collect(),
            styles: Style::ALL.iter().map(ToString::to_string).collect(),
            backgrounds: Background::ALL.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Scores before any normalisation.
#[derive(Debug, Clone)]
pub struct Answer {
    /// `[batch, h, w, 1 + classes]`.
    pub class: Tensor,
    /// `[batch, h, w, 1 + colours]`.
    pub colour: Tensor,
    /// `[batch, h, w, 1 + parts]`.
    pub part: Tensor,
    /// `[batch, styles]`.
    pub style: Tensor,
    /// `[batch, backgrounds]`.
    pub background: Tensor,
}

/// The segmentation network.
#[derive(Debug, Clone)]
pub struct Network {
    config: AnnotatorConfig,
    encoder: Encoder,
    up1: Conv2d,
    middle_up: Block,
    up2: Conv2d,
    fine_up: Block,
    norm: GroupNorm,
    pixels: Linear,
    hidden: Linear,
    whole: Linear,
}

impl Network {
    /// Builds the network from its weights.
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(config: &AnnotatorConfig, weights: &Weights) -> Result<Self> {
        let [a, b, c] = config.channels;
        let conv = |name: &str, from, to| Conv2d::load(&weights.at(name), from, to, 3, 1, Padding::Same(1));
        let block = |name: &str, channels| Block::load(&weights.at(name), config.groups, channels);
        let scores = 3 + config.classes.len() + config.colours.len() + config.parts.len();
        let whole = config.styles.len() + config.backgrounds.len();
        Ok(Self {
            encoder: Encoder::load(config.channels, config.groups, weights)?,
            up1: conv("up1", c + b, b)?,
            middle_up: block("middle_up", b)?,
            up2: conv("up2", b + a, a)?,
            fine_up: block("fine_up", a)?,
            norm: GroupNorm::load(&weights.at("norm"), config.groups, a, EPS)?,
            pixels: Linear::load(&weights.at("pixels"), a, FOLD * FOLD * scores, true)?,
            hidden: Linear::load(&weights.at("hidden"), a + b + c, 64, true)?,
            whole: Linear::load(&weights.at("whole"), 64, whole, true)?,
            config: config.clone(),
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &AnnotatorConfig {
        &self.config
    }

    /// What the encoder makes of pictures `[batch, h, w, 3]` in [−1, 1].
    ///
    /// # Errors
    /// Sides that are not multiples of 8.
    pub fn features(&self, images: &Tensor) -> Result<Features> {
        self.encoder.forward(images)
    }

    /// Scores of pictures `[batch, h, w, 3]` in [−1, 1].
    ///
    /// # Errors
    /// Sides that are not multiples of 8.
    pub fn forward(&self, images: &Tensor) -> Result<Answer> {
        let Features { fine, middle, coarse } = self.encoder.forward(images)?;
        let (batch, h, w, _) = images.dims4()?;
        let mean = |x: &Tensor| composed(&[&silu(x)?], |x| Ok(x[0].flatten(1, 2)?.mean(1)?));
        let summary = concat(&[&mean(&fine)?, &mean(&middle)?, &mean(&coarse)?])?;
        let whole = self.whole.forward(&silu(&self.hidden.forward(&summary)?)?)?;

        let x = concat(&[&upsample_nearest(&coarse)?, &middle])?;
        let x = self.middle_up.forward(&self.up1.forward(&x)?)?;
        let x = concat(&[&upsample_nearest(&x)?, &fine])?;
        let x = self.fine_up.forward(&self.up2.forward(&x)?)?;
        let x = self.pixels.forward(&self.norm.forward_silu(&x)?)?;
        let scores = x.dim(D::Minus1)? / (FOLD * FOLD);
        let x = composed(&[&x], |x| {
            let cells = x[0].reshape(vec![batch, h / FOLD, w / FOLD, FOLD, FOLD, scores])?;
            Ok(cells.permute(vec![0, 1, 3, 2, 4, 5])?.reshape((batch, h, w, scores))?)
        })?;
        let (classes, colours) = (1 + self.config.classes.len(), 1 + self.config.colours.len());
        let (parts, styles) = (1 + self.config.parts.len(), self.config.styles.len());
        let some = |x: &Tensor, from, n| composed(&[x], |x| Ok(x[0].narrow(D::Minus1, from, n)?.contiguous()?));
        Ok(Answer {
            class: some(&x, 0, classes)?,
            colour: some(&x, classes, colours)?,
            part: some(&x, classes + colours, parts)?,
            style: some(&whole, 0, styles)?,
            background: some(&whole, styles, self.config.backgrounds.len())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn scores_have_the_pictures_size_and_folding_keeps_places() {
        let network = Network::load(&AnnotatorConfig::default(), &Weights::seeded(1, &Device::Cpu)).unwrap();
        let mut pixels = vec![0f32; 64 * 64 * 3];
        let far = network.forward(&Tensor::from_vec(pixels.clone(), (1, 64, 64, 3), &Device::Cpu).unwrap()).unwrap();
        assert_eq!(far.class.dims(), [1, 64, 64, 13]);
        assert_eq!(far.part.dims(), [1, 64, 64, 1 + Part::COUNT]);
        assert_eq!(far.style.dims(), [1, 6]);
        // A bright spot changes the scores most where it is.
        for y in 20..24 {
            for x in 40..44 {
                pixels[(y * 64 + x) * 3..][..3].fill(1.0);
            }
        }
        let near = network.forward(&Tensor::from_vec(pixels, (1, 64, 64, 3), &Device::Cpu).unwrap()).unwrap();
        let change = (near.colour - far.colour).unwrap().abs().unwrap().sum(3).unwrap();
        let change = change.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let best = (0..change.len()).max_by(|&a, &b| change[a].total_cmp(&change[b])).unwrap();
        assert!((18..26).contains(&(best / 64)) && (38..46).contains(&(best % 64)), "{best}");
    }
}
