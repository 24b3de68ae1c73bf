//! Tables: a polars data frame that shows itself as clean HTML and saves as CSV.

use std::path::Path;

use image::RgbImage;
use polars::prelude::{AnyValue, Column, CsvWriter, DataFrame, SerWriter};

use super::axis::short;
use super::cell::{Cell, number_cells};
use super::input::{AsImage, Numbers, texts};
use super::render;
use crate::error::{Error, Result};
use crate::measure::Interval;

/// Rows beyond this are counted, not shown; the CSV has them all.
const SHOWN_ROWS: usize = 200;

/// A table of named columns.
///
/// ```
/// use denoscope::figure::Table;
/// let table = Table::new()
///     .text("block", ["down", "mid", "up"])
///     .number("explained variance", [0.71, 0.64, 0.75])
///     .caption("TopK, k = 20")
///     .build()?;
/// assert!(table.to_html().contains("<td"));
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Table {
    frame: DataFrame,
    shown: Vec<Shown>,
    caption: String,
    note: String,
    problem: Option<String>,
}

/// How a heading of the table gets its cells.
#[derive(Debug, Clone)]
enum Shown {
    /// A column of the frame, with a fixed number of decimals or a sensible one.
    Plain { name: String, decimals: Option<usize> },
    /// A value with the two ends of its interval, three columns of the frame.
    Interval { names: [String; 3], decimals: Option<usize> },
    /// Pictures, which the frame and the CSV lack.
    Pictures { name: String, pictures: Vec<Vec<RgbImage>> },
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl From<DataFrame> for Table {
    fn from(frame: DataFrame) -> Self {
        let names = frame.columns().iter().map(|c| c.name().to_string());
        let shown = names.map(|name| Shown::Plain { name, decimals: None }).collect();
        Self { frame, shown, ..Self::new() }
    }
}

impl Table {
    /// A table without columns.
    #[must_use]
    pub fn new() -> Self {
        let (caption, note) = (String::new(), String::new());
        Self { frame: DataFrame::default(), shown: Vec::new(), caption, note, problem: None }
    }

    /// Adds a column of texts, aligned left.
    #[must_use]
    pub fn text(mut self, name: impl ToString, values: impl IntoIterator<Item = impl ToString>) -> Self {
        let name = name.to_string();
        let values = texts(values);
        self.push(Column::new(name.as_str().into(), values));
        self.shown.push(Shown::Plain { name, decimals: None });
        self
    }

    /// Adds a column of numbers, aligned right, with as many decimals as its greatest value needs for three digits.
    #[must_use]
    pub fn number(mut self, name: impl ToString, values: impl Numbers) -> Self {
        let name = name.to_string();
        self.push(column(&name, values.numbers()));
        self.shown.push(Shown::Plain { name, decimals: None });
        self
    }

    /// Adds values with the ends of their intervals, shown as `0.71 [0.65, 0.77]`; the frame and the CSV have three
    /// columns: `name`, `name low`, `name high`.
    #[must_use]
    pub fn interval(
        mut self,
        name: impl ToString,
        values: impl Numbers,
        low: impl Numbers,
        high: impl Numbers,
    ) -> Self {
        let name = name.to_string();
        let names = [name.clone(), format!("{name} low"), format!("{name} high")];
        for (name, values) in names.iter().zip([values.numbers(), low.numbers(), high.numbers()]) {
            self.push(column(name, values));
        }
        self.shown.push(Shown::Interval { names, decimals: None });
        self
    }

    /// Adds a column of measured values with their intervals.
    #[must_use]
    pub fn measured<'a>(self, name: impl ToString, values: impl IntoIterator<Item = &'a Interval>) -> Self {
        let [value, low, high] = Interval::columns(values);
        self.interval(name, value, low, high)
    }

    /// A table of named measurements with their intervals, under the heading `what`.
    #[must_use]
    pub fn measurements<N: ToString>(what: &str, rows: impl IntoIterator<Item = (N, Interval)>) -> Self {
        let (names, values): (Vec<String>, Vec<Interval>) = rows.into_iter().map(|(n, i)| (n.to_string(), i)).unzip();
        Self::new().text("", names).measured(what, &values)
    }

    /// Adds a column with a row of small pictures to each row of the table; the CSV leaves it out.
    #[must_use]
    pub fn pictures<I: AsImage>(
        mut self,
        name: impl ToString,
        rows: impl IntoIterator<Item = impl IntoIterator<Item = I>>,
    ) -> Self {
        let pictures: Vec<Vec<RgbImage>> =
            rows.into_iter().map(|r| r.into_iter().map(|i| i.as_image().clone()).collect()).collect();
        let name = name.to_string();
        let empty = self.frame.width() == 0 && self.shown.is_empty();
        if !empty && pictures.len() != self.rows() {
            self.object(format!("table: column {name:?} has {} rows, expected {}", pictures.len(), self.rows()));
        }
        self.shown.push(Shown::Pictures { name, pictures });
        self
    }

