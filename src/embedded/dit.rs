//! The diffusion transformer, PixArt's architecture, by [denoising](super::denoising).
//!
//! Eight blocks on 8×8 tokens of 2×2 latents. As PixArt-α's own training does (section 2.3 and its code), what leaves a
//! cross-attention and the network starts at zero: a block first is its self-attention and feed-forward network.

use crate::diffusion::captions::Captions;
use crate::diffusion::dit::{Dit, DitConfig};
use crate::diffusion::open::Fields;
use crate::diffusion::t5::{T5Config, T5Encoder, T5Tokenizer};
use crate::diffusion::tap::Tap;
use crate::diffusion::weights::Weights;
use crate::embedded::denoising::{Denoises, Stage};
use crate::embedded::files::copy;
use crate::embedded::options::Options;
use crate::embedded::reading::Encoder;
use crate::embedded::t5::T5;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use serde_json::json;

/// Scenes that it learns from, unless the options say otherwise.
pub const SCENES: usize = 24_000;
/// Samples of one pass.
const MICRO: usize = 16;
const STEPS: usize = 12_000;
/// Blocks before the first whose cross-attention is grounded: they have not seen enough of the picture.
const UNGROUNDED: usize = 2;
/// Blocks.
const BLOCKS: usize = 8;
/// Heads of an attention.
const HEADS: usize = 6;
const SEED: u64 = 23;

/// The embedded transformer, for captions of this width.
#[must_use]
pub fn config(width: usize) -> DitConfig {
    DitConfig {
        num_attention_heads: HEADS,
        attention_head_dim: 32,
        in_channels: 4,
        out_channels: Some(4),
        num_layers: BLOCKS,
        cross_attention_dim: Some(HEADS * 32),
        sample_size: 16,
        patch_size: 2,
        use_additional_conditions: Some(false),
        caption_channels: Some(width),
        ..DitConfig::default()
    }
}

/// The transformer with the text encoder that it is trained on.
struct Network {
    dit: Dit,
    t5: T5,
}

impl Denoises for Network {
    const HEADS: usize = HEADS;

    fn grounded(&self) -> Vec<String> {
        (UNGROUNDED..self.dit.config().num_layers).map(|i| format!("transformer_blocks.{i}.attn2")).collect()
    }

    fn middle(&self) -> (String, usize) {
        let config = self.dit.config();
        (format!("transformer_blocks.{}", config.num_layers / 2 - 1), config.width())
    }

    fn first(&self) -> usize {
        self.t5.first()
    }

    fn captions(&self, texts: &[&str]) -> Result<Captions> {
        self.t5.captions(texts)
    }

    fn predict(&self, sample: &Tensor, times: &Tensor, captions: &Captions, tap: &mut Tap<'_>) -> Result<Tensor> {
        self.dit.forward(sample, times, captions, None, tap)
    }
}

/// Trains the transformer on the U-Net's autoencoder and its own text encoder, and completes its folder.
///
/// # Errors
/// Of files (autoencoder and text encoder come before) and of the training.
pub fn train(options: &Options) -> Result<()> {
    let dir = options.transformer();
    for file in ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"] {
        copy(&options.model().join(file), &dir.join(file))?;
    }
    let text_config = T5Config::read(&mut Fields::read(&dir.join("text_encoder/config.json"))?)?;
    let text_weights = [dir.join("text_encoder/model.safetensors")];
    let t5 = T5 {
        tokenizer: T5Tokenizer::open(&dir.join("tokenizer"))?,
        encoder: T5Encoder::load(&text_config, &Weights::open(&text_weights, &Device::Cpu, DType::F32)?)?,
    };
    let config = config(text_config.d_model);
    let weights = options.weights("scene-dit/transformer/diffusion_pytorch_model.safetensors", SEED)?;
    let network = Network { dit: Dit::load(&config, &weights)?, t5 };
    if options.from.is_none() {
        start_at_zero(&weights)?;
    }
    let components = json!({
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "PixArtTransformer2DModel"],
    });
    let stage = Stage {
        name: "dit",
        folder: &dir,
        network: "transformer",
        class: "PixArtAlphaPipeline",
        components,
        scenes: SCENES,
        steps: STEPS,
        micro: MICRO,
        seed: SEED,
    };
    stage.train(options, &network, &weights, &config.to_json())
}

fn start_at_zero(weights: &Weights) -> Result<()> {
    for (name, var) in weights.vars() {
        if name.contains("attn2.to_out.0") || name.starts_with("proj_out") {
            var.set(&var.zeros_like()?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::denoising::tests;
    use crate::scene::vocabulary;

    #[test]
    fn gradients_by_tape_are_those_of_the_graph() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = T5Tokenizer::write_words(&vocabulary(), super::super::reading::WINDOW, folder.path()).unwrap();
        let text = super::super::t5::config(&tokenizer);
        let encoder = T5Encoder::load(&text, &Weights::seeded(1, &Device::Cpu)).unwrap();
        let weights = Weights::seeded(1, &Device::Cpu);
        let small = DitConfig { num_layers: 3, ..config(text.d_model) };
        let network = Network { dit: Dit::load(&small, &weights).unwrap(), t5: T5 { tokenizer, encoder } };
        tests::gradients_are_those_of_the_graph(&network, &weights);
    }
}
