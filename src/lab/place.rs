//! Where the project, its build folders and the notebook environment lie on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::shell;
use crate::error::{Error, Result};

/// The paths that the notebook environment works with; all absolute.
#[derive(Clone, Debug)]
pub struct Place {
    /// The project's root: the folder with denoscope's `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target folder of the project.
    pub target: PathBuf,
    /// Cargo's folder for intermediate artifacts (the target folder unless configured otherwise).
    pub build: PathBuf,
    /// Everything the notebook environment installs or writes: `lab/` in the target folder.
    pub lab: PathBuf,
    /// The folder of the toolchain that builds the project.
    pub sysroot: PathBuf,
    /// The host's target triple.
    pub triple: String,
}

impl Place {
    /// Finds the project from the environment: the folder cargo runs in, else the nearest one upwards from the
    /// working folder, else the one this program was compiled in.
    ///
    /// # Errors
    /// When there is no project to be found, or cargo and rustc do not answer.
    pub fn find() -> Result<Self> {
        let root = root()?;
        let metadata = shell::output(shell::cargo(Path::new("cargo"), &root).args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version=1",
        ]))?;
        let metadata: serde_json::Value =
            serde_json::from_str(&metadata).map_err(|e| Error::format(&root, format!("cargo metadata: {e}")))?;
        let folder = |key: &str| metadata[key].as_str().map(PathBuf::from);
        let target =
            folder("target_directory").ok_or_else(|| Error::format(&root, "cargo metadata names no target folder"))?;
        let build = folder("build_directory").unwrap_or_else(|| target.clone());
        let rustc = |what: &[&str]| shell::output(Command::new("rustc").current_dir(&root).args(what));
        let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?.trim());
        let triple = rustc(&["-vV"])?
            .lines()
            .find_map(|l| l.strip_prefix("host: "))
            .ok_or_else(|| Error::invalid("`rustc -vV` names no host"))?
            .to_string();
        Ok(Self { lab: target.join("lab"), root, target, build, sysroot, triple })
    }

    /// The folder of the notebooks.
    #[must_use]
    pub fn notebooks(&self) -> PathBuf {
        self.root.join("notebooks")
    }

    /// The installed evcxr kernel.
    #[must_use]
    pub fn evcxr(&self) -> PathBuf {
        self.lab.join("evcxr/bin/evcxr_jupyter")
    }

    /// The private virtual environment's Python.
    #[must_use]
    pub fn python(&self) -> PathBuf {
        self.lab.join("python/bin/python")
    }

    /// The folder that Jupyter is told to look for kernels in.
    #[must_use]
    pub fn jupyter(&self) -> PathBuf {
        self.lab.join("jupyter")
    }

    /// Exists when the crates that this toolchain's standard library is made of have been fetched.
    #[must_use]
    pub fn std_crates(&self) -> PathBuf {
        let toolchain = self.sysroot.file_name().unwrap_or_default().to_string_lossy();
        self.lab.join(format!("std-crates-{toolchain}"))
    }

    /// A tool of the toolchain that builds the project (`cargo`, `rustc`).
    #[must_use]
    pub fn tool(&self, name: &str) -> PathBuf {
        self.sysroot.join("bin").join(name)
    }

    /// Whether kernel and Jupyter are there: [`setup`](super::setup::run) has nothing long left to do.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.evcxr().exists() && self.python().exists() && self.lab.join("warm").exists()
    }
}

/// Whether `folder` holds denoscope's own manifest.
fn is_root(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join("Cargo.toml"))
        .is_ok_and(|text| text.lines().any(|l| l.trim() == "name = \"denoscope\""))
}

fn root() -> Result<PathBuf> {
    let cargo = ["DENOSCOPE_ROOT", "CARGO_MANIFEST_DIR"].map(|v| std::env::var_os(v).map(PathBuf::from));
    let here = std::env::current_dir().map_err(Error::file("."))?;
    cargo
        .into_iter()
        .flatten()
        .chain(here.ancestors().map(Path::to_path_buf))
        .chain([PathBuf::from(env!("CARGO_MANIFEST_DIR"))])
        .find(|folder| is_root(folder))
        .ok_or_else(|| Error::invalid(format!("{}: not inside a clone of denoscope", here.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_is_found_with_its_notebooks() {
        let place = Place::find().unwrap();
        assert!(place.notebooks().join("kernel/Cargo.toml").exists(), "{place:?}");
        assert!(place.tool("rustc").exists() && place.lab.starts_with(&place.target), "{place:?}");
    }

    #[test]
    fn a_folder_of_something_else_is_not_the_project() {
        assert!(!is_root(&Path::new(env!("CARGO_MANIFEST_DIR")).join("notebooks/kernel")));
    }
}
