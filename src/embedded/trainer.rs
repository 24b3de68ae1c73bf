//! The training loop that every embedded model shares: data-parallel, deterministic, resumable.
//!
//! A batch is cut into micro-batches whose size does not depend on the number of threads. Each worker runs forward
//! and backward of one micro-batch at a time inside a pool of one thread, and the gradients are averaged in the
//! order of the micro-batches; so the result does not depend on the number of workers. Sample n = step·batch + i
//! is all that a loss needs to draw its own random numbers from, and so nothing but weights, moments, averages and
//! the step has to be kept in a checkpoint.
//!
//! A training that is bounded by steps gives the same bits each time. One that is bounded by minutes follows the
//! clock with its learning rate, and does not.

use crate::diffusion::layers::tape::Tape;
use crate::diffusion::weights::Weights;
use crate::embedded::checkpoint::{self, Reached};
use crate::embedded::optimiser::{self, Parameter, Slots, Step};
use crate::embedded::schedule::Schedule;
use crate::error::{Error, Result};
use crate::kernels::{Precision, with_precision};
use candle_core::{Device, Tensor, Var};
use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Time between two progress lines.
const REPORT: Duration = Duration::from_secs(10);

/// Bounds and settings of one training.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is trained, for progress lines.
    pub name: String,
    /// Folder of checkpoint and log.
    pub dir: PathBuf,
    /// Samples a step.
    pub batch: usize,
    /// Samples of one forward and backward pass.
    pub micro: usize,
    /// Steps in all.
    pub steps: usize,
    /// Ends the training after this much time too, if set.
    pub minutes: Option<f64>,
    /// Worker threads; 0 for one per core.
    pub threads: usize,
    /// Learning rate over time.
    pub schedule: Schedule,
    /// Decoupled weight decay on matrices.
    pub decay: f64,
    /// Largest norm of the gradient.
    pub clip: f64,
    /// Decay of the averaged weights.
    pub average: f64,
    /// Seconds between checkpoints.
    pub checkpoint_every: f64,
    /// Of the matrix products, forward and backward.
    pub precision: Precision,
    /// Goes on from the checkpoint in `dir`, if there is one.
    pub resume: bool,
    /// Names of the numbers that a loss reports beside itself.
    pub columns: Vec<&'static str>,
}

impl Settings {
    /// Settings with plain defaults: 1000 steps of 64 = 8 · 8, AdamW 1e-3, decay 0.01, clip 1, average 0.999.
    #[must_use]
    pub fn new(name: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            dir: dir.into(),
            batch: 64,
            micro: 8,
            steps: 1000,
            minutes: None,
            threads: 0,
            schedule: Schedule { peak: 1e-3, warmup: 100, floor: 0.01 },
            decay: 0.01,
            clip: 1.0,
            average: 0.999,
            checkpoint_every: 180.0,
            precision: Precision::Mixed,
            resume: false,
            columns: Vec::new(),
        }
    }
}

/// The loss of one micro-batch.
#[derive(Debug)]
pub struct Loss {
    /// Mean over the micro-batch; its gradient is followed. Made of [`layers`](crate::diffusion::layers) alone: what
    /// the tensor library's own operations do is followed only inside of
    /// [`composed`](crate::diffusion::layers::composed).
    pub total: Tensor,
    /// Further numbers for the log, one per column of the settings.
    pub parts: Vec<f32>,
}

/// One micro-batch: which samples of the whole training it holds.
#[derive(Debug, Clone)]
pub struct Micro {
    /// Number of the step, from 0.
    pub step: usize,
    /// Share of the training that is done, in [0, 1].
    pub done: f64,
    /// Numbers of its samples, counted over the whole training.
    pub samples: Range<u64>,
}

/// A network's variables with their optimiser state.
#[derive(Debug)]
pub struct Trainer {
    settings: Settings,
    parameters: Vec<Parameter>,
    vars: Vec<(String, Var)>,
    workers: Vec<rayon::ThreadPool>,
    whole: rayon::ThreadPool,
    reached: Reached,
    recipe: String,
}

impl Trainer {
    /// Takes over the variables of `weights` (build the network first: it is what creates them) and reads the
    /// checkpoint if the settings say so.
    ///
    /// # Errors
    /// A batch that micro-batches do not divide, a folder that cannot be made, a checkpoint that does not fit.
    pub fn new(weights: &Weights, settings: Settings) -> Result<Self> {
        Self::of(weights.vars(), settings)
    }

