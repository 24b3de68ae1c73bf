//! A hook that keeps what flows by.

use crate::diffusion::hook::{Half, Hook, Site, Visit};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// Keeps the wanted sites, steps and halves of every item of one or more generations.
///
/// Clones share what they keep: hand one to the pipeline, and [`take`](Recorder::take) from another.
#[derive(Debug, Clone)]
pub struct Recorder {
    sites: Vec<Site>,
    steps: Vec<usize>,
    halves: Vec<Half>,
    state: Arc<Mutex<State>>,
}

/// What is being kept.
#[derive(Debug, Default)]
struct State {
    /// Items of earlier generations: item `j` of the running one is item `base + j` of the recording.
    base: usize,
    blocks: BTreeMap<(Site, usize, Half), Block>,
}

/// The activations of one place, step and half.
#[derive(Debug, Clone, Default)]
pub struct Block {
    /// Height and width of the grid of tokens.
    pub grid: (usize, usize),
    /// Channels of a token.
    pub d: usize,
    /// `[items, h·w, d]`.
    pub data: Vec<f32>,
}

/// What a [`Recorder`] kept.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    blocks: BTreeMap<(Site, usize, Half), Block>,
}

impl Recording {
    /// The activations of `site` at `step` in `half`.
    ///
    /// # Errors
    /// If they were never visited; the message says what was.
    pub fn get(&self, site: &Site, step: usize, half: Half) -> Result<&Block> {
        self.blocks.get(&(site.clone(), step, half)).ok_or_else(|| {
            let seen: Vec<String> = self.blocks.keys().map(|(s, i, h)| format!("{s} step {i} {h}")).collect();
            let seen = if seen.is_empty() { "nothing".to_string() } else { seen.join(", ") };
            let hint = if half == Half::Unconditional {
                " (a generation without guidance has no unconditional half)"
            } else {
                ""
            };
            Error::invalid(format!("{site} step {step} {half} was not visited{hint}; recorded: {seen}"))
        })
    }
}

impl Recorder {
    /// Keeps `sites` at `steps` in `halves`.
    #[must_use]
    pub fn new(sites: &[Site], steps: &[usize], halves: &[Half]) -> Self {
        let (sites, steps, halves) = (sites.to_vec(), steps.to_vec(), halves.to_vec());
        Self { sites, steps, halves, state: Arc::default() }
    }

    /// Says that a generation of `items` items is over: the next one's item 0 follows its last.
    pub fn advance(&self, items: usize) {
        self.state().base += items;
    }

    /// What was kept so far; the recorder is empty afterwards.
    #[must_use]
    pub fn take(&self) -> Recording {
        let state = std::mem::take(&mut *self.state());
        Recording { blocks: state.blocks }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the maps half-changed in a way that matters: blocks are checked on writing.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Hook for Recorder {
    fn sites(&self) -> Vec<Site> {
        self.sites.clone()
    }

    fn wants(&self, step: usize, _steps: usize, half: Half) -> bool {
        self.steps.contains(&step) && self.halves.contains(&half)
    }

    fn visit(&mut self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        if !self.wants(visit.step, visit.steps, visit.half) || !self.sites.contains(visit.site) {
            return Ok(None);
        }
        let (items, tokens, d) = activation.dims3()?;
        if tokens != visit.grid.0 * visit.grid.1 || items != visit.items.len() {
            return Err(Error::Shape {
                what: format!("activation of {}", visit.site),
                found: vec![items, tokens, d],
                expected: vec![visit.items.len(), visit.grid.0 * visit.grid.1, d],
            });
        }
        let values: Vec<f32> = activation.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let mut state = self.state();
        let base = state.base;
        let block = state.blocks.entry((visit.site.clone(), visit.step, visit.half)).or_default();
        (block.grid, block.d) = (visit.grid, d);
        let size = tokens * d;
        for (&item, values) in visit.items.iter().zip(values.chunks_exact(size)) {
            let at = (base + item) * size;
            if block.data.len() < at + size {
                // What is never visited stays NaN and is refused on writing.
                block.data.resize(at + size, f32::NAN);
            }
            block.data[at..at + size].copy_from_slice(values);
        }
        Ok(None)
    }
}
