//! What reads a pipeline's prompts.

use crate::diffusion::captions::Captions;
use crate::diffusion::open::{ModelFolder, check_memory};
use crate::diffusion::t5::{T5Config, T5Encoder, T5Tokenizer};
use crate::diffusion::text::{Encoded, TextConfig, TextEncoder, Tokenizer};
use crate::diffusion::weights::Weights;
use crate::error::{Error, Result};
use candle_core::{DType, Device};
use std::path::Path;
use std::sync::OnceLock;

/// A text encoder with its tokenizer.
#[derive(Debug)]
pub enum Reader {
    /// Stable Diffusion's.
    Clip(Box<ClipReader>),
    /// PixArt's.
    T5(Box<T5Reader>),
    /// The model's folder has none: captions come computed beforehand.
    Absent,
}

/// CLIP, which reads every prompt to the full window.
#[derive(Debug)]
pub struct ClipReader {
    /// The text encoder.
    pub encoder: TextEncoder,
    /// Splits prompts into tokens.
    pub tokenizer: Tokenizer,
}

/// T5, loaded when the first prompt is to be read: it is several times larger than all the rest of a model, and is not
/// needed at all where captions come computed beforehand.
#[derive(Debug)]
pub struct T5Reader {
    /// Splits prompts into tokens.
    pub tokenizer: T5Tokenizer,
    config: T5Config,
    weights: Weights,
    encoder: OnceLock<T5Encoder>,
}

impl T5Reader {
    /// The text encoder.
    ///
    /// # Errors
    /// When it is loaded: tensors that are missing, misshapen or left over.
    pub fn encoder(&self) -> Result<&T5Encoder> {
        if self.encoder.get().is_none() {
            check_memory("the model's text encoder", &[("text_encoder", &self.weights)])?;
            let encoder = T5Encoder::load(&self.config, &self.weights)?;
            self.weights.finish()?;
            // Another thread may have been faster; its encoder is the same.
            let _ = self.encoder.set(encoder);
        }
        self.encoder.get().ok_or_else(|| Error::invalid("the text encoder did not load"))
    }
}

impl Reader {
    /// CLIP from a model's folder.
    pub(super) fn clip(folder: &ModelFolder, device: &Device, kept: DType) -> Result<Self> {
        folder.component("text_encoder", &["CLIPTextModel"])?;
        let tokenizer_folder = folder.component("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"])?;
        let config = TextConfig::read(&mut folder.fields("text_encoder", "config.json")?)?;
        let tokenizer = Tokenizer::open(&tokenizer_folder)?.with_window(config.max_position_embeddings);
        fits(&tokenizer_folder, tokenizer.vocab_size(), config.vocab_size)?;
        let weights = Weights::open(&folder.weights("text_encoder")?, device, kept)?;
        let encoder = TextEncoder::load(&config, &weights)?;
        weights.finish()?;
        Ok(Self::Clip(Box::new(ClipReader { encoder, tokenizer })))
    }

    /// T5 from a model's folder, if it is there. Configuration, tokenizer and the heads of the weight files are read at
    /// once, the weights themselves later.
    pub(super) fn t5(folder: &ModelFolder, device: &Device, kept: DType) -> Result<Self> {
        if !folder.has("text_encoder") {
            return Ok(Self::Absent);
        }
        folder.component("text_encoder", &["T5EncoderModel"])?;
        let tokenizer_folder = folder.component("tokenizer", &["T5Tokenizer", "T5TokenizerFast"])?;
        let config = T5Config::read(&mut folder.fields("text_encoder", "config.json")?)?;
        let tokenizer = T5Tokenizer::open(&tokenizer_folder)?;
        fits(&tokenizer_folder, tokenizer.vocab_size(), config.vocab_size)?;
        let weights = Weights::open(&folder.weights("text_encoder")?, device, kept)?;
        Ok(Self::T5(Box::new(T5Reader { tokenizer, config, weights, encoder: OnceLock::new() })))
    }

    /// Length of an encoded prompt, if there is an encoder.
    #[must_use]
    pub fn window(&self) -> Option<usize> {
        match self {
            Reader::Clip(clip) => Some(clip.tokenizer.window()),
            Reader::T5(t5) => Some(t5.tokenizer.window()),
            Reader::Absent => None,
        }
    }

    /// The captions of prompts. A prompt that does not fit the window is cut off, with a line on standard error that
    /// quotes what was lost. T5 gets prompts in lower case and trimmed, as from diffusers' pipeline without its
    /// optional cleaning.
    ///
    /// # Errors
    /// A model without a text encoder; of loading it; of the tensor library.
    pub fn read<S: AsRef<str>>(&self, prompts: &[S], device: &Device) -> Result<Captions> {
        let encode = |prompt: &str| match self {
            Reader::Clip(clip) => Ok(clip.tokenizer.encode(prompt)),
            Reader::T5(t5) => t5.tokenizer.encode(prompt.to_lowercase().trim()),
            Reader::Absent => Err(Error::invalid(format!(
                "prompt {prompt:?}: this model's folder has no text encoder; give captions computed beforehand \
                 (prompt_embeds and prompt_attention_mask, and negative_ ones for guidance)"
            ))),
        };
        let mut texts = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let prompt = prompt.as_ref();
            let encoded = encode(prompt)?;
            if let Some(lost) = &encoded.lost {
                let window = encoded.ids.len();
                eprintln!("warning: prompt {prompt:?} is longer than {window} tokens; cut off: {lost:?}");
            }
            texts.push(encoded);
        }
        let (ids, mask) = Encoded::stack(&texts, device)?;
        match self {
            Reader::T5(t5) => Ok(Captions { embeds: t5.encoder()?.forward(&ids, Some(&mask))?, mask: Some(mask) }),
            Reader::Clip(clip) => Ok(Captions { embeds: clip.encoder.forward(&ids)?, mask: None }),
            Reader::Absent => Err(Error::invalid("no prompts, and no text encoder to read them")),
        }
    }
}

/// Refuses a tokenizer with ids that an encoder has no vectors for.
fn fits(folder: &Path, found: usize, limit: usize) -> Result<()> {
    if found <= limit {
        return Ok(());
    }
    Err(Error::format(folder, format!("{found} tokens, more than the text encoder's vocab_size = {limit}")))
}
