//! Reproducing a paper: one setting of scale, the published numbers, and a verdict on every claim.
//!
//! A notebook of a study opens with [`Emergence::here`] or [`TideStudy::here`], which says which model, modules and sizes the notebook runs
//! with at the [`Scale`] that was asked for; it compares what it measures with [`Published`] values, and ends with
//! [`Claims`]: held, failed, not testable here.

pub mod claims;
pub mod emergence;
pub mod look;
pub mod methods;
pub mod published;
pub mod residual;
pub mod scale;
pub mod tide;

pub use claims::{Claims, Verdict};
pub use emergence::{Block, Emergence};
pub use look::{Composed, Look, Parts, Seen};
pub use methods::{Code, Method, Methods};
pub use published::Published;
pub use residual::{Ablation, ResidualStudy};
pub use scale::Scale;
pub use tide::{Captured, TideStudy, Variant};
