//! Where the commands get activations, pictures and masks from.

use super::label::{LabelledMask, Vocabulary};
use super::truth;
use crate::activations::Store;
use crate::embedded::SceneAnnotator;
use crate::error::{Error, Result};
use crate::measure::annotate::Annotator;
use crate::progress::Progress;
use crate::scene::{Scene, Split};
use clap::ValueEnum;

/// Pictures that are annotated at once.
const PASS: usize = 32;

/// Who says what is in a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Masks {
    /// The embedded annotator looks at every picture: classes, colours, background and style.
    Annotator,
    /// The pictures are the scenes of the world's training split, whose exact masks are known, in all vocabularies.
    SceneTrain,
    /// The same for the validation split.
    SceneValidation,
    /// The same for the test split.
    SceneTest,
}

impl Masks {
    /// The masks of every picture of a store.
    ///
    /// # Errors
    /// A picture that cannot be read, or that is not the scene it should be.
    pub fn of(self, store: &Store, vocabularies: &[Vocabulary]) -> Result<Vec<Vec<LabelledMask>>> {
        let n = store.items().len();
        let split = match self {
            Masks::Annotator => return annotated(store, &SceneAnnotator::open()?, vocabularies),
            Masks::SceneTrain => Split::Train,
            Masks::SceneValidation => Split::Validation,
            Masks::SceneTest => Split::Test,
        };
        let mut progress = Progress::new("masks", n);
        let mut all = Vec::with_capacity(n);
        for i in 0..n {
            let scene = Scene::sample(split, i as u64);
            let render = scene.render();
            if store.image(i)? != render.image {
                let prompt = &store.items()[i].prompt;
                return Err(Error::invalid(format!(
                    "masks: picture {i} ({prompt:?}) is not scene {i} of the {split:?} split; for other pictures take the \
                     annotator"
                )));
            }
            all.push(truth::masks(&scene, &render, vocabularies));
            progress.at(i + 1, "");
        }
        Ok(all)
    }
}

/// What `annotator` finds in the pictures of a store: one list of masks a picture.
///
/// # Errors
/// A picture that cannot be read or judged.
pub fn annotated(
    store: &Store,
    annotator: &dyn Annotator,
    vocabularies: &[Vocabulary],
) -> Result<Vec<Vec<LabelledMask>>> {
    let n = store.items().len();
    let mut progress = Progress::new("annotating", n);
    let mut all = Vec::with_capacity(n);
    for first in (0..n).step_by(PASS) {
        let images = store.images(first..(first + PASS).min(n))?;
        all.extend(annotator.annotate(&images)?.iter().map(|a| a.masks(vocabularies)));
        progress.at(all.len(), "");
    }
    Ok(all)
}
