//! Composition prediction: where things will be, read off the latents of one denoising step (Emergence, section 4.2).
//!
//! Every location gets the embedding of its strongest labelled latents, Σ_c w_c e_c / Σ_c w_c: the *concept map*. The
//! cosine of that with the vector of a noun, above a threshold, is the predicted mask of the noun. How many latents
//! count, with which weight, and the threshold are not in the paper; the threshold is to be chosen on one set of pictures
//! ([`Predictions::best_threshold`]) and used on another.

use super::build::{each_item, one_list_each};
use super::embedding::Embedding;
use super::label::{Label, LabelledMask};
use super::maps::Maps;
use super::words::{WordVectors, cosine};
use crate::activations::Activations;
use crate::error::{Error, Result};
use crate::random::stream;
use crate::sae::Sae;
use crate::scene::Mask;

/// Weight of a latent in the embedding of a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LatentWeight {
    /// Its activation there. The default.
    #[default]
    Activation,
    /// All alike.
    Equal,
}

/// Predicts masks of nouns from codes.
#[derive(Debug, Clone)]
pub struct Composition {
    embedding: Embedding,
    words: WordVectors,
    top: usize,
    weight: LatentWeight,
}

/// The concept map of an item: an embedding for every location.
#[derive(Debug, Clone, PartialEq)]
pub struct ConceptMap {
    /// By token; `None` where no labelled latent fires.
    pub tokens: Vec<Option<Vec<f32>>>,
}

impl ConceptMap {
    /// The cosine of every location's embedding with a vector; −1 where there is none.
    #[must_use]
    pub fn similarity(&self, vector: &[f32]) -> Vec<f32> {
        self.tokens.iter().map(|e| e.as_ref().map_or(-1.0, |e| cosine(e, vector))).collect()
    }

    /// Which of some words' vectors is most similar at every location; `None` where no cosine exceeds `threshold`.
    #[must_use]
    pub fn nearest(&self, words: &[Vec<f32>], threshold: f32) -> Vec<Option<usize>> {
        let maps: Vec<Vec<f32>> = words.iter().map(|w| self.similarity(w)).collect();
        let best = |token: usize| {
            let above = (0..maps.len()).filter(|&w| maps[w][token] > threshold);
            above.reduce(|a, b| if maps[b][token] > maps[a][token] { b } else { a })
        };
        (0..self.tokens.len()).map(best).collect()
    }
}

/// What is predicted for one noun in one picture, beside the truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The item.
    pub item: usize,
    /// The noun.
    pub label: Label,
    /// Cosine with the noun at every location.
    pub similarity: Vec<f32>,
    /// Its mask on the same grid.
    pub mask: Mask,
}

impl Prediction {
    /// The mask that a threshold gives.
    #[must_use]
    pub fn predicted(&self, threshold: f32) -> Mask {
        let width = self.mask.width();
        Mask::from_fn(width, self.mask.height(), |x, y| self.similarity[y * width + x] > threshold)
    }

    /// |P ∩ S| / |P ∪ S| of the predicted and the true mask.
    #[must_use]
    pub fn iou(&self, threshold: f32) -> f64 {
        let (mut both, mut either) = (0usize, 0usize);
        for (&s, inside) in self.similarity.iter().zip(self.mask.iter()) {
            both += usize::from(s > threshold && inside);
            either += usize::from(s > threshold || inside);
        }
        if either == 0 { 0.0 } else { both as f64 / either as f64 }
    }
}

/// The predictions for all nouns of all pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    /// In order of the items.
    pub all: Vec<Prediction>,
    /// Masks that cover no cell of the grid and could not be predicted.
    pub lost: usize,
}

impl Predictions {
    /// The IoU of every prediction.
    #[must_use]
    pub fn ious(&self, threshold: f32) -> Vec<f64> {
        self.all.iter().map(|p| p.iou(threshold)).collect()
    }

    /// Mean IoU over all nouns that have a mask (Emergence, Figs. 3a and 8).
    #[must_use]
    pub fn mean_iou(&self, threshold: f32) -> f64 {
        let ious = self.ious(threshold);
        ious.iter().sum::<f64>() / ious.len() as f64
    }

