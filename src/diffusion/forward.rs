//! `denoscope forward`: one component of a model on given tensors, to hold it against another implementation.

use crate::diffusion::captions::Captions;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::dit::{Dit, DitConfig, MicroConditions};
use crate::diffusion::hook::{Half, Hook, Kind, Site, Visit};
use crate::diffusion::open::{Fields, check_memory, component_folder, component_weights};
use crate::diffusion::t5::{T5Config, T5Encoder};
use crate::diffusion::tap::{Pass, Tap};
use crate::diffusion::text::{TextConfig, TextEncoder};
use crate::diffusion::unet::{Unet, UnetConfig};
use crate::diffusion::vae::{Vae, VaeConfig};
use crate::diffusion::weights::{Kept, Weights};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use clap::{Args, ValueEnum};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// Which part of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Component {
    /// The U-Net, from `unet/`.
    Unet,
    /// PixArt's transformer, from `transformer/`.
    Transformer,
    /// The autoencoder's first half, from `vae/`.
    VaeEncode,
    /// The autoencoder's second half, from `vae/`.
    VaeDecode,
    /// The text encoder, CLIP or T5, from `text_encoder/`.
    Text,
}

/// Run one component of a model on tensors from a file, as diffusers would, and write what comes out.
///
/// Inputs, by diffusers' names and in its layout: sample, timestep and encoder_hidden_states (unet, transformer), for a
/// transformer also encoder_attention_mask, resolution and aspect_ratio; sample (vae-encode), latents (vae-decode),
/// input_ids and attention_mask (text). Outputs: sample (unet, transformer, vae-decode), latents (vae-encode: the mean,
/// unscaled), last_hidden_state (text), and every capture under its own PATH:KIND.
#[derive(Debug, Clone, Args)]
pub struct Forward {
    /// Embedded model, hub id (owner/model@revision), or folder with the component in its usual subfolder.
    pub model: String,
    /// What to run.
    #[arg(value_enum)]
    pub component: Component,
    /// Safetensors file with the inputs.
    pub inputs: PathBuf,
    /// Safetensors file for the outputs.
    #[arg(long, default_value = "outputs.safetensors")]
    pub out: PathBuf,
    /// What the weights are kept in. Everything is computed in f32.
    #[arg(long, value_enum, default_value_t)]
    pub weights: Kept,
    /// Encode or decode tile by tile, as diffusers' enable_tiling does.
    #[arg(long)]
    pub vae_tiling: bool,
    /// Tensors to capture on the way, as in `mid_block.attentions.0:residual` (unet, transformer).
    #[arg(long, value_name = "PATH:KIND")]
    pub capture: Vec<Site>,
}

impl Forward {
    /// Runs the command.
    ///
    /// # Errors
    /// Of opening the component; inputs that are missing, misshapen or of no use; of writing.
    pub fn run(self) -> Result<()> {
        let outputs = self.outputs()?;
        let partial = self.out.with_extension("partial");
        candle_core::safetensors::save(&outputs, &partial).map_err(|e| Error::format(&partial, e))?;
        std::fs::rename(&partial, &self.out).map_err(Error::file(&self.out))?;
        let mut names: Vec<_> = outputs.iter().collect();
        names.sort_by_key(|(name, _)| name.as_str());
        for (name, tensor) in names {
            println!("{name} {:?}", tensor.dims());
        }
        Ok(())
    }

    /// The outputs by name.
    ///
    /// # Errors
    /// As [`Forward::run`].
    pub fn outputs(&self) -> Result<HashMap<String, Tensor>> {
        let mut inputs = Inputs::open(&self.inputs)?;
        let hooked = matches!(self.component, Component::Unet | Component::Transformer);
        if let (false, Some(site)) = (hooked, self.capture.first()) {
            return Err(Error::invalid(format!("capture of {site}: only unet and transformer have hooks")));
        }
        let mut outputs = HashMap::new();
        let (name, output) = match self.component {
            Component::Unet | Component::Transformer => {
                let (output, captures) = self.denoise(&mut inputs)?;
                outputs.extend(captures);
                ("sample", output)
            }
            Component::VaeEncode => {
                let sample = inputs.map("sample")?;
                inputs.finish()?;
                ("latents", first(&self.vae()?.encode(&sample)?.mean)?)
            }
            Component::VaeDecode => {
                let latents = inputs.map("latents")?;
                inputs.finish()?;
                ("sample", first(&self.vae()?.decode(&latents)?)?)
            }
            Component::Text => {
                let ids = inputs.take("input_ids")?.to_dtype(DType::U32)?;
                let mask = inputs.optional("attention_mask");
                inputs.finish()?;
                ("last_hidden_state", self.read(&ids, mask.as_ref())?)
            }
        };
        outputs.insert(name.into(), output.to_dtype(DType::F32)?.contiguous()?);
        Ok(outputs)
    }

    /// Configuration and weights of a component.
    fn part(&self, name: &str) -> Result<(PathBuf, Weights)> {
        let folder = component_folder(&self.model, name)?;
        let weights = Weights::open(&component_weights(&folder)?, &Device::Cpu, self.weights.dtype())?;
        check_memory(&self.model, &[(name, &weights)])?;
        Ok((folder.join("config.json"), weights))
    }

    fn vae(&self) -> Result<Vae> {
        let (config, weights) = self.part("vae")?;
        let mut vae = Vae::load(&VaeConfig::read(&mut Fields::read(&config)?)?, &weights)?;
        weights.finish()?;
        if self.vae_tiling {
            vae.enable_tiling()?;
        }
        Ok(vae)
    }

