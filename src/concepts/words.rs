//! Word vectors: what labels mean, as points in a space where like things lie close (Emergence uses Word2Vec).
//!
//! Three files are read, told apart by their contents: word2vec binary, word2vec text (both begin with a line `words
//! dimensions`) and GloVe text (no such line). Vectors are kept as they are stored, not normalised.

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

/// The longest word that a file may hold, in bytes: more than that and the file is not one of vectors.
const LONGEST: usize = 1000;
/// The most dimensions that are believed.
const WIDEST: usize = 100_000;

/// Vectors of words.
///
/// A label of several words is looked up as one entry first, joined by `_` as word2vec's phrases are; else it is the
/// mean of the vectors of its words, those without a vector left out. Case is kept if the entry exists so, and lowered
/// if not. A label with no vector at all is an error, never zeros.
///
/// ```
/// use denoscope::concepts::WordVectors;
///
/// let words = WordVectors::from_entries([("tree", vec![1.0, 0.0]), ("oak", vec![0.9, 0.1]), ("car", vec![0.0, 1.0])])?;
/// assert!(words.similarity("tree", "oak")? > words.similarity("tree", "car")?);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct WordVectors {
    dimensions: usize,
    names: Vec<String>,
    index: HashMap<String, usize>,
    values: Vec<f32>,
}

impl WordVectors {
    /// Vectors given one by one; of a word that comes twice the first counts, as in the published files.
    ///
    /// # Errors
    /// Vectors of different lengths, none at all, or numbers that are not finite.
    pub fn from_entries<W: Into<String>>(entries: impl IntoIterator<Item = (W, Vec<f32>)>) -> Result<Self> {
        let mut made = Self { dimensions: 0, names: Vec::new(), index: HashMap::new(), values: Vec::new() };
        for (word, vector) in entries {
            made.push(word.into(), &vector)?;
        }
        if made.names.is_empty() {
            return Err(Error::invalid("word vectors: no word"));
        }
        Ok(made)
    }

    fn push(&mut self, word: String, vector: &[f32]) -> Result<()> {
        if self.names.is_empty() {
            self.dimensions = vector.len();
        }
        if vector.len() != self.dimensions || vector.is_empty() {
            let (found, expected) = (vec![vector.len()], vec![self.dimensions.max(1)]);
            return Err(Error::Shape { what: format!("vector of the word {word:?}"), found, expected });
        }
        if let Some(x) = vector.iter().find(|x| !x.is_finite()) {
            return Err(Error::invalid(format!("vector of the word {word:?} holds {x}")));
        }
        if !self.index.contains_key(&word) {
            self.index.insert(word.clone(), self.names.len());
            self.names.push(word);
            self.values.extend_from_slice(vector);
        }
        Ok(())
    }

