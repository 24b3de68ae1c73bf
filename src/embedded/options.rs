//! Where a training reads and writes, and how long it may take.

use crate::diffusion::weights::Weights;
use crate::embedded::trainer::Settings;
use crate::error::Result;
use candle_core::Device;
use std::path::PathBuf;

/// Bounds and folders that every stage of the recipe shares.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of the finished models: `scene-unet/`, `scene-dit/`, `annotator/` and `dual/` appear in it.
    pub out: PathBuf,
    /// Folder of checkpoints and logs, one below it for each stage.
    pub work: PathBuf,
    /// Steps, if other than the stage's own number.
    pub steps: Option<usize>,
    /// Minutes after which a stage ends.
    pub minutes: Option<f64>,
    /// Worker threads; 0 for one per core.
    pub threads: usize,
    /// Goes on from a checkpoint.
    pub resume: bool,
    /// Folder of finished models whose weights a stage starts from, in place of random ones.
    pub from: Option<PathBuf>,
    /// Channels of the U-Net's finer grid.
    pub channels: usize,
    /// Scenes that a diffusion model learns from, if other than the stage's own number.
    pub scenes: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            out: "data".into(),
            work: "work/embedded".into(),
            steps: None,
            minutes: None,
            threads: 0,
            resume: false,
            from: None,
            channels: 64,
            scenes: None,
        }
    }
}

impl Options {
    /// Settings of a stage with these bounds; `steps` holds where the options name no number.
    #[must_use]
    pub fn settings(&self, stage: &str, steps: usize) -> Settings {
        let mut settings = Settings::new(stage, self.work.join(stage));
        settings.steps = self.steps.unwrap_or(steps);
        settings.minutes = self.minutes;
        settings.threads = self.threads;
        settings.resume = self.resume;
        settings
    }

    /// Trainable weights of a stage: those of `file` in the folder to start from if there is one, else drawn from
    /// `seed`.
    ///
    /// # Errors
    /// A file that is missing or unreadable.
    pub fn weights(&self, file: &str, seed: u64) -> Result<Weights> {
        match &self.from {
            Some(folder) => Weights::open_trainable(&[folder.join(file)], &Device::Cpu),
            None => Ok(Weights::seeded(seed, &Device::Cpu)),
        }
    }

    /// Folder of the text-to-image model.
    #[must_use]
    pub fn model(&self) -> PathBuf {
        self.out.join("scene-unet")
    }

    /// Folder of the text-to-image model with a transformer.
    #[must_use]
    pub fn transformer(&self) -> PathBuf {
        self.out.join("scene-dit")
    }

    /// Folder of the annotator.
    #[must_use]
    pub fn annotator(&self) -> PathBuf {
        self.out.join("annotator")
    }

    /// Folder of the dual encoder.
    #[must_use]
    pub fn dual(&self) -> PathBuf {
        self.out.join("dual")
    }
}
