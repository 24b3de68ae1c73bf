//! Line charts: named series, interval bands, chance level.

use super::canvas::Canvas;
use super::colour::{Rgb, series_colour};
use super::frame::{Entry, Frame, Key, draw_marker, framed, numbered_x};
use super::input::Numbers;
use crate::error::{Error, Result};

/// A line chart of one or more series.
///
/// ```
/// use denoscope::figure::Line;
/// let chart = Line::new("training step", "explained variance")
///     .series("TopK", 0..4, [0.1, 0.5, 0.6, 0.65])
///     .band([0.05, 0.45, 0.55, 0.6], [0.15, 0.55, 0.65, 0.7])
///     .chance(0.1);
/// assert!(chart.to_svg()?.contains("explained variance"));
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Line {
    frame: Frame,
    series: Vec<Series>,
    markers: bool,
}

#[derive(Debug, Clone)]
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    band: Vec<(f64, f64)>,
    colour: Rgb,
}

framed!(Line);
numbered_x!(Line);

impl Line {
    /// An empty chart with the names of its axes (with units, where there are any).
    #[must_use]
    pub fn new(x: impl ToString, y: impl ToString) -> Self {
        Self { frame: Frame::new(x, y), series: Vec::new(), markers: false }
    }

    /// Adds a line through `(x, y)`; a NaN breaks it and is counted in a warning below the chart.
    #[must_use]
    pub fn series(mut self, name: impl ToString, x: impl Numbers, y: impl Numbers) -> Self {
        let (name, x, y) = (name.to_string(), x.numbers(), y.numbers());
        if x.len() != y.len() {
            self.frame.object(format!("line {name:?}: {} x and {} y, expected as many", x.len(), y.len()));
        }
        let colour = series_colour(self.series.len());
        self.series.push(Series { name, points: x.into_iter().zip(y).collect(), band: Vec::new(), colour });
        self
    }

    /// Shades the interval from `low` to `high` about the series added last, one pair to a point.
    #[must_use]
    pub fn band(mut self, low: impl Numbers, high: impl Numbers) -> Self {
        let (low, high) = (low.numbers(), high.numbers());
        match self.series.last_mut() {
            None => self.frame.object("band: no series before it".into()),
            Some(s) if low.len() != s.points.len() || high.len() != s.points.len() => {
                let problem = format!(
                    "band of {:?}: {} low and {} high, expected {} of each",
                    s.name,
                    low.len(),
                    high.len(),
                    s.points.len()
                );
                self.frame.object(problem);
            }
            Some(s) => s.band = low.into_iter().zip(high).collect(),
        }
        self
    }

    /// Draws a marker at each point, of another form for each series.
    #[must_use]
    pub fn markers(mut self) -> Self {
        self.markers = true;
        self
    }

