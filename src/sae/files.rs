//! Files of finished SAEs: everybody's folders, one file each.
//!
//! Inside an [`Sae`] a latent is a row of both matrices. What others do differently (turned matrices, biases that are not
//! taken off the input, latents weighed by decoder norms, gates) is turned into that form here, exactly, or refused by
//! the name of the field.

mod dictionary_learning;
mod hub;
mod saelens;
mod sdxl_unbox;
mod sparsify;

use super::{Architecture, Sae};
use crate::error::{Error, Result};
use crate::kernels::sparse::{dot, scale};
use serde_json::{Value, json};
use std::path::Path;

/// How one program's folder is read.
type Read = fn(&Path) -> Result<Sae>;

/// The file by which a program's folder is known, whose it is, and how it is read.
const LAYOUTS: [(&str, &str, Read); 4] = [
    (saelens::WEIGHTS, "SAELens", saelens::read),
    (sparsify::WEIGHTS, "sparsify", sparsify::read),
    (dictionary_learning::WEIGHTS, "dictionary_learning", dictionary_learning::read),
    (sdxl_unbox::WEIGHTS, "sdxl-unbox", sdxl_unbox::read),
];

impl Sae {
    /// Writes the SAE to `folder` as SAELens (version 6) reads it.
    ///
    /// # Errors
    /// If a file cannot be written; a file that was there before then stays whole.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        self.check()?;
        saelens::write(self, folder.as_ref())
    }

    /// Writes the SAE to `folder` as sparsify reads it; what is known about it stays behind.
    ///
    /// # Errors
    /// If it is no TopK SAE, or a file cannot be written.
    pub fn save_sparsify(&self, folder: impl AsRef<Path>) -> Result<()> {
        self.check()?;
        sparsify::write(self, folder.as_ref())
    }

    /// Reads an SAE from a folder, or from the Hugging Face hub (`owner/repository`, `owner/repository/folder/in/it`, with
    /// a revision as in `owner/repository@revision/folder`), in the layout of SAELens (any version), sparsify, dictionary_learning or sdxl-unbox.
    ///
    /// PyTorch's files are read by a machine that knows tensors and plain containers and executes nothing.
    ///
    /// # Errors
    /// If there is no such folder or it cannot be fetched, it has none of the layouts, a file is missing or damaged, a shape is not what the configuration says,
    /// or the configuration asks for anything that is not supported: it is refused by name, never guessed.
    pub fn load(folder: impl AsRef<Path>) -> Result<Self> {
        let fetched;
        let folder = match hub::parse(folder.as_ref()) {
            Some(id) if !folder.as_ref().exists() => {
                fetched = hub::fetch(&id)?;
                &fetched
            }
            _ => folder.as_ref(),
        };
        let found: Vec<_> = LAYOUTS.iter().filter(|(file, ..)| folder.join(file).is_file()).collect();
        let list = |layouts: &[&(&str, &str, Read)]| {
            layouts.iter().map(|(file, whose, _)| format!("{file} ({whose})")).collect::<Vec<_>>().join(", ")
        };
        match found[..] {
            [(_, _, read)] => {
                let sae = read(folder)?;
                sae.check().map_err(|e| Error::format(folder, e))?;
                Ok(sae)
            }
            [] if !folder.is_dir() => Err(Error::format(folder, "no such folder")),
            [] => Err(Error::format(
                folder,
                format!("holds no SAE: expected one of {}", list(&LAYOUTS.iter().collect::<Vec<_>>())),
            )),
            _ => Err(Error::format(folder, format!("holds more than one SAE: {}", list(&found)))),
        }
    }
}

/// `[rows, columns]` to `[columns, rows]`.
fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| x[r * columns + c])).collect()
}

/// Moves the decoder rows' lengths into the encoder: exact for ReLU, and for TopK and thresholds that others apply to
/// activation × length.
fn fold_norms(d: usize, w_enc: &mut [f32], b_enc: &mut [f32], w_dec: &mut [f32]) {
    for ((decoder, encoder), b) in w_dec.chunks_exact_mut(d).zip(w_enc.chunks_exact_mut(d)).zip(b_enc) {
        let norm = dot(decoder, decoder).sqrt();
        if norm > 0.0 {
            scale(decoder, 1.0 / norm);
            scale(encoder, norm);
            *b *= norm;
        }
    }
}

/// W_enc b_dec: what the encoder bias gains where b_dec was not taken off the input,
/// W x + b = W (x − b_dec) + (b + W b_dec).
fn bias_shift(w_enc: &[f32], b_dec: &[f32]) -> Vec<f32> {
    let double = |row: &[f32]| row.iter().zip(b_dec).map(|(w, b)| f64::from(*w) * f64::from(*b)).sum::<f64>() as f32;
    w_enc.chunks_exact(b_dec.len()).map(double).collect()
}

/// What is kept of a foreign configuration: as it was, under its program's name.
fn source(program: &str, config: &Path) -> Result<(String, Value)> {
    let text = std::fs::read_to_string(config).map_err(Error::file(config))?;
    let config: Value = serde_json::from_str(&text).map_err(|e| Error::format(config, e))?;
    Ok(("source".into(), json!({ "program": program, "config": config })))
}
