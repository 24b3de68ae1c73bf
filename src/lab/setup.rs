//! Setting up whatever the notebook environment lacks: each step looks first, does only what is missing, and says
//! what it does and how long that usually takes.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Place, launch, reproduce, shell};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// The kernel's version. Another version may call cargo differently: read its sources before changing this.
const EVCXR: &str = "0.22.0";
/// Crates in the kernel's own lock file that are compiled on Linux, for the progress line (measured).
const EVCXR_CRATES: usize = 273;
/// Name of the kernel in notebooks' metadata and on Jupyter's command line.
pub const KERNEL: &str = "denoscope";

/// Time between two lines of progress where no total is known.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// What running notebooks headless needs.
const RUN: &str = include_str!("run.txt");
/// What JupyterLab needs besides.
const LAB: &str = include_str!("jupyterlab.txt");
/// The versions that all this was last tested with.
const TESTED: &str = include_str!("tested.txt");

/// Sets up all that is missing: kernel, Python environment, library, registration, warm-up. With `jupyterlab`, the
/// graphical part too.
///
/// # Errors
/// When a tool is missing or fails; the message says which and what to install.
pub fn run(place: &Place, jupyterlab: bool) -> Result<()> {
    fs::create_dir_all(&place.lab).map_err(Error::file(&place.lab))?;
    let path = place.lab.join("setup.lock");
    let lock = File::create(&path).map_err(Error::file(&path))?;
    lock.lock().map_err(Error::file(&path))?; // two setups at once would undo each other's work
    rust_sources(place)?;
    std_crates(place)?;
    kernel(place)?;
    python(place, jupyterlab)?;
    library(place)?;
    register(place)?;
    warm(place)
}

/// Announces a step, runs it and tells how long it took.
fn step<T>(what: &str, usual: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("· {what} (usually {usual})");
    let start = Instant::now();
    let done = work()?;
    eprintln!("  done in {:.0} s", start.elapsed().as_secs_f64());
    Ok(done)
}

/// The kernel's code analysis reads the standard library's sources.
fn rust_sources(place: &Place) -> Result<()> {
    if place.sysroot.join("lib/rustlib/src/rust/library/std/src/lib.rs").exists() {
        return Ok(());
    }
    step("sources of the Rust standard library", "10 s", || {
        shell::output(Command::new("rustup").current_dir(&place.root).args(["component", "add", "rust-src"])).map_err(|e| {
            Error::invalid(format!(
                "the toolchain in {} has no rust-src, which the notebook kernel needs, and rustup could not add it: {e}",
                place.sysroot.display()
            ))
        })
    })?;
    Ok(())
}

/// Fetches the crates that the standard library depends on: without them the kernel's code analysis does not know what
/// `HashMap::get` returns, and such types in cells must be written out.
fn std_crates(place: &Place) -> Result<()> {
    if place.std_crates().exists() {
        return Ok(());
    }
    let fetched = step("sources of the standard library's dependencies", "2 s", || {
        let manifest = place.sysroot.join("lib/rustlib/src/rust/library/Cargo.toml");
        let mut cargo = shell::cargo(&place.tool("cargo"), &place.lab);
        // That manifest uses features which only Rust's own build may use.
        cargo.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TEST_CHANNEL_OVERRIDE_DO_NOT_USE_THIS", "nightly");
        shell::output(cargo.args(["fetch", "--locked", "--manifest-path"]).arg(&manifest))
    });
    match fetched {
        Ok(_) => fs::write(place.std_crates(), "").map_err(Error::file(place.std_crates())),
        Err(error) => {
            eprintln!("  not fetched; notebooks work without them: {error}");
            Ok(())
        }
    }
}

/// Installs evcxr into the lab folder.
fn kernel(place: &Place) -> Result<()> {
    let stamp = place.lab.join("evcxr/version");
    if place.evcxr().exists() && fs::read_to_string(&stamp).is_ok_and(|v| v == EVCXR) {
        return Ok(());
    }
    step(&format!("the notebook kernel evcxr {EVCXR}, compiled from source"), "7 min on 2 cores, once", || {
        let scratch = place.lab.join("evcxr-build");
        let mut cargo = shell::cargo(&place.tool("cargo"), &place.lab);
        cargo
            .args(["install", "--locked", "--force", &format!("evcxr_jupyter@{EVCXR}"), "--root"])
            .arg(place.lab.join("evcxr"))
            .arg("--target-dir")
            .arg(&scratch);
        for ours in
            ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR", "CARGO_BUILD_BUILD_DIR"]
        {
            cargo.env_remove(ours);
        }
        let mut progress = Progress::new("  crates compiled", EVCXR_CRATES);
        let mut crates = 0;
        shell::follow(&mut cargo, |line| {
            if line.trim_start().starts_with("Compiling") {
                crates += 1;
                progress.at(crates.min(EVCXR_CRATES - 1), "");
            }
        })?;
        let _ = fs::remove_dir_all(scratch); // 1.5 GB that nothing needs again
        fs::write(&stamp, EVCXR).map_err(Error::file(&stamp))
    })
}

/// Makes the private virtual environment and installs what is asked for and missing.
fn python(place: &Place, jupyterlab: bool) -> Result<()> {
    let folder = place.lab.join("python");
    // A copied or half-made environment has no working pip: then it is made anew.
    let works =
        place.python().exists() && shell::output(Command::new(place.python()).args(["-m", "pip", "--version"])).is_ok();
    if !works {
        step("a private Python environment", "5 s", || {
            let _ = fs::remove_dir_all(&folder);
            shell::output(Command::new("python3").args(["-m", "venv"]).arg(&folder)).map_err(|e| {
                Error::invalid(format!(
                    "{e}\nPython 3.9 or newer with its venv module is needed; on Debian and Ubuntu: apt install python3-venv"
                ))
            })
        })?;
    }
    packages(place, "Jupyter's client", "10 s", RUN, &folder.join("run.txt"))?;
    if jupyterlab {
        packages(place, "JupyterLab", "30 s", LAB, &folder.join("jupyterlab.txt"))?;
    }
    Ok(())
}

