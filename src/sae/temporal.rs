//! The temporal-aware SAE of TIDE (Huang et al. 2025): one dictionary for all steps, told what step it is.
//!
//! At step t an activation is first modulated, channel by channel, and the SAE reads what comes out:
//!
//! m = x ⊙ (1 + a_t) + c_t, z = TopK(ReLU(W_enc (m − b_dec) + b_enc)), m̂ = W_decᵀ z + b_dec, x̂ = (m̂ − c_t) ⊘ (1 + a_t).
//!
//! Scale a and shift c start from a block's pretrained adaLN or from zero (then m = x), and are trained along
//! ([`Modulation`]). The loss adds to the squares a cosine, the consistency of codes from step to step, a Huber loss of the
//! sparsity and a penalty of the weights ([`Terms`]); [`Tide`] trains, [`TideSae`] is the result. What the paper leaves
//! open is an option.

mod file;
mod loss;
mod model;
pub(in crate::sae) mod modulation;
mod recipe;
pub(in crate::sae) mod rule;
mod terms;

pub use model::TideSae;
pub use modulation::Modulation;
pub use recipe::{Tide, TrainedTide};
pub use terms::Terms;

#[cfg(test)]
#[path = "temporal/tests.rs"]
mod tests;
