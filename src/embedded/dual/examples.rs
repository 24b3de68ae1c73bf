//! What the dual encoder learns from: scenes in groups that differ in one fact, and captions that say more or less.
//!
//! Captions of random scenes are told apart by any one of their facts; those of a group only by the one that differs.
//! A caption that leaves that fact out is true of other pictures, too: [`holds`] says of which.

use crate::random::Stream;
use crate::scene::{Background, Caption, Class, Colour, Facts, ObjectFacts, Place, Scene, Style, Topic};

/// Attempts at drawing a variation.
const ATTEMPTS: usize = 40;

/// `scene` with one fact changed: a class, colour, place, background or style, or colours or places of two objects
/// exchanged.
pub(super) fn variation(scene: &Scene, s: &mut Stream) -> Scene {
    for _ in 0..ATTEMPTS {
        let mut other = scene.clone();
        if change(&mut other, s) && other != *scene {
            return other;
        }
    }
    // Of a style there is always another.
    let mut other = scene.clone();
    other.style = Style::ALL[(scene.style.index() + 1) % Style::COUNT];
    other
}

/// Changes one fact; false if the objects then have no room.
fn change(scene: &mut Scene, s: &mut Stream) -> bool {
    let (n, which) = (scene.objects.len(), s.below(scene.objects.len()));
    let elsewhere = |scene: &Scene, place: Place| scene.objects.iter().any(|o| o.place == place);
    match s.below(if n == 2 { 7 } else { 5 }) {
        0 => {
            let class = *s.pick(Class::ALL);
            if scene.objects.iter().any(|o| o.class == class) {
                return false;
            }
            scene.objects[which].class = class;
            scene.redraw(which, s)
        }
        1 => {
            scene.objects[which].colour = *s.pick(Colour::ALL);
            true
        }
        2 => {
            let place = *s.pick(Place::ALL);
            if elsewhere(scene, place) {
                return false;
            }
            scene.objects[which].place = place;
            scene.redraw(which, s)
        }
        3 => {
            scene.background = *s.pick(Background::ALL);
            true
        }
        4 => {
            scene.style = *s.pick(Style::ALL);
            true
        }
        5 => {
            let (a, b) = scene.objects.split_at_mut(1);
            std::mem::swap(&mut a[0].colour, &mut b[0].colour);
            true
        }
        _ => {
            let (a, b) = scene.objects.split_at_mut(1);
            std::mem::swap(&mut a[0].place, &mut b[0].place);
            // One after the other: the first is in the second's way until both have moved.
            scene.redraw_all(s)
        }
    }
}

/// A caption of the training: three of five whole, the others of some facts or a bare word.
pub(super) fn caption(scene: &Scene, s: &mut Stream) -> (String, Facts) {
    let whole = if s.chance(0.4) { scene.full_caption() } else { scene.caption(s) };
    if s.chance(0.6) {
        return (whole.text, whole.facts);
    }
    let (text, facts) = if s.chance(0.7) { some_of(&whole, s) } else { word(scene, s) };
    if !s.chance(0.3) {
        return (text, facts);
    }
    let article = text.starts_with("a ") || text.starts_with("an ");
    (format!("a picture {}{text}", if article { "of " } else { "" }), facts)
}

/// One or more of a caption's phrases about an object, the background or the style.
fn some_of(whole: &Caption, s: &mut Stream) -> (String, Facts) {
    let words: Vec<&str> = whole.words().collect();
    let phrases: Vec<_> = whole
        .spans
        .iter()
        .filter(|span| matches!(span.topic, Topic::Object(_) | Topic::Background | Topic::Style))
        .collect();
    let certain = s.below(phrases.len());
    let (mut texts, mut facts) = (Vec::new(), Facts::default());
    for (i, span) in phrases.into_iter().enumerate() {
        if i != certain && !s.chance(0.3) {
            continue;
        }
        texts.push(words[span.words.clone()].join(" "));
        match span.topic {
            Topic::Background => facts.background = whole.facts.background,
            Topic::Style => facts.style = whole.facts.style,
            Topic::Object(object) => {
                facts.objects.extend(whole.facts.objects.iter().find(|f| f.object == object).cloned())
            }
            _ => {}
        }
    }
    (texts.join(", "), facts)
}

