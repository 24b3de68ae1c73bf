//! Concepts of the whole picture, by contrast: which latents fire more where a label holds than where it does not.
//!
//! The IoU of a map with a mask finds what covers a thing. A style or a background covers the whole picture, and no
//! sparse latent does, so that its IoU with such a mask says little. What tells a style is how much of a latent a
//! picture holds: γ, the mean of its map over all places (Emergence, section 4.1).

use super::build::{each_item, one_list_each};
use super::label::{Label, LabelledMask};
use crate::activations::Activations;
use crate::error::{Error, Result};
use crate::random::stream;
use crate::sae::Sae;
use std::collections::{BTreeMap, BTreeSet};

/// For every label and latent c, the gap
/// g_c = mean of γ_c over the pictures with the label − mean of γ_c over the others.
///
/// Σ_c g_c f_c is then the SAE's account of the difference between the mean activations of both groups: the direction
/// in which a picture without the label becomes one with it. [`Global::mix`](crate::intervene::Global::mix) adds it.
///
/// ```
/// use denoscope::activations::Activations;
/// use denoscope::concepts::{Contrast, LabelledMask, Vocabulary};
/// use denoscope::sae::Sae;
/// use denoscope::scene::Mask;
///
/// // Two pictures on a 1 × 2 grid with 3 channels; latent 2 reads channel 0, which only the night has.
/// let activations = Activations::from_vec((1, 2), 3, vec![4., 0., 0., 2., 0., 0., 0., 0., 0., 1., 0., 0.])?;
/// let style = |word| vec![LabelledMask::new(Vocabulary::Style, word, Mask::from_fn(4, 4, |_, _| true))];
/// let mut sae = Sae::random(3, 5, 1, 0)?;
/// sae.w_enc.fill(0.0);
/// sae.w_enc[2 * 3] = 1.0;
/// let contrast = Contrast::build(&sae, &activations, &[style("night"), style("flat")])?;
/// assert_eq!(contrast.of("night", 1)?, [(2, 2.5)]); // (4 + 2)/2 − (0 + 1)/2
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Contrast {
    /// Pictures it was made from.
    pub items: usize,
    /// Every label that some pictures have and others lack, in order.
    pub labels: Vec<Labelled>,
}

/// One label and its gaps.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// The label.
    pub label: Label,
    /// Pictures that have it.
    pub items: usize,
    /// The gap of every latent.
    pub gaps: Vec<f32>,
}

impl Contrast {
    /// The gaps of all latents of `sae` on `activations`; a picture has the labels of its masks.
    ///
    /// # Errors
    /// When there are not as many lists of masks as pictures, no label tells pictures apart, the SAE is of another
    /// width, or an activation cannot be read.
    pub fn build(sae: &Sae, activations: &Activations, masks: &[Vec<LabelledMask>]) -> Result<Self> {
        let sets: Vec<BTreeSet<&Label>> = masks.iter().map(|m| m.iter().map(|m| &m.label).collect()).collect();
        Self::of_sets(sae, activations, &sets)
    }

    /// The control: the same with the pictures' labels exchanged at random.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn shuffled(sae: &Sae, activations: &Activations, masks: &[Vec<LabelledMask>], seed: u64) -> Result<Self> {
        let order = stream(seed, "shuffled labels", masks.len() as u64).permutation(masks.len());
        let sets: Vec<BTreeSet<&Label>> = order.iter().map(|&i| masks[i].iter().map(|m| &m.label).collect()).collect();
        Self::of_sets(sae, activations, &sets)
    }

    fn of_sets(sae: &Sae, activations: &Activations, sets: &[BTreeSet<&Label>]) -> Result<Self> {
        let items = activations.len();
        one_list_each(sets.len(), items)?;
        let mut counts: BTreeMap<&Label, usize> = BTreeMap::new();
        sets.iter().flatten().for_each(|&label| *counts.entry(label).or_default() += 1);
        counts.retain(|_, n| *n < items);
        if counts.is_empty() {
            return Err(Error::invalid(format!(
                "contrast: no label that some of {items} pictures have and others lack"
            )));
        }
        // Σ γ over all pictures, and over those with each label.
        let mut all = vec![0.0; sae.latents];
        let mut sums: BTreeMap<&Label, Vec<f64>> = counts.keys().map(|&l| (l, vec![0.0; sae.latents])).collect();
        each_item(sae, activations, "contrast", |i, maps| {
            for (latent, gamma) in maps.means() {
                all[latent] += f64::from(gamma);
                for label in &sets[i] {
                    if let Some(sum) = sums.get_mut(label) {
                        sum[latent] += f64::from(gamma);
                    }
                }
            }
            Ok(())
        })?;
        let gaps = |label: &Label, n: usize| -> Vec<f32> {
            let (with, without) = (n as f64, (items - n) as f64);
            sums[label].iter().zip(&all).map(|(own, all)| (own / with - (all - own) / without) as f32).collect()
        };
        let labels = counts.iter().map(|(&l, &n)| Labelled { label: l.clone(), items: n, gaps: gaps(l, n) }).collect();
        Ok(Self { items, labels })
    }

    /// The `n` latents with the greatest gaps for `word`, and those gaps, greatest first. Latents that do not fire
    /// more with the label are left out.
    ///
    /// # Errors
    /// When no picture, or every picture, has the label; the nearest words are named.
    pub fn of(&self, word: &str, n: usize) -> Result<Vec<(usize, f32)>> {
        self.greatest(word, n, |gap| gap)
    }

    /// The `n` latents with the greatest gaps of either sign: what the label's pictures have, and what they lack.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn both_ways(&self, word: &str, n: usize) -> Result<Vec<(usize, f32)>> {
        self.greatest(word, n, f32::abs)
    }

    /// The `n` latents whose gaps have the greatest size above 0.
    fn greatest(&self, word: &str, n: usize, size: fn(f32) -> f32) -> Result<Vec<(usize, f32)>> {
        let found = self.labels.iter().find(|l| l.label.word == word).ok_or_else(|| {
            Error::unknown(
                "label in contrast",
                word,
                self.labels.iter().map(|l| &l.label.word).collect::<BTreeSet<_>>(),
            )
        })?;
        let mut order: Vec<(usize, f32)> = found.gaps.iter().copied().enumerate().collect();
        order.retain(|(_, gap)| size(*gap) > 0.0);
        order.sort_by(|a, b| size(b.1).total_cmp(&size(a.1)).then(a.0.cmp(&b.0)));
        order.truncate(n);
        Ok(order)
    }

    /// One row for every label: word, vocabulary, pictures, the latent with the greatest gap, that gap.
    ///
    /// # Errors
    /// Whatever polars refuses.
    pub fn table(&self) -> Result<polars::prelude::DataFrame> {
        let best: Vec<(u32, f32)> = self.labels.iter().map(|l| greatest(&l.gaps)).collect();
        Ok(polars::df!(
            "word" => self.labels.iter().map(|l| l.label.word.as_str()).collect::<Vec<_>>(),
            "vocabulary" => self.labels.iter().map(|l| l.label.vocabulary.name()).collect::<Vec<_>>(),
            "pictures" => self.labels.iter().map(|l| l.items as u32).collect::<Vec<_>>(),
            "latent" => best.iter().map(|b| b.0).collect::<Vec<_>>(),
            "gap" => best.iter().map(|b| b.1).collect::<Vec<_>>(),
        )?)
    }

    /// What a notebook shows: for every label the latent that tells it best.
    pub fn evcxr_display(&self) {
        println!("{} pictures", self.items);
        for l in &self.labels {
            let (latent, gap) = greatest(&l.gaps);
            println!("{:<14} latent {latent:>4} fires {gap:+.3} more on its {} pictures", l.label.word, l.items);
        }
    }
}

