//! A store of activations on disk, and the choice of one matrix from it.

use super::index::{Index, image_path, shard_path};
use super::shard::Shards;
use super::writer::describe;
use super::{Activations, Item, Layout, Plan};
use crate::diffusion::hook::{Half, Kind, progress_t, step_at};
use crate::error::{Error, Result};
use image::RgbImage;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Activations of many pictures on disk: places × steps × halves, in shards of some items each.
///
/// [`module`](Store::module), [`kind`](Store::kind) and [`half`](Store::half) narrow the choice;
/// [`stage`](Store::stage) or [`step`](Store::step) ends it. What a store holds only once need not be chosen; what it
/// holds twice must be, and the error says between what.
///
/// ```text
/// index.json                                     what it holds: model, sites, steps, halves, guidance, items, layouts
/// shards/MODULE/KIND/step-0024/HALF/00000.safetensors   f16 [items, tokens, d]
/// images/000123.png                              the picture of item 123
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    index: Arc<Index>,
    items: Arc<Vec<Item>>,
    /// The part of the index's plan that is still in question.
    chosen: Plan,
}

impl Store {
    /// Opens a complete store.
    ///
    /// # Errors
    /// If there is none, or if it is unfinished: then the capture that made it goes on where it stopped.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref().to_path_buf();
        let index = Index::read(&folder)?;
        index.plan.check().map_err(|e| Error::format(Index::path(&folder), e))?;
        if let Some(site) = index.plan.sites.iter().find(|s| !index.layouts.contains_key(&s.to_string())) {
            let problem =
                format!("an unfinished capture ({site} is not complete): run the same capture again to finish it");
            return Err(Error::format(&folder, problem));
        }
        let items = Arc::new(index.plan.items.clone());
        let chosen = Plan { items: Vec::new(), ..index.plan.clone() };
        Ok(Self { folder, index: Arc::new(index), items, chosen })
    }

    /// What the store holds.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.index.plan
    }

    /// Prompt and seed of every item.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The stages it holds, as (step, t).
    #[must_use]
    pub fn stages(&self) -> Vec<(usize, f64)> {
        self.chosen.kept.iter().map(|&s| (s, progress_t(s, self.chosen.steps))).collect()
    }

    /// The file of the generated picture of item `i`.
    #[must_use]
    pub fn image_path(&self, i: usize) -> PathBuf {
        image_path(&self.folder, i)
    }

    /// The generated picture of item `i`.
    ///
    /// # Errors
    /// If there is no such item, or its file cannot be read.
    pub fn image(&self, i: usize) -> Result<RgbImage> {
        if i >= self.items.len() {
            return Err(Error::invalid(format!("picture {i}: the store has {} items", self.items.len())));
        }
        let path = image_path(&self.folder, i);
        let bytes = std::fs::read(&path).map_err(Error::file(&path))?;
        Ok(image::load_from_memory(&bytes).map_err(|e| Error::format(&path, e))?.to_rgb8())
    }

    /// The pictures of these items.
    ///
    /// # Errors
    /// As [`image`](Self::image).
    pub fn images(&self, items: Range<usize>) -> Result<Vec<RgbImage>> {
        items.map(|i| self.image(i)).collect()
    }

    /// Only the activations of this module path.
    ///
    /// # Errors
    /// If the store does not hold it; near names are offered.
    pub fn module(&self, path: &str) -> Result<Self> {
        let mut narrowed = self.clone();
        narrowed.chosen.sites.retain(|s| s.module == path);
        if narrowed.chosen.sites.is_empty() {
            return Err(Error::unknown("module in the store", path, self.chosen.sites.iter().map(|s| &s.module)));
        }
        Ok(narrowed)
    }

    /// Only the activations of this kind.
    ///
    /// # Errors
    /// If the store does not hold it.
    pub fn kind(&self, kind: Kind) -> Result<Self> {
        let mut narrowed = self.clone();
        narrowed.chosen.sites.retain(|s| s.kind == kind);
        if narrowed.chosen.sites.is_empty() {
            return Err(Error::unknown(
                "kind of tensor in the store",
                kind.name(),
                self.chosen.sites.iter().map(|s| s.kind.name()),
            ));
        }
        Ok(narrowed)
    }

    /// Only the activations of this guidance half.
    ///
    /// # Errors
    /// If the store does not hold it.
    pub fn half(&self, half: Half) -> Result<Self> {
        let mut narrowed = self.clone();
        narrowed.chosen.halves.retain(|&h| h == half);
        if narrowed.chosen.halves.is_empty() {
            return Err(Error::unknown(
                "guidance half in the store",
                half.name(),
                self.chosen.halves.iter().map(|h| h.name()),
            ));
        }
        Ok(narrowed)
    }

    /// The activations of the step at progress `t` (1 = noise, 0 = the last step).
    ///
    /// # Errors
    /// If that step was not kept, or if more than one site or half is left to choose from.
    pub fn stage(&self, t: f64) -> Result<Activations> {
        let step = step_at(t, self.chosen.steps);
        self.step(step).map_err(|e| match e {
            Error::Invalid(text) if text.starts_with("step ") => Error::Invalid(format!("stage t = {t}: {text}")),
            e => e,
        })
    }

    /// The activations of step `i`, counted from the noisiest.
    ///
    /// # Errors
    /// If that step was not kept, or if more than one site or half is left to choose from.
    pub fn step(&self, i: usize) -> Result<Activations> {
        if !self.chosen.kept.contains(&i) {
            let held: Vec<String> = self.stages().iter().map(|(s, t)| format!("{s} (t = {t:.2})")).collect();
            return Err(Error::invalid(format!("step {i} is not in the store, which holds {}", held.join(", "))));
        }
        let [site] = &self.chosen.sites[..] else {
            let names: Vec<String> = self.chosen.sites.iter().map(ToString::to_string).collect();
            return Err(Error::invalid(format!(
                "the store holds several sites ({}): choose with .module(…) or .kind(…)",
                names.join(", ")
            )));
        };
        let [half] = self.chosen.halves[..] else {
            let names: Vec<&str> = self.chosen.halves.iter().map(|h| h.name()).collect();
            return Err(Error::invalid(format!(
                "the store holds several guidance halves ({}): choose with .half(…)",
                names.join(", ")
            )));
        };
        let layout = self.index.layouts[&site.to_string()];
        let about = describe(&self.chosen, site, i, half, layout.grid, layout.d);
        let plan = &self.index.plan;
        let paths = (0..plan.shards()).map(|n| shard_path(&self.folder, site, i, half, n)).collect();
        let shards = Shards::open(&about, self.items.len(), plan.shard_items, paths)?;
        Ok(Activations::from_shards(about, self.items.clone(), shards))
    }

    /// The only activations that the store holds.
    ///
    /// # Errors
    /// If it holds several steps, sites or halves.
    pub fn only(&self) -> Result<Activations> {
        match self.chosen.kept[..] {
            [step] => self.step(step),
            _ => {
                let held: Vec<String> = self.stages().iter().map(|(_, t)| format!("{t:.2}")).collect();
                Err(Error::invalid(format!(
                    "the store holds several stages (t = {}): choose with .stage(…)",
                    held.join(", ")
                )))
            }
        }
    }

    /// What a notebook shows: the contents in a few lines.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plan = &self.chosen;
        writeln!(f, "{} items of {} (guidance {}, {} steps)", self.items.len(), plan.model, plan.guidance, plan.steps)?;
        let stages: Vec<String> = self.stages().iter().map(|(_, t)| format!("{t:.2}")).collect();
        let halves: Vec<&str> = plan.halves.iter().map(|h| h.name()).collect();
        writeln!(f, "stages t = {}; {}", stages.join(", "), halves.join(", "))?;
        for site in &plan.sites {
            let Layout { grid: (h, w), d } = self.index.layouts[&site.to_string()];
            writeln!(f, "{site}: {h}×{w} tokens of {d}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
