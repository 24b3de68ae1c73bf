//! The notebook kernel, end to end: what happens in a cell happens, and what fails is reported.
//!
//! These tests run cells through the real kernel. Where it is not set up (`cargo run -- lab --setup-only` does that)
//! they say so and pass.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use denoscope::candle_core::{Device, Result, Tensor, Var};
use denoscope::lab::{Place, reproduce};

/// The environment, or `None` with a message past the test harness's capture.
fn lab(test: &str) -> Option<Place> {
    let place = Place::find().unwrap();
    if place.ready() {
        return Some(place);
    }
    let told = "skipped: the notebook kernel is not set up; `cargo run -- lab --setup-only` does that";
    // Not `eprintln!`, which the harness captures.
    let _ = writeln!(std::io::stderr(), "{test}: {told}");
    None
}

/// Runs `cells` with the command line as a user would; returns exit success, all it printed and the notebook.
fn run(folder: &Path, cells: &[&str]) -> (bool, String, serde_json::Value) {
    let file = folder.join("cells.ipynb");
    std::fs::write(&file, reproduce::notebook(cells)).unwrap();
    let out = folder.join("out");
    let done = Command::new(env!("CARGO_BIN_EXE_denoscope"))
        .args(["reproduce", "--keep-going", "--out"])
        .args([&out, &file])
        .output()
        .unwrap();
    let said = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
    let text = std::fs::read_to_string(out.join("cells.ipynb")).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert!(out.join("index.html").exists(), "no gallery: {said}");
    (done.status.success(), said, serde_json::from_str(&text).unwrap())
}

/// What cell `i` printed.
fn printed(notebook: &serde_json::Value, i: usize) -> String {
    let outputs = notebook["cells"][i]["outputs"].as_array().unwrap();
    outputs.iter().filter(|o| o["name"] == "stdout").filter_map(|o| o["text"].as_str()).collect()
}

/// Two cells' worth of training: variables, one step by hand, the gradients after it.
fn train(x: &Tensor, w: &Var, b: &Var) -> Result<(Vec<f32>, Vec<f32>)> {
    let mut last = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let loss = x.matmul(w.as_tensor())?.broadcast_add(b.as_tensor())?.tanh()?.sqr()?.sum_all()?;
        let grads = loss.backward()?;
        let (dw, db) = (grads.get(w).unwrap(), grads.get(b).unwrap());
        last = (dw.flatten_all()?.to_vec1()?, db.to_vec1()?);
        w.set(&(w.as_tensor() - (dw * 0.1)?)?)?;
        b.set(&(b.as_tensor() - (db * 0.1)?)?)?;
    }
    Ok(last)
}

