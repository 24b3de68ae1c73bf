//! Diffusion loss recovered: what of a layer's use to the model an SAE's reconstruction keeps.
//!
//! Pictures x₀ are noised, x_t = √ᾱₜ x₀ + √(1 − ᾱₜ) ε, and the model denoises them in one pass with a layer's activation
//! as it is (*clean*), replaced by its reconstruction (*replaced*), and replaced by its mean over all tokens and pictures
//! at that timestep (*ablated*). With the denoising loss L = mean (target − prediction)² of each,
//!
//! recovered = (L_ablated − L_replaced) / (L_ablated − L_clean):
//!
//! 1 if the model does not notice, 0 if the reconstruction is worth no more to it than the mean, negative if less. The
//! target is ε, v or x₀, as the model predicts; captions are given and there is no guidance, as in the model's training.

use super::interval::{Interval, bootstrap};
use crate::activations::noised;
use crate::diffusion::captions::Captions;
use crate::diffusion::hook::{Half, Hook, Site, Visit, progress_t};
use crate::diffusion::pipeline::Pipeline;
use crate::diffusion::scheduler::{NoiseSchedule, Prediction};
use crate::diffusion::tap::{Pass, Tap};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::sae::{Sae, TideSae, TrajectorySae};
use candle_core::Tensor;
use image::RgbImage;
use std::fmt;
use std::ops::Range;

/// Pictures that pass through the model at once.
const BATCH: usize = 8;

/// The tokens of some pictures at one timestep.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Progress: 1 = noise, 0 = the last step.
    pub t: f64,
    /// Rows of d numbers.
    pub rows: Vec<f32>,
}

/// What can stand for activations.
pub trait Reconstruct {
    /// Channels of an activation.
    fn channels(&self) -> usize;

    /// What stands for tokens: rows as they were seen, for every timestep; the same tokens at each.
    ///
    /// # Errors
    /// If these are not the timesteps of one made for some timesteps, or a number is not finite.
    fn reconstruct(&self, seen: &[Seen]) -> Result<Vec<Vec<f32>>>;
}

impl Reconstruct for Sae {
    fn channels(&self) -> usize {
        self.d
    }

    fn reconstruct(&self, seen: &[Seen]) -> Result<Vec<Vec<f32>>> {
        seen.iter().map(|s| Ok(self.decode(&self.encode(&s.rows)?))).collect()
    }
}

/// At each timestep the SAE for it.
impl Reconstruct for TideSae {
    fn channels(&self) -> usize {
        self.d()
    }

    fn reconstruct(&self, seen: &[Seen]) -> Result<Vec<Vec<f32>>> {
        let at = |s: &Seen| {
            let sae = self.at(s.t);
            Ok(sae.decode(&sae.encode(&s.rows)?))
        };
        seen.iter().map(at).collect()
    }
}

/// Of all its steps at once: the measure must be [at](LossRecovered::at_steps) them.
impl Reconstruct for TrajectorySae {
    fn channels(&self) -> usize {
        self.d()
    }

    fn reconstruct(&self, seen: &[Seen]) -> Result<Vec<Vec<f32>>> {
        let (steps, d) = (self.steps(), self.d());
        let wanted: Vec<f64> = self.predictors.about.iter().map(|a| a.t()).collect();
        if seen.len() != steps || seen.iter().zip(&wanted).any(|(s, t)| (s.t - t).abs() > 1e-6) {
            let list = |t: &mut dyn Iterator<Item = f64>| t.map(|t| format!("{t:.3}")).collect::<Vec<_>>().join(", ");
            return Err(Error::invalid(format!(
                "an SAE of trajectories at t = {}, asked for t = {}: use at_steps with its own steps",
                list(&mut wanted.iter().copied()),
                list(&mut seen.iter().map(|s| s.t))
            )));
        }
        let tokens = seen[0].rows.len() / d;
        let rows: Vec<f32> =
            (0..tokens).flat_map(|i| seen.iter().flat_map(move |s| &s.rows[i * d..(i + 1) * d])).copied().collect();
        let decoded = self.decode(&self.encode(&rows)?)?;
        let step = |s: usize| decoded.chunks_exact(d).skip(s).step_by(steps).flatten().copied().collect();
        Ok((0..steps).map(step).collect())
    }
}

/// A timestep at which pictures are denoised.
#[derive(Debug, Clone, Copy)]
struct Point {
    timestep: usize,
    step: usize,
    steps: usize,
    t: f64,
    bin: usize,
}

/// Which timesteps.
#[derive(Debug, Clone)]
enum Times {
    /// Equal ranges of all timesteps, and so many timesteps of each.
    Bins { bins: usize, each: usize },
    /// Steps of a generation of so many.
    Steps { at: Vec<usize>, steps: usize },
}

