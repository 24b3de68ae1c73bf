//! Compiling one cell: the answer to evcxr's `cargo build`.
//!
//! evcxr writes a cell as a small crate and runs `cargo build` on it. Cargo would resolve that crate's dependencies
//! anew, with newer versions than the project's lock file, compile the library a second time because its workspace
//! is another one, and check hundreds of crates for changes before every cell. None of that is of use here: the
//! library is already built and does not change while a kernel runs. So a cell that depends on nothing but denoscope
//! is compiled by calling rustc directly (measured on 2 cores: see `environment.md`); everything else is passed on
//! to cargo, with the project's lock file and build folder.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use super::analysis;
use super::launch::Link;
use crate::error::{Error, Result};

/// The crate that evcxr makes of a cell.
const CRATE: &str = "ctx";
/// The crate that evcxr makes to see whether a dependency resolves.
const PROBE: &str = "evcxr_dummy_validate_dep";

/// Answers one call of cargo made by the kernel that owns the bench `$DENOSCOPE_BENCH`.
///
/// Does not return when the call succeeds or fails in the ordinary way: the process ends with the tool's own code.
///
/// # Errors
/// When the bench cannot be read or a tool cannot be started.
pub fn cargo(arguments: &[OsString]) -> Result<()> {
    let bench = std::env::var_os("DENOSCOPE_BENCH").map(PathBuf::from);
    let bench =
        bench.ok_or_else(|| Error::invalid("DENOSCOPE_BENCH is not set: this command is for the kernel only"))?;
    let path = bench.join("link.json");
    let text = fs::read_to_string(&path).map_err(Error::file(&path))?;
    let link: Link = serde_json::from_str(&text).map_err(|e| Error::format(&path, e))?;
    let manifest = bench.join("Cargo.toml");
    let manifest = fs::read_to_string(&manifest).unwrap_or_default();
    let verb = arguments.iter().find_map(|a| a.to_str().filter(|a| !a.starts_with('-'))).unwrap_or("");
    let here = std::env::current_dir().is_ok_and(|d| d == bench);
    match verb {
        "build" | "check" if here && only_denoscope(&manifest) => {
            let status = compile(&link, &bench, &manifest, verb == "check")?;
            std::process::exit(status.code().unwrap_or(1));
        }
        // evcxr only wants to know whether the dependency exists.
        "metadata" if here && manifest.contains(PROBE) && dependencies(&manifest).all(|l| name(l) == "denoscope") => {
            Ok(())
        }
        // Asked about the standard library's sources. Without its own dependencies cargo gives half an answer, with
        // which `let n = v.len();` has no type. Refused, the analysis looks for the standard library's crates itself:
        // then all but `HashMap`'s insides is found.
        "metadata" if !about_cell(&bench, arguments) && !link.std_crates => std::process::exit(1),
        "metadata" => {
            let mut cargo = real_cargo(&link, &bench, &manifest, arguments)?;
            let found = cargo.stderr(Stdio::inherit()).output().map_err(Error::file(&link.cargo))?;
            let text = String::from_utf8_lossy(&found.stdout);
            let cut = if about_cell(&bench, arguments) { analysis::prune } else { analysis::prune_std };
            print!("{}", cut(&text));
            std::process::exit(found.status.code().unwrap_or(1));
        }
        _ => {
            let error = real_cargo(&link, &bench, &manifest, arguments)?.exec();
            Err(Error::invalid(format!("{}: {error}", link.cargo.display())))
        }
    }
}

/// Whether a call is about the cell's crate: it names its manifest, or none.
fn about_cell(bench: &Path, arguments: &[OsString]) -> bool {
    let manifest = arguments.iter().skip_while(|a| *a != "--manifest-path").nth(1);
    manifest.is_none_or(|path| Path::new(path) == bench.join("Cargo.toml"))
}

/// The `name = value` lines of the manifest's dependencies.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let lines = manifest.lines().skip_while(|l| l.trim() != "[dependencies]").skip(1);
    lines.take_while(|l| !l.starts_with('[')).map(str::trim).filter(|l| !l.is_empty())
}

/// The name before the equals sign.
fn name(line: &str) -> &str {
    line.split('=').next().unwrap_or("").trim()
}

/// Whether rustc alone can compile the cell: nothing but denoscope, or nothing at all, is asked for.
fn only_denoscope(manifest: &str) -> bool {
    manifest.contains(&format!("name = \"{CRATE}\"")) && dependencies(manifest).all(|l| name(l) == "denoscope")
}

