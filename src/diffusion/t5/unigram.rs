//! Unigram segmentation (Kudo 2018) as SentencePiece computes it: normalise, then the most probable split.

use super::sentencepiece::{PieceKind, SentencePiece};
use std::collections::HashMap;

/// What stands for a space within pieces.
pub(super) const SPACE: char = '\u{2581}';

/// A character that no piece covers counts this much less than the least probable piece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// A unigram model, ready to split text.
#[derive(Debug, Clone)]
pub(super) struct Unigram {
    /// Score and id of the pieces that text can become.
    pieces: HashMap<String, (f32, u32)>,
    names: Vec<String>,
    /// Bytes of the longest piece.
    longest: usize,
    unknown: u32,
    unknown_score: f32,
    rules: Rules,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
}

impl Unigram {
    pub(super) fn new(model: SentencePiece) -> Self {
        let of = |kind| model.pieces.iter().filter(move |p| p.kind == kind).map(|p| p.score);
        let least = of(PieceKind::Normal).fold(f32::INFINITY, f32::min);
        let most = of(PieceKind::Normal).fold(f32::NEG_INFINITY, f32::max);
        let mut pieces = HashMap::new();
        let mut unknown = 0;
        for (id, piece) in model.pieces.iter().enumerate() {
            let score = match piece.kind {
                PieceKind::Normal => piece.score,
                // Scored so that no split of it can win.
                PieceKind::UserDefined => piece.text.len() as f32 * most - 0.1,
                PieceKind::Unknown => {
                    unknown = id as u32;
                    continue;
                }
                PieceKind::Control | PieceKind::Unused | PieceKind::Byte => continue,
            };
            pieces.insert(piece.text.clone(), (score, id as u32));
        }
        Self {
            longest: pieces.keys().map(String::len).max().unwrap_or(0),
            names: model.pieces.into_iter().map(|p| p.text).collect(),
            pieces,
            unknown,
            unknown_score: least - UNKNOWN_PENALTY,
            rules: Rules::new(&model.charsmap),
            add_dummy_prefix: model.add_dummy_prefix,
            remove_extra_whitespaces: model.remove_extra_whitespaces,
        }
    }

    /// How many pieces the model has.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The id of a piece, of whatever kind.
    pub(super) fn id(&self, piece: &str) -> Option<u32> {
        self.names.iter().position(|name| name == piece).map(|id| id as u32)
    }

    /// The text as (id, piece) pairs; what no piece covers is one unknown piece, however long.
    pub(super) fn split(&self, text: &str) -> Vec<(u32, String)> {
        let text = self.normalise(text);
        // For every place: the best score of a split up to it, where its last piece starts, and that piece.
        let mut best: Vec<Option<(f32, usize, u32)>> = vec![None; text.len() + 1];
        best[0] = Some((0.0, 0, self.unknown));
        for (start, first) in text.char_indices() {
            let Some((score, ..)) = best[start] else { continue };
            let mut reach = |end: usize, gain: f32, id: u32| {
                let total = gain + score;
                if best[end].is_none_or(|(known, ..)| total > known) {
                    best[end] = Some((total, start, id));
                }
            };
            let single = start + first.len_utf8();
            let ends = text[start..].char_indices().map(|(i, c)| start + i + c.len_utf8());
            let mut covered = false;
            for end in ends.take_while(|end| end - start <= self.longest) {
                if let Some(&(gain, id)) = self.pieces.get(&text[start..end]) {
                    reach(end, gain, id);
                    covered |= end == single;
                }
            }
            if !covered {
                reach(single, self.unknown_score, self.unknown);
            }
        }
        let mut found: Vec<(u32, String)> = Vec::new();
        let mut end = text.len();
        while end > 0 {
            // Every place at a character's end was reached from the one before.
            let Some((_, start, id)) = best[end] else { break };
            let piece = &text[start..end];
            match found.last_mut() {
                Some((last, after)) if *last == self.unknown && id == self.unknown => after.insert_str(0, piece),
                _ => found.push((id, piece.into())),
            }
            end = start;
        }
        found.reverse();
        found
    }

    /// SentencePiece's normalisation: the rules, a space before all, spaces as [`SPACE`].
    fn normalise(&self, text: &str) -> String {
        let mut out = String::new();
        let mut after_space = self.remove_extra_whitespaces;
        let mut rest = text;
        // Within the loop a leading space vanishes too, but the dummy prefix must not be added to nothing.
        while self.remove_extra_whitespaces && !rest.is_empty() {
            let (taken, becomes) = self.rules.next(rest);
            if becomes != " " {
                break;
            }
            rest = &rest[taken..];
        }
        if rest.is_empty() {
            return out;
        }
        if self.add_dummy_prefix {
            out.push(SPACE);
        }
        while !rest.is_empty() {
            let (taken, becomes) = self.rules.next(rest);
            let kept = if after_space { becomes.trim_start_matches(' ') } else { becomes };
            if !kept.is_empty() {
                out.extend(kept.chars().map(|c| if c == ' ' { SPACE } else { c }));
                after_space = self.remove_extra_whitespaces && kept.ends_with(' ');
            }
            rest = &rest[taken..];
        }
        if self.remove_extra_whitespaces {
            out.truncate(out.trim_end_matches(SPACE).len());
        }
        out
    }
}

/// Rules of normalisation: the longest text that a rule knows is replaced.
#[derive(Debug, Clone, Default)]
struct Rules {
    /// A double-array trie (Aoe 1989) in the format of Darts-clone.
    trie: Vec<u32>,
    /// The replacements, each ended by a zero, which the trie leads to.
    texts: Vec<u8>,
}

impl Rules {
    /// From a precompiled map: the trie's size in bytes, the trie, the replacements.
    fn new(map: &[u8]) -> Self {
        let Some((size, rest)) = map.split_first_chunk::<4>() else { return Self::default() };
        let size = (u32::from_le_bytes(*size) as usize).min(rest.len());
        let (trie, texts) = rest.split_at(size);
        let word = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Self { trie: trie.chunks_exact(4).map(word).collect(), texts: texts.to_vec() }
    }

    /// How many bytes of a text (not empty) are replaced next, and by what.
    fn next<'a>(&'a self, text: &'a str) -> (usize, &'a str) {
        if let Some((length, value)) = self.longest(text.as_bytes()) {
            let found = self.texts.get(value..).unwrap_or_default();
            let end = found.iter().position(|b| *b == 0).unwrap_or(found.len());
            if let (true, Ok(becomes)) = (text.is_char_boundary(length), std::str::from_utf8(&found[..end])) {
                return (length, becomes);
            }
        }
        let single = text.chars().next().map_or(text.len(), char::len_utf8);
        (single, &text[..single])
    }

    /// The longest key that `text` begins with, and its value.
    fn longest(&self, text: &[u8]) -> Option<(usize, usize)> {
        // A unit: label in the low byte, bit 8 says that a value hangs here, the rest is where the children are.
        let offset = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let mut node = offset(*self.trie.first()?);
        let mut found = None;
        for (i, &byte) in text.iter().enumerate() {
            node ^= u32::from(byte);
            let Some(&unit) = self.trie.get(node as usize) else { break };
            if byte == 0 || unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let value = self.trie.get(node as usize).map(|leaf| leaf & !(1 << 31));
                found = value.map(|v| (i + 1, v as usize)).or(found);
            }
        }
        found
    }
}
