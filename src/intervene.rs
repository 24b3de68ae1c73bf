//! Interventions: edits of activations while a picture is being generated (Emergence, section 3.4).
//!
//! Every edit is a [`Hook`](crate::diffusion::hook::Hook) on the residual update Δ of one module. It acts on Δ itself and never puts an SAE's
//! reconstruction in its place, so the reconstruction error is not injected. An edit with strength 0 or without
//! latents leaves the picture bit-identical.

mod edit;

pub mod ablate;
pub mod global;
pub mod region;
pub mod space;
pub mod spatial;
pub mod stage;
pub mod strength;
pub mod trajectory;

pub use ablate::Ablate;
pub use global::Global;
pub use region::{Quadrant, Region};
pub use spatial::{Removal, Spatial};
pub use stage::{Stage, Window};
pub use strength::Strength;
pub use trajectory::{Between, Trajectory};
