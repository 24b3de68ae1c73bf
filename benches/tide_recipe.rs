//! Which part of the optimiser decides how well a temporal-aware SAE does: trainings of equal length on a quarter of the
//! pictures of a store, judged on the others.
//!
//! `cargo bench --profile dev --bench tide_recipe -- STORE MODULE [EPOCHS EXPANSION]`, with a store of `denoscope
//! capture` that has several stages. What was found stands in `src/sae/options.rs`.

use denoscope::activations::{Activations, Description, Store, Trajectories};
use denoscope::sae::{Options, Quality, Schedule, Terms, Tide, TopK};
use denoscope::{Error, Result};

const SEEDS: u64 = 3;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let [store, module, numbers @ ..] = &arguments[..] else {
        return Err(Error::invalid("STORE MODULE [EPOCHS EXPANSION]"));
    };
    let numbers: Vec<usize> = numbers.iter().filter_map(|a| a.parse().ok()).collect();
    let (epochs, expansion) = (numbers.first().copied().unwrap_or(12), numbers.get(1).copied().unwrap_or(4));
    let store = Store::open(store)?.module(module)?;
    let stages: Vec<f64> = store.stages().iter().map(|s| s.1).collect();
    let all = store.trajectories(stages)?;
    let (train, unseen) = (all.range(0..all.len() / 4)?, all.range(all.len() / 4..all.len())?);
    let k = (expansion * train.d()).div_ceil(20);
    println!("{train}, {} to train on; {} latents, k {k}, {epochs} epochs", train.len(), expansion * train.d());

    let recipe = Options { epochs: Some(epochs), ..Options::default() };
    let paper = Options { schedule: Schedule::Cosine, clip: Some(1.0), weight_decay: 0.01, ..recipe.clone() };
    // Of public code for long trainings, so that the rows do not depend on their number of steps.
    let rate = 2e-4 * (16384.0 / (expansion * train.d()) as f32).sqrt();
    let times = |factor: f32, o: &Options| Options { learning_rate: Some(factor * rate), ..o.clone() };
    let (recipe, paper) = (times(1.0, &recipe), times(1.0, &paper));
    let options = [
        ("cosine, clip 1, decay .01", paper.clone()),
        ("  no clip", Options { clip: None, ..paper.clone() }),
        ("  clip .1", Options { clip: Some(0.1), ..paper.clone() }),
        ("  no decay", Options { weight_decay: 0.0, ..paper.clone() }),
        ("  linear", Options { schedule: Schedule::Linear, ..paper.clone() }),
        ("  rate x 2", times(2.0, &paper)),
        ("  rate x 4", times(4.0, &paper)),
        ("  rate x 8", times(8.0, &paper)),
        ("the recipe of TopK", recipe.clone()),
        ("  rate x 2", times(2.0, &recipe)),
        ("  rate x 4", times(4.0, &recipe)),
        ("  rate x 8", times(8.0, &recipe)),
    ];
    let mean = |of: &dyn Fn(u64) -> Result<Quality>| {
        let found: Vec<Quality> = (0..SEEDS).map(of).collect::<Result<_>>()?;
        let error = found.iter().map(|q| q.scaled_mse).sum::<f64>() / SEEDS as f64;
        let explained = found.iter().map(|q| q.explained_variance).sum::<f64>() / SEEDS as f64;
        Ok::<String, Error>(format!("error {error:.4}, explained variance {explained:.4}"))
    };
    let (apart, judged) = (timeless(&train)?, timeless(&unseen)?);
    println!(
        "TopK on tokens without order: {}",
        mean(&|seed| TopK::new(expansion, k)
            .options(Options { seed, ..recipe.clone() })
            .train(&apart)?
            .measure(&judged))?
    );
    for (name, options) in options {
        let tide = |seed| Tide::new(expansion, k).options(Options { seed, ..options.clone() });
        let plain = |seed| tide(seed).terms(Terms::squares()).train_modulation(false).train(&train)?.measure(&unseen);
        let whole = |seed| tide(seed).train(&train)?.measure(&unseen);
        println!("{name:<26} plain {}; TIDE {}", mean(&plain)?, mean(&whole)?);
    }
    Ok(())
}

/// Each moment of a picture an item of its own.
fn timeless(trajectories: &Trajectories) -> Result<Activations> {
    let (mut items, mut data) = (Vec::new(), Vec::new());
    for step in 0..trajectories.steps() {
        for (i, item) in trajectories.items().iter().enumerate() {
            items.push(item.clone());
            data.extend(trajectories.step(step).item(i)?);
        }
    }
    let about = Description { fingerprint: String::new(), ..trajectories.step(0).about().clone() };
    Activations::described(about, items, data)
}
