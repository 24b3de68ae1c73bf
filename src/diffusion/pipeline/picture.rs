//! A generated picture and how it came about.

use crate::diffusion::scheduler::SchedulerKind;
use crate::error::{Error, Result};
use base64::Engine;
use candle_core::Tensor;
use image::{ImageFormat, RgbImage};
use serde::{Deserialize, Serialize};
use std::io::Cursor;
use std::path::Path;

/// Pictures narrower than this are shown enlarged, with crisp pixels.
const SHOWN: u32 = 256;

/// What a picture was made with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The model's name.
    pub model: String,
    /// A digest of its configuration and weights.
    pub fingerprint: String,
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f64,
    /// Negative prompt.
    pub negative: String,
    /// Scheduler.
    pub scheduler: SchedulerKind,
    /// A digest of the captions, where they came computed beforehand instead of from the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captions: Option<String>,
    /// Sites that hooks looked at or replaced.
    pub hooks: Vec<String>,
}

/// A generated picture. It shows itself in a notebook cell.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The picture.
    pub image: RgbImage,
    /// The prompt.
    pub prompt: String,
    /// The seed of its initial noise.
    pub seed: u64,
    /// What else it was made with.
    pub settings: Settings,
    /// Its final latent `[h, w, channels]`, as the network sees it, if asked for.
    pub latents: Option<Tensor>,
    /// The pictures of the predicted clean latent x̂₀ after the steps asked for.
    pub clean: Vec<(usize, RgbImage)>,
}

impl Picture {
    /// PNG bytes; prompt, seed and settings stand as JSON in a text chunk named `denoscope`.
    ///
    /// # Errors
    /// A picture without pixels.
    pub fn png(&self) -> Result<Vec<u8>> {
        let plain = png(&self.image)?;
        let facts = serde_json::json!({ "prompt": self.prompt, "seed": self.seed, "settings": self.settings });
        Ok(with_text(&plain, "denoscope", &facts.to_string()))
    }

    /// Writes the picture; `.png` keeps the settings within.
    ///
    /// # Errors
    /// A folder that cannot be written, or an unknown file ending.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let format = ImageFormat::from_path(path).map_err(|e| Error::format(path, e))?;
        let bytes = if format == ImageFormat::Png {
            self.png()?
        } else {
            let mut bytes = Cursor::new(Vec::new());
            self.image.write_to(&mut bytes, format).map_err(|e| Error::format(path, e))?;
            bytes.into_inner()
        };
        let partial = path.with_extension("partial");
        std::fs::write(&partial, bytes).map_err(Error::file(&partial))?;
        std::fs::rename(&partial, path).map_err(Error::file(path))
    }

    /// Shows the picture with its prompt in a notebook cell.
    pub fn evcxr_display(&self) {
        crate::html::display(&self.html());
    }

    /// The picture as an HTML figure.
    #[must_use]
    pub fn html(&self) -> String {
        let data = png(&self.image).map(|b| base64::engine::general_purpose::STANDARD.encode(b)).unwrap_or_default();
        let width = self.image.width().max(SHOWN);
        let caption = escape(&self.prompt);
        format!(
            "<figure style=\"margin:0;display:inline-block\"><img width=\"{width}\" style=\"image-rendering:pixelated\" \
             alt=\"{caption}\" src=\"data:image/png;base64,{data}\"><figcaption style=\"max-width:{width}px\">{caption} \
             <small>· seed {}</small></figcaption></figure>",
            self.seed
        )
    }
}

/// The bytes of a picture as a PNG file.
pub(crate) fn png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).map_err(|e| Error::invalid(format!("picture as PNG: {e}")))?;
    Ok(bytes.into_inner())
}

/// Pictures of one size, one below the other; empty if there is none.
pub(crate) fn strip(pictures: &[RgbImage]) -> RgbImage {
    let (w, h) = pictures.first().map_or((0, 0), RgbImage::dimensions);
    let mut all = RgbImage::new(w, h * pictures.len() as u32);
    for (i, picture) in pictures.iter().enumerate() {
        image::imageops::replace(&mut all, picture, 0, i64::from(h) * i as i64);
    }
    all
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Inserts an international text chunk after a PNG's header.
fn with_text(png: &[u8], key: &str, text: &str) -> Vec<u8> {
    // Signature (8 bytes), then the header chunk: length, type, 13 bytes, checksum.
    const HEADER: usize = 8 + 4 + 4 + 13 + 4;
    let mut chunk = b"iTXt".to_vec();
    chunk.extend(key.as_bytes());
    // End of key, no compression, no language, no translated key.
    chunk.extend([0, 0, 0, 0, 0]);
    chunk.extend(text.as_bytes());
    let mut out = png[..HEADER].to_vec();
    out.extend(((chunk.len() - 4) as u32).to_be_bytes());
    out.extend(&chunk);
    out.extend(crc32(&chunk).to_be_bytes());
    out.extend(&png[HEADER..]);
    out
}

/// The checksum of PNG chunks (ISO 3309).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, &b| (0..8).fold(crc ^ u32::from(b), step))
}

/// Values in [−1, 1] `[h, w, 3]` as 8-bit pixels, rounded half to even as numpy does.
pub(super) fn to_image(x: &Tensor) -> Result<RgbImage> {
    let (h, w, c) = x.dims3()?;
    if c != 3 {
        return Err(Error::Shape { what: "decoded picture".into(), found: vec![h, w, c], expected: vec![h, w, 3] });
    }
    let values = x.flatten_all()?.to_vec1::<f32>()?;
    let pixels =
        values.into_iter().map(|v| ((v / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8).collect();
    RgbImage::from_raw(w as u32, h as u32, pixels).ok_or_else(|| Error::invalid("a picture without pixels"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b"IEND"), 0xae42_6082);
    }

    #[test]
    fn saved_pictures_read_back_with_their_settings() {
        let x = Tensor::new(&[[[-1.0f32, 0.0, 1.0], [-3.0, 3.0, 0.004]]], &Device::Cpu).unwrap();
        let image = to_image(&x).unwrap();
        assert_eq!(image.as_raw()[..], [0, 128, 255, 0, 255, 128]);
        let settings = Settings {
            model: "m".into(),
            fingerprint: "f".into(),
            steps: 3,
            guidance: 4.0,
            negative: String::new(),
            scheduler: SchedulerKind::Ddim,
            captions: None,
            hooks: Vec::new(),
        };
        let picture =
            Picture { image, prompt: "grün <b>".into(), seed: 5, settings, latents: None, clean: Vec::new() };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.png");
        picture.save(&path).unwrap();
        assert_eq!(image::open(&path).unwrap().to_rgb8(), picture.image);
        let bytes = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("\"prompt\":\"grün <b>\"") && text.contains("\"seed\":5"));
        assert!(picture.html().contains("gr\u{fc}n &lt;b&gt;") && picture.html().contains("pixelated"));
        assert!(picture.save(folder.path().join("p.what")).is_err());
    }
}
