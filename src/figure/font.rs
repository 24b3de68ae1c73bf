//! The embedded font: plotters draws no text unless a font is registered, and a machine may have none.
//!
//! Open Sans Regular and Semibold lie under `data/fonts/` with their licence (Apache 2.0).

use std::sync::Once;

use plotters::style::{FontDesc, FontFamily, FontStyle, register_font};

/// The family under which the font is registered. An SVG carries this string as its `font-family`, so a viewer
/// without Open Sans falls back to a font of similar width.
pub(crate) const FAMILY: &str = "Open Sans, Segoe UI, Helvetica Neue, Helvetica, Arial, sans-serif";

const REGULAR: &[u8] = include_bytes!("../../data/fonts/OpenSans-Regular.ttf");
const SEMIBOLD: &[u8] = include_bytes!("../../data/fonts/OpenSans-Semibold.ttf");

/// plotters writes `size / 1.24` as the font size of an SVG (plotters-svg 0.3.7, `draw_text`).
pub(crate) const SVG_SIZE_PER_EM: f64 = 1.24;

/// plotters' rasteriser takes a size to mean ascent plus descent: (2189 + 600) / 2048 em in both faces.
pub(crate) const BITMAP_SIZE_PER_EM: f64 = 2789.0 / 2048.0;

/// Registers the font with plotters. Cheap after the first call.
pub(crate) fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The bytes are part of the crate, so that a failure is a defect which the tests of this file show.
        let _ = register_font(FAMILY, FontStyle::Normal, REGULAR);
        let _ = register_font(FAMILY, FontStyle::Bold, SEMIBOLD);
    });
}

/// plotters' description of the face at `size` (in plotters' sense; see the two constants above).
pub(crate) fn face(size: f64, bold: bool) -> FontDesc<'static> {
    let style = if bold { FontStyle::Bold } else { FontStyle::Normal };
    FontDesc::new(FontFamily::Name(FAMILY), size, style)
}

/// Width in pixels of `text` set at `em` pixels to the em.
pub(crate) fn width(text: &str, em: f64, bold: bool) -> f64 {
    register();
    // plotters rounds down to whole pixels: measure large, then scale.
    const ZOOM: f64 = 32.0;
    face(em * BITMAP_SIZE_PER_EM * ZOOM, bold)
        .layout_box(text)
        .map_or(0.55 * em * text.chars().count() as f64, |((x0, _), (x1, _))| f64::from(x1 - x0) / ZOOM)
}

/// Breaks `text` into lines no wider than `limit` pixels: at spaces, and a word that is too long after its dots (module
/// paths). What cannot be broken stands alone on its line.
pub(crate) fn wrap(text: &str, em: f64, bold: bool, limit: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            let parts = if width(word, em, bold) > limit { breakable(word) } else { vec![word] };
            for (i, part) in parts.into_iter().enumerate() {
                let space = if i == 0 && !line.is_empty() { " " } else { "" };
                let longer = format!("{line}{space}{part}");
                if !line.is_empty() && width(&longer, em, bold) > limit {
                    lines.push(std::mem::replace(&mut line, part.to_string()));
                } else {
                    line = longer;
                }
            }
        }
        lines.push(line);
    }
    lines
}

/// The pieces of a module path; a number stays with the name before it (`down_blocks.0.`, `attentions.0`).
fn breakable(word: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (i, _) in word.match_indices('.') {
        if word[i + 1..].starts_with(|c: char| !c.is_ascii_digit()) {
            parts.push(&word[start..=i]);
            start = i + 1;
        }
    }
    parts.push(&word[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_come_from_the_embedded_font() {
        // Open Sans Regular: advance of "m" is 1905 / 2048 em, of "i" 518 / 2048 em.
        assert!((width("m", 20.0, false) - 20.0 * 1905.0 / 2048.0).abs() < 0.1);
        assert!((width("iiii", 20.0, false) - 80.0 * 518.0 / 2048.0).abs() < 0.2);
        assert!(width("word", 20.0, true) > width("word", 20.0, false));
    }

    #[test]
    fn wrapping_keeps_every_word_and_the_limit() {
        let text = "a red house in a meadow under the moon";
        let lines = wrap(text, 12.0, false, 90.0);
        assert!(lines.len() > 2);
        assert!(lines.iter().all(|l| width(l, 12.0, false) <= 90.0), "{lines:?}");
        assert_eq!(lines.join(" "), text);
        let path = "down_blocks.0.attentions.0";
        assert_eq!(wrap("mid_block.attentions.0", 12.0, false, 110.0), ["mid_block.", "attentions.0"]);
        assert_eq!(wrap(path, 12.0, false, 100.0), ["down_blocks.0.", "attentions.0"]);
    }
}
