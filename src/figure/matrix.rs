//! A labelled matrix of numbers as colours: similarities, blocks against steps.

use image::RgbImage;
use image::imageops::{self, FilterType};

use super::axis::short;
use super::blend::Style;
use super::canvas::{Align, Canvas, Text};
use super::colour::{Colours, GREY, INK, WARN, WHITE};
use super::font;
use super::frame::{LABEL, TICK, TITLE};
use super::input::{Numbers, texts};
use super::render::shows_itself;
use super::sheet::{Bar, bar_width, draw_bar, numbers_width};
use crate::error::{Error, Result};

const MARGIN: f64 = 10.0;
/// Longest side of the drawn matrix, and side of a cell, in CSS pixels.
const LARGEST: f64 = 420.0;
const CELL: f64 = 44.0;
/// Cells narrower than this hold no number.
const READABLE: f64 = 30.0;

/// A matrix with names for its rows and columns, a colour bar, and the numbers in the cells while they can be read.
///
/// ```
/// use denoscope::figure::Matrix;
/// let matrix = Matrix::new([0.3, 0.4, 0.5, 0.2, 0.3, 0.6], ["down", "up"], ["t = 1", "t = 0.5", "t = 0"]).bar("IoU");
/// assert!(matrix.to_svg()?.contains("t = 0.5"));
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Matrix {
    values: Vec<f64>,
    rows: Vec<String>,
    columns: Vec<String>,
    x: String,
    y: String,
    bar: String,
    title: String,
    note: String,
    style: Style,
}

shows_itself!(Matrix);

impl Matrix {
    /// A matrix of row-major `values` with one name a row and a column.
    #[must_use]
    pub fn new(
        values: impl Numbers,
        rows: impl IntoIterator<Item = impl ToString>,
        columns: impl IntoIterator<Item = impl ToString>,
    ) -> Self {
        Self {
            values: values.numbers(),
            rows: texts(rows),
            columns: texts(columns),
            x: String::new(),
            y: String::new(),
            bar: String::new(),
            title: String::new(),
            note: String::new(),
            style: Style::default(),
        }
    }

    /// Names what the columns and the rows are.
    #[must_use]
    pub fn axes(mut self, x: impl ToString, y: impl ToString) -> Self {
        (self.x, self.y) = (x.to_string(), y.to_string());
        self
    }

    /// Names the colour bar: what is shown, in which unit.
    #[must_use]
    pub fn bar(mut self, label: impl ToString) -> Self {
        self.bar = label.to_string();
        self
    }

    /// The colour map (viridis by default).
    #[must_use]
    pub fn colours(mut self, colours: Colours) -> Self {
        self.style.colours = colours;
        self
    }

