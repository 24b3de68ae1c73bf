//! What the choices that a paper leaves open do: one labelling for each, side by side, and the controls.

use super::build::Labelling;
use super::dictionary::Dictionary;
use super::label::{Label, LabelledMask};
use super::labeller::{Compare, Rule, Scale};
use crate::activations::Activations;
use crate::error::Result;
use crate::sae::{Architecture, Sae};
use std::collections::BTreeSet;

/// One labelling and what it gave.
#[derive(Debug, Clone)]
pub struct Variant {
    /// What is different about it.
    pub name: String,
    /// Its dictionary.
    pub dictionary: Dictionary,
}

/// Labellings of the same activations that differ in one choice each, and the controls of the first.
#[derive(Debug, Clone)]
pub struct Effect {
    /// The paper's labelling first, then one for every other choice.
    pub options: Vec<Variant>,
    /// Masks shuffled, a random dictionary, raw neurons.
    pub controls: Vec<Variant>,
}

impl Effect {
    /// Makes every labelling. The controls have the sparsity of `sae` on the activations.
    ///
    /// # Errors
    /// As [`Labelling::build`].
    pub fn of(sae: &Sae, activations: &Activations, masks: &[Vec<LabelledMask>]) -> Result<Self> {
        let variant = |name: &str, sae: &Sae, labelling: Labelling| -> Result<Variant> {
            Ok(Variant { name: name.into(), dictionary: labelling.build(sae, activations, masks)? })
        };
        let new = Labelling::new;
        let options = vec![
            variant("on the grid, scaled by the maximum, one picture", sae, new())?,
            variant("min–max scaling", sae, new().scale(Scale::MinMax))?,
            variant("on the pixels", sae, new().compare(Compare::Pixels))?,
            variant("on the pixels, smoothly enlarged", sae, new().compare(Compare::Smooth))?,
            variant("three pictures", sae, new().hits(3))?,
            variant("pooled IoU", sae, new().rule(Rule::Pooled))?,
        ];
        let k = match sae.architecture {
            Architecture::TopK { k } => k,
            _ => (sae.encode_all(activations)?.l0().round() as usize).max(1),
        };
        let random = Sae::random(sae.d, sae.latents, k.min(sae.latents), 0)?.centred(activations)?;
        let neurons = Sae::neurons(sae.d, k.min(2 * sae.d))?.centred(activations)?;
        let controls = vec![
            variant("masks shuffled", sae, new().shuffled(0))?,
            variant("random dictionary", &random, new())?,
            variant("raw neurons", &neurons, new())?,
        ];
        Ok(Self { options, controls })
    }

    /// One row for every labelling: labelled latents, their share of the live ones, labels, mean IoU of the labels, and
    /// how many of the labels the first labelling has too (|A ∩ B| / |A ∪ B|; not for controls with other latents).
    ///
    /// # Errors
    /// Whatever polars refuses.
    pub fn frame(&self) -> Result<polars::prelude::DataFrame> {
        let all: Vec<&Variant> = self.options.iter().chain(&self.controls).collect();
        let column = |f: &dyn Fn(&Dictionary) -> f64| all.iter().map(|v| f(&v.dictionary)).collect::<Vec<f64>>();
        let labels = |d: &Dictionary| d.concepts.iter().map(|c| c.labels.len()).sum::<usize>();
        let iou = |d: &Dictionary| {
            let sum: f64 = d.concepts.iter().flat_map(|c| &c.labels).map(|e| f64::from(e.mean_iou)).sum();
            sum / labels(d) as f64
        };
        let first = &self.options[0].dictionary;
        let overlap: Vec<Option<f64>> =
            (0..all.len()).map(|i| (i <= self.options.len()).then(|| jaccard(first, &all[i].dictionary))).collect();
        Ok(polars::df!(
            "labelling" => all.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(),
            "labelled" => all.iter().map(|v| v.dictionary.labelled() as u32).collect::<Vec<u32>>(),
            "of live" => column(&|d| d.labelled() as f64 / d.live().max(1) as f64),
            "labels" => all.iter().map(|v| labels(&v.dictionary) as u32).collect::<Vec<u32>>(),
            "mean IoU" => column(&iou),
            "overlap with the first" => overlap,
        )?)
    }
}

fn jaccard(a: &Dictionary, b: &Dictionary) -> f64 {
    let pairs = |d: &Dictionary| -> BTreeSet<(usize, Label)> {
        d.concepts.iter().flat_map(|c| c.labels.iter().map(|e| (c.latent, e.label.clone()))).collect()
    };
    let (a, b) = (pairs(a), pairs(b));
    a.intersection(&b).count() as f64 / a.union(&b).count().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::concepts::Vocabulary;
    use crate::random::stream;
    use crate::scene::Mask;

    #[test]
    fn every_choice_and_control_has_a_row() {
        // Channel 0 is 1 in a random row of a 4 × 4 grid, whose mask is a tree.
        let (mut data, mut masks) = (Vec::new(), Vec::new());
        for i in 0..40 {
            let mut r = stream(2, "effect", i);
            let row = r.below(4);
            let cell = |c: usize, r: &mut crate::random::Stream| [f32::from(c / 4 == row), r.uniform(), r.uniform()];
            data.extend((0..16).flat_map(|c| cell(c, &mut r)));
            masks.push(vec![LabelledMask::new(Vocabulary::Class, "tree", Mask::from_fn(8, 8, |_, y| y / 2 == row))]);
        }
        let activations = Activations::from_vec((4, 4), 3, data).unwrap();
        let mut sae = Sae::random(3, 4, 1, 1).unwrap();
        sae.w_enc = vec![9., 0., 0., 0., 1., 0., 0., 0., 1., -1., -1., -1.];
        let effect = Effect::of(&sae, &activations, &masks).unwrap();
        let frame = effect.frame().unwrap();
        assert_eq!(frame.height(), 9);
        assert_eq!(effect.options[0].dictionary.of("tree").unwrap()[0], 0);
        let get = |column: &str, row: usize| frame.column(column).unwrap().get(row).unwrap().try_extract::<f64>();
        assert_eq!(get("overlap with the first", 0).unwrap(), 1.0);
        assert!(get("overlap with the first", 8).is_err(), "neurons are other latents");
        let hits = |d: &Dictionary| d.concepts.iter().flat_map(|c| &c.labels).map(|e| e.hits).max().unwrap_or(0);
        assert_eq!(hits(&effect.options[0].dictionary), 40);
        assert!(hits(&effect.controls[0].dictionary) < 20, "shuffled masks");
    }
}
