//! Text to token ids.

use super::bpe::{END, Merges, byte_symbols};
use super::vocabulary::{Files, Specials};
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::path::Path;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    SplitDelimiterBehavior,
};

/// What counts as one word: contractions, runs of letters, single digits, runs of anything else.
const WORD: &str = r"(?i)<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// CLIP's tokenizer, from the files of a `tokenizer/` folder: gives the ids that transformers' `CLIPTokenizer` gives.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    ids: HashMap<String, u32>,
    names: HashMap<u32, String>,
    merges: Merges,
    /// Tokens found in text before anything else, longest first.
    added: Vec<(String, u32)>,
    start: u32,
    end: u32,
    pad: u32,
    unknown: u32,
    window: usize,
    symbols: [char; 256],
    words: Split,
}

/// A prompt as the text encoder takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Exactly [`Tokenizer::window`] ids: start, text, end, padding.
    pub ids: Vec<u32>,
    /// How many of them come before the padding.
    pub used: usize,
    /// The text beyond the window, if there was any.
    pub lost: Option<String>,
}

impl Encoded {
    /// The ids of some texts as they go into an encoder, `[texts, window]`, and their mask (1 = a token, 0 = padding).
    ///
    /// # Errors
    /// Texts of different windows.
    pub fn stack(texts: &[Self], device: &Device) -> Result<(Tensor, Tensor)> {
        let shape = (texts.len(), texts.first().map_or(0, |t| t.ids.len()));
        let ids: Vec<u32> = texts.iter().flat_map(|t| t.ids.iter().copied()).collect();
        let of = |t: &Self| (0..t.ids.len()).map(|i| f32::from(u8::from(i < t.used))).collect::<Vec<_>>();
        let mask: Vec<f32> = texts.iter().flat_map(of).collect();
        Ok((Tensor::from_vec(ids, shape, device)?, Tensor::from_vec(mask, shape, device)?))
    }
}

