//! Goldens and behaviour of the pipeline's components, against diffusers and transformers.

#[path = "components/clip.rs"]
mod clip;
#[path = "components/embedded.rs"]
mod embedded;
#[path = "components/forward.rs"]
mod forward;
#[path = "components/lpips.rs"]
mod lpips;
#[path = "components/pipeline.rs"]
mod pipeline;
#[path = "components/pixart.rs"]
mod pixart;
#[path = "components/scheduler.rs"]
mod scheduler;
#[path = "components/support.rs"]
mod support;
#[path = "components/t5.rs"]
mod t5;
#[path = "components/text.rs"]
mod text;
#[path = "components/vae.rs"]
mod vae;
