//! `denoscope capture`.

use super::Capture as Recipe;
use crate::diffusion::hook::{Half, Site};
use crate::diffusion::pipeline::Pipeline;
use crate::error::{Error, Result};
use crate::scene::{Render, Scene, Split};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Capture activations of a model into a store, as a configuration says; a capture that was killed goes on.
#[derive(Debug, Clone, Args)]
pub struct Capture {
    /// JSON: model, sites (PATH:KIND), prompts (a text file with one a line) or scenes (split, count, and noised to see
    /// their own pictures in place of generated ones), store (the folder to write); and where the defaults are not
    /// wanted: stages or at_steps, halves, steps, guidance, seed, batch, shard. Paths are relative to the current folder.
    pub config: PathBuf,
}

/// What `denoscope capture` reads.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    model: String,
    sites: Vec<String>,
    #[serde(default)]
    prompts: Option<PathBuf>,
    #[serde(default)]
    scenes: Option<Scenes>,
    store: PathBuf,
    #[serde(default)]
    stages: Option<Vec<f64>>,
    #[serde(default)]
    at_steps: Option<Vec<usize>>,
    #[serde(default)]
    halves: Vec<Half>,
    #[serde(default)]
    steps: Option<usize>,
    #[serde(default)]
    guidance: Option<f64>,
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    batch: Option<usize>,
    #[serde(default)]
    shard: Option<usize>,
}

/// Scenes of the procedural world: their captions, and their pictures if these are to be seen.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenes {
    split: Split,
    count: u64,
    #[serde(default)]
    noised: bool,
}

impl Capture {
    /// Runs the command.
    ///
    /// # Errors
    /// Of the configuration, of the model, and of the capture.
    pub fn run(self) -> Result<()> {
        let text = std::fs::read_to_string(&self.config).map_err(Error::file(&self.config))?;
        let config: Config = serde_json::from_str(&text).map_err(|e| Error::format(&self.config, e))?;
        let refuse = |problem: &str| Err(Error::format(&self.config, problem));
        let scenes: Vec<Scene> = match &config.scenes {
            Some(Scenes { split, count, .. }) => (0..*count).map(|i| Scene::sample(*split, i)).collect(),
            None => Vec::new(),
        };
        let prompts: Vec<String> = match (&config.prompts, &config.scenes) {
            (Some(path), None) => {
                let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
                text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect()
            }
            (None, Some(_)) => scenes.iter().map(|s| s.full_caption().text).collect(),
            _ => return refuse("expected either prompts or scenes"),
        };
        let model = Pipeline::open(&config.model)?;
        let mut capture = Recipe::new(&model).prompts(&prompts).seed(config.seed);
        for site in &config.sites {
            let Site { module, kind } = site.parse()?;
            capture = capture.at(&module, kind);
        }
        capture = match (&config.stages, &config.at_steps) {
            (Some(stages), None) => capture.stages(stages),
            (None, Some(steps)) => capture.at_steps(steps),
            (None, None) => capture,
            _ => return refuse("expected stages or at_steps, not both"),
        };
        capture = config.halves.iter().fold(capture, |capture, half| capture.half(*half));
        if let Some(steps) = config.steps {
            capture = capture.steps(steps);
        }
        if let Some(guidance) = config.guidance {
            capture = capture.guidance(guidance);
        }
        if let Some(batch) = config.batch {
            capture = capture.batch(batch);
        }
        if let Some(shard) = config.shard {
            capture = capture.shard(shard);
        }
        if config.scenes.as_ref().is_some_and(|s| s.noised) {
            let renders: Vec<Render> = scenes.iter().map(Scene::render).collect();
            capture = capture.pictures(renders.iter().map(|r| &r.image));
        }
        let store = capture.run(&config.store)?;
        println!("{}: {} pictures of {}", config.store.display(), store.items().len(), config.model);
        for (step, t) in store.stages() {
            println!("step {step}, t = {t:.3}");
        }
        Ok(())
    }
}
