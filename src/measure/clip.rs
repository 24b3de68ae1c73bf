//! CLIP as published: any `CLIPModel` of transformers, ViT-L/14 among them (Radford et al. 2021).
//!
//! f(x) = W_v · vision transformer(x), g(t) = W_t · text transformer(t) at the end token; their cosine is the similarity.
//! The text transformer is the one that Stable Diffusion reads prompts with. Checked against transformers 4.48.3
//! (`tests/golden/make_clip.py`), pictures' preparation included.

mod config;
mod resize;
mod vision;

pub use config::{ClipConfig, Preprocessing, VisionConfig};
pub use vision::VisionTransformer;

use super::similarity::{Embeddings, Similarity};
use crate::diffusion::layers::Linear;
use crate::diffusion::open::{component_weights, network_folder};
use crate::diffusion::text::{Encoded, TextEncoder, Tokenizer};
use crate::diffusion::weights::{Init, Weights};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use image::{RgbImage, imageops};
use std::path::Path;

/// Pictures or texts of one pass: 8 pictures through ViT-L/14 need some 100 MiB.
const PASS: usize = 8;

/// A published dual encoder.
///
/// ```no_run
/// use denoscope::measure::{Clip, Similarity};
///
/// let clip = Clip::open("openai/clip-vit-large-patch14")?; // or a folder with its files
/// # let picture = image::RgbImage::new(512, 512);
/// println!("{:?}", clip.matrix(&[picture], &["a photo of a cat", "a photo of a dog"])?);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Clip {
    name: String,
    preprocessing: Preprocessing,
    vision: VisionTransformer,
    visual_projection: Linear,
    tokenizer: Tokenizer,
    text: TextEncoder,
    text_projection: Linear,
    logit_scale: f64,
    width: usize,
}

