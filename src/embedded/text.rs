//! Stage 2: the text encoder, trained without pictures by reading facts back from its own states.
//!
//! Which colour and place belong to which object is a question of language. Answering it first, on captions alone,
//! takes minutes; learning it through the pictures takes a diffusion model several times its training. (Stable
//! Diffusion, too, trains its U-Net on a text encoder that was trained before and stays as it is.)
//!
//! Linear read-outs with cross entropy: from every token of an object's phrase its class, colour, place and size
//! (the encoder is causal, so only late tokens can know all); from the end token and the padding behind it the
//! background, the style, and for every class the colour, place and size of such an object, or that there is none.

use crate::diffusion::layers::{composed, reshape};
use crate::diffusion::text::{TextConfig, TextEncoder, Tokenizer};
use crate::diffusion::weights::Weights;
use crate::embedded::files::write_json;
use crate::embedded::heads::{Answers, Head};
use crate::embedded::options::Options;
use crate::embedded::trainer::{Loss, Micro, Trainer};
use crate::error::{Error, Result};
use crate::random::{Stream, stream};
use crate::scene::{Background, Caption, Class, Colour, Place, Scene, Size, Split, Style, Topic, vocabulary};
use candle_core::{DType, Device, Tensor};
use std::path::Path;

/// Tokens of a prompt, start and end included.
pub const WINDOW: usize = 32;
/// Captions a step.
const BATCH: usize = 64;
const STEPS: usize = 2500;
const SEED: u64 = 12;
/// Scenes whose captions it learns from; the wording is new every time.
const SCENES: usize = 100_000;
/// Captions that accuracies are measured on.
const UNSEEN: u64 = 256;
/// What the read-outs are about, in the order of [`ReadOuts::all`].
const FACTS: [&str; 9] =
    ["class", "colour", "place", "size", "all colours", "all places", "all sizes", "background", "style"];

/// A caption as every caption of the training is drawn: in nine of ten cases a random phrasing, else the full one.
#[must_use]
pub fn phrase(scene: &Scene, stream: &mut Stream) -> Caption {
    if stream.chance(0.1) { scene.full_caption() } else { scene.caption(stream) }
}

/// The embedded text encoder's shape.
#[must_use]
pub fn config(tokenizer: &Tokenizer) -> TextConfig {
    TextConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 128,
        intermediate_size: 512,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        max_position_embeddings: WINDOW,
        eos_token_id: tokenizer.end(),
        ..TextConfig::default()
    }
}

/// Token ids `[texts, WINDOW]`.
///
/// # Errors
/// Of the tensor library.
pub fn ids<S: AsRef<str>>(tokenizer: &Tokenizer, texts: &[S]) -> Result<Tensor> {
    let all: Vec<u32> = texts.iter().flat_map(|t| tokenizer.encode(t.as_ref()).ids).collect();
    Ok(Tensor::from_vec(all, (texts.len(), tokenizer.window()), &Device::Cpu)?)
}

/// Linear read-outs of everything a caption states.
struct ReadOuts([Head; 9]);

impl ReadOuts {
    fn load(weights: &Weights, width: usize) -> Result<Self> {
        let head = |i: usize, items, options| Head::load(&weights.at(FACTS[i]), width, items, options);
        let classes = Class::COUNT;
        // Where all objects are asked for, one answer more for "not stated" and one for "there is none".
        Ok(Self([
            head(0, 1, classes)?,
            head(1, 1, Colour::COUNT)?,
            head(2, 1, Place::COUNT)?,
            head(3, 1, Size::COUNT)?,
            head(4, classes, Colour::COUNT + 2)?,
            head(5, classes, Place::COUNT + 2)?,
            head(6, classes, Size::COUNT + 2)?,
            head(7, 1, Background::COUNT + 1)?,
            head(8, 1, Style::COUNT + 1)?,
        ]))
    }
}

