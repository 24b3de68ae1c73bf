//! Figures as files, while a notebook runs: where the environment variable `DENOSCOPE_FIGURES` names a folder, every
//! drawn figure that a cell shows is saved there too, as SVG and as PNG, numbered in the order of the cells.
//! `denoscope reproduce` names one beside each executed notebook.

use super::Figure;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The environment variable with the folder.
pub const FOLDER: &str = "DENOSCOPE_FIGURES";

/// Letters of a title in a file's name.
const LONGEST: usize = 60;

static SHOWN: AtomicUsize = AtomicUsize::new(0);

/// Saves a figure if that is asked for. One that cannot be drawn or saved says so on standard error: the cell goes on.
pub(super) fn keep(figure: &dyn Figure) {
    let (Some(folder), Some(title)) = (std::env::var_os(FOLDER), figure.title()) else { return };
    let number = SHOWN.fetch_add(1, Ordering::Relaxed) + 1;
    let stem = PathBuf::from(folder).join(format!("{number:02}-{}", slug(&title)));
    for extension in ["svg", "png"] {
        if let Err(e) = figure.save_as(&stem.with_extension(extension)) {
            eprintln!("figure: {e}");
        }
    }
}

/// A title as part of a file's name: letters and digits in lower case, anything else a dash.
fn slug(title: &str) -> String {
    let mut slug = String::new();
    for c in title.chars().take(LONGEST) {
        match c {
            c if c.is_ascii_alphanumeric() => slug.push(c.to_ascii_lowercase()),
            _ if slug.ends_with('-') || slug.is_empty() => {}
            _ => slug.push('-'),
        }
    }
    slug.trim_end_matches('-').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Line, Table};

    #[test]
    fn a_title_becomes_a_name() {
        assert_eq!(slug("Fig. 6: edits half-way, by strength"), "fig-6-edits-half-way-by-strength");
        assert_eq!(slug("‖update‖ · β = 2.5 "), "update-2-5");
    }

    #[test]
    fn a_drawn_figure_has_a_title_and_both_files() {
        let folder = tempfile::tempdir().unwrap();
        let line = Line::new("step", "loss").title("Noise").series("a", 0..3, [0.2, 0.1, 0.05]);
        let figure: &dyn Figure = &line;
        assert_eq!(figure.title().as_deref(), Some("Noise"));
        for name in ["a.svg", "a.png"] {
            figure.save_as(&folder.path().join(name)).unwrap();
            assert!(folder.path().join(name).metadata().unwrap().len() > 500);
        }
        let table = Table::new().text("block", ["mid"]);
        assert!((&table as &dyn Figure).title().is_none(), "a table is text");
    }
}