impl Clip {
    /// Opens a folder with `config.json`, `preprocessor_config.json`, `model.safetensors` (or its shards) and the
    /// tokenizer's files, as transformers saves them; or a hub id, whose files are fetched once.
    ///
    /// # Errors
    /// What is wrong with its files: a model of another class, a tensor that is missing or misshapen.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = &network_folder(folder.as_ref())?;
        let config = ClipConfig::read(&folder.join("config.json"))?;
        let preprocessing = Preprocessing::read(&folder.join("preprocessor_config.json"))?;
        let side = config.vision.image_size;
        if preprocessing.crop != (side, side) {
            let problem = format!("crop_size = {:?}, but config.json has pictures of {side}", preprocessing.crop);
            return Err(Error::format(folder.join("preprocessor_config.json"), problem));
        }
        let tokenizer = Tokenizer::open(folder)?.with_window(config.text.max_position_embeddings);
        let weights = Weights::open(&component_weights(folder)?, &Device::Cpu, DType::F32)?;
        let width = config.projection_dim;
        let projection = |name: &str, from| Linear::load(&weights.at(name), from, width, false);
        let clip = Self {
            name: name(folder),
            preprocessing,
            vision: VisionTransformer::load(&config.vision, &weights)?,
            visual_projection: projection("visual_projection", config.vision.hidden_size)?,
            tokenizer,
            text: TextEncoder::load(&config.text, &weights)?,
            text_projection: projection("text_projection", config.text.hidden_size)?,
            logit_scale: f64::from(weights.get("logit_scale", &[], Init::Zeros)?.to_scalar::<f32>()?).exp(),
            width,
        };
        weights.finish()?;
        Ok(clip)
    }

    /// What cosines are multiplied with before a softmax over texts or pictures: e^τ.
    #[must_use]
    pub fn logit_scale(&self) -> f64 {
        self.logit_scale
    }

    /// A picture as it goes into the network: shorter side resized, middle cut out, normalised; `[height, width, 3]`.
    ///
    /// # Errors
    /// A picture without pixels, or one so long that nothing of it would be left.
    pub fn prepare(&self, picture: &RgbImage) -> Result<Tensor> {
        let Preprocessing { shortest_edge, crop: (height, width), mean, std } = self.preprocessing;
        let (w, h) = (picture.width() as usize, picture.height() as usize);
        if w == 0 || h == 0 {
            return Err(Error::invalid("a picture for CLIP has no pixels"));
        }
        // The longer side is cut off, not rounded, as transformers does.
        let longer = shortest_edge * w.max(h) / w.min(h);
        let (w, h) = if w <= h { (shortest_edge, longer) } else { (longer, shortest_edge) };
        if w < width || h < height {
            let problem = format!("preprocessing: {h} × {w} is cut to {height} × {width}, which is larger");
            return Err(Error::invalid(problem));
        }
        let picture = resize::bicubic(picture, w as u32, h as u32);
        let (left, top) = (((w - width) / 2) as u32, ((h - height) / 2) as u32);
        let piece = imageops::crop_imm(&picture, left, top, width as u32, height as u32).to_image();
        let value = |(i, &byte): (usize, &u8)| (f32::from(byte) / 255.0 - mean[i % 3]) / std[i % 3];
        let values: Vec<f32> = piece.as_raw().iter().enumerate().map(value).collect();
        Ok(Tensor::from_vec(values, (height, width, 3), &Device::Cpu)?)
    }

    /// Projected features of pictures before they are scaled to unit length, `[n, width]`.
    ///
    /// # Errors
    /// As [`Clip::prepare`]; of the tensor library.
    pub fn image_features(&self, pictures: &[RgbImage]) -> Result<Tensor> {
        self.joined(pictures.chunks(PASS).map(|pictures| {
            let prepared = pictures.iter().map(|picture| self.prepare(picture)).collect::<Result<Vec<_>>>()?;
            self.visual_projection.forward(&self.vision.forward(&Tensor::stack(&prepared, 0)?)?)
        }))
    }

    /// Projected features of texts before they are scaled to unit length, `[n, width]`. What is beyond the window of
    /// tokens is cut off, as transformers' tokenizer does on request.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn text_features(&self, texts: &[&str]) -> Result<Tensor> {
        self.joined(texts.chunks(PASS).map(|texts| {
            let encoded: Vec<Encoded> = texts.iter().map(|text| self.tokenizer.encode(text)).collect();
            let states = self.text.forward(&Encoded::stack(&encoded, &Device::Cpu)?.0)?;
            let end = |(i, e): (usize, &Encoded)| Ok(states.get(i)?.get(e.used - 1)?);
            let ends = encoded.iter().enumerate().map(end).collect::<Result<Vec<_>>>()?;
            self.text_projection.forward(&Tensor::stack(&ends, 0)?)
        }))
    }

    fn joined(&self, parts: impl Iterator<Item = Result<Tensor>>) -> Result<Tensor> {
        let parts = parts.collect::<Result<Vec<_>>>()?;
        if parts.is_empty() {
            return Ok(Tensor::zeros((0, self.width), DType::F32, &Device::Cpu)?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }
}

impl Similarity for Clip {
    fn name(&self) -> &str {
        &self.name
    }

    fn images(&self, pictures: &[RgbImage]) -> Result<Embeddings> {
        Embeddings::from_tensor(&self.image_features(pictures)?)
    }

    fn texts(&self, texts: &[&str]) -> Result<Embeddings> {
        Embeddings::from_tensor(&self.text_features(texts)?)
    }
}

/// The folder's own name says which CLIP it is; in the hub's cache the repository's does.
fn name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let parts: Vec<String> = whole.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
    let repository = parts.iter().rev().find_map(|p| p.strip_prefix("models--")).map(|p| p.replace("--", "/"));
    let own = repository.or_else(|| parts.last().cloned()).unwrap_or_default();
    if own.to_lowercase().contains("clip") { own } else { format!("CLIP ({own})") }
}
