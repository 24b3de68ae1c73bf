//! Histograms of one or more samples over common bins.

use super::axis::round_step;
use super::canvas::Canvas;
use super::colour::{Rgb, series_colour};
use super::frame::{Entry, Frame, Key, framed};
use super::input::Numbers;
use crate::error::{Error, Result};

/// How often values fall into bins of equal width.
///
/// ```
/// use denoscope::figure::Histogram;
/// let chart = Histogram::new("share of tokens on which a latent fires").bins(20).series("mid", [0.01, 0.02, 0.4]);
/// assert!(chart.to_svg()?.contains("count"));
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Histogram {
    frame: Frame,
    series: Vec<Series>,
    bins: usize,
    share: bool,
}

#[derive(Debug, Clone)]
struct Series {
    name: String,
    values: Vec<f64>,
    colour: Rgb,
}

framed!(Histogram);

impl Histogram {
    /// An empty histogram of a quantity named `x`.
    #[must_use]
    pub fn new(x: impl ToString) -> Self {
        Self { frame: Frame::new(x, "count"), series: Vec::new(), bins: 40, share: false }
    }

    /// Adds a sample. Values that are not finite are counted in a warning.
    #[must_use]
    pub fn series(mut self, name: impl ToString, values: impl Numbers) -> Self {
        let colour = series_colour(self.series.len());
        self.series.push(Series { name: name.to_string(), values: values.numbers(), colour });
        self
    }

    /// About how many bins to use (40 by default); their edges are round numbers.
    #[must_use]
    pub fn bins(mut self, count: usize) -> Self {
        self.bins = count.max(1);
        self
    }

    /// Shows the share of each sample instead of the count, so that samples of different size compare.
    #[must_use]
    pub fn share(mut self) -> Self {
        self.share = true;
        self.frame.y.label = "share".into();
        self
    }

    /// The range of the horizontal axis instead of one that fits the data; what lies outside is counted in a warning.
    #[must_use]
    pub fn x_range(mut self, low: f64, high: f64) -> Self {
        self.frame.x.range = Some((low, high));
        self
    }

    /// Bins over a logarithmic horizontal axis: values are binned by their logarithm.
    #[must_use]
    pub fn log_x(mut self) -> Self {
        self.frame.x.log = true;
        self
    }

    fn canvas(&self) -> Result<Canvas> {
        if let Some(problem) = &self.frame.problem {
            return Err(Error::invalid(problem));
        }
        if self.series.is_empty() {
            return Err(Error::invalid("histogram: no series, expected at least one"));
        }
        let x = self
            .frame
            .x
            .fit(self.series.iter().flat_map(|s| s.values.iter().copied()), false)
            .map_err(Error::invalid)?;
        let edges = self.edges(&x);
        let counts: Vec<Vec<f64>> = self.series.iter().map(|s| self.count(&s.values, &edges)).collect();
        let mut y_request = self.frame.y.clone();
        if y_request.log && y_request.range.is_none() {
            // From below a count of one, so that one still has a height.
            let most = counts.iter().flatten().copied().fold(0.0, f64::max);
            let samples = self.series.iter().map(|s| s.values.len()).max().unwrap_or(1);
            let one = if self.share { 1.0 / samples.max(1) as f64 } else { 1.0 };
            y_request.range = Some((one * 0.7, most.max(one) * 1.4));
        }
        let y = y_request
            .fit(counts.iter().flatten().copied().chain(self.frame.references.iter().map(|r| r.0)), true)
            .map_err(Error::invalid)?;
        let inside = |v: f64| v >= edges[0] && v <= edges[edges.len() - 1];
        let warnings: Vec<String> = self
            .series
            .iter()
            .map(|s| (s, s.values.iter().filter(|v| !inside(**v)).count()))
            .filter(|(_, lost)| *lost > 0)
            .map(|(s, lost)| {
                let name = if s.name.is_empty() { "sample" } else { &s.name };
                format!("{name}: {lost} of {} values outside the axis or not numbers", s.values.len())
            })
            .collect();
        let named = self.series.iter().filter(|s| !s.name.is_empty());
        let legend = named.map(|s| Entry { name: s.name.clone(), colour: s.colour, key: Key::Square }).collect();
        let alone = self.series.len() == 1;
        Ok(self.frame.draw(&x, &y, legend, &warnings, |canvas, plot| {
            for (s, counts) in self.series.iter().zip(&counts) {
                // One outline over all bins: bars side by side would show seams.
                let base = plot.bounds().3;
                let mut steps = vec![(plot.at_x(edges[0]), base)];
                for (i, count) in counts.iter().enumerate() {
                    let top = if *count > 0.0 { plot.floor_y(*count) } else { base };
                    steps.extend([(plot.at_x(edges[i]), top), (plot.at_x(edges[i + 1]), top)]);
                }
                steps.push((plot.at_x(edges[edges.len() - 1]), base));
                plot.area(canvas, &steps, s.colour, if alone { 0.55 } else { 0.28 });
                plot.path(canvas, &steps, 1.5, s.colour);
            }
        }))
    }

