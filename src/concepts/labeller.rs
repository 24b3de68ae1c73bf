//! Labelling latents by overlap: a map, scaled to [0, 1] and thresholded, against every mask of the same picture.
//!
//! IoU = |M ∩ S| / |M ∪ S| with M = {map > 0.1} and S the mask; IoU > 0.5 puts the mask's label on the latent's list
//! (Emergence, section 3.2). What the paper leaves open is an [option](Options).
//!
//! Items stream through: memory grows with latents × labels, not with items.

use super::dictionary::{Concept, Dictionary, Entry, LabelTotal, Provenance};
use super::label::{Label, LabelledMask};
use super::maps::Maps;
use super::overlap::{ItemOverlaps, overlaps};
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How a map is brought to [0, 1]. The paper does not say which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// z / max z. The default: differs from min–max only for a latent that fires on every token.
    Max,
    /// (z − min z) / (max z − min z); a constant map is left out.
    MinMax,
}

/// At which resolution maps and masks are compared. The paper does not say which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compare {
    /// On the map's grid: a cell is in the mask when at least half of it is. The default.
    Grid,
    /// On the mask's pixels; every pixel takes the value of its cell.
    Pixels,
    /// On the mask's pixels; the scaled map is enlarged bilinearly, then thresholded.
    Smooth,
}

/// Which IoU decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The IoU in one picture (the paper's): one picture above the threshold puts the label on the list.
    Picture,
    /// Σ |M ∩ S| / Σ |M ∪ S| over all pictures (network dissection's, Bau et al. 2017).
    Pooled,
}

/// The choices of a labelling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Scaling of a map.
    pub scale: Scale,
    /// A cell belongs to the map where the scaled map is above this (paper: 0.1).
    pub threshold: f32,
    /// Resolution of the comparison.
    pub compare: Compare,
    /// A label joins the list above this IoU (paper: 0.5).
    pub iou: f32,
    /// Per picture or pooled.
    pub rule: Rule,
    /// Masks above the IoU that it takes for a label (paper: 1).
    pub hits: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { scale: Scale::Max, threshold: 0.1, compare: Compare::Grid, iou: 0.5, rule: Rule::Picture, hits: 1 }
    }
}

/// Best pictures that are remembered for a latent and a label.
const BEST: usize = 5;

/// What is known of one latent and one label.
#[derive(Debug, Clone, Default)]
struct Tally {
    hits: u32,
    iou: f64,
    both: u64,
    best: Vec<(u32, f32)>,
}

/// Labels the latents of one SAE, item by item.
#[derive(Debug)]
pub struct Labeller {
    options: Options,
    grid: (usize, usize),
    labels: Vec<LabelTotal>,
    index: HashMap<Label, usize>,
    /// By latent, then by label; short where later labels never met the latent.
    tallies: Vec<Vec<Tally>>,
    /// Items on which a latent fires, and the area of its maps.
    active: Vec<(u32, u64)>,
    items: usize,
}

