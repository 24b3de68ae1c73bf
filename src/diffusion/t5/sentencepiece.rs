//! `spiece.model`: a SentencePiece model, read from its protocol buffer.
//!
//! Of the format only what inference needs: pieces with their scores, the kind of model, and the normalisation. Field
//! numbers are those of SentencePiece's `sentencepiece_model.proto`.

use crate::error::{Error, Result};
use std::path::Path;

/// What a piece is, by its number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// A piece of text.
    Normal,
    /// What stands for anything that no piece covers.
    Unknown,
    /// A token that no text becomes, as the end.
    Control,
    /// A piece that is always kept whole.
    UserDefined,
    /// In the table, but not used.
    Unused,
    /// One byte.
    Byte,
}

/// A piece of the vocabulary; its id is its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

/// What a SentencePiece model says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SentencePiece {
    pub(super) pieces: Vec<Piece>,
    /// Rules of normalisation: a double-array trie and the texts that it leads to.
    pub(super) charsmap: Vec<u8>,
    /// Whether a text begins with a space.
    pub(super) add_dummy_prefix: bool,
    /// Whether spaces at the ends go and runs of spaces become one.
    pub(super) remove_extra_whitespaces: bool,
}

/// A value in a message.
enum Value<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

impl Value<'_> {
    fn flag(&self) -> bool {
        matches!(self, Value::Varint(n) if *n != 0)
    }
}

/// Splits a message into its numbered fields.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    fn varint(bytes: &mut &[u8]) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = bytes.split_first()?;
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => {
                bytes = bytes.get(8..)?;
                Value::Fixed64
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (part, rest) = (bytes.get(..length)?, bytes.get(length..)?);
                bytes = rest;
                Value::Bytes(part)
            }
            5 => {
                let (part, rest) = bytes.split_first_chunk::<4>()?;
                bytes = rest;
                Value::Fixed32(*part)
            }
            _ => return None,
        };
        found.push((key >> 3, value));
    }
    Some(found)
}

impl SentencePiece {
    /// Reads a model file.
    ///
    /// # Errors
    /// A file that is missing, truncated or no SentencePiece model; a model that is not a unigram model, or falls
    /// back to bytes.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::file(path))?;
        Self::parse(&bytes).map_err(|problem| Error::format(path, problem))
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        const BROKEN: &str = "truncated, or not a SentencePiece model";
        let mut model =
            Self { pieces: Vec::new(), charsmap: Vec::new(), add_dummy_prefix: true, remove_extra_whitespaces: true };
        for (field, value) in fields(bytes).ok_or(BROKEN)? {
            match (field, value) {
                (1, Value::Bytes(piece)) => model.pieces.push(Self::piece(piece).ok_or(BROKEN)?),
                (2, Value::Bytes(spec)) => Self::trainer(spec)?,
                (3, Value::Bytes(spec)) => model.normalizer(spec)?,
                _ => {}
            }
        }
        let unknown = model.pieces.iter().filter(|p| p.kind == PieceKind::Unknown).count();
        if unknown != 1 {
            return Err(format!("{BROKEN}: {} pieces, {unknown} of them for the unknown", model.pieces.len()));
        }
        Ok(model)
    }

    fn piece(bytes: &[u8]) -> Option<Piece> {
        let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceKind::Normal };
        for (field, value) in fields(bytes)? {
            match (field, value) {
                (1, Value::Bytes(text)) => piece.text = std::str::from_utf8(text).ok()?.into(),
                (2, Value::Fixed32(score)) => piece.score = f32::from_le_bytes(score),
                (3, Value::Varint(kind)) => {
                    piece.kind = match kind {
                        1 => PieceKind::Normal,
                        2 => PieceKind::Unknown,
                        3 => PieceKind::Control,
                        4 => PieceKind::UserDefined,
                        5 => PieceKind::Unused,
                        6 => PieceKind::Byte,
                        _ => return None,
                    }
                }
                _ => {}
            }
        }
        Some(piece)
    }

    /// Refuses models that are encoded in another way.
    fn trainer(bytes: &[u8]) -> Result<(), String> {
        for (field, value) in fields(bytes).ok_or("truncated")? {
            match (field, &value) {
                (3, Value::Varint(kind)) if *kind != 1 => {
                    return Err(format!("model_type = {kind} is not supported: expected 1, a unigram model"));
                }
                (24, _) if value.flag() => return Err("treat_whitespace_as_suffix is not supported".into()),
                (35, _) if value.flag() => return Err("byte_fallback is not supported".into()),
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, bytes: &[u8]) -> Result<(), String> {
        for (field, value) in fields(bytes).ok_or("truncated")? {
            match (field, &value) {
                (2, Value::Bytes(map)) => self.charsmap = map.to_vec(),
                (3, _) => self.add_dummy_prefix = value.flag(),
                (4, _) => self.remove_extra_whitespaces = value.flag(),
                (5, _) if !value.flag() => return Err("escape_whitespaces = false is not supported".into()),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that holds bytes.
    fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
        [&[field << 3 | 2, content.len() as u8], content].concat()
    }

    fn model() -> Vec<u8> {
        let unknown = [bytes(1, b"<unk>"), vec![3 << 3, 2]].concat();
        let normal = [bytes(1, "▁a".as_bytes()), vec![2 << 3 | 5], (-1.5f32).to_le_bytes().to_vec()].concat();
        [bytes(1, &unknown), bytes(1, &normal), bytes(3, &[3 << 3, 0])].concat()
    }

    #[test]
    fn messages_are_read() {
        let read = SentencePiece::parse(&model()).unwrap();
        assert_eq!(read.pieces[1], Piece { text: "▁a".into(), score: -1.5, kind: PieceKind::Normal });
        assert_eq!(read.pieces[0].kind, PieceKind::Unknown);
        assert!(!read.add_dummy_prefix && read.remove_extra_whitespaces);
    }

    #[test]
    fn faults_are_named() {
        let whole = model();
        let fault = |bytes: &[u8]| SentencePiece::parse(bytes).unwrap_err();
        assert!(fault(&whole[..whole.len() - 1]).contains("truncated"));
        assert!(fault(b"").contains("0 pieces"));
        assert!(fault(&[whole.clone(), bytes(2, &[3 << 3, 2])].concat()).contains("model_type = 2"));
        // Field 35 needs a key of two bytes.
        let fallback = [0x98, 0x02, 1];
        assert!(fault(&[whole.clone(), bytes(2, &fallback)].concat()).contains("byte_fallback"));
        assert!(fault(&[whole, bytes(3, &[5 << 3, 0])].concat()).contains("escape_whitespaces"));
    }
}