/// The bare name of something in the scene.
fn word(scene: &Scene, s: &mut Stream) -> (String, Facts) {
    let mut facts = Facts::default();
    let text = match s.below(4) {
        0 => {
            facts.style = Some(scene.style);
            scene.style.name().to_string()
        }
        1 => {
            facts.background = Some(scene.background);
            scene.background.name().to_string()
        }
        kind => {
            let index = s.below(scene.objects.len());
            let object = &scene.objects[index];
            let colour = (kind == 3).then_some(object.colour);
            facts.objects.push(ObjectFacts { object: index, class: object.class, colour, place: None, size: None });
            colour.map(|c| format!("{c} ")).unwrap_or_default() + object.class.name()
        }
    };
    (text, facts)
}

/// Whether all that is stated is true of a scene: every named object is another one of its objects.
pub(super) fn holds(facts: &Facts, scene: &Scene) -> bool {
    let unlike = |stated: Option<usize>, found: usize| stated.is_some_and(|s| s != found);
    if unlike(facts.background.map(Background::index), scene.background.index())
        || unlike(facts.style.map(Style::index), scene.style.index())
    {
        return false;
    }
    // Classes differ within a scene, so that a fact has one object at most.
    facts.objects.iter().all(|f| {
        scene.objects.iter().any(|o| {
            o.class == f.class
                && f.colour.is_none_or(|c| c == o.colour)
                && f.place.is_none_or(|p| p == o.place)
                && f.size.is_none_or(|x| x == o.size)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;
    use crate::scene::Split;

    #[test]
    fn variations_differ_in_one_fact_or_in_one_exchange() {
        let mut kinds = std::collections::HashMap::new();
        for i in 0..400 {
            let scene = Scene::sample(Split::Train, i);
            let other = variation(&scene, &mut stream(1, "variation", i));
            let count = |f: &dyn Fn(usize) -> bool| (0..scene.objects.len()).filter(|&o| f(o)).count();
            let (a, b) = (&scene.objects, &other.objects);
            let differ = [
                count(&|o| a[o].class != b[o].class),
                count(&|o| a[o].colour != b[o].colour),
                count(&|o| a[o].place != b[o].place),
                usize::from(scene.background != other.background),
                usize::from(scene.style != other.style),
            ];
            assert_eq!(differ.iter().filter(|d| **d > 0).count(), 1, "{differ:?}");
            assert!(!holds(&scene.full_caption().facts, &other) && !holds(&other.full_caption().facts, &scene));
            *kinds.entry(differ).or_insert(0) += 1;
        }
        // Five single changes and two exchanges.
        assert_eq!(kinds.len(), 7, "{kinds:?}");
    }

    #[test]
    fn captions_are_true_of_their_scene_and_within_the_vocabulary() {
        let (mut short, mut styles) = (0, 0);
        for i in 0..600 {
            let scene = Scene::sample(Split::Test, i);
            let (text, facts) = caption(&scene, &mut stream(2, "caption", i));
            assert!(holds(&facts, &scene), "{text}");
            assert!(!text.is_empty());
            let known = crate::scene::vocabulary();
            for word in text.split([' ', ',']).filter(|w| !w.is_empty()) {
                assert!(known.iter().any(|k| k == word), "{word:?} in {text:?}");
            }
            short += usize::from(text.split(' ').count() < 6);
            let only_style = Facts { style: facts.style, ..Facts::default() };
            styles += usize::from(facts.style.is_some() && facts == only_style);
        }
        assert!(short > 60 && styles > 20, "{short} short captions, {styles} of a style alone");
    }

    #[test]
    fn what_is_left_out_may_be_anything() {
        let scene = Scene::sample(Split::Train, 3);
        let mut facts = scene.full_caption().facts;
        let mut other = scene.clone();
        other.background = Background::ALL[(scene.background.index() + 1) % Background::COUNT];
        assert!(holds(&facts, &scene) && !holds(&facts, &other));
        facts.background = None;
        assert!(holds(&facts, &other));
        facts.objects[0].colour = Some(Colour::ALL[(scene.objects[0].colour.index() + 1) % Colour::COUNT]);
        assert!(!holds(&facts, &other));
    }
}
