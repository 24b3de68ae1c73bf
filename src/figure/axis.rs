//! One axis: its range, its ticks at round numbers, and the way from a value to a place.

/// What is asked of an axis.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub label: String,
    pub log: bool,
    pub range: Option<(f64, f64)>,
}

/// An axis ready to draw.
#[derive(Debug, Clone)]
pub(crate) struct Axis {
    pub label: String,
    pub log: bool,
    pub low: f64,
    pub high: f64,
    /// Places with their text.
    pub ticks: Vec<(f64, String)>,
    /// Places with a short tick and no text (log axes).
    pub minor: Vec<f64>,
    /// Categories have no tick marks and no grid lines.
    pub categories: bool,
}

impl Request {
    /// The axis that holds `values` (those that are finite and, on a log axis, positive), with `zero` inside if asked;
    /// a problem in words if there is nothing to show or the range is impossible.
    pub fn fit(&self, values: impl IntoIterator<Item = f64>, zero: bool) -> Result<Axis, String> {
        let (low, high) = match self.range {
            Some((low, high)) => (low, high),
            None => {
                let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
                for v in values.into_iter().filter(|v| v.is_finite() && (!self.log || *v > 0.0)) {
                    (low, high) = (low.min(v), high.max(v));
                }
                if low > high {
                    let which = if self.log { "positive finite" } else { "finite" };
                    return Err(format!("axis {:?}: no {which} number to show", self.label));
                }
                self.pad(low, high, zero)
            }
        };
        if !(low < high && low.is_finite() && high.is_finite()) || (self.log && low <= 0.0) {
            let which = if self.log { ", both above zero on a log axis" } else { "" };
            return Err(format!("axis {:?}: range {low} to {high}, expected low below high{which}", self.label));
        }
        let (ticks, minor) = if self.log { log_ticks(low, high) } else { (linear_ticks(low, high), Vec::new()) };
        Ok(Axis { label: self.label.clone(), log: self.log, low, high, ticks, minor, categories: false })
    }

    /// A little air around the data; none below a zero that nothing goes under.
    fn pad(&self, low: f64, high: f64, zero: bool) -> (f64, f64) {
        if self.log {
            let margin = ((high / low).log10() * 0.04).max(0.05);
            return (low / 10f64.powf(margin), high * 10f64.powf(margin));
        }
        let (low, high) = if zero { (low.min(0.0), high.max(0.0)) } else { (low, high) };
        let mut margin = (high - low) * 0.04;
        if margin == 0.0 {
            margin = if high == 0.0 { 0.5 } else { high.abs() * 0.1 };
        }
        let bottom = if low >= 0.0 && low - margin < 0.0 { 0.0 } else { low - margin };
        (bottom, if zero && high == 0.0 { 0.0 } else { high + margin })
    }
}

impl Axis {
    /// An axis of named categories at 0, 1, 2…
    pub fn of_categories(label: &str, names: &[String]) -> Self {
        Self {
            label: label.into(),
            log: false,
            low: -0.5,
            high: names.len() as f64 - 0.5,
            ticks: names.iter().enumerate().map(|(i, n)| (i as f64, n.clone())).collect(),
            minor: Vec::new(),
            categories: true,
        }
    }

    /// Where `value` lies: 0 at the low end, 1 at the high end. NaN (or no logarithm) gives NaN.
    pub fn place(&self, value: f64) -> f64 {
        if self.log {
            if value <= 0.0 {
                return f64::NAN;
            }
            (value.log10() - self.low.log10()) / (self.high.log10() - self.low.log10())
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }
}

/// The round step (1, 2 or 5 times a power of ten) that gives about `count` ticks on `span`.
pub(crate) fn round_step(span: f64, count: f64) -> f64 {
    let raw = span / count;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|m| m * power >= raw * 0.999).unwrap_or(10.0);
    step * power
}

fn linear_ticks(low: f64, high: f64) -> Vec<(f64, String)> {
    let step = round_step(high - low, 6.0);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| (i as f64 * step, number(i as f64 * step, step))).collect()
}

fn log_ticks(low: f64, high: f64) -> (Vec<(f64, String)>, Vec<f64>) {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let inside = |v: f64| v >= low * (1.0 - 1e-9) && v <= high * (1.0 + 1e-9);
    let decades: Vec<i32> = (first..=last).filter(|e| inside(10f64.powi(*e))).collect();
    // Fewer than two whole decades: 1, 2 and 5 get numbers as well.
    let named: &[f64] = if decades.len() < 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let every = (decades.len() / 7 + 1) as i32;
    let mut ticks = Vec::new();
    let mut minor = Vec::new();
    for e in first..=last {
        for m in 1..10 {
            let v = f64::from(m) * 10f64.powi(e);
            if !inside(v) {
                continue;
            }
            if named.contains(&f64::from(m)) && (m > 1 || e % every == 0) {
                ticks.push((v, power(f64::from(m), e)));
            } else {
                minor.push(v);
            }
        }
    }
    (ticks, minor)
}

