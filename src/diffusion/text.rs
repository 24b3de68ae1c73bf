//! Prompts as the U-Net reads them: tokenizer and text encoder of CLIP (Radford et al. 2021).

mod block;
mod bpe;
mod config;
mod encoder;
mod tokenizer;
mod vocabulary;

pub(crate) use block::{Block, BlockShape, Sight};
pub use config::{Activation, TextConfig};
pub use encoder::TextEncoder;
pub use tokenizer::{Encoded, Tokenizer};
