//! β sweeps that find the useful range by themselves (Emergence, figures 6 and 7).
//!
//! From a small strength on, β doubles until the pictures break or the effect saturates; then both ends of the useful
//! range are bisected (in log β). Beside the edit stands a random direction of equal norm, at every β.
//!
//! * **Effect**: the share of pictures in which the edit did what it was for, s(β). With β₀ the weakest strength tried,
//!   the range begins where s(β) − s(β₀) reaches half of its greatest value among unbroken pictures.
//! * **Broken**: a picture p whose mean absolute difference to its unedited self exceeds `breaks` times the mean
//!   difference of two unedited pictures: it is further from what it was than another picture is. The range ends where
//!   half of the pictures are broken, or the generation leaves the finite numbers.
//! * **Saturated**: s(β) ≥ 0.95, or two doublings in a row gain nothing over an s(β) above s(β₀).
//!
//! The paper shows strengths that its authors chose; these rules are this library's.

use super::annotate::Annotator;
use super::generate::{Generate, Remembering};
use super::image::mean_absolute;
use super::interval::{Interval, mean, wilson};
use super::spatial_success::{SpatialSuccess, Trial};
use super::style_success::{StyleSuccess, StyleTrial};
use crate::error::{Error, Result};
use crate::intervene::{Global, Spatial, Strength};
use image::RgbImage;

/// From this share of successes on, more strength can only break pictures.
const SATURATED: f64 = 0.95;

/// From this share of broken pictures on, a strength is beyond the useful range.
const BROKEN: f64 = 0.5;

/// A sweep to be made.
///
/// ```no_run
/// use denoscope::measure::BetaSweep;
/// use denoscope::prelude::*;
/// # fn demo(model: &Pipeline, sae: &Sae, latents: Vec<usize>) -> denoscope::Result<()> {
/// let trials = Trial::all(&[Class::Tree], &[1, 2, 3, 4], |c| format!("a large {c}, on a meadow"));
/// let swept = BetaSweep::new(Strength::Relative(0.1)).spatial(
///     &mut Settled::new(model, 20),
///     &SceneAnnotator::open()?,
///     &trials,
///     &|_| Ok(Spatial::new(sae, latents.clone()).stage(Stage::Early)),
/// )?;
/// println!("{:?}", swept.useful);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct BetaSweep {
    start: Strength,
    doublings: usize,
    bisections: usize,
    breaks: f64,
}

/// What happened at one strength.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepPoint {
    /// The strength.
    pub beta: f64,
    /// Share of pictures in which the edit did what it was for.
    pub success: Interval,
    /// The same share with a random direction of equal norm.
    pub control: Interval,
    /// Share of broken pictures.
    pub broken: Interval,
    /// Mean absolute difference to the unedited picture.
    pub distance: Interval,
    /// The same of the control.
    pub control_distance: Interval,
    /// Why there are no pictures, if a number left the finite range.
    pub stopped: Option<String>,
}

/// Why a sweep went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Pictures broke.
    Broke,
    /// The effect grew no more.
    Saturated,
    /// As many doublings as were allowed.
    Exhausted,
}

/// The result of a sweep. In a notebook it shows itself as a chart beside a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Swept {
    /// What β is measured by, at β = 1.
    pub strength: Strength,
    /// The share without an edit, s(0).
    pub unedited: Interval,
    /// One for every strength, rising.
    pub points: Vec<SweepPoint>,
    /// The range of strengths that work without breaking pictures; `None` if the edit never does better than no edit and
    /// than its control.
    pub useful: Option<(f64, f64)>,
    /// Why it went no further.
    pub end: End,
}

impl BetaSweep {
    /// A sweep that starts at `start`, which also says what β is measured by.
    #[must_use]
    pub fn new(start: Strength) -> Self {
        Self { start, doublings: 10, bisections: 3, breaks: 1.5 }
    }

    /// How often β may double (10), or be halved if the first strength breaks pictures already.
    #[must_use]
    pub fn doublings(mut self, n: usize) -> Self {
        self.doublings = n;
        self
    }

    /// How often each end of the range is bisected (3: each end is known to a factor of 2^⅛).
    #[must_use]
    pub fn bisections(mut self, n: usize) -> Self {
        self.bisections = n;
        self
    }

    /// How many times the difference between two unedited pictures a picture may differ from its unedited self (1.5).
    #[must_use]
    pub fn breaks(mut self, times: f64) -> Self {
        self.breaks = times;
        self
    }

