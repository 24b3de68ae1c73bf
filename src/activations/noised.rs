//! Activations of given pictures: encoded, noised, and seen by the model in one pass (TIDE, algorithm 1).

use super::{Plan, Recorder};
use crate::diffusion::hook::Half;
use crate::diffusion::pipeline::{Pipeline, png};
use crate::diffusion::scheduler::NoiseSchedule;
use crate::diffusion::tap::{Pass, Tap};
use crate::error::{Error, Result};
use crate::random::fnv1a;
use candle_core::Tensor;
use image::RgbImage;
use std::ops::Range;

/// Pictures that pass through the model at once.
const BATCH: usize = 8;

/// Given pictures and the steps at which a model is to see them.
pub(super) struct Noised<'a> {
    pipeline: &'a Pipeline,
    pictures: &'a [RgbImage],
    timesteps: Vec<f64>,
    schedule: NoiseSchedule,
}

impl<'a> Noised<'a> {
    /// Refuses pictures of another size than the model's.
    pub(super) fn new(pipeline: &'a Pipeline, pictures: &'a [RgbImage], steps: usize) -> Result<Self> {
        check(pipeline, pictures)?;
        let timesteps = pipeline.scheduler.scheduler(steps)?.timesteps().to_vec();
        Ok(Self { pipeline, pictures, timesteps, schedule: pipeline.scheduler.noise_schedule() })
    }

    /// Passes the pictures of some items through the model at every kept step; returns them as PNG files.
    pub(super) fn capture(&self, recorder: &Recorder, plan: &Plan, items: Range<usize>) -> Result<Vec<Vec<u8>>> {
        let mut recorder = recorder.clone();
        for start in (0..items.len()).step_by(BATCH) {
            let ids: Vec<usize> = (start..(start + BATCH).min(items.len())).collect();
            let wanted: Vec<_> = ids.iter().map(|i| &plan.items[items.start + i]).collect();
            let prompts: Vec<&str> = wanted.iter().map(|item| item.prompt.as_str()).collect();
            let seeds: Vec<u64> = wanted.iter().map(|item| item.seed).collect();
            let first = items.start + start;
            let clean = latents(self.pipeline, &self.pictures[first..first + ids.len()])?;
            let (_, h, w, _) = clean.dims4()?;
            let noise = self.pipeline.noise(&seeds, h, w)?;
            let text = |half: &Half| match half {
                Half::Conditional => self.pipeline.captions(&prompts),
                Half::Unconditional => self.pipeline.captions(&vec![""; ids.len()]),
            };
            let texts = plan.halves.iter().map(text).collect::<Result<Vec<_>>>()?;
            for &step in &plan.kept {
                let timestep = self.timesteps[step];
                let x = self.schedule.add_noise(&clean, &noise, &vec![timestep as usize; ids.len()])?;
                for (&half, text) in plan.halves.iter().zip(&texts) {
                    let mut tap = Tap::new(vec![&mut recorder]);
                    let (halves, items) = (vec![half], ids.clone());
                    tap.begin(Pass { step, steps: self.timesteps.len(), timestep, halves, items });
                    self.pipeline.predict(&x, timestep, text, &mut tap)?;
                }
            }
        }
        self.pictures[items].iter().map(png).collect()
    }
}

/// Refuses pictures of another size than the model's.
pub(crate) fn check(pipeline: &Pipeline, pictures: &[RgbImage]) -> Result<()> {
    let (h, w) = pipeline.picture_size();
    match pictures.iter().enumerate().find(|(_, p)| p.dimensions() != (w as u32, h as u32)) {
        None => Ok(()),
        Some((i, p)) => Err(Error::Shape {
            what: format!("picture {i} (height, width)"),
            found: vec![p.height() as usize, p.width() as usize],
            expected: vec![h, w],
        }),
    }
}

/// The scaled latents of some pictures: the mean of what the encoder says.
pub(crate) fn latents(pipeline: &Pipeline, pictures: &[RgbImage]) -> Result<Tensor> {
    let (w, h) = (pictures[0].width() as usize, pictures[0].height() as usize);
    let values: Vec<f32> = pictures.iter().flat_map(|p| p.as_raw()).map(|&v| f32::from(v) / 127.5 - 1.0).collect();
    let x = Tensor::from_vec(values, (pictures.len(), h, w, 3), pipeline.device())?;
    Ok((pipeline.vae.encode(&x)?.mean * pipeline.vae.scaling_factor())?)
}

/// A digest of pictures, to tell one set from another.
pub(super) fn digest(pictures: &[RgbImage]) -> String {
    format!("{:016x}", fnv1a(pictures.iter().flat_map(|p| p.as_raw()).copied()))
}
