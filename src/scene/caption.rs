//! Plain English captions of scenes, with the facts that they state and the words that state them.

mod phrases;
mod read;

pub use phrases::vocabulary;

use super::sample::Scene;
use super::world::{Background, Class, Colour, Place, Size, Style};
use crate::random::Stream;
use phrases::{JOINS, OPENINGS, background_phrases, place_phrases, size_words, style_phrases, words};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Longest caption in words, commas counted.
const MAX_WORDS: usize = 28;

/// A caption. Words are what [`Caption::words`] yields: commas count as words of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Caption {
    /// The text, lower case.
    pub text: String,
    /// Which words speak of what, in order of their start.
    pub spans: Vec<Span>,
    /// What is stated.
    pub facts: Facts,
}

/// A range of words and what it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Indices of words.
    pub words: Range<usize>,
    /// What they state.
    pub topic: Topic,
}

/// What words are about; a number is the index of an object in the scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Topic {
    /// The whole phrase of an object.
    Object(usize),
    /// The word for its size.
    Size(usize),
    /// The word for its colour.
    Colour(usize),
    /// The word for its class.
    Class(usize),
    /// The words for its place.
    Place(usize),
    /// The words for the background.
    Background,
    /// The words for the style.
    Style,
}

/// What a caption states about a scene.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// About the objects, in the order in which they are named.
    pub objects: Vec<ObjectFacts>,
    /// About the background.
    pub background: Option<Background>,
    /// About the style.
    pub style: Option<Style>,
}

/// What a caption states about one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectFacts {
    /// Which object of the scene.
    pub object: usize,
    /// What it is.
    pub class: Class,
    /// Its colour, if stated.
    pub colour: Option<Colour>,
    /// Its place, if stated.
    pub place: Option<Place>,
    /// Its size, if stated.
    pub size: Option<Size>,
}

impl Caption {
    /// The words and commas of the text.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        words(&self.text)
    }
}

/// Everything that is chosen about a caption before it is written.
struct Plan {
    opening: Option<&'static str>,
    style_opens: bool,
    order: Vec<Saying>,
    join: &'static str,
    comma: bool,
    style_first: bool,
    background: Option<&'static str>,
    style: Option<&'static str>,
}

struct Saying {
    object: usize,
    size: Option<&'static str>,
    colour: bool,
    place: Option<&'static str>,
}

impl Scene {
    /// The canonical caption: everything stated, objects in their order.
    #[must_use]
    pub fn full_caption(&self) -> Caption {
        let order = self.objects.iter().enumerate().map(|(object, o)| Saying {
            object,
            size: Some(size_words(o.size)[0]),
            colour: true,
            place: Some(place_phrases(o.place)[0]),
        });
        let plan = Plan {
            opening: None,
            style_opens: false,
            order: order.collect(),
            join: "and",
            comma: true,
            style_first: false,
            background: Some(background_phrases(self.background)[0]),
            style: Some(style_phrases(self.style)[0]),
        };
        self.write(&plan)
    }

    /// A caption in a random phrasing that may leave facts out (never a class, rarely a colour).
    #[must_use]
    pub fn caption(&self, s: &mut Stream) -> Caption {
        let mut order: Vec<Saying> = self
            .objects
            .iter()
            .enumerate()
            .map(|(object, o)| {
                let size = *s.pick(&size_words(o.size));
                // The first phrase half of the time, the other two a quarter each.
                let place = place_phrases(o.place)[*s.pick(&[0, 0, 1, 2])];
                Saying {
                    object,
                    size: (!s.chance(0.3)).then_some(size),
                    colour: !s.chance(0.05),
                    place: (!s.chance(0.15)).then_some(place),
                }
            })
            .collect();
        if s.chance(0.5) {
            order.reverse();
        }
        let background = *s.pick(&background_phrases(self.background));
        let phrases = style_phrases(self.style);
        let opening = *s.pick(&OPENINGS);
        let join = *s.pick(&JOINS);
        let style_opens = s.chance(0.15);
        let mut plan = Plan {
            opening: s.chance(0.4).then_some(opening),
            style_opens,
            order,
            join,
            comma: s.chance(0.8),
            style_first: s.chance(0.25),
            background: (!s.chance(0.2)).then_some(background),
            style: (!s.chance(0.2)).then_some(if style_opens { phrases[2] } else { phrases[s.below(2)] }),
        };
        let caption = self.write(&plan);
        if caption.words().count() <= MAX_WORDS {
            return caption;
        }
        // Too long: the shortest phrases for places, and no opening.
        plan.opening = None;
        for saying in &mut plan.order {
            let place = self.objects[saying.object].place;
            saying.place = saying.place.map(|_| place_phrases(place)[0]);
        }
        self.write(&plan)
    }

    fn write(&self, plan: &Plan) -> Caption {
        let mut w = Writer::default();
        let opens = plan.style.filter(|_| plan.style_opens);
        if let Some(style) = opens {
            w.say(style, &[Topic::Style]);
            w.facts.style = Some(self.style);
        } else if let Some(opening) = plan.opening {
            w.say(opening, &[]);
        }
        for (n, saying) in plan.order.iter().enumerate() {
            if n > 0 {
                w.say(plan.join, &[]);
            }
            self.write_object(&mut w, saying);
        }
        let background = plan.background.map(|phrase| (phrase, Topic::Background));
        let style = plan.style.filter(|_| !plan.style_opens).map(|phrase| (phrase, Topic::Style));
        let tail = if plan.style_first { [style, background] } else { [background, style] };
        for (phrase, topic) in tail.into_iter().flatten() {
            if plan.comma {
                w.say(",", &[]);
            }
            w.say(phrase, &[topic]);
            match topic {
                Topic::Background => w.facts.background = Some(self.background),
                _ => w.facts.style = Some(self.style),
            }
        }
        w.finish()
    }

    fn write_object(&self, w: &mut Writer, saying: &Saying) {
        let (object, index) = (&self.objects[saying.object], saying.object);
        let start = w.words.len();
        let colour = saying.colour.then(|| object.colour.name());
        let next = saying.size.or(colour).unwrap_or(object.class.name());
        w.say(if next.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }, &[]);
        if let Some(size) = saying.size {
            w.say(size, &[Topic::Size(index)]);
        }
        if let Some(colour) = colour {
            w.say(colour, &[Topic::Colour(index)]);
        }
        w.say(object.class.name(), &[Topic::Class(index)]);
        if let Some(place) = saying.place {
            w.say(place, &[Topic::Place(index)]);
        }
        w.spans.push(Span { words: start..w.words.len(), topic: Topic::Object(index) });
        w.facts.objects.push(ObjectFacts {
            object: index,
            class: object.class,
            colour: colour.map(|_| object.colour),
            place: saying.place.map(|_| object.place),
            size: saying.size.map(|_| object.size),
        });
    }
}

#[derive(Default)]
struct Writer {
    words: Vec<&'static str>,
    spans: Vec<Span>,
    facts: Facts,
}

impl Writer {
    fn say(&mut self, phrase: &'static str, topics: &[Topic]) {
        let start = self.words.len();
        self.words.extend(words(phrase));
        self.spans.extend(topics.iter().map(|&topic| Span { words: start..self.words.len(), topic }));
    }

    fn finish(mut self) -> Caption {
        // Whole phrases before the words in them.
        self.spans.sort_by_key(|span| (span.words.start, usize::MAX - span.words.end));
        let mut text = String::new();
        for word in self.words {
            if !text.is_empty() && word != "," {
                text.push(' ');
            }
            text.push_str(word);
        }
        Caption { text, spans: self.spans, facts: self.facts }
    }
}
