//! Training the dual encoder.
//!
//! InfoNCE in both directions (Oord et al. 2018; Radford et al. 2021, figure 3), within a micro-batch of N pairs: with
//! l_ij = e^τ cos(f(x_i), g(t_j)) and τ learnt, L = −½ · mean_i [ln softmax_j(l_ij)_i + ln softmax_j(l_ji)_i], where a
//! caption that is true of another pair's picture does not count as its negative.

use super::examples::{caption, holds, variation};
use super::network::{DualConfig, Network};
use super::{SceneDual, TextSide, retrieval};
use crate::diffusion::layers::composed;
use crate::embedded::files::{copy, write_json};
use crate::embedded::heads::cross_entropy;
use crate::embedded::options::Options;
use crate::embedded::pictures::{to_byte, to_unit};
use crate::embedded::trainer::{Loss, Micro, Trainer};
use crate::embedded::wear::{pass, wear};
use crate::error::Result;
use crate::random::stream;
use crate::scene::{Facts, SIDE, Scene, Split};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use serde_json::json;

/// Groups of scenes that it learns from.
const GROUPS: usize = 3_000;
/// Scenes of a group: one, and what differs from it in one fact.
const GROUP: usize = 4;
/// Number of the first scene. They are neither those of the generative models nor those of the annotator.
const FIRST: u64 = 20_000_000;
/// Of so many groups one begins with a combination of class and colour that the generative models never see.
const EVERY_UNSEEN: u64 = 5;
/// Of so many pictures one has passed through the autoencoder; no divisor of [`GROUP`], so that all places in a group
/// have their turn.
const EVERY_PASSED: usize = 5;
/// Pairs that are told apart.
const MICRO: usize = 32;
const BATCH: usize = 64;
const STEPS: usize = 1000;
const SEED: u64 = 16;
/// e^τ at the start: a temperature of 0.07, as CLIP's.
const SHARPNESS: f64 = 1.0 / 0.07;
/// The largest e^τ, as CLIP's.
const SHARPEST: f64 = 100.0;
/// Added to the score of a caption that is true without being the picture's own.
const TRUE_OF_BOTH: f32 = -1e4;

/// Scenes that differ in one fact, and their pictures.
struct Group {
    scenes: Vec<Scene>,
    pictures: Vec<Vec<u8>>,
}

impl Group {
    fn draw(i: u64) -> Self {
        let split = if i.is_multiple_of(EVERY_UNSEEN) { Split::Unseen } else { Split::Train };
        let mut scenes = vec![Scene::sample(split, FIRST + i)];
        let s = &mut stream(SEED, "variation", i);
        scenes.extend((1..GROUP).map(|_| variation(&scenes[0], s)).collect::<Vec<_>>());
        let pictures = scenes.iter().map(|scene| scene.render().image.into_raw()).collect();
        Self { scenes, pictures }
    }
}

/// Draws the groups and passes some of their pictures through the autoencoder.
fn groups(options: &Options, n: usize) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = (0..n as u64).into_par_iter().map(Group::draw).collect();
    let chosen: Vec<&mut Vec<u8>> = groups.iter_mut().flat_map(|g| &mut g.pictures).step_by(EVERY_PASSED).collect();
    let mut values: Vec<Vec<f32>> = chosen.iter().map(|p| p.iter().map(|&b| to_unit(b)).collect()).collect();
    pass(options, values.iter_mut().collect(), SEED)?;
    for (picture, values) in chosen.into_iter().zip(values) {
        *picture = values.into_iter().map(to_byte).collect();
    }
    Ok(groups)
}

