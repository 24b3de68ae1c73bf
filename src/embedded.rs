//! The recipe that trains the models shipped in `data/`.
//!
//! `denoscope embedded train` runs the stages in order, each from a seed and resumable: the autoencoder ([`vae`]), the
//! U-Net with its text encoder ([`text`], [`unet`]), the diffusion transformer with its own ([`t5`], [`dit`]), the
//! decoder further ([`vae::train_decoder`]), the [`annotator`], the word vectors ([`words`]), the [`dual`] encoder. With
//! `--from FOLDER` a stage starts from the weights of finished models in place of random ones, with a learning rate that
//! rises and falls anew; so a model grows better over several trainings, none of which has to be long. A diffusion model
//! has to follow the autoencoder whenever that changes, unless only its decoder does. Annotator and dual encoder only use
//! the autoencoder to wear pictures, and the dual encoder keeps its own copy of the text encoder: neither has to follow.
//!
//! Measured on two cores: the word vectors take seconds; the dual encoder's 1000 steps 26 minutes beside other programs
//! that took most of both cores, at up to 119 pairs a second (9 minutes for all) when they did not. [`perceptual`] needs
//! no training of its own.

pub mod annotator;
pub mod checkpoint;
mod cli;
pub mod denoising;
pub mod dit;
pub mod dual;
pub mod encoder;
pub mod evaluate;
pub mod files;
pub mod grounding;
pub mod heads;
pub mod latents;
pub mod layout;
pub mod noise;
pub mod optimiser;
pub mod options;
pub mod perceptual;
pub mod pictures;
pub mod reading;
pub mod schedule;
pub mod t5;
pub mod text;
pub mod trainer;
pub mod unet;
pub mod vae;
mod wear;
pub mod words;

pub use annotator::SceneAnnotator;
pub use cli::{Command, Embedded, Stage, Train};
pub use dual::SceneDual;
pub use evaluate::Evaluate;
pub use perceptual::SceneDistance;
