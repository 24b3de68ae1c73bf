//! The setting of *TIDE: Temporal-Aware Sparse Autoencoders for Interpretable Diffusion Transformers* (arXiv 2503.07050).

use super::scale::{Scale, named};
use crate::activations::{Activations, Capture, Description, Store, Trajectories};
use crate::diffusion::hook::{Half, Kind, progress_t, step_at};
use crate::diffusion::pipeline::Pipeline;
use crate::error::{Error, Result};
use crate::sae::{Modulation, Sae, Terms, Tide, TideSae, TrainedTide};
use crate::scene::{Scene, Split};
use image::RgbImage;
use std::fmt;
use std::path::{Path, PathBuf};

/// The environment variable with a folder of pictures for [`Scale::Paper`]: each a `.png` or `.jpg` with its caption in
/// a `.txt` of the same name.
pub const PICTURES: &str = "DENOSCOPE_PICTURES";

/// The four trainings of the paper's Table 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// TopK without any knowledge of the step.
    Plain,
    /// The same on a share of the tokens of more pictures.
    PlainSampled,
    /// The temporal-aware one.
    Tide,
    /// The same on a share of the tokens of more pictures.
    TideSampled,
}

impl Variant {
    /// In the order of the table.
    pub const ALL: [Variant; 4] = [Variant::Plain, Variant::PlainSampled, Variant::Tide, Variant::TideSampled];

    /// The table's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Variant::Plain => "SAE",
            Variant::PlainSampled => "SAE (sample)",
            Variant::Tide => "TIDE",
            Variant::TideSampled => "TIDE (sample)",
        }
    }

    fn is_sampled(self) -> bool {
        matches!(self, Variant::PlainSampled | Variant::TideSampled)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Model, blocks, pictures and sizes of the paper's study at one [`Scale`], and its folder of results.
#[derive(Debug, Clone)]
pub struct TideStudy {
    /// The scale.
    pub scale: Scale,
    /// Steps of a whole denoising, of which some [times](Self::times) are looked at.
    pub steps: usize,
    /// Pictures that SAEs may be trained on. Paper: 80,000.
    pub pictures: usize,
    /// Pictures of combinations that were not trained on. (Paper: an out-of-distribution validation set.)
    pub unseen: usize,
    /// Where activations and SAEs are kept.
    pub folder: PathBuf,
}

/// Activations of pictures to train on, and of unlike ones.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Of the pictures to train on.
    pub train: Store,
    /// Of pictures of combinations that were never trained on.
    pub unseen: Store,
}

impl TideStudy {
    /// The share of tokens that the sampled variants see of a picture, of as many more pictures, so that all variants
    /// see as many tokens. (Paper: 1/16 of the 4096 tokens; here there are 64.)
    pub const SAMPLE: f64 = 0.25;

    /// The setting at the scale that `DENOSCOPE_SCALE` says, with results below the notebook's folder.
    ///
    /// # Errors
    /// A scale that does not exist.
    pub fn here() -> Result<Self> {
        Ok(Self::at(Scale::here()?))
    }

    /// The setting at `scale`.
    #[must_use]
    pub fn at(scale: Scale) -> Self {
        Self {
            scale,
            steps: scale.pick(5, 20, 20),
            pictures: scale.pick(16, 400, 2_000),
            unseen: scale.pick(8, 80, 400),
            folder: Path::new("work").join(scale.name()),
        }
    }

    /// Progress of the steps that are looked at, noise first.
    #[must_use]
    pub fn times(&self) -> Vec<f64> {
        vec![1.0, 0.75, 0.5, 0.25, 0.0]
    }

    /// The blocks that are looked at: all; at [`Scale::Smoke`] two.
    #[must_use]
    pub fn blocks(&self) -> Vec<usize> {
        self.scale.pick(vec![3, 6], (0..8).collect(), (0..28).collect())
    }

    /// The block before the last, which the paper edits.
    #[must_use]
    pub fn penultimate(&self) -> usize {
        self.scale.pick(6, 6, 26)
    }

    /// The module path of a block.
    #[must_use]
    pub fn module(block: usize) -> String {
        format!("transformer_blocks.{block}")
    }

    /// Latents for each channel. Paper: 16; at laptop scale 4, and the second notebook varies it.
    #[must_use]
    pub fn expansion(&self) -> usize {
        self.scale.pick(2, 4, 16)
    }

    /// Latents that may fire on a token: the paper's 5 % of them.
    #[must_use]
    pub fn k(&self, d: usize) -> usize {
        (self.expansion() * d).div_ceil(20)
    }

