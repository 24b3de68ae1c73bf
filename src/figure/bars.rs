//! Grouped bars with intervals and a chance level.

use super::axis::{Axis, short};
use super::canvas::{Align, Canvas};
use super::colour::{Rgb, series_colour};
use super::frame::{Entry, Frame, Key, TICK, framed};
use super::input::{Numbers, texts};
use crate::error::{Error, Result};
use crate::measure::Interval;

/// Share of a group's slot that its bars fill.
const FILL: f64 = 0.78;

/// A bar chart: groups along the axis, in each one bar a series.
///
/// ```
/// use denoscope::figure::Bars;
/// let chart = Bars::new("block", "IoU", ["down", "mid", "up"])
///     .series("t = 1.0", [0.20, 0.26, 0.31])
///     .whiskers([0.18, 0.24, 0.29], [0.22, 0.28, 0.33])
///     .series("t = 0.0", [0.33, 0.35, 0.52])
///     .chance(0.09);
/// assert!(chart.to_svg()?.contains("t = 0.0"));
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Bars {
    frame: Frame,
    groups: Vec<String>,
    series: Vec<Series>,
    values: bool,
}

#[derive(Debug, Clone)]
struct Series {
    name: String,
    heights: Vec<f64>,
    interval: Vec<(f64, f64)>,
    colour: Rgb,
}

framed!(Bars);

impl Bars {
    /// An empty chart with the names of its axes and of its groups.
    #[must_use]
    pub fn new(x: impl ToString, y: impl ToString, groups: impl IntoIterator<Item = impl ToString>) -> Self {
        Self { frame: Frame::new(x, y), groups: texts(groups), series: Vec::new(), values: false }
    }

    /// Adds a bar to each group. A NaN leaves its place empty but for the word.
    #[must_use]
    pub fn series(mut self, name: impl ToString, heights: impl Numbers) -> Self {
        let (name, heights) = (name.to_string(), heights.numbers());
        if heights.len() != self.groups.len() {
            let problem = format!("bars {name:?}: {} values, expected {}", heights.len(), self.groups.len());
            self.frame.object(problem);
        }
        let colour = series_colour(self.series.len());
        self.series.push(Series { name, heights, interval: Vec::new(), colour });
        self
    }

    /// Draws intervals from `low` to `high` on the series added last, one pair to a group.
    #[must_use]
    pub fn whiskers(mut self, low: impl Numbers, high: impl Numbers) -> Self {
        let (low, high) = (low.numbers(), high.numbers());
        let expected = self.groups.len();
        match self.series.last_mut() {
            None => self.frame.object("whiskers: no series before them".into()),
            Some(s) if low.len() != expected || high.len() != expected => {
                let found = format!("{} low and {} high", low.len(), high.len());
                let problem = format!("whiskers of {:?}: {found}, expected {expected} of each", s.name);
                self.frame.object(problem);
            }
            Some(s) => s.interval = low.into_iter().zip(high).collect(),
        }
        self
    }

