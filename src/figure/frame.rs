//! What all charts share: title, axes, grid, reference lines, legend beside the data, note below.

use super::axis::{Axis, Request};
use super::canvas::{Align, Canvas, Text};
use super::clip::{self, Bounds};
use super::colour::{FAINT, GREY, INK, Rgb, WARN};
use super::font;

/// Sizes of text in pixels to the em.
pub(crate) const TITLE: f64 = 14.0;
pub(crate) const LABEL: f64 = 12.5;
pub(crate) const TICK: f64 = 11.5;

const MARGIN: f64 = 10.0;
const TICK_LENGTH: f64 = 4.0;
const GAP: f64 = 5.0;
/// Dash and gap of the reference lines, so that a second one differs from the first.
const DASHES: [(f64, f64); 3] = [(5.0, 4.0), (1.5, 2.5), (9.0, 3.0)];

/// How a series is keyed in the legend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Key {
    Line,
    LineWithMarker(usize),
    Square,
    Marker(usize),
    Dashes((f64, f64)),
}

/// A line of the legend.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub name: String,
    pub colour: Rgb,
    pub key: Key,
}

/// Everything about a chart but its data.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub title: String,
    pub note: String,
    pub x: Request,
    pub y: Request,
    /// The rectangle within the axes, CSS pixels.
    pub panel: (f64, f64),
    /// Horizontal lines: value and name.
    pub references: Vec<(f64, String)>,
    /// The first thing wrong with what the builder was given.
    pub problem: Option<String>,
}

impl Frame {
    pub fn new(x: impl ToString, y: impl ToString) -> Self {
        Self {
            title: String::new(),
            note: String::new(),
            x: Request { label: x.to_string(), ..Request::default() },
            y: Request { label: y.to_string(), ..Request::default() },
            panel: (380.0, 230.0),
            references: Vec::new(),
            problem: None,
        }
    }

