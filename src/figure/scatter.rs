//! Scatter plots.

use super::canvas::{Align, Canvas};
use super::colour::{GREY, Rgb, series_colour};
use super::font;
use super::frame::{Entry, Frame, Key, TICK, draw_marker, framed, numbered_x};
use super::input::{Numbers, texts};
use crate::error::{Error, Result};

/// Points of one or more series.
///
/// ```
/// use denoscope::figure::Scatter;
/// let chart = Scatter::new("frequency", "IoU").series("latents", [0.1, 0.2], [0.5, 0.3]).names(["tree", "sun"]);
/// assert!(chart.to_svg()?.contains("tree"));
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Scatter {
    frame: Frame,
    series: Vec<Series>,
    diagonal: bool,
}

#[derive(Debug, Clone)]
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    names: Vec<String>,
    colour: Rgb,
}

framed!(Scatter);
numbered_x!(Scatter);

impl Scatter {
    /// An empty plot with the names of its axes.
    #[must_use]
    pub fn new(x: impl ToString, y: impl ToString) -> Self {
        Self { frame: Frame::new(x, y), series: Vec::new(), diagonal: false }
    }

    /// Adds points; those with a NaN are counted in a warning.
    #[must_use]
    pub fn series(mut self, name: impl ToString, x: impl Numbers, y: impl Numbers) -> Self {
        let (name, x, y) = (name.to_string(), x.numbers(), y.numbers());
        if x.len() != y.len() {
            self.frame.object(format!("points {name:?}: {} x and {} y, expected as many", x.len(), y.len()));
        }
        let colour = series_colour(self.series.len());
        self.series.push(Series { name, points: x.into_iter().zip(y).collect(), names: Vec::new(), colour });
        self
    }

    /// Writes a name beside each point of the series added last; an empty one leaves its point bare.
    #[must_use]
    pub fn names(mut self, names: impl IntoIterator<Item = impl ToString>) -> Self {
        let names = texts(names);
        match self.series.last_mut() {
            Some(s) if s.points.len() == names.len() => s.names = names,
            last => {
                let expected = last.map_or(0, |s| s.points.len());
                self.frame.object(format!("names: {} for {expected} points", names.len()));
            }
        }
        self
    }

    /// Draws the line on which both coordinates agree.
    #[must_use]
    pub fn diagonal(mut self) -> Self {
        self.diagonal = true;
        self
    }

    fn canvas(&self) -> Result<Canvas> {
        if let Some(problem) = &self.frame.problem {
            return Err(Error::invalid(problem));
        }
        if self.series.is_empty() {
            return Err(Error::invalid("scatter plot: no series, expected at least one"));
        }
        let points = || self.series.iter().flat_map(|s| s.points.iter());
        let x = self.frame.x.fit(points().map(|p| p.0), false).map_err(Error::invalid)?;
        let ys = points().map(|p| p.1).chain(self.frame.references.iter().map(|r| r.0));
        let y = self.frame.y.fit(ys, false).map_err(Error::invalid)?;
        let lost =
            |s: &Series| s.points.iter().filter(|p| !x.place(p.0).is_finite() || !y.place(p.1).is_finite()).count();
        let warnings: Vec<String> = self
            .series
            .iter()
            .filter(|s| lost(s) > 0)
            .map(|s| format!("{}: {} of {} points not drawn (no place on the axes)", s.name, lost(s), s.points.len()))
            .collect();
        let named = self.series.iter().enumerate().filter(|(_, s)| !s.name.is_empty());
        let legend: Vec<Entry> =
            named.map(|(i, s)| Entry { name: s.name.clone(), colour: s.colour, key: Key::Marker(i) }).collect();
        // Many points overlap: let them shine through each other.
        let alpha = if points().count() > 200 { 0.45 } else { 0.85 };
        let radius = if points().count() > 200 { 2.25 } else { 3.5 };
        Ok(self.frame.draw(&x, &y, legend, &warnings, |canvas, plot| {
            if self.diagonal {
                let low = x.low.max(y.low);
                let high = x.high.min(y.high);
                if low < high {
                    canvas.dashed(&[plot.at(low, low), plot.at(high, high)], 1.25, GREY, (5.0, 4.0));
                }
            }
            for (i, s) in self.series.iter().enumerate() {
                for (k, p) in s.points.iter().enumerate() {
                    let place = plot.at(p.0, p.1);
                    if !plot.holds(place) {
                        continue;
                    }
                    draw_marker(canvas, place, i, radius, s.colour, alpha);
                    if let Some(name) = s.names.get(k) {
                        let fits = place.0 + 6.0 + font::width(name, TICK * 0.9, false) < plot.bounds().2;
                        let (dx, align) = if fits { (6.0, Align::Left) } else { (-6.0, Align::Right) };
                        canvas.write((place.0 + dx, place.1 + TICK * 0.36), name, TICK * 0.9, align);
                    }
                }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_point_has_a_mark() {
        let svg = Scatter::new("x", "y").series("", [1, 2, 3], [1.0, 4.0, 9.0]).diagonal().to_svg().unwrap();
        assert_eq!(svg.lines().filter(|l| l.starts_with("<circle")).count(), 3);
        let nan = Scatter::new("x", "y").series("s", [1.0, f64::NAN], [1.0, 2.0]).to_svg().unwrap();
        assert!(nan.contains("s: 1 of 2 points not drawn"));
    }

    #[test]
    fn contradictions_are_refused() {
        let says = |s: Scatter| s.to_svg().unwrap_err().to_string();
        assert!(says(Scatter::new("x", "y").series("s", [1], [1, 2])).contains("1 x and 2 y"));
        assert!(says(Scatter::new("x", "y").series("s", [1], [1]).names(["a", "b"])).contains("2 for 1 points"));
        assert!(says(Scatter::new("x", "y")).contains("no series"));
    }
}
