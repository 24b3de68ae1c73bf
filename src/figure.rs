//! Figures: plots, image grids, heat maps and tables that show themselves in a notebook cell.
//!
//! Every figure is built by a chain of short calls, holds its own data, shows itself in a cell (`evcxr_display`), turns
//! into HTML (`to_html`) and saves as SVG, PNG or HTML by extension (`save`). What is wrong with the data is told when the
//! figure is drawn: as an error by `save`, as a red box in a cell. Nothing scientific is computed here.
//!
//! | for | take |
//! |---|---|
//! | pictures in rows and columns, mask outlines | [`ImageGrid`], [`show`] |
//! | activation maps over pictures | [`Heat`], [`HeatGrid`] |
//! | curves, intervals, a chance level | [`Line`] |
//! | a labelled matrix: similarities, blocks against steps | [`Matrix`] |
//! | grouped bars with intervals | [`Bars`] |
//! | how values are spread, how two go together | [`Histogram`], [`Scatter`] |
//! | columns of texts and numbers | [`Table`] |
//! | pictures and maps under a step slider | [`Scrubber`] |
//! | a whole SAE, concept by concept | [`Explorer`] |
//! | several of these as one output | [`Page`] |

mod axis;
mod bars;
mod blend;
mod canvas;
mod cell;
mod clip;
pub mod colour;
mod explorer;
mod font;
mod frame;
mod grid;
mod heat;
mod histogram;
mod input;
pub mod keep;
mod line;
mod matrix;
mod outline;
mod page;
mod render;
mod scatter;
mod scrubber;
mod sheet;
mod sweep;
mod table;
mod training;

pub use bars::Bars;
pub use colour::Colours;
pub use explorer::Explorer;
pub use grid::{ImageGrid, show};
pub use heat::{Heat, HeatGrid};
pub use histogram::Histogram;
pub use input::{AsImage, Number, Numbers};
pub use line::Line;
pub use matrix::Matrix;
pub use page::Page;
pub use scatter::Scatter;
pub use scrubber::Scrubber;
pub use table::{Table, rounded};

use crate::error::Result;

/// A figure or table as a part of a page.
pub trait Figure {
    /// The figure as a piece of HTML; a red box with the reason if it cannot be drawn.
    fn to_html(&self) -> String;

    /// Whether it can be drawn.
    ///
    /// # Errors
    /// The reason why not.
    fn check(&self) -> Result<()>;

    /// What a drawn figure is called; `None` for what is not drawn (tables and pages).
    fn title(&self) -> Option<String> {
        None
    }

    /// Saves a drawn figure, as its own `save`; of others nothing.
    ///
    /// # Errors
    /// As its own `save`.
    fn save_as(&self, _: &std::path::Path) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod samples;