    fn read(&self, ids: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let (config, weights) = self.part("text_encoder")?;
        let mut fields = Fields::read(&config)?;
        let kind: Option<String> = fields.optional("model_type")?;
        if kind.as_deref() == Some("t5") {
            let encoder = T5Encoder::load(&T5Config::read(&mut fields)?, &weights)?;
            weights.finish()?;
            return encoder.forward(ids, mask);
        }
        let encoder = TextEncoder::load(&TextConfig::read(&mut fields)?, &weights)?;
        weights.finish()?;
        encoder.forward_masked(ids, mask)
    }

    fn denoise(&self, inputs: &mut Inputs) -> Result<(Tensor, HashMap<String, Tensor>)> {
        let (denoiser, reads) = self.denoiser()?;
        let sample = inputs.map("sample")?;
        let batch = sample.dim(0)?;
        let timestep = inputs.take("timestep")?.to_dtype(DType::F32)?.flatten_all()?;
        let embeds = match (inputs.optional("encoder_hidden_states"), reads) {
            (Some(embeds), _) => embeds,
            (None, false) => Tensor::zeros((batch, 1, 1), DType::F32, &Device::Cpu)?,
            (None, true) => inputs.take("encoder_hidden_states")?,
        };
        let mut look = Look { sites: self.capture.clone(), seen: HashMap::new() };
        let mut tap = Tap::new(vec![&mut look]);
        tap.begin(Pass {
            step: 0,
            steps: 1,
            timestep: f64::from(timestep.get(0)?.to_scalar::<f32>()?),
            halves: vec![Half::Conditional],
            items: (0..batch).collect(),
        });
        let output = match &denoiser {
            Denoiser::Unet(unet) => {
                inputs.finish()?;
                unet.forward(&sample, &timestep, &embeds.to_dtype(DType::F32)?, &mut tap)?
            }
            Denoiser::Dit(dit) => {
                let mask = inputs.optional("encoder_attention_mask");
                let captions = Captions::new(&embeds, mask.as_ref())
                    .map_err(|e| Error::invalid(format!("encoder_hidden_states, encoder_attention_mask: {e}")))?;
                let size = match (inputs.optional("resolution"), inputs.optional("aspect_ratio")) {
                    (Some(resolution), Some(aspect_ratio)) => Some(MicroConditions { resolution, aspect_ratio }),
                    (None, None) => None,
                    _ => return Err(Error::invalid("resolution and aspect_ratio come together, found one of them")),
                };
                inputs.finish()?;
                dit.forward(&sample, &timestep, &captions, size.as_ref(), &mut tap)?
            }
        };
        drop(tap);
        let mut captures = HashMap::new();
        for (site, (tokens, grid)) in look.seen {
            let layout = denoiser.module(&site.module)?;
            // A residual lies as the output does.
            let kind = if site.kind == Kind::Input { Kind::Input } else { Kind::Output };
            captures.insert(site.to_string(), layout.layout(kind).to_diffusers(&tokens, grid)?.contiguous()?);
        }
        Ok((first(&output)?, captures))
    }

    /// The network, and whether it looks at captions.
    fn denoiser(&self) -> Result<(Denoiser, bool)> {
        if self.component == Component::Unet {
            let (config, weights) = self.part("unet")?;
            let unet = Unet::load(&UnetConfig::read(&config)?, &weights)?;
            weights.finish()?;
            let reads = unet.text_width().is_some();
            return Ok((Denoiser::Unet(Box::new(unet)), reads));
        }
        let (config, weights) = self.part("transformer")?;
        let dit = Dit::load(&DitConfig::open(&config)?, &weights)?;
        weights.finish()?;
        let reads = dit.config().caption_width().is_some();
        Ok((Denoiser::Dit(Box::new(dit)), reads))
    }
}

/// The tensors of a file, each to be used.
struct Inputs {
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
    asked: BTreeSet<String>,
}

impl Inputs {
    fn open(path: &Path) -> Result<Self> {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| Error::format(path, e))?;
        Ok(Self { path: path.into(), tensors, asked: BTreeSet::new() })
    }

    fn optional(&mut self, name: &str) -> Option<Tensor> {
        self.asked.insert(name.into());
        self.tensors.remove(name)
    }

    fn take(&mut self, name: &str) -> Result<Tensor> {
        let found = self.optional(name);
        found.ok_or_else(|| Error::format(&self.path, Error::unknown("tensor", name, self.tensors.keys())))
    }

    /// `[batch, channels, h, w]`, as channels-last.
    fn map(&mut self, name: &str) -> Result<Tensor> {
        let x = self.take(name)?;
        if x.rank() != 4 {
            let what = format!("{name} in {}: [batch, channels, height, width]", self.path.display());
            return Err(Error::Shape { what, found: x.dims().into(), expected: vec![0; 4] });
        }
        Ok(x.to_dtype(DType::F32)?.permute((0, 2, 3, 1))?.contiguous()?)
    }

    /// Refuses tensors that nobody asked for.
    fn finish(&self) -> Result<()> {
        match self.tensors.keys().min() {
            None => Ok(()),
            Some(name) => {
                let unknown = Error::unknown("input of this component", name, &self.asked);
                Err(Error::format(&self.path, unknown))
            }
        }
    }
}

/// `[b, h, w, c] → [b, c, h, w]`.
fn first(x: &Tensor) -> Result<Tensor> {
    Ok(x.permute((0, 3, 1, 2))?.contiguous()?)
}

/// Keeps what it sees.
struct Look {
    sites: Vec<Site>,
    seen: HashMap<Site, (Tensor, (usize, usize))>,
}

impl Hook for Look {
    fn sites(&self) -> Vec<Site> {
        self.sites.clone()
    }

    fn visit(&mut self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        self.seen.insert(visit.site.clone(), (activation.copy()?, visit.grid));
        Ok(None)
    }
}