    /// All vectors of a file.
    ///
    /// # Errors
    /// A file that is missing, cut short or of none of the three formats.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        read(path.as_ref(), &|_| true)
    }

    /// The vectors that some labels need; of the rest of the file nothing is kept, so that the three million words of
    /// the published file cost no memory.
    ///
    /// # Errors
    /// As [`open`](Self::open), and a file that holds none of them.
    pub fn open_for<L: AsRef<str>>(path: impl AsRef<Path>, labels: impl IntoIterator<Item = L>) -> Result<Self> {
        let mut wanted = std::collections::HashSet::new();
        for label in labels {
            for form in forms(label.as_ref()) {
                wanted.extend(form);
            }
        }
        read(path.as_ref(), &|word| wanted.contains(word))
    }

    /// The vectors that come with the library: the words of the scene world, from its captions.
    ///
    /// # Errors
    /// When the file is missing.
    pub fn embedded() -> Result<Self> {
        Self::open(crate::diffusion::open::data_file("scene-words/vectors.bin")?)
    }

    /// Numbers in a vector.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The words, in the order of the file.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.names
    }

    /// The vector of a label.
    ///
    /// # Errors
    /// A label that has none; near words are named.
    pub fn vector(&self, label: &str) -> Result<Vec<f32>> {
        for form in forms(label) {
            let found: Vec<usize> = form.iter().filter_map(|w| self.index.get(w)).copied().collect();
            if !found.is_empty() {
                let mut mean = vec![0f32; self.dimensions];
                for i in &found {
                    let vector = &self.values[i * self.dimensions..][..self.dimensions];
                    mean.iter_mut().zip(vector).for_each(|(m, v)| *m += v / found.len() as f32);
                }
                return Ok(mean);
            }
        }
        Err(Error::unknown("word vector", label, &self.names))
    }

    /// Cosine of the angle between the vectors of two labels, −1 … 1.
    ///
    /// # Errors
    /// A label without a vector.
    pub fn similarity(&self, a: &str, b: &str) -> Result<f32> {
        Ok(cosine(&self.vector(a)?, &self.vector(b)?))
    }

    /// Writes word2vec's binary format; the file appears when it is complete.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let part = path.with_extension("part");
        let write = || -> std::io::Result<()> {
            let mut out = std::io::BufWriter::new(File::create(&part)?);
            writeln!(out, "{} {}", self.names.len(), self.dimensions)?;
            for (word, vector) in self.names.iter().zip(self.values.chunks_exact(self.dimensions)) {
                write!(out, "{word} ")?;
                vector.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))?;
                writeln!(out)?;
            }
            out.into_inner()?.sync_all()
        };
        write().map_err(Error::file(&part))?;
        std::fs::rename(&part, path).map_err(Error::file(path))
    }
}

/// a·b / (‖a‖ ‖b‖); 0 if either is zero.
#[must_use]
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { (dot(a, b) / norms) as f32 } else { 0.0 }
}

/// What is looked up for a label, the first that is there: each a list of entries whose mean is taken.
fn forms(label: &str) -> Vec<Vec<String>> {
    let words: Vec<&str> = label.split_whitespace().collect();
    let lower: Vec<String> = words.iter().map(|w| w.to_lowercase()).collect();
    let mut forms = vec![vec![words.join("_")], vec![lower.join("_")]];
    if words.len() > 1 {
        forms.push(lower);
    }
    forms
}

fn read(path: &Path, keep: &dyn Fn(&str) -> bool) -> Result<WordVectors> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(Error::file(path))?);
    let mut first = Vec::new();
    line(&mut file, &mut first, path)?;
    let text = std::str::from_utf8(&first).map_err(|_| Error::format(path, "the first line is not text"))?;
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let header = match fields[..] {
        [n, d] => n.parse::<usize>().ok().zip(d.parse::<usize>().ok()),
        _ => None,
    };
    let mut made = WordVectors { dimensions: 0, names: Vec::new(), index: HashMap::new(), values: Vec::new() };
    match header {
        Some((n, d)) if d == 0 || d > WIDEST => {
            return Err(Error::format(path, format!("{n} words of {d} dimensions, expected 1 to {WIDEST}")));
        }
        Some((n, d)) if binary(&mut file, d, path)? => words_binary(&mut file, (n, d), keep, &mut made, path)?,
        Some((n, d)) => words_text(&mut file, Some(n), d, None, keep, &mut made, path)?,
        None if fields.len() >= 2 => {
            // GloVe: the first line is a word with its vector. A word may hold spaces; the numbers do not.
            let numbers = fields.iter().rev().take_while(|f| f.parse::<f32>().is_ok()).count().min(fields.len() - 1);
            if numbers == 0 {
                return Err(Error::format(path, "neither word2vec nor GloVe: the first line holds no vector"));
            }
            words_text(&mut file, None, numbers, Some(text), keep, &mut made, path)?;
        }
        None => return Err(Error::format(path, "neither word2vec nor GloVe: the first line holds no vector")),
    }
    if made.names.is_empty() {
        return Err(Error::format(path, "holds none of the words that are needed"));
    }
    Ok(made)
}

