//! Pictures of evaluations, kept on disk: one PNG for every call of the model, its pictures one below the other.

use crate::activations::shard::atomically;
use crate::diffusion::hook::Hook;
use crate::diffusion::pipeline::{png, strip};
use crate::digest::Digest;
use crate::error::{Error, Result};
use image::{ImageFormat, RgbImage, imageops};
use std::path::PathBuf;

/// A folder of pictures.
#[derive(Debug, Clone)]
pub(super) struct Kept(PathBuf);

impl Kept {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Where the pictures of a call belong; `None` if a hook does not tell what it does. `model` is all that they depend on
    /// beside what is in the call.
    pub(super) fn place(
        &self,
        model: &[&str],
        prompts: &[String],
        seeds: &[u64],
        hooks: &[Box<dyn Hook>],
    ) -> Option<Place> {
        let mut digest = Digest::default();
        // Another version may paint other pictures of the same noise.
        let texts = model.iter().copied().chain([env!("CARGO_PKG_VERSION")]).chain(prompts.iter().map(String::as_str));
        texts.for_each(|text| digest.bytes(text.as_bytes()));
        seeds.iter().for_each(|seed| digest.word(*seed));
        for hook in hooks {
            digest.word(hook.identity()?);
        }
        Some(Place(self.0.join(format!("{}.png", digest.hex()))))
    }
}

/// The file of one call.
#[derive(Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    /// Its `n` pictures, if they are there.
    ///
    /// # Errors
    /// A file that is no picture, or not one of `n`.
    pub(super) fn read(&self, n: usize) -> Result<Option<Vec<RgbImage>>> {
        if !self.0.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(&self.0).map_err(Error::file(&self.0))?;
        let fault = |what: String| Error::format(&self.0, format!("{what}; delete it and it is made anew"));
        let all = image::load_from_memory_with_format(&bytes, ImageFormat::Png).map_err(|e| fault(e.to_string()))?;
        let all = all.to_rgb8();
        let (width, height) = all.dimensions();
        if n == 0 || height % n as u32 != 0 {
            return Err(fault(format!("{width}×{height} pixels, expected {n} pictures of one height")));
        }
        let height = height / n as u32;
        Ok(Some((0..n as u32).map(|i| imageops::crop_imm(&all, 0, i * height, width, height).to_image()).collect()))
    }

    /// Writes the pictures of the call, whole or not at all. Pictures of several sizes are not kept.
    ///
    /// # Errors
    /// Of the disk.
    pub(super) fn write(&self, pictures: &[RgbImage]) -> Result<()> {
        let Some(size) = pictures.first().map(RgbImage::dimensions) else { return Ok(()) };
        if pictures.iter().any(|p| p.dimensions() != size) {
            return Ok(());
        }
        let png = png(&strip(pictures))?;
        atomically(&self.0, |out| out.write_all(&png))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::pipeline::Pipeline;
    use crate::intervene::{Quadrant, Region, Spatial, Strength};
    use crate::measure::generate::{Generate, Settled};
    use crate::sae::Sae;
    use crate::scene::Mask;

    fn boxed(edits: impl IntoIterator<Item = Spatial>) -> Vec<Box<dyn Hook>> {
        edits.into_iter().map(|e| Box::new(e) as Box<dyn Hook>).collect()
    }

    #[test]
    fn what_changes_a_picture_changes_its_place() {
        let kept = Kept::new("pictures".into());
        let sae = Sae::random(3, 6, 2, 0).unwrap();
        let mut other = sae.clone();
        other.w_dec[4] += 1e-6;
        let edit = |sae: &Sae| Spatial::new(sae, [1, 2]).region(Quadrant::TopLeft);
        let place = |prompt: &str, seed: u64, hooks: Vec<Box<dyn Hook>>| {
            kept.place(&["model", "5 steps"], &[prompt.to_string()], &[seed], &hooks).unwrap().0
        };
        let mask = |x: usize| Region::from(&Mask::from_fn(8, 8, |a, b| (a, b) == (x, 3)));
        let places = [
            place("a", 1, Vec::new()),
            place("b", 1, Vec::new()),
            place("a", 2, Vec::new()),
            place("a", 1, boxed([edit(&sae)])),
            place("a", 1, boxed([edit(&other)])),
            place("a", 1, boxed([edit(&sae).control(0)])),
            place("a", 1, boxed([edit(&sae).control(1)])),
            place("a", 1, boxed([edit(&sae).strength(Strength::Relative(1.5))])),
            place("a", 1, boxed([edit(&sae).steps(&[2])])),
            place("a", 1, boxed([edit(&sae).only(&[0])])),
            place("a", 1, boxed([edit(&sae).region(mask(2))])),
            place("a", 1, boxed([edit(&sae).region(mask(3))])),
            place("a", 1, boxed([edit(&sae), edit(&sae)])),
        ];
        for (i, a) in places.iter().enumerate() {
            assert!(places[..i].iter().all(|b| a != b), "{i} has the place of another");
        }
        assert_eq!(places[3], place("a", 1, boxed([edit(&sae.clone())])));
    }

    #[test]
    fn pictures_are_made_once_and_a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let model = Pipeline::open("scene-unet").unwrap();
        let mut settled = Settled::new(&model, 2).kept_in(folder.path());
        let (prompts, seeds) = (["a red house", "a blue fish"].map(String::from), [1, 2]);
        let made = settled.generate(&prompts, &seeds, Vec::new()).unwrap();
        let files: Vec<PathBuf> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(files.len(), 1);
        assert!(settled.generate(&prompts, &seeds, Vec::new()).unwrap() == made);
        // That it is read and not made again shows in a file that holds something else.
        let place = Place(files[0].clone());
        place.write(&[made[1].clone(), made[0].clone()]).unwrap();
        let again = settled.generate(&prompts, &seeds, Vec::new()).unwrap();
        assert!(again[0] == made[1] && again[1] == made[0]);
        std::fs::write(&files[0], b"no picture").unwrap();
        let error = settled.generate(&prompts, &seeds, Vec::new()).unwrap_err().to_string();
        assert!(error.contains(&files[0].display().to_string()) && error.contains("delete it"), "{error}");
        place.write(&[made[0].clone()]).unwrap();
        assert!(place.read(3).unwrap_err().to_string().contains("expected 3 pictures"));
    }
}