    /// As [`Trainer::new`], for some variables only.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn of(vars: Vec<(String, Var)>, settings: Settings) -> Result<Self> {
        if settings.micro == 0 || !settings.batch.is_multiple_of(settings.micro) {
            let problem = format!("batch {} does not divide into micro-batches of {}", settings.batch, settings.micro);
            return Err(Error::invalid(problem));
        }
        std::fs::create_dir_all(&settings.dir).map_err(Error::file(&settings.dir))?;
        let mut parameters =
            vars.iter().map(|(name, var)| Parameter::new(name.clone(), var.clone())).collect::<Result<Vec<_>>>()?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if settings.threads == 0 { cores } else { settings.threads };
        let pool = |n: usize| {
            rayon::ThreadPoolBuilder::new().num_threads(n).build().map_err(|e| Error::invalid(format!("threads: {e}")))
        };
        let workers = (0..threads).map(|_| pool(1)).collect::<Result<_>>()?;
        let whole = pool(threads)?;
        let recipe = settings.name.clone();
        let mut reached = Reached { step: 0, seconds: 0.0 };
        if settings.resume && checkpoint::exists(&settings.dir) {
            reached = checkpoint::load(&settings.dir, &mut parameters, &recipe)?;
            eprintln!("{}: resumed after step {}", settings.name, reached.step);
        }
        Ok(Self { settings, parameters, vars, workers, whole, reached, recipe })
    }

    /// Steps and seconds so far.
    #[must_use]
    pub fn reached(&self) -> Reached {
        self.reached
    }

    /// Numbers that are trained.
    #[must_use]
    pub fn size(&self) -> usize {
        self.parameters.iter().map(|p| p.value.len()).sum()
    }

    /// Trains to the end of the step or time budget. `loss` makes one micro-batch's loss; `on_checkpoint` is called
    /// after every checkpoint (to write averaged weights or sample pictures) and once at the end.
    ///
    /// # Errors
    /// Of the loss, of the optimiser (a gradient that is not finite) or of writing files.
    pub fn run(
        &mut self,
        loss: impl Fn(&Micro) -> Result<Loss> + Sync,
        mut on_checkpoint: impl FnMut(&Trainer) -> Result<()>,
    ) -> Result<()> {
        let mut log = self.log()?;
        let began = Instant::now();
        let before = self.reached.seconds;
        let budget = self.settings.minutes.map_or(f64::INFINITY, |m| m * 60.0);
        let mut saved = Instant::now();
        let mut window = Window::new(&self.settings);
        let numel = self.size();
        eprintln!("{}: {numel} weights, {} threads", self.settings.name, self.workers.len());
        while self.reached.step < self.settings.steps && self.reached.seconds < budget {
            let step = self.reached.step;
            let done = (step as f64 / self.settings.steps as f64).max(self.reached.seconds / budget);
            let rate = self.settings.schedule.rate(step, done);
            let (gradients, total, parts) = self.batch(step, done, &loss)?;
            let with = Step {
                step,
                rate,
                decay: self.settings.decay,
                clip: self.settings.clip,
                average: self.settings.average,
            };
            let parameters = &mut self.parameters;
            let norm = self.whole.install(|| optimiser::step(parameters, &gradients, &with))?;
            drop(gradients);
            self.reached = Reached { step: step + 1, seconds: before + began.elapsed().as_secs_f64() };
            window.add(total, &parts, norm);
            let last = self.reached.step >= self.settings.steps || self.reached.seconds >= budget;
            if window.due() || last {
                let line = window.flush(&self.settings, self.reached, rate, budget);
                writeln!(log, "{line}").map_err(Error::file(&self.settings.dir))?;
            }
            if saved.elapsed().as_secs_f64() > self.settings.checkpoint_every || last {
                checkpoint::save(&self.settings.dir, &self.parameters, self.reached, &self.recipe)?;
                on_checkpoint(self)?;
                saved = Instant::now();
            }
        }
        Ok(())
    }

    /// The averaged weights by name, shaped as the variables are.
    ///
    /// # Errors
    /// Of the tensor library.
    pub fn averages(&self) -> Result<HashMap<String, Tensor>> {
        self.parameters
            .iter()
            .map(|p| Ok((p.name.clone(), Tensor::from_slice(&p.average, p.var.dims(), &Device::Cpu)?)))
            .collect()
    }

    /// Runs `f` with the averaged weights in the network, then puts the trained ones back.
    ///
    /// # Errors
    /// Of `f`.
    pub fn with_averages<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        for p in &self.parameters {
            optimiser::write(&p.var, &p.average)?;
        }
        let result = f();
        for p in &self.parameters {
            p.publish()?;
        }
        result
    }

    /// All micro-batches of one step: their gradients, and the means of loss and parts.
    #[allow(clippy::type_complexity)]
    fn batch(
        &self,
        step: usize,
        done: f64,
        loss: &(impl Fn(&Micro) -> Result<Loss> + Sync),
    ) -> Result<(Vec<Vec<Tensor>>, f64, Vec<f64>)> {
        let Settings { batch, micro, precision, .. } = self.settings;
        let n = batch / micro;
        let next = AtomicUsize::new(0);
        let slots = Slots::new(n);
        let one = |i: usize| -> Result<(Vec<Tensor>, f32, Vec<f32>)> {
            let first = (step * batch + i * micro) as u64;
            let tape = Tape::new();
            let made = loss(&Micro { step, done, samples: first..first + micro as u64 })?;
            let value = made.total.to_scalar::<f32>()?;
            Ok((optimiser::collect(&self.vars, tape.gradients(&made.total)?)?, value, made.parts))
        };
        std::thread::scope(|scope| {
            for pool in &self.workers {
                let (one, slots, next) = (&one, &slots, &next);
                scope.spawn(move || {
                    pool.install(|| {
                        loop {
                            let i = next.fetch_add(1, Ordering::Relaxed);
                            if i >= n {
                                break;
                            }
                            slots.fill(i, with_precision(precision, || one(i)));
                        }
                    });
                });
            }
        });
        let made = slots.take().ok_or_else(|| Error::invalid("a micro-batch was not computed"))?;
        let mut gradients = Vec::with_capacity(n);
        let (mut total, mut parts) = (0.0, vec![0.0; self.settings.columns.len()]);
        for item in made {
            let (gradient, value, extra) = item?;
            gradients.push(gradient);
            total += f64::from(value) / n as f64;
            for (sum, x) in parts.iter_mut().zip(extra) {
                *sum += f64::from(x) / n as f64;
            }
        }
        Ok((gradients, total, parts))
    }

    fn log(&self) -> Result<std::fs::File> {
        let path = self.settings.dir.join("log.csv");
        let fresh = self.reached.step == 0 || !path.exists();
        let mut options = std::fs::OpenOptions::new();
        let options = if fresh { options.write(true).create(true).truncate(true) } else { options.append(true) };
        let mut file = options.open(&path).map_err(Error::file(&path))?;
        if fresh {
            let columns = self.settings.columns.join(",");
            let comma = if columns.is_empty() { "" } else { "," };
            writeln!(file, "step,seconds,loss,rate,norm,samples_per_second{comma}{columns}")
                .map_err(Error::file(&path))?;
        }
        Ok(file)
    }
}

