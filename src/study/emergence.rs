//! The setting of *Emergence and Evolution of Interpretable Concepts in Diffusion Models* (arXiv 2504.15473).

use super::scale::{Scale, named};
use crate::activations::{Capture, Store};
use crate::concepts::source::annotated;
use crate::concepts::{LabelledMask, MaskFile, Vocabulary};
use crate::device;
use crate::diffusion::hook::Half;
use crate::diffusion::pipeline::Pipeline;
use crate::error::{Error, Result};
use crate::measure::annotate::Annotator;
use crate::sae::{TopK, Trained};
use crate::scene::{Scene, Split};
use std::path::{Path, PathBuf};

/// The environment variable with a file of prompts, one a line, for [`Scale::Paper`].
pub const PROMPTS: &str = "DENOSCOPE_PROMPTS";

/// The environment variable with a file or folder of masks, for [`Scale::Paper`].
pub const MASKS: &str = "DENOSCOPE_MASKS";

/// A block that the paper looks at, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// The paper's name of it, `down`, `mid` or `up`, or ours.
    pub name: &'static str,
    /// Its module path.
    pub module: &'static str,
}

/// The three blocks in Stable Diffusion 1.4: 16×16, 8×8 and 16×16 tokens (section 4.1).
pub(super) const PUBLISHED: [Block; 3] = [
    Block { name: "down", module: "down_blocks.2.attentions.1" },
    Block { name: "mid", module: "mid_block.attentions.0" },
    Block { name: "up", module: "up_blocks.1.attentions.0" },
];

/// The blocks of `scene-unet` with the same grids.
pub(super) const EMBEDDED: [Block; 3] = [
    Block { name: "down", module: "down_blocks.0.attentions.0" },
    Block { name: "mid", module: "mid_block.attentions.0" },
    Block { name: "up", module: "up_blocks.1.attentions.0" },
];

/// The blocks of `scene-unet` right after the middle one.
pub(super) const LATE: [Block; 2] = [
    Block { name: "late 0", module: "up_blocks.0.attentions.0" },
    Block { name: "late 1", module: "up_blocks.0.attentions.1" },
];

/// Model, blocks, prompts and sizes of the paper's study at one [`Scale`], and its folder of results: a capture and
/// SAEs that are made once and shared by the study's notebooks.
#[derive(Debug, Clone)]
pub struct Emergence {
    /// The scale.
    pub scale: Scale,
    /// Denoising steps of a generation. Paper: 50.
    pub steps: usize,
    /// Pictures of the capture. Paper: 200,000 prompts.
    pub pictures: usize,
    /// Where the capture and the SAEs are kept.
    pub folder: PathBuf,
}

impl Emergence {
    /// The stages t at which the paper looks: the first step, half-way and the last step.
    pub const STAGES: [f64; 3] = [1.0, 0.5, 0.0];

    /// The moments that are captured: the [stages](Self::STAGES), and two between them where the model is small enough.
    #[must_use]
    pub fn times(&self) -> Vec<f64> {
        let all = [1.0, 0.75, 0.5, 0.25, 0.0];
        self.scale.pick(all.to_vec(), all.to_vec(), Self::STAGES.to_vec())
    }

    /// The numbers k of latents that fire on a token.
    pub const SPARSITIES: [usize; 2] = [10, 20];

