//! From a map of numbers to coloured pixels, alone or over a picture.

use image::{Rgb as Pixel, RgbImage};

use super::colour::{Colours, Rgb, mix};

/// How a heat map is coloured.
#[derive(Debug, Clone)]
pub(crate) struct Style {
    pub colours: Colours,
    /// Share of the map's colour over a picture.
    pub alpha: f32,
    /// The picture keeps its colours, and the share of the map grows from none at the low end to `alpha` at the high end.
    /// Without it the picture turns grey, so that every colour is the map's.
    pub fade: bool,
    /// Bilinear between pixel centres, instead of the nearest pixel.
    pub smooth: bool,
    pub range: Option<(f64, f64)>,
}

impl Default for Style {
    fn default() -> Self {
        Self { colours: Colours::Viridis, alpha: 0.6, fade: false, smooth: false, range: None }
    }
}

impl Style {
    /// The range shown for `values`: as asked, else from zero (or the least value) to the greatest; symmetric about
    /// zero for signed colours.
    pub fn range_of<'a>(&self, values: impl IntoIterator<Item = &'a f32>) -> (f64, f64) {
        if let Some(range) = self.range {
            return range;
        }
        let (mut low, mut high) = (0.0f64, f64::NEG_INFINITY);
        for v in values.into_iter().map(|v| f64::from(*v)).filter(|v| v.is_finite()) {
            (low, high) = (low.min(v), high.max(v));
        }
        if self.colours == Colours::Signed {
            let far = high.max(-low);
            return if far > 0.0 { (-far, far) } else { (-1.0, 1.0) };
        }
        if high > low { (low, high) } else { (low, low + 1.0) }
    }

    /// The colours of a `[height, width]` map over `under` (at its resolution), or alone (each side at least 64 pixels).
    /// A NaN is hatched in grey.
    pub fn paint(
        &self,
        values: &[f32],
        height: usize,
        width: usize,
        under: Option<&RgbImage>,
        (low, high): (f64, f64),
    ) -> RgbImage {
        let (w, h) = under.map_or_else(
            || {
                let zoom = 64usize.div_ceil(width.min(height)) as u32;
                (width as u32 * zoom, height as u32 * zoom)
            },
            RgbImage::dimensions,
        );
        RgbImage::from_fn(w, h, |x, y| {
            let fx = (f64::from(x) + 0.5) * width as f64 / f64::from(w);
            let fy = (f64::from(y) + 0.5) * height as f64 / f64::from(h);
            let value = if self.smooth {
                bilinear(values, height, width, fx - 0.5, fy - 0.5)
            } else {
                values[(fy as usize).min(height - 1) * width + (fx as usize).min(width - 1)]
            };
            if value.is_nan() {
                return Pixel(if (x + y) / 2 % 2 == 0 { [205; 3] } else { [120; 3] });
            }
            let share = ((f64::from(value) - low) / (high - low)) as f32;
            let colour = self.colours.at(share);
            Pixel(match under {
                None => colour,
                Some(picture) => {
                    let below = picture.get_pixel(x, y).0;
                    if self.fade {
                        mix(below, colour, self.alpha * share.clamp(0.0, 1.0))
                    } else {
                        mix(grey(below), colour, self.alpha)
                    }
                }
            })
        })
    }
}

/// The luma of a pixel (ITU-R BT.709), as grey.
fn grey(c: Rgb) -> Rgb {
    let luma = 0.2126 * f32::from(c[0]) + 0.7152 * f32::from(c[1]) + 0.0722 * f32::from(c[2]);
    [luma.round() as u8; 3]
}

/// The value at `(x, y)` in pixel centres, held constant beyond the edge; NaN if a value that counts is NaN.
fn bilinear(values: &[f32], height: usize, width: usize, x: f64, y: f64) -> f32 {
    let (x, y) = (x.clamp(0.0, width as f64 - 1.0), y.clamp(0.0, height as f64 - 1.0));
    let (x0, y0) = (x as usize, y as usize);
    let (ax, ay) = (x - x0 as f64, y - y0 as f64);
    let mut sum = 0.0;
    for (dx, dy, weight) in
        [(0, 0, (1.0 - ax) * (1.0 - ay)), (1, 0, ax * (1.0 - ay)), (0, 1, (1.0 - ax) * ay), (1, 1, ax * ay)]
    {
        if weight > 0.0 {
            sum += weight * f64::from(values[(y0 + dy) * width + x0 + dx]);
        }
    }
    sum as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_value_over_a_known_pixel() {
        let picture = RgbImage::from_pixel(4, 4, Pixel([100, 50, 200]));
        let style = Style { alpha: 0.5, ..Style::default() };
        let out = style.paint(&[0.0, 1.0, 2.0, 4.0], 2, 2, Some(&picture), (0.0, 4.0));
        // The picture's luma is 71. Bottom right: viridis(1) = (253, 231, 37); half of each. Bottom left: viridis(0.5) =
        // (33, 144, 140).
        assert_eq!(out.get_pixel(3, 3).0, [162, 151, 54]);
        assert_eq!(out.get_pixel(0, 3).0, [52, 108, 106]);
        assert_eq!(out.get_pixel(1, 2), out.get_pixel(0, 3), "nearest");
    }

    #[test]
    fn fading_leaves_the_picture_where_nothing_is() {
        let picture = RgbImage::from_pixel(2, 1, Pixel([9, 8, 7]));
        let style = Style { fade: true, alpha: 1.0, ..Style::default() };
        let out = style.paint(&[0.0, 1.0], 1, 2, Some(&picture), (0.0, 1.0));
        assert_eq!(out.get_pixel(0, 0).0, [9, 8, 7]);
        assert_eq!(out.get_pixel(1, 0).0, [253, 231, 37]);
    }

    #[test]
    fn bilinear_is_exact_on_a_plane() {
        let plane: Vec<f32> = (0..12).map(|i| (i % 4) as f32 + 10.0 * (i / 4) as f32).collect();
        for (x, y) in [(0.5, 0.5), (2.25, 1.75), (3.0, 2.0)] {
            assert!((f64::from(bilinear(&plane, 3, 4, x, y)) - (x + 10.0 * y)).abs() < 1e-5);
        }
        assert_eq!(bilinear(&plane, 3, 4, -5.0, 9.0), 20.0, "held beyond the edge");
    }

    #[test]
    fn nan_is_hatched_and_spoils_only_itself() {
        let style = Style::default();
        let out = style.paint(&[f32::NAN, 1.0], 1, 2, None, (0.0, 1.0));
        assert_eq!(out.dimensions(), (128, 64));
        assert_eq!((out.get_pixel(0, 0).0, out.get_pixel(2, 0).0), ([205; 3], [120; 3]));
        assert_eq!(out.get_pixel(100, 5).0, [253, 231, 37]);
    }

    #[test]
    fn ranges_start_at_zero_or_are_symmetric() {
        let style = Style::default();
        assert_eq!(style.range_of(&[2.0, 5.0, f32::NAN]), (0.0, 5.0));
        assert_eq!(style.range_of(&[0.0, 0.0]), (0.0, 1.0));
        assert_eq!(style.range_of(&[-1.0, 5.0]), (-1.0, 5.0));
        let signed = Style { colours: Colours::Signed, ..Style::default() };
        assert_eq!(signed.range_of(&[-7.0, 5.0]), (-7.0, 7.0));
    }
}