/// Means since the last progress line.
struct Window {
    since: Instant,
    batch: usize,
    steps: usize,
    loss: f64,
    norm: f64,
    parts: Vec<f64>,
}

impl Window {
    fn new(settings: &Settings) -> Self {
        let parts = vec![0.0; settings.columns.len()];
        Self { since: Instant::now(), batch: settings.batch, steps: 0, loss: 0.0, norm: 0.0, parts }
    }

    fn add(&mut self, loss: f64, parts: &[f64], norm: f64) {
        self.steps += 1;
        self.loss += loss;
        self.norm += norm;
        for (sum, x) in self.parts.iter_mut().zip(parts) {
            *sum += x;
        }
    }

    fn due(&self) -> bool {
        self.since.elapsed() >= REPORT
    }

    /// Prints a line of progress, returns one for the log, and starts anew.
    fn flush(&mut self, settings: &Settings, reached: Reached, rate: f64, budget: f64) -> String {
        let n = self.steps.max(1) as f64;
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        let speed = (self.steps * self.batch) as f64 / seconds;
        let (loss, norm) = (self.loss / n, self.norm / n);
        let parts: Vec<f64> = self.parts.iter().map(|x| x / n).collect();
        let left = (settings.steps - reached.step) as f64 * seconds / n;
        let left = left.min(budget - reached.seconds).max(0.0) as u64;
        let named: String = settings.columns.iter().zip(&parts).map(|(c, x)| format!(" {c} {x:.4}")).collect();
        eprintln!(
            "{}: {}/{} loss {loss:.4}{named} norm {norm:.2} rate {rate:.1e} {speed:.0} samples/s, {}:{:02} left",
            settings.name,
            reached.step,
            settings.steps,
            left / 60,
            left % 60,
        );
        let tail: String = parts.iter().map(|x| format!(",{x:.6}")).collect();
        *self = Self::new(settings);
        format!("{},{:.1},{loss:.6},{rate:.3e},{norm:.4},{speed:.1}{tail}", reached.step, reached.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::layers::{Linear, composed};
    use crate::random::stream;

    /// A tiny regression y = tanh(A x) whose data come from the sample numbers alone.
    fn train(dir: &std::path::Path, threads: usize, steps: usize, resume: bool) -> Vec<f32> {
        let weights = Weights::seeded(1, &Device::Cpu);
        let layers = [
            Linear::load(&weights.at("a"), 3, 16, true).unwrap(),
            Linear::load(&weights.at("b"), 16, 1, true).unwrap(),
        ];
        let mut settings = Settings::new("test", dir);
        settings.threads = threads;
        settings.steps = steps;
        settings.resume = resume;
        settings.batch = 12;
        settings.micro = 4;
        settings.columns = vec!["error"];
        // The rate must not depend on where a run is cut, so it stays level here.
        settings.schedule = Schedule { peak: 1e-2, warmup: 1, floor: 1.0 };
        let mut trainer = Trainer::new(&weights, settings).unwrap();
        let loss = |micro: &Micro| {
            let mut x = Vec::new();
            let mut y = Vec::new();
            for n in micro.samples.clone() {
                let row = stream(5, "sample", n).normals(3);
                y.push((row[0] - 0.5 * row[2]).tanh());
                x.extend(row);
            }
            let rows = y.len();
            let x = Tensor::from_vec(x, (rows, 3), &Device::Cpu)?;
            let y = Tensor::from_vec(y, (rows, 1), &Device::Cpu)?;
            let hidden = composed(&[&layers[0].forward(&x)?], |x| Ok(x[0].tanh()?))?;
            let total = composed(&[&layers[1].forward(&hidden)?], |x| Ok((&x[0] - &y)?.sqr()?.mean_all()?))?;
            let error = total.to_scalar::<f32>()?;
            Ok(Loss { total, parts: vec![error] })
        };
        trainer.run(loss, |_| Ok(())).unwrap();
        trainer.parameters.iter().flat_map(|p| p.value.iter().chain(&p.average).copied().collect::<Vec<_>>()).collect()
    }

    #[test]
    fn threads_do_not_matter_and_it_learns() {
        let dir = tempfile::tempdir().unwrap();
        let one = train(&dir.path().join("a"), 1, 60, false);
        let three = train(&dir.path().join("b"), 3, 60, false);
        assert_eq!(one, three);
        let log = std::fs::read_to_string(dir.path().join("a/log.csv")).unwrap();
        let loss: f32 = log.lines().nth(1).unwrap().split(',').nth(2).unwrap().parse().unwrap();
        assert!(loss < 0.3, "mean loss over the run {loss}");
    }

    #[test]
    fn a_resumed_training_gives_the_same_bits() {
        let dir = tempfile::tempdir().unwrap();
        let whole = train(&dir.path().join("whole"), 2, 30, false);
        let cut = dir.path().join("cut");
        train(&cut, 2, 17, false);
        // A kill while the next checkpoint is being written leaves a partial file behind.
        std::fs::write(cut.join("checkpoint.partial"), b"half").unwrap();
        assert_eq!(train(&cut, 1, 30, true), whole);
    }

    #[test]
    fn a_truncated_checkpoint_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        train(dir.path(), 1, 2, false);
        let path = dir.path().join("checkpoint.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
        let weights = Weights::seeded(1, &Device::Cpu);
        Linear::load(&weights.at("a"), 3, 16, true).unwrap();
        let mut settings = Settings::new("test", dir.path());
        settings.resume = true;
        let error = Trainer::new(&weights, settings).unwrap_err().to_string();
        assert!(error.contains("checkpoint.safetensors"), "{error}");
    }
}
