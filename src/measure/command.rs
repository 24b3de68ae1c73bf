//! `denoscope evaluate`.

use super::LossRecovered;
use crate::activations::Trajectories;
use crate::activations::shard::atomically;
use crate::error::{Error, Result};
use crate::sae::command::{source, table, trajectories};
use crate::sae::{Architecture, Join, Modulation, Quality, Sae, TideSae, TrajectorySae};
use clap::Args;
use std::fmt::Write;
use std::path::PathBuf;

/// Measure a sparse autoencoder on activations, beside a random dictionary.
#[derive(Debug, Clone, Args)]
pub struct Evaluate {
    /// Folder of the SAE in anybody's layout, or its hub id.
    pub sae: PathBuf,
    /// Configuration whose activations are taken; otherwise that of the SAE's own training, if it lies beside it.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Also writes the density and silence of every latent to this CSV file.
    #[arg(long)]
    pub latents: Option<PathBuf>,
    /// Also measures the diffusion loss recovered, by timestep, on this many pictures of the store (its last ones: those
    /// that training keeps out). The model is the one that the store was captured from.
    #[arg(long)]
    pub loss: Option<usize>,
}

impl Evaluate {
    /// Runs the command.
    ///
    /// # Errors
    /// If the SAE, the activations or the model cannot be read, or do not fit each other.
    pub fn run(self) -> Result<()> {
        if let Some(sae) = TideSae::of_run(&self.sae)? {
            return self.tide(&sae);
        }
        if let Some(sae) = TrajectorySae::of_run(&self.sae)? {
            return self.residualized(&sae);
        }
        let sae = Sae::load(&self.sae)?;
        let source = source(&self.sae, self.config.as_deref())?;
        let activations = &source.activations;
        let quality = sae.measure(activations)?;
        // As many latents on a token as the SAE takes, or nearly.
        let k = match sae.architecture {
            Architecture::TopK { k } => k,
            _ => whole(quality.l0, sae.latents),
        };
        let random = Sae::random(sae.d, sae.latents, k, 0)?.centred(activations)?;
        println!("{sae}\n{activations}");
        print!("{}", table(&[("SAE", &quality), ("random dictionary", &random.measure(activations)?)]));
        self.write_latents(&quality)?;
        let Some(pictures) = self.loss else { return Ok(()) };
        let (store, about) = (source.store()?, activations.about());
        let model = about.open_model()?;
        let n = store.items().len();
        let last = n - pictures.min(n)..n;
        let prompts: Vec<&str> = store.items()[last.clone()].iter().map(|i| i.prompt.as_str()).collect();
        let images = store.images(last)?;
        let loss = LossRecovered::new(&model, about.site.clone()).half(about.half);
        for (name, sae) in [("SAE", &sae), ("random dictionary", &random)] {
            println!("\n{name}: {}", loss.of(sae, &images, &prompts)?);
        }
        Ok(())
    }

    /// A temporal-aware SAE, beside a random dictionary that knows the mean of every step.
    fn tide(&self, sae: &TideSae) -> Result<()> {
        let trajectories = self.trajectories()?;
        let quality = sae.measure(&trajectories)?;
        let Sae { d, latents, .. } = sae.sae;
        let random = Sae::random(d, latents, whole(quality.l0, latents), 0)?;
        let mut modulation = Modulation::identity(&trajectories);
        for (i, shift) in modulation.shift.chunks_exact_mut(d).enumerate() {
            let mean = random.clone().centred(trajectories.step(i))?.b_dec;
            shift.iter_mut().zip(mean).for_each(|(shift, mean)| *shift = -mean);
        }
        let random = TideSae::new(random, modulation, trajectories.about())?.measure(&trajectories)?;
        println!("{sae}\n{trajectories}");
        print!("{}", table(&[("SAE", &quality), ("random dictionary", &random)]));
        self.write_latents(&quality)
    }

    /// A residualized SAE, beside random dictionaries behind the same predictors.
    fn residualized(&self, sae: &TrajectorySae) -> Result<()> {
        let trajectories = self.trajectories()?;
        let quality = sae.measure(&trajectories)?;
        // Its features fire on a whole trajectory, in the parts together.
        let rows = if sae.join == Join::Concat { 1.0 } else { sae.steps() as f64 };
        let (d, latents) = (sae.parts[0].d, sae.latents());
        let k = whole(quality.residual.l0 / rows, latents);
        let parts = (0..sae.parts.len() as u64).map(|seed| Sae::random(d, latents, k, seed)).collect::<Result<_>>()?;
        let random = TrajectorySae::new(sae.predictors.clone(), sae.join, parts)?.measure(&trajectories)?;
        println!("{sae}\n{trajectories}");
        print!("{}\nrandom dictionary\n{}", table(&quality.columns()), table(&random.columns()));
        self.write_latents(&quality.residual)
    }

    fn trajectories(&self) -> Result<Trajectories> {
        if self.loss.is_some() {
            return Err(Error::invalid("the diffusion loss recovered is measured of SAEs of single activations"));
        }
        trajectories(&self.sae, self.config.as_deref())
    }

    fn write_latents(&self, quality: &Quality) -> Result<()> {
        let Some(path) = &self.latents else { return Ok(()) };
        let mut text = "latent,density,silent_tokens\n".to_string();
        for (j, (density, silent)) in quality.density.iter().zip(&quality.silent).enumerate() {
            let _ = writeln!(text, "{j},{density},{silent}"); // writing to a string cannot fail
        }
        atomically(path, |out| out.write_all(text.as_bytes()))
    }
}

/// The k of a dictionary of so many latents that comes nearest to an L0.
fn whole(l0: f64, latents: usize) -> usize {
    (l0.round() as usize).clamp(1, latents)
}