/// The measure, before it is taken.
///
/// ```no_run
/// use denoscope::measure::LossRecovered;
/// use denoscope::prelude::*;
///
/// let (model, sae) = (Pipeline::open("scene-unet")?, Sae::load("work/sae")?);
/// let scenes: Vec<Scene> = (0..32).map(|i| Scene::sample(Split::Test, i)).collect();
/// let prompts: Vec<String> = scenes.iter().map(|s| s.full_caption().text).collect();
/// let renders: Vec<Render> = scenes.iter().map(Scene::render).collect();
/// let site = Site::new("mid_block.attentions.0", Kind::Residual);
/// LossRecovered::new(&model, site).of(&sae, renders.iter().map(|r| &r.image), &prompts)?
/// # ;Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is measured before .of(…)"]
pub struct LossRecovered<'a> {
    pipeline: &'a Pipeline,
    site: Site,
    half: Half,
    times: Times,
    seed: u64,
}

impl<'a> LossRecovered<'a> {
    /// Of what is at `site` in the passes with the pictures' captions; in 5 bins of timesteps, with 2 timesteps of each.
    pub fn new(pipeline: &'a Pipeline, site: Site) -> Self {
        Self { pipeline, site, half: Half::Conditional, times: Times::Bins { bins: 5, each: 2 }, seed: 0 }
    }

    /// In `bins` equal ranges of the model's timesteps, at `each` timesteps of each, evenly spread.
    pub fn bins(mut self, bins: usize, each: usize) -> Self {
        self.times = Times::Bins { bins, each };
        self
    }

    /// At these steps of a generation of `steps` steps, each a bin of its own: those that an SAE was trained at.
    pub fn at_steps(mut self, at: impl IntoIterator<Item = usize>, steps: usize) -> Self {
        self.times = Times::Steps { at: at.into_iter().collect(), steps };
        self
    }

    /// Another guidance half: the unconditional one denoises without captions.
    pub fn half(mut self, half: Half) -> Self {
        self.half = half;
        self
    }

    /// Picture i gets the noise of seed `first` + i. Default: 0.
    pub fn seed(mut self, first: u64) -> Self {
        self.seed = first;
        self
    }

