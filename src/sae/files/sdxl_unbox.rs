//! sdxl-unbox's folder: `state_dict.pth` and `config.json` (Surkov et al. 2024, SAE/sae.py).
//!
//! TopK on encoder·(x − pre_bias) + latent_bias, then a ReLU. `mean.pt` and `std.pt`, which lie beside some of them, are
//! statistics of the latents for display and take no part.

use super::super::weights::Weights;
use super::{Architecture, Sae, source, transposed};
use crate::diffusion::open::Fields;
use crate::error::Result;
use crate::pickle::Saved;
use std::path::Path;

const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "state_dict.pth";

/// Reads what sdxl-unbox wrote.
pub(super) fn read(folder: &Path) -> Result<Sae> {
    let path = folder.join(CONFIG);
    let mut f = Fields::read(&path)?;
    let (n, d): (usize, usize) = (f.require("n_dirs_local")?, f.require("d_model")?);
    let k = f.require("k")?;
    f.ignore(&["auxk", "auxk_coef", "dead_steps_threshold"]);
    f.finish()?;
    let saved = Saved::read(&folder.join(WEIGHTS))?;
    let file = saved.dictionary(&saved.root)?;
    file.only(&["state_dict"], "sdxl-unbox")?;
    let tensors = saved.dictionary(file.get("state_dict")?)?;
    tensors
        .only(&["decoder.weight", "encoder.weight", "latent_bias", "pre_bias", "stats_last_nonzero"], "sdxl-unbox")?;
    let w = Weights {
        d,
        latents: n,
        w_enc: tensors.floats("encoder.weight", &[n, d])?,
        b_enc: tensors.floats("latent_bias", &[n])?,
        w_dec: transposed(&tensors.floats("decoder.weight", &[d, n])?, d, n),
        b_dec: tensors.floats("pre_bias", &[d])?,
    };
    let mut sae = w.sae(Architecture::TopK { k });
    sae.facts.extend([source("sdxl-unbox", &path)?]);
    Ok(sae)
}
