//! Layers: one function or struct a file, channels-last, each usable forward and backward.
//!
//! Feature maps are `[batch, height, width, channels]`, token sequences `[batch, tokens, channels]`; the former
//! reshapes into the latter without a copy. On the CPU every layer is one fused operation (see [`crate::kernels`]);
//! on other devices it is composed of the tensor library's own.

pub mod activation;
pub mod attention;
pub mod convolution;
#[cfg(test)]
mod gradient_check;
pub mod linear;
pub mod modulation;
pub mod normalisation;
mod op;
pub mod resample;
pub mod shift;
pub(crate) mod tape;

pub use activation::{geglu, gelu_tanh, quick_gelu, silu};
pub use attention::{attention, biased_attention};
pub use convolution::{Conv2d, Padding};
pub use linear::Linear;
pub use modulation::{gated, modulate};
pub use normalisation::{GroupNorm, LayerNorm};
pub use resample::upsample_nearest;
pub use shift::shift;
pub use tape::{add, composed, concat, reshape};