    /// Adds a bar with its interval to each group.
    #[must_use]
    pub fn measured<'a>(self, name: impl ToString, values: impl IntoIterator<Item = &'a Interval>) -> Self {
        let [value, low, high] = Interval::columns(values);
        self.series(name, value).whiskers(low, high)
    }

    /// Writes each bar's value above it.
    #[must_use]
    pub fn values(mut self) -> Self {
        self.values = true;
        self
    }

    fn canvas(&self) -> Result<Canvas> {
        if let Some(problem) = &self.frame.problem {
            return Err(Error::invalid(problem));
        }
        if self.groups.is_empty() || self.series.is_empty() {
            let (groups, series) = (self.groups.len(), self.series.len());
            return Err(Error::invalid(format!(
                "bars: {groups} groups and {series} series, expected at least one of each"
            )));
        }
        let x = Axis::of_categories(&self.frame.x.label, &self.groups);
        let ends = self
            .series
            .iter()
            .flat_map(|s| s.heights.iter().copied().chain(s.interval.iter().flat_map(|i| [i.0, i.1])));
        let ends = ends.chain(self.frame.references.iter().map(|r| r.0));
        // Bars stand on zero: a cut axis would belie their lengths.
        let mut y = self.frame.y.fit(ends, true).map_err(Error::invalid)?;
        if self.values && self.frame.y.range.is_none() && !y.log {
            y.high += (y.high - y.low) * 0.05;
        }
        let warnings: Vec<String> = self
            .series
            .iter()
            .map(|s| (s, s.heights.iter().filter(|v| !y.place(**v).is_finite()).count()))
            .filter(|(_, lost)| *lost > 0)
            .map(|(s, lost)| {
                let why = if y.log { "not a number or not above zero" } else { "not a number" };
                format!("{}: {lost} of {} bars not drawn ({why})", s.name, s.heights.len())
            })
            .collect();
        let named = self.series.iter().filter(|s| !s.name.is_empty());
        let legend = named.map(|s| Entry { name: s.name.clone(), colour: s.colour, key: Key::Square }).collect();
        let breadth = FILL / self.series.len() as f64;
        Ok(self.frame.draw(&x, &y, legend, &warnings, |canvas, plot| {
            let zero = plot.floor_y(0.0);
            for (k, s) in self.series.iter().enumerate() {
                for (g, height) in s.heights.iter().enumerate() {
                    let left = g as f64 - FILL / 2.0 + breadth * k as f64;
                    let (x0, x1) = (plot.at_x(left + breadth * 0.04), plot.at_x(left + breadth * 0.96));
                    let middle = (x0 + x1) / 2.0;
                    if !plot.y.place(*height).is_finite() {
                        canvas.write((middle, zero - 4.0), "NaN", TICK * 0.85, Align::Centre);
                        continue;
                    }
                    let top = plot.at_y(*height);
                    plot.area(canvas, &[(x0, zero), (x0, top), (x1, top), (x1, zero)], s.colour, 1.0);
                    let mut tip = top.min(zero);
                    if let Some((low, high)) = s.interval.get(g) {
                        plot.whisker(canvas, middle, *low, *high, ((x1 - x0) * 0.22).min(5.0));
                        tip = tip.min(plot.floor_y(*high));
                    }
                    if self.values {
                        canvas.write((middle, tip - 4.0), short(*height), TICK * 0.85, Align::Centre);
                    }
                }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Bars {
        Bars::new("block", "IoU", ["down", "mid"]).series("early", [0.2, 0.4])
    }

    #[test]
    fn bars_stand_on_zero_with_heights_in_proportion() {
        let svg = chart().size(200, 100).y_range(0.0, 1.0).to_svg().unwrap();
        let tall: Vec<f64> = svg
            .lines()
            .filter(|l| l.starts_with("<polygon") && l.contains("#0072B2"))
            .map(|l| {
                let points = l.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
                let ys: Vec<f64> =
                    points.split_whitespace().map(|p| p.split(',').nth(1).unwrap().parse().unwrap()).collect();
                ys.iter().copied().fold(f64::MIN, f64::max) - ys.iter().copied().fold(f64::MAX, f64::min)
            })
            .collect();
        // Four painted pixels to a CSS pixel, panel 100 high; the third is the key of the legend.
        assert_eq!(tall[..2], [80.0, 160.0]);
    }

    #[test]
    fn measured_bars_have_their_intervals() {
        let interval = |value, low, high| Interval { value, low, high, n: 10 };
        let (a, b) = (interval(0.2, 0.1, 0.3), interval(0.4, 0.3, 0.5));
        let bars = || Bars::new("block", "share", ["down", "mid"]);
        let plain = bars().series("edited", [0.2, 0.4]).whiskers([0.1, 0.3], [0.3, 0.5]);
        assert_eq!(bars().measured("edited", &[a, b]).to_svg().unwrap(), plain.to_svg().unwrap());
    }

    #[test]
    fn whiskers_values_and_chance_are_drawn() {
        let svg = chart().whiskers([0.1, 0.3], [0.3, 0.5]).values().chance(0.05).to_svg().unwrap();
        for text in ["down", "mid", "early", "0.2", "0.4", "chance (0.05)"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text}");
        }
    }

    #[test]
    fn nan_is_written_in_its_place() {
        let svg = chart().series("late", [f64::NAN, 0.1]).to_svg().unwrap();
        assert!(svg.contains("\nNaN\n") && svg.contains("late: 1 of 2 bars not drawn"));
    }

    #[test]
    fn contradictions_and_emptiness_are_refused() {
        let says = |b: Bars| b.to_svg().unwrap_err().to_string();
        assert!(says(Bars::new("x", "y", ["a"])).contains("1 groups and 0 series"));
        assert!(says(chart().series("late", [0.1])).contains("\"late\": 1 values, expected 2"));
        assert!(says(chart().whiskers([0.1], [0.2])).contains("expected 2 of each"));
    }
}