    /// Decimals of the column added last.
    #[must_use]
    pub fn decimals(mut self, count: usize) -> Self {
        match self.shown.last_mut() {
            Some(Shown::Plain { decimals, .. } | Shown::Interval { decimals, .. }) => *decimals = Some(count),
            _ => self.object("table: decimals without a column of numbers before it".into()),
        }
        self
    }

    /// A caption above the table.
    #[must_use]
    pub fn caption(mut self, caption: impl ToString) -> Self {
        self.caption = caption.to_string();
        self
    }

    /// A line below the table: which model made the numbers, what the interval is.
    #[must_use]
    pub fn note(mut self, note: impl ToString) -> Self {
        self.note = note.to_string();
        self
    }

    /// The table, if its columns agree.
    ///
    /// # Errors
    /// If there is no column, columns differ in length, or two have one name.
    pub fn build(self) -> Result<Self> {
        self.check()?;
        Ok(self)
    }

    /// The data frame below, for polars.
    #[must_use]
    pub fn frame(&self) -> &DataFrame {
        &self.frame
    }

    /// Rows of the table.
    #[must_use]
    pub fn rows(&self) -> usize {
        let pictures = self.shown.iter().find_map(|s| match s {
            Shown::Pictures { pictures, .. } => Some(pictures.len()),
            _ => None,
        });
        if self.frame.width() > 0 { self.frame.height() } else { pictures.unwrap_or(0) }
    }

    /// Whether the table can be shown.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn check(&self) -> Result<()> {
        match &self.problem {
            Some(problem) => Err(Error::invalid(problem)),
            None if self.shown.is_empty() => Err(Error::invalid("table: no columns, expected at least one")),
            None => Ok(()),
        }
    }

    /// The table as HTML on white, or a red box with the reason why there is none.
    #[must_use]
    pub fn to_html(&self) -> String {
        self.html().unwrap_or_else(|e| render::problem(&e))
    }

    /// Saves as HTML or CSV by the extension of `path`.
    ///
    /// # Errors
    /// If the extension is another, the columns contradict themselves, or the file cannot be written; the message names
    /// the path.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        if render::extension(path, &["html", "csv"])? == "csv" {
            return self.save_csv(path);
        }
        let html = self.html().map_err(|e| Error::format(path, e))?;
        render::write(path, render::document(&self.caption, &html).as_bytes())
    }

    /// Saves the numbers unrounded as comma-separated values.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn save_csv(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.check().map_err(|e| Error::format(path, e))?;
        let mut bytes = Vec::new();
        CsvWriter::new(&mut bytes).finish(&mut self.frame.clone()).map_err(|e| Error::format(path, e))?;
        render::write(path, &bytes)
    }

    /// Shows the table in a notebook cell.
    pub fn evcxr_display(&self) {
        render::show(self);
    }

    fn object(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    /// Adds a column; polars would stretch one of length 1 silently.
    fn push(&mut self, column: Column) {
        let (name, found) = (column.name().to_string(), column.len());
        let expected = self.rows();
        if !self.shown.is_empty() && found != expected {
            self.object(format!("table: column {name:?} has {found} rows, expected {expected}"));
        } else if self.frame.column(&name).is_ok() {
            self.object(format!("table: two columns named {name:?}"));
        } else if let Err(e) = self.frame.with_column(column) {
            self.object(format!("table: column {name:?}: {e}"));
        }
    }

    fn html(&self) -> Result<String> {
        self.check()?;
        let mut columns: Vec<(&str, Vec<Cell>)> = Vec::new();
        for shown in &self.shown {
            columns.push(match shown {
                Shown::Plain { name, decimals } => (name, self.plain(name, *decimals)?),
                Shown::Interval { names, decimals } => (&names[0], self.intervals(names, *decimals)?),
                Shown::Pictures { name, pictures } => {
                    (name, pictures.iter().map(|p| Cell::pictures(p)).collect::<Result<_>>()?)
                }
            });
        }
        Ok(super::cell::html(&self.caption, &self.note, &columns, self.rows(), SHOWN_ROWS))
    }

    fn values(&self, name: &str) -> Result<Vec<AnyValue<'_>>> {
        let column = self.frame.column(name)?;
        (0..column.len()).map(|i| Ok(column.get(i)?)).collect()
    }

    fn plain(&self, name: &str, decimals: Option<usize>) -> Result<Vec<Cell>> {
        let values = self.values(name)?;
        if self.frame.column(name)?.dtype().is_primitive_numeric() {
            let numbers: Vec<Option<f64>> = values.iter().map(AnyValue::extract).collect();
            return Ok(number_cells(&numbers, decimals));
        }
        Ok(values
            .iter()
            .map(|v| match v {
                AnyValue::Null => Cell::missing(),
                v => Cell::text(v.get_str().map_or_else(|| v.to_string(), str::to_string)),
            })
            .collect())
    }

    fn intervals(&self, names: &[String; 3], decimals: Option<usize>) -> Result<Vec<Cell>> {
        let mut all = Vec::new();
        for name in names {
            all.extend(self.values(name)?.iter().map(AnyValue::extract::<f64>));
        }
        // One rounding for a value and its interval.
        let cells = number_cells(&all, decimals);
        let n = cells.len() / 3;
        Ok((0..n).map(|i| Cell::interval(&cells[i], &cells[n + i], &cells[2 * n + i])).collect())
    }
}

