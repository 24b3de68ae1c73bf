//! From prompt to picture: a model with all its components, and generation with hooks.

mod command;
mod generation;
mod picture;
mod request;

pub use command::Generate;
pub use generation::{Generation, Generations};
pub(crate) use picture::png;
pub use picture::{Picture, Settings};

use crate::diffusion::open::ModelFolder;
use crate::diffusion::scheduler::{SchedulerConfig, SchedulerKind};
use crate::diffusion::text::{TextConfig, TextEncoder, Tokenizer};
use crate::diffusion::unet::{Counts, Unet, UnetConfig};
use crate::diffusion::vae::{Vae, VaeConfig};
use crate::diffusion::weights::Weights;
use crate::error::{Error, Result};
use crate::random;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

/// Guidance scale of a model that does not state its own (diffusers' default for Stable Diffusion).
const GUIDANCE: f64 = 7.5;

/// The scheduler classes that a model may come with.
const SCHEDULERS: [&str; 4] =
    ["DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"];

/// A text-to-image model in the layout of diffusers' `StableDiffusionPipeline`.
///
/// ```no_run
/// use denoscope::diffusion::pipeline::Pipeline;
/// let model = Pipeline::open("scene-unet")?;
/// let picture = model.prompt("a red house in a meadow").seed(7).steps(50).run()?;
/// picture.save("house.png")?;
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug)]
pub struct Pipeline {
    /// Predicts the noise in a latent.
    pub unet: Unet,
    /// Pictures to latents and back.
    pub vae: Vae,
    /// Reads prompts.
    pub text: TextEncoder,
    /// Splits prompts into tokens.
    pub tokenizer: Tokenizer,
    /// The scheduler that the model comes with.
    pub scheduler: SchedulerConfig,
    name: String,
    fingerprint: String,
    guidance: f64,
    device: Device,
}

impl Pipeline {
    /// Opens a model by the name of an embedded one, by its folder, or by its hub id (see
    /// [`locate`](crate::diffusion::open::locate)).
    ///
    /// # Errors
    /// Names the file, component, field or tensor that is missing, truncated or not supported.
    pub fn open(name: &str) -> Result<Self> {
        Self::open_on(name, &Device::Cpu)
    }

    /// As [`Pipeline::open`], on a device.
    ///
    /// # Errors
    /// As [`Pipeline::open`].
    pub fn open_on(name: &str, device: &Device) -> Result<Self> {
        let folder = ModelFolder::open(name)?;
        folder.expect_class("StableDiffusionPipeline")?;
        let unet_folder = folder.component("unet", &["UNet2DConditionModel"])?;
        folder.component("vae", &["AutoencoderKL"])?;
        folder.component("text_encoder", &["CLIPTextModel"])?;
        let tokenizer_folder = folder.component("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"])?;
        folder.component("scheduler", &SCHEDULERS)?;

        let scheduler = SchedulerConfig::read(&mut folder.fields("scheduler", "scheduler_config.json")?)?;
        let text_config = TextConfig::read(&mut folder.fields("text_encoder", "config.json")?)?;
        let vae_config = VaeConfig::read(&mut folder.fields("vae", "config.json")?)?;
        let unet_config = UnetConfig::read(&unet_folder.join("config.json"))?;
        let tokenizer = Tokenizer::open(&tokenizer_folder)?.with_window(text_config.max_position_embeddings);
        if tokenizer.vocab_size() > text_config.vocab_size {
            let problem = format!(
                "{} tokens, more than the text encoder's vocab_size = {}",
                tokenizer.vocab_size(),
                text_config.vocab_size
            );
            return Err(Error::format(tokenizer_folder, problem));
        }

        let weights = |component: &str| Weights::open(&folder.weights(component)?, device, DType::F32);
        let unet_weights = weights("unet")?;
        let unet = Unet::load(&unet_config, &unet_weights)?;
        unet_weights.finish()?;
        let vae_weights = weights("vae")?;
        let vae = Vae::load(&vae_config, &vae_weights)?;
        vae_weights.finish()?;
        let text_weights = weights("text_encoder")?;
        let text = TextEncoder::load(&text_config, &text_weights)?;
        text_weights.finish()?;
        if vae_config.latent_channels != unet_config.in_channels || unet_config.in_channels != unet_config.out_channels
        {
            return Err(Error::format(
                folder.path(),
                format!(
                    "latents of {} channels (vae) do not fit a U-Net from {} to {} channels",
                    vae_config.latent_channels, unet_config.in_channels, unet_config.out_channels
                ),
            ));
        }
        Ok(Self {
            unet,
            vae,
            text,
            tokenizer,
            scheduler,
            name: name.into(),
            fingerprint: folder.fingerprint(&["unet", "vae", "text_encoder", "tokenizer", "scheduler"])?,
            guidance: folder.note("_guidance_scale").and_then(Value::as_f64).unwrap_or(GUIDANCE),
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

    /// All module paths of the U-Net that hooks can name.
    #[must_use]
    pub fn modules(&self) -> Vec<String> {
        self.unet.modules()
    }

    /// What a notebook shows: the model's parts in a few lines.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }

    /// Height and width, in pixels, of the pictures that the model was trained on.
    #[must_use]
    pub fn picture_size(&self) -> (usize, usize) {
        let factor = self.vae.factor();
        let (h, w) = match &self.unet.config().sample_size {
            Some(Counts::Same(n)) => (*n, *n),
            Some(Counts::Each(sides)) if sides.len() == 2 => (sides[0], sides[1]),
            _ => (self.vae.config().sample_size / factor, self.vae.config().sample_size / factor),
        };
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

    /// The text encoder's reading of prompts: `[prompts, window, width]`. A prompt that does not fit the window is
    /// cut off, with a line on standard error that quotes what was lost.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn encode_prompts<S: AsRef<str>>(&self, prompts: &[S]) -> Result<Tensor> {
        let window = self.tokenizer.window();
        let mut ids = Vec::with_capacity(prompts.len() * window);
        for prompt in prompts {
            let prompt = prompt.as_ref();
            let encoded = self.tokenizer.encode(prompt);
            if let Some(lost) = &encoded.lost {
                eprintln!("warning: prompt {prompt:?} is longer than {window} tokens; cut off: {lost:?}");
            }
            ids.extend(encoded.ids);
        }
        self.text.forward(&Tensor::from_vec(ids, (prompts.len(), window), &self.device)?)
    }

    /// The noise that generation starts from, `[seeds, h, w, channels]`: standard normal numbers from the stream
    /// `(seed, "latents", 0)` of each, drawn channel by channel and row by row, so that the same numbers fill the
    /// `[channels, h, w]` array of a channels-first program.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn noise(&self, seeds: &[u64], h: usize, w: usize) -> Result<Tensor> {
        let c = self.unet.config().in_channels;
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
        writeln!(f, "pictures {w}×{h}, latents {}×{} of {}", w / factor, h / factor, self.unet.config().in_channels)?;
        writeln!(f, "text window {} tokens, guidance {}", self.tokenizer.window(), self.guidance)?;
        let attentions: Vec<String> =
            self.modules().into_iter().filter(|m| m.contains("attentions.") && m.matches('.').count() <= 3).collect();
        let blocks = attentions.iter().filter(|m| m.rsplit('.').next().is_some_and(|n| n.parse::<usize>().is_ok()));
        let names: Vec<&str> = blocks.map(String::as_str).collect();
        write!(f, "cross-attention blocks {}", names.join(", "))
    }
}
