//! Edits that are to turn a picture into what another prompt asks for, and what they cost: edit efficiency (RIEBench).
//!
//! The source's picture is generated anew with the edit in place. With T(x) the similarity of picture x to the target's
//! prompt and D(x) its distance from the source's picture,
//!
//! efficiency = mean(T(edited) − T(source)) / mean D(edited):
//!
//! how much nearer to the wish for how much of a change. Similarities count a hundredfold, as CLIP scores are printed.
//! Where the world knows it, the share of pictures that show the change ([`PairOutcome::shown`]) stands beside: a
//! similarity may rise with the picture still of the old thing. A random direction of equal norm is the control; what the
//! target's own prompt makes of the same noise is the most that can be hoped for.

use super::annotate::{Annotation, Annotator};
use super::generate::{Generate, pictures};
use super::interval::{Interval, bootstrap, difference, mean, ones, paired, wilson};
use super::judge::judge;
use super::perceptual::Perceptual;
use super::similarity::Similarity;
use crate::error::{Error, Result};
use crate::intervene::Edit;
use crate::progress::Progress;
use crate::scene::{Change, Object, ScenePair, Size};
use image::RgbImage;

/// Pairs that are generated at once.
const BATCH: usize = 16;

/// Longer sides in pixels from which on an object is large: between the world's small (16–20) and large (26–30) ones.
const LARGE: usize = 23;

/// The edits of a pair: of one place, or of several. The number counts pairs.
pub type MakeEdits<'a> = &'a dyn Fn(usize, &ScenePair) -> Result<Vec<Box<dyn Edit>>>;

/// The pictures of one pair.
#[derive(Debug, Clone)]
pub struct PairOutcome {
    /// The pair.
    pub pair: ScenePair,
    /// The source's picture.
    pub source: RgbImage,
    /// What the target's prompt makes of the same noise.
    pub target: RgbImage,
    /// The source's picture with the edit.
    pub edited: RgbImage,
    /// The same with a random direction of equal norm, if that was asked for.
    pub control: Option<RgbImage>,
}

/// Which of a pair's pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The source's picture.
    Source,
    /// The target's.
    Target,
    /// The edited one.
    Edited,
    /// The control.
    Control,
}

impl PairOutcome {
    /// One of its pictures.
    ///
    /// # Errors
    /// The control of an edit without one.
    pub fn picture(&self, which: Which) -> Result<&RgbImage> {
        match which {
            Which::Source => Ok(&self.source),
            Which::Target => Ok(&self.target),
            Which::Edited => Ok(&self.edited),
            Which::Control => {
                self.control.as_ref().ok_or_else(|| Error::invalid("edits of pairs: made without a control"))
            }
        }
    }

    /// Whether an annotated picture shows the change.
    #[must_use]
    pub fn shown(&self, annotation: &Annotation) -> bool {
        shows(&self.pair, annotation)
    }
}

/// Whether a picture shows what the target of a pair has and its source has not.
fn shows(pair: &ScenePair, found: &Annotation) -> bool {
    let target = &pair.target;
    let is_new = |o: &&Object| !pair.source.objects.contains(o);
    match pair.change {
        Change::Background => found.background == Some(target.background),
        Change::Style => found.style == Some(target.style),
        Change::Delete => {
            let gone = pair.source.objects.iter().find(|o| !target.objects.contains(o));
            gone.is_some_and(|gone| found.objects.iter().all(|o| o.class != gone.class))
        }
        Change::Content => target.objects.iter().find(is_new).is_some_and(|wanted| {
            let side = |b: [usize; 4]| (b[2] - b[0]).max(b[3] - b[1]);
            let large = wanted.size == Size::Large;
            found.objects.iter().any(|o| o.class == wanted.class && (side(o.bbox) >= LARGE) == large)
        }),
        Change::Object | Change::Add | Change::Pose | Change::Colour => {
            let mut facts = target.full_caption().facts;
            let new = target.objects.iter().position(|o| is_new(&o));
            facts.objects.retain(|f| Some(f.object) == new);
            let verdict = judge(&facts, found);
            !verdict.objects.is_empty() && verdict.objects_right()
        }
    }
}

/// What an edit did to many pairs.
#[derive(Debug, Clone)]
pub struct PairEdits {
    /// One for every pair.
    pub outcomes: Vec<PairOutcome>,
}