    /// The model's name: embedded or on the hub.
    #[must_use]
    pub fn model_name(&self) -> &'static str {
        self.scale.pick("scene-dit", "scene-dit", "PixArt-alpha/PixArt-XL-2-1024-MS")
    }

    /// Opens the model.
    ///
    /// # Errors
    /// As [`Pipeline::open`].
    pub fn model(&self) -> Result<Pipeline> {
        Pipeline::open(self.model_name())
    }

    /// The scenes behind the pictures of the embedded world: to train on, and with combinations of class and colour
    /// that no model was trained on.
    #[must_use]
    pub fn scenes(&self) -> [Vec<Scene>; 2] {
        let of = |split, n: usize| (0..n as u64).map(|i| Scene::sample(split, i)).collect();
        [of(Split::Validation, self.pictures), of(Split::Unseen, self.unseen)]
    }

    /// Pictures with captions, to train on and unlike: renders of [`scenes`](Self::scenes); at [`Scale::Paper`] those of
    /// the folder that `DENOSCOPE_PICTURES` names, in order of their names, brought to the model's size.
    ///
    /// # Errors
    /// At [`Scale::Paper`], when there is no such folder, it has too few pictures, or one cannot be read.
    pub fn pairs(&self, model: &Pipeline) -> Result<[(Vec<RgbImage>, Vec<String>); 2]> {
        if self.scale != Scale::Paper {
            return Ok(self.scenes().map(|scenes| {
                let pictures = scenes.iter().map(|s| s.render().image).collect();
                (pictures, scenes.iter().map(|s| s.full_caption().text).collect())
            }));
        }
        let folder = named(PICTURES, "pictures with captions from a folder")?;
        let mut found = read_pairs(&folder, self.pictures + self.unseen, model.picture_size())?;
        let rest = (found.0.split_off(self.pictures), found.1.split_off(self.pictures));
        Ok([found, rest])
    }

    /// Passes noised pictures through the model (the paper's algorithm 1) and keeps the output of all blocks at all
    /// times; goes on where an interrupted capture stopped, and opens a complete one.
    ///
    /// # Errors
    /// As [`Capture::run`] and [`pairs`](Self::pairs).
    pub fn capture(&self, model: &Pipeline) -> Result<Captured> {
        let [train, unseen] = self.pairs(model)?;
        let run = |name: &str, (pictures, captions): &(Vec<RgbImage>, Vec<String>)| {
            let mut capture = Capture::new(model).stages(self.times()).half(Half::Conditional).steps(self.steps);
            for block in self.blocks() {
                capture = capture.at(&Self::module(block), Kind::Output);
            }
            capture.prompts(captions).pictures(pictures).run(self.folder.join(name))
        };
        Ok(Captured { train: run("train", &train)?, unseen: run("unseen", &unseen)? })
    }

    /// The outputs of a block at all times.
    ///
    /// # Errors
    /// A block that was not captured.
    pub fn block(&self, store: &Store, block: usize) -> Result<Trajectories> {
        store.module(&Self::module(block))?.trajectories(self.times())
    }

    /// The same outputs without the order of time, each moment of a picture an item of its own: what an SAE that is not
    /// told the step is trained on. Held in memory.
    ///
    /// # Errors
    /// Activations that cannot be read.
    pub fn timeless(&self, trajectories: &Trajectories) -> Result<Activations> {
        let (mut items, mut data) = (Vec::new(), Vec::new());
        for step in 0..trajectories.steps() {
            let at = trajectories.step(step);
            for (i, item) in trajectories.items().iter().enumerate() {
                items.push(item.clone());
                data.extend(at.item(i)?);
            }
        }
        // Of no one step any more, so that no edit takes it for one of the first.
        let about = Description { fingerprint: String::new(), ..trajectories.step(0).about().clone() };
        Activations::described(about, items, data)
    }

    /// The modulation of a block's self-attention at the steps of `trajectories`, from which the paper's TIDE starts.
    ///
    /// # Errors
    /// As [`Pipeline::modulation`].
    pub fn modulation(&self, model: &Pipeline, block: usize, trajectories: &Trajectories) -> Result<Modulation> {
        let steps: Vec<usize> = trajectories.about().iter().map(|a| step_at(a.t(), self.steps)).collect();
        let own = model.modulation(block, &steps, self.steps)?;
        Modulation::pretrained(trajectories, &own.scale_msa, &own.shift_msa)
    }

    /// The recipe of one variant: all terms of the paper's loss for TIDE, squares alone for the others.
    ///
    /// TIDE's modulation starts from the identity, not from the block's own adaLN as in the paper: that is made for the
    /// block's normalised input, and where it nearly erases a channel, undoing it magnifies the error. After 96 steps on
    /// block 6 of `scene-dit` the error on unlike pictures was .265 without a modulation, .257 from the identity and .727
    /// from the block's own.
    #[must_use]
    pub fn recipe(&self, variant: Variant, d: usize) -> Tide {
        let recipe = Tide::new(self.expansion(), self.k(d)).epochs(self.scale.pick(2, 12, 1));
        let recipe = match variant {
            Variant::Tide | Variant::TideSampled => recipe,
            Variant::Plain | Variant::PlainSampled => recipe.terms(Terms::squares()).train_modulation(false),
        };
        if variant.is_sampled() { recipe.sample(Self::SAMPLE) } else { recipe }
    }

    /// Trains one variant on one block, the first time; reads it back afterwards. A variant without sampling sees a share
    /// [`SAMPLE`](Self::SAMPLE) of the pictures, so that all see as many tokens.
    ///
    /// # Errors
    /// A block that was not captured; whatever stops a training.
    pub fn train(&self, captured: &Captured, block: usize, variant: Variant) -> Result<TrainedTide> {
        let all = self.block(&captured.train, block)?;
        let share = if variant.is_sampled() { 1.0 } else { Self::SAMPLE };
        let trajectories = all.range(0..((all.len() as f64 * share) as usize).max(2))?;
        let name = format!("{}-{block}", variant.name().to_lowercase().replace([' ', '(', ')'], ""));
        self.recipe(variant, trajectories.d()).run(self.folder.join("saes").join(name)).train(&trajectories)
    }

    /// The SAE of a step of a generation of [`steps`](Self::steps) steps, its modulation between those it was trained with; it
    /// names the place of the nearest step, so that edits find it.
    #[must_use]
    pub fn at_step(&self, sae: &TideSae, step: usize) -> Sae {
        let t = progress_t(step, self.steps);
        let apart = |a: &Description| (a.t() - t).abs();
        let nearest = sae.about.iter().min_by(|a, b| apart(a).total_cmp(&apart(b)));
        Sae { about: nearest.cloned(), ..sae.at(t) }
    }

    /// What a notebook shows: the setting.
    pub fn evcxr_display(&self) {
        println!("scale {}: {}, {} pictures, {} unlike", self.scale, self.model_name(), self.pictures, self.unseen);
        println!("blocks  {:?}, t = {:?}", self.blocks(), self.times());
        println!("results {}", self.folder.display());
        if self.scale == Scale::Paper {
            // 4096 tokens of 1152 channels, 28 blocks, two bytes a number.
            let tokens = (self.pictures + self.unseen) as f64 * self.times().len() as f64 * 4096.0;
            println!("cost    {:.1} TB of activations", tokens * 1152.0 * 28.0 * 2.0 / 1e12);
        }
    }
}

