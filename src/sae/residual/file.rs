//! One file for an SAE of trajectories: arrays in safetensors, facts in its header.
//!
//! | array | shape |
//! |---|---|
//! | `mean`, `deviation` | `[steps, d]` |
//! | `scale` | `[steps]` |
//! | `maps`, if steps are predicted | `[steps − 1, d, d]` |
//! | `0.W_enc`, `0.W_dec` and so on for every dictionary | `[latents, d_in]` |
//! | `0.b_enc`, and `0.threshold` of a jumprelu | `[latents]` |
//! | `0.b_dec` | `[d_in]` |

use super::fit::{Fit, Prediction};
use super::{Join, Predictors, TrajectorySae};
use crate::activations::Description;
use crate::error::{Error, Result};
use crate::sae::architecture::check_tensor;
use crate::sae::part::Part;
use crate::sae::tensors::{self, Array, Arrays};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// The file's name in the folder of a training.
pub(super) const NAME: &str = "trajectory.safetensors";

/// Version of the layout; a file of another is refused.
const FORMAT: u32 = 2;

/// Where the facts are in the header.
const FACTS: &str = "denoscope.trajectory_sae";

/// What the header says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    format: u32,
    join: Join,
    steps: usize,
    d: usize,
    prediction: Prediction,
    fits: Vec<Fit>,
    about: Vec<Description>,
    parts: Vec<Part>,
}

impl TrajectorySae {
    /// Writes predictors and dictionaries into one file.
    ///
    /// # Errors
    /// If it cannot be written; a file that was there before then stays whole.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let (path, p) = (path.as_ref(), &self.predictors);
        let facts = Facts {
            format: FORMAT,
            join: self.join,
            steps: p.steps,
            d: p.d,
            prediction: p.options.clone(),
            fits: p.fits.clone(),
            about: p.about.clone(),
            parts: self.parts.iter().map(Part::of).collect(),
        };
        let mut arrays = vec![
            ("mean".to_string(), Array::floats(&p.mean, &[p.steps, p.d])),
            ("deviation".to_string(), Array::floats(&p.deviation, &[p.steps, p.d])),
            ("scale".to_string(), Array::floats(&p.scale, &[p.steps])),
        ];
        if p.predicts() {
            arrays.push(("maps".into(), Array::floats(&p.maps, &[p.steps - 1, p.d, p.d])));
        }
        arrays.extend(self.parts.iter().enumerate().flat_map(|(i, sae)| Part::arrays(i, sae)));
        tensors::write_with(path, &arrays, FACTS, &facts)
    }

    /// The SAE in the folder of a training, if it is one of this kind.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn of_run(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(NAME);
        path.exists().then(|| Self::open(path)).transpose()
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// If the file is damaged, of another version, holds other arrays or shapes than its header says, or numbers that
    /// make no such SAE.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = Arrays::read(path)?;
        let facts: Facts = file.facts(FACTS, FORMAT)?;
        let (steps, d, predicts) = (facts.steps, facts.d, facts.prediction.predict);
        if steps < 2 {
            return Err(Error::format(path, format!("its header: {steps} steps, expected at least 2")));
        }
        let fits = if predicts { steps - 1 } else { 0 };
        for (what, found, expected) in
            [("descriptions of steps", facts.about.len(), steps), ("fits of steps", facts.fits.len(), fits)]
        {
            if found != expected {
                return Err(Error::format(path, format!("its header: {found} {what}, expected {expected}")));
            }
        }
        let mut expected: Vec<String> = ["deviation", "mean", "scale"].map(String::from).to_vec();
        expected.extend(predicts.then(|| "maps".into()));
        for (i, part) in facts.parts.iter().enumerate() {
            expected.extend(part.names(i).map_err(|e| Error::format(path, e))?);
        }
        file.expect(expected)?;
        let predictors = Predictors {
            steps,
            d,
            mean: file.floats("mean", &[steps, d])?,
            deviation: file.floats("deviation", &[steps, d])?,
            maps: if predicts { file.floats("maps", &[steps - 1, d, d])? } else { Vec::new() },
            scale: file.floats("scale", &[steps])?,
            fits: facts.fits,
            options: facts.prediction,
            about: facts.about,
        };
        let parts = facts.parts.into_iter().enumerate().map(|(i, part)| part.read(&file, i)).collect::<Result<_>>();
        let whole = || Self::new(Arc::new(checked(predictors)?), facts.join, parts?);
        whole().map_err(|e| Error::format(path, e))
    }
}

/// Refuses numbers that predict nothing.
fn checked(p: Predictors) -> Result<Predictors> {
    for (name, values) in [("mean", &p.mean), ("deviation", &p.deviation), ("maps", &p.maps), ("scale", &p.scale)] {
        check_tensor(name, values, &[values.len()])?;
        if let Some(v) = values.iter().find(|v| ["deviation", "scale"].contains(&name) && **v <= 0.0) {
            return Err(Error::invalid(format!("{name} holds {v}: expected numbers above 0")));
        }
    }
    Ok(p)
}
