//! Checkpoints of a training: weights, moments, averages and the step, complete or absent.
//!
//! One safetensors file, `checkpoint.safetensors`, with `value/NAME`, `first/NAME`, `second/NAME`, `average/NAME`
//! for every weight and step and seconds in its metadata. It appears by rename, so a training that is killed at
//! any moment resumes from the last whole one, to the same bits.

use crate::embedded::optimiser::Parameter;
use crate::error::{Error, Result};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How far a training had come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reached {
    /// Steps done.
    pub step: usize,
    /// Seconds spent training, over all runs.
    pub seconds: f64,
}

/// The four arrays of a parameter, by the first part of their names in the file.
const ARRAYS: [&str; 4] = ["value", "first", "second", "average"];

fn file(dir: &Path) -> PathBuf {
    dir.join("checkpoint.safetensors")
}

/// Whether `dir` holds a checkpoint.
#[must_use]
pub fn exists(dir: &Path) -> bool {
    file(dir).exists()
}

/// Writes the state of a training into `dir`. `recipe` is a text that must be equal when it is read back.
///
/// # Errors
/// A folder that cannot be written.
pub fn save(dir: &Path, parameters: &[Parameter], reached: Reached, recipe: &str) -> Result<()> {
    let mut bytes: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for p in parameters {
        for (kind, array) in ARRAYS.iter().zip([&p.value, &p.first, &p.second, &p.average]) {
            let raw = array.iter().flat_map(|x| x.to_le_bytes()).collect();
            bytes.push((format!("{kind}/{}", p.name), p.var.dims().to_vec(), raw));
        }
    }
    let views = bytes
        .iter()
        .map(|(name, shape, raw)| Ok((name.clone(), TensorView::new(Dtype::F32, shape.clone(), raw)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
    let path = file(dir);
    let views = views.map_err(|e| Error::format(&path, e))?;
    let metadata = HashMap::from([
        ("step".to_string(), reached.step.to_string()),
        ("seconds".to_string(), reached.seconds.to_string()),
        ("recipe".to_string(), recipe.to_string()),
    ]);
    let partial = path.with_extension("partial");
    safetensors::serialize_to_file(views, Some(metadata), &partial).map_err(|e| Error::format(&partial, e))?;
    std::fs::rename(&partial, &path).map_err(Error::file(path))
}

/// Reads the checkpoint in `dir` into the parameters and their variables.
///
/// # Errors
/// A missing, truncated or unreadable file, one of another recipe, or one whose weights differ in name or shape.
pub fn load(dir: &Path, parameters: &mut [Parameter], recipe: &str) -> Result<Reached> {
    let path = file(dir);
    let bytes = std::fs::read(&path).map_err(Error::file(&path))?;
    let unreadable = |e: safetensors::SafeTensorError| Error::format(&path, e);
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(unreadable)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(unreadable)?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let entry =
        |name: &str| metadata.get(name).ok_or_else(|| Error::format(&path, format!("no {name} in the metadata")));
    if entry("recipe")? != recipe {
        let problem = format!("made by another recipe: {:?}, expected {recipe:?}", entry("recipe")?);
        return Err(Error::format(&path, problem));
    }
    let number = |name: &str| -> Result<f64> {
        entry(name)?.parse().map_err(|_| Error::format(&path, format!("{name} is not a number")))
    };
    for p in parameters.iter_mut() {
        let shape = p.var.dims().to_vec();
        for (kind, array) in ARRAYS.iter().zip([&mut p.value, &mut p.first, &mut p.second, &mut p.average]) {
            let name = format!("{kind}/{}", p.name);
            let view = tensors.tensor(&name).map_err(unreadable)?;
            if view.shape() != shape {
                return Err(Error::Shape { what: name, found: view.shape().to_vec(), expected: shape });
            }
            for (x, raw) in array.iter_mut().zip(view.data().chunks_exact(4)) {
                *x = f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
            }
        }
        p.publish()?;
    }
    if tensors.len() != ARRAYS.len() * parameters.len() {
        let problem = format!("{} arrays, expected {}", tensors.len(), ARRAYS.len() * parameters.len());
        return Err(Error::format(&path, problem));
    }
    Ok(Reached { step: number("step")? as usize, seconds: number("seconds")? })
}
