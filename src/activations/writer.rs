//! Writing a store, shard by shard, killable at any moment.

use super::index::{FORMAT, Index, image_path, shard_path};
use super::shard::{self, Header};
use super::{Description, Plan, Recording, Store};
use crate::diffusion::hook::{Half, Site};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Fills a store with the shards that it still lacks.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    plan: Plan,
}

impl Writer {
    /// Starts a store in `folder`, or goes on with the one that is there.
    ///
    /// # Errors
    /// If the plan is empty, or the folder holds a store with another plan or of another format: it is refused with
    /// the first difference, not mixed.
    pub fn open(folder: impl AsRef<Path>, plan: Plan) -> Result<Self> {
        let folder = folder.as_ref().to_path_buf();
        plan.check()?;
        let path = Index::path(&folder);
        if path.exists() {
            // Through text, as the plan on disk went: reading a number back may change its last digit.
            let text = serde_json::to_string(&plan).map_err(|e| Error::format(&path, e))?;
            let wanted: Plan = serde_json::from_str(&text).map_err(|e| Error::format(&path, e))?;
            Index::read(&folder)?.plan.agree(&wanted, &path)?;
        } else {
            Index { format: FORMAT, plan: plan.clone(), layouts: BTreeMap::new() }.write(&folder)?;
        }
        Ok(Self { folder, plan })
    }

    /// What the store is to hold.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The first shard that is not whole yet, with its items; `None` when the store is complete.
    #[must_use]
    pub fn missing(&self) -> Option<(usize, Range<usize>)> {
        (0..self.plan.shards()).map(|s| (s, self.items(s))).find(|(s, items)| {
            let shards = self.plan.places().all(|(site, step, half)| self.path(site, step, half, *s).exists());
            !(shards && items.clone().all(|i| image_path(&self.folder, i).exists()))
        })
    }

    /// The items of shard `number`.
    #[must_use]
    pub fn items(&self, number: usize) -> Range<usize> {
        let first = number * self.plan.shard_items;
        first..(first + self.plan.shard_items).min(self.plan.items.len())
    }

    /// Writes shard `number` of every place, and the pictures of its items as PNG files.
    ///
    /// # Errors
    /// If a place was not recorded or has the wrong shape, a number is not finite, or the disk is full; shards
    /// written before stay valid.
    pub fn write(&self, number: usize, recording: &Recording, pictures: &[Vec<u8>]) -> Result<()> {
        let items = self.items(number);
        if pictures.len() != items.len() {
            return Err(Error::invalid(format!(
                "shard {number}: {} pictures for {} items",
                pictures.len(),
                items.len()
            )));
        }
        for (i, png) in items.clone().zip(pictures) {
            shard::atomically(&image_path(&self.folder, i), |out| out.write_all(png))?;
        }
        for (site, step, half) in self.plan.places() {
            let block = recording.get(site, step, half)?;
            let (grid, d) = (block.grid, block.d);
            if block.data.len() != items.len() * grid.0 * grid.1 * d {
                return Err(Error::Shape {
                    what: format!("shard {number} of {site}"),
                    found: vec![block.data.len()],
                    expected: vec![items.len(), grid.0 * grid.1, d],
                });
            }
            let about = describe(&self.plan, site, step, half, grid, d);
            shard::write(&self.path(site, step, half, number), &about, items.start, &block.data)?;
        }
        Ok(())
    }

    /// Declares the store complete and opens it.
    ///
    /// # Errors
    /// If a shard is missing or damaged.
    pub fn finish(self) -> Result<Store> {
        if let Some((number, items)) = self.missing() {
            return Err(Error::format(&self.folder, format!("shard {number} (items {items:?}) is not complete")));
        }
        let mut layouts = BTreeMap::new();
        for site in &self.plan.sites {
            let header = Header::read(&self.path(site, self.plan.kept[0], self.plan.halves[0], 0))?;
            layouts.insert(site.to_string(), header.layout());
        }
        Index { format: FORMAT, plan: self.plan, layouts }.write(&self.folder)?;
        Store::open(self.folder)
    }

    fn path(&self, site: &Site, step: usize, half: Half, number: usize) -> PathBuf {
        shard_path(&self.folder, site, step, half, number)
    }
}

pub(crate) fn describe(
    plan: &Plan,
    site: &Site,
    step: usize,
    half: Half,
    grid: (usize, usize),
    d: usize,
) -> Description {
    Description {
        model: plan.model.clone(),
        fingerprint: plan.fingerprint.clone(),
        site: site.clone(),
        step,
        steps: plan.steps,
        half,
        guidance: plan.guidance,
        grid,
        d,
    }
}
