//! Stage 1: the autoencoder between 64×64 pictures and 16×16×4 latents.
//!
//! Loss per picture x with reconstruction x̂, in [−1, 1]: |x̂ − x| + (x̂ − x)² + ½ |∇x̂ − ∇x| + β KL, each a mean over
//! pixels or latents. The difference of neighbours (∇) keeps thin things (eyes, masts, ink) from being averaged
//! away; β is small, just enough that a little noise on the latents does no harm.

use crate::diffusion::layers::composed;
use crate::diffusion::open::Fields;
use crate::diffusion::vae::{Vae, VaeConfig};
use crate::diffusion::weights::Weights;
use crate::embedded::files::{copy, write_json};
use crate::embedded::options::Options;
use crate::embedded::pictures::{Pictures, psnr};
use crate::embedded::trainer::{Loss, Micro, Trainer};
use crate::error::Result;
use crate::random::stream;
use crate::scene::Split;
use candle_core::{DType, Device, Tensor};

/// Scenes that it learns from.
const SCENES: usize = 6_000;
/// Scenes that the decoder is trained on further.
const DECODER_SCENES: usize = 6_000;
/// Unseen scenes that it is measured on.
const UNSEEN: usize = 128;
/// Weight β of the mean Kullback–Leibler divergence of a latent number.
const BETA: f64 = 2e-4;
/// Weight of the mean logarithm of a picture's square error in the decoder's loss: that is what PSNR is, and beside it pictures
/// that are nearly right still have something to learn. A decoder that had come to 30.9 dB without it was at 31.4 after 8,000
/// pictures with it, and at 32.9 after 36,000 more.
const LOGARITHM: f64 = 0.02;
/// Steps of [`BATCH`] when nothing else is asked for.
const STEPS: usize = 10_000;
/// Pictures a step: few, since at some 30 pictures a second on two cores the number of steps is what is short.
const BATCH: usize = 4;
const SEED: u64 = 11;

/// Trains the autoencoder and writes `vae/` of the model folder.
///
/// # Errors
/// Of files and of the training.
pub fn train(options: &Options) -> Result<()> {
    let config = VaeConfig::embedded();
    let weights = options.weights("scene-unet/vae/diffusion_pytorch_model.safetensors", SEED)?;
    let vae = Vae::load(&config, &weights)?;
    let pictures = Pictures::render(Split::Train, 0, SCENES);
    let unseen = Pictures::render(Split::Validation, 0, UNSEEN);
    let mut settings = options.settings("vae", STEPS);
    settings.batch = BATCH;
    settings.micro = 1;
    settings.schedule.peak = 1e-3;
    settings.average = 0.995;
    settings.checkpoint_every = 120.0;
    settings.columns = vec!["absolute", "square", "edges", "kl"];
    let mut trainer = Trainer::new(&weights, settings)?;
    let dir = options.model().join("vae");
    trainer.run(
        |micro| loss(&vae, &pictures, micro),
        |trainer| {
            let decibel = trainer.with_averages(|| quality(&vae, &unseen))?;
            let factor = trainer.with_averages(|| scaling_factor(&vae, &pictures))?;
            eprintln!("vae: {decibel:.2} dB on {UNSEEN} unseen pictures, scaling factor {factor:.4}");
            let config = VaeConfig { scaling_factor: factor, ..config.clone() };
            write_json(&dir.join("config.json"), &config.to_json())?;
            let path = dir.join("diffusion_pytorch_model.safetensors");
            weights.save(&path, DType::F16, Some(&trainer.averages()?))
        },
    )
}

fn loss(vae: &Vae, pictures: &Pictures, micro: &Micro) -> Result<Loss> {
    let indices = micro.samples.clone().map(|n| stream(SEED, "picture", n).below(pictures.len()));
    let x = pictures.tensor(indices)?;
    let moments = vae.encode(&x)?;
    let mut noise = Vec::new();
    for n in micro.samples.clone() {
        noise.extend(stream(SEED, "noise", n).normals(moments.mean.elem_count() / x.dim(0)?));
    }
    let noise = Tensor::from_vec(noise, moments.mean.shape(), &Device::Cpu)?;
    let found = vae.decode(&moments.sample_with(&noise)?)?;
    let numbers = moments.mean.elem_count() as f64 / x.dim(0)? as f64;
    let kl = moments.kl()?;
    let kl = composed(&[&kl], |kl| Ok((&kl[0] / numbers)?))?;
    let Loss { total, mut parts } = distance(&found, &x)?;
    parts.push(kl.to_scalar()?);
    let total = composed(&[&total, &kl], |x| Ok((&x[0] + (&x[1] * BETA)?)?))?;
    Ok(Loss { total, parts })
}

/// |x̂ − x| + (x̂ − x)² + ½ |∇x̂ − ∇x|, each a mean over pixels.
fn distance(found: &Tensor, x: &Tensor) -> Result<Loss> {
    let mut parts = Vec::new();
    let total = composed(&[found], |found| {
        let [absolute, square, edges] = distances(&found[0], x)?;
        parts = [&absolute, &square, &edges].map(Tensor::to_scalar).into_iter().collect::<Result<_, _>>()?;
        Ok(((absolute + square)? + (edges * 0.5)?)?)
    })?;
    Ok(Loss { total, parts })
}

