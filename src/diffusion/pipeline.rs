//! From prompt to picture: a model with all its components, and generation with hooks.

mod command;
mod generation;
mod picture;
mod reader;
mod request;

pub use command::Generate;
pub use generation::{Generation, Generations};
pub use picture::{Picture, Settings};
pub(crate) use picture::{png, strip};
pub use reader::{ClipReader, Reader, T5Reader};

use crate::device;
use crate::diffusion::captions::Captions;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::dit::{Dit, DitConfig, MicroConditions, Modulation};
use crate::diffusion::hook::Site;
use crate::diffusion::open::{ModelFolder, check_memory};
use crate::diffusion::scheduler::{SchedulerConfig, SchedulerKind};
use crate::diffusion::tap::Tap;
use crate::diffusion::unet::{Unet, UnetConfig};
use crate::diffusion::vae::{Vae, VaeConfig};
use crate::diffusion::weights::Weights;
use crate::error::{Error, Result};
use crate::random;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

/// The pipelines that can be opened, with the guidance scale (diffusers' default) of a model that does not state its
/// own.
const CLASSES: [(&str, f64); 2] = [("StableDiffusionPipeline", 7.5), ("PixArtAlphaPipeline", 4.5)];

/// The scheduler classes that a model may come with.
const SCHEDULERS: [&str; 4] =
    ["DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"];

/// A text-to-image model in the layout of diffusers' `StableDiffusionPipeline` or `PixArtAlphaPipeline`.
///
/// ```no_run
/// use denoscope::diffusion::pipeline::Pipeline;
/// let model = Pipeline::open("scene-unet")?;
/// let picture = model.prompt("a red house in a meadow").seed(7).steps(50).run()?;
/// picture.save("house.png")?;
/// # Ok::<(), denoscope::Error>(())
/// ```
///
/// Pictures have the size that is asked for; diffusers' PixArt pipeline paints the nearest of a list of sizes and
/// resizes the picture, unless called with `use_resolution_binning=False`. PixArt's text encoder is larger than all the
/// rest together. It is loaded when the first prompt is read, and may be missing where captions come computed
/// beforehand:
///
/// ```no_run
/// use denoscope::diffusion::{captions::Precomputed, pipeline::Pipeline};
/// let model = Pipeline::open("models/PixArt-XL-2-1024-MS")?;
/// let captions = Precomputed::open("captions.safetensors")?;
/// let picture = model.prompt("a cat on a table").precomputed(&captions).steps(20).run()?;
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug)]
pub struct Pipeline {
    /// Predicts the noise in a latent.
    pub denoiser: Denoiser,
    /// Pictures to latents and back.
    pub vae: Vae,
    /// Reads prompts.
    pub reader: Reader,
    /// The scheduler that the model comes with.
    pub scheduler: SchedulerConfig,
    name: String,
    fingerprint: String,
    guidance: f64,
    device: Device,
}

impl Pipeline {
    /// Opens a model by the name of an embedded one, by its folder, or by its hub id (see
    /// [`locate`](crate::diffusion::open::locate)), on the [chosen](crate::device::chosen) device.
    ///
    /// # Errors
    /// Names the file, component, field or tensor that is missing, truncated or not supported; of the device.
    pub fn open(name: &str) -> Result<Self> {
        Self::open_on(name, &device::chosen()?)
    }

    /// As [`Pipeline::open`], on a device.
    ///
    /// # Errors
    /// As [`Pipeline::open`].
    pub fn open_on(name: &str, device: &Device) -> Result<Self> {
        Self::open_kept_in(name, device, DType::F32)
    }

