//! The files of a `tokenizer/` folder.

use super::bpe::{END, Merges, byte_symbols};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Names of CLIP's special tokens.
const START: &str = "<|startoftext|>";
const FINISH: &str = "<|endoftext|>";

/// CLIP's tokenizer reads no more merges than its published vocabulary has.
const MAX_MERGES: usize = 49152 - 256 - 2;

/// Tokens with a meaning of their own.
#[derive(Debug)]
pub(super) struct Specials {
    pub(super) start: String,
    pub(super) end: String,
    pub(super) pad: String,
    pub(super) unknown: String,
    /// Further tokens to be found in text as they stand, with their ids.
    pub(super) added: Vec<(String, u32)>,
}

/// Everything that makes a tokenizer.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) folder: PathBuf,
    pub(super) vocabulary: HashMap<String, u32>,
    pub(super) merges: Merges,
    pub(super) specials: Specials,
    pub(super) window: usize,
}

impl Files {
    /// Reads `vocab.json`, `merges.txt` and, where present, `tokenizer_config.json`, `special_tokens_map.json` and
    /// `added_tokens.json`.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("vocab.json");
        let vocabulary: HashMap<String, u32> = serde_json::from_str(&text(&path)?)
            .map_err(|e| Error::format(&path, format!("expected an object of tokens and ids: {e}")))?;
        let path = folder.join("merges.txt");
        let mut merges = Merges::default();
        // The first line names a version.
        for (i, line) in text(&path)?.trim().split('\n').enumerate().skip(1).take(MAX_MERGES) {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                [left, right] => merges.push(left.into(), right.into()),
                _ => return Err(Error::format(&path, format!("line {}: {line:?}, expected two symbols", i + 1))),
            }
        }
        let config = object(&folder.join("tokenizer_config.json"))?;
        let map = object(&folder.join("special_tokens_map.json"))?;
        let class = config.get("tokenizer_class").and_then(Value::as_str);
        if let Some(class) = class.filter(|c| !matches!(*c, "CLIPTokenizer" | "CLIPTokenizerFast")) {
            let problem = format!("tokenizer_class = {class:?} is not supported: expected \"CLIPTokenizer\"");
            return Err(Error::format(folder.join("tokenizer_config.json"), problem));
        }
        let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
        // As transformers: the map is an older file, which counts unless the configuration lists added tokens.
        let sources = if decoder.is_some() { [&config, &config] } else { [&map, &config] };
        let special = |name: &str, default: &str| {
            let found = sources.iter().find_map(|s| s.get(name).and_then(content));
            found.unwrap_or_else(|| default.to_string())
        };
        let mut added = Vec::new();
        for (id, token) in decoder.into_iter().flatten() {
            if let (Ok(id), Some(token)) = (id.parse(), content(token)) {
                added.push((token, id));
            }
        }
        for (token, id) in object(&folder.join("added_tokens.json"))? {
            if let Some(id) = id.as_u64() {
                added.push((token, id as u32));
            }
        }
        // Absent, or a number beyond any window, means: no limit of the tokenizer's own.
        let window = config.get("model_max_length").and_then(Value::as_u64).map_or(usize::MAX, |n| n as usize);
        if window < 3 {
            let problem = format!("model_max_length = {window}: no room for a token between start and end");
            return Err(Error::format(folder.join("tokenizer_config.json"), problem));
        }
        let specials = Specials {
            start: special("bos_token", START),
            end: special("eos_token", FINISH),
            pad: special("pad_token", FINISH),
            unknown: special("unk_token", FINISH),
            added,
        };
        Ok(Self { folder: folder.into(), vocabulary, merges, specials, window })
    }

    /// Bytes only.
    pub(super) fn bytes(window: usize) -> Self {
        Self::new(&Merges::default(), window)
    }

    /// The vocabulary that `merges` spell out, in CLIP's order.
    pub(super) fn new(merges: &Merges, window: usize) -> Self {
        let bytes: Vec<String> = byte_symbols().iter().map(|s| s.1.to_string()).collect();
        let ends: Vec<String> = bytes.iter().map(|s| format!("{s}{END}")).collect();
        let merged = merges.pairs().into_iter().map(|(left, right)| format!("{left}{right}"));
        let specials = [START.to_string(), FINISH.to_string()];
        let mut vocabulary = HashMap::new();
        for token in bytes.into_iter().chain(ends).chain(merged).chain(specials) {
            // Two pairs may spell one token.
            let next = vocabulary.len() as u32;
            vocabulary.entry(token).or_insert(next);
        }
        let specials = Specials {
            start: START.into(),
            end: FINISH.into(),
            pad: FINISH.into(),
            unknown: FINISH.into(),
            added: Vec::new(),
        };
        Self { folder: PathBuf::new(), vocabulary, merges: merges.clone(), specials, window }
    }

    /// Writes the folder that [`Files::read`] reads.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::file(folder))?;
        let mut tokens: Vec<(&String, &u32)> = self.vocabulary.iter().collect();
        tokens.sort_by_key(|(_, id)| **id);
        let entries: Vec<String> = tokens.iter().map(|(token, id)| format!("{}: {id}", json!(token))).collect();
        let mut merges = "#version: 0.2\n".to_string();
        for (left, right) in self.merges.pairs() {
            merges += &format!("{left} {right}\n");
        }
        let s = &self.specials;
        let map = json!({
            "bos_token": s.start, "eos_token": s.end, "pad_token": s.pad, "unk_token": s.unknown,
        });
        let mut config = map.clone();
        config["tokenizer_class"] = json!("CLIPTokenizer");
        config["model_max_length"] = json!(self.window);
        config["do_lower_case"] = json!(true);
        config["errors"] = json!("replace");
        config["add_prefix_space"] = json!(false);
        let files = [
            ("vocab.json", format!("{{{}}}\n", entries.join(", "))),
            ("merges.txt", merges),
            ("special_tokens_map.json", format!("{map:#}\n")),
            ("tokenizer_config.json", format!("{config:#}\n")),
        ];
        for (name, content) in files {
            let (path, partial) = (folder.join(name), folder.join(format!("{name}.partial")));
            std::fs::write(&partial, content).map_err(Error::file(&partial))?;
            std::fs::rename(&partial, &path).map_err(Error::file(&path))?;
        }
        Ok(())
    }
}

fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::file(path))
}

/// The JSON object at `path`, empty where there is no such file.
fn object(path: &Path) -> Result<Map<String, Value>> {
    if !path.exists() {
        return Ok(Map::new());
    }
    match serde_json::from_str(&text(path)?) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::format(path, "expected a JSON object")),
        Err(e) => Err(Error::format(path, format!("not valid JSON: {e}"))),
    }
}

/// A token given as text, or as an object with its text under `content`.
fn content(token: &Value) -> Option<String> {
    token.as_str().or_else(|| token.get("content")?.as_str()).map(String::from)
}
