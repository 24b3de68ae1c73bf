//! Shards: one safetensors file of half-precision activations `[items, tokens, d]`.
//!
//! A shard appears by rename when it is complete, so that a file with a shard's name is a whole shard.

use super::{Description, Layout};
use crate::error::{Error, Result};
use half::f16;
use safetensors::{Dtype, View};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The name of the tensor in a shard.
const TENSOR: &str = "activations";

/// No header of ours comes near this size; a larger one is a damaged file.
const LARGEST_HEADER: u64 = 1 << 20;

/// Creates `path` with what `fill` writes, or not at all: writes beside it, syncs, then renames.
pub(crate) fn atomically(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::file(folder))?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let written = File::create(&partial).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        fill(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        fs::rename(&partial, path)
    });
    written.map_err(|source| {
        let _ = fs::remove_file(&partial); // the first error is the one worth telling
        Error::File { path: path.into(), source }
    })
}

/// What the header of a shard says about it.
#[derive(Serialize, Deserialize)]
struct Facts {
    about: Description,
    first_item: usize,
}

/// Half-precision numbers as safetensors wants them.
struct Halves {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for &Halves {
    fn dtype(&self) -> Dtype {
        Dtype::F16
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

/// Writes `data` = `[items, tokens, d]` in half precision; `first` is the index of its first item.
pub(crate) fn write(path: &Path, about: &Description, first: usize, data: &[f32]) -> Result<()> {
    let (tokens, d) = (about.grid.0 * about.grid.1, about.d);
    let mut bytes = Vec::with_capacity(data.len() * 2);
    for (at, &value) in data.iter().enumerate() {
        let small = f16::from_f32(value);
        if !small.is_finite() {
            let reason = if value.is_finite() { "beyond the range of half precision (65504)" } else { "not finite" };
            return Err(Error::format(
                path,
                format!("{}: {value} at row {}, channel {} is {reason}", about.site, at / d, at % d),
            ));
        }
        bytes.extend_from_slice(&small.to_le_bytes());
    }
    let halves = Halves { shape: vec![data.len() / (tokens * d), tokens, d], bytes };
    // One fact only: several would be written in random order, and a shard shall be the same bytes every time.
    let facts = serde_json::to_string(&Facts { about: about.clone(), first_item: first })
        .map_err(|e| Error::format(path, e))?;
    let facts = HashMap::from([("denoscope".to_string(), facts)]);
    let file = safetensors::serialize([(TENSOR, &halves)], Some(facts)).map_err(|e| Error::format(path, e))?;
    atomically(path, |out| out.write_all(&file))
}

/// The shards of one place, step and half.
#[derive(Debug)]
pub(crate) struct Shards {
    about: Description,
    per_shard: usize,
    files: Vec<(PathBuf, u64)>,
}

impl Shards {
    /// Checks the header of every file: `items` items in all, `per_shard` in every file but the last.
    pub(crate) fn open(about: &Description, items: usize, per_shard: usize, paths: Vec<PathBuf>) -> Result<Self> {
        let mut files = Vec::with_capacity(paths.len());
        for (number, path) in paths.into_iter().enumerate() {
            let first = number * per_shard;
            let header = Header::read(&path)?;
            let expected = [per_shard.min(items - first), about.grid.0 * about.grid.1, about.d];
            if header.shape != expected {
                return Err(Error::Shape {
                    what: path.display().to_string(),
                    found: header.shape,
                    expected: expected.to_vec(),
                });
            }
            if header.about != *about {
                let problem = format!("holds {}, expected {about}", header.about);
                return Err(Error::format(&path, problem));
            }
            if header.first != first {
                return Err(Error::format(&path, format!("starts at item {}, expected item {first}", header.first)));
            }
            files.push((path, header.data));
        }
        Ok(Self { about: about.clone(), per_shard, files })
    }

    /// Item `i`: `[tokens, d]`.
    pub(crate) fn item(&self, i: usize) -> Result<Vec<f16>> {
        let (path, data) = &self.files[i / self.per_shard];
        let d = self.about.d;
        let size = self.about.grid.0 * self.about.grid.1 * d;
        let row = i % self.per_shard;
        let mut bytes = vec![0u8; size * 2];
        let mut file = File::open(path).map_err(Error::file(path))?;
        file.seek(SeekFrom::Start(data + (row * size * 2) as u64)).map_err(Error::file(path))?;
        file.read_exact(&mut bytes).map_err(Error::file(path))?;
        let values: Vec<f16> = bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let (value, token) = (values[at], row * (size / d) + at / d);
            let problem =
                format!("{}: {value} at row {token}, channel {}: expected finite numbers", self.about.site, at % d);
            return Err(Error::format(path, problem));
        }
        Ok(values)
    }
}

/// What the header of a shard says.
pub(crate) struct Header {
    pub(crate) about: Description,
    first: usize,
    shape: Vec<usize>,
    data: u64,
}

impl Header {
    pub(crate) fn layout(&self) -> Layout {
        Layout { grid: self.about.grid, d: self.about.d }
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::file(path))?;
        let found = file.metadata().map_err(Error::file(path))?.len();
        let mut length = [0u8; 8];
        file.read_exact(&mut length)
            .map_err(|_| Error::format(path, format!("truncated: {found} bytes hold no header")))?;
        let length = u64::from_le_bytes(length);
        if length > LARGEST_HEADER {
            return Err(Error::format(
                path,
                format!("damaged: a header of {length} bytes, expected at most {LARGEST_HEADER}"),
            ));
        }
        let mut header = vec![0u8; length as usize];
        file.read_exact(&mut header).map_err(|_| {
            Error::format(path, format!("truncated: {found} bytes, the header alone has {}", length + 8))
        })?;
        let json: Value =
            serde_json::from_slice(&header).map_err(|e| Error::format(path, format!("damaged header: {e}")))?;
        let tensor = json.get(TENSOR).ok_or_else(|| Error::format(path, format!("no tensor named {TENSOR:?}")))?;
        if tensor["dtype"] != "F16" {
            return Err(Error::format(path, format!("tensor of {}, expected \"F16\"", tensor["dtype"])));
        }
        let numbers = |v: &Value| -> Option<Vec<u64>> { v.as_array()?.iter().map(Value::as_u64).collect() };
        let shape = numbers(&tensor["shape"]).ok_or_else(|| Error::format(path, "damaged header: no shape"))?;
        let offsets = numbers(&tensor["data_offsets"])
            .filter(|o| o.len() == 2 && o[1].checked_sub(o[0]) == Some(2 * shape.iter().product::<u64>()))
            .ok_or_else(|| Error::format(path, "damaged header: offsets that do not fit the shape"))?;
        let expected = 8 + length + offsets[1];
        if found != expected {
            return Err(Error::format(path, format!("truncated or damaged: found {found} bytes, expected {expected}")));
        }
        let facts: Facts = json["__metadata__"]["denoscope"]
            .as_str()
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or_else(|| Error::format(path, "no description of its activations in the header"))?;
        let Facts { about, first_item: first } = facts;
        Ok(Self { about, first, shape: shape.iter().map(|&n| n as usize).collect(), data: 8 + length + offsets[0] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/shard");
        let error = atomically(&path, |out| {
            out.write_all(&[1; 100])?;
            Err(std::io::ErrorKind::StorageFull.into())
        });
        assert!(error.unwrap_err().to_string().contains("deep/shard"));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        // An older complete file survives a failed rewrite.
        atomically(&path, |out| out.write_all(b"old")).unwrap();
        atomically(&path, |_| Err(std::io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
