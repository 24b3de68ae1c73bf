//! Text to token ids.

use super::sentencepiece::SentencePiece;
use super::unigram::{SPACE, Unigram};
use crate::diffusion::text::Encoded;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Length of an encoded prompt in PixArt-α, as its paper has it (section 3.1) and diffusers.
const WINDOW: usize = 120;

/// Sentinels that a T5 vocabulary has beyond its SentencePiece model unless its files say otherwise.
const SENTINELS: usize = 100;

/// T5's tokenizer, from the files of a `tokenizer/` folder: gives the ids that transformers' `T5Tokenizer` gives
/// (from `spiece.model`), or `T5TokenizerFast` (from `tokenizer.json`).
#[derive(Debug, Clone)]
pub struct T5Tokenizer {
    model: Model,
    end: u32,
    pad: u32,
    window: usize,
}

/// The two forms in which the files come.
#[derive(Debug, Clone)]
enum Model {
    /// `spiece.model`, with tokens that are found in a text before anything else.
    Pieces(Box<Unigram>, Vec<Special>),
    /// `tokenizer.json`.
    Fast(Box<tokenizers::Tokenizer>),
}

/// A token found in text as it stands.
#[derive(Debug, Clone)]
struct Special {
    text: String,
    id: u32,
    /// Whether it takes the space before and after it.
    strips: (bool, bool),
}

impl T5Tokenizer {
    /// Opens a `tokenizer/` folder in the layout of diffusers.
    ///
    /// # Errors
    /// A folder with neither `spiece.model` nor `tokenizer.json`, or with unreadable ones.
    pub fn open(folder: &Path) -> Result<Self> {
        let (pieces, fast) = (folder.join("spiece.model"), folder.join("tokenizer.json"));
        let config = object(&folder.join("tokenizer_config.json"))?;
        let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or("T5Tokenizer");
        if !matches!(class, "T5Tokenizer" | "T5TokenizerFast") {
            let problem = format!("tokenizer_class = {class:?} is not supported: expected \"T5Tokenizer\"");
            return Err(Error::format(folder.join("tokenizer_config.json"), problem));
        }
        let map = object(&folder.join("special_tokens_map.json"))?;
        let named = |key: &str, default: &str| {
            let token = config.get(key).or_else(|| map.get(key)).and_then(content);
            token.unwrap_or_else(|| default.to_string())
        };
        let names = [named("eos_token", "</s>"), named("pad_token", "<pad>"), named("unk_token", "<unk>")];
        let prefers_fast = class == "T5TokenizerFast" || !pieces.is_file();
        let model = if prefers_fast && fast.is_file() {
            Model::Fast(Box::new(open_fast(&fast)?))
        } else if pieces.is_file() {
            if config.get("legacy").and_then(Value::as_bool) == Some(false) {
                let problem = "legacy = false is not supported with spiece.model: save the tokenizer in Python as \
                               T5TokenizerFast, which writes tokenizer.json";
                return Err(Error::format(folder.join("tokenizer_config.json"), problem));
            }
            let unigram = Unigram::new(SentencePiece::read(&pieces)?);
            let specials = specials(folder, &config, &unigram, &names)?;
            Model::Pieces(Box::new(unigram), specials)
        } else {
            return Err(Error::format(folder, "found neither spiece.model nor tokenizer.json, the files of T5"));
        };
        let find = |token: &str| {
            let id = match &model {
                Model::Pieces(unigram, specials) => {
                    specials.iter().find(|s| s.text == token).map(|s| s.id).or_else(|| unigram.id(token))
                }
                Model::Fast(fast) => fast.token_to_id(token),
            };
            id.ok_or_else(|| Error::format(folder, format!("the vocabulary lacks the special token {token:?}")))
        };
        let (end, pad) = (find(&names[0])?, find(&names[1])?);
        // The pipelines ask for PixArt's window, whatever longest text a published tokenizer names; one that names less
        // has read no longer ones.
        let longest = config.get("model_max_length").and_then(Value::as_u64).map_or(WINDOW, |n| n as usize);
        Ok(Self { model, end, pad, window: WINDOW.min(longest) })
    }

    /// Length of every encoded prompt, the end included.
    #[must_use]
    pub fn window(&self) -> usize {
        self.window
    }

    /// The same tokenizer with another window: unlike CLIP's, T5's positions have no end.
    #[must_use]
    pub fn with_window(mut self, window: usize) -> Self {
        self.window = window;
        self
    }

