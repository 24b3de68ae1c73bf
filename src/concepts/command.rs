//! `denoscope label` and `denoscope explore`.

use super::build::Labelling;
use super::dictionary::Dictionary;
use super::effect::Effect;
use super::label::{LabelledMask, Vocabulary};
use super::labeller::{Compare, Options, Rule, Scale};
use super::masks::MaskFile;
use super::source::Masks;
use super::survey::Survey;
use crate::activations::Store;
use crate::error::{Error, Result};
use crate::figure::Explorer;
use crate::sae::Sae;
use crate::sae::command::source;
use clap::Args;
use std::path::{Path, PathBuf};

/// Label the latents of a sparse autoencoder by the overlap of their maps with masks.
#[derive(Debug, Clone, Args)]
pub struct Label {
    /// Folder of the SAE.
    pub sae: PathBuf,
    /// Configuration whose activations (in a store, for the pictures) are taken; otherwise that of the SAE's own training.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Who says what is in the pictures.
    #[arg(long, value_enum, default_value = "annotator")]
    pub masks: Masks,
    /// Masks from a file in place of that: COCO's JSON, Grounded-SAM 2's, or a folder of either or of PNG masks.
    #[arg(long)]
    pub mask_file: Option<PathBuf>,
    /// Leaves faulty entries of the mask file out, and says which, in place of refusing the file.
    #[arg(long, requires = "mask_file")]
    pub sound_only: bool,
    /// Kinds of labels: class, colour, part, background, style, shadow, depth; all by default.
    #[arg(long, value_delimiter = ',')]
    pub kinds: Vec<Vocabulary>,
    /// Scale every map by min and max instead of max.
    #[arg(long)]
    pub min_max: bool,
    /// Threshold of a scaled map.
    #[arg(long, default_value_t = Options::default().threshold)]
    pub threshold: f32,
    /// Compare on the masks' pixels instead of the maps' grid: square cells, or smoothly enlarged.
    #[arg(long, value_parser = ["pixels", "smooth"])]
    pub resolution: Option<String>,
    /// A label needs an IoU above this.
    #[arg(long, default_value_t = Options::default().iou)]
    pub iou: f32,
    /// The IoU that decides is that of all pictures pooled.
    #[arg(long)]
    pub pooled: bool,
    /// Pictures above the IoU that a label takes.
    #[arg(long, default_value_t = 1)]
    pub hits: u32,
    /// The control: shuffle the masks among the pictures with this seed.
    #[arg(long)]
    pub shuffled: Option<u64>,
    /// Also label with every other choice and with the controls, and print what they give.
    #[arg(long)]
    pub effect: bool,
    /// The dictionary, as JSON.
    #[arg(long, default_value = "dictionary.json")]
    pub out: PathBuf,
    /// Also writes one row for every latent and label to this CSV file.
    #[arg(long)]
    pub csv: Option<PathBuf>,
}

/// The masks of a store's pictures from a file, in some vocabularies.
fn read_masks(path: &Path, sound: bool, store: &Store, kinds: &[Vocabulary]) -> Result<Vec<Vec<LabelledMask>>> {
    let file = if sound { MaskFile::open_sound(path)? } else { MaskFile::open(path)? };
    file.problems().iter().for_each(|problem| eprintln!("left out: {problem}"));
    let mut masks = file.for_store(store)?;
    masks.iter_mut().for_each(|of| of.retain(|m| kinds.contains(&m.label.vocabulary)));
    Ok(masks)
}

