//! The cells of a table as HTML. Styles are inline, for Jupyter drops style sheets from a notebook that is not trusted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::RgbImage;

use super::axis::{number, short};
use super::render::png;
use crate::error::Result;
use crate::html::escape;

/// Height of a small picture in CSS pixels.
const PICTURE: u32 = 64;

/// One cell.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    html: String,
    right: bool,
}

impl Cell {
    pub fn text(text: impl AsRef<str>) -> Self {
        Self { html: escape(text.as_ref()), right: false }
    }

    pub fn missing() -> Self {
        Self { html: "–".into(), right: false }
    }

    /// A value before its interval.
    pub fn interval(value: &Self, low: &Self, high: &Self) -> Self {
        let grey = "<span style=\"color:#6e6e6e\">";
        Self { html: format!("{} {grey}[{}, {}]</span>", value.html, low.html, high.html), right: true }
    }

    /// Small pictures side by side.
    pub fn pictures(pictures: &[RgbImage]) -> Result<Self> {
        let mut html = String::new();
        for picture in pictures {
            let pixelated = if picture.height() <= PICTURE { ";image-rendering:pixelated" } else { "" };
            html.push_str(&format!(
                "<img height=\"{PICTURE}\" alt=\"\" style=\"display:inline-block;vertical-align:middle;margin:1px{pixelated}\" \
                 src=\"data:image/png;base64,{}\">",
                BASE64.encode(png(picture)?)
            ));
        }
        Ok(Self { html, right: false })
    }
}

/// Numbers of one column with as many decimals as its greatest value needs for three digits (none for whole numbers);
/// what would vanish by that is written with digits of its own. NaN stands out, absence is a dash.
pub(crate) fn number_cells(values: &[Option<f64>], decimals: Option<usize>) -> Vec<Cell> {
    let finite = || values.iter().flatten().filter(|v| v.is_finite());
    let whole = finite().all(|v| v.fract() == 0.0);
    let most = finite().fold(0.0f64, |m, v| m.max(v.abs()));
    // Shares up to 1 get the three decimals that shares below 1 get.
    let size = if most <= 1.0 { most * 0.999 } else { most };
    let sensible = if whole || most == 0.0 { 0 } else { (2.0 - size.log10().floor()).clamp(0.0, 6.0) as usize };
    let count = decimals.unwrap_or(sensible);
    let step = 10f64.powi(-(count as i32));
    let cell = |value: &Option<f64>| match value {
        None => Cell { right: true, ..Cell::missing() },
        Some(v) if v.is_nan() => Cell { html: "<span style=\"color:#d55e00\">NaN</span>".into(), right: true },
        // A whole number is never in powers of ten: it counts something.
        Some(v) if whole && v.is_finite() && v.abs() < 1e15 => {
            Cell { html: format!("{v:.count$}").replace('-', "−"), right: true }
        }
        Some(v) if decimals.is_none() && *v != 0.0 && v.abs() < step / 2.0 => Cell { html: short(*v), right: true },
        Some(v) => Cell { html: number(*v, step), right: true },
    };
    values.iter().map(cell).collect()
}

/// The table. All columns have `rows` cells, of which the first `limit` are shown.
pub(crate) fn html(caption: &str, note: &str, columns: &[(&str, Vec<Cell>)], rows: usize, limit: usize) -> String {
    const LINE: &str = "1px solid #222";
    let mut out = String::from(
        "<div style=\"background:#fff;color:#222;display:inline-block;max-width:100%;overflow-x:auto;\
         padding:8px 12px;font:13px 'Open Sans','Segoe UI',Helvetica,Arial,sans-serif\">",
    );
    if !caption.is_empty() {
        out.push_str(&format!("<div style=\"font-weight:600;margin:0 0 6px 0\">{}</div>", escape(caption)));
    }
    out.push_str(&format!(
        "<table style=\"border-collapse:collapse;margin:0;background:#fff;color:#222;border-top:{LINE};\
         border-bottom:{LINE}\">\n<tr style=\"background:#fff\">"
    ));
    for (name, cells) in columns {
        let right = !cells.is_empty() && cells.iter().all(|c| c.right);
        out.push_str(&format!(
            "<th style=\"text-align:{};padding:4px 12px 4px 6px;border-bottom:{LINE};font-weight:600;color:#222\">{}</th>",
            if right { "right" } else { "left" },
            escape(name)
        ));
    }
    out.push_str("</tr>\n");
    for row in 0..rows.min(limit) {
        out.push_str("<tr style=\"background:#fff\">");
        for (_, cells) in columns {
            let cell = &cells[row];
            out.push_str(&format!(
                "<td style=\"text-align:{};padding:3px 12px 3px 6px;color:#222;\
                 font-variant-numeric:tabular-nums\">{}</td>",
                if cell.right { "right" } else { "left" },
                cell.html
            ));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>");
    let more = if rows > limit { format!("{} more rows", rows - limit) } else { String::new() };
    for line in [more.as_str(), note].into_iter().filter(|l| !l.is_empty()) {
        out.push_str(&format!("<div style=\"color:#6e6e6e;font-size:12px;margin-top:5px\">{}</div>", escape(line)));
    }
    out.push_str("</div>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(values: &[f64]) -> Vec<String> {
        number_cells(&values.iter().map(|v| Some(*v)).collect::<Vec<_>>(), None).into_iter().map(|c| c.html).collect()
    }

    #[test]
    fn rounding_is_sensible() {
        assert_eq!(shown(&[0.123_456, 1.0]), ["0.123", "1.000"]);
        assert_eq!(shown(&[12.345, 3.0]), ["12.3", "3.0"]);
        assert_eq!(shown(&[4096.0, 5_000_000.0]), ["4096", "5000000"]);
        assert_eq!(shown(&[0.5, 0.000_02]), ["0.500", "2.00e−5"]);
        assert_eq!(shown(&[0.5, 0.0]), ["0.500", "0.000"]);
    }
}
