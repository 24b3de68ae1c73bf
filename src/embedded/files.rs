//! Writing configurations: by rename, so that a reader never sees half of one.

use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// Writes `value` as indented JSON, making the folder if need be.
///
/// # Errors
/// A folder that cannot be written.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(Error::file(dir))?;
    }
    let partial = path.with_extension("json.partial");
    std::fs::write(&partial, format!("{value:#}\n")).map_err(Error::file(&partial))?;
    std::fs::rename(&partial, path).map_err(Error::file(path))
}
