//! Labels and the masks that carry them.

use crate::error::{Error, Result};
use crate::scene::Mask;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The kind of thing that a label names. One word may occur in several (`window` of a house and of a car is one part,
/// `centre` could be a part or a place).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vocabulary {
    /// What an object is: house, tree.
    Class,
    /// The colour of an object.
    Colour,
    /// A part of an object: roof, trunk.
    Part,
    /// What lies behind the objects: meadow, sea.
    Background,
    /// What the whole picture is made like: sepia, pixel.
    Style,
    /// Cast shadow.
    Shadow,
    /// Near or far.
    Depth,
}

impl Vocabulary {
    /// All of them.
    pub const ALL: [Vocabulary; 7] = [
        Vocabulary::Class,
        Vocabulary::Colour,
        Vocabulary::Part,
        Vocabulary::Background,
        Vocabulary::Style,
        Vocabulary::Shadow,
        Vocabulary::Depth,
    ];

    /// `class`, `colour`, `part`, `background`, `style`, `shadow` or `depth`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Vocabulary::Class => "class",
            Vocabulary::Colour => "colour",
            Vocabulary::Part => "part",
            Vocabulary::Background => "background",
            Vocabulary::Style => "style",
            Vocabulary::Shadow => "shadow",
            Vocabulary::Depth => "depth",
        }
    }
}

impl fmt::Display for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Vocabulary {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let known = Vocabulary::ALL;
        let found = known.into_iter().find(|v| v.name() == s);
        found.ok_or_else(|| Error::unknown("vocabulary", s, known.map(Vocabulary::name)))
    }
}

/// A word and the vocabulary that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Label {
    /// The word.
    pub word: String,
    /// Its kind.
    pub vocabulary: Vocabulary,
}

impl Label {
    /// The label `word` of a vocabulary.
    pub fn new(vocabulary: Vocabulary, word: impl Into<String>) -> Self {
        Self { word: word.into(), vocabulary }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.word)
    }
}

/// The pixels of a picture that a label holds for.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledMask {
    /// The label.
    pub label: Label,
    /// The pixels.
    pub mask: Mask,
}

impl LabelledMask {
    /// `mask`, labelled with `word`.
    pub fn new(vocabulary: Vocabulary, word: impl Into<String>, mask: Mask) -> Self {
        Self { label: Label::new(vocabulary, word), mask }
    }
}