impl super::Figure for Table {
    fn to_html(&self) -> String {
        Self::to_html(self)
    }
    fn check(&self) -> Result<()> {
        Self::check(self)
    }
}

/// A column of whole numbers if all are whole, so that counts have no decimals in the CSV either.
fn column(name: &str, values: Vec<f64>) -> Column {
    // Beyond 2^53 an f64 no longer tells whole numbers apart.
    let whole = |v: &f64| v.fract() == 0.0 && v.abs() < 9e15;
    if !values.is_empty() && values.iter().all(whole) {
        Column::new(name.into(), values.into_iter().map(|v| v as i64).collect::<Vec<_>>())
    } else {
        Column::new(name.into(), values)
    }
}

/// A number as a title or a sentence in a notebook would have it: three significant digits, a real minus sign.
#[must_use]
pub fn rounded(value: f64) -> String {
    short(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::new()
            .text("block", ["down", "<mid>", "up"])
            .number("EV", [0.712_34, 0.6, -0.05])
            .number("n", [1, 20, 300])
    }

    #[test]
    fn texts_are_escaped_and_numbers_aligned_and_rounded() {
        let html = table().caption("a & b").to_html();
        assert!(html.contains("&lt;mid&gt;") && !html.contains("<mid>") && html.contains("a &amp; b"));
        for number in ["0.712", "0.600", "−0.050", "300"] {
            let cell = html.split("<td").find(|c| c.contains(&format!(">{number}<"))).expect(number);
            assert!(cell.contains("text-align:right"), "{cell}");
        }
        let text = html.split("<td").find(|c| c.contains(">down<")).unwrap();
        assert!(text.contains("text-align:left"));
    }

    #[test]
    fn csv_keeps_all_digits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        table().interval("IoU", [0.5; 3], [0.4; 3], [0.6; 3]).save(&path).unwrap();
        let csv = std::fs::read_to_string(&path).unwrap();
        assert_eq!(csv.lines().next(), Some("block,EV,n,IoU,IoU low,IoU high"));
        assert_eq!(csv.lines().nth(1), Some("down,0.71234,1,0.5,0.4,0.6"));
        let message = table().save(dir.path().join("t.png")).unwrap_err().to_string();
        assert!(message.contains("t.png") && message.contains("html, csv"), "{message}");
    }

    #[test]
    fn intervals_and_missing_numbers_are_shown() {
        let t = Table::new().interval("IoU", [0.5, f64::NAN], [0.4, 0.0], [0.6, 1.0]);
        let html = t.to_html();
        assert!(html.contains("0.500") && html.contains("[0.400, 0.600]"), "{html}");
        assert!(html.contains("NaN"));
    }

    #[test]
    fn contradictions_and_emptiness_are_refused() {
        let says = |t: Table| t.build().unwrap_err().to_string();
        assert!(says(Table::new()).contains("no columns"));
        assert!(says(table().number("x", [1.0])).contains("\"x\" has 1 rows, expected 3"));
        assert!(says(table().number("EV", [1, 2, 3])).contains("two columns named \"EV\""));
        assert!(says(table().pictures("p", [vec![RgbImage::new(2, 2)]])).contains("1 rows, expected 3"));
    }

    #[test]
    fn pictures_stand_in_their_row() {
        let rows: Vec<Vec<RgbImage>> = vec![vec![RgbImage::new(4, 4); 2]; 3];
        let html = table().pictures("examples", &rows).to_html();
        assert_eq!(html.matches("<img").count(), 6);
    }

    #[test]
    fn long_tables_are_cut_and_say_so() {
        let html = Table::new().number("i", 0..1000).to_html();
        assert_eq!(html.matches("<tr").count(), 1 + SHOWN_ROWS);
        assert!(html.contains("800 more rows"));
    }
}