    /// Remembers a problem; the first one is told when the figure is drawn.
    pub fn object(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    /// Draws the frame, and the data by `data`, which gets the canvas and the way from values to places. `warnings`
    /// stand in vermilion below.
    pub fn draw(
        &self,
        x: &Axis,
        y: &Axis,
        mut legend: Vec<Entry>,
        warnings: &[String],
        data: impl FnOnce(&mut Canvas, &Plot),
    ) -> Canvas {
        for (i, (value, name)) in self.references.iter().enumerate() {
            if !name.is_empty() {
                let name = format!("{name} ({})", super::axis::short(*value));
                legend.push(Entry { name, colour: GREY, key: Key::Dashes(DASHES[i % DASHES.len()]) });
            }
        }
        let (w, h) = self.panel;
        let tick_width = y.ticks.iter().map(|t| font::width(&t.1, TICK, false)).fold(0.0, f64::max);
        let slot = w / x.ticks.len().max(1) as f64;
        let names = CategoryNames::fit(x, slot);
        let x_height = if x.categories { names.height } else { TICK * 1.2 } + TICK_LENGTH + GAP;
        let title = font::wrap(&self.title, TITLE, true, w + tick_width + 40.0);
        let title_height = if self.title.is_empty() { 4.0 } else { title.len() as f64 * TITLE * 1.3 + 6.0 };
        let left = MARGIN + if y.label.is_empty() { 0.0 } else { LABEL * 1.5 } + tick_width + TICK_LENGTH + GAP;
        let top = MARGIN + title_height;
        let legend_width = legend.iter().map(|e| font::width(&e.name, TICK, false)).fold(0.0, f64::max);
        let last_tick = x.ticks.last().map_or(0.0, |t| font::width(&t.1, TICK, false) / 2.0);
        let right = if legend.is_empty() { last_tick.min(24.0) + 4.0 } else { 16.0 + 26.0 + legend_width + MARGIN };
        let width = left + w + right + MARGIN;
        let label_height = if x.label.is_empty() { 0.0 } else { LABEL * 1.5 };
        let foot: Vec<(String, Rgb)> = font::wrap(&self.note, TICK, false, width - 2.0 * MARGIN)
            .into_iter()
            .map(|l| (l, GREY))
            .chain(warnings.iter().flat_map(|t| font::wrap(t, TICK, false, width - 2.0 * MARGIN)).map(|l| (l, WARN)))
            .collect();
        let body = (top + h + x_height + label_height).max(top + legend.len() as f64 * TICK * 1.6);
        let height = body + foot.len() as f64 * TICK * 1.4 + MARGIN;

        let mut canvas = Canvas::new(width, height);
        let plot = Plot { x: x.clone(), y: y.clone(), left, top, width: w, height: h };
        for (i, line) in title.iter().enumerate() {
            let at = (left, MARGIN + TITLE + i as f64 * TITLE * 1.3);
            let text = line.clone();
            canvas.text(Text { at, text, em: TITLE, bold: true, align: Align::Left, colour: INK, upright: false });
        }
        self.grid(&mut canvas, &plot);
        data(&mut canvas, &plot);
        self.axes(&mut canvas, &plot, &names, x_height);
        for (i, entry) in legend.iter().enumerate() {
            let y = top + (i as f64 + 0.5) * TICK * 1.6;
            draw_key(&mut canvas, (left + w + 16.0, y), entry);
            canvas.write((left + w + 42.0, y + TICK * 0.36), &entry.name, TICK, Align::Left);
        }
        for (i, (text, colour)) in foot.into_iter().enumerate() {
            let at = (MARGIN, body + (i as f64 + 1.0) * TICK * 1.4 - 3.0);
            canvas.text(Text { at, text, em: TICK, bold: false, align: Align::Left, colour, upright: false });
        }
        canvas
    }

    fn grid(&self, canvas: &mut Canvas, plot: &Plot) {
        let (l, t, r, b) = plot.bounds();
        for (value, _) in &plot.y.ticks {
            let y = plot.at_y(*value);
            canvas.line((l, y), (r, y), 0.75, FAINT);
        }
        if !plot.x.categories {
            for (value, _) in &plot.x.ticks {
                let x = plot.at_x(*value);
                canvas.line((x, t), (x, b), 0.75, FAINT);
            }
        }
    }

    fn axes(&self, canvas: &mut Canvas, plot: &Plot, names: &CategoryNames, x_height: f64) {
        let (l, t, r, b) = plot.bounds();
        for (i, (value, _)) in self.references.iter().enumerate() {
            let y = plot.at_y(*value);
            if y >= t && y <= b {
                canvas.dashed(&[(l, y), (r, y)], 1.5, GREY, DASHES[i % DASHES.len()]);
            }
        }
        if plot.x.categories && plot.y.low < 0.0 && plot.y.high > 0.0 {
            // What bars stand on.
            canvas.line((l, plot.at_y(0.0)), (r, plot.at_y(0.0)), 1.0, INK);
        }
        canvas.path(vec![(l, t), (l, b), (r, b)], 1.0, INK, 1.0);
        for (value, text) in &plot.y.ticks {
            let y = plot.at_y(*value);
            canvas.line((l - TICK_LENGTH, y), (l, y), 1.0, INK);
            canvas.write((l - TICK_LENGTH - GAP + 1.0, y + TICK * 0.36), text, TICK, Align::Right);
        }
        for value in &plot.y.minor {
            let y = plot.at_y(*value);
            canvas.line((l - TICK_LENGTH * 0.6, y), (l, y), 0.75, INK);
        }
        for value in &plot.x.minor {
            let x = plot.at_x(*value);
            canvas.line((x, b), (x, b + TICK_LENGTH * 0.6), 0.75, INK);
        }
        for (i, (value, text)) in plot.x.ticks.iter().enumerate() {
            let x = plot.at_x(*value);
            if plot.x.categories {
                names.draw(canvas, i, (x, b + GAP));
            } else {
                canvas.line((x, b), (x, b + TICK_LENGTH), 1.0, INK);
                canvas.write((x, b + TICK_LENGTH + TICK * 1.15), text, TICK, Align::Centre);
            }
        }
        canvas.write(((l + r) / 2.0, b + x_height + LABEL * 0.95), &plot.x.label, LABEL, Align::Centre);
        canvas.text(Text {
            at: (MARGIN + LABEL * 0.85, (t + b) / 2.0),
            text: plot.y.label.clone(),
            em: LABEL,
            bold: false,
            align: Align::Centre,
            colour: INK,
            upright: true,
        });
    }
}

/// The names under a category axis: broken into lines where they fit, upright where they do not.
struct CategoryNames {
    lines: Vec<Vec<String>>,
    upright: bool,
    height: f64,
}

impl CategoryNames {
    fn fit(axis: &Axis, slot: f64) -> Self {
        if !axis.categories {
            return Self { lines: Vec::new(), upright: false, height: 0.0 };
        }
        let lines: Vec<Vec<String>> = axis.ticks.iter().map(|t| font::wrap(&t.1, TICK, false, slot - 6.0)).collect();
        let widest =
            |lines: &[Vec<String>]| lines.iter().flatten().map(|l| font::width(l, TICK, false)).fold(0.0, f64::max);
        if widest(&lines) <= slot {
            let most = lines.iter().map(Vec::len).max().unwrap_or(0);
            return Self { lines, upright: false, height: most as f64 * TICK * 1.25 };
        }
        let lines: Vec<Vec<String>> = axis.ticks.iter().map(|t| vec![t.1.clone()]).collect();
        let height = widest(&lines) + 4.0;
        Self { lines, upright: true, height }
    }

