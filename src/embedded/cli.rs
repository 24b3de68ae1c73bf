//! `denoscope embedded …`.

use crate::embedded::evaluate::Evaluate;
use crate::embedded::options::Options;
use crate::embedded::{annotator, dit, dual, t5, text, unet, vae, words};
use crate::error::{Error, Result};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Train or judge the models that come with the library.
#[derive(Debug, Clone, Args)]
pub struct Embedded {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Embedded {
    /// Runs the command.
    ///
    /// # Errors
    /// Of the command.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Train(train) => train.run(),
            Command::Evaluate(evaluate) => evaluate.run(),
        }
    }
}

/// What to do with the embedded models.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Trains the embedded models from nothing (or from a checkpoint).
    Train(Train),
    /// Judges pictures of unseen captions.
    Evaluate(Evaluate),
}

/// A part of the recipe; each needs the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// The autoencoder of pictures.
    Vae,
    /// Tokenizer and text encoder of the U-Net.
    Text,
    /// The U-Net.
    Unet,
    /// Tokenizer and text encoder of the diffusion transformer.
    T5,
    /// The diffusion transformer.
    Dit,
    /// The autoencoder's decoder on its own, further.
    Decoder,
    /// The network that judges pictures.
    Annotator,
    /// Vectors of the world's words.
    Words,
    /// The network that compares pictures with words.
    Dual,
}

/// Arguments of `denoscope embedded train`.
#[derive(Debug, Clone, Args)]
pub struct Train {
    /// Only this stage; all of them in order otherwise.
    #[arg(long)]
    pub stage: Option<Stage>,
    /// Folder in which `scene-unet/`, `scene-dit/`, `annotator/` and `dual/` appear.
    #[arg(long, default_value = "data")]
    pub out: PathBuf,
    /// Folder of checkpoints and logs.
    #[arg(long, default_value = "work/embedded")]
    pub work: PathBuf,
    /// Steps of a stage, in place of its own number. A training bounded by steps gives the same bits each time.
    #[arg(long)]
    pub steps: Option<usize>,
    /// Ends a stage after this much time; its learning rate then follows the clock, so that bits may differ.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Worker threads; one per core by default.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Goes on from the last checkpoint.
    #[arg(long)]
    pub resume: bool,
    /// Folder of finished models (as `--out` becomes) whose weights a stage starts from, in place of random ones.
    #[arg(long)]
    pub from: Option<PathBuf>,
    /// Channels of the U-Net's finer grid.
    #[arg(long, default_value_t = 64)]
    pub channels: usize,
    /// Scenes that a diffusion model learns from.
    #[arg(long)]
    pub scenes: Option<usize>,
}

/// Variables of the process that training is several times faster with (measured on two cores): the tensor library's
/// own threads wait for each other busily beside ours, and without huge pages a third of the time goes into fresh memory.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("CANDLE_NUM_THREADS", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "2000000000"),
    ("MALLOC_TRIM_THRESHOLD_", "8000000000"),
    ("MALLOC_ARENA_MAX", "4"),
    ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
];

impl Train {
    /// Trains, in a process of its own if this one lacks the variables by which that is faster.
    ///
    /// # Errors
    /// Of the training.
    pub fn run(self) -> Result<()> {
        if ENVIRONMENT.iter().any(|(name, _)| std::env::var_os(name).is_none()) {
            let program = std::env::current_exe().map_err(Error::file("the running program"))?;
            let mut again = std::process::Command::new(&program);
            again.args(std::env::args_os().skip(1));
            for (name, value) in ENVIRONMENT {
                again.env(name, value);
            }
            let status = again.status().map_err(Error::file(program))?;
            return if status.success() {
                Ok(())
            } else {
                Err(Error::invalid(format!("training ended with {status}")))
            };
        }
        let options = Options {
            out: self.out,
            work: self.work,
            steps: self.steps,
            minutes: self.minutes,
            threads: self.threads,
            resume: self.resume,
            from: self.from,
            channels: self.channels,
            scenes: self.scenes,
        };
        let stages = self.stage.map_or_else(|| Stage::value_variants().to_vec(), |s| vec![s]);
        stages.iter().try_for_each(|stage| match stage {
            Stage::Vae => vae::train(&options),
            Stage::Text => text::train(&options),
            Stage::Unet => unet::train(&options),
            Stage::T5 => t5::train(&options),
            Stage::Dit => dit::train(&options),
            Stage::Decoder => vae::train_decoder(&options),
            Stage::Annotator => annotator::train(&options),
            Stage::Words => words::train(&options),
            Stage::Dual => dual::train(&options),
        })
    }
}
