//! denoscope looks inside text-to-image diffusion models with sparse autoencoders.
#![deny(missing_docs)]
#![deny(unsafe_code)]

pub mod activations;
pub mod concepts;
pub mod device;
pub mod diffusion;
mod digest;
pub mod embedded;
pub mod error;
pub mod figure;
mod html;
pub mod intervene;
pub mod kernels;
pub mod lab;
pub mod measure;
mod pickle;
pub mod prelude;
pub mod progress;
pub mod random;
pub mod sae;
pub mod scene;
pub mod study;

pub use error::{Error, Result};
/// The tensor library, so that a notebook can name its types and keep them in variables.
pub use {candle_core, candle_nn};