/// The right answers for the tokens of one caption, for every read-out `WINDOW · items` of them.
///
/// `last_only` asks for an object's facts only at the last token of its phrase, and for the rest only at the end.
fn answers(tokenizer: &Tokenizer, caption: &Caption, last_only: bool) -> Result<[Answers; 9]> {
    let words = caption.words().count();
    let used = tokenizer.encode(&caption.text).used;
    if used != words + 2 {
        let text = &caption.text;
        return Err(Error::invalid(format!("caption {text:?}: {used} tokens, expected {words} words and two")));
    }
    let items = [1, 1, 1, 1, Class::COUNT, Class::COUNT, Class::COUNT, 1, 1];
    let mut all = items.map(|n| vec![None; WINDOW * n]);
    for span in &caption.spans {
        let Topic::Object(object) = span.topic else { continue };
        let Some(facts) = caption.facts.objects.iter().find(|f| f.object == object) else { continue };
        let from = if last_only { span.words.end - 1 } else { span.words.start };
        for word in from..span.words.end {
            // The start token comes before the first word.
            let token = word + 1;
            all[0][token] = Some(facts.class.index());
            all[1][token] = facts.colour.map(Colour::index);
            all[2][token] = facts.place.map(Place::index);
            all[3][token] = facts.size.map(Size::index);
        }
    }
    for token in words + 1..if last_only { words + 2 } else { WINDOW } {
        let states = &caption.facts;
        for class in 0..Class::COUNT {
            let at = token * Class::COUNT + class;
            let facts = states.objects.iter().find(|f| f.class.index() == class);
            let answer =
                |count: usize, value: Option<Option<usize>>| Some(value.map_or(count + 1, |v| v.unwrap_or(count)));
            all[4][at] = answer(Colour::COUNT, facts.map(|f| f.colour.map(Colour::index)));
            all[5][at] = answer(Place::COUNT, facts.map(|f| f.place.map(Place::index)));
            all[6][at] = answer(Size::COUNT, facts.map(|f| f.size.map(Size::index)));
        }
        all[7][token] = Some(states.background.map_or(Background::COUNT, Background::index));
        all[8][token] = Some(states.style.map_or(Style::COUNT, Style::index));
    }
    Ok(all)
}

fn gather(tokenizer: &Tokenizer, captions: &[Caption], last_only: bool) -> Result<[Answers; 9]> {
    let mut all: [Answers; 9] = Default::default();
    for caption in captions {
        for (sum, one) in all.iter_mut().zip(answers(tokenizer, caption, last_only)?) {
            sum.extend(one);
        }
    }
    Ok(all)
}

/// Trains tokenizer and text encoder, and writes `tokenizer/` and `text_encoder/` of the model folder.
///
/// # Errors
/// Of files and of the training.
pub fn train(options: &Options) -> Result<()> {
    if options.from.is_some() {
        let problem = "the text encoder cannot start from a finished one: its read-outs are not kept with it";
        return Err(Error::invalid(problem));
    }
    let tokenizer = Tokenizer::from_words(&vocabulary(), WINDOW)?;
    let config = config(&tokenizer);
    let weights = Weights::seeded(SEED, &Device::Cpu);
    let encoder = TextEncoder::load(&config, &weights)?;
    let encoder_weights = weights.vars().len();
    let heads = ReadOuts::load(&weights.at("read_out"), config.hidden_size)?;
    let mut settings = options.settings("text", STEPS);
    settings.batch = BATCH;
    settings.micro = 16;
    settings.schedule.peak = 2e-3;
    settings.average = 0.99;
    settings.columns = vec!["phrases", "end"];
    let mut trainer = Trainer::new(&weights, settings)?;
    let dir = options.model();
    tokenizer.save(&dir.join("tokenizer"))?;
    trainer.run(
        |micro| loss(&tokenizer, &encoder, &heads, micro),
        |trainer| {
            trainer.with_averages(|| report(&tokenizer, &encoder, &heads))?;
            let averages = trainer.averages()?;
            write(&config, &averages, encoder_weights, &dir.join("text_encoder"))
        },
    )
}

fn loss(tokenizer: &Tokenizer, encoder: &TextEncoder, heads: &ReadOuts, micro: &Micro) -> Result<Loss> {
    let captions: Vec<Caption> = micro
        .samples
        .clone()
        .map(|n| {
            let s = &mut stream(SEED, "caption", n);
            let scene = Scene::sample(Split::Train, s.below(SCENES) as u64);
            phrase(&scene, s)
        })
        .collect();
    let texts: Vec<&str> = captions.iter().map(|c| c.text.as_str()).collect();
    let states = encoder.forward(&ids(tokenizer, &texts)?)?;
    let (rows, width) = (states.elem_count() / states.dim(2)?, states.dim(2)?);
    let states = reshape(&states, (rows, width))?;
    let answers = gather(tokenizer, &captions, false)?;
    let losses = heads.0.iter().zip(&answers).map(|(h, a)| h.loss(&states, a)).collect::<Result<Vec<_>>>()?;
    // Twelve classes share a mean at the end token, and most of them are absent: weighed up.
    let mut parts = Vec::new();
    let total = composed(&losses.iter().collect::<Vec<_>>(), |losses| {
        let sum = |range: &[Tensor]| Tensor::stack(range, 0)?.sum_all();
        let (phrases, end) = (sum(&losses[..4])?, (sum(&losses[4..])? * 4.0)?);
        parts = vec![phrases.to_scalar()?, end.to_scalar()?];
        Ok((phrases + end)?)
    })?;
    Ok(Loss { total, parts })
}