    /// The threshold among −0.9, −0.85, …, 0.95 with the greatest mean IoU.
    ///
    /// # Errors
    /// When there is no prediction.
    pub fn best_threshold(&self) -> Result<f32> {
        if self.all.is_empty() {
            return Err(Error::invalid("composition: no noun with a mask to choose a threshold on"));
        }
        let candidates = (-18..20).map(|i| i as f32 * 0.05);
        let best = candidates.max_by(|a, b| self.mean_iou(*a).total_cmp(&self.mean_iou(*b)));
        Ok(best.expect("there are candidates"))
    }

    /// The control: every prediction is compared with the mask of another one, in a random cycle drawn with `seed`.
    #[must_use]
    pub fn shuffled(&self, seed: u64) -> Self {
        let order = stream(seed, "shuffled predictions", self.all.len() as u64).permutation(self.all.len());
        let mut all = self.all.clone();
        for (&a, &b) in order.iter().zip(order.iter().cycle().skip(1)) {
            all[a].mask = self.all[b].mask.clone();
        }
        Self { all, lost: self.lost }
    }
}

impl Composition {
    /// Predictions from the embedding of a dictionary's latents, in the space of `words`. The five strongest labelled
    /// latents of a location count, unless [told otherwise](Self::top).
    #[must_use]
    pub fn new(embedding: Embedding, words: WordVectors) -> Self {
        Self { embedding, words, top: 5, weight: LatentWeight::default() }
    }

    /// How many latents count at a location.
    #[must_use]
    pub fn top(mut self, n: usize) -> Self {
        self.top = n;
        self
    }

    /// With which weight they count.
    #[must_use]
    pub fn weight(mut self, weight: LatentWeight) -> Self {
        self.weight = weight;
        self
    }

    /// The concept map of one item.
    #[must_use]
    pub fn map(&self, maps: &Maps) -> ConceptMap {
        let mut firing: Vec<Vec<(f32, &[f32])>> = vec![Vec::new(); maps.tokens()];
        for n in 0..maps.active().len() {
            let (latent, tokens, values) = maps.nth(n);
            let Some(embedding) = self.embedding.of(latent) else { continue };
            tokens.iter().zip(values).for_each(|(&t, &v)| firing[t as usize].push((v, embedding)));
        }
        let token = |mut latents: Vec<(f32, &[f32])>| {
            // A stable sort: of equal activations the lower latent comes first.
            latents.sort_by(|a, b| b.0.total_cmp(&a.0));
            latents.truncate(self.top);
            let weight = |v: f32| match self.weight {
                LatentWeight::Activation => v,
                LatentWeight::Equal => 1.0,
            };
            let total: f32 = latents.iter().map(|(v, _)| weight(*v)).sum();
            (total > 0.0).then(|| {
                let mut mean = vec![0f32; self.embedding.dimensions()];
                for (v, embedding) in latents {
                    mean.iter_mut().zip(embedding).for_each(|(m, e)| *m += weight(v) / total * e);
                }
                mean
            })
        };
        ConceptMap { tokens: firing.into_iter().map(token).collect() }
    }

    /// Predicts every one of the given masks' labels on its picture. `masks` holds a list for every item; which
    /// vocabularies it holds decides which nouns are predicted.
    ///
    /// # Errors
    /// When there are not as many lists of masks as items, a label has no word vector, or an activation cannot be read.
    pub fn predict(&self, sae: &Sae, activations: &Activations, masks: &[Vec<LabelledMask>]) -> Result<Predictions> {
        one_list_each(masks.len(), activations.len())?;
        let (height, width) = activations.grid();
        let mut predictions = Predictions { all: Vec::new(), lost: 0 };
        each_item(sae, activations, "composition", |item, maps| {
            let map = self.map(&maps);
            for LabelledMask { label, mask } in &masks[item] {
                let mask = mask.at_grid(height, width);
                if mask.is_empty() {
                    predictions.lost += 1;
                    continue;
                }
                let similarity = map.similarity(&self.words.vector(&label.word)?);
                predictions.all.push(Prediction { item, label: label.clone(), similarity, mask });
            }
            Ok(())
        })?;
        Ok(predictions)
    }
}

