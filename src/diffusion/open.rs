//! Opening a model: where its files are and what its configuration says.
//!
//! A model is a folder in the layout of diffusers: `model_index.json` names the components, each in a subfolder of
//! its own with its configuration and safetensors files. The folder is given by the name of an embedded model, by its
//! path, or by an id on the Hugging Face hub, from which it is fetched once.

mod fields;
mod fingerprint;
mod folder;
mod hub;
mod memory;

pub use fields::Fields;
pub use folder::{ModelFolder, component_folder, component_weights};
pub use memory::check as check_memory;

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// What makes a folder a model.
const INDEX: &str = "model_index.json";

/// Folders that hold embedded models, in the order in which they are searched: `$DENOSCOPE_DATA`, the `data/` of the
/// source tree, and `data/` beside the executable.
#[must_use]
pub fn data_folders() -> Vec<PathBuf> {
    let named = std::env::var_os("DENOSCOPE_DATA").map(PathBuf::from);
    let source = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("data"));
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("data")));
    [named, source, beside].into_iter().flatten().collect()
}

/// A file below the first data folder that has it, as in `annotator/config.json`.
///
/// # Errors
/// Names the folders that were searched.
pub fn data_file(inside: &str) -> Result<PathBuf> {
    let folders = data_folders();
    let found = folders.iter().map(|f| f.join(inside)).find(|f| f.is_file());
    let searched = || folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| Error::invalid(format!("no {inside} in {}", searched())))
}

/// Names of the embedded models that are there.
#[must_use]
pub fn embedded_models() -> Vec<String> {
    let entries = data_folders().into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let models = entries.filter(|e| e.path().join(INDEX).is_file());
    let mut names: Vec<String> = models.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names.dedup();
    names
}

/// The folder of a single network in the layout of transformers (`config.json` beside its weights), by its path or by its
/// id on the hub.
///
/// # Errors
/// A path where there is no such folder; a hub model that cannot be fetched.
pub fn network_folder(name: &Path) -> Result<PathBuf> {
    if name.is_dir() {
        return Ok(name.into());
    }
    match name.to_str().and_then(hub::parse) {
        Some((id, revision)) => hub::snapshot(id, revision, hub::NETWORK),
        None => Err(Error::format(name, "no such folder, nor a hub id as in owner/model")),
    }
}

/// The folder of a model: an embedded name (`scene-unet`), a path, or a hub id (`owner/model`, with a revision as
/// `owner/model@revision`).
///
/// # Errors
/// A name that is none of these (with the embedded models' names); a hub model that cannot be fetched.
pub fn locate(name: &str) -> Result<PathBuf> {
    let plain = !name.is_empty() && !name.contains(['/', '\\']) && name != "." && name != "..";
    if plain && let Some(found) = data_folders().into_iter().map(|f| f.join(name)).find(|f| f.join(INDEX).is_file()) {
        return Ok(found);
    }
    let path = Path::new(name);
    if path.join(INDEX).is_file() {
        return Ok(path.into());
    }
    if path.is_dir() {
        return Err(Error::format(path, format!("no {INDEX} here: not a model in the layout of diffusers")));
    }
    match hub::parse(name) {
        Some((id, revision)) => hub::snapshot(id, revision, hub::PIPELINE),
        None => Err(Error::unknown(
            "model (an embedded one, a folder or a hub id as in owner/model)",
            name,
            embedded_models(),
        )),
    }
}
