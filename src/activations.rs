//! Activations of a model: capture during generation, shards on disk, shuffled batches.
//!
//! [`Activations`] is one matrix with its description: every token of every item at one place of the model, one
//! step and one guidance half. It lives in memory or in the shards of a [`Store`], and reads the same either way.
//!
//! ```
//! use denoscope::activations::Activations;
//!
//! // Two items of a 1×3 grid with four channels each, made by hand.
//! let data: Vec<f32> = (0..2 * 3 * 4).map(|v| v as f32).collect();
//! let activations = Activations::from_vec((1, 3), 4, data)?;
//! assert_eq!((activations.len(), activations.tokens(), activations.d()), (2, 6, 4));
//! assert_eq!(activations.item(1)?[..4], [12.0, 13.0, 14.0, 15.0]);
//!
//! // Tokens of all items in one random order, four at a time.
//! let sizes: Vec<usize> = activations.batches(4, 0)?.map(|b| b.map(|b| b.len() / 4)).collect::<Result<_, _>>()?;
//! assert_eq!(sizes, [4, 2]);
//! # Ok::<(), denoscope::Error>(())
//! ```

mod batches;
mod capture;
pub mod command;
mod index;
mod live;
pub(crate) mod noised;
mod recorder;
pub(crate) mod shard;
mod store;
mod trajectories;
mod writer;

pub use batches::{Batches, Mixing};
pub use capture::Capture;
pub use index::{Item, Layout, Plan, Seen};
pub use recorder::{Block, Recorder, Recording};
pub use store::Store;
pub use trajectories::Trajectories;
pub(crate) use trajectories::around;
pub use writer::Writer;

use crate::diffusion::hook::{Half, Kind, Site, progress_t};
use crate::diffusion::pipeline::Pipeline;
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use shard::Shards;
use std::ops::Range;
use std::sync::Arc;

/// Where and when activations were taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The model's name, as it was opened.
    pub model: String,
    /// A digest of the model's weights: activations of two models are never mixed.
    pub fingerprint: String,
    /// Module path and kind of tensor.
    pub site: Site,
    /// Denoising step, 0 = the noisiest.
    pub step: usize,
    /// Steps of the whole generation.
    pub steps: usize,
    /// Which guidance half.
    pub half: Half,
    /// Guidance scale of the generation.
    pub guidance: f64,
    /// Height and width of the grid of tokens.
    pub grid: (usize, usize),
    /// Channels of a token.
    pub d: usize,
}

impl Description {
    /// Progress of the step as the papers count it: 1 at the first step (noise), 0 at the last.
    #[must_use]
    pub fn t(&self) -> f64 {
        progress_t(self.step, self.steps)
    }

    /// Opens the model.
    ///
    /// # Errors
    /// If there is none of that name, or it is another now.
    pub(crate) fn open_model(&self) -> Result<Pipeline> {
        let model = Pipeline::open(&self.model)?;
        if model.fingerprint() == self.fingerprint {
            return Ok(model);
        }
        Err(Error::invalid(format!(
            "activations of {} {}, the model of that name is now {}",
            self.model,
            self.fingerprint,
            model.fingerprint()
        )))
    }
}

impl std::fmt::Display for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (h, w) = self.grid;
        write!(f, "{} {} t = {:.2} {} {h}×{w}×{}", self.model, self.site, self.t(), self.half, self.d)
    }
}

/// Every token of every item at one place, step and half: rows of `d` numbers, `h·w` rows an item.
///
/// Cheap to clone: copies share their data.
#[derive(Debug, Clone)]
pub struct Activations {
    about: Description,
    items: Arc<Vec<Item>>,
    /// Which of `items` (and of the source's items) this view holds.
    range: Range<usize>,
    source: Source,
    buffer: usize,
}

/// Where the numbers are.
#[derive(Debug, Clone)]
enum Source {
    Memory(Arc<Vec<f32>>),
    Shards(Arc<Shards>),
    Derived(Arc<dyn Rows>),
}

/// Rows that are worked out from others, or read from elsewhere, when they are asked for.
pub(crate) trait Rows: std::fmt::Debug + Send + Sync {
    /// Item `i`: `[tokens, d]`, finite numbers.
    fn item(&self, i: usize) -> Result<Vec<f32>>;

    /// Several items, which may be had at less cost together.
    fn items(&self, wanted: &[usize]) -> Result<Vec<Vec<f32>>> {
        wanted.par_iter().map(|&i| self.item(i)).collect()
    }
}

/// Half-precision bytes of tokens that a shuffle of a store holds at once.
///
/// With 1 GiB the share of same-item pairs in a batch is (bytes of an item) / 1 GiB: 0.06 % for 16×16 tokens of 1280
/// channels, where an image-wise shuffle would have 6 %.
const BUFFER: usize = 1 << 30;

impl Activations {
    /// Activations in memory, with no model behind them: `data` is `[items, h·w, d]`.
    ///
    /// # Errors
    /// If the length of `data` is not a multiple of an item's size, or if a value is not finite.
    pub fn from_vec(grid: (usize, usize), d: usize, data: Vec<f32>) -> Result<Self> {
        let size = grid.0 * grid.1 * d;
        if size == 0 || data.is_empty() || !data.len().is_multiple_of(size) {
            return Err(Error::invalid(format!(
                "activations: {} numbers do not divide into items of {}×{} tokens of {d} channels",
                data.len(),
                grid.0,
                grid.1
            )));
        }
        let items = (0..data.len() / size).map(|i| Item { prompt: String::new(), seed: i as u64 }).collect();
        let about = Description {
            model: "none".into(),
            fingerprint: String::new(),
            site: Site::new("memory", Kind::Output),
            step: 0,
            steps: 1,
            half: Half::Conditional,
            guidance: 1.0,
            grid,
            d,
        };
        Self::described(about, items, data)
    }

