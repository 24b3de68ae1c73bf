//! Facts from text: what a prompt in the words of the scene world asks for.

use super::phrases::{background_phrases, place_phrases, size_words, style_phrases, vocabulary, words};
use super::{Facts, ObjectFacts};
use crate::error::{Error, Result};
use crate::scene::world::{Background, Class, Colour, Place, Size, Style};
use std::str::FromStr;

/// What a phrase says.
#[derive(Clone, Copy)]
enum Meaning {
    Size(Size),
    Colour(Colour),
    Class(Class),
    Place(Place),
    Background(Background),
    Style(Style),
}

/// Every phrase as words, the longest first.
fn lexicon() -> Vec<(Vec<&'static str>, Meaning)> {
    let mut all = Vec::new();
    let mut add = |phrase, meaning| all.push((words(phrase).collect::<Vec<_>>(), meaning));
    Size::ALL.iter().for_each(|&v| size_words(v).into_iter().for_each(|p| add(p, Meaning::Size(v))));
    Colour::ALL.iter().for_each(|&v| add(v.name(), Meaning::Colour(v)));
    Class::ALL.iter().for_each(|&v| add(v.name(), Meaning::Class(v)));
    Place::ALL.iter().for_each(|&v| place_phrases(v).into_iter().for_each(|p| add(p, Meaning::Place(v))));
    Background::ALL
        .iter()
        .for_each(|&v| background_phrases(v).into_iter().for_each(|p| add(p, Meaning::Background(v))));
    Style::ALL.iter().for_each(|&v| style_phrases(v).into_iter().for_each(|p| add(p, Meaning::Style(v))));
    all.sort_by_key(|(phrase, _)| usize::MAX - phrase.len());
    all
}

impl FromStr for Facts {
    type Err = Error;

    /// Read what a prompt states; objects are numbered in the order in which they are named.
    ///
    /// ```
    /// use denoscope::scene::{Class, Colour, Facts, Place};
    ///
    /// let facts: Facts = "a red house at the top left and a cat, in the snow".parse()?;
    /// assert_eq!(facts.objects[0].colour, Some(Colour::Red));
    /// assert_eq!(facts.objects[0].place, Some(Place::TopLeft));
    /// assert_eq!((facts.objects[1].class, facts.objects[1].colour), (Class::Cat, None));
    /// # Ok::<(), denoscope::Error>(())
    /// ```
    ///
    /// # Errors
    /// On a word outside [`vocabulary`], and on a size, colour or place that belongs to no object.
    fn from_str(text: &str) -> Result<Facts> {
        let text = text.to_lowercase();
        let text: Vec<&str> = words(text.trim_end_matches('.')).collect();
        let (lexicon, known) = (lexicon(), vocabulary());
        let mut facts = Facts::default();
        let (mut size, mut colour) = (None, None);
        let mut at = 0;
        while at < text.len() {
            let Some((phrase, meaning)) = lexicon.iter().find(|(phrase, _)| text[at..].starts_with(phrase)) else {
                if !known.iter().any(|word| word == text[at]) {
                    return Err(Error::unknown("caption word", text[at], &known));
                }
                at += 1;
                continue;
            };
            at += phrase.len();
            match *meaning {
                Meaning::Size(v) => size = Some(v),
                Meaning::Colour(v) => colour = Some(v),
                Meaning::Background(v) => facts.background = Some(v),
                Meaning::Style(v) => facts.style = Some(v),
                Meaning::Class(class) => {
                    let object = facts.objects.len();
                    facts.objects.push(ObjectFacts {
                        object,
                        class,
                        colour: colour.take(),
                        place: None,
                        size: size.take(),
                    });
                }
                Meaning::Place(v) => match facts.objects.last_mut() {
                    Some(object) => object.place = Some(v),
                    None => return Err(Error::invalid(format!("place {:?} comes before any object", v.name()))),
                },
            }
        }
        match (size, colour) {
            (None, None) => Ok(facts),
            (Some(v), _) => Err(Error::invalid(format!("size {:?} belongs to no object", v.name()))),
            (_, Some(v)) => Err(Error::invalid(format!("colour {:?} belongs to no object", v.name()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;
    use crate::scene::{Scene, Split};

    #[test]
    fn captions_read_back_as_their_facts() {
        for i in 0..2000 {
            let scene = Scene::sample(Split::Validation, i);
            for caption in [scene.full_caption(), scene.caption(&mut stream(2, "caption", i))] {
                let mut expected = caption.facts.clone();
                expected.objects.iter_mut().enumerate().for_each(|(n, o)| o.object = n);
                assert_eq!(caption.text.parse::<Facts>().unwrap(), expected, "{}", caption.text);
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let error = |text: &str| text.parse::<Facts>().unwrap_err().to_string();
        assert!(error("a red hose").contains("no caption word named \"hose\"; nearest: house"));
        assert!(error("a red").contains("colour \"red\" belongs to no object"));
        assert!(error("at the top left a house").contains("before any object"));
    }
}
