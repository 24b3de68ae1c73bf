//! A SentencePiece model of plain words, written as the protocol buffer that [`super::sentencepiece`] reads.

use super::sentencepiece::PieceKind;
use super::tokenizer::T5Tokenizer;
use super::unigram::SPACE;
use crate::error::{Error, Result};
use serde_json::json;
use std::path::Path;

/// Log-probability of every word. A word that is one piece always wins: any other split has at least two pieces.
const WORD: f32 = -5.0;

/// Log-probability of every single letter, which other text falls apart into.
const LETTER: f32 = -20.0;

impl T5Tokenizer {
    /// Writes a `tokenizer/` folder for plain words and opens it: each of `words` (lower case; a punctuation mark is one
    /// too) becomes one token, other lower-case text its letters, anything else the unknown token. Ids as in T5:
    /// padding 0, end 1, unknown 2; there are no sentinels.
    ///
    /// # Errors
    /// A word with a space or capitals in it; a folder that cannot be written.
    pub fn write_words<S: AsRef<str>>(words: &[S], window: usize, folder: &Path) -> Result<Self> {
        let mut pieces = vec![
            (String::from("<pad>"), 0.0, PieceKind::Control),
            ("</s>".into(), 0.0, PieceKind::Control),
            ("<unk>".into(), 0.0, PieceKind::Unknown),
        ];
        for word in words {
            let word = word.as_ref();
            if word.is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_uppercase() || c == SPACE) {
                return Err(Error::invalid(format!("word {word:?}: expected one word in lower case")));
            }
            // Punctuation follows a word without a space.
            let letters = word.chars().any(char::is_alphanumeric);
            let text = if letters { format!("{SPACE}{word}") } else { word.to_string() };
            pieces.push((text, WORD, PieceKind::Normal));
        }
        let letters = [SPACE].into_iter().chain('a'..='z').map(String::from);
        for letter in letters {
            if !pieces.iter().any(|p| p.0 == letter) {
                pieces.push((letter, LETTER, PieceKind::Normal));
            }
        }
        let specials = json!({"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"});
        let mut config = specials.clone();
        config["tokenizer_class"] = json!("T5Tokenizer");
        config["model_max_length"] = json!(window);
        config["extra_ids"] = json!(0);
        config["additional_special_tokens"] = json!([]);
        config["legacy"] = json!(true);
        let files = [
            ("spiece.model", model(&pieces)),
            ("special_tokens_map.json", format!("{specials:#}\n").into_bytes()),
            ("tokenizer_config.json", format!("{config:#}\n").into_bytes()),
        ];
        std::fs::create_dir_all(folder).map_err(Error::file(folder))?;
        for (name, content) in files {
            let (path, partial) = (folder.join(name), folder.join(format!("{name}.partial")));
            std::fs::write(&partial, content).map_err(Error::file(&partial))?;
            std::fs::rename(&partial, &path).map_err(Error::file(&path))?;
        }
        Self::open(folder)
    }
}

/// The model: pieces (field 1), a unigram trainer (2), and a normalisation (3) that puts a space before a text and makes
/// one of several.
fn model(pieces: &[(String, f32, PieceKind)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (text, score, kind) in pieces {
        let kind = match kind {
            PieceKind::Normal => 1,
            PieceKind::Unknown => 2,
            PieceKind::Control => 3,
            PieceKind::UserDefined => 4,
            PieceKind::Unused => 5,
            PieceKind::Byte => 6,
        };
        let score = [&[2 << 3 | 5], &score.to_le_bytes()[..]].concat();
        field(&mut out, 1, &[message(1, text.as_bytes()), score, number(3, kind)].concat());
    }
    let specials = [(40, 2), (41, -1), (42, 1), (43, 0)].map(|(name, id)| number(name, id)); // unknown, start, end, padding
    field(&mut out, 2, &[number(3, 1), number(4, pieces.len() as i32), specials.concat()].concat());
    field(&mut out, 3, &[message(1, b"identity"), number(3, 1), number(4, 1), number(5, 1)].concat());
    out
}

/// A field with bytes.
fn message(name: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, name, content);
    out
}

fn field(out: &mut Vec<u8>, name: u32, content: &[u8]) {
    varint(out, u64::from(name << 3 | 2));
    varint(out, content.len() as u64);
    out.extend(content);
}

/// A field with a number; a negative one has ten bytes.
fn number(name: u32, value: i32) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, u64::from(name << 3));
    varint(&mut out, i64::from(value) as u64);
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_tokens_and_the_rest_falls_apart() {
        let folder = tempfile::tempdir().unwrap();
        let words = ["a", "red", "tree", "tre", ","];
        let t = T5Tokenizer::write_words(&words, 10, folder.path()).unwrap();
        let pieces = |text: &str| t.pieces(text).unwrap().into_iter().map(|p| p.1).collect::<Vec<_>>();
        assert_eq!(pieces("a red tree, a  tre"), ["▁a", "▁red", "▁tree", ",", "▁a", "▁tre"]);
        assert_eq!(pieces("trees"), ["▁tree", "s"]);
        assert_eq!(pieces("xa"), ["▁", "x", "a"]);
        let e = t.encode("red tree").unwrap();
        assert_eq!((e.ids, e.used), (vec![4, 5, 1, 0, 0, 0, 0, 0, 0, 0], 3));
        assert_eq!(t.window(), 10);
        assert_eq!(t.vocab_size(), 3 + words.len() + 27);
        assert!(T5Tokenizer::write_words(&["Red"], 10, folder.path()).is_err());
    }
}
