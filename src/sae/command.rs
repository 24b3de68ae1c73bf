//! `denoscope train`, and the activations that its configuration names.

mod subject;

use super::Quality;
use super::recipe::Recipe;
use super::report::columns;
use super::residual::folder_of;
use super::tensors::Arrays;
use crate::activations::shard::atomically;
use crate::activations::{Activations, Store, Trajectories};
use crate::device;
use crate::diffusion::hook::{Half, Kind};
use crate::error::{Error, Result};
use candle_core::Device;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use subject::Subject;

/// The configuration as it is kept in the folder of a run.
const CONFIG: &str = "train.json";

/// Train a sparse autoencoder as a configuration says; a run that was killed goes on where it stopped.
#[derive(Debug, Clone, Args)]
pub struct Train {
    /// JSON: activations (store, module, kind, half, t; or file, tensor), sae, expansion, options, device (cpu, cuda,
    /// cuda:1 ...), run (the folder for checkpoints, log.csv, report.html and the result). Paths are relative to the
    /// current folder.
    ///
    /// sae: architecture topk or batchtopk (k), matryoshka_batchtopk (k, widths), standard or gated (l1,
    /// sparsity_warm_up), jumprelu (l0, bandwidth, threshold, sparsity_warm_up). On trajectories, whose activations have
    /// times in place of t (all steps of the store without it): temporal_aware_topk (k, terms, modulation: identity or
    /// pretrained, train_modulation, undo, progressive, sample), residualized (k, join: concat, pooled or per_step,
    /// dictionary: batchtopk, topk or matryoshka_batchtopk, prediction).
    pub config: PathBuf,
}

/// What `denoscope train` reads.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    activations: Origin,
    /// Its `architecture` and the settings of that.
    sae: Value,
    expansion: usize,
    #[serde(default)]
    options: Value,
    /// Where the steps are taken; the CPU unless another is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    run: PathBuf,
}

/// Where activations are: in a store, or in a safetensors file with one matrix `[tokens, d]`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Origin {
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    half: Option<Half>,
    /// Progress: 1 = noise, 0 = the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    t: Option<f64>,
    /// The steps of trajectories, by their progress; all of the store without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<Vec<f64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// The array of the file, if it holds several.
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor: Option<String>,
}

impl Config {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
        serde_json::from_str(&text).map_err(|e| Error::format(path, e))
    }
}

/// The activations that an SAE's configuration names, and the store that they come from.
pub(crate) struct Source {
    pub(crate) activations: Activations,
    store: Option<PathBuf>,
    config: PathBuf,
}

impl Source {
    /// The whole store, with its pictures.
    pub(crate) fn store(&self) -> Result<Store> {
        match &self.store {
            Some(folder) => Store::open(folder),
            None => {
                Err(Error::format(&self.config, "activations come from a file, which holds no pictures: give a store"))
            }
        }
    }
}

/// The configuration that is given, or else the one beside the SAE.
fn config_of(sae: &Path, config: Option<&Path>) -> PathBuf {
    config.map_or_else(|| sae.join(CONFIG), Path::to_path_buf)
}

/// What `config` names, or else the configuration beside the SAE.
pub(crate) fn source(sae: &Path, config: Option<&Path>) -> Result<Source> {
    let config = config_of(sae, config);
    let origin = Config::read(&config)?.activations;
    Ok(Source { activations: origin.open()?, store: origin.store, config })
}

/// The trajectories that the configuration of an SAE names, as [`source`].
pub(crate) fn trajectories(sae: &Path, config: Option<&Path>) -> Result<Trajectories> {
    Config::read(&config_of(sae, config))?.activations.trajectories()
}

/// Where numbers are.
enum Place<'a> {
    Store(Box<Store>),
    File(&'a Path),
}

