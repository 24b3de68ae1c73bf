//! The setting of *Residualized Temporal Sparse Autoencoders for Interpreting Diffusion Models* (arXiv 2605.27813).
//!
//! Only the paper's abstract and notes of it are public: what they leave open is chosen here, by name.

use super::emergence::{Block, EMBEDDED, LATE, PUBLISHED, block_of, prompts};
use super::scale::Scale;
use crate::activations::{Capture, Store, Trajectories};
use crate::diffusion::pipeline::Pipeline;
use crate::error::Result;
use crate::intervene::{FeatureScores, MeanCode, Region, Trajectory};
use crate::sae::{Join, Predictors, Residualized, TrainedTrajectories, TrajectorySae};
use crate::scene::{Mask, ScenePair};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The trainings of the paper's ablation. What its NoConcat is exactly is not public: [`Join`] has two readings of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ablation {
    /// Residuals, all steps of a trajectory in one row: the paper's method.
    ResidConcat,
    /// Residuals, every step a row of one shared dictionary.
    ResidPooled,
    /// Residuals, every step a row of a dictionary of its own.
    ResidPerStep,
    /// Standardised steps as they are, in one row.
    NoResidConcat,
    /// Standardised steps as they are, every step a row of one shared dictionary.
    NoResidPooled,
    /// As the first, with nested dictionaries.
    Matryoshka,
}

impl Ablation {
    /// All of them.
    pub const ALL: [Ablation; 6] = [
        Ablation::ResidConcat,
        Ablation::ResidPooled,
        Ablation::ResidPerStep,
        Ablation::NoResidConcat,
        Ablation::NoResidPooled,
        Ablation::Matryoshka,
    ];

    /// What tables call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Ablation::ResidConcat => "Resid+Concat",
            Ablation::ResidPooled => "Resid+NoConcat (pooled)",
            Ablation::ResidPerStep => "Resid+NoConcat (per step)",
            Ablation::NoResidConcat => "NoResid+Concat",
            Ablation::NoResidPooled => "NoResid+NoConcat (pooled)",
            Ablation::Matryoshka => "Matryoshka",
        }
    }

    /// What the paper's table calls it, if it is in that.
    #[must_use]
    pub fn published(self) -> Option<&'static str> {
        match self {
            Ablation::ResidConcat => Some("Resid+Concat"),
            Ablation::ResidPooled | Ablation::ResidPerStep => Some("Resid+NoConcat"),
            Ablation::NoResidConcat => Some("NoResid+Concat"),
            Ablation::NoResidPooled => None,
            Ablation::Matryoshka => Some("Matryoshka"),
        }
    }

    /// Whether steps are predicted from the ones before.
    #[must_use]
    pub fn predicts(self) -> bool {
        !matches!(self, Ablation::NoResidConcat | Ablation::NoResidPooled)
    }

    fn join(self) -> Join {
        match self {
            Ablation::ResidConcat | Ablation::NoResidConcat | Ablation::Matryoshka => Join::Concat,
            Ablation::ResidPooled | Ablation::NoResidPooled => Join::Pooled,
            Ablation::ResidPerStep => Join::PerStep,
        }
    }
}

impl fmt::Display for Ablation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Model, block, prompts and sizes of the paper's study at one [`Scale`], and its folder of results: a capture and SAEs
/// that are made once and shared by the study's notebooks.
#[derive(Debug, Clone)]
pub struct ResidualStudy {
    /// The scale.
    pub scale: Scale,
    /// Denoising steps of a generation.
    pub steps: usize,
    /// Pictures of the capture. Paper: 50,000 and 2,500 to judge by.
    pub pictures: usize,
    /// Where the capture and the SAEs are kept.
    pub folder: PathBuf,
    block: Block,
}

impl ResidualStudy {
    /// Latents for each number of a trajectory. The paper's is not known.
    pub const EXPANSION: usize = 2;

