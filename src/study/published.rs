//! The numbers that a paper printed.

use crate::diffusion::open::data_file;
use crate::error::{Error, Result};
use polars::prelude::{CsvReadOptions, DataFrame, SerReader};
use std::fmt::Write;

/// The values of one paper, from `data/paper/NAME.csv`: one row a value, with the table or figure it stands in, the
/// quantity, the columns that tell rows apart, and the printed spread where there is one.
///
/// ```
/// use denoscope::study::Published;
/// let paper = Published::open("emergence")?;
/// let cell = [("block", "mid"), ("k", "10"), ("half", "conditional"), ("t", "0.5")];
/// assert_eq!(paper.value("Table 1", "explained_variance", &cell)?, 0.509);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Published {
    study: String,
    frame: DataFrame,
}

impl Published {
    /// The values of a study that comes with the library.
    ///
    /// # Errors
    /// When there is no such file, or it is no table with the columns `source`, `quantity` and `value`.
    pub fn open(study: &str) -> Result<Self> {
        let path = data_file(&format!("paper/{study}.csv"))?;
        // Every column as text: `0.5` and `1` are names of stages here before they are numbers.
        let options = CsvReadOptions::default().with_infer_schema_length(Some(0));
        let frame = options.try_into_reader_with_file_path(Some(path.clone()))?.finish()?;
        for column in ["source", "quantity", "value"] {
            if frame.column(column).is_err() {
                return Err(Error::format(&path, format!("no column {column:?}")));
            }
        }
        Ok(Self { study: study.into(), frame })
    }

    /// All values, every column as text.
    #[must_use]
    pub fn frame(&self) -> &DataFrame {
        &self.frame
    }

    /// The value of `quantity` in `source` ("Table 1") whose other columns are as `cell` says.
    ///
    /// # Errors
    /// When no row or several rows fit, or the value is no number.
    pub fn value(&self, source: &str, quantity: &str, cell: &[(&str, &str)]) -> Result<f64> {
        let mut wanted = vec![("source", source), ("quantity", quantity)];
        wanted.extend(cell);
        let mut fits: Vec<usize> = (0..self.frame.height()).collect();
        for (column, word) in &wanted {
            let texts = self.frame.column(column)?.str()?;
            fits.retain(|&row| texts.get(row).unwrap_or("") == *word);
        }
        let said = || {
            wanted.iter().fold(String::new(), |mut text, (column, word)| {
                let _ = write!(text, " {column} {word:?}");
                text
            })
        };
        let [row] = fits[..] else {
            return Err(Error::invalid(format!("{}: {} published values with{}", self.study, fits.len(), said())));
        };
        let text = self.frame.column("value")?.str()?.get(row).unwrap_or("");
        text.parse().map_err(|_| Error::invalid(format!("{}: value {text:?} with{}", self.study, said())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_cell_or_the_cell_is_named() {
        let paper = Published::open("emergence").unwrap();
        assert_eq!(paper.value("Table 4", "spatial_success", &[("t", "1")]).unwrap(), 0.8);
        let none = paper.value("Table 4", "spatial_success", &[("t", "2")]).unwrap_err().to_string();
        assert!(none.contains("0 published values") && none.contains("t \"2\""), "{none}");
        let many = paper.value("Table 4", "spatial_success", &[]).unwrap_err().to_string();
        assert!(many.contains("3 published values"), "{many}");
        assert!(Published::open("nowhere").unwrap_err().to_string().contains("nowhere.csv"));
    }

    #[test]
    fn table_1_is_whole() {
        let paper = Published::open("emergence").unwrap();
        for block in ["down", "mid", "up"] {
            for k in ["10", "20"] {
                for half in ["conditional", "unconditional"] {
                    for t in ["0", "0.5", "1"] {
                        let cell = [("block", block), ("k", k), ("half", half), ("t", t)];
                        let mse = paper.value("Table 1", "scaled_mse", &cell).unwrap();
                        let explained = paper.value("Table 1", "explained_variance", &cell).unwrap();
                        // The paper's two measures nearly add up to one: a slip of a digit would show.
                        assert!((mse + explained - 1.0).abs() < 0.03, "{cell:?}: {mse} + {explained}");
                    }
                }
            }
        }
    }
}