    /// Latents for each channel of an activation.
    pub const EXPANSION: usize = 4;

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
            // 25 steps in place of 50 halve the time of a capture on two cores; stages are the same shares of them.
            steps: scale.pick(5, 25, 50),
            pictures: scale.pick(32, 400, 200_000),
            folder: Path::new("work").join(scale.name()),
        }
    }

    /// The blocks, in the order down, mid, up.
    #[must_use]
    pub fn blocks(&self) -> [Block; 3] {
        self.scale.pick(EMBEDDED, EMBEDDED, PUBLISHED)
    }

    /// The blocks that global edits change. The paper edits the middle block; of `scene-unet`, whose middle block
    /// carries little of a style (an edit of it turns 4 to 6 of 24 pictures at any strength, chance 4), the two blocks
    /// after it, called `late 0` and `late 1`.
    #[must_use]
    pub fn style_blocks(&self) -> &'static [Block] {
        self.scale.pick(&LATE, &LATE, &PUBLISHED[1..2])
    }

    /// The block called `name`.
    ///
    /// # Errors
    /// When there is none; the names are said.
    pub fn block(&self, name: &str) -> Result<Block> {
        block_of(name, &[&self.blocks(), self.style_blocks()].concat())
    }

    /// The model's name: embedded or on the hub.
    #[must_use]
    pub fn model_name(&self) -> &'static str {
        self.scale.pick("scene-unet", "scene-unet", "CompVis/stable-diffusion-v1-4")
    }

    /// Opens the model.
    ///
    /// # Errors
    /// As [`Pipeline::open`].
    pub fn model(&self) -> Result<Pipeline> {
        Pipeline::open(self.model_name())
    }

    /// The scenes that the embedded model is asked for: what its pictures should show is known.
    #[must_use]
    pub fn scenes(&self) -> Vec<Scene> {
        (0..self.pictures as u64).map(|i| Scene::sample(Split::Test, i)).collect()
    }

    /// One prompt a picture: full captions of [`scenes`](Self::scenes); at [`Scale::Paper`] the first lines of the
    /// file that `DENOSCOPE_PROMPTS` names (the paper took LAION-COCO).
    ///
    /// # Errors
    /// At [`Scale::Paper`], when there is no such file or it has too few lines.
    pub fn prompts(&self) -> Result<Vec<String>> {
        prompts(self.scale, self.pictures)
    }

    /// Generates the pictures and keeps the residual updates of all blocks at the captured [times](Self::times), both
    /// halves of guidance; goes on where an interrupted capture stopped, and opens a complete one.
    ///
    /// # Errors
    /// As [`Capture::run`] and [`prompts`](Self::prompts).
    pub fn capture(&self, model: &Pipeline) -> Result<Store> {
        Capture::new(model)
            .residuals(self.blocks().iter().chain(self.style_blocks()).map(|b| b.module))
            .stages(self.times())
            .half(Half::Conditional)
            .half(Half::Unconditional)
            .prompts(&self.prompts()?)
            .steps(self.steps)
            .run(self.folder.join("activations"))
    }

    /// What the annotator finds in the pictures of the capture: one list of masks a picture. At [`Scale::Paper`] what an
    /// annotator of the open world has found (the paper took RAM, Grounding DINO and SAM): the file or folder that
    /// `DENOSCOPE_MASKS` names, see [`MaskFile`].
    ///
    /// # Errors
    /// A picture that cannot be read or judged; at [`Scale::Paper`], no such file, or as [`MaskFile::open`].
    pub fn masks(
        &self,
        store: &Store,
        annotator: &dyn Annotator,
        vocabularies: &[Vocabulary],
    ) -> Result<Vec<Vec<LabelledMask>>> {
        if self.scale == Scale::Paper {
            let pictures = self.folder.join("activations");
            let what = format!("masks from a file, made of the pictures in {}", pictures.display());
            return MaskFile::open(named(MASKS, what)?)?.for_store(store);
        }
        annotated(store, annotator, vocabularies)
    }

    /// The SAE of one block, half, stage and sparsity: trained the first time, read back afterwards.
    ///
    /// # Errors
    /// A block, half or stage that the store does not hold; whatever stops a training.
    pub fn sae(&self, store: &Store, block: &str, half: Half, t: f64, k: usize) -> Result<Trained> {
        let activations = store.module(self.block(block)?.module)?.half(half)?.stage(t)?;
        let recipe = TopK::new(Self::EXPANSION, k);
        let recipe = match self.scale {
            Scale::Smoke => recipe.epochs(2),
            Scale::Laptop => recipe,
            // Section 4.1 of the paper.
            Scale::Paper => recipe.epochs(1).batch(4096).learning_rate(1e-4).on(&device::chosen()?),
        };
        recipe
            .run(self.folder.join("saes").join(format!("{block}-{half}-t{t}-k{k}").replace(' ', "-")))
            .train(&activations)
    }

    /// What a notebook shows: the setting, and at [`Scale::Paper`] what it costs.
    pub fn evcxr_display(&self) {
        println!("scale {}: {}, {} pictures in {} steps", self.scale, self.model_name(), self.pictures, self.steps);
        println!("blocks  {}", self.blocks().map(|b| format!("{} {}", b.name, b.module)).join(" · "));
        println!("results {}", self.folder.display());
        if self.scale == Scale::Paper {
            // 576 tokens × 1280 channels × 2 bytes, for 3 stages and 2 halves.
            let bytes = self.pictures as f64 * 576.0 * 1280.0 * 2.0 * 6.0;
            println!("cost    {:.1} TB of activations", bytes / 1e12);
        }
    }
}

