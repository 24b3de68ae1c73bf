//! Running notebooks headless through the real kernel, and telling truthfully whether each cell succeeded.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Place, gallery, setup};
use crate::error::{Error, Result};
use crate::figure::keep;
use crate::study::{Claims, Verdict};

/// The program that talks to the kernel.
const RUNNER: &str = include_str!("run.py");

/// A notebook that ran.
#[derive(Clone, Debug)]
pub struct Executed {
    /// The notebook's name: its file name without number and ending.
    pub name: String,
    /// The executed notebook.
    pub file: PathBuf,
    /// Seconds from starting the kernel until it answered.
    pub start: f64,
    /// Seconds of the whole run.
    pub total: f64,
    /// The code cells, in order; those after a failed one did not run.
    pub cells: Vec<Cell>,
    /// The paper's claims that the notebook tested.
    pub claims: Vec<Claims>,
    /// Whether the run was interrupted from the keyboard.
    pub interrupted: bool,
}

/// A code cell of a notebook that ran.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The cell's first line.
    pub title: String,
    /// The whole cell.
    pub source: String,
    /// Seconds, compilation included; `None` when it did not run.
    pub seconds: Option<f64>,
    /// The failure's kind (`Panic`, `Error`, `Died`) and message.
    pub failure: Option<(String, String)>,
}

impl Executed {
    /// Fails when a cell failed or the run was interrupted.
    ///
    /// # Errors
    /// Names the notebook and each failed cell, and quotes the cell and what it said.
    pub fn check(&self) -> Result<()> {
        let mut told = Vec::new();
        for (i, cell) in self.cells.iter().enumerate() {
            if let Some((kind, message)) = &cell.failure {
                let (source, message) = (indented(&cell.source), indented(message));
                let place = format!("notebook {}, cell {} of {}", self.name, i + 1, self.cells.len());
                told.push(format!("{place}: {kind}\n{source}\n\n{message}"));
            }
        }
        if self.interrupted {
            told.push(format!("notebook {}: interrupted", self.name));
        }
        if told.is_empty() { Ok(()) } else { Err(Error::invalid(told.join("\n\n"))) }
    }

    /// The time of each cell as a table for the terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{}: {:.1} s, kernel start {:.1} s\n", self.name, self.total, self.start);
        for (i, cell) in self.cells.iter().enumerate() {
            let seconds = cell.seconds.map_or("      –".into(), |s| format!("{s:7.1}"));
            let title: String = cell.title.chars().take(76).collect();
            text.push_str(&format!("{:5} {seconds} s  {title}\n", i + 1));
        }
        text
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|l| format!("    {l}")).collect::<Vec<_>>().join("\n")
}

/// A notebook with these code cells, as JSON text.
#[must_use]
pub fn notebook(cells: &[&str]) -> String {
    let cell = |(i, source): (usize, &&str)| {
        serde_json::json!({
            "cell_type": "code", "id": format!("cell-{i}"), "metadata": {}, "execution_count": null,
            "outputs": [], "source": source,
        })
    };
    let cells: Vec<Value> = cells.iter().enumerate().map(cell).collect();
    serde_json::json!({ "cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5 }).to_string()
}

/// How to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// Print no progress.
    pub quiet: bool,
    /// After a failed cell run the others too.
    pub keep_going: bool,
}

/// Runs the notebook `file` with the working folder `folder` and writes it with outputs to `out`. Progress goes to
/// standard output.
///
/// # Errors
/// When the run itself fails. A failed *cell* is no error here: see [`Executed::check`].
pub fn execute(place: &Place, file: &Path, out: &Path, folder: &Path, mode: Mode) -> Result<Executed> {
    let script = place.lab.join("run.py");
    fs::write(&script, RUNNER).map_err(Error::file(&script))?;
    let _ = fs::remove_file(out); // so that what is read below is this run's
    let status = Command::new(place.python())
        .arg(&script)
        .arg(setup::KERNEL)
        .args([file, out, folder])
        .env("JUPYTER_PATH", place.jupyter())
        // Jupyter looks there first, and into nothing of the user's: the run depends on this project only.
        .env("JUPYTER_DATA_DIR", place.jupyter())
        .env("JUPYTER_CONFIG_DIR", place.jupyter().join("config"))
        .env("JUPYTER_RUNTIME_DIR", place.lab.join("runtime"))
        // Every figure as a file beside the executed notebook.
        .env(keep::FOLDER, out.with_extension(""))
        .args(mode.quiet.then_some("--quiet"))
        .args(mode.keep_going.then_some("--keep-going"))
        .status()
        .map_err(Error::file(place.python()))?;
    if !matches!(status.code(), Some(0 | 1 | 130)) || !out.exists() {
        return Err(Error::invalid(format!(
            "{}: the runner ended with {status}; its message is above",
            file.display()
        )));
    }
    let mut executed = read(out)?;
    executed.name = name(file);
    executed.interrupted = status.code() == Some(130);
    if status.code() == Some(1) && executed.cells.iter().all(|c| c.failure.is_none()) {
        return Err(Error::invalid(format!("{}: failed without naming a cell; see above", file.display())));
    }
    Ok(executed)
}

/// Reads an executed notebook.
fn read(file: &Path) -> Result<Executed> {
    let text = fs::read_to_string(file).map_err(Error::file(file))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| Error::format(file, e))?;
    let cells = json["cells"].as_array().ok_or_else(|| Error::format(file, "no list of cells"))?;
    let outputs = cells.iter().filter_map(|c| c["outputs"].as_array()).flatten();
    let claims = outputs.filter_map(|o| Claims::find(&joined(&o["data"]["text/html"]))).collect();
    let cells = cells.iter().filter(|c| c["cell_type"] == "code").map(|cell| {
        let source = joined(&cell["source"]);
        let ours = &cell["metadata"]["denoscope"];
        let text = |key: &str| ours[key].as_str().map(str::to_string);
        Cell {
            title: source.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("").to_string(),
            source,
            seconds: ours["seconds"].as_f64(),
            failure: text("failed").map(|kind| (kind, text("message").unwrap_or_default())),
        }
    });
    let run = &json["metadata"]["denoscope"];
    Ok(Executed {
        name: name(file),
        file: file.into(),
        start: run["start"].as_f64().unwrap_or(0.0),
        total: run["total"].as_f64().unwrap_or(0.0),
        cells: cells.collect(),
        claims,
        interrupted: false,
    })
}

