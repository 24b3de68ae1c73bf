//! Pictures in rows and columns with labels, captions, outlines and colour bars: the layout below grids and heat maps.

use image::RgbImage;

use super::axis::{Request, short};
use super::canvas::{Align, Canvas, Text};
use super::colour::{Colours, GREY, INK, Rgb, WARN, WHITE};
use super::font;
use super::frame::{LABEL, TICK, TITLE};
use super::outline;
use crate::error::{Error, Result};
use crate::scene::Mask;

const MARGIN: f64 = 10.0;
const GAP: f64 = 6.0;
/// Row labels are broken into lines at this width.
const ROW_LABEL: f64 = 120.0;
/// Side in CSS pixels that the default scale aims at: two 64 px scenes side by side in a column of a paper.
const CELL: u32 = 128;
const BAR: f64 = 12.0;

/// Corners of a loop, x to the right and y downwards.
type Path = Vec<(f64, f64)>;

/// One picture with what is drawn on it.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub image: RgbImage,
    pub caption: String,
    /// Loops in the picture's pixels.
    pub outlines: Vec<(Vec<Path>, Rgb)>,
    pub border: Option<Rgb>,
}

impl Cell {
    pub fn new(image: RgbImage) -> Self {
        Self { image, caption: String::new(), outlines: Vec::new(), border: None }
    }

    /// Adds the outline of a mask of any resolution.
    pub fn outline(&mut self, mask: &Mask, colour: Rgb) {
        let sx = f64::from(self.image.width()) / mask.width() as f64;
        let sy = f64::from(self.image.height()) / mask.height() as f64;
        let loops =
            outline::trace(mask).into_iter().map(|l| l.into_iter().map(|(x, y)| (x * sx, y * sy)).collect()).collect();
        self.outlines.push((loops, colour));
    }
}

/// The key of a heat map's colours.
#[derive(Debug, Clone)]
pub(crate) struct Bar {
    pub colours: Colours,
    pub low: f64,
    pub high: f64,
    pub label: String,
}

/// The whole sheet. `rows` may be ragged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sheet {
    pub title: String,
    pub note: String,
    /// Which models made the pictures.
    pub origins: Vec<String>,
    pub warnings: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
    pub row_labels: Vec<String>,
    pub column_labels: Vec<String>,
    /// CSS pixels to a pixel of the widest picture.
    pub scale: Option<u32>,
    /// None, one for all, or one a row.
    pub bars: Vec<Bar>,
    /// Pictures that were interpolated already look better smooth.
    pub smooth: bool,
}

impl Sheet {
    /// Keeps in mind where a picture came from.
    pub fn credit(&mut self, origin: Option<String>) {
        if let Some(origin) = origin.filter(|o| !self.origins.contains(o)) {
            self.origins.push(origin);
        }
    }

    /// The width in CSS pixels that every picture gets.
    fn cell_width(&self) -> f64 {
        let widest = self.rows.iter().flatten().map(|c| c.image.width()).max().unwrap_or(1);
        let automatic = if widest > 2 * CELL { 2 * CELL } else { widest * (CELL / widest).max(1) };
        f64::from(self.scale.map_or(automatic, |s| s * widest))
    }

