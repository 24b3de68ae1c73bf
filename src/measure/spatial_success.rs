//! Spatial success: after a spatial edit, is the object in the target quadrant? (Emergence, table 4.)
//!
//! A trial asks for one object in one quadrant. It succeeds when the centre of mass of the annotator's probability of
//! the object's class lies there. Chance is 1/4. Beside the edit stand the same pictures without an edit and with a
//! random direction of equal norm.

use super::annotate::Annotator;
use super::generate::{Generate, Remembering, pictures};
use super::interval::{Interval, difference, ones, wilson};
use super::segmentation::{Point, centre_of_mass};
use crate::diffusion::hook::Hook;
use crate::error::Result;
use crate::intervene::{Quadrant, Spatial};
use crate::progress::Progress;
use crate::scene::Class;
use image::RgbImage;

/// Least summed probability, in pixels, for an object to count as present: a centre of mass of less is noise.
const PRESENT: f64 = 16.0;

/// One object to be put into one quadrant, in pictures of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The object.
    pub class: Class,
    /// Where it should go.
    pub quadrant: Quadrant,
    /// What is generated.
    pub prompt: String,
    /// One picture for each.
    pub seeds: Vec<u64>,
}

impl Trial {
    /// All objects × all quadrants, `seeds` pictures each; `prompt` makes the text for an object.
    #[must_use]
    pub fn all(classes: &[Class], seeds: &[u64], prompt: impl Fn(Class) -> String) -> Vec<Self> {
        let trial = |class, quadrant| Trial { class, quadrant, prompt: prompt(class), seeds: seeds.to_vec() };
        classes.iter().flat_map(|&c| Quadrant::ALL.map(|q| trial(c, q))).collect()
    }
}

/// What happened to one picture.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The object.
    pub class: Class,
    /// Where it should have gone.
    pub quadrant: Quadrant,
    /// The picture's seed.
    pub seed: u64,
    /// Where it was without an edit; `None` when it was not there.
    pub before: Option<Point>,
    /// Where it is with the edit.
    pub after: Option<Point>,
    /// Where it is with a random direction of equal norm.
    pub control: Option<Point>,
    /// The three pictures: without edit, with it, with the control.
    pub pictures: [RgbImage; 3],
}

impl Outcome {
    /// The object is in the target quadrant.
    #[must_use]
    pub fn success(&self) -> bool {
        self.hit(self.after)
    }

    fn hit(&self, at: Option<Point>) -> bool {
        at.is_some_and(|p| p.quadrant() == self.quadrant)
    }
}

/// The outcomes of all trials.
#[derive(Debug, Clone)]
pub struct SpatialSuccess {
    /// One for every trial and seed.
    pub outcomes: Vec<Outcome>,
}

impl SpatialSuccess {
    /// Runs the trials. `edit` makes the edit of a trial; its region is set here.
    ///
    /// # Errors
    /// Whatever the model, the annotator or the edit refuse.
    pub fn run(
        model: &mut dyn Generate,
        annotator: &dyn Annotator,
        trials: &[Trial],
        edit: &dyn Fn(&Trial) -> Result<Spatial>,
    ) -> Result<Self> {
        let total = trials.iter().map(|t| t.seeds.len()).sum();
        let mut progress = Progress::new("spatial edits", total);
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(total);
        let mut model = Remembering::new(model); // quadrants share their unedited pictures
        for (number, trial) in trials.iter().enumerate() {
            let prompts = vec![trial.prompt.clone(); trial.seeds.len()];
            let mut make = |hooks: Vec<Box<dyn Hook>>| pictures(&mut model, &prompts, &trial.seeds, hooks);
            let before = make(Vec::new())?;
            let edit = edit(trial)?.region(trial.quadrant);
            let after = make(vec![Box::new(edit.clone())])?;
            let control = make(vec![Box::new(edit.control(number as u64))])?;
            let places = |images: &[RgbImage]| places(annotator, images, trial.class);
            let (at_before, at_after, at_control) = (places(&before)?, places(&after)?, places(&control)?);
            for (i, ((before, after), control)) in before.into_iter().zip(after).zip(control).enumerate() {
                outcomes.push(Outcome {
                    class: trial.class,
                    quadrant: trial.quadrant,
                    seed: trial.seeds[i],
                    before: at_before[i],
                    after: at_after[i],
                    control: at_control[i],
                    pictures: [before, after, control],
                });
            }
            let right = outcomes.iter().filter(|o| o.success()).count();
            progress.at(outcomes.len(), format!("· {right} in place"));
        }
        Ok(Self { outcomes })
    }

    /// Share of pictures whose object is in the target quadrant, with Wilson's 95 % interval.
    #[must_use]
    pub fn edited(&self) -> Interval {
        self.share(|o| o.hit(o.after))
    }

    /// The same share without an edit: what chance and the prompt give.
    #[must_use]
    pub fn unedited(&self) -> Interval {
        self.share(|o| o.hit(o.before))
    }

    /// The same share with a random direction of equal norm.
    #[must_use]
    pub fn control(&self) -> Interval {
        self.share(|o| o.hit(o.control))
    }

    /// Among objects that were elsewhere before: the share that is in the target quadrant now.
    #[must_use]
    pub fn moved(&self) -> Interval {
        let elsewhere: Vec<&Outcome> =
            self.outcomes.iter().filter(|o| o.before.is_some() && !o.hit(o.before)).collect();
        wilson(elsewhere.iter().filter(|o| o.success()).count(), elsewhere.len())
    }

    /// How many more pictures succeed than with `other` edits of the same trials, with a paired interval.
    ///
    /// # Errors
    /// Other trials.
    pub fn over(&self, other: &Self) -> Result<Interval> {
        let [own, other] = [self, other].map(|s| ones(s.outcomes.iter().map(Outcome::success)));
        difference(&own, &other)
    }