/// What came of the papers' claims over several notebooks: counts a study, and each claim that failed or could not be
/// tested. Empty when no notebook tested any.
fn verdicts(done: &[Executed]) -> String {
    let mut studies: Vec<Claims> = Vec::new();
    for claims in done.iter().flat_map(|e| &e.claims) {
        match studies.iter_mut().find(|s| s.study == claims.study) {
            Some(study) => study.claims.extend(claims.claims.iter().cloned()),
            None => studies.push(claims.clone()),
        }
    }
    let mut text = String::new();
    for study in &studies {
        text.push_str(&format!("claims of {}: {}\n", study.study, study.sum()));
        for claim in study.claims.iter().filter(|c| c.verdict != Verdict::Held) {
            text.push_str(&format!("  {}: {}, {} ({})\n", claim.verdict, claim.source, claim.text, claim.evidence));
        }
    }
    text
}

/// A notebook's text field: one string or a list of lines.
pub(super) fn joined(value: &Value) -> String {
    match value {
        Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().unwrap_or("").to_string(),
    }
}

/// `notebooks/00_tour.ipynb` is called `tour`.
fn name(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let bare = stem.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches('_');
    if bare.is_empty() { stem.to_string() } else { bare.to_string() }
}

/// The notebooks that `names` ask for; all of them when there are no names. A name is a notebook's name, the name of
/// a folder of notebooks, or a path to a file.
///
/// # Errors
/// When a name fits nothing; the nearest names are offered.
pub fn choose(place: &Place, names: &[String]) -> Result<Vec<PathBuf>> {
    let all = all(&place.notebooks())?;
    if names.is_empty() {
        return Ok(all);
    }
    let folder = |file: &Path| -> Option<String> {
        let parent = file.parent().filter(|p| *p != place.notebooks())?;
        Some(parent.file_name()?.to_string_lossy().into_owned())
    };
    let mut chosen: Vec<PathBuf> = Vec::new();
    for wanted in names {
        let stem = |f: &Path| f.file_stem().is_some_and(|s| s.to_string_lossy() == *wanted);
        let fits = |f: &&PathBuf| name(f) == *wanted || stem(f) || folder(f).as_ref() == Some(wanted);
        let mut found: Vec<PathBuf> = all.iter().filter(fits).cloned().collect();
        let path = Path::new(wanted);
        if found.is_empty() && path.extension().is_some_and(|e| e == "ipynb") && path.exists() {
            found.push(path.to_path_buf());
        }
        if found.is_empty() {
            let known = all.iter().flat_map(|f| [Some(name(f)), folder(f)]).flatten();
            let mut known: Vec<String> = known.collect();
            known.sort();
            known.dedup();
            return Err(Error::unknown("notebook", wanted, known));
        }
        chosen.extend(found.into_iter().filter(|f| !chosen.contains(f)).collect::<Vec<_>>());
    }
    Ok(chosen)
}

