//! Style success: after a global edit, does the picture have the style? (Emergence, table 5.)
//!
//! The paper asks whether the CLIP similarity to the style's words rises, and how far the picture moved in LPIPS: that is
//! [`StyleSuccess::similarity`] and [`StyleSuccess::perceptual`], with any scorer. Stricter, and known here at once, is
//! whether an annotator names the style; the distance that comes with it is the mean absolute difference of pixels.
//! Beside the edit stand the unedited pictures and a random direction of equal norm.

use super::annotate::Annotator;
use super::generate::{Generate, Remembering, pictures};
use super::image::mean_absolute;
use super::interval::{Interval, difference, mean, ones, wilson};
use crate::diffusion::hook::Hook;
use crate::error::Result;
use crate::intervene::Global;
use crate::progress::Progress;
use crate::scene::Style;
use image::RgbImage;

/// One style to be given to pictures of some prompts, one seed each.
#[derive(Debug, Clone, PartialEq)]
pub struct StyleTrial {
    /// The style.
    pub style: Style,
    /// What is generated.
    pub prompts: Vec<String>,
    /// One for every prompt.
    pub seeds: Vec<u64>,
}

/// What happened to one picture.
#[derive(Debug, Clone)]
pub struct StyleOutcome {
    /// The style that was asked for.
    pub style: Style,
    /// The picture's seed.
    pub seed: u64,
    /// The style found without an edit, with it, and with the control.
    pub found: [Option<Style>; 3],
    /// Mean absolute difference to the unedited picture: of the edit, and of the control.
    pub distance: [f64; 2],
    /// The pictures: without edit, with it, with the control.
    pub pictures: [RgbImage; 3],
}

impl StyleOutcome {
    /// Whether the style was found: without an edit (0), with it (1), with the control (2).
    fn in_style(&self, which: usize) -> bool {
        self.found[which] == Some(self.style)
    }
}

/// The outcomes of all trials.
#[derive(Debug, Clone)]
pub struct StyleSuccess {
    /// One for every trial and prompt.
    pub outcomes: Vec<StyleOutcome>,
}

impl StyleSuccess {
    /// Runs the trials with the edits that `edits` makes of each: one for every module that is to be edited. What
    /// leaks around one block through a skip connection, the next can still change.
    ///
    /// # Errors
    /// Whatever the model, the annotator or the edit refuse.
    pub fn run(
        model: &mut dyn Generate,
        annotator: &dyn Annotator,
        trials: &[StyleTrial],
        edits: &dyn Fn(&StyleTrial) -> Result<Vec<Global>>,
    ) -> Result<Self> {
        let total = trials.iter().map(|t| t.prompts.len()).sum();
        let mut progress = Progress::new("global edits", total);
        let mut outcomes: Vec<StyleOutcome> = Vec::with_capacity(total);
        let mut model = Remembering::new(model); // styles share their unedited pictures
        for (number, trial) in trials.iter().enumerate() {
            let mut make = |hooks: Vec<Box<dyn Hook>>| pictures(&mut model, &trial.prompts, &trial.seeds, hooks);
            let edits = edits(trial)?;
            let hooks = |edits: Vec<Global>| edits.into_iter().map(|e| Box::new(e) as Box<dyn Hook>).collect();
            let before = make(Vec::new())?;
            let control = make(hooks(edits.iter().cloned().map(|e| e.control(number as u64)).collect()))?;
            let after = make(hooks(edits))?;
            let styles = |images: &[RgbImage]| -> Result<Vec<Option<Style>>> {
                Ok(annotator.annotate(images)?.iter().map(|a| a.style).collect())
            };
            let found = [styles(&before)?, styles(&after)?, styles(&control)?];
            for (i, ((before, after), control)) in before.into_iter().zip(after).zip(control).enumerate() {
                outcomes.push(StyleOutcome {
                    style: trial.style,
                    seed: trial.seeds[i],
                    found: [found[0][i], found[1][i], found[2][i]],
                    distance: [mean_absolute(&before, &after)?, mean_absolute(&before, &control)?],
                    pictures: [before, after, control],
                });
            }
            let right = outcomes.iter().filter(|o| o.in_style(1)).count();
            progress.at(outcomes.len(), format!("· {right} in style"));
        }
        Ok(Self { outcomes })
    }

    /// Share of pictures with the style, after the edit.
    #[must_use]
    pub fn edited(&self) -> Interval {
        self.share(1)
    }

    /// The same share without an edit.
    #[must_use]
    pub fn unedited(&self) -> Interval {
        self.share(0)
    }

