//! `denoscope edit`.

use super::{Ablate, Global, LatentEdit, Region, Spatial, Stage, Strength};
use crate::concepts::Dictionary;
use crate::diffusion::hook::{Half, Hook};
use crate::diffusion::pipeline::Pipeline;
use crate::error::{Error, Result};
use crate::measure::image::mean_absolute;
use crate::sae::Sae;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Edit {
    /// Add the concepts inside the region, take them away elsewhere.
    Spatial,
    /// Add the concepts everywhere.
    Global,
    /// Take the concepts away inside the region.
    Ablate,
    /// Scale the concepts' activations by a factor inside the region.
    Scale,
    /// Erase the strongest features of every token of the region.
    EraseTop,
    /// Turn the strongest features of every token of the region around.
    InvertTop,
}

/// What β is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// The mean norm of the module's update.
    Relative,
    /// Nothing.
    Constant,
    /// The norm of the code at each token.
    Code,
    /// The token's share of the code's norm.
    CodeShare,
}

/// Paint a prompt without and with an edit, and with its control: a random direction of equal norm.
#[derive(Debug, Clone, Args)]
pub struct EditPicture {
    /// Embedded model, folder in diffusers layout, or hub id.
    pub model: String,
    /// What to paint.
    pub prompt: String,
    /// Folder of the SAE.
    #[arg(long)]
    pub sae: PathBuf,
    /// Dictionary that `denoscope label` wrote, to find a word's latents.
    #[arg(long, requires = "word")]
    pub dictionary: Option<PathBuf>,
    /// The word whose latents are edited.
    #[arg(long, requires = "dictionary", conflicts_with = "latents")]
    pub word: Option<String>,
    /// The latents that are edited.
    #[arg(long, value_delimiter = ',')]
    pub latents: Vec<usize>,
    /// What is done.
    #[arg(long, value_enum, default_value = "global")]
    pub edit: Edit,
    /// Where: everywhere, top-left, top-right, bottom-left, bottom-right, LEFT,TOP,RIGHT,BOTTOM in 0 to 1, or a picture file
    /// whose bright pixels are inside.
    #[arg(long, default_value = "everywhere")]
    pub region: String,
    /// β.
    #[arg(long, default_value_t = 1.0)]
    pub strength: f64,
    /// What β is measured by [default: relative for spatial and global, constant for the others].
    #[arg(long, value_enum)]
    pub by: Option<By>,
    /// Factor of `scale`.
    #[arg(long, default_value_t = 3.0)]
    pub factor: f32,
    /// Features a token of `erase-top` and `invert-top`.
    #[arg(long, default_value_t = 1)]
    pub top: usize,
    /// Stage in which it acts; the SAE's own by default.
    #[arg(long, conflicts_with = "at_steps")]
    pub stage: Option<Stage>,
    /// Steps at which it acts, counted from the noisiest.
    #[arg(long, value_delimiter = ',')]
    pub at_steps: Vec<usize>,
    /// Act in both halves of the guidance instead of the conditional one.
    #[arg(long, conflicts_with = "unconditional")]
    pub both_halves: bool,
    /// Act in the unconditional half.
    #[arg(long)]
    pub unconditional: bool,
    /// Denoising steps.
    #[arg(long, default_value_t = 50)]
    pub steps: usize,
    /// Seeds of the initial noise.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub seeds: Vec<u64>,
    /// Seed of the control's random direction.
    #[arg(long, default_value_t = 1)]
    pub control: u64,
    /// Folder for the pictures, named SEED-before.png, SEED-after.png and SEED-control.png.
    #[arg(long, default_value = ".")]
    pub out: PathBuf,
}

/// Settings that every edit has, on one type after another.
macro_rules! settled {
    ($self:ident, $edit:expr, $control:ident) => {{
        let mut edit = $edit;
        if let Some(stage) = $self.stage {
            edit = edit.stage(stage);
        }
        if !$self.at_steps.is_empty() {
            edit = edit.steps(&$self.at_steps);
        }
        if $self.both_halves {
            edit = edit.both_halves();
        } else if $self.unconditional {
            edit = edit.half(Half::Unconditional);
        }
        if let Some(seed) = $control {
            edit = edit.control(seed);
        }
        Box::new(edit) as Box<dyn Hook>
    }};
}