/// Trains the dual encoder and writes its folder. Uses autoencoder, tokenizer and text encoder of the model folder; the
/// last two are kept with it, so that the model's may be trained further.
///
/// # Errors
/// Of files (autoencoder and text encoder come before) and of the training.
pub fn train(options: &Options) -> Result<()> {
    let (config, dir) = (DualConfig::default(), options.dual());
    for file in TextSide::FILES {
        copy(&options.model().join(file), &dir.join(file))?;
    }
    let text = TextSide::open(&dir)?;
    let weights = options.weights("dual/model.safetensors", SEED)?;
    let network = Network::load(&config, &weights)?;
    let groups = groups(options, GROUPS)?;
    let mut settings = options.settings("dual", STEPS);
    settings.batch = BATCH;
    settings.micro = MICRO;
    settings.schedule.peak = 2e-3;
    settings.average = 0.995;
    settings.columns = vec!["captions", "pictures", "sharpness"];
    let mut trainer = Trainer::new(&weights, settings)?;
    let dual = SceneDual { network, text };
    trainer.run(
        |micro| loss(&dual, &groups, micro),
        |trainer| {
            for split in [Split::Test, Split::Unseen] {
                let found = trainer.with_averages(|| retrieval(&dual, split, 2))?;
                eprintln!("dual, {split:?}: {found}");
            }
            write_json(&dir.join("config.json"), &json!(config))?;
            weights.save(&dir.join("model.safetensors"), DType::F16, Some(&trainer.averages()?))
        },
    )
}

fn loss(dual: &SceneDual, groups: &[Group], micro: &Micro) -> Result<Loss> {
    let (mut pictures, mut captions, mut scenes) = (Vec::new(), Vec::new(), Vec::new());
    for n in micro.samples.clone() {
        // All scenes of a group are in one micro-batch.
        let group = &groups[stream(SEED, "group", n / GROUP as u64).below(groups.len())];
        let (s, i) = (&mut stream(SEED, "sample", n), n as usize % GROUP);
        let values: Vec<f32> = group.pictures[i].iter().map(|&b| to_unit(b)).collect();
        pictures.extend(wear(&values, s));
        captions.push(caption(&group.scenes[i], s));
        scenes.push(&group.scenes[i]);
    }
    let n = scenes.len();
    let pictures = dual.network.pictures(&Tensor::from_vec(pictures, (n, SIDE, SIDE, 3), &Device::Cpu)?)?;
    let texts: Vec<&str> = captions.iter().map(|(text, _)| text.as_str()).collect();
    let texts = dual.network.texts(&dual.text.ends(&texts)?)?;
    let facts: Vec<&Facts> = captions.iter().map(|(_, facts)| facts).collect();
    contrast(&pictures, &texts, dual.network.logit_scale(), &true_of_both(&facts, &scenes)?)
}

/// What is added to the scores of picture i and caption j, `[n, n]`.
fn true_of_both(facts: &[&Facts], scenes: &[&Scene]) -> Result<Tensor> {
    let n = scenes.len();
    let both = |i: usize, j: usize| i != j && holds(facts[j], scenes[i]);
    let values = (0..n * n).map(|at| if both(at / n, at % n) { TRUE_OF_BOTH } else { 0.0 }).collect();
    Ok(Tensor::from_vec(values, (n, n), &Device::Cpu)?)
}

