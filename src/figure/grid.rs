//! Pictures in rows and columns.

use super::canvas::Canvas;
use super::colour::series_colour;
use super::input::{AsImage, texts};
use super::render::shows_itself;
use super::sheet::{Cell, Sheet};
use crate::error::{Error, Result};
use crate::scene::Mask;

/// RGB pictures in rows and columns, enlarged without blurring.
///
/// ```
/// use denoscope::figure::ImageGrid;
/// let images = vec![image::RgbImage::new(64, 64); 6];
/// let grid = ImageGrid::new(&images).columns(3).labels(["a", "b", "c"]).title("six black squares");
/// assert!(grid.to_svg()?.contains("six black squares"));
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ImageGrid {
    cells: Vec<Cell>,
    columns: Option<usize>,
    sheet: Sheet,
    problem: Option<String>,
}

shows_itself!(ImageGrid);

/// One picture, ready to show: `figure::show(&image)`.
#[must_use]
pub fn show(image: impl AsImage) -> ImageGrid {
    ImageGrid::new([image])
}

impl ImageGrid {
    /// A grid of `images`, read row by row; up to eight go into one row unless [`Self::columns`] says otherwise. Below
    /// generated pictures stands which model made them.
    #[must_use]
    pub fn new(images: impl IntoIterator<Item = impl AsImage>) -> Self {
        let mut sheet = Sheet::default();
        let cells = images.into_iter().map(|i| cell(&i, &mut sheet)).collect();
        Self { cells, columns: None, sheet, problem: None }
    }

    /// A grid with the given rows; a row may be shorter than the others.
    #[must_use]
    pub fn rows<I: AsImage>(rows: impl IntoIterator<Item = impl IntoIterator<Item = I>>) -> Self {
        let mut grid = Self::new(Vec::<image::RgbImage>::new());
        for row in rows {
            let row: Vec<Cell> = row.into_iter().map(|i| cell(&i, &mut grid.sheet)).collect();
            grid.sheet.rows.push(row);
        }
        grid
    }

    /// Pictures in a row.
    #[must_use]
    pub fn columns(mut self, columns: usize) -> Self {
        self.columns = Some(columns.max(1));
        self
    }

    /// Captions below the pictures, in reading order; pictures without one stay without.
    #[must_use]
    pub fn labels(mut self, labels: impl IntoIterator<Item = impl ToString>) -> Self {
        let labels = texts(labels);
        let (found, expected) = (labels.len(), self.count());
        if found > expected {
            self.object(format!("image grid: {found} labels for {expected} images"));
        }
        for (cell, label) in self.cells_mut().zip(labels) {
            cell.caption = label;
        }
        self
    }

    /// Labels left of the rows.
    #[must_use]
    pub fn row_labels(mut self, labels: impl IntoIterator<Item = impl ToString>) -> Self {
        self.sheet.row_labels = texts(labels);
        self
    }

    /// Labels above the columns.
    #[must_use]
    pub fn column_labels(mut self, labels: impl IntoIterator<Item = impl ToString>) -> Self {
        self.sheet.column_labels = texts(labels);
        self
    }

    /// A title above all.
    #[must_use]
    pub fn title(mut self, title: impl ToString) -> Self {
        self.sheet.title = title.to_string();
        self
    }

    /// A line below all: which model made the pictures, from which seeds.
    #[must_use]
    pub fn note(mut self, note: impl ToString) -> Self {
        self.sheet.note = note.to_string();
        self
    }

    /// CSS pixels to a pixel of the widest picture; by default whatever brings a picture to about 128.
    #[must_use]
    pub fn scale(mut self, factor: u32) -> Self {
        self.sheet.scale = Some(factor.max(1));
        self
    }

    /// Draws the outline of a mask of any resolution, stretched over the picture, on picture `index` in reading order.
    /// Further outlines on one picture take further colours.
    #[must_use]
    pub fn outline(mut self, index: usize, mask: &Mask) -> Self {
        if let Some(cell) = self.cells_mut().nth(index) {
            let colour = series_colour(cell.outlines.len() + 1);
            cell.outline(mask, colour);
        } else {
            let count = self.count();
            self.object(format!("outline: no image {index} among {count}"));
        }
        self
    }

    /// Puts a coloured border around picture `index`, such as the one that was edited.
    #[must_use]
    pub fn highlight(mut self, index: usize) -> Self {
        if let Some(cell) = self.cells_mut().nth(index) {
            cell.border = Some(series_colour(1));
        } else {
            let count = self.count();
            self.object(format!("highlight: no image {index} among {count}"));
        }
        self
    }