    /// The same share with a random direction of equal norm.
    #[must_use]
    pub fn control(&self) -> Interval {
        self.share(2)
    }

    /// Mean absolute difference between edited and unedited pictures, with a bootstrap interval.
    #[must_use]
    pub fn distance(&self) -> Interval {
        mean(&self.outcomes.iter().map(|o| o.distance[0]).collect::<Vec<_>>(), 0)
    }

    /// The edit's share for one style.
    #[must_use]
    pub fn of(&self, style: Style) -> Interval {
        let of: Vec<&StyleOutcome> = self.outcomes.iter().filter(|o| o.style == style).collect();
        wilson(of.iter().filter(|o| o.in_style(1)).count(), of.len())
    }

    /// How many more pictures have the style than with `other` edits of the same trials, with a paired interval.
    ///
    /// # Errors
    /// Other trials.
    pub fn over(&self, other: &Self) -> Result<Interval> {
        let [own, other] = [self, other].map(|s| ones(s.outcomes.iter().map(|o| o.in_style(1))));
        difference(&own, &other)
    }

    fn share(&self, which: usize) -> Interval {
        let right = self.outcomes.iter().filter(|o| o.in_style(which)).count();
        wilson(right, self.outcomes.len())
    }

    /// What a notebook shows: the shares and the distance.
    pub fn evcxr_display(&self) {
        println!("picture in the style asked for\n  edited   {}\n  control  {}", self.edited(), self.control());
        println!("  unedited {}\nmean absolute difference {}", self.unedited(), self.distance());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::hook::{Half, Kind, Site, Visit};
    use crate::intervene::Strength;
    use crate::measure::annotate::Exact;
    use crate::measure::generate::ByFunction;
    use crate::sae::Sae;
    use crate::scene::{Background, Scene};
    use candle_core::{Device, Tensor};

    fn scene(style: Style) -> Scene {
        Scene::new(Vec::new(), Background::Sea, style)
    }

    /// Draws night where channel 1 rose on every token.
    fn toy(prompts: &[String], _: &[u64], mut hooks: Vec<Box<dyn Hook>>) -> Result<Vec<RgbImage>> {
        let (n, site) = (prompts.len(), Site::new("mid_block.attentions.0", Kind::Residual));
        let items: Vec<usize> = (0..n).collect();
        let visit = Visit {
            site: &site,
            step: 0,
            steps: 2,
            timestep: 999.0,
            half: Half::Conditional,
            grid: (1, 2),
            items: &items,
        };
        let mut delta = Tensor::ones((n, 2, 3), candle_core::DType::F32, &Device::Cpu)?;
        for hook in &mut hooks {
            delta = hook.visit(&visit, &delta)?.unwrap_or(delta);
        }
        let values = delta.to_vec3::<f32>()?;
        let style = |i: usize| if values[i].iter().all(|v| v[1] > 2.9) { Style::Night } else { Style::Flat };
        Ok((0..n).map(|i| scene(style(i)).render().image).collect())
    }

    #[test]
    fn shares_and_distances() {
        let mut sae = Sae::random(3, 5, 1, 0).unwrap();
        sae.w_dec[3..6].copy_from_slice(&[0.0, 1.0, 0.0]);
        let prompts = vec!["sea".to_string(); 4];
        let trials = [StyleTrial { style: Style::Night, prompts, seeds: vec![1, 2, 3, 4] }];
        let edit = |_: &StyleTrial| Ok(vec![Global::new(&sae, [1]).strength(Strength::Constant(2.0))]);
        let exact = Exact::new(&[scene(Style::Night), scene(Style::Flat)]);
        let found = StyleSuccess::run(&mut ByFunction(toy), &exact, &trials, &edit).unwrap();
        assert_eq!((found.edited().value, found.unedited().value, found.control().value), (1.0, 0.0, 0.0));
        let expected = mean_absolute(&scene(Style::Night).render().image, &scene(Style::Flat).render().image).unwrap();
        assert!(expected > 0.05 && (found.distance().value - expected).abs() < 1e-9);
        assert_eq!(found.outcomes[0].distance[1], 0.0);
        let weak = |_: &StyleTrial| Ok(vec![Global::new(&sae, [1]).strength(Strength::Constant(0.1))]);
        let weak = StyleSuccess::run(&mut ByFunction(toy), &exact, &trials, &weak).unwrap();
        assert_eq!((found.over(&weak).unwrap().value, weak.over(&found).unwrap().low), (1.0, -1.0));
        assert_eq!((found.of(Style::Night).n, found.of(Style::Flat).n), (4, 0));
    }
}