    /// Sweeps a spatial edit, judged by [`SpatialSuccess`]; the strength of what `edit` makes is set here.
    ///
    /// # Errors
    /// Settings out of range, fewer than two different unedited pictures, or whatever the model, the annotator or the
    /// edit refuse. A generation that leaves the finite numbers is no error: its strength is too great.
    pub fn spatial(
        &self,
        model: &mut dyn Generate,
        annotator: &dyn Annotator,
        trials: &[Trial],
        edit: &dyn Fn(&Trial) -> Result<Spatial>,
    ) -> Result<Swept> {
        let mut model = Remembering::new(model); // strengths share their unedited pictures
        let n = trials.iter().map(|t| t.seeds.len()).sum();
        let mut unedited = wilson(0, 0);
        let swept = self.run(&mut |beta| {
            let strength = self.start.with_beta(beta);
            let found = SpatialSuccess::run(&mut model, annotator, trials, &|t| Ok(edit(t)?.strength(strength)));
            self.point(beta, n, found, |found| {
                unedited = found.unedited();
                let pictures = found.outcomes.iter().map(|o| &o.pictures).collect();
                (found.edited(), found.control(), pictures)
            })
        })?;
        Ok(swept.with_unedited(unedited))
    }

    /// Sweeps a global edit, judged by [`StyleSuccess`]; the strength of the edits that `edits` makes is set here.
    ///
    /// # Errors
    /// As [`spatial`](Self::spatial).
    pub fn global(
        &self,
        model: &mut dyn Generate,
        annotator: &dyn Annotator,
        trials: &[StyleTrial],
        edits: &dyn Fn(&StyleTrial) -> Result<Vec<Global>>,
    ) -> Result<Swept> {
        let mut model = Remembering::new(model); // strengths share their unedited pictures
        let n = trials.iter().map(|t| t.prompts.len()).sum();
        let mut unedited = wilson(0, 0);
        let swept = self.run(&mut |beta| {
            let strength = self.start.with_beta(beta);
            let edits = |t: &StyleTrial| Ok(edits(t)?.into_iter().map(|e| e.strength(strength)).collect());
            let found = StyleSuccess::run(&mut model, annotator, trials, &edits);
            self.point(beta, n, found, |found| {
                unedited = found.unedited();
                let pictures = found.outcomes.iter().map(|o| &o.pictures).collect();
                (found.edited(), found.control(), pictures)
            })
        })?;
        Ok(swept.with_unedited(unedited))
    }

    /// The point of one strength, from an evaluation and what it says: shares, and the pictures without edit, with it
    /// and with the control.
    fn point<T>(
        &self,
        beta: f64,
        n: usize,
        found: Result<T>,
        read: impl FnOnce(&T) -> (Interval, Interval, Vec<&[RgbImage; 3]>),
    ) -> Result<SweepPoint> {
        let found = match found {
            Ok(found) => found,
            Err(Error::NotFinite(why)) => {
                let (none, all, unknown) = (wilson(0, n), wilson(n, n), mean(&[], 0));
                let point = SweepPoint {
                    beta,
                    success: none,
                    control: none,
                    broken: all,
                    distance: unknown,
                    control_distance: unknown,
                    stopped: Some(why),
                };
                return Ok(point);
            }
            Err(other) => return Err(other),
        };
        let (success, control, pictures) = read(&found);
        let apart = apart(pictures.iter().map(|p| &p[0]))?;
        let distances =
            |which: usize| -> Result<Vec<f64>> { pictures.iter().map(|p| mean_absolute(&p[0], &p[which])).collect() };
        let (edited, random) = (distances(1)?, distances(2)?);
        let broken = edited.iter().filter(|d| **d > self.breaks * apart).count();
        let point = SweepPoint {
            beta,
            success,
            control,
            broken: wilson(broken, edited.len()),
            distance: mean(&edited, 0),
            control_distance: mean(&random, 0),
            stopped: None,
        };
        Ok(point)
    }