    pub fn canvas(&self) -> Result<Canvas> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        if columns == 0 {
            return Err(Error::invalid("image grid: no images, expected at least one"));
        }
        if let Some(empty) = self.rows.iter().flatten().position(|c| c.image.width() == 0 || c.image.height() == 0) {
            return Err(Error::invalid(format!("image grid: image {empty} has no pixels")));
        }
        let cell = self.cell_width();
        let wrap =
            |text: &str, limit: f64| if text.is_empty() { Vec::new() } else { font::wrap(text, TICK, false, limit) };
        let row_labels: Vec<Vec<String>> = self.row_labels.iter().map(|t| wrap(t, ROW_LABEL)).collect();
        let column_labels: Vec<Vec<String>> = self.column_labels.iter().map(|t| wrap(t, cell)).collect();
        let widest = row_labels.iter().flatten().map(|l| font::width(l, TICK, false)).fold(0.0, f64::max);
        let left = MARGIN + if widest > 0.0 { widest + GAP + 2.0 } else { 0.0 };
        let grid = columns as f64 * (cell + GAP) - GAP;
        let key = self.bars.iter().map(bar_width).fold(0.0, f64::max);
        let title = wrap_title(&self.title, (grid + key).max(220.0));
        let title_width = title.iter().map(|l| font::width(l, TITLE, true)).fold(0.0, f64::max);
        let width = (left + grid + key).max(MARGIN + title_width) + MARGIN;
        let foot: Vec<(String, Rgb)> = wrap(&self.note, width - 2.0 * MARGIN)
            .into_iter()
            .chain(wrap(&self.origins.join("; "), width - 2.0 * MARGIN))
            .map(|l| (l, GREY))
            .chain(self.warnings.iter().flat_map(|t| wrap(t, width - 2.0 * MARGIN)).map(|l| (l, WARN)))
            .collect();
        let head = column_labels.iter().map(Vec::len).max().unwrap_or(0) as f64 * TICK * 1.3;
        let top = MARGIN + if title.is_empty() { 0.0 } else { title.len() as f64 * TITLE * 1.3 + 4.0 } + head;

        // Rows first, for their heights depend on pictures and captions.
        let mut layout = Vec::new();
        let mut y = top;
        for row in &self.rows {
            let tall = |c: &Cell| cell * f64::from(c.image.height()) / f64::from(c.image.width());
            let height = row.iter().map(tall).fold(0.0, f64::max);
            let captions: Vec<Vec<String>> = row.iter().map(|c| wrap(&c.caption, cell)).collect();
            let lines = captions.iter().map(Vec::len).max().unwrap_or(0) as f64;
            layout.push((y, height, captions));
            y += height + if lines > 0.0 { lines * TICK * 1.3 + 4.0 } else { 0.0 } + GAP;
        }
        let bottom = y - GAP;
        let height = bottom + foot.len() as f64 * TICK * 1.4 + if foot.is_empty() { 0.0 } else { 6.0 } + MARGIN;

        let mut canvas = Canvas::new(width, height);
        for (i, line) in title.iter().enumerate() {
            let at = (MARGIN, MARGIN + TITLE + i as f64 * TITLE * 1.3);
            let text = line.clone();
            canvas.text(Text { at, text, em: TITLE, bold: true, align: Align::Left, colour: INK, upright: false });
        }
        for (i, lines) in column_labels.iter().enumerate().take(columns) {
            let x = left + i as f64 * (cell + GAP) + cell / 2.0;
            let first = top - 5.0 - (lines.len() as f64 - 1.0) * TICK * 1.3;
            write_lines(&mut canvas, (x, first), lines, Align::Centre, INK);
        }
        for (r, (row, (y, height, captions))) in self.rows.iter().zip(&layout).enumerate() {
            if let Some(lines) = row_labels.get(r) {
                let first = y + height / 2.0 - (lines.len() as f64 - 1.0) * TICK * 0.65 + TICK * 0.36;
                write_lines(&mut canvas, (left - GAP - 2.0, first), lines, Align::Right, INK);
            }
            for (c, (picture, caption)) in row.iter().zip(captions).enumerate() {
                let x = left + c as f64 * (cell + GAP);
                self.draw_cell(&mut canvas, picture, (x, *y), cell);
                write_lines(&mut canvas, (x + cell / 2.0, y + height + TICK * 1.15), caption, Align::Centre, INK);
            }
        }
        let x = left + grid + GAP + 2.0;
        let numbers = self.bars.iter().map(numbers_width).fold(0.0, f64::max);
        match self.bars.as_slice() {
            [] => {}
            [one] => {
                let last = layout.last().map_or(bottom, |(y, height, _)| y + height);
                draw_bar(&mut canvas, one, (x, top), (last - top).min(260.0), numbers);
            }
            many => {
                for (bar, (y, height, _)) in many.iter().zip(&layout) {
                    draw_bar(&mut canvas, bar, (x, *y), *height, numbers);
                }
            }
        }
        for (i, (text, colour)) in foot.into_iter().enumerate() {
            let at = (MARGIN, bottom + 4.0 + (i as f64 + 1.0) * TICK * 1.4);
            canvas.text(Text { at, text, em: TICK, bold: false, align: Align::Left, colour, upright: false });
        }
        Ok(canvas)
    }

    fn draw_cell(&self, canvas: &mut Canvas, cell: &Cell, (x, y): (f64, f64), width: f64) {
        let zoom = width / f64::from(cell.image.width());
        let height = zoom * f64::from(cell.image.height());
        // Shrunk or interpolated pictures are smooth, enlarged ones keep their pixels.
        canvas.picture((x, y), (width, height), cell.image.clone(), self.smooth || zoom < 1.0);
        for (loops, colour) in &cell.outlines {
            let place = |l: &Vec<(f64, f64)>| -> Vec<(f64, f64)> {
                l.iter().map(|(px, py)| (x + px * zoom, y + py * zoom)).collect()
            };
            // A white edge below keeps the outline visible on any picture.
            for side in loops {
                canvas.path(close(place(side)), 3.0, WHITE, 0.9);
            }
            for side in loops {
                canvas.path(close(place(side)), 1.5, *colour, 1.0);
            }
        }
        if let Some(colour) = cell.border {
            canvas.frame((x, y), (width, height), 3.0, colour);
        }
    }
}