    /// As [`Pipeline::open_on`], with the weights of linear and convolutional layers kept in [`DType::BF16`] or
    /// [`DType::F16`], which takes half the memory. Everything is computed in f32 all the same.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use denoscope::diffusion::pipeline::Pipeline;
    /// let model = Pipeline::open_kept_in("scene-unet", &Device::Cpu, DType::BF16)?;
    /// # Ok::<(), denoscope::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Pipeline::open`]; another type.
    pub fn open_kept_in(name: &str, device: &Device, kept: DType) -> Result<Self> {
        let folder = ModelFolder::open(name)?;
        let class = folder.class(&CLASSES.map(|c| c.0))?;
        let default = CLASSES.iter().find(|c| c.0 == class).map_or(1.0, |c| c.1);
        let transformer = class == "PixArtAlphaPipeline";
        folder.component("vae", &["AutoencoderKL"])?;
        folder.component("scheduler", &SCHEDULERS)?;
        let scheduler = SchedulerConfig::read(&mut folder.fields("scheduler", "scheduler_config.json")?)?;
        let vae_config = VaeConfig::read(&mut folder.fields("vae", "config.json")?)?;
        let weights = |component: &str| Weights::open(&folder.weights(component)?, device, kept);
        // T5 is weighed when it is loaded.
        let parts = if transformer { vec!["transformer", "vae"] } else { vec!["unet", "vae", "text_encoder"] };
        // What is wrong with a component is said where it is loaded.
        if let Ok(found) = parts.iter().map(|part| weights(part)).collect::<Result<Vec<_>>>() {
            check_memory(name, &parts.into_iter().zip(&found).collect::<Vec<_>>())?;
        }
        let (denoiser, reader) = if transformer {
            // Published models were written when one class served all transformers.
            let at = folder.component("transformer", &["PixArtTransformer2DModel", "Transformer2DModel"])?;
            let config = DitConfig::open(&at.join("config.json"))?;
            let reader = Reader::t5(&folder, device, kept)?;
            let weights = weights("transformer")?;
            let dit = Dit::load(&config, &weights)?;
            weights.finish()?;
            (Denoiser::Dit(Box::new(dit)), reader)
        } else {
            let at = folder.component("unet", &["UNet2DConditionModel"])?;
            let config = UnetConfig::read(&at.join("config.json"))?;
            let reader = Reader::clip(&folder, device, kept)?;
            let weights = weights("unet")?;
            let unet = Unet::load(&config, &weights)?;
            weights.finish()?;
            (Denoiser::Unet(Box::new(unet)), reader)
        };
        let vae_weights = weights("vae")?;
        let vae = Vae::load(&vae_config, &vae_weights)?;
        vae_weights.finish()?;
        let (latent, channels, outputs) = (vae_config.latent_channels, denoiser.channels(), denoiser.outputs());
        // A transformer may predict a variance beside the noise.
        if latent != channels || !(channels == outputs || transformer && outputs == 2 * channels) {
            let problem = format!(
                "latents of {latent} channels (vae) do not fit a network from {channels} to {outputs} channels"
            );
            return Err(Error::format(folder.path(), problem));
        }
        let components = ["unet", "transformer", "vae", "text_encoder", "tokenizer", "scheduler"];
        let components: Vec<&str> = components.into_iter().filter(|c| folder.has(c)).collect();
        Ok(Self {
            denoiser,
            vae,
            reader,
            scheduler,
            name: name.into(),
            fingerprint: folder.fingerprint(&components)?,
            guidance: folder.note("_guidance_scale").and_then(Value::as_f64).unwrap_or(default),
            device: device.clone(),
        })
    }

    /// The name it was opened by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A digest of configuration and weights: two models with one fingerprint are the same model.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The guidance scale that is used unless another is asked for.
    #[must_use]
    pub fn guidance(&self) -> f64 {
        self.guidance
    }

    /// The device that it runs on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// All module paths of the U-Net or transformer that hooks can name.
    #[must_use]
    pub fn modules(&self) -> Vec<String> {
        self.denoiser.modules()
    }

