//! Starting the kernel: bring the library up to date, take a free workshop folder, become evcxr.
//!
//! Each running kernel owns one *bench*, a numbered folder where evcxr writes the crate of the current cell. A
//! bench holds hard links to the exact compiled files its cells link to, so rebuilding the library while a notebook
//! is open does not disturb it; the next kernel start picks the new library up.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::{Place, shell};
use crate::error::{Error, Result};

/// Kernels that may run at once. Each needs memory of its own long before this many are of use.
const BENCHES: usize = 64;

/// What a cell is compiled against; written to `link.json` in the bench.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Link {
    /// The real cargo.
    pub cargo: PathBuf,
    /// The real compiler.
    pub rustc: PathBuf,
    /// The host's target triple.
    pub triple: String,
    /// The project's folder of intermediate artifacts.
    pub build: PathBuf,
    /// The project's lock file.
    pub lock: PathBuf,
    /// The folder with links to every compiled file that the library depends on.
    pub library: PathBuf,
    /// Whether the sources of the standard library's own dependencies are there.
    pub std_crates: bool,
}

/// Builds the library as the one dynamic library that cells link to and returns the compiled files it consists of.
///
/// # Errors
/// When it does not compile; the message quotes the compiler.
pub fn build(place: &Place, mut line: impl FnMut(&str)) -> Result<Vec<PathBuf>> {
    let mut command = shell::cargo(&place.tool("cargo"), &place.root);
    command.args(["build", "--package=denoscope-kernel", "--message-format=json-render-diagnostics"]);
    if cfg!(feature = "cuda") {
        command.arg("--features=denoscope-kernel/cuda");
    }
    let messages = shell::follow(&mut command, |l| line(l))?;
    let mut files = Vec::new();
    for message in messages.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok()) {
        if message["reason"] == "compiler-artifact" {
            let names = message["filenames"].as_array().into_iter().flatten();
            files.extend(names.filter_map(|n| n.as_str()).map(PathBuf::from));
        }
    }
    // Build scripts are programs of their own; only what a compiler can link to is kept.
    files.retain(|f| f.extension().is_some_and(|e| e == "rlib" || e == "rmeta" || e == "so" || e == "dylib"));
    Ok(files)
}

/// Takes the first bench that no running kernel holds. The bench is free again when the returned file is closed.
fn bench(place: &Place) -> Result<(PathBuf, File)> {
    for number in 1..=BENCHES {
        let folder = place.lab.join("benches").join(number.to_string());
        fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        let path = folder.join("held");
        let file = File::create(&path).map_err(Error::file(&path))?;
        if file.try_lock().is_ok() {
            return Ok((folder, file));
        }
    }
    Err(Error::invalid(format!("{BENCHES} notebook kernels are running; shut one down first")))
}

/// Fills the bench's `library/` with links to `files`; removes what an earlier cell left.
fn furnish(place: &Place, bench: &Path, files: &[PathBuf]) -> Result<Link> {
    let library = bench.join("library");
    for stale in [&library, &bench.join("src")] {
        if stale.exists() {
            fs::remove_dir_all(stale).map_err(Error::file(stale))?;
        }
    }
    let _ = fs::remove_file(bench.join("Cargo.lock")); // absent on a fresh bench
    fs::create_dir_all(&library).map_err(Error::file(&library))?;
    for file in files {
        let Some(name) = file.file_name() else { continue };
        let link = library.join(name);
        if !link.exists() && fs::hard_link(file, &link).is_err() {
            fs::copy(file, &link).map_err(Error::file(file))?; // another file system
        }
    }
    let link = Link {
        cargo: place.tool("cargo"),
        rustc: place.tool("rustc"),
        triple: place.triple.clone(),
        build: place.build.clone(),
        lock: place.root.join("Cargo.lock"),
        library,
        std_crates: place.std_crates().exists(),
    };
    let path = bench.join("link.json");
    let text = serde_json::to_string_pretty(&link).map_err(|e| Error::format(&path, e))?;
    fs::write(&path, text).map_err(Error::file(&path))?;
    Ok(link)
}