/// A closed line drawn a little further, so that its last corner is joined as the others are.
fn close(mut places: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if let Some(second) = places.get(1).copied() {
        places.push(second);
    }
    places
}

fn wrap_title(title: &str, limit: f64) -> Vec<String> {
    if title.is_empty() { Vec::new() } else { font::wrap(title, TITLE, true, limit) }
}

fn write_lines(canvas: &mut Canvas, (x, y): (f64, f64), lines: &[String], align: Align, colour: Rgb) {
    for (i, text) in lines.iter().enumerate() {
        let (at, text) = ((x, y + i as f64 * TICK * 1.3), text.clone());
        canvas.text(Text { at, text, em: TICK, bold: false, align, colour, upright: false });
    }
}

/// Width of the numbers beside a bar of any height.
pub(crate) fn numbers_width(bar: &Bar) -> f64 {
    let numbers = [60.0, 300.0].into_iter().flat_map(|h| bar_ticks(bar, h));
    numbers.map(|t| font::width(&t.1, TICK, false)).fold(0.0, f64::max)
}

/// The numbers beside a bar: round ones if there is room, else its ends.
fn bar_ticks(bar: &Bar, height: f64) -> Vec<(f64, String)> {
    let request = Request { range: Some((bar.low, bar.high)), ..Request::default() };
    match request.fit([], false) {
        Ok(axis) if height > 150.0 => axis.ticks,
        _ => vec![(bar.low, short(bar.low)), (bar.high, short(bar.high))],
    }
}

/// Width of a bar with its numbers, label and the gap before it.
pub(crate) fn bar_width(bar: &Bar) -> f64 {
    GAP + 2.0 + BAR + 8.0 + numbers_width(bar) + if bar.label.is_empty() { 0.0 } else { LABEL * 1.4 }
}

/// Draws a bar; `numbers` is the width kept for the numbers.
pub(crate) fn draw_bar(canvas: &mut Canvas, bar: &Bar, (x, y): (f64, f64), height: f64, numbers: f64) {
    const STEPS: u32 = 128;
    let key = RgbImage::from_fn(1, STEPS, |_, i| image::Rgb(bar.colours.at(1.0 - (i as f32 + 0.5) / STEPS as f32)));
    canvas.picture((x, y), (BAR, height), key, true);
    canvas.frame((x, y), (BAR, height), 0.75, INK);
    for (value, text) in bar_ticks(bar, height) {
        let at = y + height * (1.0 - (value - bar.low) / (bar.high - bar.low));
        canvas.line((x + BAR, at), (x + BAR + 3.0, at), 0.75, INK);
        // Numbers at the ends stay within the bar's height.
        let base = (at + TICK * 0.36).clamp(y + TICK * 0.75, y + height);
        canvas.write((x + BAR + 6.0, base), &text, TICK, Align::Left);
    }
    canvas.text(Text {
        at: (x + BAR + 8.0 + numbers + LABEL, y + height / 2.0),
        text: bar.label.clone(),
        em: TICK,
        bold: false,
        align: Align::Centre,
        colour: INK,
        upright: true,
    });
}
