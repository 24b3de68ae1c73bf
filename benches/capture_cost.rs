//! What capturing three blocks adds to a generation, in turn in the same run.
//!
//! `cargo bench --profile dev --bench capture_cost`, or with another model
//! `… -- MODEL PICTURES STEPS BATCH [HEIGHT WIDTH]`.
//!
//! The sites are the first three cross-attention blocks around the middle, as the papers have them; all steps of the
//! conditional half are looked at and copied, which is what a capture does before it writes.

use denoscope::Result;
use denoscope::candle_core::Tensor;
use denoscope::diffusion::hook::{Half, Hook, Kind, Site, Visit};
use denoscope::diffusion::pipeline::Pipeline;
use std::time::Instant;

/// Rounds of one generation each way; the median of the ratios counts.
const ROUNDS: usize = 5;

/// Copies what it sees of the conditional half.
struct Keep {
    sites: Vec<Site>,
    numbers: usize,
}

impl Hook for Keep {
    fn sites(&self) -> Vec<Site> {
        self.sites.clone()
    }

    fn visit(&mut self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        if visit.half == Half::Conditional {
            self.numbers += activation.copy()?.elem_count();
        }
        Ok(None)
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |i: usize, default: usize| arguments.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let model = Pipeline::open(arguments.first().map_or("scene-unet", String::as_str))?;
    let (pictures, steps, batch) = (number(1, 16), number(2, 25), number(3, 16));
    let default = model.picture_size();
    let (height, width) = (number(4, default.0), number(5, default.1));
    let mut blocks: Vec<String> = model.modules();
    blocks
        .retain(|m| m.rsplit_once('.').is_some_and(|(at, i)| at.ends_with("attentions") && i.parse::<usize>().is_ok()));
    let middle = blocks.iter().position(|m| m.starts_with("mid_block")).unwrap_or(blocks.len() / 2);
    let first = middle.saturating_sub(1).min(blocks.len().saturating_sub(3));
    let sites: Vec<Site> = blocks[first..].iter().take(3).map(|m| Site::new(m, Kind::Residual)).collect();
    let names: Vec<String> = sites.iter().map(ToString::to_string).collect();
    println!(
        "{}: {pictures} pictures of {width}×{height}, {steps} steps, batch {batch}; {}",
        model.name(),
        names.join(", ")
    );
    let prompts = vec!["a red house left of a tree"; pictures];
    let generate = |hook: Option<&mut Keep>| -> Result<f64> {
        let start = Instant::now();
        let plain = model.prompts(&prompts).steps(steps).batch(batch).size(height, width);
        match hook {
            Some(hook) => plain.with(hook).run()?,
            None => plain.run()?,
        };
        Ok(start.elapsed().as_secs_f64())
    };
    generate(None)?; // touches memory for the first time
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let mut hook = Keep { sites: sites.clone(), numbers: 0 };
        let (plain, hooked) = (generate(None)?, generate(Some(&mut hook))?);
        println!("{plain:.2} s, with capture {hooked:.2} s: {:.3} ({} numbers)", hooked / plain, hook.numbers);
        ratios.push(hooked / plain);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median {:.3}", ratios[ROUNDS / 2]);
    Ok(())
}
