//! `denoscope generate`.

use super::Pipeline;
use crate::diffusion::captions::Precomputed;
use crate::diffusion::scheduler::SchedulerKind;
use crate::diffusion::weights::Kept;
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use clap::Args;
use std::path::{Path, PathBuf};

/// Paint a prompt with a diffusion model: one PNG a seed, its settings kept within.
#[derive(Debug, Clone, Args)]
pub struct Generate {
    /// Embedded model, folder in diffusers layout, or hub id (owner/model@revision).
    pub model: String,
    /// What to paint.
    pub prompt: String,
    /// What to steer away from.
    #[arg(long, default_value = "")]
    pub negative: String,
    /// Seeds of the initial noise, one picture each.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub seeds: Vec<u64>,
    /// Denoising steps.
    #[arg(long, default_value_t = super::request::STEPS)]
    pub steps: usize,
    /// Guidance scale; the model's own by default.
    #[arg(long)]
    pub guidance: Option<f64>,
    /// Scheduler in place of the model's own.
    #[arg(long, value_enum)]
    pub scheduler: Option<SchedulerKind>,
    /// Height and width in pixels; the model's own by default.
    #[arg(long, num_args = 2, value_names = ["HEIGHT", "WIDTH"])]
    pub size: Option<Vec<usize>>,
    /// Initial latents in place of seeded noise: a safetensors file with `latents`, [seeds, channels, h, w] as
    /// diffusers takes them.
    #[arg(long)]
    pub latents: Option<PathBuf>,
    /// Captions in place of the text encoder's reading of the prompt: a safetensors file with `prompt_embeds` and
    /// `prompt_attention_mask` and, for guidance, the same with `negative_` before them.
    #[arg(long)]
    pub captions: Option<PathBuf>,
    /// Pictures denoised at once.
    #[arg(long, default_value_t = super::request::BATCH)]
    pub batch: usize,
    /// What the weights are kept in. Everything is computed in f32.
    #[arg(long, value_enum, default_value_t)]
    pub weights: Kept,
    /// Decode pictures tile by tile, as diffusers' enable_vae_tiling does: less memory for large ones.
    #[arg(long)]
    pub vae_tiling: bool,
    /// Folder for the pictures, named SEED.png.
    #[arg(long, default_value = ".")]
    pub out: PathBuf,
}

impl Generate {
    /// Runs the command.
    ///
    /// # Errors
    /// Of opening the model, of the settings, or of writing.
    pub fn run(self) -> Result<()> {
        let mut model = Pipeline::open_kept_in(&self.model, &Device::Cpu, self.weights.dtype())?;
        if self.vae_tiling {
            model.vae.enable_tiling()?;
        }
        let mut generation = model
            .prompt(&self.prompt)
            .negative(&self.negative)
            .steps(self.steps)
            .guidance(self.guidance.unwrap_or(model.guidance()))
            .seeds(&self.seeds)
            .batch(self.batch);
        if let Some(kind) = self.scheduler {
            generation = generation.scheduler(kind);
        }
        if let Some(&[height, width]) = self.size.as_deref() {
            generation = generation.size(height, width);
        }
        if let Some(file) = &self.captions {
            generation = generation.precomputed(&Precomputed::open(file)?);
        }
        if let Some(file) = &self.latents {
            generation = generation.latents(&read_latents(file)?);
        }
        std::fs::create_dir_all(&self.out).map_err(Error::file(&self.out))?;
        for picture in generation.run()? {
            let path = self.out.join(format!("{}.png", picture.seed));
            picture.save(&path)?;
            println!("{}", path.display());
        }
        Ok(())
    }
}

/// The tensor `latents` of a safetensors file, channels first, as channels last.
fn read_latents(file: &Path) -> Result<Tensor> {
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).map_err(|e| Error::format(file, e))?;
    let latents = tensors
        .get("latents")
        .ok_or_else(|| Error::format(file, Error::unknown("tensor", "latents", tensors.keys())))?;
    if latents.rank() != 4 {
        let what = format!("latents in {}", file.display());
        return Err(Error::Shape { what, found: latents.dims().into(), expected: vec![0; 4] });
    }
    Ok(latents.permute((0, 2, 3, 1))?.contiguous()?)
}
