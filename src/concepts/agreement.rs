//! How well a dictionary agrees with the truth: precision, recall and coverage, with bootstrap intervals over latents.
//!
//! The truth is a dictionary of the same SAE made from exact masks (of other pictures, for an honest number). With P the
//! pairs of latent and label in the one and T those in the other,
//!
//! precision = |P ∩ T| / |P|, recall = |P ∩ T| / |T|, coverage = labelled latents / live latents.

use super::dictionary::Dictionary;
use super::label::Label;
use crate::error::{Error, Result};
use crate::measure::Interval;
use crate::measure::interval::bootstrap;
use std::collections::BTreeSet;

/// Precision, recall and coverage of a dictionary.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// Share of its labels that the truth has too.
    pub precision: Interval,
    /// Share of the truth's labels that it has.
    pub recall: Interval,
    /// Share of the latents that fire which have a label.
    pub coverage: Interval,
}

impl Agreement {
    /// Compares `found` with `truth`, label by label; latents are resampled with `seed`.
    ///
    /// ```
    /// use denoscope::activations::Activations;
    /// use denoscope::concepts::{Agreement, Dictionary, LabelledMask, Vocabulary};
    /// use denoscope::sae::Sae;
    /// use denoscope::scene::Mask;
    ///
    /// let sae = Sae::random(3, 5, 1, 0)?;
    /// let activations = Activations::from_vec((1, 2), 3, vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0])?;
    /// let masks = vec![vec![LabelledMask::new(Vocabulary::Class, "tree", Mask::from_fn(2, 1, |x, _| x == 0))]];
    /// let dictionary = Dictionary::build(&sae, &activations, &masks)?;
    /// assert_eq!(Agreement::between(&dictionary, &dictionary, 0)?.precision.value, 1.0);
    /// # Ok::<(), denoscope::Error>(())
    /// ```
    ///
    /// # Errors
    /// Dictionaries of SAEs of different size.
    pub fn between(found: &Dictionary, truth: &Dictionary, seed: u64) -> Result<Self> {
        if found.concepts.len() != truth.concepts.len() {
            let (found, expected) = (vec![truth.concepts.len()], vec![found.concepts.len()]);
            return Err(Error::Shape { what: "dictionary to compare with (latents)".into(), found, expected });
        }
        // Labels of each latent: of the one, of the other, of both; and whether it fires and is labelled.
        let counts: Vec<[f64; 5]> = found
            .concepts
            .iter()
            .zip(&truth.concepts)
            .map(|(a, b)| {
                let set = |labels: &[super::Entry]| labels.iter().map(|e| e.label.clone()).collect::<BTreeSet<Label>>();
                let (p, t) = (set(&a.labels), set(&b.labels));
                let (live, labelled) = (a.items > 0, !p.is_empty());
                [p.len(), t.len(), p.intersection(&t).count(), usize::from(live), usize::from(live && labelled)]
                    .map(|n| n as f64)
            })
            .collect();
        let ratio = |above: usize, below: usize| {
            bootstrap(counts.len(), seed, &|pick| {
                let sum = |which: usize| pick.iter().map(|&i| counts[i][which]).sum::<f64>();
                sum(above) / sum(below)
            })
        };
        Ok(Self { precision: ratio(2, 0), recall: ratio(2, 1), coverage: ratio(4, 3) })
    }

    /// What a notebook shows: the three shares.
    pub fn evcxr_display(&self) {
        println!("precision {}\nrecall    {}\ncoverage  {}", self.precision, self.recall, self.coverage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::concepts::{Concept, Entry, Vocabulary};

    /// Latent l has the words of `lists[l]`; those with an empty list fire too.
    fn dictionary(lists: &[&[&str]]) -> Dictionary {
        let entry = |word: &&str| Entry {
            label: Label::new(Vocabulary::Class, *word),
            hits: 1,
            mean_iou: 0.6,
            pooled_iou: 0.6,
            precision: 1.0,
            recall: 1.0,
            best: Vec::new(),
        };
        let concept = |(latent, words): (usize, &&[&str])| Concept {
            latent,
            items: 3,
            labels: words.iter().map(entry).collect(),
        };
        Dictionary {
            provenance: crate::concepts::Provenance::default(),
            options: crate::concepts::Options::default(),
            grid: (1, 1),
            items: 3,
            vocabulary: Vec::new(),
            concepts: lists.iter().enumerate().map(concept).collect(),
        }
    }

    #[test]
    fn shares_are_those_of_the_pairs() {
        let found = dictionary(&[&["tree", "cup"], &["car"], &[], &["sun"]]);
        let truth = dictionary(&[&["tree"], &["car", "bird"], &["fish"], &["moon"]]);
        let a = Agreement::between(&found, &truth, 1).unwrap();
        assert_eq!((a.precision.value, a.recall.value, a.coverage.value), (0.5, 0.4, 0.75));
        assert!(a.precision.low < 0.5 && a.precision.high > 0.5 && a.precision.n == 4);
        let e = Agreement::between(&found, &dictionary(&[&[]]), 1).unwrap_err().to_string();
        assert!(e.contains("[1]") && e.contains("[4]"), "{e}");
    }
}