/// All notebooks below `folder`, in order of their paths.
fn all(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::file(folder))? {
        let path = entry.map_err(Error::file(folder))?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden {
            found.extend(all(&path)?);
        } else if path.extension().is_some_and(|e| e == "ipynb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Runs the notebooks `names`, writes them and a gallery page to `out`, prints the time of every cell.
///
/// # Errors
/// When a cell of any notebook failed: after all notebooks have run, with the failed cells and their messages.
pub fn run(place: &Place, names: &[String], out: &Path, mode: Mode) -> Result<()> {
    let files = choose(place, names)?;
    if files.is_empty() {
        println!("there are no notebooks in {} yet", place.notebooks().display());
        return Ok(());
    }
    fs::create_dir_all(out).map_err(Error::file(out))?;
    let out = &out.canonicalize().map_err(Error::file(out))?;
    let mut done = Vec::new();
    for file in &files {
        let file = &file.canonicalize().map_err(Error::file(file))?;
        println!("{}", file.strip_prefix(&place.root).unwrap_or(file).display());
        let folder = file.parent().unwrap_or(&place.root);
        let target = match file.strip_prefix(place.notebooks()) {
            Ok(inside) => out.join(inside),
            Err(_) => out.join(file.file_name().unwrap_or_default()),
        };
        let executed = execute(place, file, &target, folder, mode)?;
        let interrupted = executed.interrupted;
        done.push(executed);
        if interrupted {
            break;
        }
    }
    let page = out.join("index.html");
    gallery::write(&done, &page)?;
    for executed in &done {
        println!("\n{}", executed.table());
    }
    print!("{}", verdicts(&done));
    println!("gallery: {}", page.display());
    let told: Vec<String> = done.iter().filter_map(|e| e.check().err()).map(|e| e.to_string()).collect();
    if told.is_empty() { Ok(()) } else { Err(Error::invalid(told.join("\n\n"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_several_notebooks_are_summed_up() {
        let folder = tempfile::tempdir().unwrap();
        let executed = |name: &str, study: &str, held: bool| {
            let mut claims = Claims::new(study);
            claims.check("Table 1", name, held, "0.5");
            claims.untestable("Fig. 9", "of another model", "no weights");
            let html = claims.to_html().unwrap();
            let json = serde_json::json!({ "cells": [
                { "cell_type": "markdown", "source": "text" },
                { "cell_type": "code", "source": "claims", "metadata": {}, "outputs": [
                    { "output_type": "stream", "name": "stdout", "text": "nothing" },
                    { "output_type": "display_data", "data": { "text/html": [html] } },
                ] },
            ] });
            let file = folder.path().join(name);
            fs::write(&file, json.to_string()).unwrap();
            read(&file).unwrap()
        };
        let done = [executed("a", "emergence", true), executed("b", "emergence", false), executed("c", "tide", true)];
        let text = verdicts(&done);
        assert!(text.contains("claims of emergence: 1 held, 1 failed, 0 undecided, 2 not testable here\n"), "{text}");
        assert!(text.contains("  failed: Table 1, b (0.5)\n"), "{text}");
        assert!(text.contains("claims of tide: 1 held, 0 failed, 0 undecided, 1 not testable here\n"), "{text}");
        assert_eq!(verdicts(&[]), "");
    }

    #[test]
    fn numbers_are_not_part_of_a_name() {
        assert_eq!(name(Path::new("notebooks/00_tour.ipynb")), "tour");
        assert_eq!(name(Path::new("x/2024.ipynb")), "2024");
    }

    #[test]
    fn notebooks_are_found_by_name_folder_or_path_and_misspellings_are_answered() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_path_buf();
        for file in ["notebooks/00_tour.ipynb", "notebooks/tide/01_metrics.ipynb", "notebooks/tide/02_edits.ipynb"] {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, notebook(&[])).unwrap();
        }
        let lab = root.join("target/lab");
        let place = Place {
            target: root.join("target"),
            build: root.join("target"),
            lab,
            sysroot: root.clone(),
            triple: String::new(),
            root,
        };
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            choose(&place, &wanted).map(|files| files.iter().map(|f| name(f)).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap(), ["tour", "metrics", "edits"]);
        assert_eq!(names(&["tide", "edits"]).unwrap(), ["metrics", "edits"]);
        assert_eq!(names(&["00_tour"]).unwrap(), ["tour"]);
        let error = names(&["tuor"]).unwrap_err().to_string();
        assert!(error.contains("nearest: tour"), "{error}");
    }

    #[test]
    fn a_failure_is_reported_with_its_cell() {
        let cell =
            |failure| Cell { title: "x".into(), source: "let x = 1;\nfail()?;".into(), seconds: Some(1.0), failure };
        let failure = Some(("Error".to_string(), "no such file".to_string()));
        let cells = vec![cell(None), cell(failure)];
        let (name, file) = ("tour".into(), PathBuf::new());
        let run = Executed { name, file, start: 1.0, total: 2.0, cells, claims: Vec::new(), interrupted: false };
        let error = run.check().unwrap_err().to_string();
        for part in ["tour", "cell 2 of 2", "fail()?;", "no such file"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