/// What a scorer makes of the pictures of many pairs.
#[derive(Debug, Clone)]
pub struct Scored {
    /// T of the source's picture, 100 × the similarity to the target's prompt.
    pub source: Interval,
    /// T of the pictures that were scored.
    pub similarity: Interval,
    /// Mean T − T(source).
    pub gain: Interval,
    /// Mean distance from the source's picture.
    pub distance: Interval,
    /// Gain over distance.
    pub efficiency: Interval,
    /// Gain and distance, pair by pair.
    pub each: Vec<[f64; 2]>,
}

impl Scored {
    /// How much more efficient than `other` edits of the same pairs, with an interval over pairs that both share.
    ///
    /// # Errors
    /// Another number of pairs.
    pub fn over(&self, other: &Self) -> Result<Interval> {
        paired(self.each.len(), other.each.len())?;
        let of = |each: &[[f64; 2]], pick: &[usize]| ratio(pick.iter().map(|&i| each[i]));
        Ok(bootstrap(self.each.len(), 0, &|pick| of(&self.each, pick) - of(&other.each, pick)))
    }
}

/// Σ gains / Σ distances.
fn ratio(each: impl Iterator<Item = [f64; 2]>) -> f64 {
    let [gain, far] = each.fold([0.0; 2], |sum, x| [sum[0] + x[0], sum[1] + x[1]]);
    gain / far
}

impl PairEdits {
    /// Generates the source of every pair with the edits that `edits` makes for it, and with their controls. `stored` are the
    /// pictures of sources and targets, made from the noise of the pair's seed.
    ///
    /// # Errors
    /// Whatever the model or the edit refuse; pictures or seeds of another number than pairs.
    pub fn run(
        model: &mut dyn Generate,
        pairs: &[ScenePair],
        stored: [&[RgbImage]; 2],
        seeds: &[u64],
        edits: MakeEdits<'_>,
    ) -> Result<Self> {
        Self::make(model, pairs, stored, seeds, edits, true)
    }