    /// Measures it on pictures of the model's own size with their captions.
    ///
    /// Three passes for every picture and timestep. Intervals are over pictures.
    ///
    /// # Errors
    /// A site that the model does not have, channels that do not fit, no picture, another number of captions than of
    /// pictures, pictures of another size, a timestep that there is not; or of the model.
    pub fn of<'b, S: AsRef<str>>(
        &self,
        sae: &dyn Reconstruct,
        pictures: impl IntoIterator<Item = &'b RgbImage>,
        prompts: &[S],
    ) -> Result<Recovered> {
        self.pipeline.check([&self.site])?;
        let points = self.points()?;
        let pictures: Vec<RgbImage> = pictures.into_iter().cloned().collect();
        noised::check(self.pipeline, &pictures)?;
        if pictures.is_empty() || pictures.len() != prompts.len() {
            return Err(Error::invalid(format!(
                "diffusion loss recovered: {} pictures with {} prompts, expected at least one and as many",
                pictures.len(),
                prompts.len()
            )));
        }
        let batches = (0..pictures.len())
            .step_by(BATCH)
            .map(|from| {
                let range = from..(from + BATCH).min(pictures.len());
                self.batch(range.clone(), &pictures[range.clone()], &prompts[range])
            })
            .collect::<Result<Vec<_>>>()?;
        let schedule = self.pipeline.scheduler.noise_schedule();
        let mut progress = Progress::new("diffusion loss, passes", 3 * batches.len() * points.len());
        let mut passes = 0;
        let mut pass = |batch: &Batch, point: &Point, put: Option<Vec<f32>>| {
            let done = self.pass(&schedule, batch, point, put);
            passes += 1;
            progress.at(passes, "");
            done
        };
        // [clean, replaced, ablated] of every timestep, picture by picture.
        let mut losses = vec![[const { Vec::new() }; 3]; points.len()];
        let mut sums = vec![vec![0.0f64; sae.channels()]; points.len()];
        let mut tokens = 0;
        for batch in &batches {
            let mut seen = Vec::with_capacity(points.len());
            for ((point, losses), sums) in points.iter().zip(&mut losses).zip(&mut sums) {
                let (loss, swap) = pass(batch, point, None)?;
                if swap.d != sae.channels() {
                    let what = format!("activations of {} for an SAE", self.site);
                    return Err(Error::Shape { what, found: vec![swap.d], expected: vec![sae.channels()] });
                }
                for row in swap.rows.chunks_exact(swap.d) {
                    sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v));
                }
                losses[0].extend(loss);
                seen.push(Seen { t: point.t, rows: swap.rows });
            }
            tokens += seen[0].rows.len() / sae.channels();
            for ((point, losses), rows) in points.iter().zip(&mut losses).zip(sae.reconstruct(&seen)?) {
                losses[1].extend(pass(batch, point, Some(rows))?.0);
            }
        }
        let mut means = Vec::with_capacity(points.len());
        for ((point, losses), sums) in points.iter().zip(&mut losses).zip(sums) {
            let mean: Vec<f32> = sums.iter().map(|s| (s / tokens as f64) as f32).collect();
            for batch in &batches {
                losses[2].extend(pass(batch, point, Some(mean.clone()))?.0);
            }
            means.push(mean);
        }
        Ok(self.summary(&points, &losses, means))
    }

    fn points(&self) -> Result<Vec<Point>> {
        let total = self.pipeline.scheduler.noise_schedule().alphas_cumprod().len();
        let points: Vec<Point> = match &self.times {
            Times::Bins { bins, each } => {
                let n = bins * each;
                if n == 0 || n > total {
                    return Err(Error::invalid(format!(
                        "{bins} bins of {each} timesteps: expected 1 to {total} in all"
                    )));
                }
                let at = |i: usize| {
                    let timestep = ((i as f64 + 0.5) / n as f64 * total as f64) as usize;
                    let t = timestep as f64 / (total - 1).max(1) as f64;
                    Point { timestep, step: n - 1 - i, steps: n, t, bin: i / each }
                };
                (0..n).map(at).collect()
            }
            Times::Steps { at, steps } => {
                let timesteps = self.pipeline.scheduler.scheduler(*steps)?.timesteps().to_vec();
                let point = |(bin, &step): (usize, &usize)| match timesteps.get(step) {
                    Some(timestep) => {
                        let (steps, timestep) = (timesteps.len(), timestep.round() as usize);
                        Ok(Point { timestep, step, steps, t: progress_t(step, steps), bin })
                    }
                    None => Err(Error::invalid(format!("step {step} of a generation of {} steps", timesteps.len()))),
                };
                at.iter().enumerate().map(point).collect::<Result<_>>()?
            }
        };
        if points.is_empty() {
            return Err(Error::invalid("diffusion loss recovered: no timestep given"));
        }
        Ok(points)
    }

    fn batch<S: AsRef<str>>(&self, range: Range<usize>, pictures: &[RgbImage], prompts: &[S]) -> Result<Batch> {
        let clean = noised::latents(self.pipeline, pictures)?;
        let (_, h, w, _) = clean.dims4()?;
        let seeds: Vec<u64> = range.map(|i| self.seed.wrapping_add(i as u64)).collect();
        let noise = self.pipeline.noise(&seeds, h, w)?;
        let captions = match self.half {
            Half::Conditional => self.pipeline.captions(prompts)?,
            Half::Unconditional => self.pipeline.captions(&vec![""; pictures.len()])?,
        };
        Ok(Batch { clean, noise, captions, pictures: pictures.len() })
    }

    /// The loss of every picture of a batch, with `put` in the place of the activation: rows of all its tokens, or one row
    /// for all.
    fn pass(
        &self,
        schedule: &NoiseSchedule,
        batch: &Batch,
        point: &Point,
        put: Option<Vec<f32>>,
    ) -> Result<(Vec<f64>, Swap)> {
        let n = batch.pictures;
        let x = schedule.add_noise(&batch.clean, &batch.noise, &vec![point.timestep; n])?;
        let mut swap = Swap { site: self.site.clone(), put, rows: Vec::new(), d: 0 };
        let mut tap = Tap::new(vec![&mut swap]);
        tap.begin(Pass {
            step: point.step,
            steps: point.steps,
            timestep: point.timestep as f64,
            halves: vec![self.half],
            items: (0..n).collect(),
        });
        let found = self.pipeline.predict(&x, point.timestep as f64, &batch.captions, &mut tap)?;
        drop(tap);
        let kept = schedule.alphas_cumprod()[point.timestep];
        let target = match self.pipeline.scheduler.prediction_type {
            Prediction::Epsilon => batch.noise.clone(),
            Prediction::Sample => batch.clean.clone(),
            Prediction::VPrediction => ((&batch.noise * kept.sqrt())? - (&batch.clean * (1.0 - kept).sqrt())?)?,
        };
        let squares = (target - found)?.sqr()?.flatten_from(1)?.to_vec2::<f32>()?;
        let mean = |row: &Vec<f32>| row.iter().map(|&v| f64::from(v)).sum::<f64>() / row.len() as f64;
        Ok((squares.iter().map(mean).collect(), swap))
    }

    fn summary(&self, points: &[Point], losses: &[[Vec<f64>; 3]], means: Vec<Vec<f32>>) -> Recovered {
        let total = self.pipeline.scheduler.noise_schedule().alphas_cumprod().len();
        let bins = points.last().map_or(0, |p| p.bin + 1);
        let pictures = losses[0][0].len();
        // A picture's loss over some timesteps.
        let over = |which: usize, of: &[usize], picture: usize| {
            of.iter().map(|&p| losses[p][which][picture]).sum::<f64>() / of.len() as f64
        };
        let row = |of: &[usize], timesteps: Range<usize>| {
            let mean =
                |which, pick: &[usize]| pick.iter().map(|&i| over(which, of, i)).sum::<f64>() / pick.len() as f64;
            let recovered = bootstrap(pictures, 0, &|pick| {
                let [clean, replaced, ablated] = [0, 1, 2].map(|which| mean(which, pick));
                if ablated > clean { (ablated - replaced) / (ablated - clean) } else { f64::NAN }
            });
            let all: Vec<usize> = (0..pictures).collect();
            let [clean, replaced, ablated] = [0, 1, 2].map(|which| mean(which, &all));
            Bin { timesteps, clean, replaced, ablated, recovered }
        };
        let bin = |b: usize| {
            let of: Vec<usize> = (0..points.len()).filter(|&p| points[p].bin == b).collect();
            let timesteps = match self.times {
                Times::Bins { .. } => b * total / bins..(b + 1) * total / bins,
                Times::Steps { .. } => points[of[0]].timestep..points[of[0]].timestep + 1,
            };
            row(&of, timesteps)
        };
        let every: Vec<usize> = (0..points.len()).collect();
        Recovered {
            site: self.site.clone(),
            bins: (0..bins).map(bin).collect(),
            all: row(&every, 0..total),
            means: points.iter().map(|p| p.timestep).zip(means).collect(),
        }
    }
}

