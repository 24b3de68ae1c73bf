//! A component's configuration, read field by field so that nothing in it goes unnoticed.

use crate::error::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The fields of one `config.json`. Every field is either read, or known to be without effect, or refused.
#[derive(Debug, Clone)]
pub struct Fields {
    path: PathBuf,
    values: Map<String, Value>,
    seen: BTreeSet<String>,
}

impl Fields {
    /// Reads the JSON object at `path`.
    ///
    /// # Errors
    /// A file that is missing or holds something else.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
        Self::parse(path, &text)
    }

    /// As [`Fields::read`], from text; `path` is for messages.
    ///
    /// # Errors
    /// Text that is not a JSON object.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        // Python writes the float −∞ so, which JSON does not have.
        let text = text.replace(": -Infinity", &format!(": {:e}", f64::MIN));
        match serde_json::from_str(&text) {
            Ok(Value::Object(values)) => Ok(Self { path: path.into(), values, seen: BTreeSet::new() }),
            Ok(_) => Err(Error::format(path, "expected a JSON object")),
            Err(e) => Err(Error::format(path, format!("not valid JSON: {e}"))),
        }
    }

    /// The file, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `name`, or `default` where the file lacks it or says null.
    ///
    /// # Errors
    /// A value of another type.
    pub fn get<T: DeserializeOwned>(&mut self, name: &str, default: T) -> Result<T> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// The value of `name`, or `None` where the file lacks it or says null.
    ///
    /// # Errors
    /// A value of another type.
    pub fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>> {
        self.seen.insert(name.into());
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                serde_json::from_value(value.clone()).map(Some).map_err(|e| self.refuse(name, value, &e.to_string()))
            }
        }
    }

    /// Whether the file says null for `name`, where that means something other than leaving it out.
    #[must_use]
    pub fn is_null(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(Value::is_null)
    }

    /// The value of `name`, which must be there.
    ///
    /// # Errors
    /// A missing field or a value of another type.
    pub fn require<T: DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        self.optional(name)?.ok_or_else(|| Error::format(&self.path, format!("field {name} is missing")))
    }

    /// Refuses every value of `name` but those in `allowed`; a missing or null field is allowed.
    ///
    /// # Errors
    /// Names the field, its value and what is supported.
    pub fn only<V: Into<Value> + Clone>(&mut self, name: &str, allowed: &[V]) -> Result<()> {
        self.seen.insert(name.into());
        let Some(value) = self.values.get(name).filter(|v| !v.is_null()) else { return Ok(()) };
        let allowed: Vec<Value> = allowed.iter().cloned().map(Into::into).collect();
        let same = |a: &Value| a == value || (a.is_number() && a.as_f64() == value.as_f64());
        if allowed.iter().any(same) {
            return Ok(());
        }
        let shown: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let supported = if shown.is_empty() { "null".into() } else { shown.join(" or ") };
        Err(self.refuse(name, value, &format!("supported: {supported}")))
    }

    /// Fields that change nothing in the computation.
    pub fn ignore(&mut self, names: &[&str]) {
        self.seen.extend(names.iter().map(|n| (*n).to_string()));
    }

    /// An error about the field `name`.
    #[must_use]
    pub fn refuse(&self, name: &str, value: &Value, why: &str) -> Error {
        Error::format(&self.path, format!("field {name} = {value} is not supported: {why}"))
    }

    /// Refuses fields that nobody asked for. Names that begin with `_` are notes by the program that wrote the file.
    ///
    /// # Errors
    /// Names the field and its value.
    pub fn finish(&self) -> Result<()> {
        let unread = self.values.iter().find(|(n, v)| !n.starts_with('_') && !v.is_null() && !self.seen.contains(*n));
        match unread {
            None => Ok(()),
            Some((name, value)) => {
                let known: Vec<&str> = self.seen.iter().map(String::as_str).collect();
                Err(self.refuse(name, value, &Error::unknown("field", name, known).to_string()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse(Path::new("config.json"), text).unwrap()
    }

    #[test]
    fn faults_are_named() {
        let mut f = fields(r#"{"a": 1, "b": "x", "c": 2.0, "_note": 3, "d": null}"#);
        assert_eq!(f.get("a", 0usize).unwrap(), 1);
        assert_eq!(f.get("missing", 5usize).unwrap(), 5);
        f.only("c", &[2]).unwrap();
        let wrong = f.only("b", &["y", "z"]).unwrap_err().to_string();
        assert!(
            wrong.contains("config.json") && wrong.contains("b = \"x\"") && wrong.contains("\"y\" or \"z\""),
            "{wrong}"
        );
        assert!(f.get("b", 0usize).unwrap_err().to_string().contains("field b"));
        f.finish().unwrap();
        assert!(f.require::<usize>("d").unwrap_err().to_string().contains("field d is missing"));
        assert!(fields(r#"{"zz": 1}"#).finish().unwrap_err().to_string().contains("zz = 1"));
        assert!(Fields::parse(Path::new("p"), "[1]").is_err());
    }
}
