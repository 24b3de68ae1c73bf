//! Teaching a text encoder without pictures, by reading facts back from its own states.
//!
//! Which colour and place belong to which object is a question of language. Answering it first, on captions alone,
//! takes minutes; learning it through the pictures takes a diffusion model several times its training. (Stable
//! Diffusion and PixArt, too, are trained on a text encoder that was trained before and stays as it is.)
//!
//! Linear read-outs with cross entropy: from every token of an object's phrase its class, colour, place and size; from
//! the end token (and, where a network looks at it, the padding behind it) the background, the style, and for every
//! class the colour, place and size of such an object, or that there is none. (Of an encoder that looks backwards only,
//! late tokens alone can know all.)

use crate::diffusion::layers::{composed, reshape};
use crate::diffusion::weights::Weights;
use crate::embedded::heads::{Answers, Head};
use crate::embedded::options::Options;
use crate::embedded::trainer::{Loss, Micro, Trainer};
use crate::error::{Error, Result};
use crate::random::{Stream, stream};
use crate::scene::{Background, Caption, Class, Colour, Place, Scene, Size, Split, Style, Topic};
use candle_core::Tensor;
use std::collections::HashMap;

/// Tokens of a prompt, everything included.
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

/// A text encoder that can be taught.
pub trait Encoder: Sync {
    /// Numbers of a token's state.
    fn width(&self) -> usize;

    /// States of texts `[texts, WINDOW, width]`.
    ///
    /// # Errors
    /// Of the tensor library.
    fn states(&self, texts: &[&str]) -> Result<Tensor>;

    /// Tokens before the first word's.
    fn first(&self) -> usize;

    /// Tokens of a text before the padding.
    ///
    /// # Errors
    /// Of the tokenizer.
    fn used(&self, text: &str) -> Result<usize>;