/// Pictures on their way through the model.
struct Batch {
    clean: Tensor,
    noise: Tensor,
    captions: Captions,
    pictures: usize,
}

/// Keeps the activation that it sees, and may put another in its place.
struct Swap {
    site: Site,
    put: Option<Vec<f32>>,
    rows: Vec<f32>,
    d: usize,
}

impl Hook for Swap {
    fn sites(&self) -> Vec<Site> {
        vec![self.site.clone()]
    }

    fn visit(&mut self, _visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        let (items, tokens, d) = activation.dims3()?;
        self.d = d;
        match &self.put {
            None => {
                self.rows = activation.flatten_all()?.to_vec1()?;
                Ok(None)
            }
            Some(row) if row.len() == d => {
                let row = Tensor::from_slice(row, (1, 1, d), activation.device())?;
                Ok(Some(row.broadcast_as((items, tokens, d))?.contiguous()?))
            }
            Some(rows) => Ok(Some(Tensor::from_slice(rows, (items, tokens, d), activation.device())?)),
        }
    }
}

/// The denoising losses over some timesteps.
#[derive(Debug, Clone, PartialEq)]
pub struct Bin {
    /// The timesteps that it stands for.
    pub timesteps: Range<usize>,
    /// Loss of the model as it is.
    pub clean: f64,
    /// Loss with the reconstruction in the layer's place.
    pub replaced: f64,
    /// Loss with the mean in the layer's place.
    pub ablated: f64,
    /// (ablated − replaced) / (ablated − clean), with a bootstrap interval over pictures; NaN where the layer's mean does
    /// as well as the layer.
    pub recovered: Interval,
}

/// Diffusion loss recovered, by timestep.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    /// The layer.
    pub site: Site,
    /// By rising timestep, or in the order of the steps that were asked for.
    pub bins: Vec<Bin>,
    /// All timesteps together.
    pub all: Bin,
    /// The layer's mean at every timestep that was visited.
    pub means: Vec<(usize, Vec<f32>)>,
}

impl Recovered {
    /// What a notebook shows: a table.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "denoising loss with {} …", self.site)?;
        write!(f, "{:<14}{:>12}{:>12}{:>12}   recovered", "timesteps", "as it is", "replaced", "its mean")?;
        let rows = self.bins.iter().map(|bin| {
            let Range { start, end } = bin.timesteps;
            (if end - start == 1 { start.to_string() } else { format!("{start}–{}", end - 1) }, bin)
        });
        for (name, Bin { clean, replaced, ablated, recovered, .. }) in rows.chain([("all".to_string(), &self.all)]) {
            write!(f, "\n{name:<14}{clean:>12.5}{replaced:>12.5}{ablated:>12.5}   {recovered}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "loss_recovered_tests.rs"]
mod tests;