/// The latent with the greatest gap; the first of several.
fn greatest(gaps: &[f32]) -> (u32, f32) {
    gaps.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (c, &g)| if g > best.1 { (c as u32, g) } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::concepts::Vocabulary;
    use crate::scene::Mask;

    /// Six pictures of one token; latent c reads channel c of three.
    fn world() -> (Sae, Activations, Vec<Vec<LabelledMask>>) {
        let mut sae = Sae::random(3, 4, 3, 0).unwrap();
        sae.w_enc.fill(0.0);
        for c in 0..3 {
            sae.w_enc[c * 3 + c] = 1.0;
        }
        let night = [1.0, 0.0, 3.0];
        let rest = [2.0, 0.5, 1.0];
        let values: Vec<f32> = (0..6).flat_map(|i| if i < 2 { night } else { rest }).collect();
        let mask = |v, w: &str| LabelledMask::new(v, w, Mask::from_fn(2, 2, |_, _| true));
        let masks = (0..6).map(|i| {
            let style = mask(Vocabulary::Style, if i < 2 { "night" } else { "flat" });
            vec![style, mask(Vocabulary::Background, "sea")]
        });
        (sae, Activations::from_vec((1, 1), 3, values).unwrap(), masks.collect())
    }

    #[test]
    fn gaps_are_differences_of_means() {
        let (sae, activations, masks) = world();
        let contrast = Contrast::build(&sae, &activations, &masks).unwrap();
        let words: Vec<_> = contrast.labels.iter().map(|l| (l.label.word.as_str(), l.items)).collect();
        assert_eq!(words, [("flat", 4), ("night", 2)], "every picture shows the sea: it tells nothing apart");
        assert_eq!(contrast.labels[1].gaps, [-1.0, -0.5, 2.0, 0.0]);
        assert_eq!(contrast.of("night", 9).unwrap(), [(2, 2.0)]);
        assert_eq!(contrast.of("flat", 1).unwrap(), [(0, 1.0)]);
        assert_eq!(contrast.both_ways("night", 9).unwrap(), [(2, 2.0), (0, -1.0), (1, -0.5)]);
        assert_eq!(contrast.table().unwrap().shape(), (2, 5));
        let none = contrast.of("nihgt", 1).unwrap_err().to_string();
        assert!(none.contains("nihgt") && none.contains("night"), "{none}");
    }

    #[test]
    fn shuffled_labels_shrink_the_gap() {
        let (sae, activations, masks) = world();
        let gap = |seed| Contrast::shuffled(&sae, &activations, &masks, seed).unwrap().labels[1].gaps[2];
        let mean = (0..200).map(gap).sum::<f32>() / 200.0;
        assert!(mean.abs() < 0.3, "{mean}: expected about 0, against 2 with the true labels");
    }

    #[test]
    fn labels_that_tell_nothing_apart_are_refused() {
        let (sae, activations, masks) = world();
        let few = Contrast::build(&sae, &activations, &masks[..5]).unwrap_err().to_string();
        assert!(few.contains('5') && few.contains('6'), "{few}");
        let same = vec![vec![masks[0][1].clone()]; 6];
        assert!(Contrast::build(&sae, &activations, &same).unwrap_err().to_string().contains("no label"));
    }
}