#[test]
fn training_across_cells_gives_the_gradients_of_one_program() {
    let Some(place) = lab("training_across_cells") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (ok, said, notebook) = run(
        folder.path(),
        &[
            "use denoscope::candle_core::{Device, Tensor, Var};",
            "let x = Tensor::arange(0f32, 12f32, &Device::Cpu)?.affine(0.1, -0.5)?.reshape((4, 3))?;",
            "let w = Var::from_slice(&[0.3f32, -0.2, 0.5, 0.1, -0.4, 0.2], (3, 2), &Device::Cpu)?;",
            "let b = Var::from_slice(&[0.05f32, -0.1], 2, &Device::Cpu)?;",
            "for _ in 0..2 {
    let loss = x.matmul(w.as_tensor())?.broadcast_add(b.as_tensor())?.tanh()?.sqr()?.sum_all()?;
    let grads = loss.backward()?;
    w.set(&(w.as_tensor() - (grads.get(&w).unwrap() * 0.1)?)?)?;
    b.set(&(b.as_tensor() - (grads.get(&b).unwrap() * 0.1)?)?)?;
}",
            "let loss = x.matmul(w.as_tensor())?.broadcast_add(b.as_tensor())?.tanh()?.sqr()?.sum_all()?;",
            "let grads = loss.backward()?;",
            "let dw: Vec<f32> = grads.get(&w).unwrap().flatten_all()?.to_vec1()?;
let db: Vec<f32> = grads.get(&b).unwrap().to_vec1()?;
println!(\"{dw:?} {db:?}\");",
            "eprintln!(\"steps: 1/2 · 0:03 elapsed, 0:03 left · loss 0.5\");
eprintln!(\"a word to keep\");",
        ],
    );
    assert!(ok, "{said}");
    let cpu = Device::Cpu;
    let x = Tensor::arange(0f32, 12f32, &cpu).unwrap().affine(0.1, -0.5).unwrap().reshape((4, 3)).unwrap();
    let w = Var::from_slice(&[0.3f32, -0.2, 0.5, 0.1, -0.4, 0.2], (3, 2), &cpu).unwrap();
    let b = Var::from_slice(&[0.05f32, -0.1], 2, &cpu).unwrap();
    let (dw, db) = train(&x, &w, &b).unwrap();
    assert!(dw.iter().any(|g| g.abs() > 1e-3), "the comparison would be empty: {dw:?}");
    assert_eq!(printed(&notebook, 7).trim(), format!("{dw:?} {db:?}"));
    // Progress is shown to whoever waits, and not kept.
    assert!(said.contains("steps: 1/2"), "{said}");
    assert_eq!(notebook["cells"][8]["outputs"][0]["text"], "a word to keep\n");
    same_versions(&place);
}

/// What the kernel resolved is what the project's lock file says, so tests and cells use the same crates.
fn same_versions(place: &Place) {
    let packages = |file: &Path| -> BTreeSet<String> {
        let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let entry = |block: &str| {
            let field = |key: &str| block.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("").to_string();
            format!("{}{}", field("name = "), field("version = "))
        };
        text.split("[[package]]").skip(1).map(entry).collect()
    };
    let project = packages(&place.root.join("Cargo.lock"));
    let benches: Vec<PathBuf> =
        std::fs::read_dir(place.lab.join("benches")).unwrap().map(|e| e.unwrap().path().join("Cargo.lock")).collect();
    let mut compared = 0;
    for lock in benches.iter().filter(|l| l.exists()) {
        let cells = packages(lock);
        let own = |p: &&String| p.starts_with("\"ctx\"") || p.starts_with("\"evcxr_dummy");
        let drifted: Vec<&String> = cells.difference(&project).filter(|p| !own(p)).collect();
        assert!(drifted.is_empty(), "{}: not in the project's lock file: {drifted:?}", lock.display());
        compared = compared.max(cells.len());
    }
    assert!(compared > 100, "no lock file of a kernel with dependencies was found ({compared} packages)");
}

#[test]
fn every_way_a_cell_can_fail_is_reported() {
    let Some(_place) = lab("every_way_a_cell_can_fail") else { return };
    let folder = tempfile::tempdir().unwrap();
    let cells = [
        "use denoscope::prelude::*;",
        "let numbers = vec![1, 2, 3];",
        "// a comment first\nlet fourth = numbers[3];",
        "let text = std::fs::read_to_string(\"no-such-file.txt\")?;",
        "let wrong: u32 = \"not a number\";",
        "eprintln!(\"thread 'x' panicked at nothing: only a message\");",
        "println!(\"{}\", numbers.len());",
        "std::process::abort();",
        "numbers.len()",
    ];
    let (ok, said, notebook) = run(folder.path(), &cells);
    assert!(!ok, "a notebook with failed cells was passed: {said}");
    let failed = |i: usize| notebook["cells"][i]["metadata"]["denoscope"]["failed"].as_str().map(str::to_string);
    let outcome: Vec<Option<String>> = (0..cells.len()).map(failed).collect();
    let [panic, error] = ["Panic", "Error"].map(|s| Some(s.to_string()));
    // The abort takes all variables with it: the last cell fails too.
    assert_eq!(outcome, [None, None, panic, error.clone(), error.clone(), None, None, error.clone(), error], "{said}");
    for quoted in ["index out of bounds", "No such file", "let fourth = numbers[3];", "mismatched types", "cell 8 of 9"]
    {
        assert!(said.contains(quoted), "{quoted:?} not in: {said}");
    }
    assert_eq!(printed(&notebook, 6), "3\n", "a failed cell must not cost the variables of earlier ones");
    assert_eq!(notebook["cells"][2]["source"], cells[2], "the notebook keeps its cells as they were");
}

#[test]
fn the_studies_run_at_smoke_scale_and_sum_up_their_claims() {
    let Some(place) = lab("the_studies_run_at_smoke_scale") else { return };
    let folder = tempfile::tempdir().unwrap();
    let studies = ["emergence", "tide", "residual"];
    // What an earlier version of the models left there would be refused, not mixed in.
    for study in studies.into_iter().chain(["compare"]) {
        let _ = std::fs::remove_dir_all(place.notebooks().join(study).join("work/smoke"));
    }
    let done = Command::new(env!("CARGO_BIN_EXE_denoscope"))
        .arg("reproduce")
        .args(studies)
        .arg("compare")
        .arg("--out")
        .arg(folder.path())
        .env("DENOSCOPE_SCALE", "smoke")
        .output()
        .unwrap();
    let said = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
    assert!(done.status.success(), "{said}");
    for study in studies {
        assert!(said.contains(&format!("claims of {study}: ")), "{said}");
    }
}
