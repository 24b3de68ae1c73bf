//! The sparse half of `benches/sae_quality.py`, which runs it: TopK SAEs on the activations that it wrote, and for every
//! seed where the training started and which tokens were in its batches, so that the dense half can do the very same.
//!
//! `cargo bench --profile dev --bench sae_quality -- FOLDER SEEDS D EXPANSION K EPOCHS BATCH OPTIONS`: reads
//! `FOLDER/x.f32` (rows of D numbers), and writes `FOLDER/SEED/{start,end}` (SAELens) and `order.u32`.

use denoscope::activations::Activations;
use denoscope::sae::{Options, TopK};
use denoscope::{Error, Result};
use std::path::Path;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let [folder, numbers @ .., options] = &arguments[..] else {
        return Err(Error::invalid("run by benches/sae_quality.py"));
    };
    let numbers: Vec<usize> = numbers.iter().filter_map(|a| a.parse().ok()).collect();
    let [seeds, d, expansion, k, epochs, batch] = numbers[..] else {
        return Err(Error::invalid("FOLDER SEEDS D EXPANSION K EPOCHS BATCH OPTIONS"));
    };
    let options: Options = serde_json::from_str(options).map_err(Error::invalid)?;
    let folder = Path::new(folder);
    let bytes = std::fs::read(folder.join("x.f32")).map_err(Error::invalid)?;
    let x: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let x = Activations::from_vec((1, 1), d, x)?;
    for seed in 0..seeds as u64 {
        let options = Options { seed, epochs: Some(epochs), batch: Some(batch), ..options.clone() };
        let (recipe, here) = (TopK::new(expansion, k).options(options), folder.join(seed.to_string()));
        recipe.begin(&x)?.finish()?.sae.save(here.join("start"))?;
        let trained = recipe.train(&x)?;
        trained.sae.save(here.join("end"))?;
        println!("seed {seed}: dead at the end {:.4}, {}", trained.dead_share, trained.training);
        // Tokens that are their own numbers are shuffled alike.
        let tokens = x.len() - (x.len() as f64 * trained.options.holdout).round() as usize;
        let numbered = Activations::from_vec((1, 1), 1, (0..tokens).map(|t| t as f32).collect())?;
        let mut order = Vec::new();
        for epoch in 0..epochs as u64 {
            for rows in numbered.epoch(batch, seed, epoch)?.take(tokens / batch) {
                order.extend(rows?.into_iter().flat_map(|t| (t as u32).to_le_bytes()));
            }
        }
        std::fs::write(here.join("order.u32"), order).map_err(Error::invalid)?;
    }
    Ok(())
}
