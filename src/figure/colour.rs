//! Colours that survive a printer and a colour-blind reader.

/// Red, green, blue in sRGB, 0 to 255.
pub type Rgb = [u8; 3];

pub(crate) const INK: Rgb = [34, 34, 34];
pub(crate) const GREY: Rgb = [110, 110, 110];
pub(crate) const FAINT: Rgb = [226, 226, 226];
pub(crate) const WHITE: Rgb = [255, 255, 255];
/// Warnings within a figure (missing numbers): Okabe–Ito vermilion.
pub(crate) const WARN: Rgb = [213, 94, 0];

/// The palette of Okabe and Ito (2008), "Color universal design", in an order that keeps neighbours apart in
/// lightness too; yellow is left out as it vanishes on white.
pub const PALETTE: [Rgb; 7] =
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [0, 0, 0]];

/// The colour of series `i`; it repeats after [`PALETTE`]'s length.
#[must_use]
pub fn series_colour(i: usize) -> Rgb {
    PALETTE[i % PALETTE.len()]
}

/// A perceptually uniform colour map from 0..=1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Colours {
    /// Dark blue through green to yellow (van der Walt and Smith, 2015).
    #[default]
    Viridis,
    /// Black through purple to pale yellow (van der Walt and Smith, 2015).
    Magma,
    /// White to black.
    Grey,
    /// Blue through white to red for signed values (both ends of Okabe–Ito); the middle of the range is white.
    Signed,
}

impl Colours {
    /// The colour of `value`, clamped into 0..=1. `value` must be a number; who draws shows NaN in its own way.
    #[must_use]
    pub fn at(self, value: f32) -> Rgb {
        match self {
            Self::Viridis => interpolate(&VIRIDIS, value),
            Self::Magma => interpolate(&MAGMA, value),
            Self::Grey => interpolate(&[[255, 255, 255], [0, 0, 0]], value),
            Self::Signed => interpolate(&[[0, 90, 160], [255, 255, 255], [190, 60, 0]], value),
        }
    }
}

fn interpolate(table: &[Rgb], value: f32) -> Rgb {
    let last = table.len() - 1;
    let x = value.clamp(0.0, 1.0) * last as f32;
    let i = (x as usize).min(last - 1);
    mix(table[i], table[i + 1], x - i as f32)
}

/// `a` at `share` 0, `b` at `share` 1, rounded.
pub(crate) fn mix(a: Rgb, b: Rgb, share: f32) -> Rgb {
    std::array::from_fn(|c| {
        (f32::from(a[c]) + (f32::from(b[c]) - f32::from(a[c])) * share).round().clamp(0.0, 255.0) as u8
    })
}

/// matplotlib's table at 33 even places; linear interpolation stays within 2 of 255 of all 256 entries.
#[rustfmt::skip]
const VIRIDIS: [Rgb; 33] = [
    [68, 1, 84], [71, 13, 96], [72, 24, 106], [72, 35, 116], [71, 45, 123], [69, 55, 129], [66, 64, 134],
    [62, 73, 137], [59, 82, 139], [55, 91, 141], [51, 99, 141], [47, 107, 142], [44, 114, 142], [41, 122, 142],
    [38, 130, 142], [35, 137, 142], [33, 144, 140], [31, 151, 139], [31, 159, 136], [33, 166, 133],
    [39, 173, 129], [49, 181, 123], [62, 188, 116], [77, 194, 108], [92, 200, 99], [110, 206, 88],
    [130, 211, 77], [149, 216, 64], [170, 220, 50], [192, 223, 37], [213, 226, 26], [234, 229, 26], [253, 231, 37],
];

/// As [`VIRIDIS`]; within 3 of 255.
#[rustfmt::skip]
const MAGMA: [Rgb; 33] = [
    [0, 0, 4], [3, 3, 18], [10, 8, 34], [19, 13, 52], [29, 17, 71], [41, 17, 90], [54, 16, 107], [68, 15, 118],
    [80, 18, 124], [93, 23, 127], [105, 28, 129], [118, 33, 129], [130, 38, 129], [143, 42, 129],
    [156, 46, 127], [169, 51, 125], [182, 54, 122], [195, 59, 117], [207, 64, 112], [219, 71, 106],
    [230, 81, 100], [238, 92, 94], [244, 106, 92], [249, 120, 93], [251, 136, 97], [253, 150, 104],
    [254, 165, 113], [254, 180, 123], [254, 194, 135], [254, 209, 148], [253, 224, 161], [252, 238, 176], [252, 253, 191],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_hit_the_published_ends_and_middle() {
        // matplotlib: viridis(0), viridis(127.5 of 255), viridis(255); magma likewise.
        assert_eq!(Colours::Viridis.at(0.0), [68, 1, 84]);
        assert_eq!(Colours::Viridis.at(0.5), [33, 144, 140]);
        assert_eq!(Colours::Viridis.at(1.0), [253, 231, 37]);
        assert_eq!(Colours::Magma.at(-3.0), [0, 0, 4]);
        assert_eq!(Colours::Magma.at(7.0), [252, 253, 191]);
    }

    #[test]
    fn sequential_maps_grow_lighter_all_the_way() {
        for map in [Colours::Viridis, Colours::Magma] {
            let light = |c: Rgb| 0.2126 * f32::from(c[0]) + 0.7152 * f32::from(c[1]) + 0.0722 * f32::from(c[2]);
            let steps: Vec<f32> = (0..=64).map(|i| light(map.at(i as f32 / 64.0))).collect();
            assert!(steps.windows(2).all(|w| w[1] > w[0] - 0.5), "{map:?}");
        }
    }
}
