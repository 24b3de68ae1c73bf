//! One file for a temporal-aware SAE: the dictionary's arrays (`0.W_enc` and so on) and `modulation.scale`,
//! `modulation.shift` `[steps, d]` in safetensors, facts in its header.

use super::{Modulation, TideSae};
use crate::activations::Description;
use crate::error::{Error, Result};
use crate::sae::part::Part;
use crate::sae::tensors::{self, Array, Arrays};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file's name in the folder of a training.
pub(super) const NAME: &str = "tide.safetensors";

/// Version of the layout; a file of another is refused.
const FORMAT: u32 = 1;

/// Where the facts are in the header.
const FACTS: &str = "denoscope.temporal_aware_sae";

/// What the header says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    format: u32,
    t: Vec<f64>,
    about: Vec<Description>,
    dictionary: Part,
}

impl TideSae {
    /// Writes dictionary and modulation into one file.
    ///
    /// # Errors
    /// If it cannot be written; a file that was there before then stays whole.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let (path, m) = (path.as_ref(), &self.modulation);
        let facts =
            Facts { format: FORMAT, t: m.t.clone(), about: self.about.clone(), dictionary: Part::of(&self.sae) };
        let mut arrays = Part::arrays(0, &self.sae);
        arrays.push(("modulation.scale".into(), Array::floats(&m.scale, &[m.t.len(), m.d])));
        arrays.push(("modulation.shift".into(), Array::floats(&m.shift, &[m.t.len(), m.d])));
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
    /// If the file is damaged, of another version, or holds other arrays or shapes than its header says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = Arrays::read(path)?;
        let facts: Facts = file.facts(FACTS, FORMAT)?;
        let mut expected = facts.dictionary.names(0).map_err(|e| Error::format(path, e))?;
        expected.extend(["modulation.scale", "modulation.shift"].map(String::from));
        file.expect(expected)?;
        let sae = facts.dictionary.read(&file, 0).map_err(|e| Error::format(path, e))?;
        let shape = [facts.t.len(), sae.d];
        let (scale, shift) = (file.floats("modulation.scale", &shape)?, file.floats("modulation.shift", &shape)?);
        let whole = || Self::new(sae.clone(), Modulation::new(facts.t, sae.d, scale, shift)?, facts.about);
        whole().map_err(|e| Error::format(path, e))
    }
}