impl Origin {
    fn place(&self) -> Result<Place<'_>> {
        match (&self.store, &self.file) {
            (Some(store), None) if self.tensor.is_none() => {
                let mut store = Store::open(store)?;
                if let Some(module) = &self.module {
                    store = store.module(module)?;
                }
                if let Some(kind) = self.kind {
                    store = store.kind(kind)?;
                }
                if let Some(half) = self.half {
                    store = store.half(half)?;
                }
                Ok(Place::Store(Box::new(store)))
            }
            (None, Some(file))
                if self.module.is_none()
                    && self.kind.is_none()
                    && self.half.is_none()
                    && self.t.is_none()
                    && self.times.is_none() =>
            {
                Ok(Place::File(file))
            }
            _ => Err(Error::invalid(
                "activations: expected either store (with module, kind, half, t or times where it holds several) or file \
                 (with tensor where it holds several)",
            )),
        }
    }

    fn open(&self) -> Result<Activations> {
        if self.times.is_some() {
            return Err(Error::invalid("activations: times are for SAEs of trajectories; one step is named by t"));
        }
        match self.place()? {
            Place::Store(store) => self.t.map_or_else(|| store.only(), |t| store.stage(t)),
            Place::File(file) => {
                let arrays = Arrays::read(file)?;
                let (shape, data) = arrays.matrix(self.tensor.as_deref())?;
                // Tokens without a grid: each is an item of its own.
                Activations::from_vec((1, 1), shape[1], data)
            }
        }
    }

    fn trajectories(&self) -> Result<Trajectories> {
        if self.t.is_some() {
            return Err(Error::invalid("activations: an SAE of trajectories takes several steps: times in place of t"));
        }
        match self.place()? {
            Place::Store(store) => match &self.times {
                Some(times) => store.trajectories(times),
                None => store.trajectories_at(store.stages().iter().map(|s| s.0).collect::<Vec<_>>()),
            },
            Place::File(file) => Trajectories::open(file, self.tensor.as_deref()),
        }
    }
}

impl Train {
    /// Runs the command.
    ///
    /// # Errors
    /// Of the configuration, of reading activations, and of training.
    pub fn run(self) -> Result<()> {
        let mut config = Config::read(&self.config)?;
        let fault = |e| Error::format(&self.config, e);
        let subject = Subject::read(&config.sae).map_err(fault)?;
        let options = subject.options(&config.options).map_err(fault)?;
        config.options = serde_json::to_value(&options).map_err(fault)?;
        let text = serde_json::to_string_pretty(&config).map_err(fault)?;
        let run = config.run.clone();
        let device = config.device.as_deref().map_or(Ok(Device::Cpu), device::named)?;
        let recipe = Recipe { options, folder: Some(run.clone()), device, ..Recipe::new(config.expansion) };
        match &subject {
            Subject::Single(form) => {
                let trained = recipe.train(form, &config.activations.open()?)?;
                trained.report().save(run.join(REPORT))?;
                println!("{}\n{}", trained.sae, run.display());
                print!("{}", table(&columns(&trained.training, trained.held_out.as_ref())));
            }
            Subject::Tide(settings) => {
                let trajectories = config.activations.trajectories()?;
                let trained = settings.tide(recipe, &trajectories)?.train(&trajectories)?;
                trained.report().save(run.join(REPORT))?;
                println!("{}\n{}", trained.sae, run.display());
                print!("{}", table(&columns(&trained.training, trained.held_out.as_ref())));
            }
            Subject::Residualized(settings) => {
                let trained = settings.residualized(recipe).train(&config.activations.trajectories()?)?;
                for (i, dictionary) in trained.trainings.iter().enumerate() {
                    let folder = folder_of(&run, i, trained.trainings.len());
                    dictionary.report().save(folder.join(REPORT))?;
                }
                println!("{}\n{}", trained.sae, run.display());
                let judged = trained.held_out.as_ref().unwrap_or(&trained.training);
                println!("{}:", if trained.held_out.is_some() { "held out" } else { "training" });
                print!("{}", table(&judged.columns()));
            }
        }
        atomically(&run.join(CONFIG), |out| out.write_all(text.as_bytes()))
    }
}

/// The report in the folder of a run.
const REPORT: &str = "report.html";

/// Measures side by side, for a terminal.
pub(crate) fn table(columns: &[(&str, &Quality)]) -> String {
    let mut text = format!("{:<20}", "");
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        cells.for_each(|cell| {
            let _ = write!(text, "{cell:>20}");
        });
        text.push('\n');
    };
    line(&mut columns.iter().map(|c| c.0));
    let rows: Vec<_> = columns.iter().map(|(_, q)| q.rows()).collect();
    for i in 0..rows[0].len() {
        let name = format!("{:<20}", rows[0][i].0);
        line(&mut std::iter::once(name.as_str()).chain(rows.iter().map(|r| r[i].1.as_str())));
    }
    text
}