    /// Edges at round numbers that cover the axis; evenly spaced logarithms on a log axis.
    fn edges(&self, x: &super::axis::Axis) -> Vec<f64> {
        if x.log || self.frame.x.range.is_some() {
            let at = |i: usize| {
                let t = i as f64 / self.bins as f64;
                if x.log { x.low * (x.high / x.low).powf(t) } else { x.low + (x.high - x.low) * t }
            };
            return (0..=self.bins).map(at).collect();
        }
        let step = round_step(x.high - x.low, self.bins as f64);
        let values = || self.series.iter().flat_map(|s| s.values.iter().copied()).filter(|v| v.is_finite());
        let first = (values().fold(f64::MAX, f64::min) / step).floor() as i64;
        let last = (values().fold(f64::MIN, f64::max) / step + 1e-9).floor() as i64 + 1;
        (first..=last).map(|i| i as f64 * step).collect()
    }

    fn count(&self, values: &[f64], edges: &[f64]) -> Vec<f64> {
        let mut counts = vec![0.0; edges.len() - 1];
        for v in values.iter().filter(|v| **v >= edges[0] && **v <= edges[edges.len() - 1]) {
            // The last bin holds its upper edge too.
            let bin = edges.partition_point(|e| e <= v).saturating_sub(1).min(counts.len() - 1);
            counts[bin] += 1.0;
        }
        if self.share && !values.is_empty() {
            counts.iter_mut().for_each(|c| *c /= values.len() as f64);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_its_bin() {
        let h = Histogram::new("x").bins(4).series("", [0.0, 0.5, 1.0, 1.5, 2.0, 4.0]).x_range(0.0, 4.0);
        let x = h.frame.x.fit([], false).unwrap();
        let edges = h.edges(&x);
        assert_eq!(edges, [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(h.count(&h.series[0].values, &edges), [2.0, 2.0, 1.0, 1.0]);
        let share = h.clone().share();
        assert!((share.count(&h.series[0].values, &edges).iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn automatic_edges_are_round_and_hold_all() {
        let values: Vec<f64> = (0..100).map(|i| 0.013 * f64::from(i)).collect();
        let h = Histogram::new("x").bins(10).series("s", &values);
        let x = h.frame.x.fit(values.iter().copied(), false).unwrap();
        let edges = h.edges(&x);
        assert!((edges[1] - edges[0] - 0.2).abs() < 1e-9, "{edges:?}");
        assert_eq!(h.count(&values, &edges).iter().sum::<f64>(), 100.0);
    }

    #[test]
    fn what_is_lost_is_told() {
        let svg = Histogram::new("x").series("s", [1.0, 2.0, f64::NAN, 9.0]).x_range(0.0, 5.0).to_svg().unwrap();
        assert!(svg.contains("s: 2 of 4 values outside the axis or not numbers"), "{svg}");
        let empty = Histogram::new("x").series("s", [f64::NAN]).to_svg().unwrap_err().to_string();
        assert!(empty.contains("no finite number"), "{empty}");
        assert!(Histogram::new("x").to_svg().unwrap_err().to_string().contains("no series"));
    }
}
