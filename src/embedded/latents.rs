//! Latents of rendered scenes, encoded once and kept.
//!
//! Encoding takes about as long as an eighth of the training that uses it, and the decoder is not needed; so the
//! latents' means are written to one file and read back when the training is resumed.

use crate::diffusion::vae::Vae;
use crate::embedded::pictures::Pictures;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::scene::Split;
use rayon::prelude::*;
use std::path::Path;

/// Scenes that are rendered and encoded at a time.
const CHUNK: usize = 256;
/// Pictures of one pass through the encoder.
const PASS: usize = 8;

/// Scaled latents of the first scenes of the training split, `[n, h·w·c]`.
#[derive(Debug, Clone)]
pub struct Latents {
    values: Vec<f32>,
    size: usize,
}

impl Latents {
    /// Renders and encodes scenes `0..n`, or reads them from `cache` if it holds them for this autoencoder.
    ///
    /// # Errors
    /// Of the autoencoder or of files.
    pub fn make(vae: &Vae, n: usize, cache: &Path, threads: usize) -> Result<Self> {
        let side = crate::scene::SIDE / vae.factor();
        let size = side * side * vae.config().latent_channels;
        // The first scenes, encoded anew, tell whether the cache is of this autoencoder.
        let head = encode(vae, 0, PASS)?;
        if let Ok(bytes) = std::fs::read(cache)
            && bytes.len() == n * size * 4
        {
            let values: Vec<f32> =
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            if values.iter().zip(&head).all(|(a, b)| (a - b).abs() < 1e-2) {
                return Ok(Self { values, size });
            }
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| Error::invalid(format!("threads: {e}")))?;
        let mut progress = Progress::new("latents", n);
        let mut values = Vec::with_capacity(n * size);
        for first in (0..n).step_by(CHUNK) {
            let passes: Vec<usize> = (first..(first + CHUNK).min(n)).step_by(PASS).collect();
            let made: Vec<Vec<f32>> = pool.install(|| {
                passes.par_iter().map(|&p| encode(vae, p as u64, PASS.min(n - p))).collect::<Result<_>>()
            })?;
            values.extend(made.into_iter().flatten());
            progress.at(values.len() / size, "");
        }
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let partial = cache.with_extension("partial");
        std::fs::write(&partial, bytes).map_err(Error::file(&partial))?;
        std::fs::rename(&partial, cache).map_err(Error::file(cache))?;
        Ok(Self { values, size })
    }

    /// How many scenes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() / self.size
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The latents of scene `i`, channels-last.
    #[must_use]
    pub fn of(&self, i: usize) -> &[f32] {
        &self.values[i * self.size..(i + 1) * self.size]
    }
}

fn encode(vae: &Vae, first: u64, n: usize) -> Result<Vec<f32>> {
    let pictures = Pictures::render(Split::Train, first, n);
    let mean = vae.encode(&pictures.tensor(0..n)?)?.mean;
    Ok((mean * vae.scaling_factor())?.flatten_all()?.to_vec1()?)
}