/// Compiles the cell's crate with the options that cargo would use and reports the result as cargo does.
fn compile(link: &Link, bench: &Path, manifest: &str, check: bool) -> Result<ExitStatus> {
    let out = bench.join("target").join(&link.triple).join("debug");
    fs::create_dir_all(&out).map_err(Error::file(&out))?;
    let level = manifest.lines().find(|l| name(l) == "opt-level").and_then(|l| l.split('=').nth(1));
    let mut rustc = Command::new(&link.rustc);
    rustc
        .current_dir(bench)
        .args(["--crate-name", CRATE, "--edition=2024", "--crate-type=cdylib", "src/lib.rs"])
        .args(["--error-format=json", "--json=diagnostic-rendered-ansi"])
        .arg(if check { "--emit=metadata" } else { "--emit=link" })
        .arg(format!("-Copt-level={}", level.unwrap_or("2").trim().trim_matches(['"', '\''])))
        .args(["-Cprefer-dynamic", "-Crpath", "-Cstrip=debuginfo", "-Ccodegen-units=16"])
        // As the library is built: generic code of the library that a cell instantiates behaves the same.
        .args(["-Cdebug-assertions=off", "-Coverflow-checks=off"])
        .arg(format!("-Cincremental={}", bench.join("incremental").display()))
        .arg("--out-dir")
        .arg(&out)
        .arg("-L")
        .arg(format!("dependency={}", link.library.display()))
        .env_remove("RUSTC")
        .env_remove("RUSTFLAGS");
    if dependencies(manifest).next().is_some() {
        let library = link.library.join(format!(
            "{}denoscope_kernel{}",
            std::env::consts::DLL_PREFIX,
            std::env::consts::DLL_SUFFIX
        ));
        rustc.arg("--extern").arg(format!("denoscope={}", library.display()));
    }
    // Diagnostics go to standard error as rustc writes them; evcxr reads JSON lines from either stream.
    let status = rustc.status().map_err(Error::file(&link.rustc))?;
    if status.success() {
        let file = out.join(format!("{}{CRATE}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX));
        println!(
            "{}",
            serde_json::json!({ "reason": "compiler-artifact", "target": { "name": CRATE }, "filenames": [file] })
        );
    }
    Ok(status)
}

/// The real cargo, on the project's lock file, profile and build folder.
fn real_cargo(link: &Link, bench: &Path, manifest: &str, arguments: &[OsString]) -> Result<Command> {
    restore_lock(link, bench, manifest)?;
    let mut cargo = Command::new(&link.cargo);
    cargo
        .args(arguments)
        .env_remove("CARGO")
        .env("RUSTFLAGS", "-Cprefer-dynamic")
        .env("CARGO_BUILD_BUILD_DIR", &link.build)
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "2")
        .env("CARGO_PROFILE_DEV_DEBUG_ASSERTIONS", "false")
        .env("CARGO_PROFILE_DEV_OVERFLOW_CHECKS", "false");
    if dependencies(manifest).any(|l| name(l) != "denoscope") {
        cargo.env("CARGO_NET_OFFLINE", "false"); // someone asked for a crate that may have to be fetched
    }
    match std::env::var_os("DENOSCOPE_CARGO_HOME") {
        Some(home) if !home.is_empty() => cargo.env("CARGO_HOME", home),
        _ => cargo.env_remove("CARGO_HOME"),
    };
    Ok(cargo)
}

/// Puts the project's lock file into the bench when the bench's own knows nothing of denoscope.
///
/// evcxr starts with an empty crate, for which cargo prunes any lock file to nothing, so the copy has to happen after
/// the start and before the first resolution with dependencies.
fn restore_lock(link: &Link, bench: &Path, manifest: &str) -> Result<()> {
    let path = bench.join("Cargo.lock");
    let known = fs::read_to_string(&path).is_ok_and(|text| text.contains("name = \"denoscope-kernel\""));
    if dependencies(manifest).any(|l| name(l) == "denoscope") && !known {
        fs::copy(&link.lock, &path).map_err(Error::file(&link.lock))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[package]\nname = \"ctx\"\n\n[profile.dev]\nopt-level = 2\n\n[dependencies]\n";

    #[test]
    fn a_cell_with_a_crate_of_its_own_goes_through_cargo() {
        let plain = format!("{MANIFEST}denoscope = {{ path = \"/x/kernel\", package = \"denoscope-kernel\" }}\n");
        assert!(only_denoscope(&plain) && only_denoscope(MANIFEST));
        assert!(!only_denoscope(&format!("{plain}regex = \"1\"\n")));
        assert!(!only_denoscope("[package]\nname = \"evcxr_dummy_validate_dep\"\n[dependencies]\ndenoscope = \"1\"\n"));
    }

    #[test]
    fn the_lock_file_comes_back_once_denoscope_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("project.lock");
        fs::write(&lock, "name = \"denoscope-kernel\"\n# project").unwrap();
        let (cargo, library) = (PathBuf::new(), PathBuf::new());
        let link = Link {
            rustc: cargo.clone(),
            cargo,
            triple: String::new(),
            build: PathBuf::new(),
            lock,
            library,
            std_crates: true,
        };
        let bench_lock = folder.path().join("Cargo.lock");
        fs::write(&bench_lock, "pruned").unwrap();
        restore_lock(&link, folder.path(), MANIFEST).unwrap();
        assert_eq!(fs::read_to_string(&bench_lock).unwrap(), "pruned");
        restore_lock(&link, folder.path(), &format!("{MANIFEST}denoscope = \"*\"")).unwrap();
        assert!(fs::read_to_string(&bench_lock).unwrap().contains("# project"));
    }
}
