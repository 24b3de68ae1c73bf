//! Running other programs: errors that quote what the program said, and long work that shows a sign of life.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// Lines of a failed program's output that are quoted.
const QUOTED: usize = 25;

/// Cargo, to be run in `folder` as a person would in a fresh shell.
///
/// Under `cargo run`, cargo tells the program which package it is of. Build scripts that look at such a variable would
/// run again with another value, and what depends on them be compiled again (`ring` does and is; measured: 75 s).
pub fn cargo(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let about_package =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|p| text.starts_with(p));
        if about_package || ["CARGO", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs `command` to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started or fails; the message quotes the end of what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command.output().map_err(|e| cannot_start(command, &e))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        let said = [out.stdout, out.stderr].concat();
        Err(failed(command, &out.status.to_string(), &String::from_utf8_lossy(&said)))
    }
}

/// Runs `command` to its end, handing each line of its standard error to `line`; returns its standard output.
///
/// # Errors
/// As [`output`].
pub fn follow(command: &mut Command, mut line: impl FnMut(&str)) -> Result<String> {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| cannot_start(command, &e))?;
    let stdout = child.stdout.take();
    let reader =
        std::thread::spawn(move || stdout.map(|s| std::io::read_to_string(s).unwrap_or_default()).unwrap_or_default());
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        for text in BufReader::new(stderr).lines().map_while(std::io::Result::ok) {
            line(&text);
            said.push_str(&text);
            said.push('\n');
        }
    }
    let status = child.wait().map_err(|e| cannot_start(command, &e))?;
    let out = reader.join().unwrap_or_default();
    if status.success() { Ok(out) } else { Err(failed(command, &status.to_string(), &format!("{out}{said}"))) }
}

/// The command as one would type it.
fn typed(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Error {
    Error::invalid(format!("`{}` could not be started: {error}", typed(command)))
}

fn failed(command: &Command, status: &str, said: &str) -> Error {
    let lines: Vec<&str> = said.lines().collect();
    let end = lines[lines.len().saturating_sub(QUOTED)..].join("\n");
    Error::invalid(format!("`{}` ended with {status}:\n{end}", typed(command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_quotes_the_program_and_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo no such luck >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("no such luck") && error.contains('3'), "{error}");
    }

    #[test]
    fn followed_lines_arrive_one_by_one() {
        let mut seen = Vec::new();
        let out =
            follow(Command::new("sh").args(["-c", "echo out; echo a >&2; echo b >&2"]), |l| seen.push(l.to_string()));
        assert_eq!((out.unwrap().as_str(), seen), ("out\n", vec!["a".to_string(), "b".to_string()]));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut Command::new("denoscope-no-such-program")).unwrap_err().to_string();
        assert!(error.contains("denoscope-no-such-program"), "{error}");
    }
}
