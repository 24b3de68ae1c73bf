//! Concept embeddings: the mean word vector of a latent's list (Emergence, section 3.2), and what they say of a whole
//! dictionary.

use super::dictionary::{Concept, Dictionary};
use super::words::{WordVectors, cosine};
use crate::error::{Error, Result};
use crate::measure::interval::{Interval, bootstrap, mean as mean_interval};

/// How often a label counts in the mean of a list. The paper does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// As often as it joined the list: once for every mask that was hit. The default.
    #[default]
    Hits,
    /// Once.
    Labels,
}

/// The embeddings of the labelled latents of one dictionary.
#[derive(Debug, Clone)]
pub struct Embedding {
    dimensions: usize,
    /// By latent; `None` where the list is empty or holds no word with a vector.
    centres: Vec<Option<Vec<f32>>>,
    /// Mean cosine of a list's words to their centre, by latent.
    cohesion: Vec<Option<f64>>,
    missing: Vec<String>,
}

/// Mean and standard deviation of a measure over concepts or over pairs of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The standard deviation.
    pub deviation: f64,
    /// Concepts, or pairs.
    pub n: usize,
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} ± {:.3} (n = {})", self.mean, self.deviation, self.n)
    }
}

impl Embedding {
    /// Embeds every labelled latent. Words without a vector are left out and can be [asked for](Self::missing). Of a
    /// dictionary without labels there is nothing to embed, and no composition to read.
    ///
    /// # Errors
    /// When the dictionary has labels, but no word of them has a vector.
    pub fn new(dictionary: &Dictionary, words: &WordVectors, weighting: Weighting) -> Result<Self> {
        let mut missing = std::collections::BTreeSet::new();
        let (mut centres, mut cohesion) = (Vec::new(), Vec::new());
        for concept in &dictionary.concepts {
            let items = weighed(concept, words, weighting, &mut missing);
            let centre = mean(&items, words.dimensions());
            let total: f64 = items.iter().map(|(_, n)| n).sum();
            cohesion.push(
                centre
                    .as_ref()
                    .map(|centre| items.iter().map(|(v, n)| n * f64::from(cosine(v, centre))).sum::<f64>() / total),
            );
            centres.push(centre);
        }
        if centres.iter().all(Option::is_none) && !missing.is_empty() {
            let shown: Vec<&str> = missing.iter().take(5).map(String::as_str).collect();
            return Err(Error::invalid(format!("concept embedding: no vector for {}", shown.join(", "))));
        }
        Ok(Self { dimensions: words.dimensions(), centres, cohesion, missing: missing.into_iter().collect() })
    }

    /// Numbers in an embedding.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The embedding of a latent, if its list holds a word with a vector.
    #[must_use]
    pub fn of(&self, latent: usize) -> Option<&[f32]> {
        self.centres.get(latent)?.as_deref()
    }

    /// Labels that have no vector.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Cohesion: for every embedded latent the mean cosine of its list's words to their centre (Emergence, Table 3);
    /// 1 for a list of one word.
    ///
    /// Latents whose list holds a single label say nothing of how well a list hangs together;
    /// [`Dictionary::only`] and [`Dictionary::at_least`] choose which lists count.
    #[must_use]
    pub fn cohesion(&self) -> Spread {
        let values: Vec<f64> = self.cohesion.iter().flatten().copied().collect();
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        Spread { mean, deviation: variance.sqrt(), n }
    }

    /// Separability: the mean cosine of the centres of two different latents; lower is better (Emergence, Table 3).
    ///
    /// Exact over all n(n − 1)/2 pairs in time ∝ n·d², by Σᵢⱼ uᵢ·uⱼ = ‖Σ u‖² and Σᵢⱼ (uᵢ·uⱼ)² = ‖Uᵀ U‖² of unit vectors u.
    #[must_use]
    pub fn separability(&self) -> Spread {
        let d = self.dimensions;
        let (mut sum, mut gram, mut n) = (vec![0f64; d], vec![0f64; d * d], 0usize);
        for unit in self.units() {
            sum.iter_mut().zip(&unit).for_each(|(s, u)| *s += u);
            for (row, a) in gram.chunks_exact_mut(d).zip(&unit) {
                row.iter_mut().zip(&unit).for_each(|(g, b)| *g += a * b);
            }
            n += 1;
        }
        let pairs = (n * n.saturating_sub(1)) as f64;
        let squares = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>();
        let mean = (squares(&sum) - n as f64) / pairs;
        let variance = (squares(&gram) - n as f64) / pairs - mean * mean;
        Spread { mean, deviation: variance.max(0.0).sqrt(), n: (pairs / 2.0) as usize }
    }

    /// The directions of the centres; one of length 0 has none.
    fn units(&self) -> impl Iterator<Item = Vec<f64>> {
        self.centres.iter().flatten().filter_map(|centre| {
            let norm = centre.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            (norm > 0.0).then(|| centre.iter().map(|v| f64::from(*v) / norm).collect())
        })
    }

    /// [Cohesion](Self::cohesion) with its 95 % bootstrap interval over latents.
    #[must_use]
    pub fn cohesion_interval(&self) -> Interval {
        let values: Vec<f64> = self.cohesion.iter().flatten().copied().collect();
        mean_interval(&values, 0)
    }