/// Means of |x̂ − x|, (x̂ − x)² and |∇x̂ − ∇x| over pixels.
fn distances(found: &Tensor, x: &Tensor) -> Result<[Tensor; 3]> {
    let error = (found - x)?;
    // Differences are linear, so those of the error are the errors of the differences.
    let edges = ((difference(&error, 1)? + difference(&error, 2)?)? * 0.5)?;
    Ok([error.abs()?.mean_all()?, error.sqr()?.mean_all()?, edges])
}

/// Mean absolute difference of neighbours along an axis.
fn difference(x: &Tensor, axis: usize) -> Result<Tensor> {
    let n = x.dim(axis)? - 1;
    Ok((x.narrow(axis, 1, n)? - x.narrow(axis, 0, n)?)?.abs()?.mean_all()?)
}

/// Trains the decoder on, with the encoder (and so the latents that a diffusion model has learnt) as it is. Beside the loss of
/// the [autoencoder](train) stands the logarithm of a picture's mean square error, its mean over pictures times 0.02.
///
/// # Errors
/// Of files (the autoencoder comes first) and of the training.
pub fn train_decoder(options: &Options) -> Result<()> {
    let dir = options.model().join("vae");
    let path = dir.join("diffusion_pytorch_model.safetensors");
    let config = VaeConfig::read(&mut Fields::read(&dir.join("config.json"))?)?;
    // The encoder as the diffusion model knows it; the decoder goes on from what the folder holds.
    let weights = Weights::open_trainable(std::slice::from_ref(&path), &Device::Cpu)?;
    let vae = Vae::load(&config, &weights)?;
    let pictures = Pictures::render(Split::Train, SCENES as u64, DECODER_SCENES);
    let unseen = Pictures::render(Split::Validation, 0, UNSEEN);
    let mut moments = Vec::with_capacity(pictures.len());
    for i in 0..pictures.len() {
        let found = vae.encode(&pictures.tensor([i])?)?;
        moments.push((found.mean.detach(), (found.logvar.detach() * 0.5)?.exp()?));
    }
    let mut settings = options.settings("decoder", STEPS);
    settings.batch = BATCH;
    settings.micro = 1;
    settings.schedule.peak = 4e-4;
    settings.average = 0.995;
    settings.columns = vec!["absolute", "square", "edges"];
    let decodes = |name: &str| name.starts_with("decoder") || name.starts_with("post_quant_conv");
    let vars = weights.vars().into_iter().filter(|(name, _)| decodes(name)).collect();
    let mut trainer = Trainer::of(vars, settings)?;
    trainer.run(
        |micro| {
            let (mut latents, mut chosen) = (Vec::new(), Vec::new());
            for n in micro.samples.clone() {
                let s = &mut stream(SEED, "decoder sample", n);
                let i = s.below(pictures.len());
                let (mean, deviation) = &moments[i];
                let noise = Tensor::from_vec(s.normals(mean.elem_count()), mean.shape(), &Device::Cpu)?;
                latents.push((mean + (deviation * noise)?)?);
                chosen.push(i);
            }
            let found = vae.decode(&Tensor::cat(&latents, 0)?)?;
            let x = pictures.tensor(chosen)?;
            let Loss { total, parts } = distance(&found, &x)?;
            let logarithm = composed(&[&found], |found| {
                Ok((&found[0] - &x)?.sqr()?.flatten_from(1)?.mean(1)?.log()?.mean_all()?)
            })?;
            let total = composed(&[&total, &logarithm], |x| Ok((&x[0] + (&x[1] * LOGARITHM)?)?))?;
            Ok(Loss { total, parts })
        },
        |trainer| {
            let decibel = trainer.with_averages(|| quality(&vae, &unseen))?;
            eprintln!("decoder: {decibel:.2} dB on {UNSEEN} unseen pictures");
            weights.save(&path, DType::F16, Some(&trainer.averages()?))?;
            // The transformer has the same autoencoder.
            let shared = options.transformer().join("vae/diffusion_pytorch_model.safetensors");
            if shared.exists() { copy(&path, &shared) } else { Ok(()) }
        },
    )
}

/// Mean PSNR of pictures through the autoencoder, in dB.
fn quality(vae: &Vae, pictures: &Pictures) -> Result<f64> {
    let mut values = Vec::new();
    for first in (0..pictures.len()).step_by(16) {
        let x = pictures.tensor(first..(first + 16).min(pictures.len()))?;
        values.extend(psnr(&vae.decode(&vae.encode(&x)?.mean.detach())?, &x)?);
    }
    Ok(values.iter().sum::<f64>() / values.len() as f64)
}

/// 1 / standard deviation of the latents' means, over all channels (Rombach et al. 2022, appendix D.1).
fn scaling_factor(vae: &Vae, pictures: &Pictures) -> Result<f64> {
    let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for first in (0..pictures.len().min(256)).step_by(16) {
        let x = pictures.tensor(first..(first + 16).min(pictures.len()))?;
        for value in vae.encode(&x)?.mean.flatten_all()?.to_vec1::<f32>()? {
            n += 1.0;
            sum += f64::from(value);
            squares += f64::from(value).powi(2);
        }
    }
    Ok(1.0 / (squares / n - (sum / n).powi(2)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::layers::tape::against_graph;

    #[test]
    fn gradients_by_tape_are_those_of_the_graph() {
        let weights = Weights::seeded(1, &Device::Cpu);
        let vae = Vae::load(&VaeConfig::embedded(), &weights).unwrap();
        let pictures = Pictures::render(Split::Train, 0, 2);
        let micro = Micro { step: 0, done: 0.0, samples: 0..1 };
        against_graph(&weights.vars(), || Ok(loss(&vae, &pictures, &micro)?.total));
    }
}
