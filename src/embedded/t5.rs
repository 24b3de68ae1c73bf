//! The transformer's text encoder, T5's architecture, taught by [reading](super::reading).
//!
//! Unlike CLIP's it looks both ways, so that every word of an object's phrase can know all of it; and the transformer
//! does not look at the padding.

use crate::diffusion::captions::Captions;
use crate::diffusion::t5::{T5Config, T5Encoder, T5Tokenizer};
use crate::diffusion::text::{Activation, Encoded};
use crate::diffusion::weights::Weights;
use crate::embedded::files::write_json;
use crate::embedded::options::Options;
use crate::embedded::reading::{Encoder, WINDOW, from_nothing, teach};
use crate::error::Result;
use crate::scene::vocabulary;
use candle_core::{DType, Device, Tensor};

const SEED: u64 = 22;

/// The embedded text encoder's shape: a small T5 1.1.
#[must_use]
pub fn config(tokenizer: &T5Tokenizer) -> T5Config {
    T5Config {
        vocab_size: tokenizer.vocab_size(),
        d_model: 128,
        d_kv: 32,
        d_ff: 256,
        num_layers: 3,
        num_heads: 4,
        dense_act_fn: Activation::GeluNew,
        is_gated_act: true,
        ..T5Config::default()
    }
}

/// Tokenizer and network.
#[derive(Debug)]
pub struct T5 {
    /// Splits captions into tokens.
    pub tokenizer: T5Tokenizer,
    /// Reads them.
    pub encoder: T5Encoder,
}

impl T5 {
    /// What the transformer gets of some texts.
    ///
    /// # Errors
    /// Of the tokenizer and the tensor library.
    pub fn captions(&self, texts: &[&str]) -> Result<Captions> {
        let texts = texts.iter().map(|text| self.tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        let (ids, mask) = Encoded::stack(&texts, &Device::Cpu)?;
        Ok(Captions { embeds: self.encoder.forward(&ids, Some(&mask))?, mask: Some(mask) })
    }
}

impl Encoder for T5 {
    fn width(&self) -> usize {
        self.encoder.config().d_model
    }

    fn states(&self, texts: &[&str]) -> Result<Tensor> {
        Ok(self.captions(texts)?.embeds)
    }

    fn first(&self) -> usize {
        0
    }

    fn used(&self, text: &str) -> Result<usize> {
        Ok(self.tokenizer.encode(text)?.used)
    }

    fn knowing(&self, end: usize) -> usize {
        end + 1
    }
}

/// Trains tokenizer and text encoder, and writes `tokenizer/` and `text_encoder/` of the transformer's folder.
///
/// # Errors
/// Of files and of the training.
pub fn train(options: &Options) -> Result<()> {
    from_nothing(options)?;
    let dir = options.transformer();
    let tokenizer = T5Tokenizer::write_words(&vocabulary(), WINDOW, &dir.join("tokenizer"))?;
    let config = config(&tokenizer);
    let weights = Weights::seeded(SEED, &Device::Cpu);
    let t5 = T5 { encoder: T5Encoder::load(&config, &weights)?, tokenizer };
    teach(options, "t5", &t5, &weights, |averages| {
        write_json(&dir.join("text_encoder/config.json"), &config.to_json())?;
        // A network of its own, so that only what it asks for is written.
        let weights = Weights::seeded(SEED, &Device::Cpu);
        T5Encoder::load(&config, &weights)?;
        weights.save(&dir.join("text_encoder/model.safetensors"), DType::F16, Some(averages))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::reading::tests;

    fn t5(weights: &Weights) -> T5 {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = T5Tokenizer::write_words(&vocabulary(), WINDOW, folder.path()).unwrap();
        T5 { encoder: T5Encoder::load(&config(&tokenizer), weights).unwrap(), tokenizer }
    }

    #[test]
    fn gradients_by_tape_are_those_of_the_graph() {
        let weights = Weights::seeded(1, &Device::Cpu);
        tests::gradients_are_those_of_the_graph(&t5(&weights), &weights);
    }

    #[test]
    fn every_caption_fits_and_is_asked_about() {
        tests::every_caption_fits_and_is_asked_about(&t5(&Weights::seeded(1, &Device::Cpu)));
    }
}