/// `m` times ten to the `e`, short.
fn power(m: f64, e: i32) -> String {
    if (-4..=4).contains(&e) {
        return number(m * 10f64.powi(e), 10f64.powi(e));
    }
    let digits: String = e.abs().to_string().chars().map(superscript).collect();
    if e > 0 && m == 1.0 {
        format!("10{digits}")
    } else if e > 0 {
        format!("{m}×10{digits}")
    } else {
        // The font has no superscript minus.
        format!("{m}e−{}", e.abs())
    }
}

fn superscript(digit: char) -> char {
    match digit {
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        d => d.to_digit(10).and_then(|d| char::from_u32(0x2070 + d)).unwrap_or(d),
    }
}

/// `value` with as many decimals as `step` needs, a real minus sign, and powers of ten for the very large and small.
pub(crate) fn number(value: f64, step: f64) -> String {
    if !value.is_finite() {
        return short(value);
    }
    let value = if value.abs() < step * 1e-6 { 0.0 } else { value };
    let text = if value != 0.0 && (value.abs() >= 1e6 || step < 1e-5) {
        let e = value.abs().log10().floor() as i32;
        let mantissa = value / 10f64.powi(e);
        let decimals = (f64::from(e) - step.log10().floor()).clamp(0.0, 6.0) as usize;
        format!("{mantissa:.decimals$}e{e}")
    } else {
        let decimals = (-(step * 1.0001).log10().floor()).clamp(0.0, 8.0) as usize;
        format!("{value:.decimals$}")
    };
    text.replace('-', "−")
}

/// `value` to three significant digits, as on a colour bar.
pub(crate) fn short(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "∞".into() } else { "−∞".into() };
    }
    if value == 0.0 {
        return "0".into();
    }
    let e = value.abs().log10().floor() as i32;
    if !(-4..6).contains(&e) {
        return format!("{value:.2e}").replace('-', "−");
    }
    let text = format!("{value:.*}", (2 - e).max(0) as usize);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    text.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64, log: bool) -> Vec<String> {
        let request = Request { label: "x".into(), log, range: Some((low, high)) };
        request.fit([], false).unwrap().ticks.into_iter().map(|t| t.1).collect()
    }

    #[test]
    fn ticks_stand_at_round_numbers() {
        assert_eq!(labels(0.0, 1.0, false), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(-0.05, 0.05, false), ["−0.04", "−0.02", "0.00", "0.02", "0.04"]);
        assert_eq!(labels(0.0, 1234.0, false), ["0", "500", "1000"]);
        assert_eq!(labels(1.0, 10_000.0, true), ["1", "10", "100", "1000", "10000"]);
        assert_eq!(labels(2.0, 30.0, true), ["2", "5", "10", "20"]);
        assert_eq!(labels(1e-6, 1e-2, true), ["1e−6", "1e−5", "0.0001", "0.001", "0.01"]);
    }

    #[test]
    fn a_fit_holds_the_data_and_stops_at_zero() {
        let axis = Request::default().fit([0.01, 0.9, f64::NAN], false).unwrap();
        assert_eq!(axis.low, 0.0);
        assert!(axis.high > 0.9 && axis.high < 1.0);
        let same = Request::default().fit([3.0, 3.0], false).unwrap();
        assert!(same.low < 3.0 && same.high > 3.0);
    }

    #[test]
    fn impossible_axes_are_refused_in_words() {
        let log = Request { label: "density".into(), log: true, range: None };
        assert!(log.fit([0.0, -1.0], false).unwrap_err().contains("\"density\": no positive finite"));
        let range = Request { range: Some((1.0, 1.0)), ..Request::default() };
        assert!(range.fit([2.0], false).unwrap_err().contains("low below high"));
    }

    #[test]
    fn a_log_axis_places_decades_evenly() {
        let axis = Request { label: String::new(), log: true, range: Some((1.0, 1000.0)) }.fit([], false).unwrap();
        assert!((axis.place(10.0) - 1.0 / 3.0).abs() < 1e-12);
        assert!(axis.place(0.0).is_nan());
    }

    #[test]
    fn short_numbers() {
        assert_eq!(short(0.123_456), "0.123");
        assert_eq!(short(-12.0), "−12");
        assert_eq!(short(1234.5), "1234");
        assert_eq!(short(1.0), "1");
        assert_eq!(short(f64::NAN), "NaN");
        assert_eq!(short(1.2e-7), "1.20e−7");
    }
}
