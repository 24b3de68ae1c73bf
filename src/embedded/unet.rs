//! Stage 3: the U-Net, by [denoising](super::denoising).

use crate::diffusion::captions::Captions;
use crate::diffusion::open::Fields;
use crate::diffusion::tap::Tap;
use crate::diffusion::text::{TextConfig, TextEncoder, Tokenizer};
use crate::diffusion::unet::{Counts, Unet, UnetConfig};
use crate::diffusion::weights::Weights;
use crate::embedded::denoising::{Denoises, Stage};
use crate::embedded::options::Options;
use crate::embedded::reading::Encoder;
use crate::embedded::text::Clip;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use serde_json::json;

/// Scenes that it learns from, unless the options say otherwise.
pub const SCENES: usize = 24_000;
/// Samples of one pass.
const MICRO: usize = 8;
const STEPS: usize = 12_000;
/// The attentions that are grounded: all but the first block's, which has not seen enough of the picture.
const GROUNDED: [&str; 6] = [
    "down_blocks.1.attentions.0",
    "mid_block.attentions.0",
    "up_blocks.0.attentions.0",
    "up_blocks.0.attentions.1",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
];
/// Heads of an attention.
const HEADS: usize = 4;
const SEED: u64 = 13;

/// The embedded U-Net: 16×16 and 8×8 grids with cross-attention, `channels` at the finer one and twice at the other.
#[must_use]
pub fn config(channels: usize, width: usize) -> UnetConfig {
    let types = |name: &str| vec![name.to_string(); 2];
    UnetConfig {
        sample_size: Some(Counts::Same(16)),
        down_block_types: types("CrossAttnDownBlock2D"),
        up_block_types: types("CrossAttnUpBlock2D"),
        block_out_channels: vec![channels, 2 * channels],
        layers_per_block: Counts::Same(1),
        norm_num_groups: 16,
        cross_attention_dim: Counts::Same(width),
        attention_head_dim: Counts::Same(HEADS),
        ..UnetConfig::default()
    }
}

/// The U-Net with the text encoder that it is trained on.
struct Network {
    unet: Unet,
    clip: Clip,
}

impl Denoises for Network {
    const HEADS: usize = HEADS;

    fn grounded(&self) -> Vec<String> {
        GROUNDED.iter().map(|path| format!("{path}.transformer_blocks.0.attn2")).collect()
    }

    fn middle(&self) -> (String, usize) {
        ("mid_block".into(), *self.unet.config().block_out_channels.last().expect("a U-Net has levels"))
    }

    fn first(&self) -> usize {
        self.clip.first()
    }

    fn captions(&self, texts: &[&str]) -> Result<Captions> {
        Ok(Captions { embeds: self.clip.states(texts)?, mask: None })
    }

    fn predict(&self, sample: &Tensor, times: &Tensor, captions: &Captions, tap: &mut Tap<'_>) -> Result<Tensor> {
        self.unet.forward(sample, times, &captions.embeds, tap)
    }
}

/// Trains the U-Net on the autoencoder and the text encoder of the model folder, and completes that folder.
///
/// # Errors
/// Of files (the first two stages come before this one) and of the training.
pub fn train(options: &Options) -> Result<()> {
    let dir = options.model();
    let text_config = TextConfig::read(&mut Fields::read(&dir.join("text_encoder/config.json"))?)?;
    let text_weights = [dir.join("text_encoder/model.safetensors")];
    let clip = Clip {
        tokenizer: Tokenizer::open(&dir.join("tokenizer"))?,
        encoder: TextEncoder::load(&text_config, &Weights::open(&text_weights, &Device::Cpu, DType::F32)?)?,
    };
    let config = config(options.channels, text_config.hidden_size);
    let weights = options.weights("scene-unet/unet/diffusion_pytorch_model.safetensors", SEED)?;
    let network = Network { unet: Unet::load(&config, &weights)?, clip };
    let components = json!({
        "feature_extractor": [null, null],
        "image_encoder": [null, null],
        "requires_safety_checker": false,
        "safety_checker": [null, null],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    });
    let stage = Stage {
        name: "unet",
        folder: &dir,
        network: "unet",
        class: "StableDiffusionPipeline",
        components,
        scenes: SCENES,
        steps: STEPS,
        micro: MICRO,
        seed: SEED,
    };
    stage.train(options, &network, &weights, &config.to_json())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::denoising::tests;
    use crate::scene::vocabulary;

    #[test]
    fn gradients_by_tape_are_those_of_the_graph() {
        let tokenizer = Tokenizer::from_words(&vocabulary(), super::super::reading::WINDOW).unwrap();
        let text = super::super::text::config(&tokenizer);
        let encoder = TextEncoder::load(&text, &Weights::seeded(1, &Device::Cpu)).unwrap();
        let weights = Weights::seeded(1, &Device::Cpu);
        let unet = Unet::load(&config(32, text.hidden_size), &weights).unwrap();
        let network = Network { unet, clip: Clip { tokenizer, encoder } };
        tests::gradients_are_those_of_the_graph(&network, &weights);
    }
}
