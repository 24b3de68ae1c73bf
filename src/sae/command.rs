//! `denoscope train`, and the activations that its configuration names.

use super::form::Form;
use super::recipe::Recipe;
use super::tensors::Arrays;
use super::{Options, Quality};
use crate::activations::shard::atomically;
use crate::activations::{Activations, Store};
use crate::device;
use crate::diffusion::hook::{Half, Kind};
use crate::error::{Error, Result};
use candle_core::Device;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The configuration as it is kept in the folder of a run.
const CONFIG: &str = "train.json";

/// Train a sparse autoencoder as a configuration says; a run that was killed goes on where it stopped.
#[derive(Debug, Clone, Args)]
pub struct Train {
    /// JSON: activations (store, module, kind, half, t; or file, tensor), sae (architecture and its settings), expansion,
    /// options, device (cpu, cuda, cuda:1 ...), run (the folder for checkpoints, log.csv, report.html and the result). Paths are relative to the current folder.
    pub config: PathBuf,
}

/// What `denoscope train` reads.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    activations: Origin,
    sae: Form,
    expansion: usize,
    #[serde(default)]
    options: Options,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// The matrix of the file, if it holds several.
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

/// What `config` names, or else the configuration beside the SAE.
pub(crate) fn source(sae: &Path, config: Option<&Path>) -> Result<Source> {
    let config = config.map_or_else(|| sae.join(CONFIG), Path::to_path_buf);
    let origin = Config::read(&config)?.activations;
    Ok(Source { activations: origin.open()?, store: origin.store, config })
}

impl Origin {
    fn open(&self) -> Result<Activations> {
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
                self.t.map_or_else(|| store.only(), |t| store.stage(t))
            }
            (None, Some(file))
                if self.module.is_none() && self.kind.is_none() && self.half.is_none() && self.t.is_none() =>
            {
                let arrays = Arrays::read(file)?;
                let (shape, data) = arrays.matrix(self.tensor.as_deref())?;
                // Tokens without a grid: each is an item of its own.
                Activations::from_vec((1, 1), shape[1], data)
            }
            _ => Err(Error::invalid(
                "activations: expected either store (with module, kind, half, t where it holds several) or file (with \
                 tensor where it holds several)",
            )),
        }
    }
}

impl Train {
    /// Runs the command.
    ///
    /// # Errors
    /// Of the configuration, of reading activations, and of training.
    pub fn run(self) -> Result<()> {
        let config = Config::read(&self.config)?;
        let activations = config.activations.open()?;
        let recipe = Recipe {
            options: config.options.clone(),
            folder: Some(config.run.clone()),
            device: config.device.as_deref().map_or(Ok(Device::Cpu), device::named)?,
            ..Recipe::new(config.expansion)
        };
        let trained = recipe.train(&config.sae, &activations)?;
        trained.report().save(config.run.join("report.html"))?;
        let text = serde_json::to_string_pretty(&config).map_err(|e| Error::format(&self.config, e))?;
        atomically(&config.run.join(CONFIG), |out| out.write_all(text.as_bytes()))?;
        println!("{}\n{}", trained.sae, config.run.display());
        let mut columns = vec![("training", &trained.training)];
        columns.extend(trained.held_out.as_ref().map(|q| ("held out", q)));
        print!("{}", table(&columns));
        Ok(())
    }
}

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
