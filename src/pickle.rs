//! Files of `torch.save`: a reader that executes nothing.
//!
//! Such a file is a zip archive with a pickle, a program for a small stack machine, that describes objects, and with the
//! numbers of each tensor in an entry of their own; before PyTorch 1.6 it was a [`stream`] of pickles and numbers. A
//! pickle can name any function and call it. This machine knows tensors, numbers, text and plain containers; of every
//! other name, call or instruction it stops with an error.
//! (Instructions: CPython's Lib/pickletools.py, protocols 2 to 4. Tensors: torch/_utils.py, `_rebuild_tensor_v2`.)

mod machine;
mod stream;
mod tensor;
mod zip;

use crate::error::{Error, Result};
use machine::{Machine, Storages};
use std::path::Path;
use tensor::Tensor;
use zip::Archive;

/// A saved object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Tensor(Tensor),
    /// A list or a tuple.
    List(Vec<Object>),
    Dict(Vec<(Object, Object)>),
}

/// A file of `torch.save`.
#[derive(Debug)]
pub(crate) struct Saved {
    archive: Archive,
    pub(crate) root: Object,
}

impl Saved {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it is damaged or holds anything but tensors, numbers, text and plain containers.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::file(path))?;
        if stream::is(&bytes) {
            let (root, entries) = stream::read(&bytes).map_err(|problem| Error::format(path, problem))?;
            return Ok(Self { archive: Archive { path: path.into(), bytes, entries }, root });
        }
        let archive = Archive::read(path, bytes)?;
        let (prefix, program) = archive.ending("data.pkl")?;
        if let Some(order) = archive.get(&format!("{prefix}byteorder")).filter(|order| *order != b"little") {
            let order = String::from_utf8_lossy(order);
            return Err(Error::format(path, format!("byteorder is {order}, supported: little")));
        }
        let mut machine = Machine::new(program, Storages::Entries(&archive, prefix));
        let root = machine
            .run()
            .map_err(|problem| Error::format(path, format!("data.pkl, byte {}: {problem}", machine.at)))?;
        let root = machine.whole(root).map_err(|problem| Error::format(path, problem))?;
        Ok(Self { archive, root })
    }

    /// The tensors of the dictionary `object`, and numbers, by their names.
    ///
    /// # Errors
    /// If it is no dictionary with names for keys.
    pub(crate) fn dictionary<'a>(&'a self, object: &'a Object) -> Result<Dictionary<'a>> {
        let Object::Dict(pairs) = object else {
            return Err(Error::format(&self.archive.path, "holds no dictionary, expected one of tensors"));
        };
        let mut entries = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let Object::Text(name) = key else {
                return Err(Error::format(&self.archive.path, format!("a key {key:?}, expected a name")));
            };
            entries.push((name.as_str(), value));
        }
        Ok(Dictionary { archive: &self.archive, entries })
    }
}

/// Named tensors of a file.
#[derive(Debug)]
pub(crate) struct Dictionary<'a> {
    archive: &'a Archive,
    entries: Vec<(&'a str, &'a Object)>,
}

impl Dictionary<'_> {
    /// The names, in alphabetical order.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.entries.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names
    }

    /// Refuses names other than `expected` (in alphabetical order).
    pub(crate) fn only(&self, expected: &[&str], whose: &str) -> Result<()> {
        let found = self.names();
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (found.join(", "), expected.join(", "));
        Err(Error::format(&self.archive.path, format!("holds {found}, expected {expected} for {whose}")))
    }

    /// What is stored as `name`.
    pub(crate) fn get(&self, name: &str) -> Result<&Object> {
        let found = self.entries.iter().find(|(n, _)| *n == name);
        found.map(|(_, object)| *object).ok_or_else(|| Error::unknown("tensor in the file", name, self.names()))
    }

    /// The tensor `name`, which must have `shape`, as floats.
    pub(crate) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (path, tensor) = (&self.archive.path, self.tensor(name)?);
        if shape != tensor.shape {
            let what = format!("{}: {name}", path.display());
            return Err(Error::Shape { what, found: tensor.shape.clone(), expected: shape.to_vec() });
        }
        let data = self.archive.get(&tensor.entry).unwrap_or_default();
        tensor.numbers(data).map_err(|problem| Error::format(path, format!("{name}: {problem}")))
    }

    /// The shape of the tensor `name`.
    pub(crate) fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.tensor(name)?.shape)
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        match self.get(name)? {
            Object::Tensor(tensor) => Ok(tensor),
            _ => Err(Error::format(&self.archive.path, format!("{name} is no tensor"))),
        }
    }
}

#[cfg(test)]
mod tests;