#[cfg(test)]
mod tests {
    use super::super::embedding::{Weighting, toy::dictionary};
    use super::*;
    use crate::concepts::Vocabulary;

    fn composition() -> Composition {
        let words = WordVectors::from_entries([("tree", vec![1.0, 0.0]), ("house", vec![0.0, 1.0])]).unwrap();
        // Latent 2 has no label.
        let d = dictionary(&[&[("tree", 1)], &[("house", 2)], &[]]);
        Composition::new(Embedding::new(&d, &words, Weighting::Hits).unwrap(), words)
    }

    /// A 2 × 2 grid with 3 channels, which the latents read: tree, house, nothing labelled, both.
    fn item() -> (Sae, Activations, Vec<Vec<LabelledMask>>) {
        let mut sae = Sae::random(3, 3, 3, 0).unwrap();
        sae.w_enc.fill(0.0);
        (0..3).for_each(|l| sae.w_enc[l * 3 + l] = 1.0);
        let data = vec![2., 0., 0., 0., 3., 0., 0., 0., 5., 3., 1., 0.];
        let mask = |word: &str, at: &'static [(usize, usize)]| {
            LabelledMask::new(Vocabulary::Class, word, Mask::from_fn(2, 2, |x, y| at.contains(&(x, y))))
        };
        let masks = vec![vec![mask("tree", &[(0, 0), (1, 1)]), mask("house", &[(1, 0)]), mask("tree", &[])]];
        (sae, Activations::from_vec((2, 2), 3, data).unwrap(), masks)
    }

    #[test]
    fn every_location_has_its_nearest_word() {
        let map = ConceptMap { tokens: vec![Some(vec![2.0, 0.1]), None, Some(vec![0.0, 1.0]), Some(vec![-1.0, -1.0])] };
        let words = [vec![1.0, 0.0], vec![0.0, 3.0]];
        assert_eq!(map.nearest(&words, 0.5), [Some(0), None, Some(1), None]);
        assert_eq!(map.nearest(&words, -0.8), [Some(0), None, Some(1), Some(0)], "of equal ones the first");
        assert_eq!(map.nearest(&[], 0.0), [None; 4]);
    }

    #[test]
    fn a_location_is_the_mean_of_its_latents() {
        let (sae, activations, _) = item();
        let maps = Maps::of(&sae.encode(&activations.item(0).unwrap()).unwrap(), 0).unwrap();
        let map = composition().map(&maps);
        assert_eq!(map.tokens[..3], [Some(vec![1.0, 0.0]), Some(vec![0.0, 1.0]), None]);
        assert_eq!(map.tokens[3], Some(vec![0.75, 0.25]));
        assert_eq!(composition().weight(LatentWeight::Equal).map(&maps).tokens[3], Some(vec![0.5, 0.5]));
        assert_eq!(composition().top(1).map(&maps).tokens[3], Some(vec![1.0, 0.0]));
        assert_eq!(map.similarity(&[0.0, 2.0])[..3], [0.0, 1.0, -1.0]);
    }

    #[test]
    fn masks_are_predicted_and_the_control_loses_them() {
        let (sae, activations, masks) = item();
        let found = composition().predict(&sae, &activations, &masks).unwrap();
        assert_eq!((found.all.len(), found.lost), (2, 1));
        assert_eq!(found.ious(0.5), [1.0, 1.0]);
        // Above 0.2 the location of both counts for the house, too.
        assert_eq!(found.ious(0.2), [1.0, 0.5]);
        assert_eq!(found.mean_iou(found.best_threshold().unwrap()), 1.0);
        assert_eq!(found.shuffled(1).ious(0.5), [0.0, 0.0]);
        assert_eq!(found.all[1].predicted(0.5).area(), 1);
        let error = composition().predict(&sae, &activations, &[]).unwrap_err().to_string();
        assert!(error.contains("lists of masks"), "{error}");
    }
}
