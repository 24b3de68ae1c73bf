//! The annotator: a small segmentation network that says what a picture of the scene world shows.
//!
//! It is trained on renders that the generative models never see, some of them worn (noise, blur, a passage through
//! the autoencoder), so that it can judge generated pictures.

mod network;
mod train;

pub use network::{AnnotatorConfig, Answer, Network};
pub use train::train;

use crate::diffusion::open::data_file;
use crate::diffusion::weights::Weights;
use crate::embedded::encoder::{Features, batch};
use crate::error::{Error, Result};
use crate::measure::Gaussian;
use crate::measure::annotate::{Annotation, Annotator, Scores};
use crate::scene::{Background, Style};
use candle_core::{D, DType, Device, Tensor};
use image::RgbImage;
use std::path::Path;

/// Pictures of one pass.
const PASS: usize = 16;

/// The embedded annotator, ready to judge.
///
/// ```
/// use denoscope::embedded::SceneAnnotator;
/// use denoscope::measure::Annotator;
/// use denoscope::scene::{Scene, Split};
///
/// let annotator = SceneAnnotator::open()?;
/// let picture = Scene::sample(Split::Test, 3).render().image;
/// for object in &annotator.annotate(&[picture])?[0].objects {
///     let parts: Vec<&str> = object.parts.iter().map(|p| p.part.name()).collect();
///     println!("{} of {} pixels: {}", object.class, object.mask.area(), parts.join(", "));
/// }
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SceneAnnotator {
    network: Network,
}

impl SceneAnnotator {
    /// Opens the annotator that comes with the library.
    ///
    /// # Errors
    /// Names the folders that were searched, or what is wrong with the files.
    pub fn open() -> Result<Self> {
        let config = data_file("annotator/config.json")?;
        Self::open_at(config.parent().unwrap_or(&config))
    }

    /// Opens an annotator's folder.
    ///
    /// # Errors
    /// What is wrong with its files, or classes, colours, parts, styles or backgrounds other than the scene world's.
    pub fn open_at(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
        let config: AnnotatorConfig = serde_json::from_str(&text).map_err(|e| Error::format(&path, e))?;
        let world = AnnotatorConfig { channels: config.channels, groups: config.groups, ..AnnotatorConfig::default() };
        if config != world {
            return Err(Error::format(&path, "made for another world: its names are not those of this library"));
        }
        let weights = Weights::open(&[dir.join("model.safetensors")], &Device::Cpu, DType::F32)?;
        let network = Network::load(&config, &weights)?;
        weights.finish()?;
        Ok(Self { network })
    }

    /// What the network's encoder makes of pictures of one size.
    ///
    /// # Errors
    /// Pictures of different sizes, or with sides that are not multiples of 8.
    pub fn features(&self, pictures: &[&RgbImage]) -> Result<Features> {
        self.network.features(&batch(pictures)?)
    }

    /// Mean and covariance of what the encoder makes of pictures, its coarsest map averaged over places (96 numbers): for
    /// [Fréchet distances](Gaussian::distance), in the role of Inception's features.
    ///
    /// # Errors
    /// As [`features`](Self::features); fewer than two pictures.
    pub fn gaussian(&self, pictures: &[RgbImage]) -> Result<Gaussian> {
        let (mut pooled, mut width) = (Vec::new(), 0);
        for some in pictures.chunks(PASS) {
            let coarse = self.features(&some.iter().collect::<Vec<_>>())?.coarse;
            width = coarse.dim(D::Minus1)?;
            pooled.extend(coarse.flatten(1, 2)?.mean(1)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Gaussian::of(&pooled, width.max(1))
    }
}

impl Annotator for SceneAnnotator {
    fn annotate(&self, images: &[RgbImage]) -> Result<Vec<Annotation>> {
        let mut found = Vec::with_capacity(images.len());
        for chunk in images.chunk_by(|a, b| a.dimensions() == b.dimensions()).flat_map(|same| same.chunks(PASS)) {
            let (w, h) = (chunk[0].width() as usize, chunk[0].height() as usize);
            let answer = self.network.forward(&batch(&chunk.iter().collect::<Vec<_>>())?)?;
            for i in 0..chunk.len() {
                found.push(Annotation::from_scores(Scores {
                    size: (h, w),
                    class: planes(&answer.class.get(i)?)?,
                    colour: planes(&answer.colour.get(i)?)?,
                    part: planes(&answer.part.get(i)?)?,
                    style: Style::from_index(best(&answer.style.get(i)?)?),
                    background: Background::from_index(best(&answer.background.get(i)?)?),
                })?);
            }
        }
        Ok(found)
    }
}

/// Scores `[h, w, n]` to probabilities `[n, h, w]`.
fn planes(scores: &Tensor) -> Result<Vec<f32>> {
    let p = candle_nn::ops::softmax(scores, D::Minus1)?;
    Ok(p.permute((2, 0, 1))?.flatten_all()?.to_vec1()?)
}

fn best(scores: &Tensor) -> Result<usize> {
    Ok(scores.argmax(D::Minus1)?.to_scalar::<u32>()? as usize)
}
