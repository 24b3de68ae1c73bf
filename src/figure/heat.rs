//! Heat maps: one, or a grid of them over pictures.

use image::RgbImage;

use super::blend::Style;
use super::canvas::Canvas;
use super::colour::{Colours, series_colour};
use super::input::{AsImage, texts};
use super::render::shows_itself;
use super::sheet::{Bar, Cell, Sheet};
use crate::error::{Error, Result};
use crate::scene::Mask;

/// A heat map of a `[height, width]` array, alone or over a picture, with a colour bar.
///
/// ```
/// use denoscope::figure::Heat;
/// let image = image::RgbImage::new(64, 64);
/// let activation = vec![0.5; 16 * 16];
/// let heat = Heat::new(&activation, 16, 16).over(&image).bar("activation");
/// assert!(heat.to_svg()?.contains("activation"));
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Heat {
    grid: HeatGrid,
}

/// Heat maps in rows and columns, each over its picture: rows are latents, columns the pictures that excite them.
///
/// ```
/// use denoscope::figure::HeatGrid;
/// let images = vec![image::RgbImage::new(64, 64); 2];
/// let maps = vec![vec![0.5f32; 256]; 2];
/// let grid = HeatGrid::new(16, 16).row("latent 7 · tree", &images, &maps).row("latent 9 · sun", &images, &maps);
/// assert!(grid.to_svg()?.contains("latent 9 · sun"));
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct HeatGrid {
    height: usize,
    width: usize,
    rows: Vec<Vec<Panel>>,
    style: Style,
    per_row: bool,
    beside: bool,
    bar: Option<String>,
    sheet: Sheet,
    problem: Option<String>,
}

#[derive(Debug, Clone)]
struct Panel {
    values: Vec<f32>,
    under: Option<RgbImage>,
    caption: String,
    masks: Vec<Mask>,
}

/// The builder methods that one heat map and a grid of them share; `$grid` is the way to the grid.
macro_rules! heat_options {
    ($type:ty, $($grid:tt)*) => {
        impl $type {
            /// Share of the map's colour over the picture, 0 to 1 (0.6 by default). The picture turns grey below the map,
            /// so that every colour is the map's; see [`Self::fade`].
            #[must_use]
            pub fn alpha(mut self, alpha: f32) -> Self {
                self$($grid)*.style.alpha = alpha.clamp(0.0, 1.0);
                self
            }

            /// Keeps the picture in colour and lets it through where the value is low: the share of the map's colour
            /// grows from none at the low end to `alpha` at the high end.
            #[must_use]
            pub fn fade(mut self) -> Self {
                self$($grid)*.style.fade = true;
                self
            }

            /// Interpolates between pixel centres instead of drawing square pixels.
            #[must_use]
            pub fn smooth(mut self) -> Self {
                self$($grid)*.style.smooth = true;
                self
            }

            /// The colour map (viridis by default).
            #[must_use]
            pub fn colours(mut self, colours: Colours) -> Self {
                self$($grid)*.style.colours = colours;
                self
            }

            /// The values at the ends of the colour map, instead of zero (or the least value) and the greatest value.
            #[must_use]
            pub fn range(mut self, low: f64, high: f64) -> Self {
                if low < high && low.is_finite() && high.is_finite() {
                    self$($grid)*.style.range = Some((low, high));
                } else {
                    self$($grid)*.object(format!("heat map: range {low} to {high}, expected low below high"));
                }
                self
            }

            /// Names the colour bar: what is shown, in which unit.
            #[must_use]
            pub fn bar(mut self, label: impl ToString) -> Self {
                self$($grid)*.bar = Some(label.to_string());
                self
            }

            /// Leaves the colour bar out.
            #[must_use]
            pub fn no_bar(mut self) -> Self {
                self$($grid)*.bar = None;
                self
            }

            /// A title above all.
            #[must_use]
            pub fn title(mut self, title: impl ToString) -> Self {
                self$($grid)*.sheet.title = title.to_string();
                self
            }

            /// A line below all: which model, which layer, which step.
            #[must_use]
            pub fn note(mut self, note: impl ToString) -> Self {
                self$($grid)*.sheet.note = note.to_string();
                self
            }

            /// CSS pixels to a pixel of the widest picture; by default whatever brings a picture to about 128.
            #[must_use]
            pub fn scale(mut self, factor: u32) -> Self {
                self$($grid)*.sheet.scale = Some(factor.max(1));
                self
            }

            fn alt(&self) -> String {
                let title = &self$($grid)*.sheet.title;
                if title.is_empty() { "heat map".into() } else { title.clone() }
            }
        }

        shows_itself!($type);
    };
}

heat_options!(Heat, .grid);
heat_options!(HeatGrid,);