    fn object(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    fn count(&self) -> usize {
        self.cells.len() + self.sheet.rows.iter().map(Vec::len).sum::<usize>()
    }

    fn cells_mut(&mut self) -> impl Iterator<Item = &mut Cell> {
        self.cells.iter_mut().chain(self.sheet.rows.iter_mut().flatten())
    }

    fn canvas(&self) -> Result<Canvas> {
        if let Some(problem) = &self.problem {
            return Err(Error::invalid(problem));
        }
        let mut sheet = self.sheet.clone();
        let columns = self.columns.unwrap_or_else(|| self.cells.len().clamp(1, 8));
        sheet.rows.extend(self.cells.chunks(columns).map(<[Cell]>::to_vec));
        let (rows, widest) = (sheet.rows.len(), sheet.rows.iter().map(Vec::len).max().unwrap_or(0));
        for (what, found, expected) in
            [("row", sheet.row_labels.len(), rows), ("column", sheet.column_labels.len(), widest)]
        {
            if found > 0 && found != expected {
                return Err(Error::invalid(format!("image grid: {found} {what} labels for {expected} {what}s")));
            }
        }
        sheet.canvas()
    }

    fn alt(&self) -> String {
        if self.sheet.title.is_empty() { format!("{} pictures", self.count()) } else { self.sheet.title.clone() }
    }
}

fn cell(image: &impl AsImage, sheet: &mut Sheet) -> Cell {
    sheet.credit(image.origin());
    Cell::new(image.as_image().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, RgbImage};

    fn images(n: usize) -> Vec<RgbImage> {
        (0..n).map(|i| RgbImage::from_pixel(64, 64, Rgb([i as u8 * 20, 0, 90]))).collect()
    }

    #[test]
    fn the_grid_holds_every_picture_and_text() {
        let svg = ImageGrid::new(images(6))
            .columns(3)
            .labels(["one", "two", "three", "four", "five", "six"])
            .row_labels(["upper", "lower"])
            .column_labels(["left", "middle", "right"])
            .title("six")
            .to_svg()
            .unwrap();
        assert_eq!(svg.matches("<image ").count(), 6);
        for text in ["one", "six", "upper", "lower", "left", "right"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text}");
        }
    }

    #[test]
    fn pixels_are_enlarged_without_blur() {
        let image = RgbImage::from_fn(64, 64, |x, y| Rgb([x as u8 * 4, y as u8 * 4, ((x + y) % 2) as u8 * 255]));
        let page = ImageGrid::new([&image]).scale(3).to_bitmap().unwrap();
        // Margin 10, two page pixels to a CSS pixel, so six to a picture's pixel.
        assert_eq!(page.dimensions(), (2 * (20 + 192), 2 * (20 + 192)));
        for (x, y) in [(0, 0), (63, 63), (5, 40), (6, 40)] {
            for (dx, dy) in [(0, 0), (5, 5)] {
                assert_eq!(page.get_pixel(20 + 6 * x + dx, 20 + 6 * y + dy), image.get_pixel(x, y), "{x} {y}");
            }
        }
    }

    #[test]
    fn an_outline_is_drawn_on_its_picture() {
        let mask = Mask::from_fn(4, 4, |x, y| (x, y) == (1, 1));
        let svg = ImageGrid::new(images(1)).outline(0, &mask).to_svg().unwrap();
        assert_eq!(svg.lines().filter(|l| l.starts_with("<polyline")).count(), 2, "edge and outline");
        // Pixel (1, 1) of 4 by 4 on 128 CSS pixels from 10: corner at (10 + 32) * 4 = 168.
        assert!(svg.contains("points=\"168,168 296,168 296,296 168,296 168,168"), "{svg}");
    }

    #[test]
    fn a_grid_says_once_which_model_made_its_pictures() {
        struct Made(RgbImage);
        impl AsImage for Made {
            fn as_image(&self) -> &RgbImage {
                &self.0
            }
            fn origin(&self) -> Option<String> {
                Some("scene-unet, 50 steps".into())
            }
        }
        let made: Vec<Made> = images(3).into_iter().map(Made).collect();
        let svg = ImageGrid::new(&made).to_svg().unwrap();
        assert_eq!(svg.matches("scene-unet, 50 steps").count(), 1);
    }

    #[test]
    fn contradictions_and_emptiness_are_refused() {
        let says = |g: ImageGrid| g.to_svg().unwrap_err().to_string();
        assert!(says(ImageGrid::new(images(0))).contains("no images"));
        assert!(says(ImageGrid::new(images(2)).labels(["a", "b", "c"])).contains("3 labels for 2 images"));
        assert!(says(ImageGrid::new(images(4)).columns(2).row_labels(["a"])).contains("1 row labels for 2 rows"));
        assert!(says(ImageGrid::new(images(2)).outline(2, &Mask::new(1, 1))).contains("no image 2 among 2"));
        assert!(says(show(RgbImage::new(0, 3))).contains("no pixels"));
    }

    #[test]
    fn files_are_what_their_extension_says() {
        let dir = tempfile::tempdir().unwrap();
        let grid = show(&images(1)[0]);
        grid.save(dir.path().join("deep/a.png")).unwrap();
        let png = image::open(dir.path().join("deep/a.png")).unwrap().to_rgb8();
        assert_eq!(png.dimensions(), (2 * 148, 2 * 148));
        grid.save(dir.path().join("a.svg")).unwrap();
        assert!(std::fs::read_to_string(dir.path().join("a.svg")).unwrap().starts_with("<svg "));
        grid.save(dir.path().join("a.html")).unwrap();
        assert!(std::fs::read_to_string(dir.path().join("a.html")).unwrap().contains("<img "));
        let message = grid.save(dir.path().join("a.bmp")).unwrap_err().to_string();
        assert!(message.contains("a.bmp") && message.contains("svg, png, html"), "{message}");
        let empty = ImageGrid::new(images(0)).save(dir.path().join("b.png")).unwrap_err().to_string();
        assert!(empty.contains("b.png") && empty.contains("no images"), "{empty}");
    }
}
