//! Writing files: by rename, so that a reader never sees half of one.

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

/// Copies a file, making the folder if need be.
///
/// # Errors
/// A file that cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        std::fs::create_dir_all(dir).map_err(Error::file(dir))?;
    }
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::copy(from, &partial).map_err(Error::file(from))?;
    std::fs::rename(&partial, to).map_err(Error::file(to))
}
