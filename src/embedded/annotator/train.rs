//! Stage 4: training the annotator on worn renders.

use super::network::{AnnotatorConfig, Network};
use crate::diffusion::layers::{add, composed};
use crate::embedded::files::write_json;
use crate::embedded::heads::{Answers, cross_entropy};
use crate::embedded::options::Options;
use crate::embedded::pictures::to_unit;
use crate::embedded::trainer::{Loss, Micro, Trainer};
use crate::embedded::wear::{pass, wear};
use crate::error::Result;
use crate::measure::segmentation::MapOverlap;
use crate::random::stream;
use crate::scene::{Background, Class, Colour, Part, SIDE, Scene, Split, Style};
use candle_core::{D, DType, Device, Tensor};
use rayon::prelude::*;
use serde_json::json;

/// Scenes that it learns from. They start far beyond those of the generative models.
const SCENES: usize = 6_000;
/// Number of the first of them.
const FIRST: u64 = 10_000_000;
/// Of so many scenes one holds a combination of class and colour that the generative models never see.
const EVERY_UNSEEN: u64 = 5;
/// Of so many pictures one has passed through the autoencoder.
const EVERY_PASSED: usize = 4;
/// Unseen scenes that it is measured on.
const UNSEEN: u64 = 192;
const BATCH: usize = 16;
const STEPS: usize = 4000;
const PIXELS: usize = SIDE * SIDE;
const SEED: u64 = 14;

/// A scene's picture in [−1, 1] and what is to be found in it.
struct Example {
    picture: Vec<f32>,
    class: Vec<u8>,
    colour: Vec<u8>,
    part: Vec<u8>,
    style: Style,
    background: Background,
}

impl Example {
    fn of(scene: &Scene) -> Self {
        let render = scene.render();
        Self {
            picture: render.image.as_raw().iter().map(|&b| to_unit(b)).collect(),
            class: render.class_map,
            colour: render.colour_map,
            part: render.part_map,
            style: scene.style,
            background: scene.background,
        }
    }
}

/// Scene `i` of the annotator's own sequence.
fn scene(i: u64) -> Scene {
    let split = if i.is_multiple_of(EVERY_UNSEEN) { Split::Unseen } else { Split::Train };
    Scene::sample(split, FIRST + i)
}

/// Trains the annotator and writes its folder. Uses the autoencoder of the model folder.
///
/// # Errors
/// Of files (the autoencoder comes before) and of the training.
pub fn train(options: &Options) -> Result<()> {
    let config = AnnotatorConfig::default();
    let weights = options.weights("annotator/model.safetensors", SEED)?;
    let network = Network::load(&config, &weights)?;
    let mut settings = options.settings("annotator", STEPS);
    settings.batch = BATCH;
    settings.micro = 2;
    settings.schedule.peak = 1.5e-3;
    settings.average = 0.995;
    settings.columns = vec!["class", "colour", "part", "whole"];
    let mut examples: Vec<Example> = (0..SCENES as u64).into_par_iter().map(|i| Example::of(&scene(i))).collect();
    pass(options, examples.iter_mut().step_by(EVERY_PASSED).map(|e| &mut e.picture).collect(), SEED)?;
    let unseen: Vec<Example> = (0..UNSEEN).map(|i| Example::of(&Scene::sample(Split::Test, i))).collect();
    let mut trainer = Trainer::new(&weights, settings)?;
    let dir = options.annotator();
    trainer.run(
        |micro| loss(&network, &examples, micro),
        |trainer| {
            trainer.with_averages(|| report(&network, &unseen))?;
            write_json(&dir.join("config.json"), &json!(config))?;
            weights.save(&dir.join("model.safetensors"), DType::F16, Some(&trainer.averages()?))
        },
    )
}

