//! A page of marks in CSS pixels, painted by plotters into an SVG or a bitmap.
//!
//! plotters' coordinates are integers, so that everything is painted at [`FINE`] times the size and scaled back: by the
//! viewBox in an SVG, by averaging in a bitmap. Pictures are placed by this file, since plotters' SVG backend has no
//! picture without a second image library.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::RgbImage;
use image::imageops::{self, FilterType};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::colour::{INK, Rgb};
use super::font;
use crate::error::{Error, Result};

/// Painted pixels per CSS pixel: a quarter pixel is finer than one sees at reading distance.
const FINE: f64 = 4.0;
/// Pixels per CSS pixel in a saved bitmap (192 dots per inch).
pub(crate) const DENSITY: u32 = 2;
/// Largest side of a figure in CSS pixels; above it the painted bitmap would take more than 3 GB.
const LARGEST: f64 = 8000.0;

/// Where a text stands relative to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Centre,
    Right,
}

/// A text: `at` is the point on the baseline.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub at: (f64, f64),
    pub text: String,
    pub em: f64,
    pub bold: bool,
    pub align: Align,
    pub colour: Rgb,
    /// Reads from bottom to top.
    pub upright: bool,
}

#[derive(Debug, Clone)]
enum Mark {
    Path { points: Vec<(f64, f64)>, width: f64, colour: Rgb, alpha: f64 },
    Area { points: Vec<(f64, f64)>, colour: Rgb, alpha: f64 },
    Disc { at: (f64, f64), radius: f64, colour: Rgb, alpha: f64 },
    Text(Text),
    Picture { at: (f64, f64), size: (f64, f64), image: RgbImage, smooth: bool },
}

/// Marks in painting order on white.
#[derive(Debug, Clone)]
pub(crate) struct Canvas {
    width: f64,
    height: f64,
    marks: Vec<Mark>,
}

impl Canvas {
    /// An empty white page; whole CSS pixels.
    pub fn new(width: f64, height: f64) -> Self {
        Self { width: width.ceil().max(1.0), height: height.ceil().max(1.0), marks: Vec::new() }
    }