    /// The token behind the last that is to know the whole caption; the end token, at `end`, is the first.
    fn knowing(&self, end: usize) -> usize;
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
fn answers(encoder: &impl Encoder, caption: &Caption, last_only: bool) -> Result<[Answers; 9]> {
    let (words, first) = (caption.words().count(), encoder.first());
    let used = encoder.used(&caption.text)?;
    if used != first + words + 1 {
        let text = &caption.text;
        let expected = format!("{first}, {words} words and the end");
        return Err(Error::invalid(format!("caption {text:?}: {used} tokens, expected {expected}")));
    }
    let items = [1, 1, 1, 1, Class::COUNT, Class::COUNT, Class::COUNT, 1, 1];
    let mut all = items.map(|n| vec![None; WINDOW * n]);
    for span in &caption.spans {
        let Topic::Object(object) = span.topic else { continue };
        let Some(facts) = caption.facts.objects.iter().find(|f| f.object == object) else { continue };
        let from = if last_only { span.words.end - 1 } else { span.words.start };
        for word in from..span.words.end {
            let token = first + word;
            all[0][token] = Some(facts.class.index());
            all[1][token] = facts.colour.map(Colour::index);
            all[2][token] = facts.place.map(Place::index);
            all[3][token] = facts.size.map(Size::index);
        }
    }
    let end = first + words;
    for token in end..if last_only { end + 1 } else { encoder.knowing(end) } {
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

fn gather(encoder: &impl Encoder, captions: &[Caption], last_only: bool) -> Result<[Answers; 9]> {
    let mut all: [Answers; 9] = Default::default();
    for caption in captions {
        for (sum, one) in all.iter_mut().zip(answers(encoder, caption, last_only)?) {
            sum.extend(one);
        }
    }
    Ok(all)
}

/// Teaches `encoder`, whose variables are the first of `weights`. `write` gets the averaged weights at every checkpoint.
///
/// # Errors
/// Of files and of the training.
pub fn teach(
    options: &Options,
    stage: &str,
    encoder: &impl Encoder,
    weights: &Weights,
    write: impl Fn(&HashMap<String, Tensor>) -> Result<()>,
) -> Result<()> {
    let heads = ReadOuts::load(&weights.at("read_out"), encoder.width())?;
    let mut settings = options.settings(stage, STEPS);
    settings.batch = BATCH;
    settings.micro = 16;
    settings.schedule.peak = 2e-3;
    settings.average = 0.99;
    settings.columns = vec!["phrases", "end"];
    let mut trainer = Trainer::new(weights, settings)?;
    trainer.run(
        |micro| loss(encoder, &heads, micro),
        |trainer| {
            trainer.with_averages(|| report(stage, encoder, &heads))?;
            write(&trainer.averages()?)
        },
    )
}

/// Refuses to go on from a finished encoder.
///
/// # Errors
/// If the options name one.
pub fn from_nothing(options: &Options) -> Result<()> {
    if options.from.is_some() {
        let problem = "a text encoder cannot start from a finished one: its read-outs are not kept with it";
        return Err(Error::invalid(problem));
    }
    Ok(())
}

fn loss(encoder: &impl Encoder, heads: &ReadOuts, micro: &Micro) -> Result<Loss> {
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
    let states = encoder.states(&texts)?;
    let (rows, width) = (states.elem_count() / states.dim(2)?, states.dim(2)?);
    let states = reshape(&states, (rows, width))?;
    let answers = gather(encoder, &captions, false)?;
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
fn report(name: &str, encoder: &impl Encoder, heads: &ReadOuts) -> Result<()> {
    let mut scores = [(0, 0); 9];
    for first in (0..UNSEEN).step_by(64) {
        let captions: Vec<Caption> = (first..first + 64)
            .map(|i| Scene::sample(Split::Test, i).caption(&mut stream(SEED, "test caption", i)))
            .collect();
        let texts: Vec<&str> = captions.iter().map(|c| c.text.as_str()).collect();
        let states = encoder.states(&texts)?;
        let (rows, width) = (states.elem_count() / states.dim(2)?, states.dim(2)?);
        let states = reshape(&states, (rows, width))?;
        let answers = gather(encoder, &captions, true)?;
        for ((score, head), answers) in scores.iter_mut().zip(&heads.0).zip(&answers) {
            let (right, asked) = head.score(&states, answers)?;
            *score = (score.0 + right, score.1 + asked);
        }
    }
    let percent = |(right, asked): (usize, usize)| 100.0 * right as f64 / asked.max(1) as f64;
    let line: Vec<String> = FACTS.iter().zip(scores).map(|(f, s)| format!("{f} {:.1}", percent(s))).collect();
    eprintln!("{name}: right on {UNSEEN} unseen captions (%): {}", line.join(", "));
    Ok(())
}

/// What every encoder is tested for.
#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::diffusion::layers::tape::against_graph;

    pub(in crate::embedded) fn gradients_are_those_of_the_graph(encoder: &impl Encoder, weights: &Weights) {
        let heads = ReadOuts::load(&weights.at("read_out"), encoder.width()).unwrap();
        let micro = Micro { step: 0, done: 0.0, samples: 0..4 };
        against_graph(&weights.vars(), || Ok(loss(encoder, &heads, &micro)?.total));
    }

    pub(in crate::embedded) fn every_caption_fits_and_is_asked_about(encoder: &impl Encoder) {
        for i in 0..200 {
            let scene = Scene::sample(Split::Train, i);
            let caption = phrase(&scene, &mut stream(1, "phrase", i));
            assert!(encoder.used(&caption.text).unwrap() <= WINDOW, "{}", caption.text);
            let all = answers(encoder, &caption, true).unwrap();
            // One token a phrase, and one answer a class at the end.
            assert_eq!(all[0].iter().flatten().count(), scene.objects.len());
            assert_eq!(all[4].iter().flatten().count(), Class::COUNT);
            assert_eq!(all[7].iter().flatten().count(), 1);
            let none = all[4].iter().flatten().filter(|&&a| a == Colour::COUNT + 1).count();
            assert_eq!(none, Class::COUNT - scene.objects.len());
        }
    }
}