/// The loss of embeddings `[n, width]` of pictures and their texts.
fn contrast(pictures: &Tensor, texts: &Tensor, logit_scale: &Tensor, both: &Tensor) -> Result<Loss> {
    let n = pictures.dim(0)?;
    let mut sharpness = 0.0;
    // The scores of all captions for a picture, then those of all pictures for a caption: [2n, n].
    let scores = composed(&[pictures, texts, logit_scale], |x| {
        let unit =
            |x: &Tensor| -> Result<Tensor> { Ok(x.broadcast_div(&(x.sqr()?.sum_keepdim(1)? + 1e-12)?.sqrt()?)?) };
        let scale = (x[2].exp()? * SHARPNESS)?.minimum(SHARPEST)?;
        sharpness = scale.to_vec1::<f32>()?[0];
        let cosines = unit(&x[0])?.matmul(&unit(&x[1])?.t()?)?;
        let scores = (cosines.broadcast_mul(&scale)? + both)?;
        Ok(Tensor::cat(&[&scores, &scores.t()?], 0)?)
    })?;
    let total = cross_entropy(&scores, &(0..2 * n).map(|row| Some(row % n)).collect())?;
    let best = scores.argmax(1)?.to_vec1::<u32>()?;
    let right = |rows: &[u32]| rows.iter().enumerate().filter(|(i, b)| *i == **b as usize).count() as f32 / n as f32;
    Ok(Loss { total, parts: vec![right(&best[..n]), right(&best[n..]), sharpness] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::layers::tape::against_graph;
    use crate::diffusion::weights::Weights;

    #[test]
    fn gradients_by_tape_are_those_of_the_graph() {
        let weights = Weights::seeded(1, &Device::Cpu);
        let network = Network::load(&DualConfig::default(), &weights).unwrap();
        let text = TextSide::open(&Options::default().model()).unwrap();
        let dual = SceneDual { network, text };
        let groups: Vec<Group> = (0..2).map(Group::draw).collect();
        let micro = Micro { step: 0, done: 0.0, samples: 0..4 };
        against_graph(&weights.vars(), || Ok(loss(&dual, &groups, &micro)?.total));
    }

    #[test]
    fn the_loss_is_what_the_formula_says() {
        // Cosines 1, 0.6 | 0.8, 0 with e^τ = 2.
        let tensor = |values: &[f32]| Tensor::from_slice(values, (2, 2), &Device::Cpu).unwrap();
        let (pictures, texts) = (tensor(&[2.0, 0.0, 0.0, 3.0]), tensor(&[5.0, 0.0, 3.0, 4.0]));
        let scale = Tensor::new(&[(2.0 / SHARPNESS) as f32], &Device::Cpu).unwrap().log().unwrap();
        let of = |both: &Tensor| contrast(&pictures, &texts, &scale, both).unwrap();
        let ln_softmax = |own: f32, other: f32| own - (own.exp() + other.exp()).ln();
        let found = of(&tensor(&[0.0; 4]));
        // l = [2, 1.2 | 0, 1.6]: rows, then columns.
        let expected =
            -(ln_softmax(2.0, 1.2) + ln_softmax(1.6, 0.0) + ln_softmax(2.0, 0.0) + ln_softmax(1.6, 1.2)) / 4.0;
        let value = found.total.to_scalar::<f32>().unwrap();
        assert!((value - expected).abs() < 1e-5, "{value} {expected}");
        assert_eq!(found.parts[..2], [1.0, 1.0]);
        assert!((found.parts[2] - 2.0).abs() < 1e-5);
        // The second caption is true of the first picture, too.
        let value = of(&tensor(&[0.0, TRUE_OF_BOTH, 0.0, 0.0])).total.to_scalar::<f32>().unwrap();
        let expected = -(ln_softmax(1.6, 0.0) + ln_softmax(2.0, 0.0)) / 4.0;
        assert!((value - expected).abs() < 1e-5, "{value} {expected}");
    }

    #[test]
    fn groups_stay_together_and_what_is_true_of_both_is_marked() {
        assert!(MICRO.is_multiple_of(GROUP) && !EVERY_PASSED.is_multiple_of(GROUP));
        let group = Group::draw(1);
        let scenes: Vec<&Scene> = group.scenes.iter().collect();
        let whole: Vec<Facts> = scenes.iter().map(|s| s.full_caption().facts).collect();
        let nothing = Facts::default();
        let none = true_of_both(&whole[..1].iter().chain(&whole[..1]).collect::<Vec<_>>(), &[scenes[0], scenes[1]]);
        assert_eq!(none.unwrap().to_vec2::<f32>().unwrap(), [[0.0, TRUE_OF_BOTH], [0.0, 0.0]]);
        let all = true_of_both(&[&nothing, &nothing], &scenes[..2]).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(all, [[0.0, TRUE_OF_BOTH], [TRUE_OF_BOTH, 0.0]]);
    }
}