    /// Width and height in CSS pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    /// A line through `points`.
    pub fn path(&mut self, points: Vec<(f64, f64)>, width: f64, colour: Rgb, alpha: f64) {
        if points.len() > 1 {
            self.marks.push(Mark::Path { points, width, colour, alpha });
        }
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), width: f64, colour: Rgb) {
        self.path(vec![from, to], width, colour, 1.0);
    }

    /// A line through `points` in dashes of `on` pixels with gaps of `off`.
    pub fn dashed(&mut self, points: &[(f64, f64)], width: f64, colour: Rgb, (on, off): (f64, f64)) {
        let mut drawing = true;
        let mut left = on;
        let mut run: Vec<(f64, f64)> = points.first().copied().into_iter().collect();
        for pair in points.windows(2) {
            let ((mut x, mut y), (x1, y1)) = (pair[0], pair[1]);
            loop {
                let rest = (x1 - x).hypot(y1 - y);
                if rest <= left {
                    left -= rest;
                    run.push((x1, y1));
                    break;
                }
                (x, y) = (x + (x1 - x) * left / rest, y + (y1 - y) * left / rest);
                run.push((x, y));
                if drawing {
                    self.path(std::mem::take(&mut run), width, colour, 1.0);
                }
                run = vec![(x, y)];
                drawing = !drawing;
                left = if drawing { on } else { off };
            }
        }
        if drawing {
            self.path(run, width, colour, 1.0);
        }
    }

    /// A filled polygon.
    pub fn area(&mut self, points: Vec<(f64, f64)>, colour: Rgb, alpha: f64) {
        if points.len() > 2 {
            self.marks.push(Mark::Area { points, colour, alpha });
        }
    }

    /// A filled rectangle.
    pub fn rect(&mut self, (x, y): (f64, f64), (w, h): (f64, f64), colour: Rgb, alpha: f64) {
        self.area(vec![(x, y), (x + w, y), (x + w, y + h), (x, y + h)], colour, alpha);
    }

    /// The outline of a rectangle.
    pub fn frame(&mut self, (x, y): (f64, f64), (w, h): (f64, f64), width: f64, colour: Rgb) {
        // The first side is drawn twice so that the last corner is joined too.
        let corners = vec![(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y), (x + w, y)];
        self.path(corners, width, colour, 1.0);
    }

    /// A filled disc.
    pub fn disc(&mut self, at: (f64, f64), radius: f64, colour: Rgb, alpha: f64) {
        self.marks.push(Mark::Disc { at, radius, colour, alpha });
    }

    /// A text.
    pub fn text(&mut self, text: Text) {
        if !text.text.is_empty() {
            self.marks.push(Mark::Text(text));
        }
    }

    /// A text in ink at `at` (on the baseline).
    pub fn write(&mut self, at: (f64, f64), text: impl Into<String>, em: f64, align: Align) {
        self.text(Text { at, text: text.into(), em, bold: false, align, colour: INK, upright: false });
    }

    /// A picture stretched to `size`; pixels stay sharp unless `smooth`.
    pub fn picture(&mut self, at: (f64, f64), size: (f64, f64), image: RgbImage, smooth: bool) {
        self.marks.push(Mark::Picture { at, size, image, smooth });
    }

    fn check(&self) -> Result<()> {
        if self.width > LARGEST || self.height > LARGEST {
            return Err(Error::invalid(format!(
                "figure: {} by {} pixels, expected at most {LARGEST} a side; draw fewer panels or a smaller scale",
                self.width, self.height
            )));
        }
        Ok(())
    }

    /// The page as an SVG document.
    pub fn svg(&self) -> Result<String> {
        self.check()?;
        let (w, h) = self.size();
        let (fine_w, fine_h) = (f64::from(w) * FINE, f64::from(h) * FINE);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\" width=\"{w}\" \
             height=\"{h}\" viewBox=\"0 0 {fine_w} {fine_h}\" stroke-linejoin=\"round\">\n\
             <rect width=\"{fine_w}\" height=\"{fine_h}\" fill=\"#ffffff\"/>\n"
        );
        for run in self.marks.chunk_by(|a, b| !is_picture(a) && !is_picture(b)) {
            if let [Mark::Picture { at, size, image, smooth }] = run {
                let rendering = if *smooth { "auto" } else { "pixelated" };
                let _ = writeln!(
                    out,
                    "<image x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" preserveAspectRatio=\"none\" \
                     style=\"image-rendering:{rendering}\" xlink:href=\"data:image/png;base64,{}\"/>",
                    (at.0 * FINE).round(),
                    (at.1 * FINE).round(),
                    (size.0 * FINE).round(),
                    (size.1 * FINE).round(),
                    BASE64.encode(super::render::png(image)?)
                );
                continue;
            }
            let mut part = String::new();
            {
                let area = SVGBackend::with_string(&mut part, (fine_w as u32, fine_h as u32)).into_drawing_area();
                paint(run, &area, FINE, font::SVG_SIZE_PER_EM)?;
                area.present().map_err(drawing)?;
            }
            // Only the marks: the document's own frame stands above and below.
            let start = part.find(">\n").map_or(0, |i| i + 2);
            let end = part.rfind("</svg>").unwrap_or(part.len());
            out.push_str(&part[start..end]);
        }
        out.push_str("</svg>\n");
        Ok(out)
    }

    /// The page as pixels, [`DENSITY`] to a CSS pixel.
    pub fn bitmap(&self) -> Result<RgbImage> {
        self.check()?;
        let (w, h) = (self.width as u32 * FINE as u32, self.height as u32 * FINE as u32);
        let mut pixels = vec![255u8; w as usize * h as usize * 3];
        for run in self.marks.chunk_by(|a, b| !is_picture(a) && !is_picture(b)) {
            if let [Mark::Picture { at, size, image, smooth }] = run {
                let filter = if *smooth { FilterType::CatmullRom } else { FilterType::Nearest };
                let (pw, ph) = ((size.0 * FINE).round().max(1.0), (size.1 * FINE).round().max(1.0));
                let scaled = imageops::resize(image, pw as u32, ph as u32, filter);
                let mut page = RgbImage::from_raw(w, h, std::mem::take(&mut pixels))
                    .ok_or_else(|| Error::invalid("figure: pixel buffer of the wrong size"))?;
                imageops::replace(&mut page, &scaled, (at.0 * FINE).round() as i64, (at.1 * FINE).round() as i64);
                pixels = page.into_raw();
                continue;
            }
            let area = BitMapBackend::with_buffer(&mut pixels, (w, h)).into_drawing_area();
            paint(run, &area, FINE, font::BITMAP_SIZE_PER_EM)?;
            area.present().map_err(drawing)?;
        }
        let page =
            RgbImage::from_raw(w, h, pixels).ok_or_else(|| Error::invalid("figure: pixel buffer of the wrong size"))?;
        Ok(imageops::thumbnail(&page, self.width as u32 * DENSITY, self.height as u32 * DENSITY))
    }
}

fn is_picture(mark: &Mark) -> bool {
    matches!(mark, Mark::Picture { .. })
}

fn drawing(e: impl std::fmt::Display) -> Error {
    Error::invalid(format!("figure: {e}"))
}