/// Prints the accuracy of every read-out on captions of unseen scenes, at the tokens that can know.
fn report(tokenizer: &Tokenizer, encoder: &TextEncoder, heads: &ReadOuts) -> Result<()> {
    let mut scores = [(0, 0); 9];
    for first in (0..UNSEEN).step_by(64) {
        let captions: Vec<Caption> = (first..first + 64)
            .map(|i| Scene::sample(Split::Test, i).caption(&mut stream(SEED, "test caption", i)))
            .collect();
        let texts: Vec<&str> = captions.iter().map(|c| c.text.as_str()).collect();
        let states = encoder.forward(&ids(tokenizer, &texts)?)?;
        let (rows, width) = (states.elem_count() / states.dim(2)?, states.dim(2)?);
        let states = reshape(&states, (rows, width))?;
        let answers = gather(tokenizer, &captions, true)?;
        for ((score, head), answers) in scores.iter_mut().zip(&heads.0).zip(&answers) {
            let (right, asked) = head.score(&states, answers)?;
            *score = (score.0 + right, score.1 + asked);
        }
    }
    let percent = |(right, asked): (usize, usize)| 100.0 * right as f64 / asked.max(1) as f64;
    let line: Vec<String> = FACTS.iter().zip(scores).map(|(f, s)| format!("{f} {:.1}", percent(s))).collect();
    eprintln!("text: right on {UNSEEN} unseen captions (%): {}", line.join(", "));
    Ok(())
}

/// Writes the encoder without its read-outs.
fn write(
    config: &TextConfig,
    values: &std::collections::HashMap<String, Tensor>,
    expected: usize,
    dir: &Path,
) -> Result<()> {
    write_json(&dir.join("config.json"), &config.to_json())?;
    // A network of its own, so that only what it asks for is written.
    let weights = Weights::seeded(SEED, &Device::Cpu);
    TextEncoder::load(config, &weights)?;
    if weights.vars().len() != expected {
        return Err(Error::invalid(format!(
            "{} weights of the text encoder, expected {expected}",
            weights.vars().len()
        )));
    }
    weights.save(&dir.join("model.safetensors"), DType::F16, Some(values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::layers::tape::against_graph;

    #[test]
    fn gradients_by_tape_are_those_of_the_graph() {
        let tokenizer = Tokenizer::from_words(&vocabulary(), WINDOW).unwrap();
        let config = config(&tokenizer);
        let weights = Weights::seeded(1, &Device::Cpu);
        let encoder = TextEncoder::load(&config, &weights).unwrap();
        let heads = ReadOuts::load(&weights.at("read_out"), config.hidden_size).unwrap();
        let micro = Micro { step: 0, done: 0.0, samples: 0..4 };
        against_graph(&weights.vars(), || Ok(loss(&tokenizer, &encoder, &heads, &micro)?.total));
    }

    #[test]
    fn every_caption_fits_and_is_asked_about() {
        let tokenizer = Tokenizer::from_words(&vocabulary(), WINDOW).unwrap();
        for i in 0..200 {
            let scene = Scene::sample(Split::Train, i);
            let caption = phrase(&scene, &mut stream(1, "phrase", i));
            assert_eq!(tokenizer.encode(&caption.text).lost, None, "{}", caption.text);
            let all = answers(&tokenizer, &caption, true).unwrap();
            // One token a phrase, and one answer a class at the end.
            assert_eq!(all[0].iter().flatten().count(), scene.objects.len());
            assert_eq!(all[4].iter().flatten().count(), Class::COUNT);
            assert_eq!(all[7].iter().flatten().count(), 1);
            let none = all[4].iter().flatten().filter(|&&a| a == Colour::COUNT + 1).count();
            assert_eq!(none, Class::COUNT - scene.objects.len());
        }
    }
}
