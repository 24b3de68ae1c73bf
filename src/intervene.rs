//! Interventions: edits of activations while a picture is being generated (Emergence, section 3.4).
//!
//! Every edit is a [`Hook`](crate::diffusion::hook::Hook) on the residual update Δ of one module. It acts on Δ itself and
//! puts an SAE's reconstruction in its place only where that is asked for ([`ErrorTerm::Dropped`]), so the
//! reconstruction error is not injected. Edits combine: those at one module act one after the other. An edit with
//! strength 0 or without latents leaves the picture bit-identical; one that is not a number stops at its step.
//!
//! | to | take |
//! |---|---|
//! | put an object somewhere, and take it away elsewhere | [`Spatial`] |
//! | change the whole picture | [`Global`] |
//! | take latents away, to zero or to their mean | [`Ablate`] |
//! | scale, set, erase, invert or replace activations | [`LatentEdit`] |
//! | give a picture what another prompt's has | [`Transfer`] |
//! | follow a feature through the steps | [`Trajectory`] |
//! | see what a code misses | [`Reconstruction`] |

mod change;
mod edit;

pub mod ablate;
pub mod command;
pub mod global;
pub mod latent_edit;
pub mod mean_code;
pub mod reconstruction;
pub mod region;
pub mod space;
pub mod spatial;
pub mod stage;
pub mod strength;
pub mod trajectory;
pub mod transfer;

pub use ablate::Ablate;
pub use change::{ErrorTerm, Norm};
pub use edit::Edit;
pub use global::Global;
pub use latent_edit::LatentEdit;
pub use mean_code::MeanCode;
pub use reconstruction::Reconstruction;
pub use region::{Quadrant, Region};
pub use spatial::{Removal, Spatial};
pub use stage::{Stage, Window};
pub use strength::Strength;
pub use trajectory::{Between, Trajectory};
pub use transfer::{FeatureScores, Transfer};