    fn canvas(&self) -> Result<Canvas> {
        if let Some(problem) = &self.frame.problem {
            return Err(Error::invalid(problem));
        }
        if self.series.is_empty() {
            return Err(Error::invalid("line chart: no series, expected at least one"));
        }
        let points = || self.series.iter().flat_map(|s| s.points.iter());
        let bands = || self.series.iter().flat_map(|s| s.band.iter());
        let x = self.frame.x.fit(points().map(|p| p.0), false).map_err(Error::invalid)?;
        let ys = points().map(|p| p.1).chain(bands().flat_map(|b| [b.0, b.1]));
        let ys = ys.chain(self.frame.references.iter().map(|r| r.0));
        let y = self.frame.y.fit(ys, false).map_err(Error::invalid)?;

        let mut warnings = Vec::new();
        for s in &self.series {
            let lost = s.points.iter().filter(|p| !x.place(p.0).is_finite() || !y.place(p.1).is_finite()).count();
            if lost > 0 {
                let why = if x.log || y.log { "not a number or not above zero" } else { "not a number" };
                warnings.push(format!("{}: {lost} of {} points not drawn ({why})", s.name, s.points.len()));
            }
        }
        let key = |i| if self.markers { Key::LineWithMarker(i) } else { Key::Line };
        let legend = self.series.iter().enumerate().filter(|(_, s)| !s.name.is_empty());
        let legend = legend.map(|(i, s)| Entry { name: s.name.clone(), colour: s.colour, key: key(i) }).collect();
        Ok(self.frame.draw(&x, &y, legend, &warnings, |canvas, plot| {
            for s in &self.series {
                // Pieces between NaNs: forth along the low edge, back along the high one.
                let edges: Vec<_> = s
                    .points
                    .iter()
                    .zip(&s.band)
                    .map(|(p, b)| (plot.at_x(p.0), plot.floor_y(b.0), plot.floor_y(b.1)))
                    .collect();
                for piece in edges.split(|e| !(e.0.is_finite() && e.1.is_finite() && e.2.is_finite())) {
                    let low = piece.iter().map(|e| (e.0, e.1));
                    let high = piece.iter().rev().map(|e| (e.0, e.2));
                    plot.area(canvas, &low.chain(high).collect::<Vec<_>>(), s.colour, 0.2);
                }
            }
            for (i, s) in self.series.iter().enumerate() {
                let places: Vec<_> = s.points.iter().map(|p| finite(plot.at(p.0, p.1))).collect();
                plot.path(canvas, &places, 2.0, s.colour);
                let alone = |k: usize| {
                    !places[k].0.is_nan()
                        && (k == 0 || places[k - 1].0.is_nan())
                        && places.get(k + 1).is_none_or(|p| p.0.is_nan())
                };
                for (k, place) in places.iter().enumerate() {
                    // A point without neighbours has no line to show it.
                    if (self.markers || alone(k)) && !place.0.is_nan() && plot.holds(*place) {
                        draw_marker(canvas, *place, i, 3.5, s.colour, 1.0);
                    }
                }
            }
        }))
    }
}

/// The place, or NaN for both coordinates if either is not finite.
fn finite((x, y): (f64, f64)) -> (f64, f64) {
    if x.is_finite() && y.is_finite() { (x, y) } else { (f64::NAN, f64::NAN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Line {
        Line::new("step", "IoU").series("conditional", [0, 1, 2, 3], [0.1f32, 0.3, 0.4, 0.45])
    }

    #[test]
    fn the_svg_holds_the_texts_and_one_path_a_series() {
        let svg = chart().series("uncond", 0..4, [0.1, 0.2, 0.2, 0.3]).chance(0.05).title("a < b").to_svg().unwrap();
        for text in ["step", "IoU", "conditional", "uncond", "chance (0.05)", "a &lt; b"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text} missing");
        }
        // Two lines of data, each with four points.
        let four = svg.lines().filter(|l| l.starts_with("<polyline") && l.matches(',').count() == 4).count();
        assert_eq!(four, 2);
    }

    #[test]
    fn a_band_is_one_area_through_all_its_points() {
        let svg = chart().band([0.0; 4], [0.5; 4]).to_svg().unwrap();
        assert_eq!(svg.lines().filter(|l| l.starts_with("<polygon")).count(), 1);
    }

    #[test]
    fn nan_breaks_the_line_and_is_told() {
        let y = [0.1, 0.2, f64::NAN, 0.3, 0.4];
        let svg = Line::new("step", "IoU").series("s", 0..5, y).to_svg().unwrap();
        assert!(svg.contains("s: 1 of 5 points not drawn (not a number)"), "{svg}");
        let data = |l: &&str| l.starts_with("<polyline") && l.contains("stroke=\"#0072B2\"");
        // Two pieces and the key of the legend.
        assert_eq!(svg.lines().filter(data).count(), 3);
        let log = Line::new("x", "y").log_y().series("s", 0..3, [0.0, 1.0, 10.0]).to_svg().unwrap();
        assert!(log.contains("not above zero"));
    }

    #[test]
    fn contradictions_and_emptiness_are_refused() {
        let says = |l: Line| l.to_svg().unwrap_err().to_string();
        assert!(says(Line::new("x", "y")).contains("no series"));
        assert!(says(Line::new("x", "y").series("a", 0..3, [1.0])).contains("\"a\": 3 x and 1 y"));
        assert!(says(chart().band([0.0], [1.0])).contains("1 low and 1 high, expected 4"));
        assert!(says(Line::new("x", "y").series("a", [0.0], [f64::NAN])).contains("no finite number"));
        assert!(Line::new("x", "y").to_html().contains("no series"));
    }
}
