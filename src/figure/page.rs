//! Several figures, tables and texts as one output: a cell shows only one of a kind.

use std::path::Path;

use super::Figure;
use super::keep::keep;
use super::render;
use crate::error::{Error, Result};
use crate::html::escape;

/// A page of headings, texts, figures and tables.
///
/// ```
/// use denoscope::figure::{Line, Page, Table};
/// let chart = Line::new("step", "loss").series("noise loss", 0..3, [0.2, 0.1, 0.05]);
/// let table = Table::new().text("block", ["mid"]).number("IoU", [0.4]);
/// let page = Page::new("Training").text("Two views of one run.").figure(&chart).heading("Labels").figure(&table);
/// assert!(page.to_html().contains("<h3"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Page {
    title: String,
    parts: Vec<String>,
    problem: Option<String>,
}

impl Page {
    /// A page with a title (which may be empty).
    #[must_use]
    pub fn new(title: impl ToString) -> Self {
        Self { title: title.to_string(), ..Self::default() }
    }

    /// Adds a heading.
    #[must_use]
    pub fn heading(mut self, text: impl ToString) -> Self {
        let text = escape(&text.to_string());
        self.parts.push(format!("<h3 style=\"color:#222;margin:14px 0 6px 0\">{text}</h3>"));
        self
    }

    /// Adds a paragraph.
    #[must_use]
    pub fn text(mut self, text: impl ToString) -> Self {
        let text = escape(&text.to_string());
        self.parts.push(format!("<p style=\"color:#222;margin:6px 0\">{text}</p>"));
        self
    }

    /// Adds a figure or table.
    #[must_use]
    pub fn figure(mut self, figure: &dyn Figure) -> Self {
        self.note(figure);
        self.parts.push(format!("<div style=\"margin:6px 0\">{}</div>", figure.to_html()));
        self
    }

    /// Adds figures side by side, as far as the page is wide: `page.beside(&[&chart, &table])`.
    #[must_use]
    pub fn beside(mut self, figures: &[&dyn Figure]) -> Self {
        let mut row = String::new();
        for figure in figures {
            self.note(*figure);
            row.push_str(&format!(
                "<div style=\"display:inline-block;vertical-align:top;margin:0 12px 6px 0\">{}</div>",
                figure.to_html()
            ));
        }
        self.parts.push(format!("<div>{row}</div>"));
        self
    }

    /// The page as a piece of HTML on white.
    #[must_use]
    pub fn to_html(&self) -> String {
        let mut out = String::from("<div style=\"background:#fff;color:#222;padding:8px 12px\">\n");
        if !self.title.is_empty() {
            out.push_str(&format!("<h2 style=\"color:#222;margin:4px 0 8px 0\">{}</h2>\n", escape(&self.title)));
        }
        out.push_str(&self.parts.join("\n"));
        out.push_str("\n</div>");
        out
    }

    /// Saves the page as a whole HTML document.
    ///
    /// # Errors
    /// If the page is empty, a figure on it could not be drawn, or the file cannot be written; the message names the
    /// path.
    pub fn save_html(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.check().map_err(|e| Error::format(path, e))?;
        render::write(path, render::document(&self.title, &self.to_html()).as_bytes())
    }

    /// As [`Self::save_html`]; the extension must be `html`.
    ///
    /// # Errors
    /// As [`Self::save_html`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        render::extension(path.as_ref(), &["html"])?;
        self.save_html(path)
    }

    /// Whether every figure on the page can be drawn.
    ///
    /// # Errors
    /// The first reason why not, or that the page is empty.
    pub fn check(&self) -> Result<()> {
        match &self.problem {
            Some(problem) => Err(Error::invalid(problem)),
            None if self.parts.is_empty() => Err(Error::invalid("page: nothing on it, expected at least one part")),
            None => Ok(()),
        }
    }

    /// Shows the page in a notebook cell.
    pub fn evcxr_display(&self) {
        render::show(self);
    }

    fn note(&mut self, figure: &dyn Figure) {
        keep(figure);
        if let Err(e) = figure.check() {
            self.problem.get_or_insert(e.to_string());
        }
    }
}

impl Figure for Page {
    fn to_html(&self) -> String {
        Self::to_html(self)
    }
    fn check(&self) -> Result<()> {
        Self::check(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ImageGrid, Table};
    use super::*;

    #[test]
    fn a_page_holds_its_parts_in_order_and_escaped() {
        let table = Table::new().number("n", [1]);
        let grid = ImageGrid::new([image::RgbImage::new(4, 4)]);
        let html = Page::new("A & B").heading("one < two").beside(&[&table, &grid]).text("end").to_html();
        let places: Vec<usize> = ["A &amp; B", "one &lt; two", "<table", "<img", "end"]
            .iter()
            .map(|t| html.find(t).unwrap_or_else(|| panic!("{t} missing")))
            .collect();
        assert!(places.is_sorted(), "{places:?}");
    }

    #[test]
    fn a_page_with_a_broken_figure_is_seen_but_not_saved() {
        let page = Page::new("p").figure(&Table::new());
        assert!(page.to_html().contains("no columns"));
        let dir = tempfile::tempdir().unwrap();
        let message = page.save(dir.path().join("p.html")).unwrap_err().to_string();
        assert!(message.contains("p.html") && message.contains("no columns"), "{message}");
        assert!(!dir.path().join("p.html").exists());
        assert!(Page::new("p").check().unwrap_err().to_string().contains("nothing on it"));
        assert!(page.save("p.txt").unwrap_err().to_string().contains("p.txt"));
    }
}