impl Label {
    /// Runs the command.
    ///
    /// # Errors
    /// If the SAE, the activations, the pictures or the masks do not fit each other, or a file cannot be written.
    pub fn run(self) -> Result<()> {
        let sae = Sae::load(&self.sae)?;
        let source = source(&self.sae, self.config.as_deref())?;
        let kinds = if self.kinds.is_empty() { Vocabulary::ALL.to_vec() } else { self.kinds.clone() };
        let masks = match &self.mask_file {
            Some(path) => read_masks(path, self.sound_only, &source.store()?, &kinds)?,
            None => self.masks.of(&source.store()?, &kinds)?,
        };
        let options = Options {
            scale: if self.min_max { Scale::MinMax } else { Scale::Max },
            threshold: self.threshold,
            compare: match self.resolution.as_deref() {
                Some("pixels") => Compare::Pixels,
                Some(_) => Compare::Smooth,
                None => Compare::Grid,
            },
            iou: self.iou,
            rule: if self.pooled { Rule::Pooled } else { Rule::Picture },
            hits: self.hits,
        };
        let mut labelling = Labelling::new().options(options);
        if let Some(seed) = self.shuffled {
            labelling = labelling.shuffled(seed);
        }
        let dictionary = labelling.build(&sae, &source.activations, &masks)?;
        dictionary.save(&self.out)?;
        println!("{sae}");
        dictionary.evcxr_display();
        println!("{}", self.out.display());
        if let Some(csv) = &self.csv {
            dictionary.save_csv(csv)?;
            println!("{}", csv.display());
        }
        if self.effect {
            println!("{}", Effect::of(&sae, &source.activations, &masks)?.frame()?);
        }
        Ok(())
    }
}

/// Write one HTML page of a whole sparse autoencoder: search, sort, pictures, maps over time, neighbours.
#[derive(Debug, Clone, Args)]
pub struct Explore {
    /// Folder of the SAE.
    pub sae: PathBuf,
    /// Dictionary that `denoscope label` wrote; without one the latents have numbers only.
    #[arg(long)]
    pub dictionary: Option<PathBuf>,
    /// Configuration whose activations (in a store, for the pictures) are taken; otherwise that of the SAE's own training.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Top pictures of a latent.
    #[arg(long, default_value_t = 6)]
    pub examples: usize,
    /// Steps of the store that are shown, evenly spread; 1 for only the SAE's own. Each adds some 0.9 MB to a page of 5000
    /// latents.
    #[arg(long, default_value_t = 5)]
    pub stages: usize,
    /// The title.
    #[arg(long, default_value = "SAE explorer")]
    pub title: String,
    /// The page.
    #[arg(long, default_value = "explorer.html")]
    pub out: PathBuf,
}

impl Explore {
    /// Runs the command.
    ///
    /// # Errors
    /// If the SAE, the activations and the dictionary do not fit each other, or a file cannot be written.
    pub fn run(self) -> Result<()> {
        let sae = Sae::load(&self.sae)?;
        let source = source(&self.sae, self.config.as_deref())?;
        let dictionary = self.dictionary.as_ref().map(Dictionary::load).transpose()?;
        let store = source.store()?;
        let own = &source.activations;
        let stages = match self.stages {
            0 | 1 => Vec::new(),
            _ => {
                let narrowed = store.module(&own.about().site.module)?.kind(own.about().site.kind)?;
                let narrowed = narrowed.half(own.about().half)?;
                spread(&narrowed.stages(), self.stages)
                    .map(|(step, _)| narrowed.step(*step))
                    .collect::<Result<Vec<_>>>()?
            }
        };
        let survey = Survey::new().examples(self.examples).build(&sae, own, &stages)?;
        let mut page = Explorer::new(&survey).title(&self.title).pictures(|i| store.image(i));
        page = page.prompts(store.items().iter().map(|i| &i.prompt));
        if let Some(dictionary) = &dictionary {
            page = page.dictionary(dictionary);
        }
        page.save(&self.out)?;
        let size = std::fs::metadata(&self.out).map_err(Error::file(&self.out))?.len();
        println!("{sae}\n{} ({:.1} MB)", self.out.display(), size as f64 / 1e6);
        Ok(())
    }
}

/// At most `most` of `all`, evenly spread with both ends.
fn spread<T>(all: &[T], most: usize) -> impl Iterator<Item = &T> {
    let n = most.min(all.len());
    (0..n).map(move |i| &all[(i * (all.len() - 1) + n.max(2) / 2 - 1) / (n.max(2) - 1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_spread_with_both_ends() {
        let of = |n: usize, most| spread(&(0..n).collect::<Vec<_>>(), most).copied().collect::<Vec<_>>();
        assert_eq!(of(50, 5), [0, 12, 24, 37, 49]);
        assert_eq!((of(3, 5), of(2, 2), of(1, 5)), (vec![0, 1, 2], vec![0, 1], vec![0]));
        assert_eq!(of(10, 3), [0, 4, 9]);
    }
}
