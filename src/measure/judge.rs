//! Whether a picture shows what its caption states: class, colour and place of every named object, background, style.

use super::annotate::{Annotation, Found};
use crate::scene::{Class, Facts, ObjectFacts};

/// What is right about one named object. A fact that the caption does not state is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVerdict {
    /// The class that was named.
    pub class: Class,
    /// Which of the annotation's objects stands for it; `None` when there is none of the class.
    pub found: Option<usize>,
    /// Its colour is the stated one.
    pub colour: Option<bool>,
    /// It is at the stated place.
    pub place: Option<bool>,
}

impl ObjectVerdict {
    /// The object is there and everything stated about it holds.
    #[must_use]
    pub fn right(&self) -> bool {
        self.found.is_some() && self.colour != Some(false) && self.place != Some(false)
    }

    fn score(&self) -> usize {
        // An object of the class counts more than what it looks like.
        3 * usize::from(self.found.is_some())
            + usize::from(self.colour == Some(true))
            + usize::from(self.place == Some(true))
    }
}

/// What is right about a picture, fact by fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The named objects, in the caption's order.
    pub objects: Vec<ObjectVerdict>,
    /// Objects in the picture that no named one stands for.
    pub extra: usize,
    /// The background is the stated one.
    pub background: Option<bool>,
    /// The style is the stated one.
    pub style: Option<bool>,
}

impl Verdict {
    /// Every named object has the right class, and the colour and place stated.
    #[must_use]
    pub fn objects_right(&self) -> bool {
        self.objects.iter().all(ObjectVerdict::right)
    }

    /// Every stated fact holds.
    #[must_use]
    pub fn all_right(&self) -> bool {
        self.objects_right() && self.background != Some(false) && self.style != Some(false)
    }
}

/// Compares a caption's facts with what was found in the picture.
///
/// Each named object is matched with an object of its class, no two with the same one, so that most facts are right;
/// size is not judged.
#[must_use]
pub fn judge(facts: &Facts, annotation: &Annotation) -> Verdict {
    let mut taken = vec![false; annotation.objects.len()];
    let objects = best(&facts.objects, &annotation.objects, &mut taken);
    let matched = objects.iter().filter(|o| o.found.is_some()).count();
    Verdict {
        objects,
        extra: annotation.objects.len() - matched,
        background: facts.background.map(|b| annotation.background == Some(b)),
        style: facts.style.map(|s| annotation.style == Some(s)),
    }
}

/// The best assignment, by trying all: captions name few objects.
fn best(named: &[ObjectFacts], found: &[Found], taken: &mut [bool]) -> Vec<ObjectVerdict> {
    let Some((first, rest)) = named.split_first() else { return Vec::new() };
    let candidates: Vec<usize> = (0..found.len()).filter(|&i| !taken[i] && found[i].class == first.class).collect();
    let mut options: Vec<Vec<ObjectVerdict>> = Vec::new();
    for i in candidates {
        taken[i] = true;
        let colour = first.colour.map(|c| found[i].colour == Some(c));
        let place = first.place.map(|p| found[i].place() == Some(p));
        let mut option = vec![ObjectVerdict { class: first.class, found: Some(i), colour, place }];
        option.extend(best(rest, found, taken));
        options.push(option);
        taken[i] = false;
    }
    // Leaving it out may leave the only object of the class to one that it suits better.
    let (colour, place) = (first.colour.map(|_| false), first.place.map(|_| false));
    let mut option = vec![ObjectVerdict { class: first.class, found: None, colour, place }];
    option.extend(best(rest, found, taken));
    options.push(option);
    let score = |o: &Vec<ObjectVerdict>| o.iter().map(ObjectVerdict::score).sum::<usize>();
    // Of equal scores the first found object, which is the largest.
    options.into_iter().rev().max_by_key(score).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::{Background, Colour, Object, Place, Scene, Size, Split, Style};

    fn picture(objects: Vec<Object>) -> Annotation {
        let scene = Scene::new(objects, Background::Beach, Style::Flat);
        Annotation::of_render(&scene, &scene.render())
    }

    fn fact(class: Class, colour: Option<Colour>, place: Option<Place>) -> ObjectFacts {
        ObjectFacts { object: 0, class, colour, place, size: None }
    }

    #[test]
    fn each_fact_is_judged_by_itself() {
        let a = picture(vec![
            Object::new(Class::Car, Colour::Red, Place::TopLeft, Size::Small),
            Object::new(Class::Tree, Colour::Green, Place::BottomRight, Size::Small),
        ]);
        let facts = Facts {
            objects: vec![
                fact(Class::Car, Some(Colour::Red), Some(Place::BottomLeft)),
                fact(Class::Tree, None, Some(Place::BottomRight)),
                fact(Class::Cat, Some(Colour::White), None),
            ],
            background: Some(Background::Beach),
            style: Some(Style::Night),
        };
        let v = judge(&facts, &a);
        assert_eq!((v.objects[0].colour, v.objects[0].place), (Some(true), Some(false)));
        assert_eq!((v.objects[1].colour, v.objects[1].place), (None, Some(true)));
        assert_eq!((v.objects[2].found, v.objects[2].colour, v.objects[2].place), (None, Some(false), None));
        assert_eq!((v.extra, v.background, v.style), (0, Some(true), Some(false)));
        assert_eq!(v.objects.iter().map(ObjectVerdict::right).collect::<Vec<_>>(), [false, true, false]);
        assert!(!v.objects_right() && !v.all_right());
    }

    #[test]
    fn two_of_a_class_are_told_apart() {
        let a = picture(vec![
            Object::new(Class::Car, Colour::Red, Place::TopLeft, Size::Large),
            Object::new(Class::Car, Colour::Blue, Place::BottomRight, Size::Small),
        ]);
        let blue = fact(Class::Car, Some(Colour::Blue), Some(Place::BottomRight));
        let any = fact(Class::Car, None, None);
        let v = judge(&Facts { objects: vec![any.clone(), blue], ..Facts::default() }, &a);
        assert!(v.all_right(), "{v:?}");
        let v = judge(&Facts { objects: vec![any.clone()], ..Facts::default() }, &a);
        assert_eq!((v.objects[0].found, v.extra), (Some(0), 1));
        let red = fact(Class::Car, Some(Colour::Red), Some(Place::Centre));
        let one = Annotation { objects: a.objects[1..].to_vec(), ..a.clone() };
        let blue = fact(Class::Car, Some(Colour::Blue), Some(Place::BottomRight));
        let v = judge(&Facts { objects: vec![red, blue], ..Facts::default() }, &one);
        assert_eq!(v.objects.iter().map(|o| o.found).collect::<Vec<_>>(), [None, Some(0)]);
        // Both facts on one object while the other is free: a third car is missing.
        let v = judge(&Facts { objects: vec![any.clone(), any.clone(), any], ..Facts::default() }, &a);
        assert_eq!(v.objects.iter().filter(|o| o.right()).count(), 2);
    }

    #[test]
    fn rendered_scenes_are_right_about_their_own_captions() {
        let right = (0..60).filter(|&i| {
            let scene = Scene::sample(Split::Test, i);
            judge(&scene.full_caption().facts, &Annotation::of_render(&scene, &scene.render())).all_right()
        });
        let right = right.count();
        assert!(right >= 57, "{right} of 60");
    }
}