    /// Activations in memory, with their description.
    ///
    /// # Errors
    /// If `data` is not `[items, h·w, d]`, or if a value is not finite.
    pub fn described(about: Description, items: Vec<Item>, data: Vec<f32>) -> Result<Self> {
        let (tokens, d) = (about.grid.0 * about.grid.1, about.d);
        if data.len() != items.len() * tokens * d {
            return Err(Error::Shape {
                what: format!("activations of {}", about.site),
                found: vec![data.len()],
                expected: vec![items.len(), tokens, d],
            });
        }
        if let Some(at) = data.iter().position(|v| !v.is_finite()) {
            return Err(Error::invalid(format!(
                "activations of {}: {} at row {}, channel {}: expected finite numbers",
                about.site,
                data[at],
                at / d,
                at % d
            )));
        }
        let range = 0..items.len();
        let source = Source::Memory(Arc::new(data));
        Ok(Self { about, items: Arc::new(items), range, source, buffer: BUFFER })
    }

    pub(crate) fn from_shards(about: Description, items: Arc<Vec<Item>>, shards: Shards) -> Self {
        let range = 0..items.len();
        Self { about, items, range, source: Source::Shards(Arc::new(shards)), buffer: BUFFER }
    }

    /// Activations whose rows come from `rows` when they are asked for; shuffles keep them in half precision.
    pub(crate) fn derived(about: Description, items: Arc<Vec<Item>>, rows: Arc<dyn Rows>) -> Self {
        let range = 0..items.len();
        Self { about, items, range, source: Source::Derived(rows), buffer: BUFFER }
    }

    /// Where and when they were taken.
    #[must_use]
    pub fn about(&self) -> &Description {
        &self.about
    }

    /// Channels of a token.
    #[must_use]
    pub fn d(&self) -> usize {
        self.about.d
    }

    /// Height and width of the grid of tokens.
    #[must_use]
    pub fn grid(&self) -> (usize, usize) {
        self.about.grid
    }

    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there is no item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Tokens of one item: h·w.
    #[must_use]
    pub fn tokens_per_item(&self) -> usize {
        self.about.grid.0 * self.about.grid.1
    }

    /// Tokens of all items.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.len() * self.tokens_per_item()
    }

    /// The prompt and seed of every item.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items[self.range.clone()]
    }

    /// The same activations, restricted to `range` of their items: a training and a held-out part, for example.
    ///
    /// # Errors
    /// If the range does not lie within the items.
    pub fn range(&self, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.len() {
            return Err(Error::invalid(format!("items {range:?}: there are {} items", self.len())));
        }
        let range = self.range.start + range.start..self.range.start + range.end;
        Ok(Self { range, ..self.clone() })
    }

    /// The same activations, with shuffles that hold at most `bytes` of half-precision tokens in memory (1 GiB).
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = bytes;
        self
    }

    /// The activations of item `i`: `[h·w, d]`, row by row.
    ///
    /// # Errors
    /// If there is no such item, its shard cannot be read, or it holds a value that is not finite.
    pub fn item(&self, i: usize) -> Result<Vec<f32>> {
        if i >= self.len() {
            return Err(Error::invalid(format!("item {i}: there are {} items", self.len())));
        }
        let (at, size) = (self.range.start + i, self.tokens_per_item() * self.d());
        match &self.source {
            Source::Memory(data) => Ok(data[at * size..(at + 1) * size].to_vec()),
            Source::Shards(shards) => Ok(shards.item(at)?.iter().map(|v| v.to_f32()).collect()),
            Source::Derived(rows) => rows.item(at),
        }
    }

    /// Batches of `batch` tokens in one random order over all items: an iterator of `[batch, d]`, the last one shorter.
    ///
    /// Tokens are shuffled, not items, so that a batch is a fair sample of the whole; what does not fit the
    /// [buffer](Self::buffer) is shuffled in windows of randomly drawn items. [`Batches::mixing`] reports how well.
    ///
    /// # Errors
    /// If `batch` is 0 or there is no token.
    pub fn batches(&self, batch: usize, seed: u64) -> Result<Batches> {
        Batches::new(self.clone(), batch, seed, 0)
    }

    /// The batches of epoch `epoch` of a training: each epoch has an order of its own.
    ///
    /// # Errors
    /// As [`batches`](Self::batches).
    pub fn epoch(&self, batch: usize, seed: u64, epoch: u64) -> Result<Batches> {
        Batches::new(self.clone(), batch, seed, epoch)
    }

    /// What a notebook shows: the description in one line.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl std::fmt::Display for Activations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} items, {} tokens", self.about, self.len(), self.tokens())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_in_memory_are_named() {
        let text = |r: Result<Activations>| r.unwrap_err().to_string();
        assert!(text(Activations::from_vec((2, 2), 3, vec![0.0; 13])).contains("13 numbers"));
        let mut data = vec![0.0; 24];
        data[16] = f32::NAN;
        assert!(text(Activations::from_vec((2, 2), 3, data)).contains("row 5, channel 1"));
    }

    #[test]
    fn a_range_is_a_view_of_the_same_items() {
        let all = Activations::from_vec((1, 2), 2, (0..20).map(|v| v as f32).collect()).unwrap();
        let part = all.range(2..5).unwrap().range(1..3).unwrap();
        assert_eq!(part.len(), 2);
        assert_eq!(part.item(0).unwrap(), all.item(3).unwrap());
        assert_eq!(part.items()[1], all.items()[4]);
        assert!(part.item(2).is_err());
        assert!(all.range(3..6).is_err());
    }
}
