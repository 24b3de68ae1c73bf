//! Named arrays in a safetensors file, checked on the way in.

use crate::activations::shard::atomically;
use crate::error::{Error, Result};
use safetensors::{Dtype, SafeTensors, View};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// An array on its way into a file.
pub(crate) struct Array {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Array {
    pub(crate) fn floats(values: &[f32], shape: &[usize]) -> Self {
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
    }

    pub(crate) fn words(values: &[u64]) -> Self {
        Self {
            dtype: Dtype::U64,
            shape: vec![values.len()],
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }
}

impl View for &Array {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Writes `arrays` to `path`, whole or not at all.
pub(crate) fn write<S: AsRef<str>>(
    path: &Path,
    arrays: &[(S, Array)],
    facts: Option<HashMap<String, String>>,
) -> Result<()> {
    let views = arrays.iter().map(|(name, array)| (name.as_ref(), array));
    let file = safetensors::serialize(views, facts).map_err(|e| Error::format(path, e))?;
    atomically(path, |out| out.write_all(&file))
}

/// Writes `arrays` with `facts` under `key` in the header; [`Arrays::facts`] reads them back.
pub(crate) fn write_with<S: AsRef<str>>(
    path: &Path,
    arrays: &[(S, Array)],
    key: &str,
    facts: &impl Serialize,
) -> Result<()> {
    let text = serde_json::to_string(facts).map_err(|e| Error::format(path, e))?;
    write(path, arrays, Some(HashMap::from([(key.to_string(), text)])))
}

/// The arrays of a file.
pub(crate) struct Arrays {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Arrays {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::file(path))?;
        SafeTensors::deserialize(&bytes)
            .map_err(|e| Error::format(path, format!("not a whole safetensors file: {e}")))?;
        Ok(Self { path: path.into(), bytes })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the arrays.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        Ok(self.parsed()?.names().into_iter().map(String::from).collect())
    }

    /// The text stored beside the arrays under `key`.
    pub(crate) fn fact(&self, key: &str) -> Result<String> {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).map_err(|e| Error::format(&self.path, e))?;
        let found = header.metadata().as_ref().and_then(|m| m.get(key)).cloned();
        found.ok_or_else(|| Error::format(&self.path, format!("no {key:?} in its header")))
    }

    /// The facts of an SAE stored under `key`, whose `format` must be this one.
    pub(crate) fn facts<F: DeserializeOwned>(&self, key: &str, format: u32) -> Result<F> {
        let facts: Value = serde_json::from_str(&self.fact(key)?).map_err(|e| Error::format(&self.path, e))?;
        if facts["format"] != format {
            let problem = format!("an SAE of format {}, this version reads format {format}", facts["format"]);
            return Err(Error::format(&self.path, problem));
        }
        serde_json::from_value(facts).map_err(|e| Error::format(&self.path, format!("its header: {e}")))
    }

    /// The floats named `name` (of 16, 32 or 64 bits), which must have `shape`.
    pub(crate) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let file = self.parsed()?;
        let array = file.tensor(name).map_err(|_| Error::unknown("tensor in the file", name, file.names()))?;
        if array.shape() != shape {
            return Err(Error::Shape {
                what: format!("{}: {name}", self.path.display()),
                found: array.shape().to_vec(),
                expected: shape.to_vec(),
            });
        }
        let bytes = array.data();
        match array.dtype() {
            Dtype::F32 => Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            Dtype::F16 => Ok(bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            Dtype::BF16 => {
                Ok(bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
            }
            Dtype::F64 => {
                let float = |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32;
                Ok(bytes.chunks_exact(8).map(float).collect())
            }
            other => Err(Error::format(&self.path, format!("{name} of {other:?}, expected F16, BF16, F32 or F64"))),
        }
    }

    /// The matrix named `name`, or the only tensor there is, with its shape.
    pub(crate) fn matrix(&self, name: Option<&str>) -> Result<([usize; 2], Vec<f32>)> {
        let mut names = self.names()?;
        names.sort();
        let name = match (name, &names[..]) {
            (Some(name), _) => name,
            (None, [one]) => one,
            _ => return Err(Error::format(&self.path, format!("holds {}: say which tensor", names.join(", ")))),
        };
        let file = self.parsed()?;
        let array = file.tensor(name).map_err(|_| Error::unknown("tensor in the file", name, &names))?;
        match *array.shape() {
            [rows, columns] => Ok(([rows, columns], self.floats(name, &[rows, columns])?)),
            ref other => Err(Error::format(&self.path, format!("{name} of shape {other:?}, expected [tokens, d]"))),
        }
    }

    /// The 64-bit words named `name`, `n` of them.
    pub(crate) fn words(&self, name: &str, n: usize) -> Result<Vec<u64>> {
        let file = self.parsed()?;
        let array = file.tensor(name).map_err(|_| Error::unknown("tensor in the file", name, file.names()))?;
        if array.dtype() != Dtype::U64 || array.shape() != [n] {
            let problem =
                format!("{name}: {:?} of shape {:?}, expected U64 of shape [{n}]", array.dtype(), array.shape());
            return Err(Error::format(&self.path, problem));
        }
        let word = |b: &[u8]| u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        Ok(array.data().chunks_exact(8).map(word).collect())
    }

    fn parsed(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).map_err(|e| Error::format(&self.path, e))
    }
}