    fn draw(&self, canvas: &mut Canvas, i: usize, (x, y): (f64, f64)) {
        for (k, line) in self.lines[i].iter().enumerate() {
            if self.upright {
                let (at, text) = ((x + TICK * 0.36, y), line.clone());
                let align = Align::Right;
                canvas.text(Text { at, text, em: TICK, bold: false, align, colour: INK, upright: true });
            } else {
                canvas.write((x, y + TICK * (1.0 + 1.25 * k as f64)), line, TICK, Align::Centre);
            }
        }
    }
}

/// Where values lie on the canvas.
pub(crate) struct Plot {
    pub x: Axis,
    pub y: Axis,
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Plot {
    pub fn at_x(&self, value: f64) -> f64 {
        self.left + self.x.place(value) * self.width
    }

    pub fn at_y(&self, value: f64) -> f64 {
        self.top + (1.0 - self.y.place(value)) * self.height
    }

    pub fn at(&self, x: f64, y: f64) -> (f64, f64) {
        (self.at_x(x), self.at_y(y))
    }

    /// As [`Self::at_y`], but the axis' low end for what lies below it or has no logarithm.
    pub fn floor_y(&self, value: f64) -> f64 {
        if value.is_nan() { f64::NAN } else { self.at_y(value.max(self.y.low)) }
    }

    pub fn bounds(&self) -> Bounds {
        (self.left, self.top, self.left + self.width, self.top + self.height)
    }

    /// Whether a place lies within the axes, by half a pixel.
    pub fn holds(&self, (x, y): (f64, f64)) -> bool {
        let (l, t, r, b) = self.bounds();
        x >= l - 0.5 && x <= r + 0.5 && y >= t - 0.5 && y <= b + 0.5
    }

    /// A line through places, cut to the axes and broken at NaN.
    pub fn path(&self, canvas: &mut Canvas, places: &[(f64, f64)], width: f64, colour: Rgb) {
        for part in clip::line(places, self.bounds()) {
            canvas.path(part, width, colour, 1.0);
        }
    }

    /// An area, cut to the axes.
    pub fn area(&self, canvas: &mut Canvas, places: &[(f64, f64)], colour: Rgb, alpha: f64) {
        canvas.area(clip::area(places, self.bounds()), colour, alpha);
    }

    /// The whisker of an interval at `x`.
    pub fn whisker(&self, canvas: &mut Canvas, x: f64, low: f64, high: f64, half: f64) {
        let (y0, y1) = (self.floor_y(low), self.floor_y(high));
        for places in [[(x, y0), (x, y1)], [(x - half, y0), (x + half, y0)], [(x - half, y1), (x + half, y1)]] {
            self.path(canvas, &places, 1.25, INK);
        }
    }
}

/// The marker of series `i`: disc, square, triangle, diamond, so that colour is not the only difference.
pub(crate) fn draw_marker(canvas: &mut Canvas, (x, y): (f64, f64), i: usize, r: f64, colour: Rgb, alpha: f64) {
    match i % 4 {
        0 => canvas.disc((x, y), r, colour, alpha),
        1 => canvas.rect((x - r * 0.9, y - r * 0.9), (r * 1.8, r * 1.8), colour, alpha),
        2 => canvas.area(vec![(x, y - r * 1.2), (x + r * 1.1, y + r * 0.8), (x - r * 1.1, y + r * 0.8)], colour, alpha),
        _ => {
            canvas.area(vec![(x, y - r * 1.25), (x + r * 1.25, y), (x, y + r * 1.25), (x - r * 1.25, y)], colour, alpha)
        }
    }
}

fn draw_key(canvas: &mut Canvas, (x, y): (f64, f64), entry: &Entry) {
    let (from, to, colour) = ((x, y), (x + 20.0, y), entry.colour);
    match entry.key {
        Key::Line => canvas.line(from, to, 2.0, colour),
        Key::LineWithMarker(i) => {
            canvas.line(from, to, 2.0, colour);
            draw_marker(canvas, (x + 10.0, y), i, 3.0, colour, 1.0);
        }
        Key::Square => canvas.rect((x + 4.0, y - 5.5), (12.0, 11.0), colour, 1.0),
        Key::Marker(i) => draw_marker(canvas, (x + 10.0, y), i, 3.5, colour, 1.0),
        Key::Dashes(dashes) => canvas.dashed(&[from, to], 1.5, colour, dashes),
    }
}

/// The builder methods that all charts share.
macro_rules! framed {
    ($type:ty) => {
        impl $type {
            /// A title above the chart.
            #[must_use]
            pub fn title(mut self, title: impl ToString) -> Self {
                self.frame.title = title.to_string();
                self
            }

            /// A line below the chart: which model made the numbers, how many samples, what the interval is.
            #[must_use]
            pub fn note(mut self, note: impl ToString) -> Self {
                self.frame.note = note.to_string();
                self
            }

            /// Size in CSS pixels of the rectangle within the axes (380 by 230 by default); labels and legend come on
            /// top of it, so that charts of one size line up.
            #[must_use]
            pub fn size(mut self, width: u32, height: u32) -> Self {
                self.frame.panel = (f64::from(width.max(40)), f64::from(height.max(40)));
                self
            }

            /// A logarithmic vertical axis; values at or below zero have no place on it and are counted in a warning.
            #[must_use]
            pub fn log_y(mut self) -> Self {
                self.frame.y.log = true;
                self
            }

            /// The range of the vertical axis instead of one that fits the data.
            #[must_use]
            pub fn y_range(mut self, low: f64, high: f64) -> Self {
                self.frame.y.range = Some((low, high));
                self
            }

            /// A dashed horizontal line at chance level.
            #[must_use]
            pub fn chance(self, level: f64) -> Self {
                self.reference(level, "chance")
            }

            /// A dashed horizontal line at `level`, named in the legend: a paper's value, a control.
            #[must_use]
            pub fn reference(mut self, level: f64, name: impl ToString) -> Self {
                if level.is_finite() {
                    self.frame.references.push((level, name.to_string()));
                } else {
                    self.frame.object(format!("reference {:?}: {level}, expected a number", name.to_string()));
                }
                self
            }

            fn alt(&self) -> String {
                let f = &self.frame;
                if f.title.is_empty() { format!("{} against {}", f.y.label, f.x.label) } else { f.title.clone() }
            }
        }

        $crate::figure::render::shows_itself!($type);
    };
}
pub(crate) use framed;

/// The settings of a horizontal axis with numbers on it.
macro_rules! numbered_x {
    ($type:ty) => {
        impl $type {
            /// A logarithmic horizontal axis.
            #[must_use]
            pub fn log_x(mut self) -> Self {
                self.frame.x.log = true;
                self
            }

            /// The range of the horizontal axis instead of one that fits the data. It may not run backwards.
            #[must_use]
            pub fn x_range(mut self, low: f64, high: f64) -> Self {
                self.frame.x.range = Some((low, high));
                self
            }
        }
    };
}
pub(crate) use numbered_x;