    /// The values at the ends of the colour map, instead of zero (or the least value) and the greatest value.
    #[must_use]
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.style.range = Some((low, high));
        self
    }

    /// A title above the matrix.
    #[must_use]
    pub fn title(mut self, title: impl ToString) -> Self {
        self.title = title.to_string();
        self
    }

    /// A line below the matrix: which model made the numbers.
    #[must_use]
    pub fn note(mut self, note: impl ToString) -> Self {
        self.note = note.to_string();
        self
    }

    fn check(&self) -> Result<()> {
        let (h, w) = (self.rows.len(), self.columns.len());
        if h * w == 0 {
            return Err(Error::invalid(format!("matrix: {h} rows and {w} columns, expected at least one of each")));
        }
        if self.values.len() != h * w {
            return Err(Error::Shape { what: "matrix".into(), found: vec![self.values.len()], expected: vec![h, w] });
        }
        match self.style.range {
            Some((low, high)) if !(low < high && low.is_finite() && high.is_finite()) => {
                Err(Error::invalid(format!("matrix: range {low} to {high}, expected low below high")))
            }
            _ => Ok(()),
        }
    }

    fn canvas(&self) -> Result<Canvas> {
        self.check()?;
        let (h, w) = (self.rows.len(), self.columns.len());
        let values: Vec<f32> = self.values.iter().map(|v| *v as f32).collect();
        let (low, high) = self.style.range_of(&values);
        let side = (LARGEST / w.max(h) as f64).min(CELL);
        let (width, height) = (side * w as f64, side * h as f64);
        let numbers = side >= READABLE;

        // Names: every one while they can be read, else every second, third…
        let every = (TICK * 1.1 / side).ceil().max(1.0) as usize;
        let widest = |names: &[String]| names.iter().map(|n| font::width(n, TICK, false)).fold(0.0, f64::max);
        let upright = widest(&self.columns) > side - 4.0;
        let names_height = if upright { widest(&self.columns) + 6.0 } else { TICK * 1.5 };
        let y_label = if self.y.is_empty() { 0.0 } else { LABEL * 1.5 };
        let left = MARGIN + y_label + widest(&self.rows) + 7.0;
        let bar = Bar { colours: self.style.colours, low, high, label: self.bar.clone() };
        // Wide enough for a title or a note, even beside a narrow matrix.
        let full = (left + width + bar_width(&bar) + MARGIN + 4.0).max(280.0);
        let wrap =
            |t: &str, em, bold| if t.is_empty() { Vec::new() } else { font::wrap(t, em, bold, full - 2.0 * MARGIN) };
        let title = wrap(&self.title, TITLE, true);
        let top = MARGIN + if title.is_empty() { 0.0 } else { title.len() as f64 * TITLE * 1.3 + 4.0 };
        let missing = values.iter().filter(|v| v.is_nan()).count();
        let warning = if missing > 0 {
            format!("{missing} of {} values are not numbers (hatched)", values.len())
        } else {
            String::new()
        };
        let foot: Vec<_> = wrap(&self.note, TICK, false)
            .into_iter()
            .map(|l| (l, GREY))
            .chain(wrap(&warning, TICK, false).into_iter().map(|l| (l, WARN)))
            .collect();
        let x_label = if self.x.is_empty() { 0.0 } else { LABEL * 1.5 };
        let body = top + height + names_height + x_label;
        let mut canvas = Canvas::new(full, body + foot.len() as f64 * TICK * 1.4 + MARGIN);

        let plain = |at, text: &str, em, align, colour, upright| Text {
            at,
            text: text.to_string(),
            em,
            bold: false,
            align,
            colour,
            upright,
        };
        for (i, line) in title.iter().enumerate() {
            let at = (MARGIN, MARGIN + TITLE + i as f64 * TITLE * 1.3);
            canvas.text(Text { bold: true, ..plain(at, line, TITLE, Align::Left, INK, false) });
        }
        canvas.picture((left, top), (width, height), self.pixels(&values, (low, high)), false);
        canvas.frame((left, top), (width, height), 0.75, INK);
        for (i, name) in self.rows.iter().enumerate().step_by(every) {
            let y = top + side * (i as f64 + 0.5) + TICK * 0.36;
            canvas.write((left - 6.0, y), name, TICK, Align::Right);
        }
        for (i, name) in self.columns.iter().enumerate().step_by(every) {
            let x = left + side * (i as f64 + 0.5);
            if upright {
                let at = (x + TICK * 0.36, top + height + 6.0);
                canvas.text(plain(at, name, TICK, Align::Right, INK, true));
            } else {
                canvas.write((x, top + height + TICK * 1.25), name, TICK, Align::Centre);
            }
        }
        canvas.write((left + width / 2.0, top + height + names_height + LABEL), &self.x, LABEL, Align::Centre);
        let at = (MARGIN + LABEL * 0.85, top + height / 2.0);
        canvas.text(plain(at, &self.y, LABEL, Align::Centre, INK, true));
        for (i, value) in self.values.iter().enumerate().filter(|_| numbers) {
            let at = (left + side * ((i % w) as f64 + 0.5), top + side * ((i / w) as f64 + 0.5) + TICK * 0.34);
            let colour = self.style.colours.at(((value - low) / (high - low)) as f32);
            let light = 0.2126 * f32::from(colour[0]) + 0.7152 * f32::from(colour[1]) + 0.0722 * f32::from(colour[2]);
            let ink = if light > 140.0 || value.is_nan() { INK } else { WHITE };
            canvas.text(plain(at, &short(*value), TICK * 0.9, Align::Centre, ink, false));
        }
        draw_bar(&mut canvas, &bar, (left + width + 12.0, top), height, numbers_width(&bar));
        for (i, (line, colour)) in foot.iter().enumerate() {
            let at = (MARGIN, body + (i as f64 + 1.0) * TICK * 1.4 - 3.0);
            canvas.text(plain(at, line, TICK, Align::Left, *colour, false));
        }
        Ok(canvas)
    }

    /// One bitmap for all cells, eight pixels to a side: librsvg blurs what it enlarges (measured on 2.54), and a hatch
    /// needs room.
    fn pixels(&self, values: &[f32], range: (f64, f64)) -> RgbImage {
        let (h, w) = (self.rows.len(), self.columns.len());
        let image = self.style.paint(values, h, w, None, range);
        let zoom = (8 * w as u32).max(image.width());
        imageops::resize(&image, zoom, zoom * h as u32 / w as u32, FilterType::Nearest)
    }

    fn alt(&self) -> String {
        if self.title.is_empty() { format!("matrix of {}", self.bar) } else { self.title.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_number_is_there_over_one_bitmap() {
        let m =
            Matrix::new([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], ["down", "up"], ["a", "b", "c"]).bar("IoU").axes("t", "block");
        let svg = m.to_svg().unwrap();
        for text in ["down", "up", "a", "b", "c", "0.1", "0.6", "IoU", "t", "block"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text}");
        }
        assert_eq!(svg.matches("<image ").count(), 2, "matrix and bar");
        assert_eq!(m.pixels(&[0.0, 0.3, 0.6, 0.6, 0.6, 0.6], (0.0, 0.6)).get_pixel(32, 0).0, [33, 144, 140]);
    }

    #[test]
    fn contradictions_and_emptiness_are_refused() {
        let says = |m: Matrix| m.to_svg().unwrap_err().to_string();
        assert!(says(Matrix::new([1.0], ["a"], ["b", "c"])).contains("found shape [1], expected [1, 2]"));
        assert!(says(Matrix::new([0.0; 0], [""; 0], ["b"])).contains("0 rows and 1 columns"));
        assert!(says(Matrix::new([1.0], ["a"], ["b"]).range(1.0, 0.0)).contains("range 1 to 0"));
        let hatched = Matrix::new([1.0, f64::NAN], ["a"], ["b", "c"]).to_svg().unwrap();
        assert!(hatched.contains("1 of 2 values are not numbers"));
    }
}
