//! Pairs of scenes that differ in one thing: what edits are judged on.
//!
//! RIEBench pairs a source prompt with a target prompt that changes, adds or deletes an object, or changes content, pose,
//! colour, material, background or style. This world knows eight of the nine: content is how large an object looks, pose
//! is where it is, and nothing in it has a material.

use super::caption::Caption;
use super::mask::Mask;
use super::sample::{Object, SIDE, Scene, Split};
use super::world::{Background, Class, Colour, Place, Size, Style, is_held_out, named};
use crate::error::Error;
use crate::random::{Stream, stream};
use serde::{Deserialize, Serialize};

named! {
    /// In what the target of a pair differs from its source.
    "kind of change" Change {
        /// An object is of another class.
        Object = "object",
        /// There is one object more.
        Add = "add",
        /// There is one object less.
        Delete = "delete",
        /// An object is of the other size.
        Content = "content",
        /// An object is at another place.
        Pose = "pose",
        /// An object has another colour.
        Colour = "colour",
        /// The background is another.
        Background = "background",
        /// The style is another.
        Style = "style",
    }
}

/// Scenes of a pair are drawn from here on, behind those that captures and evaluations take.
const FIRST: u64 = 1 << 20;

/// A source and a target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScenePair {
    /// In what they differ.
    pub change: Change,
    /// What is there before.
    pub source: Scene,
    /// What is asked for.
    pub target: Scene,
}

impl ScenePair {
    /// Pair `index` of a kind: the same on any machine. Both scenes are combinations that a model may have been trained
    /// on, with objects that do not touch; everything but the change is alike.
    ///
    /// ```
    /// use denoscope::scene::{Change, ScenePair};
    /// let pair = ScenePair::sample(Change::Colour, 3);
    /// let (source, target) = (&pair.source.objects, &pair.target.objects);
    /// assert_eq!(source.len(), target.len());
    /// assert!(source.iter().zip(target).filter(|(a, b)| a.colour != b.colour).count() == 1);
    /// ```
    #[must_use]
    pub fn sample(change: Change, index: u64) -> Self {
        let s = &mut stream(FIRST, change.name(), index);
        loop {
            let source = Scene::sample(Split::Test, FIRST + s.below(1 << 20) as u64);
            if let Some(target) = changed(&source, change, s) {
                return Self { change, source, target };
            }
        }
    }

    /// `each` pairs of every kind, kind after kind.
    #[must_use]
    pub fn all(each: usize) -> Vec<Self> {
        Change::ALL.iter().flat_map(|&change| (0..each as u64).map(move |i| Self::sample(change, i))).collect()
    }

    /// The full captions of source and target.
    #[must_use]
    pub fn captions(&self) -> [Caption; 2] {
        [self.source.full_caption(), self.target.full_caption()]
    }

    /// The pixels that the change is about: of the source, and of the target. What is added is nowhere in the source,
    /// which then has the place where it will be; the same of what is taken away.
    #[must_use]
    pub fn masks(&self) -> [Mask; 2] {
        let (from, to) = (self.source.render(), self.target.render());
        if self.change == Change::Style {
            return [(); 2].map(|()| Mask::from_fn(SIDE, SIDE, |_, _| true));
        }
        if self.change == Change::Background {
            let backdrop = |map: &[u8]| Mask::from_fn(SIDE, SIDE, |x, y| map[y * SIDE + x] == 0);
            return [backdrop(&from.object_map), backdrop(&to.object_map)];
        }
        let differs = |object: &Object, others: &[Object]| !others.contains(object);
        let of = |scene: &Scene, render: &super::Render, others: &[Object]| {
            let own = scene.objects.iter().zip(&render.objects).find(|(o, _)| differs(o, others));
            own.map(|(_, truth)| truth.mask.clone())
        };
        let before = of(&self.source, &from, &self.target.objects);
        let after = of(&self.target, &to, &self.source.objects);
        let one = || Mask::new(SIDE, SIDE);
        let either = before.clone().or(after.clone()).unwrap_or_else(one);
        [before.unwrap_or_else(|| either.clone()), after.unwrap_or(either)]
    }
}

