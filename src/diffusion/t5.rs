//! Prompts as a diffusion transformer reads them: tokenizer and encoder of T5 (Raffel et al. 2020).

mod config;
mod encoder;
mod from_words;
mod sentencepiece;
mod tokenizer;
mod unigram;

pub use config::T5Config;
pub use encoder::T5Encoder;
pub use tokenizer::T5Tokenizer;
