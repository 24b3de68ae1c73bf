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
//! One pass of every stage on two quiet cores of a Zen 4 server, the rate measured over half a minute of it:
//!
//! | stage | steps × samples | samples a second | minutes |
//! |---|---|---|---|
//! | `vae` | 10,000 × 4 | 34 | 20 |
//! | `text`, `t5` | 2500 × 64 | 1274, 806 | 2, 3 |
//! | `unet` | 12,000 × 32 | 65 | 98 |
//! | `dit` | 12,000 × 32 | 106 | 60 |
//! | `decoder` | 10,000 × 4 | 49 | 14 |
//! | `annotator` | 4000 × 16 | 60 | 18 |
//! | `dual` | 1000 × 64 | 119 | 9 |
//! | `words` | | | seconds |
//!
//! The shipped diffusion models and the decoder had more than one pass. No stage was timed on a GPU. [`perceptual`] needs no
//! training of its own.

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