    /// One more than the highest id.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        let highest = match &self.model {
            Model::Pieces(unigram, specials) => {
                specials.iter().map(|s| s.id as usize + 1).chain([unigram.len()]).max().unwrap_or(0)
            }
            Model::Fast(fast) => fast.get_vocab(true).values().map(|id| *id as usize + 1).max().unwrap_or(0),
        };
        highest.max(self.end as usize + 1).max(self.pad as usize + 1)
    }

    /// The text as ids, within the window: pieces, the end, padding.
    ///
    /// # Errors
    /// Of a `tokenizer.json` that cannot split the text.
    pub fn encode(&self, text: &str) -> Result<Encoded> {
        let pieces = self.pieces(text)?;
        let room = self.window.saturating_sub(1);
        let mut ids: Vec<u32> = pieces.iter().take(room).map(|p| p.0).collect();
        // A text that spells the end out has it already.
        if self.pieces_end(&ids) {
            ids.pop();
        }
        ids.push(self.end);
        let used = ids.len();
        ids.resize(self.window.max(used), self.pad);
        let beyond: String = pieces.iter().skip(room).map(|p| p.1.replace(SPACE, " ")).collect();
        Ok(Encoded { ids, used, lost: (!beyond.is_empty()).then(|| beyond.trim().to_string()) })
    }

    /// Whether transformers adds no further end (only its `T5Tokenizer` looks).
    fn pieces_end(&self, ids: &[u32]) -> bool {
        matches!(self.model, Model::Pieces(..)) && ids.last() == Some(&self.end)
    }

    /// The text as (id, token) pairs, without end or limit.
    ///
    /// # Errors
    /// As [`T5Tokenizer::encode`].
    pub fn pieces(&self, text: &str) -> Result<Vec<(u32, String)>> {
        match &self.model {
            Model::Fast(fast) => {
                let encoding = fast.encode(text, false).map_err(|e| Error::invalid(format!("prompt {text:?}: {e}")))?;
                Ok(encoding.get_ids().iter().copied().zip(encoding.get_tokens().iter().cloned()).collect())
            }
            Model::Pieces(unigram, specials) => Ok(pieces(unigram, specials, text)),
        }
    }
}

/// Special tokens and what lies between, each stretch split as a text of its own.
fn pieces(unigram: &Unigram, specials: &[Special], text: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let places = specials.iter().filter_map(|s| rest.find(&s.text).map(|at| (at, s)));
        // The earliest; among those that start together the longest.
        let next = places.min_by_key(|(at, s)| (*at, std::cmp::Reverse(s.text.len())));
        let Some((at, special)) = next else {
            found.extend(unigram.split(rest));
            return found;
        };
        let plain = &rest[..at];
        found.extend(unigram.split(if special.strips.0 { plain.trim_end() } else { plain }));
        found.push((special.id, special.text.clone()));
        rest = &rest[at + special.text.len()..];
        if special.strips.1 {
            rest = rest.trim_start();
        }
    }
}

/// The tokens that a text may spell out: those of `tokenizer_config.json`, else end, padding, unknown and sentinels.
fn specials(folder: &Path, config: &Map<String, Value>, unigram: &Unigram, names: &[String]) -> Result<Vec<Special>> {
    let listed = config.get("added_tokens_decoder").and_then(Value::as_object);
    if let Some(listed) = listed.filter(|l| !l.is_empty()) {
        let read = |(id, token): (&String, &Value)| {
            let strip = |key| token.get(key).and_then(Value::as_bool).unwrap_or(false);
            let fault = || {
                let problem = format!("added_tokens_decoder: {id:?}: {token}, expected an id and a token");
                Error::format(folder.join("tokenizer_config.json"), problem)
            };
            let text = content(token).filter(|t| !t.is_empty()).ok_or_else(fault)?;
            let id = id.parse().map_err(|_| fault())?;
            Ok(Special { text, id, strips: (strip("lstrip"), strip("rstrip")) })
        };
        return listed.iter().map(read).collect();
    }
    let mut all = Vec::new();
    for name in names {
        if let Some(id) = unigram.id(name) {
            all.push(Special { text: name.clone(), id, strips: (false, false) });
        }
    }
    let count = config.get("extra_ids").and_then(Value::as_u64).map_or(SENTINELS, |n| n as usize);
    // Counted from the end of the vocabulary.
    let sentinel = |i: usize| Special {
        text: format!("<extra_id_{i}>"),
        id: (unigram.len() + count - 1 - i) as u32,
        strips: (true, true),
    };
    all.extend((0..count).map(sentinel));
    Ok(all)
}

/// A `tokenizer.json` without limits of its own.
fn open_fast(path: &Path) -> Result<tokenizers::Tokenizer> {
    let mut fast = tokenizers::Tokenizer::from_file(path).map_err(|e| Error::format(path, e))?;
    fast.with_padding(None);
    fast.with_truncation(None).map_err(|e| Error::format(path, e))?;
    Ok(fast)
}

/// The JSON object at `path`, empty where there is no such file.
fn object(path: &Path) -> Result<Map<String, Value>> {
    if !path.exists() {
        return Ok(Map::new());
    }
    let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::format(path, "expected a JSON object")),
        Err(e) => Err(Error::format(path, format!("not valid JSON: {e}"))),
    }
}

/// A token given as text, or as an object with its text under `content`.
fn content(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token.get("content")?.as_str()).map(String::from)
}
