//! An SAE as a part of a file that holds more: its arrays under a number, its facts in the file's header.

use super::tensors::{Array, Arrays};
use super::weights::Weights;
use super::{Architecture, Sae};
use crate::activations::Description;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What the header says of it, in SAELens' words.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    architecture: String,
    d_in: usize,
    d_sae: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    k: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    activations: Option<Description>,
    metadata: Map<String, Value>,
}

impl Part {
    pub(crate) fn of(sae: &Sae) -> Self {
        Self {
            architecture: sae.architecture.name().into(),
            d_in: sae.d,
            d_sae: sae.latents,
            k: if let Architecture::TopK { k } = sae.architecture { Some(k) } else { None },
            activations: sae.about.clone(),
            metadata: sae.facts.clone(),
        }
    }

    /// The arrays of `sae` as dictionary `i` of a file.
    pub(crate) fn arrays(i: usize, sae: &Sae) -> Vec<(String, Array<'_>)> {
        let (matrix, latents) = ([sae.latents, sae.d], [sae.latents]);
        let mut arrays = vec![
            (format!("{i}.W_enc"), Array::floats(&sae.w_enc, &matrix)),
            (format!("{i}.b_enc"), Array::floats(&sae.b_enc, &latents)),
            (format!("{i}.W_dec"), Array::floats(&sae.w_dec, &matrix)),
            (format!("{i}.b_dec"), Array::floats(&sae.b_dec, &[sae.d])),
        ];
        if let Architecture::JumpReLU { threshold } = &sae.architecture {
            arrays.push((format!("{i}.threshold"), Array::floats(threshold, &latents)));
        }
        arrays
    }

    /// The names of the arrays that dictionary `i` has.
    ///
    /// # Errors
    /// If the architecture is not known, or has a k where it should not or none where it should.
    pub(crate) fn names(&self, i: usize) -> Result<Vec<String>> {
        let mut names = ["W_enc", "b_enc", "W_dec", "b_dec"].map(|name| format!("{i}.{name}")).to_vec();
        match (self.architecture.as_str(), self.k) {
            ("standard", None) | ("topk", Some(_)) => {}
            ("jumprelu", None) => names.push(format!("{i}.threshold")),
            (name, k) => {
                let k = k.map_or("no k".into(), |k| format!("k = {k}"));
                return Err(Error::invalid(format!(
                    "its header: dictionary {i} is of architecture {name:?} with {k}, expected standard, jumprelu, or \
                     topk with its k"
                )));
            }
        }
        Ok(names)
    }

    /// Dictionary `i` from its file, after [`names`](Self::names).
    ///
    /// # Errors
    /// If an array has another shape, or the numbers make no SAE.
    pub(crate) fn read(self, file: &Arrays, i: usize) -> Result<Sae> {
        let (n, d) = (self.d_sae, self.d_in);
        let floats = |name: &str, shape: &[usize]| file.floats(&format!("{i}.{name}"), shape);
        let architecture = match (self.architecture.as_str(), self.k) {
            ("standard", _) => Architecture::ReLU,
            (_, Some(k)) => Architecture::TopK { k },
            _ => Architecture::JumpReLU { threshold: floats("threshold", &[n])? },
        };
        let weights = Weights {
            d,
            latents: n,
            w_enc: floats("W_enc", &[n, d])?,
            b_enc: floats("b_enc", &[n])?,
            w_dec: floats("W_dec", &[n, d])?,
            b_dec: floats("b_dec", &[d])?,
        };
        let mut sae = weights.sae(architecture);
        (sae.about, sae.facts) = (self.activations, self.metadata);
        sae.check()?;
        Ok(sae)
    }
}

impl Arrays {
    /// Refuses a file that holds other arrays than `expected`.
    pub(crate) fn expect(&self, mut expected: Vec<String>) -> Result<()> {
        let mut names = self.names()?;
        names.sort();
        expected.sort();
        if names == expected {
            return Ok(());
        }
        Err(Error::format(self.path(), format!("holds {}, expected {}", names.join(", "), expected.join(", "))))
    }
}
