//! What a store holds, or is to hold: its plan, written to `index.json`.

use crate::diffusion::hook::{Half, Site};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};

/// Version of the layout on disk and of what is captured; a store of another version is refused.
pub(crate) const FORMAT: u32 = 1;

/// One generated picture: what makes it again, given the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The prompt.
    pub prompt: String,
    /// The seed of its initial noise.
    pub seed: u64,
}

/// Shape of the activations of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Height and width of the grid of tokens.
    pub grid: (usize, usize),
    /// Channels of a token.
    pub d: usize,
}

/// Where the latents come from that the model sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// From the model's own generation.
    #[default]
    Generated,
    /// From given pictures with noise added; a digest of the pictures.
    Noised(String),
}

/// What a store is to hold. Two captures belong to one store only if their plans agree in everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The model's name.
    pub model: String,
    /// A digest of the model's weights.
    pub fingerprint: String,
    /// The places.
    pub sites: Vec<Site>,
    /// Steps of a generation.
    pub steps: usize,
    /// The steps that are kept.
    pub kept: Vec<usize>,
    /// The guidance halves that are kept.
    pub halves: Vec<Half>,
    /// Guidance scale.
    pub guidance: f64,
    /// Generated pictures, or given ones.
    #[serde(default)]
    pub source: Seen,
    /// Items of a shard.
    pub shard_items: usize,
    /// Prompt and seed of every item.
    pub items: Vec<Item>,
}

impl Plan {
    /// Number of shards of each site, step and half.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.items.len().div_ceil(self.shard_items)
    }

    /// Every site, step and half, in a fixed order.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&Site, usize, Half)> {
        self.sites.iter().flat_map(move |site| {
            self.kept.iter().flat_map(move |&step| self.halves.iter().map(move |&half| (site, step, half)))
        })
    }

    /// Nothing to capture, or no way to name it, is refused before any work is done.
    pub(crate) fn check(&self) -> Result<()> {
        let empty = |what: &str| Err(Error::invalid(format!("capture: no {what} given")));
        match () {
            () if self.items.is_empty() => empty("prompts"),
            () if self.sites.is_empty() => empty("site"),
            () if self.kept.is_empty() => empty("stage or step"),
            () if self.halves.is_empty() => empty("guidance half"),
            () if self.shard_items == 0 => Err(Error::invalid("capture: shards of 0 items")),
            () => match self.kept.iter().find(|&&s| s >= self.steps) {
                Some(s) => Err(Error::invalid(format!("capture: step {s} of a generation of {} steps", self.steps))),
                None => Ok(()),
            },
        }
    }

    /// Refuses to mix: names the first field in which the plan on disk differs from `wanted`, with both values.
    pub(crate) fn agree(&self, wanted: &Plan, path: &Path) -> Result<()> {
        fn same<T: PartialEq + Debug>(path: &Path, field: &str, found: &T, wanted: &T) -> Result<()> {
            if found == wanted {
                return Ok(());
            }
            let problem = format!("holds a capture with {field} {found:?}, wanted {wanted:?}: choose another folder");
            Err(Error::format(path, problem))
        }
        same(path, "model", &self.model, &wanted.model)?;
        same(path, "model fingerprint", &self.fingerprint, &wanted.fingerprint)?;
        let names = |p: &Plan| p.sites.iter().map(Site::to_string).collect::<Vec<_>>();
        same(path, "sites", &names(self), &names(wanted))?;
        same(path, "steps", &self.steps, &wanted.steps)?;
        same(path, "kept steps", &self.kept, &wanted.kept)?;
        same(path, "guidance halves", &self.halves, &wanted.halves)?;
        same(path, "guidance", &self.guidance, &wanted.guidance)?;
        same(path, "source", &self.source, &wanted.source)?;
        same(path, "items per shard", &self.shard_items, &wanted.shard_items)?;
        same(path, "number of items", &self.items.len(), &wanted.items.len())?;
        for (i, (found, wanted)) in self.items.iter().zip(&wanted.items).enumerate() {
            same(path, &format!("item {i}"), found, wanted)?;
        }
        Ok(())
    }
}

/// `index.json`: the format, the plan and, once every shard is there, the layout of each site.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) format: u32,
    #[serde(flatten)]
    pub(crate) plan: Plan,
    /// By site; empty while the capture is unfinished.
    pub(crate) layouts: BTreeMap<String, Layout>,
}

impl Index {
    pub(crate) fn path(folder: &Path) -> PathBuf {
        folder.join("index.json")
    }

    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = Self::path(folder);
        let text = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| Error::format(&path, e))?;
        if json["format"] != FORMAT {
            let found = &json["format"];
            return Err(Error::format(
                &path,
                format!("holds a store of format {found}, this version reads format {FORMAT}"),
            ));
        }
        serde_json::from_value(json).map_err(|e| Error::format(&path, e))
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let path = Self::path(folder);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::format(&path, e))?;
        super::shard::atomically(&path, |out| out.write_all(text.as_bytes()))
    }
}

/// Where shard `number` of a place lies.
pub(crate) fn shard_path(folder: &Path, site: &Site, step: usize, half: Half, number: usize) -> PathBuf {
    let place = format!("shards/{}/{}/step-{step:04}/{half}/{number:05}.safetensors", site.module, site.kind);
    folder.join(place)
}

/// Where the picture of item `i` lies.
pub(crate) fn image_path(folder: &Path, i: usize) -> PathBuf {
    folder.join(format!("images/{i:06}.png"))
}
