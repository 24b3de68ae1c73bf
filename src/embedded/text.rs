//! Stage 2: the U-Net's text encoder, CLIP's architecture, taught by [reading](super::reading).

use crate::diffusion::text::{Encoded, TextConfig, TextEncoder, Tokenizer};
use crate::diffusion::weights::Weights;
use crate::embedded::files::write_json;
use crate::embedded::options::Options;
use crate::embedded::reading::{Encoder, WINDOW, from_nothing, teach};
use crate::error::Result;
use crate::scene::vocabulary;
use candle_core::{DType, Device, Tensor};

const SEED: u64 = 12;

/// The embedded text encoder's shape.
#[must_use]
pub fn config(tokenizer: &Tokenizer) -> TextConfig {
    TextConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 128,
        intermediate_size: 512,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        max_position_embeddings: WINDOW,
        eos_token_id: tokenizer.end(),
        ..TextConfig::default()
    }
}

/// Tokenizer and network.
#[derive(Debug)]
pub struct Clip {
    /// Splits captions into tokens.
    pub tokenizer: Tokenizer,
    /// Reads them.
    pub encoder: TextEncoder,
}

impl Encoder for Clip {
    fn width(&self) -> usize {
        self.encoder.config().hidden_size
    }

    fn states(&self, texts: &[&str]) -> Result<Tensor> {
        let texts: Vec<Encoded> = texts.iter().map(|text| self.tokenizer.encode(text)).collect();
        self.encoder.forward(&Encoded::stack(&texts, &Device::Cpu)?.0)
    }

    fn first(&self) -> usize {
        1 // the start of the text
    }

    fn used(&self, text: &str) -> Result<usize> {
        Ok(self.tokenizer.encode(text).used)
    }

    fn knowing(&self, _: usize) -> usize {
        WINDOW // the U-Net looks at the padding, too
    }
}

/// Trains tokenizer and text encoder, and writes `tokenizer/` and `text_encoder/` of the model folder.
///
/// # Errors
/// Of files and of the training.
pub fn train(options: &Options) -> Result<()> {
    from_nothing(options)?;
    let tokenizer = Tokenizer::from_words(&vocabulary(), WINDOW)?;
    let config = config(&tokenizer);
    let weights = Weights::seeded(SEED, &Device::Cpu);
    let clip = Clip { encoder: TextEncoder::load(&config, &weights)?, tokenizer };
    let dir = options.model();
    clip.tokenizer.save(&dir.join("tokenizer"))?;
    teach(options, "text", &clip, &weights, |averages| {
        write_json(&dir.join("text_encoder/config.json"), &config.to_json())?;
        // A network of its own, so that only what it asks for is written.
        let weights = Weights::seeded(SEED, &Device::Cpu);
        TextEncoder::load(&config, &weights)?;
        weights.save(&dir.join("text_encoder/model.safetensors"), DType::F16, Some(averages))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::reading::tests;

    fn clip(weights: &Weights) -> Clip {
        let tokenizer = Tokenizer::from_words(&vocabulary(), WINDOW).unwrap();
        Clip { encoder: TextEncoder::load(&config(&tokenizer), weights).unwrap(), tokenizer }
    }

    #[test]
    fn gradients_by_tape_are_those_of_the_graph() {
        let weights = Weights::seeded(1, &Device::Cpu);
        tests::gradients_are_those_of_the_graph(&clip(&weights), &weights);
    }

    #[test]
    fn every_caption_fits_and_is_asked_about() {
        tests::every_caption_fits_and_is_asked_about(&clip(&Weights::seeded(1, &Device::Cpu)));
    }
}