/// Writes the configuration that every notebook gets, wherever its folder: `notebooks/evcxr.toml` with the path of
/// the kernel crate made absolute.
fn configure(place: &Place, bench: &Path) -> Result<()> {
    let source = place.notebooks().join("evcxr.toml");
    let text = fs::read_to_string(&source).map_err(Error::file(&source))?;
    let kernel = place.notebooks().join("kernel");
    let absolute = text.replace("path = \"kernel\"", &format!("path = {:?}", kernel.to_string_lossy()));
    let path = bench.join("evcxr.toml");
    fs::write(&path, absolute).map_err(Error::file(&path))
}

/// Starts the kernel for the Jupyter connection file `connection`; on success this process *is* the kernel.
///
/// # Errors
/// When the library does not compile, no bench is free or evcxr is not installed.
pub fn run(connection: &Path) -> Result<()> {
    let place = Place::find()?;
    let files = build(&place, |l| eprintln!("{l}"))?;
    let (bench, held) = bench(&place)?;
    let link = furnish(&place, &bench, &files)?;
    configure(&place, &bench)?;
    let program = std::env::current_exe().map_err(Error::file("/proc/self/exe"))?;
    let mut command = Command::new(place.evcxr());
    command
        .arg("--control_file")
        .arg(connection)
        // The bench is held through an open, locked file; standard input carries it over into evcxr.
        .stdin(Stdio::from(held))
        .env("PATH", joined([place.lab.join("bin"), place.sysroot.join("bin")], "PATH"))
        .env("LD_LIBRARY_PATH", joined([link.library, place.sysroot.join("lib")], "LD_LIBRARY_PATH"))
        .env("RUSTUP_TOOLCHAIN", &place.sysroot)
        .env("RUSTC", &link.rustc)
        .env("CARGO", place.lab.join("bin/cargo"))
        // The code analysis takes cargo from cargo's home before it looks elsewhere.
        .env("DENOSCOPE_CARGO_HOME", std::env::var_os("CARGO_HOME").unwrap_or_default())
        .env("CARGO_HOME", &place.lab)
        .env("CARGO_NET_OFFLINE", "true")
        .env("DENOSCOPE_PROGRAM", program)
        .env("DENOSCOPE_BENCH", &bench)
        .env("EVCXR_TMPDIR", &bench)
        .env("EVCXR_CONFIG_DIR", &bench)
        // evcxr rewrites an older kernel of its own found on the Jupyter path; show it only ours.
        .env("JUPYTER_PATH", place.jupyter());
    for unwanted in [
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_BUILD_DIR",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_MANIFEST_DIR",
    ] {
        command.env_remove(unwanted);
    }
    let error = command.exec();
    Err(Error::invalid(format!("{}: {error}; `denoscope lab --setup-only` installs it", place.evcxr().display())))
}

/// `first` before what the environment variable `name` already holds.
fn joined(first: [PathBuf; 2], name: &str) -> OsString {
    let rest = std::env::var_os(name).unwrap_or_default();
    let all = first.into_iter().chain(std::env::split_paths(&rest).filter(|p| !p.as_os_str().is_empty()));
    std::env::join_paths(all).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Path) -> Place {
        Place {
            root: folder.into(),
            target: folder.join("target"),
            build: folder.join("target"),
            lab: folder.join("target/lab"),
            sysroot: folder.join("rust"),
            triple: "x86_64-unknown-linux-gnu".into(),
        }
    }

    #[test]
    fn two_kernels_never_share_a_bench() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let (first, held) = bench(&place).unwrap();
        let (second, _also_held) = bench(&place).unwrap();
        assert_ne!(first, second);
        drop(held);
        assert_eq!(bench(&place).unwrap().0, first, "a bench is free again once its kernel ended");
    }

    #[test]
    fn a_bench_keeps_the_library_it_was_furnished_with() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let (bench, _held) = bench(&place).unwrap();
        let built = folder.path().join("libx-1.rlib");
        fs::write(&built, "old").unwrap();
        let link = furnish(&place, &bench, std::slice::from_ref(&built)).unwrap();
        // Cargo replaces a compiled file by a new one, it does not write into the old.
        fs::remove_file(&built).unwrap();
        fs::write(&built, "new").unwrap();
        assert_eq!(fs::read_to_string(link.library.join("libx-1.rlib")).unwrap(), "old");
        let again = furnish(&place, &bench, &[built]).unwrap();
        assert_eq!(fs::read_to_string(again.library.join("libx-1.rlib")).unwrap(), "new");
    }
}
