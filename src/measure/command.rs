//! `denoscope evaluate`.

use super::LossRecovered;
use crate::activations::shard::atomically;
use crate::diffusion::pipeline::Pipeline;
use crate::error::{Error, Result};
use crate::sae::command::{source, table};
use crate::sae::{Architecture, Sae};
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
        let sae = Sae::load(&self.sae)?;
        let source = source(&self.sae, self.config.as_deref())?;
        let activations = &source.activations;
        let quality = sae.measure(activations)?;
        // As many latents on a token as the SAE takes, or nearly.
        let k = match sae.architecture {
            Architecture::TopK { k } => k,
            _ => (quality.l0.round() as usize).clamp(1, sae.latents),
        };
        let random = Sae::random(sae.d, sae.latents, k, 0)?.centred(activations)?;
        println!("{sae}\n{activations}");
        print!("{}", table(&[("SAE", &quality), ("random dictionary", &random.measure(activations)?)]));
        if let Some(path) = &self.latents {
            let mut text = "latent,density,silent_tokens\n".to_string();
            for (j, (density, silent)) in quality.density.iter().zip(&quality.silent).enumerate() {
                let _ = writeln!(text, "{j},{density},{silent}"); // writing to a string cannot fail
            }
            atomically(path, |out| out.write_all(text.as_bytes()))?;
        }
        let Some(pictures) = self.loss else { return Ok(()) };
        let (store, about) = (source.store()?, activations.about());
        let model = Pipeline::open(&about.model)?;
        if model.fingerprint() != about.fingerprint {
            return Err(Error::invalid(format!(
                "activations of {} {}, the model of that name is now {}",
                about.model,
                about.fingerprint,
                model.fingerprint()
            )));
        }
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
}