    /// The edit's share for one object.
    #[must_use]
    pub fn of(&self, class: Class) -> Interval {
        let of: Vec<&Outcome> = self.outcomes.iter().filter(|o| o.class == class).collect();
        wilson(of.iter().filter(|o| o.success()).count(), of.len())
    }

    fn share(&self, right: impl Fn(&Outcome) -> bool) -> Interval {
        wilson(self.outcomes.iter().filter(|o| right(o)).count(), self.outcomes.len())
    }

    /// What a notebook shows: the three shares.
    pub fn evcxr_display(&self) {
        println!("object in the target quadrant\n  edited   {}", self.edited());
        println!("  moved    {}\n  control  {}\n  unedited {}", self.moved(), self.control(), self.unedited());
    }
}

/// Where the objects of a class are, by the centre of mass of its probability; `None` where it is not.
fn places(annotator: &dyn Annotator, images: &[RgbImage], class: Class) -> Result<Vec<Option<Point>>> {
    let annotations = annotator.annotate(images)?;
    let place = |a: &super::annotate::Annotation| {
        let weights = a.probability(class);
        let present = weights.iter().map(|&w| f64::from(w)).sum::<f64>() >= PRESENT;
        Ok(centre_of_mass(weights, a.size.0, a.size.1)?.filter(|_| present))
    };
    annotations.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::hook::{Half, Kind, Site, Visit};
    use crate::error::Error;
    use crate::intervene::Strength;
    use crate::measure::annotate::Exact;
    use crate::measure::generate::ByFunction;
    use crate::sae::Sae;
    use crate::scene::{Background, Colour, Object, Place, Scene, Size, Style};
    use candle_core::{Device, Tensor};

    fn scene(class: Class, place: Place) -> Scene {
        Scene::new(vec![Object::new(class, Colour::Red, place, Size::Small)], Background::Snow, Style::Flat)
    }

    const PLACES: [Place; 4] = [Place::TopLeft, Place::TopRight, Place::BottomLeft, Place::BottomRight];

    /// A model of one activation that draws the object where channel 0 rose most; without a rise at the lower right.
    fn toy(prompts: &[String], seeds: &[u64], mut hooks: Vec<Box<dyn Hook>>) -> Result<Vec<RgbImage>> {
        let (n, site) = (prompts.len(), Site::new("mid_block.attentions.0", Kind::Residual));
        let items: Vec<usize> = (0..n).collect();
        let visit = Visit {
            site: &site,
            step: 0,
            steps: 2,
            timestep: 999.0,
            half: Half::Conditional,
            grid: (2, 2),
            items: &items,
        };
        let mut delta = Tensor::ones((n, 4, 3), candle_core::DType::F32, &Device::Cpu)?;
        for hook in &mut hooks {
            delta = hook.visit(&visit, &delta)?.unwrap_or(delta);
        }
        let values = delta.to_vec3::<f32>()?;
        let draw = |(i, seed): (usize, &u64)| {
            let class: Class = prompts[i].parse()?;
            let risen = (0..4).find(|&c| values[i][c][0] > 1.5 && seed % 3 != 0);
            Ok(scene(class, PLACES[risen.unwrap_or(3)]).render().image)
        };
        seeds.iter().enumerate().map(draw).collect()
    }

    #[test]
    fn shares_are_counted_against_both_controls() {
        let classes = [Class::Car, Class::Tree];
        let scenes: Vec<Scene> = classes.iter().flat_map(|&c| PLACES.map(|p| scene(c, p))).collect();
        let mut sae = Sae::random(3, 5, 1, 0).unwrap();
        sae.w_dec[..3].copy_from_slice(&[1.0, 0.0, 0.0]);
        // Seeds divisible by 3 never move.
        let trials = Trial::all(&classes, &[1, 2, 3], |c| c.name().to_string());
        let edit = |_: &Trial| Ok(Spatial::new(&sae, [0]).strength(Strength::Constant(2.0)));
        let found = SpatialSuccess::run(&mut ByFunction(toy), &Exact::new(&scenes), &trials, &edit).unwrap();
        assert_eq!(found.outcomes.len(), 24);
        assert_eq!(found.over(&found).unwrap().value, 0.0);
        // 2 of 3 seeds follow the edit to three quadrants; in the fourth the object is anyway.
        assert!((found.edited().value - 18.0 / 24.0).abs() < 1e-12, "{}", found.edited());
        assert_eq!(found.unedited().value, 0.25);
        assert!((found.moved().value - 2.0 / 3.0).abs() < 1e-12 && found.moved().n == 18);
        assert_eq!(found.of(Class::Tree).n, 12);
        assert!(found.control().value < found.edited().value);
    }

    #[test]
    fn errors_of_the_model_come_through() {
        let sae = Sae::random(3, 5, 1, 0).unwrap();
        let mut broken = ByFunction(|_: &[String], _: &[u64], _: Vec<Box<dyn Hook>>| Err(Error::invalid("no weights")));
        let trials = Trial::all(&[Class::Cup], &[1], |c| c.name().to_string());
        let run = SpatialSuccess::run(&mut broken, &Exact::default(), &trials, &|_| Ok(Spatial::new(&sae, [0])));
        assert!(run.unwrap_err().to_string().contains("no weights"));
        let mut short = ByFunction(|_: &[String], _: &[u64], _: Vec<Box<dyn Hook>>| Ok(Vec::new()));
        let run = SpatialSuccess::run(&mut short, &Exact::default(), &trials, &|_| Ok(Spatial::new(&sae, [0])));
        assert!(run.unwrap_err().to_string().contains("pictures of a generation"));
    }
}
