//! The phrases that captions are made of, and the words in them.

use crate::scene::world::{Background, Class, Colour, Place, Size, Style};

/// Words and commas of a text, each on its own.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ')
        .filter(|w| !w.is_empty())
        .flat_map(|word| match word.strip_suffix(',') {
            Some("") => [Some(","), None],
            Some(bare) => [Some(bare), Some(",")],
            None => [Some(word), None],
        })
        .flatten()
}

pub(super) const OPENINGS: [&str; 4] = ["a picture of", "an image of", "there is", "we see"];
pub(super) const JOINS: [&str; 3] = ["and", "and", "with"];

pub(super) fn size_words(size: Size) -> [&'static str; 2] {
    match size {
        Size::Large => ["large", "big"],
        Size::Small => ["small", "little"],
    }
}

/// The first is the canonical phrase, and the shortest.
pub(super) fn place_phrases(place: Place) -> [&'static str; 3] {
    match place {
        Place::TopLeft => ["at the top left", "in the top left corner", "in the upper left"],
        Place::TopRight => ["at the top right", "in the top right corner", "in the upper right"],
        Place::BottomLeft => ["at the bottom left", "in the bottom left corner", "in the lower left"],
        Place::BottomRight => ["at the bottom right", "in the bottom right corner", "in the lower right"],
        Place::Centre => ["in the centre", "in the middle", "at the centre"],
    }
}

pub(super) fn background_phrases(background: Background) -> [&'static str; 2] {
    match background {
        Background::Meadow => ["on a meadow", "in a meadow"],
        Background::Beach => ["on a beach", "at the beach"],
        Background::Snow => ["in the snow", "on snow"],
        Background::Desert => ["in the desert", "in a desert"],
        Background::Sea => ["on the sea", "at sea"],
        Background::Space => ["in space", "in outer space"],
    }
}

/// The last is an opening; the others close a caption.
pub(super) fn style_phrases(style: Style) -> [&'static str; 3] {
    match style {
        Style::Flat => ["in flat style", "as a flat collage", "a flat picture of"],
        Style::Outline => ["in outline style", "as an outline drawing", "an outline picture of"],
        Style::Pixel => ["in pixel style", "as pixel art", "a pixel picture of"],
        Style::Watercolour => ["in watercolour style", "as a watercolour", "a watercolour picture of"],
        Style::Sepia => ["in sepia style", "in sepia tones", "a sepia picture of"],
        Style::Night => ["in night style", "at night", "a night picture of"],
    }
}

/// Every word that a caption can contain, sorted, the comma among them.
#[must_use]
pub fn vocabulary() -> Vec<String> {
    let mut all: Vec<&str> = vec!["a", "an", ","];
    OPENINGS.iter().chain(&JOINS).for_each(|p| all.extend(words(p)));
    Size::ALL.iter().flat_map(|&v| size_words(v)).for_each(|p| all.extend(words(p)));
    Place::ALL.iter().flat_map(|&v| place_phrases(v)).for_each(|p| all.extend(words(p)));
    Background::ALL.iter().flat_map(|&v| background_phrases(v)).for_each(|p| all.extend(words(p)));
    Style::ALL.iter().flat_map(|&v| style_phrases(v)).for_each(|p| all.extend(words(p)));
    all.extend(Class::ALL.iter().map(|v| v.name()));
    all.extend(Colour::ALL.iter().map(|v| v.name()));
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(String::from).collect()
}