    /// [Separability](Self::separability) with its 95 % bootstrap interval over latents. A latent that a resample draws
    /// twice is no pair with itself.
    #[must_use]
    pub fn separability_interval(&self) -> Interval {
        let units: Vec<Vec<f64>> = self.units().collect();
        bootstrap(units.len(), 0, &|drawn| {
            let (mut sum, mut times) = (vec![0f64; self.dimensions], vec![0f64; units.len()]);
            for &i in drawn {
                sum.iter_mut().zip(&units[i]).for_each(|(s, u)| *s += u);
                times[i] += 1.0;
            }
            let same: f64 = times.iter().map(|n| n * n).sum();
            let pairs = (drawn.len() * drawn.len()) as f64 - same;
            (sum.iter().map(|s| s * s).sum::<f64>() - same) / pairs
        })
    }
}

/// The vectors of a list with the number of times that each counts.
fn weighed(
    concept: &Concept,
    words: &WordVectors,
    weighting: Weighting,
    missing: &mut std::collections::BTreeSet<String>,
) -> Vec<(Vec<f32>, f64)> {
    let mut items = Vec::new();
    for entry in &concept.labels {
        match words.vector(&entry.label.word) {
            Ok(vector) => items.push((
                vector,
                match weighting {
                    Weighting::Hits => entry.hits.max(1) as f64,
                    Weighting::Labels => 1.0,
                },
            )),
            Err(_) => {
                missing.insert(entry.label.word.clone());
            }
        }
    }
    items
}

fn mean(items: &[(Vec<f32>, f64)], dimensions: usize) -> Option<Vec<f32>> {
    let total: f64 = items.iter().map(|(_, n)| n).sum();
    (total > 0.0).then(|| {
        let mut mean = vec![0f64; dimensions];
        for (vector, n) in items {
            mean.iter_mut().zip(vector).for_each(|(m, v)| *m += n * f64::from(*v) / total);
        }
        mean.into_iter().map(|v| v as f32).collect()
    })
}

#[cfg(test)]
pub(super) mod toy {
    use super::super::dictionary::{Concept, Dictionary, Entry, Provenance};
    use super::super::{Label, Options, Vocabulary};

    /// A dictionary whose latents have these words with these hits.
    pub fn dictionary(lists: &[&[(&str, usize)]]) -> Dictionary {
        let entry = |&(word, hits): &(&str, usize)| Entry {
            label: Label::new(Vocabulary::Class, word),
            hits,
            mean_iou: 0.6,
            pooled_iou: 0.5,
            precision: 0.5,
            recall: 0.5,
            best: Vec::new(),
        };
        let concept = |(latent, list): (usize, &&[(&str, usize)])| Concept {
            latent,
            items: 3,
            labels: list.iter().map(entry).collect(),
        };
        Dictionary {
            provenance: Provenance::default(),
            options: Options::default(),
            grid: (2, 2),
            items: 3,
            vocabulary: Vec::new(),
            concepts: lists.iter().enumerate().map(concept).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::toy::dictionary;
    use super::*;

    fn words() -> WordVectors {
        WordVectors::from_entries([("a", vec![1.0, 0.0]), ("b", vec![0.0, 1.0]), ("c", vec![-2.0, 0.0])]).unwrap()
    }

    #[test]
    fn centres_are_means_and_unknown_words_are_named() {
        let d = dictionary(&[&[("a", 3), ("b", 1)], &[], &[("x", 1)], &[("c", 2), ("x", 5)]]);
        let e = Embedding::new(&d, &words(), Weighting::Hits).unwrap();
        assert_eq!(e.of(0), Some(&[0.75, 0.25][..]));
        assert_eq!((e.of(1), e.of(2), e.of(3)), (None, None, Some(&[-2.0, 0.0][..])));
        assert_eq!(e.missing(), ["x"]);
        let e = Embedding::new(&d, &words(), Weighting::Labels).unwrap();
        assert_eq!(e.of(0), Some(&[0.5, 0.5][..]));
        let none = Embedding::new(&dictionary(&[&[("x", 1)]]), &words(), Weighting::Hits).unwrap_err().to_string();
        assert!(none.contains("no vector for x"), "{none}");
        let empty = Embedding::new(&dictionary(&[&[], &[]]), &words(), Weighting::Hits).unwrap();
        assert!(empty.of(0).is_none() && empty.cohesion().n == 0 && empty.cohesion_interval().value.is_nan());
    }

    #[test]
    fn cohesion_and_separability_of_known_lists() {
        // Centres (0.5, 0.5), (1, 0), (−2, 0): cosines 1/√2, −1/√2, −1.
        let d = dictionary(&[&[("a", 1), ("b", 1)], &[("a", 4)], &[("c", 2)]]);
        let e = Embedding::new(&d, &words(), Weighting::Hits).unwrap();
        let half = std::f64::consts::FRAC_1_SQRT_2;
        let cohesion = e.cohesion();
        assert!((cohesion.mean - (half + 2.0) / 3.0).abs() < 1e-6 && cohesion.n == 3, "{cohesion}");
        let separability = e.separability();
        let pairs = [half, -half, -1.0];
        let mean = pairs.iter().sum::<f64>() / 3.0;
        let deviation = (pairs.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / 3.0).sqrt();
        assert!((separability.mean - mean).abs() < 1e-6, "{separability}");
        assert!((separability.deviation - deviation).abs() < 1e-6 && separability.n == 3, "{separability}");
        for (interval, spread) in [(e.cohesion_interval(), cohesion), (e.separability_interval(), separability)] {
            assert!((interval.value - spread.mean).abs() < 1e-6 && interval.contains(spread.mean), "{interval}");
        }
    }
}