/// Paints `marks` at `zoom`; `size_per_em` turns an em into the backend's notion of a font size.
fn paint<B: DrawingBackend>(marks: &[Mark], area: &DrawingArea<B, Shift>, zoom: f64, size_per_em: f64) -> Result<()> {
    font::register();
    let point = |p: (f64, f64)| ((p.0 * zoom).round() as i32, (p.1 * zoom).round() as i32);
    let rgba = |c: &Rgb, alpha: f64| RGBAColor(c[0], c[1], c[2], alpha);
    for mark in marks {
        match mark {
            Mark::Path { points, width, colour, alpha } => {
                let style = rgba(colour, *alpha).stroke_width((width * zoom).round().max(1.0) as u32);
                let points: Vec<_> = points.iter().copied().map(point).collect();
                area.draw(&PathElement::new(points, style)).map_err(drawing)?;
            }
            Mark::Area { points, colour, alpha } => {
                let points: Vec<_> = points.iter().copied().map(point).collect();
                area.draw(&Polygon::new(points, rgba(colour, *alpha).filled())).map_err(drawing)?;
            }
            Mark::Disc { at, radius, colour, alpha } => {
                let radius = (radius * zoom).round() as i32;
                area.draw(&Circle::new(point(*at), radius, rgba(colour, *alpha).filled())).map_err(drawing)?;
            }
            Mark::Text(text) => paint_text(text, area, zoom, size_per_em)?,
            Mark::Picture { .. } => {}
        }
    }
    Ok(())
}

fn paint_text<B: DrawingBackend>(t: &Text, area: &DrawingArea<B, Shift>, zoom: f64, size_per_em: f64) -> Result<()> {
    let em = t.em * zoom;
    // Where each backend puts the baseline below a text anchored at its top: plotters-svg writes dy = 0.76em, the
    // rasteriser counts half a size down.
    let drop = if size_per_em == font::SVG_SIZE_PER_EM { 0.76 * em } else { size_per_em * em / 2.0 };
    let (x, y) = (t.at.0 * zoom, t.at.1 * zoom);
    let at = if t.upright { (x - drop, y) } else { (x, y - drop) };
    let align = match t.align {
        Align::Left => HPos::Left,
        Align::Centre => HPos::Center,
        Align::Right => HPos::Right,
    };
    let mut face = font::face(em * size_per_em, t.bold);
    if t.upright {
        face = face.transform(FontTransform::Rotate270);
    }
    let colour = RGBColor(t.colour[0], t.colour[1], t.colour[2]);
    let style = TextStyle::from(face).color(&colour).pos(Pos::new(align, VPos::Top));
    area.draw_text(&t.text, &style, (at.0.round() as i32, at.1.round() as i32)).map_err(drawing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn svg_and_bitmap_agree_on_shapes() {
        let mut c = Canvas::new(40.0, 20.0);
        c.rect((10.0, 5.0), (20.0, 10.0), [200, 0, 0], 1.0);
        let svg = c.svg().unwrap();
        assert!(svg.contains("width=\"40\" height=\"20\" viewBox=\"0 0 160 80\""), "{svg}");
        assert!(svg.contains("40,20 120,20 120,60 40,60"), "{svg}");
        let b = c.bitmap().unwrap();
        assert_eq!(b.dimensions(), (80, 40));
        assert_eq!(b.get_pixel(40, 20).0, [200, 0, 0]);
        assert_eq!(b.get_pixel(10, 20).0, [255, 255, 255]);
    }

    #[test]
    fn text_is_painted_on_its_baseline() {
        // "H" at 20 px: capitals of Open Sans are 1462 / 2048 em tall and stand on the baseline.
        let mut c = Canvas::new(40.0, 40.0);
        c.write((10.0, 30.0), "H", 20.0, Align::Left);
        let b = c.bitmap().unwrap();
        let dark: Vec<u32> = b.enumerate_pixels().filter(|(_, _, p)| p[0] < 128).map(|(_, y, _)| y).collect();
        let (top, bottom) = (*dark.iter().min().unwrap() as f64 / 2.0, (*dark.iter().max().unwrap() + 1) as f64 / 2.0);
        assert!((bottom - 30.0).abs() <= 0.75, "baseline at {bottom}");
        assert!((bottom - top - 20.0 * 1462.0 / 2048.0).abs() <= 0.75, "height {}", bottom - top);
        assert!(c.svg().unwrap().contains("\nH\n</text>"));
    }

    #[test]
    fn a_page_too_large_is_refused() {
        let message = Canvas::new(9000.0, 10.0).svg().unwrap_err().to_string();
        assert!(message.contains("9000") && message.contains("8000"), "{message}");
    }

    #[test]
    fn dashes_cover_on_over_on_plus_off() {
        let mut c = Canvas::new(100.0, 10.0);
        c.dashed(&[(0.0, 5.0), (100.0, 5.0)], 1.0, INK, (6.0, 4.0));
        assert_eq!(c.marks.len(), 10);
    }
}
