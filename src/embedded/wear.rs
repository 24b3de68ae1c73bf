//! Renders made to look like what a diffusion model draws: worn, or passed through the autoencoder.
//!
//! A network that is to judge generated pictures must not depend on the sharpness of renders.

use crate::diffusion::open::Fields;
use crate::diffusion::vae::{Vae, VaeConfig};
use crate::diffusion::weights::Weights;
use crate::embedded::options::Options;
use crate::error::{Error, Result};
use crate::random::{Stream, stream};
use crate::scene::SIDE;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

/// Replaces pictures (`[64, 64, 3]` in [−1, 1]) by what the autoencoder of the model folder makes of them, with a
/// little noise on the latents that is drawn from `seed`.
///
/// # Errors
/// Of the autoencoder's files, which come before.
pub(super) fn pass(options: &Options, pictures: Vec<&mut Vec<f32>>, seed: u64) -> Result<()> {
    let dir = options.model().join("vae");
    let config = VaeConfig::read(&mut Fields::read(&dir.join("config.json"))?)?;
    let weights = Weights::open(&[dir.join("diffusion_pytorch_model.safetensors")], &Device::Cpu, DType::F32)?;
    let vae = Vae::load(&config, &weights)?;
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()
        .map_err(|e| Error::invalid(format!("threads: {e}")))?;
    pool.install(|| {
        pictures.into_par_iter().enumerate().try_for_each(|(i, values)| -> Result<()> {
            let picture = Tensor::from_slice(values, (1, SIDE, SIDE, 3), &Device::Cpu)?;
            let mean = vae.encode(&picture)?.mean;
            let s = &mut stream(seed, "latent noise", i as u64);
            let strength = s.range(0.0, 0.1) / config.scaling_factor as f32;
            let noise: Vec<f32> = s.normals(mean.elem_count()).into_iter().map(|x| x * strength).collect();
            let noise = Tensor::from_vec(noise, mean.shape(), &Device::Cpu)?;
            *values = vae.decode(&(mean + noise)?)?.clamp(-1f32, 1f32)?.flatten_all()?.to_vec1()?;
            Ok(())
        })
    })
}

/// A picture with random brightness, contrast, blur and noise; one in four stays as it is.
pub(super) fn wear(picture: &[f32], s: &mut Stream) -> Vec<f32> {
    if s.chance(0.25) {
        return picture.to_vec();
    }
    let (gain, shift) = (s.range(0.92, 1.08), s.range(-0.06, 0.06));
    let (blur, noise) = (s.range(0.0, 0.5) * f32::from(u8::from(s.chance(0.5))), s.range(0.0, 0.08));
    let at = |x: usize, y: usize, c: usize| picture[(y * SIDE + x) * 3 + c];
    let mut out = Vec::with_capacity(picture.len());
    for y in 0..SIDE {
        for x in 0..SIDE {
            let (left, right) = (x.saturating_sub(1), (x + 1).min(SIDE - 1));
            let (above, below) = (y.saturating_sub(1), (y + 1).min(SIDE - 1));
            for c in 0..3 {
                let around = 0.25 * (at(left, y, c) + at(right, y, c) + at(x, above, c) + at(x, below, c));
                let value = at(x, y, c) + blur * (around - at(x, y, c));
                out.push((gain * value + shift + noise * s.normal()).clamp(-1.0, 1.0));
            }
        }
    }
    out
}
