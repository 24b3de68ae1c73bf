//! The one error type of the library.

use std::path::PathBuf;

/// What can go wrong. Every message names the thing, what was found and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file was read but does not hold what it should.
    #[error("{path}: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// A name (module path, word, model, option) that does not exist.
    #[error("no {kind} named {name:?}{}", near_text(.near))]
    Unknown {
        /// What sort of thing was looked up.
        kind: &'static str,
        /// The name that was asked for.
        name: String,
        /// The nearest names that do exist.
        near: Vec<String>,
    },
    /// Two shapes that should agree do not.
    #[error("{what}: found shape {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        what: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that it should have.
        expected: Vec<usize>,
    },
    /// A value out of its range or of the wrong form.
    #[error("{0}")]
    Invalid(String),
    /// A number left the finite range while a picture was made; the message names the step and the edit's strength.
    #[error("{0}")]
    NotFinite(String),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A table operation failed.
    #[error(transparent)]
    Table(#[from] polars::prelude::PolarsError),
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A closure for `map_err` that attaches the path to an I/O error.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }

    /// The file at `path` is not what it should be.
    pub fn format(path: impl Into<PathBuf>, problem: impl ToString) -> Error {
        Error::Format { path: path.into(), problem: problem.to_string() }
    }

    /// `name` is not among `known`; the nearest few are offered.
    pub fn unknown<S: AsRef<str>>(kind: &'static str, name: &str, known: impl IntoIterator<Item = S>) -> Error {
        Error::Unknown { kind, name: name.into(), near: nearest(name, known) }
    }

    /// A value out of its range or of the wrong form.
    pub fn invalid(message: impl ToString) -> Error {
        Error::Invalid(message.to_string())
    }
}

/// The few of `known` that are most like `name`.
pub(crate) fn nearest<S: AsRef<str>>(name: &str, known: impl IntoIterator<Item = S>) -> Vec<String> {
    let mut near: Vec<(usize, String)> =
        known.into_iter().map(|k| (distance(name, k.as_ref()), k.as_ref().to_string())).collect();
    near.sort();
    near.into_iter().take(5).map(|(_, k)| k).collect()
}

fn near_text(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; nearest: {}", near.join(", ")) }
}

/// Levenshtein distance in characters, for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_offer_the_nearest() {
        let e = Error::unknown("module", "mid_block.atentions.0", ["up_blocks.0", "mid_block.attentions.0"]);
        assert!(e.to_string().contains("nearest: mid_block.attentions.0, up_blocks.0"), "{e}");
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
