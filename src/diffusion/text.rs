//! Prompts as the U-Net reads them: tokenizer and text encoder of CLIP (Radford et al. 2021).

mod bpe;
mod config;
mod encoder;
mod tokenizer;
mod vocabulary;

pub use config::{Activation, TextConfig};
pub use encoder::TextEncoder;
pub use tokenizer::{Encoded, Tokenizer};
