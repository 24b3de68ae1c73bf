//! The masks of a rendered scene, exact and by vocabulary.

use super::label::{LabelledMask, Vocabulary};
use crate::scene::{Mask, Render, Scene, Size};

/// The masks of `render` with their labels, in the vocabularies asked for; masks without a pixel are left out.
///
/// Class: an object's visible pixels. Colour: those painted with the named colour. Part: each part of each object.
/// Background: what no object covers. Style: the whole picture. Shadow: cast shadow. Depth: objects that are
/// `near` (large) or `far` (small).
#[must_use]
pub fn masks(scene: &Scene, render: &Render, vocabularies: &[Vocabulary]) -> Vec<LabelledMask> {
    let mut found = Vec::new();
    let mut add = |vocabulary, word: &str, mask: &Mask| {
        if vocabularies.contains(&vocabulary) && !mask.is_empty() {
            found.push(LabelledMask::new(vocabulary, word, mask.clone()));
        }
    };
    for truth in &render.objects {
        let object = &truth.object;
        add(Vocabulary::Class, object.class.name(), &truth.mask);
        add(Vocabulary::Colour, object.colour.name(), &truth.coloured);
        for (part, mask) in &truth.parts {
            add(Vocabulary::Part, part.name(), mask);
        }
        let depth = if object.size == Size::Large { "near" } else { "far" };
        add(Vocabulary::Depth, depth, &truth.mask);
    }
    let (width, height) = (render.image.width() as usize, render.image.height() as usize);
    let backdrop = Mask::from_fn(width, height, |x, y| render.object_map[y * width + x] == 0);
    add(Vocabulary::Background, scene.background.name(), &backdrop);
    add(Vocabulary::Style, scene.style.name(), &Mask::from_fn(width, height, |_, _| true));
    add(Vocabulary::Shadow, "shadow", &render.shadow);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::{Background, Class, Colour, Object, Place, Style};

    #[test]
    fn every_vocabulary_has_its_masks() {
        let house = Object::new(Class::House, Colour::Red, Place::TopLeft, Size::Large);
        let fish = Object::new(Class::Fish, Colour::Blue, Place::BottomRight, Size::Small);
        let scene = Scene::new(vec![house, fish], Background::Meadow, Style::Sepia);
        let render = scene.render();
        let all = masks(&scene, &render, &Vocabulary::ALL);
        let area = |v, word: &str| -> usize {
            all.iter().filter(|m| m.label.vocabulary == v && m.label.word == word).map(|m| m.mask.area()).sum()
        };
        let (house, fish) = (area(Vocabulary::Class, "house"), area(Vocabulary::Class, "fish"));
        assert!(house > fish && fish > 0);
        assert_eq!(area(Vocabulary::Background, "meadow"), 64 * 64 - house - fish);
        assert_eq!(area(Vocabulary::Style, "sepia"), 64 * 64);
        assert_eq!((area(Vocabulary::Depth, "near"), area(Vocabulary::Depth, "far")), (house, fish));
        let parts: usize = all.iter().filter(|m| m.label.vocabulary == Vocabulary::Part).map(|m| m.mask.area()).sum();
        assert_eq!(parts, house + fish);
        assert!(area(Vocabulary::Part, "roof") > 0 && area(Vocabulary::Shadow, "shadow") > 0);
        assert!((1..house).contains(&area(Vocabulary::Colour, "red")));
        let classes = masks(&scene, &render, &[Vocabulary::Class]);
        assert_eq!(classes.len(), 2);
    }
}
