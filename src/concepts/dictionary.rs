//! The concept dictionary: for every latent the labels whose masks its activation maps overlap.

use super::label::{Label, Vocabulary};
use super::labeller::Options;
use crate::diffusion::hook::{Half, Site};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// Version of the file format; a file of another version is refused.
const FORMAT: &str = "denoscope-dictionary-1";

/// Where a dictionary comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The diffusion model.
    pub model: String,
    /// Module and tensor.
    pub site: Option<Site>,
    /// Denoising step, 0 = the noisiest.
    pub step: Option<usize>,
    /// Steps of the generation.
    pub steps: Option<usize>,
    /// Guidance half.
    pub half: Option<Half>,
    /// What the SAE is: architecture, latents, sparsity.
    pub sae: String,
    /// Seed with which masks were shuffled over items, for the control; `None` for a real dictionary.
    pub shuffled: Option<u64>,
}

/// How often a label's masks occurred.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelTotal {
    /// The label.
    pub label: Label,
    /// Its masks.
    pub masks: u32,
    /// Those that cover no cell of the grid, so that nothing can overlap them.
    pub lost: u32,
    /// Area of all of them, in cells or pixels of the comparison.
    pub area: u64,
}

/// One label on a latent's list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The label.
    pub label: Label,
    /// Masks with an IoU above the threshold.
    pub hits: usize,
    /// Mean IoU of those.
    pub mean_iou: f32,
    /// Σ intersection / Σ union over all pictures, those without the label or without activation included.
    pub pooled_iou: f32,
    /// Hits per picture on which the latent fires: how surely the latent means the label.
    pub precision: f32,
    /// Hits per mask of the label: how surely the label makes the latent fire.
    pub recall: f32,
    /// The best pictures: item and IoU.
    pub best: Vec<(usize, f32)>,
}

/// One latent and its list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Concept {
    /// The latent.
    pub latent: usize,
    /// Pictures on which it fires.
    pub items: usize,
    /// Its labels, most hits first.
    pub labels: Vec<Entry>,
}

/// The labels of all latents of one SAE.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dictionary {
    /// Where it comes from.
    pub provenance: Provenance,
    /// How it was made.
    pub options: Options,
    /// Height and width of the grid of the maps.
    pub grid: (usize, usize),
    /// Pictures it was made from.
    pub items: usize,
    /// Every label that a mask had.
    pub vocabulary: Vec<LabelTotal>,
    /// One for every latent, in order.
    pub concepts: Vec<Concept>,
}

impl Dictionary {
    /// The latents whose list holds `word`, those with most hits first (C_o of the spatial edit).
    ///
    /// # Errors
    /// When no list holds it; the nearest words that are on a list are named.
    pub fn of(&self, word: &str) -> Result<Vec<usize>> {
        self.find(word, None)
    }

    /// As [`of`](Self::of), within one vocabulary: `Vocabulary::Part` and `"window"`.
    ///
    /// # Errors
    /// When no list holds the word as part of this vocabulary.
    pub fn of_kind(&self, vocabulary: Vocabulary, word: &str) -> Result<Vec<usize>> {
        self.find(word, Some(vocabulary))
    }

    fn find(&self, word: &str, vocabulary: Option<Vocabulary>) -> Result<Vec<usize>> {
        let fits = |e: &&Entry| vocabulary.is_none_or(|v| e.label.vocabulary == v);
        let hits = |c: &Concept| c.labels.iter().filter(fits).find(|e| e.label.word == word).map(|e| e.hits);
        let mut found: Vec<(usize, usize)> =
            self.concepts.iter().filter_map(|c| hits(c).map(|h| (h, c.latent))).collect();
        if found.is_empty() {
            let words = self.concepts.iter().flat_map(|c| c.labels.iter().filter(fits)).map(|e| &e.label.word);
            return Err(Error::unknown("labelled concept", word, words.collect::<BTreeSet<_>>()));
        }
        found.sort_by_key(|&(hits, latent)| (std::cmp::Reverse(hits), latent));
        Ok(found.into_iter().map(|(_, latent)| latent).collect())
    }

    /// The list of one latent.
    ///
    /// # Errors
    /// When there is no such latent.
    pub fn concept(&self, latent: usize) -> Result<&Concept> {
        let n = self.concepts.len();
        self.concepts.get(latent).ok_or_else(|| Error::invalid(format!("latent {latent} of a dictionary of {n}")))
    }

    /// Latents with at least one label.
    #[must_use]
    pub fn labelled(&self) -> usize {
        self.concepts.iter().filter(|c| !c.labels.is_empty()).count()
    }

    /// Latents that fire on any picture.
    #[must_use]
    pub fn live(&self) -> usize {
        self.concepts.iter().filter(|c| c.items > 0).count()
    }

