//! Stage 3: the diffusion model.
//!
//! ε-prediction on cached latents with Stable Diffusion's noise schedule; squared error weighted by
//! min(SNR, γ)/SNR (Hang et al. 2023); every sample gets a new phrasing of its scene's caption, and one in ten an
//! empty one, which is what guidance needs. Timesteps are stratified: sample i of a batch of n draws from the i-th
//! of n equal parts of the process, which lowers the variance of the gradient at no cost.
//!
//! Two helps that a short training needs fall to nothing over its course: what objects cover weighs more than the
//! backdrop around them, which is learned early, and cross-attention is [grounded](super::grounding).

use crate::diffusion::hook::Half;
use crate::diffusion::layers::composed;
use crate::diffusion::open::Fields;
use crate::diffusion::tap::{Pass, Tap};
use crate::diffusion::text::{TextConfig, TextEncoder, Tokenizer};
use crate::diffusion::unet::{Counts, Unet, UnetConfig};
use crate::diffusion::vae::{Vae, VaeConfig};
use crate::diffusion::weights::Weights;
use crate::embedded::files::write_json;
use crate::embedded::grounding::{Covers, Watch};
use crate::embedded::latents::Latents;
use crate::embedded::noise::{BETA_END, BETA_START, NoiseSchedule, STEPS as TIMESTEPS};
use crate::embedded::options::Options;
use crate::embedded::text::{ids, phrase};
use crate::embedded::trainer::{Loss, Micro, Trainer};
use crate::error::{Error, Result};
use crate::random::stream;
use crate::scene::{Scene, Split};
use candle_core::{D, DType, Device, Tensor};
use serde_json::json;
use std::path::Path;

/// Scenes that it learns from, unless the options say otherwise.
pub const SCENES: usize = 24_000;
/// Samples a step.
const BATCH: usize = 32;
/// Samples of one pass.
const MICRO: usize = 8;
const STEPS: usize = 12_000;
/// γ of the loss weights.
const GAMMA: f64 = 5.0;
/// Weight at the start of what an object covers, beyond that of the backdrop.
const COVERED: f32 = 2.0;
/// Weight at the start of the grounding loss, which is about 0.8 then; the squared error is about 0.1.
const GROUNDING: f64 = 0.03;
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
/// Share of empty captions.
const EMPTY: f32 = 0.1;
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

/// Everything that stays as it is while the U-Net is trained.
struct Frozen {
    tokenizer: Tokenizer,
    encoder: TextEncoder,
    latents: Latents,
    covers: Covers,
    noise: NoiseSchedule,
}

/// Trains the U-Net on the autoencoder and the text encoder of the model folder, and completes that folder.
///
/// # Errors
/// Of files (the first two stages come before this one) and of the training.
pub fn train(options: &Options) -> Result<()> {
    let dir = options.model();
    let device = Device::Cpu;
    let vae_config = VaeConfig::read(&mut Fields::read(&dir.join("vae/config.json"))?)?;
    let vae_weights = [dir.join("vae/diffusion_pytorch_model.safetensors")];
    let vae = Vae::load(&vae_config, &Weights::open(&vae_weights, &device, DType::F32)?)?;
    let text_config = TextConfig::read(&mut Fields::read(&dir.join("text_encoder/config.json"))?)?;
    let text_weights = [dir.join("text_encoder/model.safetensors")];
    let config = config(options.channels, text_config.hidden_size);
    let mut settings = options.settings("unet", STEPS);
    settings.batch = BATCH;
    settings.micro = MICRO;
    settings.schedule.peak = 1e-3;
    settings.columns = vec!["square", "grounding"];
    let scenes = options.scenes.unwrap_or(SCENES);
    std::fs::create_dir_all(&settings.dir).map_err(Error::file(&settings.dir))?;
    let threads = settings.threads;
    let cache = settings.dir.join("latents.f32");
    let frozen = Frozen {
        tokenizer: Tokenizer::open(&dir.join("tokenizer"))?,
        encoder: TextEncoder::load(&text_config, &Weights::open(&text_weights, &device, DType::F32)?)?,
        latents: Latents::make(&vae, scenes, &cache, threads)?,
        covers: Covers::render(scenes),
        noise: NoiseSchedule::default(),
    };
    let weights = options.weights("scene-unet/unet/diffusion_pytorch_model.safetensors", SEED)?;
    let unet = Unet::load(&config, &weights)?;
    let mut trainer = Trainer::new(&weights, settings)?;
    index(&dir)?;
    trainer.run(
        |micro| loss(&unet, &frozen, micro),
        |trainer| {
            write_json(&dir.join("unet/config.json"), &config.to_json())?;
            let path = dir.join("unet/diffusion_pytorch_model.safetensors");
            weights.save(&path, DType::F16, Some(&trainer.averages()?))
        },
    )
}