    /// The budget of a trajectory that the notebooks look at most closely: latents that fire on it, over all steps.
    pub const K: usize = 40;

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
            steps: scale.pick(5, 25, 50),
            pictures: scale.pick(24, 400, 52_500),
            folder: Path::new("work").join(scale.name()),
            // The paper's block has 1280 channels, as the middle block has.
            block: scale.pick(EMBEDDED, EMBEDDED, PUBLISHED)[1],
        }
    }

    /// Progress of the five steps of a trajectory, noise first. Which five the paper took is not known: evenly spaced.
    #[must_use]
    pub fn times(&self) -> Vec<f64> {
        vec![1.0, 0.75, 0.5, 0.25, 0.0]
    }

    /// The blocks that are captured: down, mid and up, as in *Emergence*.
    #[must_use]
    pub fn blocks(&self) -> [Block; 3] {
        self.scale.pick(EMBEDDED, EMBEDDED, PUBLISHED)
    }

    /// The blocks right after the middle one, called `late 0` and `late 1`, which carry colours and styles in `scene-unet`;
    /// none in the published model.
    #[must_use]
    pub fn late_blocks(&self) -> &'static [Block] {
        self.scale.pick(&LATE, &LATE, &[])
    }

    /// The block that SAEs are trained on: the middle one, unless [`on`](Self::on) says otherwise.
    #[must_use]
    pub fn block(&self) -> Block {
        self.block
    }

    /// The same study on the block of this name.
    ///
    /// # Errors
    /// When there is none; the names are said.
    pub fn on(&self, name: &str) -> Result<Self> {
        Ok(Self { block: block_of(name, &self.all_blocks())?, ..self.clone() })
    }

    /// Those that are captured.
    fn all_blocks(&self) -> Vec<Block> {
        [&self.blocks(), self.late_blocks()].concat()
    }

    fn modules(&self) -> impl Iterator<Item = &'static str> {
        self.all_blocks().into_iter().map(|b| b.module)
    }

    /// The model's name: embedded or on the hub.
    #[must_use]
    pub fn model_name(&self) -> &'static str {
        self.scale.pick("scene-unet", "scene-unet", "stable-diffusion-v1-5/stable-diffusion-v1-5")
    }

    /// Opens the model.
    ///
    /// # Errors
    /// As [`Pipeline::open`].
    pub fn model(&self) -> Result<Pipeline> {
        Pipeline::open(self.model_name())
    }

    /// Generates the pictures and keeps the conditional half of all blocks at the five steps; goes on where an interrupted
    /// capture stopped, and opens a complete one.
    ///
    /// # Errors
    /// As [`Capture::run`]; at [`Scale::Paper`], no file of prompts.
    pub fn capture(&self, model: &Pipeline) -> Result<Store> {
        Capture::new(model)
            .residuals(self.modules())
            .stages(self.times())
            .prompts(&prompts(self.scale, self.pictures)?)
            .steps(self.steps)
            .run(self.folder.join("activations"))
    }

    /// The pictures of the capture that SAEs and predictors are fitted to, and those that they are judged on: the last
    /// tenth.
    #[must_use]
    pub fn parts(&self) -> [std::ops::Range<usize>; 2] {
        let cut = self.pictures - self.pictures.div_ceil(10);
        [0..cut, cut..self.pictures]
    }

    /// The trajectories of a block over the five steps.
    ///
    /// # Errors
    /// A block that was not captured.
    pub fn trajectories(&self, store: &Store, block: Block) -> Result<Trajectories> {
        store.module(block.module)?.trajectories(self.times())
    }

    /// The recipe of one variant: `k` latents fire on a trajectory in the mean.
    #[must_use]
    pub fn recipe(&self, variant: Ablation, k: usize) -> Residualized {
        let recipe = Residualized::new(Self::EXPANSION, k).join(variant.join()).predict(variant.predicts());
        let recipe = if variant == Ablation::Matryoshka { recipe.matryoshka() } else { recipe };
        match self.scale {
            Scale::Smoke => recipe.epochs(2),
            // 192 steps, so that thirty trainings fit a notebook. At the library's own rate for 1280 latents, .0007, they
            // hardly leave their start: activations explained .79 after 160 steps, .86 after 320 at this rate, and .86
            // after 960.
            Scale::Laptop => recipe.epochs(12).learning_rate(3e-3),
            Scale::Paper => recipe,
        }
    }

    /// Trains one variant, the first time; reads it back afterwards. Variants that predict share `predictors`.
    ///
    /// # Errors
    /// Whatever stops a training.
    pub fn train(
        &self,
        trajectories: &Trajectories,
        predictors: &Arc<Predictors>,
        variant: Ablation,
        k: usize,
        seed: u64,
    ) -> Result<TrainedTrajectories> {
        let name = variant.name().to_lowercase().replace([' ', '(', ')'], "-").replace('+', "-");
        let recipe = self.recipe(variant, k).seed(seed);
        let recipe = if variant.predicts() { recipe.with(predictors) } else { recipe };
        let saes = self.folder.join("saes").join(self.block.name.replace(' ', "-"));
        recipe.run(saes.join(format!("{name}-k{k}-s{seed}"))).train(trajectories)
    }

    /// Pictures of both prompts of every pair, from the same noise, with the trajectories of all blocks.
    ///
    /// # Errors
    /// As [`Capture::run`].
    pub fn pairs(&self, model: &Pipeline, pairs: &[ScenePair]) -> Result<[Store; 2]> {
        let capture = Capture::new(model).residuals(self.modules()).stages(self.times()).steps(self.steps);
        both_prompts(&capture, pairs, &self.folder)
    }

    /// The transfer that turns picture `i` of `source` into that of `target`: features that the target has more of, over
    /// the tokens that the change is about, come; those that the source has more of go; `k` of each, on those tokens.
    ///
    /// # Errors
    /// Trajectories that do not fit the SAE, or a picture that they do not hold.
    pub fn transfer(
        sae: &TrajectorySae,
        [source, target]: [&Trajectories; 2],
        (i, pair): (usize, &ScenePair),
        k: usize,
    ) -> Result<Trajectory> {
        let grid = source.grid();
        let [before, after] = pair.masks();
        let mean = |of: &Trajectories, mask: &Mask| {
            MeanCode::of_trajectories(sae, &of.range(i..i + 1)?, &touched(&[mask], grid))
        };
        let scores = FeatureScores::between(mean(source, &before)?, mean(target, &after)?)?;
        Ok(Trajectory::transfer(sae, &scores, k).region(touched(&[&before, &after], grid)))
    }

    /// What a notebook shows: the setting, and at [`Scale::Paper`] what it costs.
    pub fn evcxr_display(&self) {
        println!("scale {}: {}, {} pictures in {} steps", self.scale, self.model_name(), self.pictures, self.steps);
        println!("block   {}, t = {:?}", self.block().module, self.times());
        println!("results {}", self.folder.display());
        if self.scale == Scale::Paper {
            // 576 tokens × 1280 channels × 2 bytes, five steps.
            println!("cost    {:.2} TB of activations", self.pictures as f64 * 576.0 * 1280.0 * 2.0 * 5.0 / 1e12);
        }
    }
}

