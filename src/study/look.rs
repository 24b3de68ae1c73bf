//! One SAE of the study with its activations and its dictionary, and what it says of a picture.

use super::emergence::{Block, Emergence};
use crate::activations::{Activations, Store};
use crate::concepts::{
    Composition, Dictionary, Embedding, LabelledMask, Maps, Predictions, Weighting, WordVectors, top_concepts,
};
use crate::diffusion::hook::{Half, step_at};
use crate::diffusion::pipeline::Pipeline;
use crate::error::{Error, Result};
use crate::sae::Trained;
use image::RgbImage;
use std::ops::Range;

/// The number of active latents that dictionaries are made with. The paper names none; its interventions and ours take
/// the sparser of the two.
const K: usize = 10;

/// One block, half and moment: activations, SAE and dictionary.
#[derive(Debug, Clone)]
pub struct Look {
    /// The block.
    pub block: Block,
    /// The half of guidance.
    pub half: Half,
    /// The moment, 1 = noise.
    pub t: f64,
    /// The SAE.
    pub sae: Trained,
    /// What it reads.
    pub updates: Activations,
    /// What its latents stand for.
    pub dictionary: Dictionary,
}

/// A latent on one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The latent.
    pub latent: usize,
    /// Its map, row by row.
    pub map: Vec<f32>,
    /// Its number and the first words on its list.
    pub caption: String,
}

/// Composition prediction of one block, half and moment: made on one part of the pictures, judged on another.
#[derive(Debug, Clone)]
pub struct Composed {
    /// SAE and dictionary; the dictionary is of the first part only.
    pub look: Look,
    /// Reads concept maps.
    pub composition: Composition,
    /// The cosine above which a location belongs to a noun, chosen on the second part.
    pub threshold: f32,
    /// Predictions for the third part. Items are counted from [`Parts::test`]'s first.
    pub predictions: Predictions,
}

/// Pictures that dictionaries are made from, that thresholds are chosen on, and that are judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// For dictionaries.
    pub label: Range<usize>,
    /// For thresholds.
    pub validation: Range<usize>,
    /// For what is reported.
    pub test: Range<usize>,
}

impl Parts {
    /// Three fifths, a fifth and a fifth of `n` pictures.
    ///
    /// # Errors
    /// When a part would be empty.
    pub fn of(n: usize) -> Result<Self> {
        let (a, b) = (n * 3 / 5, n * 4 / 5);
        if a == 0 || a == b || b == n {
            return Err(Error::invalid(format!("{n} pictures do not make three parts")));
        }
        Ok(Self { label: 0..a, validation: a..b, test: b..n })
    }
}

impl Look {
    /// The maps of all latents on picture `item`.
    ///
    /// # Errors
    /// A picture that the activations do not hold.
    pub fn maps(&self, item: usize) -> Result<Maps> {
        Maps::of(&self.sae.encode(&self.updates.item(item)?)?, 0)
    }

    /// The `n` latents with the greatest mean activation on picture `item`, greatest first.
    ///
    /// # Errors
    /// As [`maps`](Self::maps).
    pub fn top(&self, item: usize, n: usize) -> Result<Vec<Seen>> {
        let maps = self.maps(item)?;
        let seen = |latent| Ok(Seen { latent, map: maps.dense(latent), caption: self.caption(latent)? });
        top_concepts(&maps, n).into_iter().map(|(latent, _)| seen(latent)).collect()
    }

    /// A latent's number and the two words that are on its list most often.
    ///
    /// # Errors
    /// When there is no such latent.
    pub fn caption(&self, latent: usize) -> Result<String> {
        let words: Vec<&str> =
            self.dictionary.concept(latent)?.labels.iter().take(2).map(|e| e.label.word.as_str()).collect();
        Ok(format!("{latent} {}", words.join(", ")).trim_end().to_string())
    }
}

impl Emergence {
    /// The dictionary of one block, half and moment, made from the pictures of `items` and their masks.
    ///
    /// # Errors
    /// As [`Emergence::sae`] and [`Dictionary::build`].
    pub fn look(
        &self,
        store: &Store,
        masks: &[Vec<LabelledMask>],
        (block, half, t): (&str, Half, f64),
        items: Range<usize>,
    ) -> Result<Look> {
        let block = self.block(block)?;
        let updates = store.module(block.module)?.half(half)?.stage(t)?;
        let sae = self.sae(store, block.name, half, t, K)?;
        let of = masks.get(items.clone()).ok_or_else(|| {
            Error::invalid(format!("masks of pictures {items:?}: there are masks of {}", masks.len()))
        })?;
        let dictionary = Dictionary::build(&sae, &updates.range(items)?, of)?;
        Ok(Look { block, half, t, sae, updates, dictionary })
    }