/// Reads one line without its end, which may be long, but not endless.
fn line(file: &mut impl BufRead, into: &mut Vec<u8>, path: &Path) -> Result<bool> {
    into.clear();
    let most = (LONGEST + 32 * WIDEST) as u64;
    file.take(most).read_until(b'\n', into).map_err(Error::file(path))?;
    if into.len() as u64 == most {
        return Err(Error::format(path, "neither word2vec nor GloVe: a line without an end"));
    }
    let any = !into.is_empty();
    while matches!(into.last(), Some(b'\n' | b'\r')) {
        into.pop();
    }
    Ok(any)
}

/// Whether what follows the header is binary: the text of a first entry would be a word and `d` numbers.
fn binary(file: &mut BufReader<File>, d: usize, path: &Path) -> Result<bool> {
    let ahead = file.fill_buf().map_err(Error::file(path))?;
    let end = ahead.iter().position(|&b| b == b'\n').unwrap_or(ahead.len());
    let text = std::str::from_utf8(&ahead[..end]).ok();
    Ok(text.is_none_or(|t| t.split_ascii_whitespace().skip(1).filter(|f| f.parse::<f32>().is_ok()).count() < d))
}

fn words_binary(
    file: &mut impl BufRead,
    (n, d): (usize, usize),
    keep: &dyn Fn(&str) -> bool,
    made: &mut WordVectors,
    path: &Path,
) -> Result<()> {
    let (mut word, mut bytes) = (Vec::new(), vec![0u8; 4 * d]);
    for i in 0..n {
        word.clear();
        file.take(LONGEST as u64).read_until(b' ', &mut word).map_err(Error::file(path))?;
        if word.pop() != Some(b' ') {
            return Err(Error::format(path, format!("truncated or damaged at word {i} of {n}")));
        }
        let cut = || Error::format(path, format!("truncated in the vector of word {i} of {n}"));
        file.read_exact(&mut bytes).map_err(|_| cut())?;
        // Some writers end an entry with a newline, which then precedes the next word.
        let start = word.iter().position(|b| !b"\r\n".contains(b)).unwrap_or(word.len());
        let name = String::from_utf8_lossy(&word[start..]);
        if keep(&name) {
            let vector: Vec<f32> =
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            made.push(name.into_owned(), &vector).map_err(|e| Error::format(path, e))?;
        }
    }
    Ok(())
}