    /// Every label that is on a list, with the number of latents that have it, most first.
    #[must_use]
    pub fn words(&self) -> Vec<(Label, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for entry in self.concepts.iter().flat_map(|c| &c.labels) {
            *counts.entry(&entry.label).or_insert(0) += 1;
        }
        let mut words: Vec<(Label, usize)> = counts.into_iter().map(|(l, n)| (l.clone(), n)).collect();
        words.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        words
    }

    /// The same dictionary without the entries that have fewer hits, or a lower [precision](Entry::precision). The
    /// paper's rule lets one lucky picture put a word on a list; this asks for more.
    #[must_use]
    pub fn at_least(&self, hits: usize, precision: f32) -> Self {
        let mut kept = self.clone();
        for concept in &mut kept.concepts {
            concept.labels.retain(|e| e.hits >= hits && e.precision >= precision);
        }
        kept
    }

    /// The same dictionary with the labels of some vocabularies only.
    #[must_use]
    pub fn only(&self, vocabularies: &[Vocabulary]) -> Self {
        let mut kept = self.clone();
        for concept in &mut kept.concepts {
            concept.labels.retain(|e| vocabularies.contains(&e.label.vocabulary));
        }
        kept
    }

    /// One row for every latent and label: latent, word, vocabulary, hits, mean IoU, pooled IoU, precision, recall.
    ///
    /// # Errors
    /// Whatever polars refuses.
    pub fn table(&self) -> Result<polars::prelude::DataFrame> {
        let rows: Vec<(u32, &Entry)> =
            self.concepts.iter().flat_map(|c| c.labels.iter().map(|e| (c.latent as u32, e))).collect();
        let float = |f: &dyn Fn(&Entry) -> f32| rows.iter().map(|(_, e)| f(e)).collect::<Vec<f32>>();
        Ok(polars::df!(
            "latent" => rows.iter().map(|r| r.0).collect::<Vec<u32>>(),
            "word" => rows.iter().map(|r| r.1.label.word.as_str()).collect::<Vec<_>>(),
            "vocabulary" => rows.iter().map(|r| r.1.label.vocabulary.name()).collect::<Vec<_>>(),
            "hits" => rows.iter().map(|r| r.1.hits as u32).collect::<Vec<u32>>(),
            "mean_iou" => float(&|e| e.mean_iou),
            "pooled_iou" => float(&|e| e.pooled_iou),
            "precision" => float(&|e| e.precision),
            "recall" => float(&|e| e.recall),
        )?)
    }

    /// Writes the rows of [`table`](Self::table) as comma-separated values; the file appears when it is complete.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_csv(&self, path: impl AsRef<Path>) -> Result<()> {
        use polars::prelude::{CsvWriter, SerWriter};
        let path = path.as_ref();
        let mut bytes = Vec::new();
        CsvWriter::new(&mut bytes).finish(&mut self.table()?)?;
        let part = path.with_extension("part");
        std::fs::write(&part, bytes).map_err(Error::file(&part))?;
        std::fs::rename(&part, path).map_err(Error::file(path))
    }

    /// Share of the live latents that have a label, with Wilson's 95 % interval.
    #[must_use]
    pub fn coverage(&self) -> crate::measure::Interval {
        let live = self.concepts.iter().filter(|c| c.items > 0 && !c.labels.is_empty()).count();
        crate::measure::interval::wilson(live, self.live())
    }

    /// Writes it as JSON; the file appears when it is complete.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let text = serde_json::to_vec(&File { format: FORMAT.into(), dictionary: self.clone() })
            .map_err(|e| Error::format(path, e))?;
        let part = path.with_extension("part");
        std::fs::write(&part, text).map_err(Error::file(&part))?;
        std::fs::rename(&part, path).map_err(Error::file(path))
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// When the file cannot be read, is no dictionary, or is one of another version.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read(path).map_err(Error::file(path))?;
        let file: File = serde_json::from_slice(&text)
            .map_err(|e| Error::format(path, format!("not a dictionary of format {FORMAT}: {e}")))?;
        if file.format != FORMAT {
            return Err(Error::format(path, format!("format {:?}, expected {FORMAT:?}", file.format)));
        }
        if file.dictionary.concepts.iter().enumerate().any(|(i, c)| c.latent != i) {
            return Err(Error::format(path, "concepts are not one for every latent in order"));
        }
        Ok(file.dictionary)
    }

    /// What a notebook shows: counts, and the words with most latents.
    pub fn evcxr_display(&self) {
        let words: Vec<String> = self.words().iter().take(12).map(|(l, n)| format!("{l} {n}")).collect();
        println!(
            "{} of {} live latents labelled (IoU > {}, {} pictures{})\n{}",
            self.labelled(),
            self.live(),
            self.options.iou,
            self.items,
            if self.provenance.shuffled.is_some() { ", masks shuffled" } else { "" },
            words.join(" · ")
        );
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    format: String,
    dictionary: Dictionary,
}
