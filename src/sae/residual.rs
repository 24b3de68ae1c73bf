//! Residualized temporal SAEs: features of whole denoising trajectories (Yeung et al. 2026, reconstructed).
//!
//! Only the paper's abstract and notes are public, so that this is a reconstruction; every choice that the source leaves
//! open is an option. With h_i the activation of a token at step i of T (0 = the noisiest):
//!
//! 1. Each step is standardised, h̃_i = (h_i − μ_i) ⊘ σ_i.
//! 2. A linear map predicts a step from the one before, A_i = argmin ‖h̃_{i+1} − A_i h̃_i‖² + λ‖A_i‖²; what is left over,
//!    r_{i+1} = h̃_{i+1} − A_i h̃_i, is what the step adds that no linear map knew before ([`Predictors`]).
//! 3. An SAE reads the trajectory x = [h̃_0 ; r_1/s_1 ; … ; r_{T−1}/s_{T−1}], s the root mean square of a residual
//!    ([`Residualized`] trains, [`TrajectorySae`] is the result).
//! 4. A decoder row (d_0, …, d_{T−1}) is a path through activation space: v_0 = d_0, v_{i+1} = A_i v_i + s_{i+1} d_{i+1},
//!    in activation units σ_i ⊙ v_i ([`FeatureTrajectory`]).

mod feature;
mod file;
mod fit;
mod join;
mod model;
mod moments;
mod predictors;
mod quality;
mod recipe;
mod spread;

pub use feature::FeatureTrajectory;
pub use fit::{Fit, Prediction, Standardise, Weigh};
pub use join::Join;
pub use model::TrajectorySae;
pub use predictors::Predictors;
pub use quality::{StepQuality, TrajectoryQuality};
pub(crate) use recipe::folder_of;
pub use recipe::{Residualized, TrainedTrajectories};
pub use spread::Spread;

#[cfg(test)]
#[path = "residual/tests.rs"]
mod tests;