impl Heat {
    /// A map of `height` rows of `width` values.
    #[must_use]
    pub fn new(values: impl AsRef<[f32]>, height: usize, width: usize) -> Self {
        let mut grid = HeatGrid::new(height, width);
        grid.add(values.as_ref(), None);
        Self { grid }
    }

    /// Lays the map over a picture.
    #[must_use]
    pub fn over(mut self, image: impl AsImage) -> Self {
        self.grid.sheet.credit(image.origin());
        self.grid.rows[0][0].under = Some(image.as_image().clone());
        self
    }

    /// Draws the outline of a mask of any resolution, stretched over the map.
    #[must_use]
    pub fn outline(mut self, mask: &Mask) -> Self {
        self.grid = self.grid.outline(0, 0, mask);
        self
    }

    /// The coloured pixels without bar or text, at the picture's resolution.
    ///
    /// # Errors
    /// If the map is empty or its length is not `height * width`.
    pub fn image(&self) -> Result<RgbImage> {
        let panel = &self.grid.rows[0][0];
        self.grid.check_panels()?;
        let range = self.grid.style.range_of(&panel.values);
        Ok(self.grid.style.paint(&panel.values, self.grid.height, self.grid.width, panel.under.as_ref(), range))
    }

    fn canvas(&self) -> Result<Canvas> {
        self.grid.canvas()
    }
}

impl HeatGrid {
    /// An empty grid for maps of `height` rows of `width` values.
    #[must_use]
    pub fn new(height: usize, width: usize) -> Self {
        Self {
            height,
            width,
            rows: Vec::new(),
            style: Style::default(),
            per_row: false,
            beside: false,
            bar: Some(String::new()),
            sheet: Sheet::default(),
            problem: None,
        }
    }

    /// Adds a row: one map over each picture, with a label on the left.
    #[must_use]
    pub fn row(
        mut self,
        label: impl ToString,
        images: impl IntoIterator<Item = impl AsImage>,
        maps: impl IntoIterator<Item = impl AsRef<[f32]>>,
    ) -> Self {
        let credit = |i: &_| self.sheet.credit(AsImage::origin(i));
        let images: Vec<RgbImage> = images.into_iter().inspect(credit).map(|i| i.as_image().clone()).collect();
        let maps: Vec<Vec<f32>> = maps.into_iter().map(|m| m.as_ref().to_vec()).collect();
        let label = label.to_string();
        if images.len() != maps.len() {
            self.object(format!(
                "heat row {label:?}: {} images and {} maps, expected as many",
                images.len(),
                maps.len()
            ));
        }
        self.rows.push(Vec::new());
        for (image, map) in images.into_iter().zip(&maps) {
            self.push(map, Some(image));
        }
        self.sheet.row_labels.push(label);
        self
    }

    /// Adds a row of maps without pictures.
    #[must_use]
    pub fn maps(mut self, label: impl ToString, maps: impl IntoIterator<Item = impl AsRef<[f32]>>) -> Self {
        self.rows.push(Vec::new());
        for map in maps {
            self.push(map.as_ref(), None);
        }
        self.sheet.row_labels.push(label.to_string());
        self
    }

    /// Labels above the columns.
    #[must_use]
    pub fn column_labels(mut self, labels: impl IntoIterator<Item = impl ToString>) -> Self {
        self.sheet.column_labels = texts(labels);
        self
    }

    /// Captions below the maps, in reading order.
    #[must_use]
    pub fn labels(mut self, labels: impl IntoIterator<Item = impl ToString>) -> Self {
        for (panel, label) in self.rows.iter_mut().flatten().zip(texts(labels)) {
            panel.caption = label;
        }
        self
    }

    /// Gives each row a range and a colour bar of its own. Without it one range holds for all, so that colours may be
    /// compared between rows.
    #[must_use]
    pub fn per_row(mut self) -> Self {
        self.per_row = true;
        self
    }

    /// Puts each bare picture to the left of its map.
    #[must_use]
    pub fn beside(mut self) -> Self {
        self.beside = true;
        self
    }

    /// Draws the outline of a mask of any resolution, stretched over the picture, on one panel.
    #[must_use]
    pub fn outline(mut self, row: usize, column: usize, mask: &Mask) -> Self {
        if let Some(panel) = self.rows.get_mut(row).and_then(|r| r.get_mut(column)) {
            panel.masks.push(mask.clone());
        } else {
            self.object(format!("outline: no map in row {row}, column {column}"));
        }
        self
    }

    fn add(&mut self, values: &[f32], under: Option<RgbImage>) {
        self.rows.push(Vec::new());
        self.push(values, under);
    }

    fn push(&mut self, values: &[f32], under: Option<RgbImage>) {
        if let Some(row) = self.rows.last_mut() {
            row.push(Panel { values: values.to_vec(), under, caption: String::new(), masks: Vec::new() });
        }
    }

