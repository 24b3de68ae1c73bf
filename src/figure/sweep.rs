//! What a β sweep and a token dose look like: a chart with intervals, and the numbers beside it.

use super::{Figure, Line, Page, Table};
use crate::measure::{End, Interval, SweepPoint, Swept, TokenDose};

/// A measurement of a point.
type Measured = fn(&SweepPoint) -> Interval;

impl Swept {
    /// Success of the edit and of its control, and the share of broken pictures, against β, with 95 % intervals.
    #[must_use]
    pub fn chart(&self) -> Line {
        let beta: Vec<f64> = self.points.iter().map(|p| p.beta).collect();
        let unit = self.strength.to_string().trim_start_matches('1').to_string();
        let mut line = Line::new(format!("β{unit}"), "share of pictures").log_x().y_range(0.0, 1.0).markers();
        let series: [(&str, Vec<Interval>); 3] = [
            ("edited", self.points.iter().map(|p| p.success).collect()),
            ("random direction", self.points.iter().map(|p| p.control).collect()),
            ("broken", self.points.iter().map(|p| p.broken).collect()),
        ];
        for (name, values) in series {
            let column = |f: fn(&Interval) -> f64| values.iter().map(f).collect::<Vec<f64>>();
            line = line.series(name, &beta, column(|i| i.value)).band(column(|i| i.low), column(|i| i.high));
        }
        if self.unedited.n > 0 {
            line = line.reference(self.unedited.value, "no edit");
        }
        line.note(self.summary())
    }

    /// One row a strength; the [frame](Table::frame) goes to polars.
    #[must_use]
    pub fn table(&self) -> Table {
        let column = |f: &dyn Fn(&SweepPoint) -> f64| self.points.iter().map(f).collect::<Vec<f64>>();
        let mut table = Table::new().number("β", column(&|p| p.beta));
        let intervals: [(&str, Measured); 5] = [
            ("edited", |p| p.success),
            ("control", |p| p.control),
            ("broken", |p| p.broken),
            ("distance", |p| p.distance),
            ("control's distance", |p| p.control_distance),
        ];
        for (name, of) in intervals {
            let values = column(&|p| of(p).value);
            table = table.interval(name, values, column(&|p| of(p).low), column(&|p| of(p).high));
        }
        let useful = |p: &SweepPoint| {
            let inside = self.useful.is_some_and(|(low, high)| (low..=high).contains(&p.beta));
            if inside { "useful" } else { "" }
        };
        table = table.text("range", self.points.iter().map(useful));
        table.caption("β sweep").note(self.summary())
    }

    /// The range and why the sweep ended, in words.
    #[must_use]
    pub fn summary(&self) -> String {
        let range = match self.useful {
            Some((low, high)) => format!("useful from β = {} to {}", super::rounded(low), super::rounded(high)),
            None => "no useful range".into(),
        };
        let end = match self.end {
            End::Broke => "beyond it pictures break",
            End::Saturated => "the effect saturates",
            End::Exhausted => "stopped after the doublings allowed",
        };
        let n = self.points.first().map_or(0, |p| p.success.n);
        format!("{range}; {end}; {n} pictures a strength, 95 % intervals")
    }

    /// The chart over the table.
    #[must_use]
    pub fn to_html(&self) -> String {
        Page::new("").figure(&self.chart()).figure(&self.table()).to_html()
    }

    /// Shows both in a notebook cell.
    pub fn evcxr_display(&self) {
        crate::html::display(&self.to_html());
    }
}

impl TokenDose {
    /// Distance to the unedited picture against the number of edited tokens, with 95 % intervals.
    #[must_use]
    pub fn chart(&self) -> Line {
        let tokens: Vec<usize> = self.points.iter().map(|p| p.0).collect();
        let mut line = Line::new("edited tokens", "mean absolute difference").markers();
        let edited = self.points.iter().map(|p| p.1).collect::<Vec<_>>();
        let control = self.points.iter().map(|p| p.2).collect::<Vec<_>>();
        for (name, values) in [("edited", edited), ("random direction", control)] {
            let column = |f: fn(&Interval) -> f64| values.iter().map(f).collect::<Vec<f64>>();
            line = line.series(name, &tokens, column(|i| i.value)).band(column(|i| i.low), column(|i| i.high));
        }
        line
    }

    /// Shows the chart in a notebook cell.
    pub fn evcxr_display(&self) {
        self.chart().evcxr_display();
    }
}

impl Figure for Swept {
    fn to_html(&self) -> String {
        Swept::to_html(self)
    }
    fn check(&self) -> crate::Result<()> {
        self.chart().check()?;
        self.table().check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intervene::Strength;
    use crate::measure::interval::wilson;

    #[test]
    fn chart_and_table_hold_every_strength() {
        let point = |beta: f64, right: usize| SweepPoint {
            beta,
            success: wilson(right, 10),
            control: wilson(1, 10),
            broken: wilson(0, 10),
            distance: wilson(2, 10),
            control_distance: wilson(3, 10),
            stopped: None,
        };
        let swept = Swept {
            strength: Strength::Relative(1.0),
            unedited: wilson(1, 10),
            points: vec![point(0.5, 1), point(1.0, 6), point(2.0, 9)],
            useful: Some((1.0, 2.0)),
            end: End::Saturated,
        };
        let frame = swept.table().frame().clone();
        assert_eq!((frame.height(), frame.width()), (3, 17));
        assert_eq!(frame.column("edited").unwrap().get(2).unwrap().try_extract::<f64>().unwrap(), 0.9);
        let svg = swept.chart().to_svg().unwrap();
        assert!(svg.contains("mean norm of the residual update") && svg.contains("no edit"), "{svg:.400}");
        assert!(swept.summary().starts_with("useful from β = 1 to 2; the effect saturates; 10 pictures"));
        swept.check().unwrap();
    }
}
