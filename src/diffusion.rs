//! Diffusion models one can see inside: networks, schedulers, pipeline, hooks.

pub mod captions;
pub mod denoiser;
pub mod dit;
pub mod forward;
pub mod hook;
pub mod layers;
pub mod module;
pub mod open;
pub mod pipeline;
pub mod scheduler;
pub mod t5;
pub mod tap;
pub mod text;
mod timestep;
pub mod transformer;
pub mod unet;
pub mod vae;
pub mod weights;
