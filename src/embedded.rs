//! The recipe that trains the models shipped in `data/`.
//!
//! `denoscope embedded train` runs the stages in order, each from a seed and resumable: the autoencoder ([`vae`]), the
//! U-Net with its text encoder ([`text`], [`unet`]), the diffusion transformer with its own ([`t5`], [`dit`]), the
//! decoder further ([`vae::train_decoder`]), the [`annotator`], the word vectors ([`words`]). With `--from FOLDER` a
//! stage starts from the weights of finished models in place of random ones, with a learning rate that rises and falls
//! anew; so a model grows better over several trainings, none of which has to be long. A diffusion model has to follow
//! the autoencoder whenever that changes, unless only its decoder does.

pub mod annotator;
pub mod checkpoint;
mod cli;
pub mod denoising;
pub mod dit;
pub mod evaluate;
pub mod files;
pub mod grounding;
pub mod heads;
pub mod latents;
pub mod layout;
pub mod noise;
pub mod optimiser;
pub mod options;
pub mod pictures;
pub mod reading;
pub mod schedule;
pub mod t5;
pub mod text;
pub mod trainer;
pub mod unet;
pub mod vae;
pub mod words;

pub use annotator::SceneAnnotator;
pub use cli::{Command, Embedded, Stage, Train};
pub use evaluate::Evaluate;
