//! How well pictures follow their captions, over many: class, colour and place of named objects, background, style.

use super::annotate::Annotator;
use super::generate::{Generate, pictures};
use super::interval::{Interval, wilson};
use super::judge::{Verdict, judge};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::scene::Caption;

/// Pictures generated at once.
const BATCH: usize = 16;

/// The verdicts on pictures of a list of captions.
#[derive(Debug, Clone)]
pub struct Faithfulness {
    /// One for every caption.
    pub verdicts: Vec<Verdict>,
}

impl Faithfulness {
    /// Generates a picture for every caption, with seed `seed + index`, and judges it.
    ///
    /// # Errors
    /// Whatever the model or the annotator refuse.
    pub fn run(model: &mut dyn Generate, annotator: &dyn Annotator, captions: &[Caption], seed: u64) -> Result<Self> {
        let mut progress = Progress::new("captions", captions.len());
        let mut verdicts = Vec::with_capacity(captions.len());
        for (n, group) in captions.chunks(BATCH).enumerate() {
            let prompts: Vec<String> = group.iter().map(|c| c.text.clone()).collect();
            let seeds: Vec<u64> = (0..group.len()).map(|i| seed + (n * BATCH + i) as u64).collect();
            let images = pictures(model, &prompts, &seeds, Vec::new())?;
            let annotations = annotator.annotate(&images)?;
            if annotations.len() != group.len() {
                let (found, expected) = (vec![annotations.len()], vec![group.len()]);
                return Err(Error::Shape { what: "annotations of pictures".into(), found, expected });
            }
            verdicts.extend(group.iter().zip(&annotations).map(|(c, a)| judge(&c.facts, a)));
            progress.at(verdicts.len(), "");
        }
        Ok(Self { verdicts })
    }

    /// Share of named objects of which class, stated colour and stated place are all right.
    #[must_use]
    pub fn objects(&self) -> Interval {
        self.count(|v| v.objects.iter().map(|o| Some(o.right())).collect())
    }

    /// Share of captions of which all named objects are right.
    #[must_use]
    pub fn captions(&self) -> Interval {
        self.count(|v| vec![Some(v.objects_right())])
    }

    /// Share of named objects that are there.
    #[must_use]
    pub fn class(&self) -> Interval {
        self.count(|v| v.objects.iter().map(|o| Some(o.found.is_some())).collect())
    }

    /// Share of stated colours that are right.
    #[must_use]
    pub fn colour(&self) -> Interval {
        self.count(|v| v.objects.iter().map(|o| o.colour).collect())
    }

    /// Share of stated places that are right.
    #[must_use]
    pub fn place(&self) -> Interval {
        self.count(|v| v.objects.iter().map(|o| o.place).collect())
    }

    /// Share of stated backgrounds that are right.
    #[must_use]
    pub fn background(&self) -> Interval {
        self.count(|v| vec![v.background])
    }

    /// Share of stated styles that are right.
    #[must_use]
    pub fn style(&self) -> Interval {
        self.count(|v| vec![v.style])
    }

    /// Share of pictures with as many objects as are named.
    #[must_use]
    pub fn number(&self) -> Interval {
        self.count(|v| vec![Some(v.extra == v.objects.iter().filter(|o| o.found.is_none()).count())])
    }

    fn count(&self, facts: impl Fn(&Verdict) -> Vec<Option<bool>>) -> Interval {
        let stated: Vec<bool> = self.verdicts.iter().flat_map(|v| facts(v).into_iter().flatten()).collect();
        wilson(stated.iter().filter(|right| **right).count(), stated.len())
    }

    /// What a notebook shows: all shares.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl std::fmt::Display for Faithfulness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "objects right     {}", self.objects())?;
        writeln!(f, "  class           {}", self.class())?;
        writeln!(f, "  colour          {}", self.colour())?;
        writeln!(f, "  place           {}", self.place())?;
        writeln!(f, "captions right    {}", self.captions())?;
        writeln!(f, "number of objects {}", self.number())?;
        writeln!(f, "background        {}", self.background())?;
        write!(f, "style             {}", self.style())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::hook::Hook;
    use crate::measure::annotate::Exact;
    use crate::measure::generate::ByFunction;
    use crate::scene::{Scene, Split};

    #[test]
    fn shares_count_stated_facts_only() {
        let scenes: Vec<Scene> = (0..40).map(|i| Scene::sample(Split::Test, i)).collect();
        let captions: Vec<Caption> = scenes.iter().map(Scene::full_caption).collect();
        // A model that draws the first half as asked and then always the first scene.
        let draw = |_: &[String], seeds: &[u64], _: Vec<Box<dyn Hook>>| {
            Ok(seeds.iter().map(|&s| scenes[if s - 100 < 20 { s as usize - 100 } else { 0 }].render().image).collect())
        };
        let mut model = ByFunction(draw);
        let found = Faithfulness::run(&mut model, &Exact::new(&scenes), &captions, 100).unwrap();
        assert_eq!(found.verdicts.len(), 40);
        let (right, background) = (found.captions(), found.background());
        assert!((0.45..0.65).contains(&right.value), "{found}");
        assert!((0.5..0.85).contains(&background.value), "{found}");
        assert_eq!(found.class().n, scenes.iter().map(|s| s.objects.len()).sum::<usize>());
        assert!(found.objects().value <= found.class().value);
        let as_many = |i: usize| scenes[if i < 20 { i } else { 0 }].objects.len() == scenes[i].objects.len();
        let expected = (0..40).filter(|&i| as_many(i)).count() as f64 / 40.0;
        assert!((found.number().value - expected).abs() < 1e-12 && expected < 1.0, "{found}");
    }
}