    /// The search itself, over anything that tells what happens at a strength.
    fn run(&self, probe: &mut dyn FnMut(f64) -> Result<SweepPoint>) -> Result<Swept> {
        let start = self.start.beta();
        if !(start > 0.0 && start.is_finite()) {
            return Err(Error::invalid(format!("β sweep: start at {start}, expected a number above 0")));
        }
        if self.breaks.is_nan() || self.breaks <= 0.0 {
            return Err(Error::invalid(format!("β sweep: breaks at {} differences, expected above 0", self.breaks)));
        }
        let mut points = vec![probe(start)?];
        let mut end = End::Exhausted;
        if is_broken(&points[0]) {
            // Already too strong: down until pictures hold.
            end = End::Broke;
            for _ in 0..self.doublings {
                points.insert(0, probe(points[0].beta / 2.0)?);
                if !is_broken(&points[0]) {
                    break;
                }
            }
        } else {
            let mut idle = 0;
            for _ in 0..self.doublings {
                let best = points.iter().map(|p| p.success.value).fold(0.0, f64::max);
                if best >= SATURATED || idle >= 2 {
                    end = End::Saturated;
                    break;
                }
                let point = probe(points[points.len() - 1].beta * 2.0)?;
                // Idle: an effect that was there before did not grow.
                let there = best > points[0].success.value;
                idle = if there && point.success.value <= best { idle + 1 } else { 0 };
                let broke = is_broken(&point);
                points.push(point);
                if broke {
                    end = End::Broke;
                    break;
                }
            }
        }
        for _ in 0..self.bisections {
            // Where half of the effect is reached.
            if let Some(level) = half_effect(&points) {
                let reached = points.iter().position(|p| !is_broken(p) && p.success.value >= level);
                if let Some(i) = reached.filter(|i| *i > 0) {
                    let middle = (points[i - 1].beta * points[i].beta).sqrt();
                    points.insert(i, probe(middle)?);
                }
            }
            // Where pictures break.
            if let Some(i) = points.iter().position(is_broken).filter(|i| *i > 0) {
                let middle = (points[i - 1].beta * points[i].beta).sqrt();
                points.insert(i, probe(middle)?);
            }
        }
        let useful = useful(&points);
        Ok(Swept { strength: self.start.with_beta(1.0), unedited: wilson(0, 0), points, useful, end })
    }
}

impl Swept {
    fn with_unedited(mut self, unedited: Interval) -> Self {
        self.unedited = unedited;
        // An effect that is there without an edit is none.
        let better = |p: &SweepPoint| p.success.value > unedited.value;
        self.useful = self.useful.filter(|_| self.points.iter().any(better));
        self
    }

    /// The unbroken strength with the most successes; of equal ones the least.
    #[must_use]
    pub fn best(&self) -> Option<&SweepPoint> {
        best(&self.points)
    }
}

fn is_broken(point: &SweepPoint) -> bool {
    point.broken.value >= BROKEN
}

fn best(points: &[SweepPoint]) -> Option<&SweepPoint> {
    let whole = points.iter().filter(|p| !is_broken(p));
    whole.reduce(|a, b| if b.success.value > a.success.value { b } else { a })
}

/// The share that stands for half of the effect: between that of the weakest edit and the best.
fn half_effect(points: &[SweepPoint]) -> Option<f64> {
    let (weakest, best) = (points.first()?.success.value, best(points)?.success.value);
    (best > weakest).then_some(weakest + (best - weakest) / 2.0)
}

fn useful(points: &[SweepPoint]) -> Option<(f64, f64)> {
    let best = best(points)?;
    if best.success.value <= best.control.value {
        return None;
    }
    // Without a rise the weakest edit works as well as any.
    let level = half_effect(points).unwrap_or(best.success.value);
    let first = points.iter().position(|p| !is_broken(p) && p.success.value >= level)?;
    let last = points.iter().skip(first).take_while(|p| !is_broken(p)).last()?;
    Some((points[first].beta, last.beta))
}

/// Mean absolute difference of two different pictures.
fn apart<'a>(pictures: impl Iterator<Item = &'a RgbImage>) -> Result<f64> {
    let mut different: Vec<&RgbImage> = Vec::new();
    for picture in pictures {
        if !different.contains(&picture) {
            different.push(picture);
        }
    }
    let (mut sum, mut pairs) = (0.0, 0);
    for (i, a) in different.iter().enumerate() {
        for b in &different[i + 1..] {
            sum += mean_absolute(a, b)?;
            pairs += 1;
        }
    }
    if pairs == 0 {
        let n = different.len();
        return Err(Error::invalid(format!(
            "β sweep: {n} different unedited pictures, expected at least 2 to compare"
        )));
    }
    Ok(sum / f64::from(pairs))
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