    fn object(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    fn check_panels(&self) -> Result<()> {
        if let Some(problem) = &self.problem {
            return Err(Error::invalid(problem));
        }
        if self.height * self.width == 0 || self.rows.iter().all(Vec::is_empty) {
            return Err(Error::invalid("heat map: no values, expected at least one map of at least one value"));
        }
        match self.rows.iter().flatten().find(|p| p.values.len() != self.height * self.width) {
            None => Ok(()),
            Some(panel) => Err(Error::Shape {
                what: "heat map".into(),
                found: vec![panel.values.len()],
                expected: vec![self.height, self.width],
            }),
        }
    }

    fn canvas(&self) -> Result<Canvas> {
        self.check_panels()?;
        let mut sheet = self.sheet.clone();
        sheet.smooth = self.style.smooth;
        let all = self.style.range_of(self.rows.iter().flatten().flat_map(|p| &p.values));
        let mut missing = 0;
        for row in &self.rows {
            let range = if self.per_row { self.style.range_of(row.iter().flat_map(|p| &p.values)) } else { all };
            let mut cells = Vec::new();
            for panel in row {
                if let (true, Some(picture)) = (self.beside, &panel.under) {
                    cells.push(Cell::new(picture.clone()));
                }
                let image = self.style.paint(&panel.values, self.height, self.width, panel.under.as_ref(), range);
                let mut cell = Cell::new(image);
                cell.caption.clone_from(&panel.caption);
                for (i, mask) in panel.masks.iter().enumerate() {
                    cell.outline(mask, series_colour(i + 1));
                }
                missing += panel.values.iter().filter(|v| v.is_nan()).count();
                cells.push(cell);
            }
            sheet.rows.push(cells);
            if let (Some(label), true) = (&self.bar, self.per_row || sheet.bars.is_empty()) {
                let (low, high) = range;
                sheet.bars.push(Bar { colours: self.style.colours, low, high, label: label.clone() });
            }
        }
        if self.beside {
            sheet.column_labels = sheet.column_labels.iter().flat_map(|l| [String::new(), l.clone()]).collect();
        }
        if sheet.row_labels.iter().all(String::is_empty) {
            sheet.row_labels.clear();
        }
        if missing > 0 {
            let count: usize = self.rows.iter().flatten().map(|p| p.values.len()).sum();
            sheet.warnings.push(format!("{missing} of {count} values are not numbers (hatched)"));
        }
        sheet.canvas()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    fn picture() -> RgbImage {
        RgbImage::from_pixel(64, 64, Rgb([100, 50, 200]))
    }

    #[test]
    fn a_heat_map_has_its_pixels_and_a_bar_with_numbers() {
        let values: Vec<f32> = (0..4).map(|i| i as f32).collect();
        let heat = Heat::new(&values, 2, 2).over(picture()).alpha(0.5).bar("activation");
        // viridis(1) = (253, 231, 37) half over the grey of (100, 50, 200), which is 71.
        assert_eq!(heat.image().unwrap().get_pixel(63, 63).0, [162, 151, 54]);
        let svg = heat.to_svg().unwrap();
        for text in ["0", "3", "activation"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text} in {svg}");
        }
        assert_eq!(svg.matches("<image ").count(), 2, "map and bar");
        assert_eq!(heat.no_bar().to_svg().unwrap().matches("<image ").count(), 1);
    }

    #[test]
    fn rows_share_a_range_unless_asked() {
        let (weak, strong) = (vec![1.0f32; 4], vec![10.0f32; 4]);
        let grid = HeatGrid::new(2, 2).row("weak", [picture()], [&weak]).row("strong", [picture()], [&strong]);
        let one = grid.clone().to_svg().unwrap();
        assert_eq!(one.matches("<image ").count(), 3);
        let each = grid.per_row().beside().to_svg().unwrap();
        assert_eq!(each.matches("<image ").count(), 6);
        assert!(each.contains("\n1\n") && each.contains("\n10\n"));
    }

    #[test]
    fn nan_is_told() {
        let svg = Heat::new([1.0, f32::NAN], 1, 2).to_svg().unwrap();
        assert!(svg.contains("1 of 2 values are not numbers"));
    }

    #[test]
    fn contradictions_and_emptiness_are_refused() {
        let says = |h: Heat| h.to_svg().unwrap_err().to_string();
        assert!(says(Heat::new([], 0, 0)).contains("no values"));
        assert!(says(Heat::new([1.0; 5], 2, 3)).contains("found shape [5], expected [2, 3]"));
        assert!(says(Heat::new([1.0; 6], 2, 3).range(2.0, 2.0)).contains("range 2 to 2"));
        let uneven = HeatGrid::new(1, 1).row("r", [picture(), picture()], [[0.0f32]]);
        assert!(uneven.to_svg().unwrap_err().to_string().contains("2 images and 1 maps"));
    }
}
