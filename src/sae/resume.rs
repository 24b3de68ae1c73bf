//! Checkpoints of a training: everything that decides the rest of it.

use super::Options;
use super::adam::Moments;
use super::form::Form;
use super::report::{self, Row};
use super::tensors::{self, Array, Arrays};
use super::train::Trainer;
use super::weights::Weights;
use crate::activations::{Activations, Description};
use crate::error::{Error, Result};
use crate::random::fnv1a;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Version of the checkpoint and of the arithmetic of a step: another version could not give the same bits.
const FORMAT: u32 = 2;

/// What makes two trainings the same training.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Identity {
    format: u32,
    architecture: Form,
    latents: usize,
    options: Options,
    data: Description,
    items: usize,
    /// Of the prompts, the seeds and the first and last item's numbers.
    digest: String,
}

impl Identity {
    pub(crate) fn new(architecture: Form, latents: usize, options: &Options, training: &Activations) -> Result<Self> {
        let ends = [training.item(0)?, training.item(training.len() - 1)?];
        let items = training.items().iter().flat_map(|i| i.prompt.bytes().chain(i.seed.to_le_bytes()));
        let hash = fnv1a(items.chain(ends.iter().flatten().flat_map(|v| v.to_le_bytes())));
        let (options, data, items) = (options.clone(), training.about().clone(), training.len());
        Ok(Self { format: FORMAT, architecture, latents, options, data, items, digest: format!("{hash:016x}") })
    }

    /// Of the data that it is trained on.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// The architecture with its settings, as it is written beside an SAE.
    pub(crate) fn recipe(&self) -> Result<Value> {
        serde_json::to_string(&self.architecture).and_then(|text| serde_json::from_str(&text)).map_err(Error::invalid)
    }

    /// As text and back, as the one on disk went: reading a number back may change its last digit.
    fn fields(&self, path: &Path) -> Result<Map<String, Value>> {
        serde_json::to_string(self).and_then(|text| serde_json::from_str(&text)).map_err(|e| Error::format(path, e))
    }
}

/// Names the first difference of the training on disk from the one that is wanted.
fn agree(found: &Map<String, Value>, wanted: &Map<String, Value>, path: &Path) -> Result<()> {
    let refuse = |name: &str, found: &Value, wanted: &Value| {
        Err(Error::format(
            path,
            format!("holds a training with {name} = {found}, wanted {wanted}: choose another folder"),
        ))
    };
    for (name, wanted) in wanted {
        let found = found.get(name).unwrap_or(&Value::Null);
        match (found.as_object(), wanted.as_object()) {
            (Some(found), Some(wanted)) => {
                if let Some((key, wanted)) = wanted.iter().find(|(key, w)| found.get(*key) != Some(w)) {
                    return refuse(&format!("{name}.{key}"), found.get(key).unwrap_or(&Value::Null), wanted);
                }
            }
            _ if found != wanted => return refuse(name, found, wanted),
            _ => {}
        }
    }
    Ok(())
}

fn path(folder: &Path) -> PathBuf {
    folder.join("checkpoint.safetensors")
}

/// Writes a checkpoint; the one before stays until it is whole.
pub(crate) fn save(
    folder: &Path,
    identity: &Identity,
    trainer: &mut Trainer,
    scale: f32,
    history: &[Row],
) -> Result<()> {
    let path = path(folder);
    let identity = serde_json::to_string(identity).map_err(|e| Error::format(&path, e))?;
    let facts = HashMap::from([("identity".to_string(), identity), ("log".to_string(), report::csv(history))]);
    let (scale, done, own) = ([scale], [trainer.done as u64], trainer.rule.state());
    let (w, m) = (&trainer.weights, &trainer.moments);
    let (matrix, latents, d) = ([w.latents, w.d], [w.latents], [w.d]);
    let mut arrays = vec![
        ("w_enc", Array::floats(&w.w_enc, &matrix)),
        ("b_enc", Array::floats(&w.b_enc, &latents)),
        ("w_dec", Array::floats(&w.w_dec, &matrix)),
        ("b_dec", Array::floats(&w.b_dec, &d)),
        ("w_enc.m", Array::floats(&m[0].m, &matrix)),
        ("w_enc.v", Array::floats(&m[0].v, &matrix)),
        ("b_enc.m", Array::floats(&m[1].m, &latents)),
        ("b_enc.v", Array::floats(&m[1].v, &latents)),
        ("w_dec.m", Array::floats(&m[2].m, &matrix)),
        ("w_dec.v", Array::floats(&m[2].v, &matrix)),
        ("b_dec.m", Array::floats(&m[3].m, &d)),
        ("b_dec.v", Array::floats(&m[3].v, &d)),
        ("scale", Array::floats(&scale, &[1])),
        ("silent", Array::words(&trainer.silent)),
        ("done", Array::words(&done)),
    ];
    for (name, values) in &own {
        arrays.push((*name, Array::floats(values, &[values.len()])));
    }
    tensors::write(&path, &arrays, Some(facts))
}

/// The state to go on from, if there is one; refuses another training's.
pub(crate) fn load(folder: &Path, identity: &Identity) -> Result<Option<(Trainer, f32, Vec<Row>)>> {
    let path = path(folder);
    if !path.exists() {
        return Ok(None);
    }
    let file = Arrays::read(&path)?;
    let found = serde_json::from_str(&file.fact("identity")?).map_err(|e| Error::format(&path, e))?;
    agree(&found, &identity.fields(&path)?, &path)?;
    let history =
        report::parse(&file.fact("log")?).ok_or_else(|| Error::format(&path, "a damaged log in its header"))?;
    let (n, d) = (identity.latents, identity.data.d / identity.architecture.steps());
    let moments = |name: &str, shape: &[usize]| -> Result<Moments> {
        Ok(Moments { m: file.floats(&format!("{name}.m"), shape)?, v: file.floats(&format!("{name}.v"), shape)? })
    };
    let weights = Weights {
        d,
        latents: n,
        w_enc: file.floats("w_enc", &[n, d])?,
        b_enc: file.floats("b_enc", &[n])?,
        w_dec: file.floats("w_dec", &[n, d])?,
        b_dec: file.floats("b_dec", &[d])?,
    };
    let mut trainer = Trainer::new(weights, identity.architecture.rule(n)?);
    for (name, values) in trainer.rule.state() {
        *values = file.floats(name, &[values.len()])?;
    }
    trainer.moments =
        [moments("w_enc", &[n, d])?, moments("b_enc", &[n])?, moments("w_dec", &[n, d])?, moments("b_dec", &[d])?];
    trainer.silent = file.words("silent", n)?;
    trainer.done = file.words("done", 1)?[0] as usize;
    Ok(Some((trainer, file.floats("scale", &[1])?[0], history)))
}
