//! Byte-pair encoding (Sennrich et al. 2016) over bytes, as CLIP has it.

use std::collections::HashMap;

/// What ends a word's last symbol.
pub(super) const END: &str = "</w>";

/// GPT-2's table: every byte as a printable character, so that a vocabulary is readable text.
///
/// Printable bytes stand for themselves, in three runs; the others follow from U+0100 on. This order is also the
/// order of a CLIP vocabulary's first ids.
pub(super) fn byte_symbols() -> Vec<(u8, char)> {
    let printable = (b'!'..=b'~').chain(0xa1..=0xac).chain(0xae..=0xff);
    let mut symbols: Vec<(u8, char)> = printable.map(|b| (b, char::from(b))).collect();
    let rest = (0..=255u8).filter(|b| !matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff));
    // 68 bytes remain: U+0100 to U+0143, all of them characters.
    symbols.extend(rest.zip('\u{100}'..='\u{143}'));
    symbols
}

/// Pairs of symbols by rank: the lower, the earlier they merge.
#[derive(Debug, Clone, Default)]
pub(super) struct Merges {
    ranks: HashMap<(String, String), usize>,
}

impl Merges {
    /// Adds a pair after all others.
    pub(super) fn push(&mut self, left: String, right: String) {
        let rank = self.ranks.len();
        self.ranks.insert((left, right), rank);
    }

    /// The pairs in order of rank.
    pub(super) fn pairs(&self) -> Vec<&(String, String)> {
        let mut pairs: Vec<_> = self.ranks.iter().collect();
        pairs.sort_by_key(|(_, rank)| **rank);
        pairs.into_iter().map(|(pair, _)| pair).collect()
    }

    /// The symbols of a word whose bytes are already characters: merges the pair of lowest rank, everywhere, until
    /// none is left.
    pub(super) fn split(&self, word: &str) -> Vec<String> {
        let mut symbols: Vec<String> = word.chars().map(String::from).collect();
        if let Some(last) = symbols.last_mut() {
            last.push_str(END);
        }
        loop {
            let ranked = symbols.windows(2).filter_map(|w| {
                let pair = (w[0].clone(), w[1].clone());
                self.ranks.get(&pair).map(|&rank| (rank, pair))
            });
            let Some((_, (left, right))) = ranked.min() else { return symbols };
            let mut merged = Vec::with_capacity(symbols.len());
            let mut rest = symbols.into_iter().peekable();
            while let Some(symbol) = rest.next() {
                match rest.next_if(|next| symbol == left && *next == right) {
                    Some(next) => merged.push(symbol + &next),
                    None => merged.push(symbol),
                }
            }
            symbols = merged;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_symbol_of_its_own() {
        let symbols = byte_symbols();
        let mut bytes: Vec<u8> = symbols.iter().map(|s| s.0).collect();
        let mut chars: Vec<char> = symbols.iter().map(|s| s.1).collect();
        bytes.sort_unstable();
        chars.sort_unstable();
        chars.dedup();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(chars.len(), 256);
        assert!(symbols.contains(&(b' ', '\u{120}')));
    }

    #[test]
    fn lower_ranks_merge_first_and_everywhere() {
        let mut merges = Merges::default();
        for (a, b) in [("b", "a"), ("a", "b"), ("ba", "ba</w>"), ("b", "a</w>")] {
            merges.push(a.into(), b.into());
        }
        assert_eq!(merges.split("abab"), ["a", "ba", "b</w>"]);
        assert_eq!(merges.split("baba"), ["baba</w>"]);
        assert!(merges.split("").is_empty());
    }
}