impl EditPicture {
    /// Runs the command.
    ///
    /// # Errors
    /// Of the model, the SAE, the dictionary or the edit; a word that is not in the dictionary (the nearest are named).
    pub fn run(self) -> Result<()> {
        let model = Pipeline::open(&self.model)?;
        let sae = Sae::load(&self.sae)?;
        let latents = match (&self.word, &self.dictionary) {
            (Some(word), Some(path)) => Dictionary::load(path)?.of(word)?,
            _ => self.latents.clone(),
        };
        let own = matches!(self.edit, Edit::EraseTop | Edit::InvertTop);
        if latents.is_empty() && !own {
            return Err(Error::invalid("edit: no latents; give --latents, or --word with --dictionary"));
        }
        if let Some(l) = latents.iter().find(|l| **l >= sae.latents) {
            return Err(Error::invalid(format!("edit: latent {l} of an SAE with {}", sae.latents)));
        }
        let region: Region = self.region.parse()?;
        if self.edit == Edit::Global && region != Region::Everywhere {
            return Err(Error::invalid(format!("edit: global acts everywhere, not in {region}; spatial has a region")));
        }
        std::fs::create_dir_all(&self.out).map_err(Error::file(&self.out))?;
        let paint = |mut edit: Option<Box<dyn Hook>>| {
            let mut generation = model.prompt(&self.prompt).steps(self.steps).seeds(&self.seeds);
            if let Some(edit) = &mut edit {
                generation = generation.with(edit.as_mut());
            }
            generation.run()
        };
        let before = paint(None)?;
        let after = paint(Some(self.hook(&sae, &latents, &region, None)))?;
        let control = paint(Some(self.hook(&sae, &latents, &region, Some(self.control))))?;
        for ((before, after), control) in before.iter().zip(&after).zip(&control) {
            for (name, picture) in [("before", before), ("after", after), ("control", control)] {
                picture.save(self.out.join(format!("{}-{name}.png", picture.seed)))?;
            }
            println!(
                "seed {}: mean absolute difference {:.4} with the edit, {:.4} with a random direction · {}",
                before.seed,
                mean_absolute(&before.image, &after.image)?,
                mean_absolute(&before.image, &control.image)?,
                self.out.join(format!("{}-after.png", before.seed)).display()
            );
        }
        Ok(())
    }

    fn hook(&self, sae: &Sae, latents: &[usize], region: &Region, control: Option<u64>) -> Box<dyn Hook> {
        let (region, latents) = (region.clone(), latents.to_vec());
        let by = self.by.unwrap_or(match self.edit {
            Edit::Spatial | Edit::Global => By::Relative,
            _ => By::Constant,
        });
        let strength = match by {
            By::Relative => Strength::Relative(self.strength),
            By::Constant => Strength::Constant(self.strength),
            By::Code => Strength::Code(self.strength),
            By::CodeShare => Strength::CodeShare(self.strength),
        };
        match self.edit {
            Edit::Spatial => settled!(self, Spatial::new(sae, latents).region(region).strength(strength), control),
            Edit::Global => settled!(self, Global::new(sae, latents).strength(strength), control),
            Edit::Ablate => settled!(self, Ablate::new(sae, latents).region(region).share(self.strength), control),
            Edit::Scale => {
                let edit = LatentEdit::scale(sae, latents, self.factor).region(region).strength(strength);
                settled!(self, edit, control)
            }
            Edit::EraseTop => {
                settled!(self, LatentEdit::erase_top(sae, self.top).region(region).strength(strength), control)
            }
            Edit::InvertTop => {
                settled!(self, LatentEdit::invert_top(sae, self.top).region(region).strength(strength), control)
            }
        }
    }
}