/// `scene` with one change; `None` where it cannot have it.
fn changed(scene: &Scene, change: Change, s: &mut Stream) -> Option<Scene> {
    let mut target = scene.clone();
    let at = s.below(scene.objects.len());
    match change {
        Change::Object => {
            let class = other(Class::ALL, |c| scene.objects.iter().any(|o| o.class == *c), s)?;
            let Object { colour, place, size, .. } = scene.objects[at];
            target.objects[at] = Object::new(class, colour, place, size);
        }
        Change::Add => {
            let class = other(Class::ALL, |c| scene.objects.iter().any(|o| o.class == *c), s)?;
            let colour = other(Colour::ALL, |c| scene.objects.iter().any(|o| o.colour == *c), s)?;
            let place = other(Place::ALL, |p| scene.objects.iter().any(|o| o.place == *p), s)?;
            target.objects.push(Object::new(class, colour, place, *s.pick(Size::ALL)));
        }
        Change::Delete => drop(target.objects.remove(at)),
        Change::Content => {
            let Object { class, colour, place, size, .. } = scene.objects[at];
            let size = if size == Size::Large { Size::Small } else { Size::Large };
            target.objects[at] = Object::new(class, colour, place, size);
        }
        Change::Pose => {
            let place = other(Place::ALL, |p| scene.objects.iter().any(|o| o.place == *p), s)?;
            let Object { class, colour, size, .. } = scene.objects[at];
            target.objects[at] = Object::new(class, colour, place, size);
        }
        Change::Colour => {
            target.objects[at].colour = other(Colour::ALL, |c| scene.objects.iter().any(|o| o.colour == *c), s)?;
        }
        Change::Background => target.background = other(Background::ALL, |b| scene.background == *b, s)?,
        Change::Style => target.style = other(Style::ALL, |v| scene.style == *v, s)?,
    }
    let objects = &target.objects;
    let known = objects.iter().all(|o| !is_held_out(o.class, o.colour));
    let apart = objects.len() < 2 || !objects[0].touches(&objects[1]);
    ((1..=2).contains(&objects.len()) && known && apart).then_some(target)
}

/// A value that is not taken.
fn other<T: Copy>(all: &[T], taken: impl Fn(&T) -> bool, s: &mut Stream) -> Option<T> {
    let free: Vec<T> = all.iter().filter(|v| !taken(v)).copied().collect();
    (!free.is_empty()).then(|| *s.pick(&free))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_differs_in_what_it_says_and_in_nothing_else() {
        for pair in ScenePair::all(20) {
            let (a, b) = (&pair.source, &pair.target);
            let objects = [a.objects.len(), b.objects.len()];
            let expected = match pair.change {
                Change::Add => [1, 2],
                Change::Delete => [2, 1],
                _ => [a.objects.len(); 2],
            };
            assert_eq!(objects, expected, "{}", pair.change);
            assert_eq!(a.background != b.background, pair.change == Change::Background);
            assert_eq!(a.style != b.style, pair.change == Change::Style);
            let facts = |o: &Object| (o.class, o.colour, o.place, o.size);
            let new: Vec<_> = b.objects.iter().filter(|o| !a.objects.iter().any(|p| facts(p) == facts(o))).collect();
            let touched = !matches!(pair.change, Change::Delete | Change::Background | Change::Style);
            assert_eq!(new.len(), usize::from(touched), "{}", pair.change);
            let [source, target] = pair.captions();
            assert_ne!(source.text, target.text);
            assert!([a, b].iter().all(|s| s.objects.iter().all(|o| !is_held_out(o.class, o.colour))));
        }
    }

    #[test]
    fn masks_are_where_the_change_is() {
        for pair in ScenePair::all(4) {
            let [source, target] = pair.masks();
            assert!(!source.is_empty() && !target.is_empty(), "{}", pair.change);
            match pair.change {
                Change::Style => assert_eq!(source.area(), SIDE * SIDE),
                Change::Background => assert!(source.area() > SIDE * SIDE / 2),
                Change::Colour | Change::Add | Change::Delete => assert_eq!(source, target),
                Change::Pose => assert!(source.iou(&target).unwrap() < 0.1),
                _ => assert!(source.iou(&target).unwrap() > 0.0),
            }
        }
        assert_eq!(ScenePair::sample(Change::Pose, 5), ScenePair::sample(Change::Pose, 5));
        assert_ne!(ScenePair::sample(Change::Pose, 5), ScenePair::sample(Change::Pose, 6));
    }
}
