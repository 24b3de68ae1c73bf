//! Named arrays in a safetensors file, checked on the way in.

use crate::activations::shard::atomically;
use crate::error::{Error, Result};
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// An array on its way into a file.
pub(crate) struct Array<'a> {
    values: Values<'a>,
    shape: Vec<usize>,
}

enum Values<'a> {
    Floats(&'a [f32]),
    Words(&'a [u64]),
}

impl<'a> Array<'a> {
    pub(crate) fn floats(values: &'a [f32], shape: &[usize]) -> Self {
        Self { values: Values::Floats(values), shape: shape.to_vec() }
    }

    pub(crate) fn words(values: &'a [u64]) -> Self {
        Self { values: Values::Words(values), shape: vec![values.len()] }
    }
}

impl Array<'_> {
    /// Type and bytes of a number.
    fn dtype(&self) -> (&'static str, usize) {
        match self.values {
            Values::Floats(_) => ("F32", 4),
            Values::Words(_) => ("U64", 8),
        }
    }

    fn len(&self) -> usize {
        match self.values {
            Values::Floats(v) => v.len(),
            Values::Words(v) => v.len(),
        }
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        match self.values {
            Values::Floats(v) => v.iter().try_for_each(|v| out.write_all(&v.to_le_bytes())),
            Values::Words(v) => v.iter().try_for_each(|v| out.write_all(&v.to_le_bytes())),
        }
    }
}

/// Writes `arrays` to `path`, whole or not at all. No second copy of them is made, as `safetensors::serialize` would: a
/// checkpoint must not double what a training holds.
pub(crate) fn write<S: AsRef<str>>(
    path: &Path,
    arrays: &[(S, Array<'_>)],
    facts: Option<HashMap<String, String>>,
) -> Result<()> {
    // Wide types first, so that every array is aligned; then by name.
    let mut sorted: Vec<(&str, &Array<'_>)> = arrays.iter().map(|(name, array)| (name.as_ref(), array)).collect();
    sorted.sort_by_key(|(name, array)| (std::cmp::Reverse(array.dtype().1), *name));
    let mut header = Map::new();
    if let Some(facts) = facts {
        header.insert("__metadata__".into(), json!(facts));
    }
    let mut offset = 0;
    for (name, array) in &sorted {
        let ((dtype, size), shape) = (array.dtype(), &array.shape);
        let end = offset + array.len() * size;
        if array.len() != shape.iter().product::<usize>() {
            let what = format!("{}: {name}", path.display());
            return Err(Error::Shape { what, found: vec![array.len()], expected: shape.clone() });
        }
        header.insert((*name).into(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] }));
        offset = end;
    }
    let mut text = Value::Object(header).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    atomically(path, |out| {
        out.write_all(&(text.len() as u64).to_le_bytes())?;
        out.write_all(text.as_bytes())?;
        sorted.iter().try_for_each(|(_, array)| array.write(out))
    })
}

/// Writes `arrays` with `facts` under `key` in the header; [`Arrays::facts`] reads them back.
pub(crate) fn write_with<S: AsRef<str>>(
    path: &Path,
    arrays: &[(S, Array<'_>)],
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
