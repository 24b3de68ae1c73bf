//! The recipe that trains the models shipped in `data/`.

pub mod annotator;
pub mod checkpoint;
mod cli;
pub mod evaluate;
pub mod files;
pub mod grounding;
pub mod heads;
pub mod latents;
pub mod noise;
pub mod optimiser;
pub mod options;
pub mod pictures;
pub mod schedule;
pub mod text;
pub mod trainer;
pub mod unet;
pub mod vae;
pub mod words;

pub use annotator::SceneAnnotator;
pub use cli::{Command, Embedded, Stage, Train};
pub use evaluate::Evaluate;