    /// Predicts where the nouns of pictures will be, from one block, half and moment (section 4.2). The SAE has seen all
    /// pictures, but no label; dictionary, threshold and judgement are of three [parts](Parts) of them.
    ///
    /// # Errors
    /// As [`Emergence::look`], [`Embedding::new`] and [`Composition::predict`].
    pub fn compose(
        &self,
        store: &Store,
        masks: &[Vec<LabelledMask>],
        words: &WordVectors,
        at: (&str, Half, f64),
    ) -> Result<Composed> {
        let parts = Parts::of(masks.len())?;
        let look = self.look(store, masks, at, parts.label)?;
        let composition = Composition::new(Embedding::new(&look.dictionary, words, Weighting::Hits)?, words.clone());
        let predict =
            |part: Range<usize>| composition.predict(&look.sae, &look.updates.range(part.clone())?, &masks[part]);
        let threshold = predict(parts.validation)?.best_threshold()?;
        let predictions = predict(parts.test)?;
        Ok(Composed { look, composition, threshold, predictions })
    }

    /// What the model expects picture `item` to become, at each of `times`: the clean picture that the noise prediction
    /// implies. The picture is generated once more for it.
    ///
    /// # Errors
    /// A picture that the store does not hold; of the generation.
    pub fn expected(&self, model: &Pipeline, store: &Store, item: usize, times: &[f64]) -> Result<Vec<RgbImage>> {
        let all = store.items();
        let of = all.get(item).ok_or_else(|| Error::invalid(format!("picture {item} of {}", all.len())))?;
        let steps: Vec<usize> = times.iter().map(|t| step_at(*t, self.steps)).collect();
        let made = model.prompt(&of.prompt).seed(of.seed).steps(self.steps).keep_x0(&steps).run()?;
        let find = |step: &usize| {
            let found = made.clean.iter().find(|c| c.0 == *step).map(|c| c.1.clone());
            found.ok_or_else(|| Error::invalid(format!("no expected picture of step {step}")))
        };
        steps.iter().map(find).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::concepts::Vocabulary;
    use crate::embedded::annotator::SceneAnnotator;
    use crate::study::Scale;

    #[test]
    fn parts_cover_all_and_are_not_empty() {
        let parts = Parts::of(400).unwrap();
        assert_eq!((parts.label, parts.validation, parts.test), (0..240, 240..320, 320..400));
        assert!(Parts::of(5).is_ok() && Parts::of(2).unwrap_err().to_string().contains("2 pictures"));
    }

    #[test]
    fn a_picture_is_looked_at_and_predicted() {
        let folder = tempfile::tempdir().unwrap();
        let mut study = Emergence::at(Scale::Smoke);
        (study.folder, study.pictures) = (folder.path().into(), 30);
        let model = study.model().unwrap();
        let store = study.capture(&model).unwrap();
        let annotator = SceneAnnotator::open().unwrap();
        let masks = study.masks(&store, &annotator, &[Vocabulary::Class, Vocabulary::Background]).unwrap();
        let at = ("up", Half::Conditional, 0.0);
        let look = study.look(&store, &masks, at, 0..20).unwrap();
        assert_eq!(look.dictionary.items, 20);
        let top = look.top(25, 4).unwrap();
        assert_eq!(top.len(), 4);
        let mean = |s: &Seen| s.map.iter().sum::<f32>();
        assert!(top.windows(2).all(|w| mean(&w[0]) >= mean(&w[1])), "greatest first");
        assert!(top.iter().all(|s| s.caption.starts_with(&s.latent.to_string()) && s.map.len() == 256));
        assert!(study.look(&store, &masks, at, 20..31).unwrap_err().to_string().contains("masks of 30"));

        let words = WordVectors::embedded().unwrap();
        let composed = study.compose(&store, &masks, &words, at).unwrap();
        assert!(composed.predictions.all.iter().all(|p| p.item < 6), "a fifth of thirty pictures");
        let nouns: usize = masks[24..].iter().map(Vec::len).sum();
        assert_eq!(composed.predictions.all.len() + composed.predictions.lost, nouns);

        let expected = study.expected(&model, &store, 3, &[1.0, 0.0]).unwrap();
        // What the last step expects is the picture.
        let (last, image) = (&expected[1], store.image(3).unwrap());
        let apart = last.as_raw().iter().zip(image.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
        assert!((apart / image.as_raw().len() as f64) < 1.0 && expected[0] != expected[1]);
        assert!(study.expected(&model, &store, 30, &[1.0]).is_err());
    }
}