    /// Refuses sites that the U-Net or transformer does not have.
    ///
    /// # Errors
    /// A path that does not exist, or the residual of a module whose input and output differ in shape.
    pub fn check<'a>(&self, sites: impl IntoIterator<Item = &'a Site>) -> Result<()> {
        self.denoiser.check(sites)
    }

    /// The U-Net.
    ///
    /// # Errors
    /// A model that has a transformer.
    pub fn unet(&self) -> Result<&Unet> {
        match &self.denoiser {
            Denoiser::Unet(unet) => Ok(unet),
            Denoiser::Dit(_) => Err(Error::invalid(format!("{} has a transformer, not a U-Net", self.name))),
        }
    }

    /// The transformer.
    ///
    /// # Errors
    /// A model that has a U-Net.
    pub fn dit(&self) -> Result<&Dit> {
        match &self.denoiser {
            Denoiser::Dit(dit) => Ok(dit),
            Denoiser::Unet(_) => Err(Error::invalid(format!("{} has a U-Net, not a transformer", self.name))),
        }
    }

    /// What a notebook shows: the model's parts in a few lines.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }

    /// Height and width, in pixels, of the pictures that the model was trained on.
    #[must_use]
    pub fn picture_size(&self) -> (usize, usize) {
        let factor = self.vae.factor();
        let side = self.vae.config().sample_size / factor;
        let (h, w) = self.denoiser.sample_size().unwrap_or((side, side));
        (h * factor, w * factor)
    }

    /// Begins the generation of one picture.
    pub fn prompt(&self, prompt: &str) -> Generation<'_> {
        Generation::new(self, prompt)
    }

    /// Begins the generation of one picture a prompt.
    pub fn prompts<S: AsRef<str>>(&self, prompts: &[S]) -> Generations<'_> {
        Generations::new(self, prompts)
    }

    /// The text encoder's reading of prompts: `[prompts, window, width]`. See [`Pipeline::captions`].
    ///
    /// # Errors
    /// As [`Pipeline::captions`].
    pub fn encode_prompts<S: AsRef<str>>(&self, prompts: &[S]) -> Result<Tensor> {
        Ok(self.captions(prompts)?.embeds)
    }

    /// The text encoder's reading of prompts and, where the network needs it, a mask. A prompt that does not fit the
    /// window is cut off, with a line on standard error that quotes what was lost.
    ///
    /// # Errors
    /// A model whose folder has no text encoder; of the tensor library.
    pub fn captions<S: AsRef<str>>(&self, prompts: &[S]) -> Result<Captions> {
        match prompts {
            // One prompt under several seeds is read once.
            [first, rest @ ..] if rest.iter().all(|p| p.as_ref() == first.as_ref()) => {
                self.reader.read(&prompts[..1], &self.device)?.part(0, prompts.len())
            }
            _ => self.reader.read(prompts, &self.device),
        }
    }

    /// One pass of the network: the noise in scaled latents `sample[batch, h, w, channels]` at a timestep, given the
    /// captions of `batch` prompts.
    ///
    /// # Errors
    /// Shapes that do not fit; sites that do not exist; a hook's own.
    pub fn predict(&self, sample: &Tensor, timestep: f64, captions: &Captions, tap: &mut Tap<'_>) -> Result<Tensor> {
        let (_, h, w, _) = sample.dims4()?;
        let factor = self.vae.factor();
        let at = Tensor::new(&[timestep as f32], &self.device)?;
        self.denoiser.forward(sample, &at, captions, (h * factor, w * factor), tap)
    }

    /// The vectors by which block `block` of a transformer modulates its tokens at some steps of a generation of `steps`
    /// steps, each `[at, width]`.
    ///
    /// # Errors
    /// A model that has a U-Net, a block or a step that does not exist; of the tensor library.
    pub fn modulation(&self, block: usize, at: &[usize], steps: usize) -> Result<Modulation> {
        let timesteps = self.scheduler.scheduler(steps)?.timesteps().to_vec();
        let chosen = at.iter().map(|&step| {
            timesteps.get(step).map(|t| *t as f32).ok_or_else(|| {
                Error::invalid(format!("modulation at step {step} of a generation of {} steps", timesteps.len()))
            })
        });
        let chosen = Tensor::new(chosen.collect::<Result<Vec<_>>>()?, &self.device)?;
        let (dit, (h, w)) = (self.dit()?, self.picture_size());
        let size = || MicroConditions::new(at.len(), h, w, &self.device);
        let size = dit.config().additional_conditions().then(size).transpose()?;
        dit.modulation(block, &chosen, size.as_ref())
    }

    /// The noise that generation starts from, `[seeds, h, w, channels]`: standard normal numbers from the stream
    /// `(seed, "latents", 0)` of each, drawn channel by channel and row by row, so that the same numbers fill the
    /// `[channels, h, w]` array of a channels-first program.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn noise(&self, seeds: &[u64], h: usize, w: usize) -> Result<Tensor> {
        let c = self.denoiser.channels();
        let values: Vec<f32> = seeds.iter().flat_map(|&s| random::stream(s, "latents", 0).normals(c * h * w)).collect();
        let noise = Tensor::from_vec(values, (seeds.len(), c, h, w), &self.device)?;
        Ok(noise.permute((0, 2, 3, 1))?.contiguous()?)
    }

    /// The model's noise schedule under another kind of scheduler.
    #[must_use]
    pub fn scheduler_as(&self, kind: SchedulerKind) -> SchedulerConfig {
        self.scheduler.with_kind(kind)
    }
}

impl std::fmt::Display for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (h, w) = self.picture_size();
        let factor = self.vae.factor();
        writeln!(f, "{} ({})", self.name, self.fingerprint)?;
        writeln!(f, "pictures {w}×{h}, latents {}×{} of {}", w / factor, h / factor, self.denoiser.channels())?;
        match self.reader.window() {
            Some(window) => writeln!(f, "text window {window} tokens, guidance {}", self.guidance)?,
            None => writeln!(f, "no text encoder, guidance {}", self.guidance)?,
        }
        if let Denoiser::Dit(dit) = &self.denoiser {
            let config = dit.config();
            return write!(f, "{} transformer blocks of width {}", config.num_layers, config.width());
        }
        let attentions: Vec<String> =
            self.modules().into_iter().filter(|m| m.contains("attentions.") && m.matches('.').count() <= 3).collect();
        let blocks = attentions.iter().filter(|m| m.rsplit('.').next().is_some_and(|n| n.parse::<usize>().is_ok()));
        let names: Vec<&str> = blocks.map(String::as_str).collect();
        write!(f, "cross-attention blocks {}", names.join(", "))
    }
}