fn words_text(
    file: &mut impl BufRead,
    n: Option<usize>,
    d: usize,
    first: Option<&str>,
    keep: &dyn Fn(&str) -> bool,
    made: &mut WordVectors,
    path: &Path,
) -> Result<()> {
    let mut number = usize::from(n.is_some());
    let mut entry = |text: &str, number: usize| -> Result<()> {
        // The last d fields are the numbers, all before them the word.
        let mut fields = text.rsplitn(d + 1, [' ', '\t']);
        let mut vector = Vec::with_capacity(d);
        let mut numbers = fields.by_ref().take(d);
        let bad = |what: &str| Error::format(path, format!("line {number}: {what}, expected a word and {d} numbers"));
        for field in numbers.by_ref() {
            vector.push(field.parse::<f32>().map_err(|_| bad(&format!("{field:?}")))?);
        }
        vector.reverse();
        let word = fields.next().filter(|w| vector.len() == d && !w.is_empty());
        let word = word.ok_or_else(|| bad(&format!("{} fields", text.split_whitespace().count())))?;
        if keep(word) { made.push(word.to_string(), &vector).map_err(|e| Error::format(path, e)) } else { Ok(()) }
    };
    let mut found = 0;
    if let Some(text) = first {
        number += 1;
        found += 1;
        entry(text.trim_end(), number)?;
    }
    let mut bytes = Vec::new();
    while line(file, &mut bytes, path)? {
        number += 1;
        let text = String::from_utf8_lossy(&bytes);
        if text.trim().is_empty() {
            continue;
        }
        entry(text.trim_end(), number)?;
        found += 1;
    }
    match n {
        Some(n) if n != found => Err(Error::format(path, format!("truncated: {found} words, the header says {n}"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn binary_file(newlines: bool) -> Vec<u8> {
        let mut bytes = b"3 2\n".to_vec();
        for (word, vector) in [("tree", [1f32, 0.5]), ("New_York", [0.0, 2.0]), ("é", [-1.0, 10.0])] {
            bytes.extend(word.bytes().chain(*b" "));
            vector.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
            if newlines {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    #[test]
    fn the_three_formats_are_told_apart() {
        let text = b"3 2\ntree 1 0.5\nNew_York 0 2\n\xc3\xa9 -1 1e1\n";
        let glove = b"tree 1 0.5\nNew_York 0 2\n\xc3\xa9 -1 10\n";
        for bytes in [binary_file(true), binary_file(false), text.to_vec(), glove.to_vec()] {
            let words = WordVectors::open(file(&bytes).path()).unwrap();
            assert_eq!(words.words(), ["tree", "New_York", "é"]);
            assert_eq!((words.dimensions(), words.vector("tree").unwrap()), (2, vec![1.0, 0.5]));
            assert_eq!(words.vector("é").unwrap(), [-1.0, 10.0]);
        }
    }

    #[test]
    fn a_word_with_spaces_is_read_from_the_right() {
        let words = WordVectors::open(file(b"the 1 2 3\n. . . 4 5 6\n2 7 8 9\n").path()).unwrap();
        assert_eq!(words.words(), ["the", ". . .", "2"]);
    }

    #[test]
    fn labels_of_several_words_follow_the_rule() {
        let words = WordVectors::open(file(&binary_file(true)).path()).unwrap();
        assert_eq!(words.vector("New York").unwrap(), [0.0, 2.0]);
        assert_eq!(words.vector("Tree").unwrap(), [1.0, 0.5]);
        assert_eq!(words.vector("tree é").unwrap(), [0.0, 5.25]);
        assert_eq!(words.vector("tall tree").unwrap(), [1.0, 0.5]);
        let error = words.vector("trea").unwrap_err().to_string();
        assert!(error.contains("trea") && error.contains("tree"), "{error}");
    }

    #[test]
    fn only_what_is_needed_is_kept() {
        let file = file(&binary_file(true));
        let words = WordVectors::open_for(file.path(), ["New York", "Tree"]).unwrap();
        assert_eq!(words.words(), ["tree", "New_York"]);
        let error = WordVectors::open_for(file.path(), ["boat"]).unwrap_err().to_string();
        assert!(error.contains("none of the words"), "{error}");
    }

    #[test]
    fn what_is_written_reads_back() {
        let words = WordVectors::from_entries([("a", vec![1.0, 2.0]), ("b c", vec![3.0, 4.0]), ("a", vec![9.0, 9.0])]);
        let words = words.unwrap();
        assert_eq!(words.words().len(), 2, "the first of two entries counts");
        let dir = tempfile::tempdir().unwrap();
        let one = WordVectors::from_entries([("a", vec![1.0, 2.0]), ("b_c", vec![3.0, 4.0])]).unwrap();
        one.save(dir.path().join("v.bin")).unwrap();
        assert_eq!(WordVectors::open(dir.path().join("v.bin")).unwrap(), one);
    }

    #[test]
    fn damaged_files_are_refused() {
        let whole = binary_file(true);
        let says = |bytes: &[u8]| WordVectors::open(file(bytes).path()).unwrap_err().to_string();
        assert!(says(&whole[..whole.len() - 3]).contains("truncated in the vector of word 2 of 3"));
        assert!(says(b"3 2\ntree 1 0.5\nhouse 1 2\n").contains("2 words, the header says 3"));
        assert!(says(b"tree 1 0.5\nhouse 1\n").contains("line 2"));
        assert!(says(b"tree 1 0.5\nhouse 1 x\n").contains("line 2"));
        assert!(says(b"hello world\n").contains("neither word2vec nor GloVe"));
        assert!(says(b"tree 1 NaN\n").contains("NaN"));
        assert!(says(b"").contains("neither"));
    }
}