/// What `capture` keeps of the sources and of the targets of pairs, generated from the same noise.
pub(super) fn both_prompts(capture: &Capture<'_>, pairs: &[ScenePair], folder: &Path) -> Result<[Store; 2]> {
    let run = |which: usize, name: &str| {
        let prompts: Vec<String> = pairs.iter().map(|p| p.captions()[which].text.clone()).collect();
        capture.clone().prompts(&prompts).run(folder.join(name))
    };
    Ok([run(0, "pairs-source")?, run(1, "pairs-target")?])
}

/// The cells of a grid of which masks cover a quarter or more; all, where that is none.
pub(super) fn touched(masks: &[&Mask], grid: (usize, usize)) -> Region {
    /// A small object covers half of no cell of an 8×8 grid.
    const SHARE: f32 = 0.25;
    let mut bits = vec![false; grid.0 * grid.1];
    for mask in masks {
        bits.iter_mut().zip(mask.coverage(grid.0, grid.1)).for_each(|(bit, c)| *bit |= c >= SHARE);
    }
    if bits.contains(&true) { Region::Mask { width: grid.1, height: grid.0, bits } } else { Region::Everywhere }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::hook::Hook;
    use crate::intervene::Strength;
    use crate::sae::Prediction;
    use crate::scene::Change;

    #[test]
    fn variants_are_trained_judged_and_transfer_between_pairs() {
        let folder = tempfile::tempdir().unwrap();
        let mut study = ResidualStudy::at(Scale::Smoke);
        (study.folder, study.pictures) = (folder.path().into(), 12);
        let model = study.model().unwrap();
        let store = study.capture(&model).unwrap();
        let block = study.block();
        let [fit, test] = study.parts();
        assert_eq!((fit.len(), test.len()), (10, 2));
        let all = study.trajectories(&store, block).unwrap();
        let trajectories = all.range(fit).unwrap();
        let predictors = Arc::new(Predictors::fit(&trajectories, &Prediction::default()).unwrap());
        let pairs = [ScenePair::sample(Change::Colour, 0), ScenePair::sample(Change::Style, 1)];
        let [source, target] = study.pairs(&model, &pairs).unwrap();
        let [a, b] = [&source, &target].map(|s| study.trajectories(s, block).unwrap());
        for variant in Ablation::ALL {
            let sae = study.train(&trajectories, &predictors, variant, 10, 0).unwrap();
            assert_eq!(sae.predictors.predicts(), variant.predicts(), "{variant}");
            let quality = sae.measure(&all.range(test.clone()).unwrap()).unwrap();
            assert!(quality.activation.explained_variance.is_finite() && quality.activation.l0 > 1.0);
            let edit = ResidualStudy::transfer(&sae, [&a, &b], (0, &pairs[0]), 3).unwrap();
            assert!(!edit.latents().is_empty() && edit.latents().len() <= 6, "{variant}");
            assert_eq!(edit.sites()[0].module, block.module);
        }
        // An edit of nothing leaves the picture as it was.
        let sae = study.train(&trajectories, &predictors, Ablation::ResidConcat, 10, 0).unwrap();
        let edit =
            ResidualStudy::transfer(&sae, [&a, &b], (1, &pairs[1]), 3).unwrap().strength(Strength::Constant(0.0));
        let prompt = &source.items()[1].prompt;
        let request = || model.prompt(prompt).seed(1).steps(study.steps);
        assert!(request().with(edit).run().unwrap().image == request().run().unwrap().image);
        assert!(study.on("side").unwrap_err().to_string().contains("down"));
        // On another block, another SAE.
        let late = study.on("late 0").unwrap();
        let trajectories = late.trajectories(&store, late.block()).unwrap();
        let predictors = Arc::new(Predictors::fit(&trajectories, &Prediction::default()).unwrap());
        let other = late.train(&trajectories, &predictors, Ablation::ResidConcat, 10, 0).unwrap();
        assert!(sae.parts != other.parts);
        assert!(study.train(&trajectories, &predictors, Ablation::ResidConcat, 10, 0).is_err(), "another block's");
    }

    #[test]
    fn a_region_is_what_masks_touch() {
        let mask = Mask::from_fn(64, 64, |x, y| x < 8 && y < 4);
        let Region::Mask { bits, .. } = touched(&[&mask], (8, 8)) else { panic!("a mask") };
        assert_eq!(bits.iter().filter(|b| **b).count(), 1);
        assert_eq!(touched(&[&Mask::new(64, 64)], (8, 8)), Region::Everywhere);
    }
}