impl Labeller {
    /// A labelling of `latents` latents whose maps lie on a `(height, width)` grid.
    ///
    /// # Errors
    /// When an option is out of range or the grid is empty.
    pub fn new(latents: usize, grid: (usize, usize), options: Options) -> Result<Self> {
        for (name, value) in [("threshold", options.threshold), ("iou", options.iou)] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::invalid(format!("labelling: {name} is {value}, expected 0 ≤ {name} < 1")));
            }
        }
        if grid.0 == 0 || grid.1 == 0 {
            return Err(Error::invalid(format!("labelling: grid {grid:?} has no cell")));
        }
        let (tallies, active) = (vec![Vec::new(); latents], vec![(0, 0); latents]);
        Ok(Self { options, grid, labels: Vec::new(), index: HashMap::new(), tallies, active, items: 0 })
    }

    /// Adds items: the maps and the masks of each. Items are numbered in the order in which they come.
    ///
    /// # Errors
    /// When a map is of another size than the grid, an SAE of more latents made it, or the masks of one item differ in
    /// size.
    pub fn add<M: AsRef<[LabelledMask]> + Sync>(&mut self, items: &[(Maps, M)]) -> Result<()> {
        let cells = self.grid.0 * self.grid.1;
        for (n, (maps, _)) in items.iter().enumerate() {
            let highest = maps.active().last().map_or(0, |&l| l as usize + 1);
            if maps.tokens() != cells || highest > self.tallies.len() {
                return Err(Error::Shape {
                    what: format!("maps of item {} (tokens, latents)", self.items + n),
                    found: vec![maps.tokens(), highest],
                    expected: vec![cells, self.tallies.len()],
                });
            }
        }
        // Comparing is parallel; adding up is in the order of items, so that the sums do not depend on threads.
        let found: Vec<ItemOverlaps> = items
            .par_iter()
            .map(|(maps, masks)| overlaps(maps, masks.as_ref(), self.grid, &self.options))
            .collect::<Result<_>>()?;
        for (overlap, (_, masks)) in found.iter().zip(items) {
            self.merge(overlap, masks.as_ref());
        }
        Ok(())
    }

    fn merge(&mut self, found: &ItemOverlaps, masks: &[LabelledMask]) {
        let item = self.items as u32;
        self.items += 1;
        let labels: Vec<usize> = masks.iter().map(|m| self.label(&m.label)).collect();
        for (&label, &area) in labels.iter().zip(&found.masks) {
            let total = &mut self.labels[label];
            total.masks += 1;
            total.lost += u32::from(area == 0);
            total.area += u64::from(area);
        }
        for &(latent, area) in &found.areas {
            let (items, sum) = &mut self.active[latent as usize];
            *items += 1;
            *sum += u64::from(area);
        }
        for pair in &found.pairs {
            let label = labels[pair.mask as usize];
            let row = &mut self.tallies[pair.latent as usize];
            if row.len() <= label {
                row.resize(label + 1, Tally::default());
            }
            let tally = &mut row[label];
            tally.both += u64::from(pair.both);
            if pair.iou > self.options.iou {
                tally.hits += 1;
                tally.iou += f64::from(pair.iou);
                let place = tally.best.partition_point(|(_, iou)| *iou >= pair.iou);
                if place < BEST {
                    tally.best.insert(place, (item, pair.iou));
                    tally.best.truncate(BEST);
                }
            }
        }
    }

    fn label(&mut self, label: &Label) -> usize {
        if let Some(&known) = self.index.get(label) {
            return known;
        }
        self.index.insert(label.clone(), self.labels.len());
        self.labels.push(LabelTotal { label: label.clone(), masks: 0, lost: 0, area: 0 });
        self.labels.len() - 1
    }

    /// The dictionary of everything that was added.
    #[must_use]
    pub fn finish(self, provenance: Provenance) -> Dictionary {
        let concept = |latent: usize| {
            let (items, area) = self.active[latent];
            let entry = |(tally, total): (&Tally, &LabelTotal)| {
                let pooled = tally.both as f64 / (area + total.area - tally.both).max(1) as f64;
                let on_list = tally.hits >= self.options.hits.max(1)
                    && (self.options.rule == Rule::Picture || pooled > f64::from(self.options.iou));
                let entry = || Entry {
                    label: total.label.clone(),
                    hits: tally.hits as usize,
                    mean_iou: (tally.iou / f64::from(tally.hits)) as f32,
                    pooled_iou: pooled as f32,
                    precision: tally.hits as f32 / items as f32,
                    recall: tally.hits as f32 / total.masks as f32,
                    best: tally.best.iter().map(|&(i, iou)| (i as usize, iou)).collect(),
                };
                on_list.then(entry)
            };
            let mut labels: Vec<Entry> = self.tallies[latent].iter().zip(&self.labels).filter_map(entry).collect();
            labels.sort_by(|a, b| {
                b.hits.cmp(&a.hits).then(b.mean_iou.total_cmp(&a.mean_iou)).then(a.label.cmp(&b.label))
            });
            Concept { latent, items: items as usize, labels }
        };
        let concepts = (0..self.tallies.len()).map(concept).collect();
        let Self { options, grid, labels: vocabulary, items, .. } = self;
        Dictionary { provenance, options, grid, items, vocabulary, concepts }
    }
}
