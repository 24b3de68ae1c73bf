//! Stage 3: the diffusion model.
//!
//! ε-prediction on cached latents with Stable Diffusion's noise schedule; squared error weighted by
//! min(SNR, γ)/SNR (Hang et al. 2023); every sample gets a new phrasing of its scene's caption, and one in ten an
//! empty one, which is what guidance needs. Timesteps are stratified: sample i of a batch of n draws from the i-th
//! of n equal parts of the process, which lowers the variance of the gradient at no cost.

use crate::diffusion::layers::composed;
use crate::diffusion::open::Fields;
use crate::diffusion::tap::Tap;
use crate::diffusion::text::{TextConfig, TextEncoder, Tokenizer};
use crate::diffusion::unet::{Counts, Unet, UnetConfig};
use crate::diffusion::vae::{Vae, VaeConfig};
use crate::diffusion::weights::Weights;
use crate::embedded::files::write_json;
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
        attention_head_dim: Counts::Same(4),
        ..UnetConfig::default()
    }
}

/// Everything that stays as it is while the U-Net is trained.
struct Frozen {
    tokenizer: Tokenizer,
    encoder: TextEncoder,
    latents: Latents,
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
    settings.columns = vec!["square"];
    let scenes = options.scenes.unwrap_or(SCENES);
    std::fs::create_dir_all(&settings.dir).map_err(Error::file(&settings.dir))?;
    let threads = settings.threads;
    let cache = settings.dir.join("latents.f32");
    let frozen = Frozen {
        tokenizer: Tokenizer::open(&dir.join("tokenizer"))?,
        encoder: TextEncoder::load(&text_config, &Weights::open(&text_weights, &device, DType::F32)?)?,
        latents: Latents::make(&vae, scenes, &cache, threads)?,
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
    let (mut weights, mut texts) = (Vec::new(), Vec::new());
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
        weights.push(frozen.noise.weight(t, GAMMA) as f32);
        let scene = Scene::sample(Split::Train, index as u64);
        texts.push(if s.chance(EMPTY) { String::new() } else { phrase(&scene, s).text });
    }
    let channels = unet.config().in_channels;
    let side = (size / channels).isqrt();
    let shape = (n, side, side, channels);
    let device = &Device::Cpu;
    let states = frozen.encoder.forward(&ids(&frozen.tokenizer, &texts)?)?.detach();
    let times = Tensor::from_vec(times, n, device)?;
    let found = unet.forward(&Tensor::from_vec(noisy, shape, device)?, &times, &states, &mut Tap::none())?;
    let noise = Tensor::from_vec(noise, shape, device)?;
    let weights = Tensor::from_vec(weights, n, device)?;
    let squares = |found: &Tensor| -> Result<Tensor> { Ok((found - &noise)?.sqr()?.flatten_from(1)?.mean(D::Minus1)?) };
    let total = composed(&[&found], |x| Ok((squares(&x[0])? * &weights)?.mean_all()?))?;
    Ok(Loss { total, parts: vec![squares(&found.detach())?.mean_all()?.to_scalar()?] })
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

    #[test]
    fn gradients_by_tape_are_those_of_the_graph() {
        let weights = Weights::seeded(1, &Device::Cpu);
        let unet = Unet::load(&config(32, 8), &weights).unwrap();
        let normal = |shape: &[usize]| {
            let values = stream(2, "input", shape.len() as u64).normals(shape.iter().product());
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let (x, text) = (normal(&[2, 8, 8, 4]), normal(&[2, 5, 8]));
        let times = Tensor::new(&[700f32, 20.0], &Device::Cpu).unwrap();
        against_graph(&weights.vars(), || {
            let y = unet.forward(&x, &times, &text, &mut Tap::none())?;
            composed(&[&y], |y| Ok((&y[0] - &x)?.sqr()?.mean_all()?))
        });
    }
}