/// The first `n` pictures of a folder with their captions.
fn read_pairs(folder: &Path, n: usize, (height, width): (usize, usize)) -> Result<(Vec<RgbImage>, Vec<String>)> {
    let entries = std::fs::read_dir(folder).map_err(Error::file(folder))?;
    let is_picture = |p: &PathBuf| p.extension().is_some_and(|e| e == "png" || e == "jpg" || e == "jpeg");
    let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(is_picture).collect();
    files.sort();
    if files.len() < n {
        return Err(Error::format(folder, format!("{} pictures, expected {n} for this study", files.len())));
    }
    let (mut pictures, mut captions) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for file in &files[..n] {
        let text = file.with_extension("txt");
        captions.push(std::fs::read_to_string(&text).map_err(Error::file(&text))?.trim().to_string());
        let image = image::open(file).map_err(|e| Error::format(file, e))?;
        // The middle of the picture, as large as fits.
        let filter = image::imageops::FilterType::Lanczos3;
        pictures.push(image.resize_to_fill(width as u32, height as u32, filter).to_rgb8());
    }
    Ok((pictures, captions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_in_order_and_cut_to_size() {
        let folder = tempfile::tempdir().unwrap();
        for (i, name) in ["b.png", "a.png"].iter().enumerate() {
            RgbImage::from_pixel(20, 10, image::Rgb([i as u8 * 100; 3])).save(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("a.txt"), "first\n").unwrap();
        let missing = read_pairs(folder.path(), 2, (8, 8)).unwrap_err().to_string();
        assert!(missing.contains("b.txt"), "{missing}");
        std::fs::write(folder.path().join("b.txt"), "second").unwrap();
        let (pictures, captions) = read_pairs(folder.path(), 2, (8, 8)).unwrap();
        assert_eq!(captions, ["first", "second"]);
        assert!(pictures.iter().all(|p| p.dimensions() == (8, 8)) && pictures[0].get_pixel(4, 4).0 == [100; 3]);
        let few = read_pairs(folder.path(), 3, (8, 8)).unwrap_err().to_string();
        assert!(few.contains("2 pictures, expected 3"), "{few}");
    }

    #[test]
    fn four_variants_are_trained_on_as_many_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let mut study = TideStudy::at(Scale::Smoke);
        study.folder = folder.path().into();
        let model = study.model().unwrap();
        let captured = study.capture(&model).unwrap();
        let unseen = study.block(&captured.unseen, 3).unwrap();
        let own = study.modulation(&model, 3, &unseen).unwrap();
        let timeless = study.timeless(&unseen).unwrap();
        assert_eq!(timeless.len(), 5 * unseen.len());
        assert_eq!(timeless.item(unseen.len() + 2).unwrap(), unseen.step(1).item(2).unwrap());
        assert!(own.scale.iter().any(|a| a.abs() > 1e-3), "a trained modulation is not the identity");
        for variant in Variant::ALL {
            let trained = study.train(&captured, 3, variant).unwrap();
            assert_eq!(trained.latents(), 2 * unseen.d());
            assert!(trained.measure(&unseen).unwrap().cosine > 0.2, "{variant}");
        }
        assert!(study.block(&captured.train, 4).unwrap_err().to_string().contains("transformer_blocks.4"));
    }
}
