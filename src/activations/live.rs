//! Activations straight from a running model: nothing is stored, an item is made when its tokens are asked for.

use super::index::{Item, Plan};
use super::noised::Noised;
use super::writer::describe;
use super::{Activations, Recorder, Rows};
use crate::diffusion::hook::{Half, Site};
use crate::diffusion::pipeline::Pipeline;
use crate::error::{Error, Result};
use crate::progress::Part;
use image::RgbImage;
use std::sync::{Arc, Mutex, PoisonError};

/// A model and what is wanted of it.
pub(super) struct Live {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) plan: Plan,
    pub(super) pictures: Option<Vec<RgbImage>>,
    /// Denoising steps as they were asked for; some schedulers take one more.
    pub(super) steps: usize,
    pub(super) batch: Option<usize>,
    /// One caller at a time: the model uses all cores itself.
    pub(super) turn: Mutex<()>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Live {
    /// The activations, after one item has shown their shape.
    ///
    /// # Errors
    /// Of anything but one site, one step and one half; of the model.
    pub(super) fn activations(self) -> Result<Activations> {
        self.plan.check()?;
        let (site, step, half) = self.place()?;
        let recording = self.record(&[0])?;
        let block = recording.get(&site, step, half)?;
        let about = describe(&self.plan, &site, step, half, block.grid, block.d);
        let items = Arc::new(self.plan.items.clone());
        Ok(Activations::derived(about, items, Arc::new(self)))
    }

    fn place(&self) -> Result<(Site, usize, Half)> {
        match (&self.plan.sites[..], &self.plan.kept[..], &self.plan.halves[..]) {
            ([site], [step], [half]) => Ok((site.clone(), *step, *half)),
            (sites, steps, halves) => Err(Error::invalid(format!(
                "activations from a running model: {} sites, {} steps, {} halves, expected one of each",
                sites.len(),
                steps.len(),
                halves.len()
            ))),
        }
    }

    /// What some items show.
    fn record(&self, items: &[usize]) -> Result<super::Recording> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let _part = Part::begin(); // who asks counts batches
        let plan = Plan { items: items.iter().map(|&i| self.plan.items[i].clone()).collect(), ..self.plan.clone() };
        let recorder = Recorder::new(&plan.sites, &plan.kept, &plan.halves);
        match &self.pictures {
            Some(pictures) => {
                let chosen: Vec<RgbImage> = items.iter().map(|&i| pictures[i].clone()).collect();
                Noised::new(&self.pipeline, &chosen, self.steps)?.capture(&recorder, &plan, 0..items.len())?;
            }
            None => {
                let prompts: Vec<&str> = plan.items.iter().map(|item| item.prompt.as_str()).collect();
                let seeds: Vec<u64> = plan.items.iter().map(|item: &Item| item.seed).collect();
                let mut generation =
                    self.pipeline.prompts(&prompts).seeds(&seeds).steps(self.steps).guidance(plan.guidance);
                if let Some(batch) = self.batch {
                    generation = generation.batch(batch);
                }
                generation.with(recorder.clone()).run()?;
            }
        }
        Ok(recorder.take())
    }
}

impl Rows for Live {
    fn item(&self, i: usize) -> Result<Vec<f32>> {
        self.items(&[i]).map(|mut rows| rows.swap_remove(0))
    }

    fn items(&self, wanted: &[usize]) -> Result<Vec<Vec<f32>>> {
        let (site, step, half) = self.place()?;
        let recording = self.record(wanted)?;
        let block = recording.get(&site, step, half)?;
        let size = block.grid.0 * block.grid.1 * block.d;
        if block.data.len() != wanted.len() * size {
            let what = format!("activations of {site}");
            return Err(Error::Shape { what, found: vec![block.data.len()], expected: vec![wanted.len(), size] });
        }
        if let Some(at) = block.data.iter().position(|v| !v.is_finite()) {
            return Err(Error::invalid(format!(
                "{site}: {} at item {}, row {}, channel {}: expected finite numbers",
                block.data[at],
                wanted[at / size],
                at % size / block.d,
                at % block.d
            )));
        }
        Ok(block.data.chunks_exact(size).map(<[f32]>::to_vec).collect())
    }
}