/// The one of `known` that is called `name`.
pub(super) fn block_of(name: &str, known: &[Block]) -> Result<Block> {
    let found = known.iter().find(|b| b.name == name).copied();
    found.ok_or_else(|| Error::unknown("block", name, known.iter().map(|b| b.name)))
}

/// `n` prompts: full captions of the test split's first scenes; at [`Scale::Paper`] the first lines of the file that
/// `DENOSCOPE_PROMPTS` names.
pub(super) fn prompts(scale: Scale, n: usize) -> Result<Vec<String>> {
    if scale != Scale::Paper {
        return Ok((0..n as u64).map(|i| Scene::sample(Split::Test, i).full_caption().text).collect());
    }
    let path = named(PROMPTS, "its prompts from a file, one a line")?;
    let text = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
    let prompts: Vec<String> = text.lines().filter(|l| !l.trim().is_empty()).map(String::from).collect();
    if prompts.len() < n {
        let found = format!("{} prompts, expected {n} for this study", prompts.len());
        return Err(Error::format(&path, found));
    }
    Ok(prompts[..n].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::annotator::SceneAnnotator;

    #[test]
    fn a_scale_has_its_model_blocks_and_prompts() {
        let study = Emergence::at(Scale::Smoke);
        assert_eq!(study.prompts().unwrap().len(), study.pictures);
        let model = study.model().unwrap();
        let modules = model.modules();
        assert!(study.blocks().iter().all(|b| modules.iter().any(|m| m == b.module)));
        assert_eq!(study.block("mid").unwrap().module, "mid_block.attentions.0");
        assert!(study.block("middle").unwrap_err().to_string().contains("mid"));
        assert_eq!(Emergence::at(Scale::Paper).blocks()[2].module, "up_blocks.1.attentions.0");
    }

    #[test]
    fn a_capture_is_annotated_and_an_sae_trained_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut study = Emergence::at(Scale::Smoke);
        (study.folder, study.pictures, study.steps) = (folder.path().into(), 24, 9);
        let store = study.capture(&study.model().unwrap()).unwrap();
        let masks = study.masks(&store, &SceneAnnotator::open().unwrap(), &[Vocabulary::Style]).unwrap();
        assert!(masks.len() == 24 && masks.iter().all(|m| m.len() == 1), "every picture has one style");
        let first = study.sae(&store, "mid", Half::Conditional, 1.0, 10).unwrap();
        let again = study.sae(&store, "mid", Half::Conditional, 1.0, 10).unwrap();
        assert_eq!((first.latents, &first.w_dec), (512, &again.w_dec));
        assert!(study.sae(&store, "top", Half::Conditional, 1.0, 10).is_err());
        assert!(study.sae(&store, "mid", Half::Conditional, 0.9, 10).is_err());
    }
}