    /// As [`run`](Self::run) without the controls, in half the time: where another run has them.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn without_control(
        model: &mut dyn Generate,
        pairs: &[ScenePair],
        stored: [&[RgbImage]; 2],
        seeds: &[u64],
        edits: MakeEdits<'_>,
    ) -> Result<Self> {
        Self::make(model, pairs, stored, seeds, edits, false)
    }

    fn make(
        model: &mut dyn Generate,
        pairs: &[ScenePair],
        stored: [&[RgbImage]; 2],
        seeds: &[u64],
        edits: MakeEdits<'_>,
        controlled: bool,
    ) -> Result<Self> {
        let counts = [("pictures of sources", stored[0].len()), ("pictures of targets", stored[1].len())];
        for (what, n) in counts.into_iter().chain([("seeds of pairs", seeds.len())]) {
            if n != pairs.len() {
                return Err(Error::Shape { what: what.into(), found: vec![n], expected: vec![pairs.len()] });
            }
        }
        let mut progress = Progress::new("edits of pairs", pairs.len());
        let mut outcomes = Vec::with_capacity(pairs.len());
        for from in (0..pairs.len()).step_by(BATCH) {
            let batch = from..(from + BATCH).min(pairs.len());
            let made: Vec<_> = batch.clone().map(|i| edits(i, &pairs[i])).collect::<Result<_>>()?;
            let prompts: Vec<String> = pairs[batch.clone()].iter().map(|p| p.source.full_caption().text).collect();
            let seeds = &seeds[batch.clone()];
            let mut make = |control: &dyn Fn(usize) -> Option<u64>| {
                let each = made.iter().enumerate().flat_map(|(at, edits)| edits.iter().map(move |e| (at, e)));
                let hooks = each.map(|(at, e)| e.alone(at, control(from + at))).collect();
                pictures(model, &prompts, seeds, hooks)
            };
            let edited = make(&|_| None)?;
            let controls: Vec<Option<RgbImage>> = if controlled {
                make(&|i| Some(i as u64))?.into_iter().map(Some).collect()
            } else {
                vec![None; edited.len()]
            };
            for ((i, edited), control) in batch.clone().zip(edited).zip(controls) {
                let (source, target) = (stored[0][i].clone(), stored[1][i].clone());
                outcomes.push(PairOutcome { pair: pairs[i].clone(), source, target, edited, control });
            }
            progress.at(batch.end, "");
        }
        Ok(Self { outcomes })
    }

    /// The outcomes of one kind of change.
    #[must_use]
    pub fn of(&self, change: Change) -> Self {
        Self { outcomes: self.outcomes.iter().filter(|o| o.pair.change == change).cloned().collect() }
    }

    fn all(&self, which: Which) -> Result<Vec<RgbImage>> {
        self.outcomes.iter().map(|o| Ok(o.picture(which)?.clone())).collect()
    }

    /// Scores one kind of picture of every pair, with 95 % bootstrap intervals over pairs.
    ///
    /// # Errors
    /// Whatever the scorers refuse; the control of edits without one.
    pub fn score(&self, which: Which, similarity: &dyn Similarity, distance: &dyn Perceptual) -> Result<Scored> {
        let prompts: Vec<String> = self.outcomes.iter().map(|o| o.pair.target.full_caption().text).collect();
        let texts: Vec<&str> = prompts.iter().map(String::as_str).collect();
        let (source, own) = (self.all(Which::Source)?, self.all(which)?);
        let hundred = |v: Vec<f64>| v.into_iter().map(|v| 100.0 * v).collect::<Vec<f64>>();
        let before = hundred(similarity.paired(&source, &texts)?);
        let after = hundred(similarity.paired(&own, &texts)?);
        let far = distance.distances(&source, &own)?;
        let gains: Vec<f64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        let each: Vec<[f64; 2]> = gains.iter().zip(&far).map(|(gain, far)| [*gain, *far]).collect();
        Ok(Scored {
            source: mean(&before, 0),
            similarity: mean(&after, 0),
            gain: mean(&gains, 0),
            distance: mean(&far, 0),
            efficiency: bootstrap(each.len(), 0, &|pick| ratio(pick.iter().map(|&i| each[i]))),
            each,
        })
    }

    /// Share of one kind of picture that show the change.
    ///
    /// # Errors
    /// A picture that the annotator cannot judge.
    pub fn shown(&self, which: Which, annotator: &dyn Annotator) -> Result<Interval> {
        let found = annotator.annotate(&self.all(which)?)?;
        let right = self.outcomes.iter().zip(&found).filter(|(o, a)| o.shown(a)).count();
        Ok(wilson(right, self.outcomes.len()))
    }

    /// How many more of one kind of picture than of another show the change, with a paired interval.
    ///
    /// # Errors
    /// A picture that the annotator cannot judge.
    pub fn shown_over(&self, which: Which, other: Which, annotator: &dyn Annotator) -> Result<Interval> {
        let shows = |which| -> Result<Vec<f64>> {
            let found = annotator.annotate(&self.all(which)?)?;
            Ok(ones(self.outcomes.iter().zip(&found).map(|(o, a)| o.shown(a))))
        };
        difference(&shows(which)?, &shows(other)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::annotate::Exact;

    #[test]
    fn targets_show_the_change_and_sources_do_not() {
        let pairs = ScenePair::all(6);
        let scenes: Vec<_> = pairs.iter().flat_map(|p| [p.source.clone(), p.target.clone()]).collect();
        let exact = Exact::new(&scenes);
        let outcomes = pairs.iter().map(|pair| {
            let [source, target] = [&pair.source, &pair.target].map(|s| s.render().image);
            let (edited, control) = (target.clone(), Some(source.clone()));
            PairOutcome { pair: pair.clone(), edited, control, source, target }
        });
        let edits = PairEdits { outcomes: outcomes.collect() };
        for &change in Change::ALL {
            let of = edits.of(change);
            assert_eq!(of.outcomes.len(), 6);
            assert_eq!(of.shown(Which::Edited, &exact).unwrap().value, 1.0, "{change}");
            assert_eq!(of.shown(Which::Control, &exact).unwrap().value, 0.0, "{change}");
            assert_eq!(of.shown_over(Which::Edited, Which::Control, &exact).unwrap().low, 1.0, "{change}");
        }
        let mut bare = edits.clone();
        bare.outcomes[0].control = None;
        let refused = bare.shown(Which::Control, &exact).unwrap_err().to_string();
        assert!(refused.contains("without a control"), "{refused}");
        assert!(bare.shown(Which::Edited, &exact).is_ok());
    }
}