fn loss(network: &Network, examples: &[Example], micro: &Micro) -> Result<Loss> {
    let (mut chosen, mut pictures) = (Vec::new(), Vec::new());
    for n in micro.samples.clone() {
        let s = &mut stream(SEED, "sample", n);
        let example = &examples[s.below(examples.len())];
        pictures.extend(wear(&example.picture, s));
        chosen.push(example);
    }
    let answer = network.forward(&Tensor::from_vec(pictures, (chosen.len(), SIDE, SIDE, 3), &Device::Cpu)?)?;
    let map = |f: fn(&Example) -> &[u8]| -> Vec<Option<usize>> {
        chosen.iter().flat_map(|e| f(e)).map(|&i| Some(usize::from(i))).collect()
    };
    // Nine pixels of ten are backdrop, and say little about shapes: all of a picture's objects count as much at first. At
    // the end every pixel counts alike, or edges are given to objects too readily: mean IoU .890 without, .921 with what the
    // backdrop's score lacks then.
    let balanced = |scores: &Tensor, truth: Vec<Option<usize>>| -> Result<Tensor> {
        let only = |keep: &dyn Fn(usize) -> bool| truth.iter().map(|t| t.filter(|&t| keep(t))).collect::<Answers>();
        let (objects, backdrop) = (only(&|t| t > 0), only(&|t| t == 0));
        let count = |of: &Answers| of.iter().flatten().count().max(1) as f64;
        let weight = 1.0 + micro.done * (count(&backdrop) / count(&objects) - 1.0);
        let losses = [cross_entropy(scores, &objects)?, cross_entropy(scores, &backdrop)?];
        composed(&[&losses[0], &losses[1]], |x| Ok((&x[0] + (&x[1] * weight)?)?))
    };
    let class = balanced(&answer.class, map(|e| &e.class))?;
    let colour = balanced(&answer.colour, map(|e| &e.colour))?;
    let part = balanced(&answer.part, map(|e| &e.part))?;
    let style = cross_entropy(&answer.style, &chosen.iter().map(|e| Some(e.style.index())).collect())?;
    let background = cross_entropy(&answer.background, &chosen.iter().map(|e| Some(e.background.index())).collect())?;
    let whole = add(&style, &background)?;
    let parts = vec![class.to_scalar()?, colour.to_scalar()?, part.to_scalar()?, whole.to_scalar()?];
    let total = composed(&[&class, &colour, &part, &whole], |x| Ok((((&x[0] + &x[1])? + &x[2])? + (&x[3] * 0.2)?)?))?;
    Ok(Loss { total, parts })
}

/// Index of the highest score along the last axis.
fn best(scores: &Tensor) -> Result<Vec<u32>> {
    Ok(scores.argmax(D::Minus1)?.flatten_all()?.to_vec1()?)
}

/// Prints IoU per class and part, and the share of pictures and coloured pixels that are judged right.
fn report(network: &Network, unseen: &[Example]) -> Result<()> {
    let (mut classes, mut parts) = (MapOverlap::new(Class::COUNT), MapOverlap::new(Part::COUNT));
    let (mut colours, mut styles, mut backgrounds) = ((0, 0), 0, 0);
    for chunk in unseen.chunks(8) {
        let pictures: Vec<f32> = chunk.iter().flat_map(|e| e.picture.iter().copied()).collect();
        let answer = network.forward(&Tensor::from_vec(pictures, (chunk.len(), SIDE, SIDE, 3), &Device::Cpu)?)?;
        let (class, colour, part) = (best(&answer.class)?, best(&answer.colour)?, best(&answer.part)?);
        for (i, example) in chunk.iter().enumerate() {
            for p in 0..PIXELS {
                classes.add(class[i * PIXELS + p] as usize, usize::from(example.class[p]));
                parts.add(part[i * PIXELS + p] as usize, usize::from(example.part[p]));
                if example.colour[p] > 0 {
                    colours.0 += usize::from(colour[i * PIXELS + p] == u32::from(example.colour[p]));
                    colours.1 += 1;
                }
            }
        }
        let right = |found: Vec<u32>, truth: &dyn Fn(&Example) -> usize| {
            found.iter().zip(chunk).filter(|(f, e)| **f as usize == truth(e)).count()
        };
        styles += right(best(&answer.style)?, &|e| e.style.index());
        backgrounds += right(best(&answer.background)?, &|e| e.background.index());
    }
    let percent = |n: usize, of: usize| 100.0 * n as f64 / of.max(1) as f64;
    eprintln!("annotator: mean IoU of objects {}", classes.named(Class::ALL));
    eprintln!("annotator: mean IoU of parts {}", parts.named(Part::ALL));
    eprintln!(
        "annotator: right: {:.1} % of coloured pixels ({} colours), {:.1} % of styles, {:.1} % of backgrounds",
        percent(colours.0, colours.1),
        Colour::COUNT,
        percent(styles, unseen.len()),
        percent(backgrounds, unseen.len()),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::layers::tape::against_graph;
    use crate::diffusion::weights::Weights;

    #[test]
    fn gradients_by_tape_are_those_of_the_graph() {
        let weights = Weights::seeded(1, &Device::Cpu);
        let network = Network::load(&AnnotatorConfig::default(), &weights).unwrap();
        let examples: Vec<Example> = (0..2).map(|i| Example::of(&scene(i))).collect();
        let micro = Micro { step: 0, done: 0.0, samples: 0..2 };
        against_graph(&weights.vars(), || Ok(loss(&network, &examples, &micro)?.total));
    }
}