impl Tokenizer {
    /// Opens a `tokenizer/` folder in the layout of diffusers.
    ///
    /// # Errors
    /// A missing or unreadable file; special tokens that the vocabulary lacks.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::from_files(Files::read(folder)?)
    }

    /// A tokenizer for plain words: each of `words` (lower case, letters only) becomes one token, everything else
    /// falls apart into smaller ones, down to bytes. Ids as in CLIP: 256 bytes, 256 bytes that end a word, merged
    /// tokens, start and end of text.
    ///
    /// ```
    /// use denoscope::diffusion::text::Tokenizer;
    /// let tokenizer = Tokenizer::from_words(&["red", "tree", "tre"], 8)?;
    /// assert_eq!(tokenizer.pieces("a RED tree").iter().map(|p| p.1.as_str()).collect::<Vec<_>>(), ["a</w>", "red</w>", "tree</w>"]);
    /// # Ok::<(), denoscope::Error>(())
    /// ```
    ///
    /// # Errors
    /// A word that CLIP's rules split (with a space, digit or apostrophe in it), or one in capitals.
    pub fn from_words<S: AsRef<str>>(words: &[S], window: usize) -> Result<Self> {
        let mut tokenizer = Self::from_files(Files::bytes(window))?;
        for word in words {
            let word = word.as_ref();
            if tokenizer.words_of(word) != [word] {
                return Err(Error::invalid(format!(
                    "word {word:?}: CLIP reads it as {:?}, expected one lower-case word",
                    tokenizer.words_of(word)
                )));
            }
            // A new pair ranks after all others, so no earlier word is touched: its own pairs always come first.
            let mapped = tokenizer.symbols_of(word);
            loop {
                let mut symbols = tokenizer.merges.split(&mapped).into_iter();
                let (Some(left), Some(right)) = (symbols.next(), symbols.next()) else { break };
                tokenizer.merges.push(left, right);
            }
        }
        Self::from_files(Files::new(&tokenizer.merges, window))
    }

    /// Writes `vocab.json`, `merges.txt`, `tokenizer_config.json` and `special_tokens_map.json`.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        Files::new(&self.merges, self.window).write(folder)
    }

    fn from_files(files: Files) -> Result<Self> {
        let Files { folder, vocabulary, merges, specials, window } = files;
        let Specials { start, end, pad, unknown, mut added } = specials;
        let find = |token: &str| {
            let known = vocabulary.get(token).copied().or_else(|| added.iter().find(|a| a.0 == token).map(|a| a.1));
            known.ok_or_else(|| Error::format(&folder, format!("the vocabulary lacks the special token {token:?}")))
        };
        let (start_id, end_id, pad_id, unknown_id) = (find(&start)?, find(&end)?, find(&pad)?, find(&unknown)?);
        for (token, id) in [(start, start_id), (end, end_id), (pad, pad_id), (unknown, unknown_id)] {
            if !added.iter().any(|a| a.0 == token) {
                added.push((token, id));
            }
        }
        added.sort_by_key(|(token, _)| std::cmp::Reverse(token.len()));
        let mut names: HashMap<u32, String> = vocabulary.iter().map(|(t, &id)| (id, t.clone())).collect();
        names.extend(added.iter().map(|(t, id)| (*id, t.clone())));
        let mut symbols = ['\0'; 256];
        for (byte, symbol) in byte_symbols() {
            symbols[usize::from(byte)] = symbol;
        }
        let words = Split::new(SplitPattern::Regex(WORD.into()), SplitDelimiterBehavior::Removed, true)
            .map_err(|e| Error::invalid(format!("the pattern of a word: {e}")))?;
        Ok(Self {
            ids: vocabulary,
            names,
            merges,
            added,
            start: start_id,
            end: end_id,
            pad: pad_id,
            unknown: unknown_id,
            window,
            symbols,
            words,
        })
    }

    /// Length of every encoded prompt, start and end included.
    #[must_use]
    pub fn window(&self) -> usize {
        self.window
    }

    /// The same tokenizer with a window of at most `window` tokens.
    #[must_use]
    pub fn with_window(mut self, window: usize) -> Self {
        self.window = self.window.min(window);
        self
    }

    /// One more than the highest id.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.names.keys().max().map_or(0, |&id| id as usize + 1)
    }

    /// Id of the token that ends a text.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The text as ids, within the window.
    #[must_use]
    pub fn encode(&self, text: &str) -> Encoded {
        let pieces = self.pieces(text);
        let room = self.window.saturating_sub(2);
        let mut ids = vec![self.start];
        ids.extend(pieces.iter().take(room).map(|p| p.0));
        ids.push(self.end);
        let used = ids.len();
        ids.resize(self.window.max(used), self.pad);
        let beyond: Vec<u32> = pieces.iter().skip(room).map(|p| p.0).collect();
        Encoded { ids, used, lost: (!beyond.is_empty()).then(|| self.decode(&beyond)) }
    }

    /// The text as (id, token) pairs, without start, end or limit. The n-th of them stands at place n + 1 of
    /// [`Encoded::ids`].
    #[must_use]
    pub fn pieces(&self, text: &str) -> Vec<(u32, String)> {
        let mut pieces = Vec::new();
        let mut rest = text;
        loop {
            let places = self.added.iter().filter_map(|a| rest.find(&a.0).map(|at| (at, a)));
            // The earliest; among those that start together the longest, which comes first.
            let next = places.min_by_key(|(at, _)| *at);
            let plain = next.map_or(rest, |(at, _)| &rest[..at]);
            for word in self.words_of(plain) {
                self.split_word(&word, &mut pieces);
            }
            let Some((at, (token, id))) = next else { return pieces };
            pieces.push((*id, token.clone()));
            rest = &rest[at + token.len()..];
        }
    }

    /// The text of ids; special tokens are left out.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let special = [self.start, self.end, self.pad];
        let tokens = ids.iter().filter(|id| !special.contains(id)).filter_map(|id| self.names.get(id));
        let joined: String = tokens.map(|t| t.replace(END, " ")).collect();
        let byte = |c: char| self.symbols.iter().position(|&s| s == c).map(|b| b as u8);
        let bytes: Vec<u8> = joined.chars().filter_map(|c| if c == ' ' { Some(b' ') } else { byte(c) }).collect();
        String::from_utf8_lossy(&bytes).trim().to_string()
    }

    fn symbols_of(&self, word: &str) -> String {
        word.bytes().map(|b| self.symbols[usize::from(b)]).collect()
    }

    fn split_word(&self, word: &str, pieces: &mut Vec<(u32, String)>) {
        // A special token that only became one in lower case.
        if let Some(&id) = self.ids.get(word).filter(|id| [self.start, self.end].contains(id)) {
            pieces.push((id, word.into()));
            return;
        }
        for token in self.merges.split(&self.symbols_of(word)) {
            pieces.push((self.ids.get(&token).copied().unwrap_or(self.unknown), token));
        }
    }

    /// The words of a text: control characters out, CJK characters apart, composed (NFC), lower case.
    fn words_of(&self, text: &str) -> Vec<String> {
        let mut normalised = NormalizedString::from(text);
        let clean = BertNormalizer::new(true, true, Some(false), false);
        // Neither normaliser nor pattern can fail on a valid string; an empty result would be the honest one.
        if clean.normalize(&mut normalised).and_then(|()| NFC.normalize(&mut normalised)).is_err() {
            return Vec::new();
        }
        let lower: Vec<String> = normalised.get().split_whitespace().map(str::to_lowercase).collect();
        let mut split = PreTokenizedString::from(lower.join(" "));
        if self.words.pre_tokenize(&mut split).is_err() {
            return Vec::new();
        }
        let splits = split.get_splits(OffsetReferential::Normalized, OffsetType::None);
        splits.into_iter().map(|(word, _, _)| word.to_string()).collect()
    }
}