fn loss(unet: &Unet, frozen: &Frozen, micro: &Micro) -> Result<Loss> {
    let size = frozen.latents.of(0).len();
    let n = (micro.samples.end - micro.samples.start) as usize;
    let (mut noisy, mut noise, mut times) = (Vec::with_capacity(n * size), Vec::with_capacity(n * size), Vec::new());
    let (mut weights, mut texts, mut grounded) = (Vec::new(), Vec::new(), Vec::new());
    let help = 1.0 - micro.done;
    for sample in micro.samples.clone() {
        let s = &mut stream(SEED, "sample", sample);
        let index = s.below(frozen.latents.len());
        let stratum = (sample % BATCH as u64) as f32;
        let t = ((stratum + s.uniform()) / BATCH as f32 * TIMESTEPS as f32) as usize;
        let t = t.min(TIMESTEPS - 1);
        let (keep, add) = frozen.noise.mix(t);
        let epsilon = s.normals(size);
        noisy.extend(frozen.latents.of(index).iter().zip(&epsilon).map(|(x, e)| keep * x + add * e));
        noise.extend(epsilon);
        times.push(t as f32);
        let weight = frozen.noise.weight(t, GAMMA) as f32;
        weights.extend(frozen.covers.any(index).into_iter().map(|c| weight * (1.0 + help as f32 * COVERED * c)));
        let caption = phrase(&Scene::sample(Split::Train, index as u64), s);
        let empty = s.chance(EMPTY);
        grounded.push(if empty { Vec::new() } else { frozen.covers.grounded(index, &caption) });
        texts.push(if empty { String::new() } else { caption.text });
    }
    let channels = unet.config().in_channels;
    let side = (size / channels).isqrt();
    let shape = (n, side, side, channels);
    let device = &Device::Cpu;
    let states = frozen.encoder.forward(&ids(&frozen.tokenizer, &texts)?)?.detach();
    let times = Tensor::from_vec(times, n, device)?;
    let mut watch = Watch::new(GROUNDED.map(|path| format!("{path}.transformer_blocks.0.attn2")));
    let mut tap = Tap::new(vec![&mut watch]);
    let (halves, items) = (vec![Half::Conditional], (0..n).collect());
    tap.begin(Pass { step: 0, steps: 1, timestep: 0.0, halves, items });
    let found = unet.forward(&Tensor::from_vec(noisy, shape, device)?, &times, &states, &mut tap)?;
    drop(tap);
    let noise = Tensor::from_vec(noise, shape, device)?;
    let weights = Tensor::from_vec(weights, (n, side, side), device)?;
    let mut square = 0.0;
    let denoising = composed(&[&found], |x| {
        let squares = (&x[0] - &noise)?.sqr()?.mean(D::Minus1)?;
        square = squares.mean_all()?.to_scalar()?;
        Ok((squares * &weights)?.mean_all()?)
    })?;
    Ok(match watch.loss(&grounded, HEADS)? {
        Some(grounding) => {
            let total = composed(&[&denoising, &grounding], |x| Ok((&x[0] + (&x[1] * (help * GROUNDING))?)?))?;
            Loss { total, parts: vec![square, grounding.to_scalar()?] }
        }
        None => Loss { total: denoising, parts: vec![square, 0.0] },
    })
}

/// `model_index.json` and the scheduler, as `StableDiffusionPipeline.from_pretrained` expects them.
fn index(dir: &Path) -> Result<()> {
    let index = json!({
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.32.2",
        "_guidance_scale": 4.0,
        "feature_extractor": [null, null],
        "image_encoder": [null, null],
        "requires_safety_checker": false,
        "safety_checker": [null, null],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    let scheduler = json!({
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.32.2",
        "beta_end": BETA_END,
        "beta_schedule": "scaled_linear",
        "beta_start": BETA_START,
        "clip_sample": false,
        "num_train_timesteps": TIMESTEPS,
        "prediction_type": "epsilon",
        "set_alpha_to_one": false,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": null,
    });
    write_json(&dir.join("model_index.json"), &index)?;
    write_json(&dir.join("scheduler/scheduler_config.json"), &scheduler)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::layers::tape::against_graph;
    use crate::scene::vocabulary;

    #[test]
    fn gradients_by_tape_are_those_of_the_graph() {
        let folder = tempfile::tempdir().unwrap();
        let device = &Device::Cpu;
        let vae = Vae::load(&VaeConfig::embedded(), &Weights::seeded(1, device)).unwrap();
        let tokenizer = Tokenizer::from_words(&vocabulary(), super::super::text::WINDOW).unwrap();
        let text = super::super::text::config(&tokenizer);
        let frozen = Frozen {
            encoder: TextEncoder::load(&text, &Weights::seeded(1, device)).unwrap(),
            latents: Latents::make(&vae, 3, &folder.path().join("latents.f32"), 1).unwrap(),
            covers: Covers::render(3),
            noise: NoiseSchedule::default(),
            tokenizer,
        };
        let weights = Weights::seeded(1, device);
        let unet = Unet::load(&config(32, text.hidden_size), &weights).unwrap();
        let micro = Micro { step: 0, done: 0.25, samples: 0..2 };
        against_graph(&weights.vars(), || Ok(loss(&unet, &frozen, &micro)?.total));
    }
}