/// Installs one list of requirements, with the tested versions where this Python has them.
fn packages(place: &Place, what: &str, usual: &str, wanted: &str, stamp: &Path) -> Result<()> {
    if fs::read_to_string(stamp).is_ok_and(|done| done == wanted) {
        return Ok(());
    }
    step(what, usual, || {
        let tested = place.lab.join("tested.txt");
        let list = stamp.with_extension("wanted");
        fs::write(&tested, TESTED).map_err(Error::file(&tested))?;
        fs::write(&list, wanted).map_err(Error::file(&list))?;
        let pip = || {
            let mut pip = Command::new(place.python());
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&list);
            pip
        };
        if let Err(error) = shell::output(pip().arg("-c").arg(&tested)) {
            eprintln!("  the tested versions do not install here; taking the newest that do ({})", first_error(&error));
            shell::output(&mut pip())?;
        }
        fs::rename(&list, stamp).map_err(Error::file(stamp))
    })
}

fn first_error(error: &Error) -> String {
    let text = error.to_string();
    text.lines().find(|l| l.starts_with("ERROR")).unwrap_or("").to_string()
}

/// Builds the library for the kernel, and fetches the crates of other platforms that cargo's resolution asks for.
fn library(place: &Place) -> Result<()> {
    let fetched = place.lab.join("fetched");
    let lock = place.root.join("Cargo.lock");
    let now = fs::read_to_string(&lock).map_err(Error::file(&lock))?;
    if fs::read_to_string(&fetched).is_ok_and(|then| then == now) {
        return build(place);
    }
    step("sources of all locked crates, so that notebooks work offline", "20 s", || {
        let fetch = |more: &[&str]| {
            shell::output(shell::cargo(&place.tool("cargo"), &place.root).args(["fetch", "--locked"]).args(more))
        };
        fetch(&[]).or_else(|_| fetch(&["--offline"]))
    })?;
    fs::write(&fetched, now).map_err(Error::file(&fetched))?;
    build(place)
}

fn build(place: &Place) -> Result<()> {
    step("the library, as cells link to it", "3 min after a change, else nothing", || {
        // How many crates are to be compiled is not known beforehand: no estimate, but a sign of life.
        let mut told = Instant::now();
        let mut crates = 0;
        launch::build(place, |line| {
            if let Some(name) = line.trim_start().strip_prefix("Compiling ") {
                crates += 1;
                if crates == 1 || told.elapsed() > SIGN_OF_LIFE {
                    told = Instant::now();
                    eprintln!("  compiling {name}, number {crates}");
                }
            } else if line.starts_with("error") {
                eprintln!("  {line}");
            }
        })
    })?;
    Ok(())
}

/// Writes the kernel's description for Jupyter and the two small programs that stand before cargo and rustup.
fn register(place: &Place) -> Result<()> {
    let program = std::env::current_exe().map_err(Error::file("/proc/self/exe"))?;
    let spec = serde_json::json!({
        "argv": [program, "kernel", "{connection_file}"],
        "display_name": "denoscope (Rust)",
        "language": "rust",
        "interrupt_mode": "message",
        // The folders that were set up, also for a Jupyter started from elsewhere.
        "env": { "CARGO_TARGET_DIR": place.target, "DENOSCOPE_ROOT": place.root },
    });
    let folder = place.jupyter().join("kernels").join(KERNEL);
    write(&folder.join("kernel.json"), &format!("{spec:#}\n"))?;
    let bin = place.lab.join("bin");
    script(&bin.join("cargo"), "exec \"$DENOSCOPE_PROGRAM\" cell -- \"$@\"\n")?;
    // evcxr asks rustup for the path of cargo before it looks on PATH.
    script(
        &bin.join("rustup"),
        &format!(
            "case \"$*\" in\n\
             \"which cargo\") echo {cargo:?} ;;\n\
             \"which rustc\") echo {rustc:?} ;;\n\
             *) PATH=\"${{PATH#*:}}\" exec rustup \"$@\" ;;\n\
             esac\n",
            cargo = bin.join("cargo"),
            rustc = place.tool("rustc"),
        ),
    )
}

/// Runs one small notebook through the real kernel: proves that all parts fit and fills the caches.
fn warm(place: &Place) -> Result<()> {
    let stamp = place.lab.join("warm");
    let version = format!("{EVCXR} {}", place.sysroot.display());
    if fs::read_to_string(&stamp).is_ok_and(|v| v == version) {
        return Ok(());
    }
    step("a first cell through the kernel", "20 s", || {
        let cell = "use denoscope::prelude::*;\nlet warm: usize = 6 * 7;\nassert_eq!(warm, 42);";
        let folder = place.lab.join("warm-up");
        write(&folder.join("warm-up.ipynb"), &reproduce::notebook(&[cell]))?;
        reproduce::execute(
            place,
            &folder.join("warm-up.ipynb"),
            &folder.join("out.ipynb"),
            &place.notebooks(),
            reproduce::Mode { quiet: true, keep_going: false },
        )?
        .check()?;
        write(&stamp, &version)
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::file(folder))?;
    }
    let fresh = path.with_extension("new");
    fs::write(&fresh, text).map_err(Error::file(&fresh))?;
    fs::rename(&fresh, path).map_err(Error::file(path))
}

fn script(path: &Path, body: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    write(path, &format!("#!/bin/sh\n{body}"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(Error::file(path))
}
