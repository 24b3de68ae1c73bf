//! Where a spatial edit acts: a quadrant, a box or a mask, brought to the grid of a module.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A quarter of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quadrant {
    /// Upper left.
    TopLeft,
    /// Upper right.
    TopRight,
    /// Lower left.
    BottomLeft,
    /// Lower right.
    BottomRight,
}

impl Quadrant {
    /// All four, row by row.
    pub const ALL: [Quadrant; 4] = [Quadrant::TopLeft, Quadrant::TopRight, Quadrant::BottomLeft, Quadrant::BottomRight];

    /// `top left`, `top right`, `bottom left` or `bottom right`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Quadrant::TopLeft => "top left",
            Quadrant::TopRight => "top right",
            Quadrant::BottomLeft => "bottom left",
            Quadrant::BottomRight => "bottom right",
        }
    }

    /// Its left and upper edge, in widths and heights of the picture.
    #[must_use]
    pub fn corner(self) -> (f64, f64) {
        match self {
            Quadrant::TopLeft => (0.0, 0.0),
            Quadrant::TopRight => (0.5, 0.0),
            Quadrant::BottomLeft => (0.0, 0.5),
            Quadrant::BottomRight => (0.5, 0.5),
        }
    }
}

impl fmt::Display for Quadrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A part of a picture, independent of resolution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Region {
    /// The whole picture.
    Everywhere,
    /// A quarter.
    Quadrant(Quadrant),
    /// A rectangle; coordinates in [0, 1], x to the right, y downwards.
    Box {
        /// Left edge.
        left: f64,
        /// Upper edge.
        top: f64,
        /// Right edge.
        right: f64,
        /// Lower edge.
        bottom: f64,
    },
    /// Any shape, at any resolution.
    Mask {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
        /// `width · height` pixels, row by row.
        bits: Vec<bool>,
    },
}

impl From<Quadrant> for Region {
    fn from(quadrant: Quadrant) -> Self {
        Region::Quadrant(quadrant)
    }
}

impl From<&crate::scene::Mask> for Region {
    fn from(mask: &crate::scene::Mask) -> Self {
        Region::Mask { width: mask.width(), height: mask.height(), bits: mask.iter().collect() }
    }
}

impl Region {
    /// The cells of a grid of `(height, width)` that belong to the region: those with at least half of their
    /// area inside it.
    ///
    /// # Errors
    /// When the region leaves the picture, is empty, or holds no cell of this grid.
    pub fn on_grid(&self, grid: (usize, usize)) -> Result<Vec<bool>> {
        let (height, width) = grid;
        let cells = match self {
            Region::Everywhere => vec![true; height * width],
            Region::Quadrant(quadrant) => {
                let (left, top) = quadrant.corner();
                rectangle(grid, [left, top, left + 0.5, top + 0.5])
            }
            &Region::Box { left, top, right, bottom } => {
                let inside = [left, top, right, bottom].iter().all(|v| (0.0..=1.0).contains(v));
                if !inside || left >= right || top >= bottom {
                    return Err(Error::invalid(format!(
                        "region: box with left {left}, top {top}, right {right}, bottom {bottom}; \
                         expected 0 ≤ left < right ≤ 1 and 0 ≤ top < bottom ≤ 1"
                    )));
                }
                rectangle(grid, [left, top, right, bottom])
            }
            Region::Mask { width: w, height: h, bits } => {
                if bits.len() != w * h {
                    return Err(Error::Shape {
                        what: "region's mask".into(),
                        found: vec![bits.len()],
                        expected: vec![*h, *w],
                    });
                }
                coverage(bits, (*h, *w), grid).iter().map(|&c| c >= 0.5 - 1e-6).collect()
            }
        };
        if !cells.contains(&true) {
            return Err(Error::invalid(format!("region {self} holds no cell of the {height}×{width} grid")));
        }
        Ok(cells)
    }
}

impl std::str::FromStr for Region {
    type Err = Error;
    /// `everywhere`, a quadrant (`top-left`), a box (`LEFT,TOP,RIGHT,BOTTOM`), or a picture file whose bright pixels are
    /// inside.
    fn from_str(s: &str) -> Result<Self> {
        if s == "everywhere" {
            return Ok(Region::Everywhere);
        }
        if let Some(quadrant) = Quadrant::ALL.into_iter().find(|q| q.name() == s.replace('-', " ")) {
            return Ok(quadrant.into());
        }
        let numbers: Vec<f64> = s.split(',').filter_map(|n| n.trim().parse().ok()).collect();
        if let ([left, top, right, bottom], 4) = (&numbers[..], s.split(',').count()) {
            let region = Region::Box { left: *left, top: *top, right: *right, bottom: *bottom };
            region.on_grid((64, 64))?;
            return Ok(region);
        }
        let path = std::path::Path::new(s);
        if path.is_file() {
            let picture = image::open(path).map_err(|e| Error::format(path, e))?.to_luma8();
            let (width, height) = (picture.width() as usize, picture.height() as usize);
            return Ok(Region::Mask { width, height, bits: picture.into_raw().iter().map(|v| *v > 127).collect() });
        }
        let known = ["everywhere", "top-left", "top-right", "bottom-left", "bottom-right"];
        Err(Error::unknown("region, box LEFT,TOP,RIGHT,BOTTOM or mask file", s, known))
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Region::Everywhere => f.write_str("everywhere"),
            Region::Quadrant(q) => q.fmt(f),
            Region::Box { left, top, right, bottom } => write!(f, "box ({left}, {top}) to ({right}, {bottom})"),
            Region::Mask { width, height, bits } => {
                write!(f, "mask of {} in {height}×{width} pixels", bits.iter().filter(|b| **b).count())
            }
        }
    }
}

/// Cells with at least half of their area in the box `[left, top, right, bottom]`.
fn rectangle((height, width): (usize, usize), [left, top, right, bottom]: [f64; 4]) -> Vec<bool> {
    let share = |i: usize, n: usize, low: f64, high: f64| {
        let (a, b) = (i as f64 / n as f64, (i + 1) as f64 / n as f64);
        (b.min(high) - a.max(low)).max(0.0) * n as f64
    };
    let mut cells = Vec::with_capacity(height * width);
    for y in 0..height {
        for x in 0..width {
            cells.push(share(y, height, top, bottom) * share(x, width, left, right) >= 0.5 - 1e-9);
        }
    }
    cells
}

/// Share of every cell of `grid` that `bits` cover (area-weighted where the sizes do not divide).
fn coverage(bits: &[bool], (h, w): (usize, usize), (height, width): (usize, usize)) -> Vec<f64> {
    let mut cover = vec![0.0; height * width];
    let overlap = |i: usize, n: usize, j: usize, m: usize| {
        let (a, b) = ((i * m).max(j * n), ((i + 1) * m).min((j + 1) * n));
        b.saturating_sub(a) as f64 / n as f64 // in cells: the pixel's extent is 1/n of the picture, the cell's 1/m
    };
    for y in 0..h {
        for x in (0..w).filter(|x| bits[y * w + x]) {
            for cy in y * height / h..=((y + 1) * height - 1) / h {
                for cx in x * width / w..=((x + 1) * width - 1) / w {
                    cover[cy * width + cx] += overlap(y, h, cy, height) * overlap(x, w, cx, width);
                }
            }
        }
    }
    cover
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(cells: &[bool], width: usize) -> String {
        cells
            .chunks(width)
            .map(|row| row.iter().map(|&c| if c { '#' } else { '.' }).collect::<String>())
            .collect::<Vec<_>>()
            .join("/")
    }

    #[test]
    fn quadrants_tile_the_grid() {
        let q = |q: Quadrant| show(&Region::from(q).on_grid((2, 4)).unwrap(), 4);
        assert_eq!(q(Quadrant::TopLeft), "##../....");
        assert_eq!(q(Quadrant::TopRight), "..##/....");
        assert_eq!(q(Quadrant::BottomLeft), "..../##..");
        assert_eq!(q(Quadrant::BottomRight), "..../..##");
    }

    #[test]
    fn boxes_and_masks_take_cells_covered_by_half() {
        let b = Region::Box { left: 0.25, top: 0.0, right: 1.0, bottom: 0.5 };
        assert_eq!(show(&b.on_grid((4, 4)).unwrap(), 4), ".###/.###/..../....");
        assert_eq!(show(&b.on_grid((2, 2)).unwrap(), 2), "##/..");
        // 3 rows of 6 pixels onto 3 rows of 2 cells: a cell holds three pixels.
        let bits = "##....".bytes().chain(*b"#..###").chain(*b"......").map(|c| c == b'#').collect();
        let m = Region::Mask { width: 6, height: 3, bits };
        assert_eq!(show(&m.on_grid((3, 2)).unwrap(), 2), "#./.#/..");
    }

    #[test]
    fn coverage_handles_sizes_that_do_not_divide() {
        // Three pixels onto two cells, the middle one split between both; and two pixels onto three cells.
        let c = coverage(&[true, true, false], (1, 3), (1, 2));
        assert!((c[0] - 1.0).abs() < 1e-12 && (c[1] - 1.0 / 3.0).abs() < 1e-12, "{c:?}");
        let c = coverage(&[true, false], (1, 2), (1, 3));
        assert!((c[0] - 1.0).abs() < 1e-12 && (c[1] - 0.5).abs() < 1e-12 && c[2] == 0.0, "{c:?}");
    }

    #[test]
    fn regions_are_read_from_texts() {
        let parse = |s: &str| s.parse::<Region>();
        assert_eq!(parse("everywhere").unwrap(), Region::Everywhere);
        assert_eq!(parse("top-left").unwrap(), Quadrant::TopLeft.into());
        assert_eq!(parse("0.5, 0,1,0.25").unwrap(), Region::Box { left: 0.5, top: 0.0, right: 1.0, bottom: 0.25 });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mask.png");
        image::GrayImage::from_fn(2, 2, |x, y| image::Luma([if x == y { 255 } else { 0 }])).save(&file).unwrap();
        let mask = parse(file.to_str().unwrap()).unwrap();
        assert_eq!(mask, Region::Mask { width: 2, height: 2, bits: vec![true, false, false, true] });
        assert!(parse("0.5,0,0.2,1").unwrap_err().to_string().contains("left < right"));
        assert!(parse("top-lef").unwrap_err().to_string().contains("nearest: top-left"));
    }

    #[test]
    fn empty_and_outside_regions_are_refused() {
        let say = |r: Region| r.on_grid((8, 8)).unwrap_err().to_string();
        let outside = say(Region::Box { left: 0.5, top: 0.0, right: 1.2, bottom: 0.5 });
        assert!(outside.contains("right 1.2"), "{outside}");
        assert!(say(Region::Box { left: 0.5, top: 0.5, right: 0.5, bottom: 0.9 }).contains("left < right"));
        assert!(say(Region::Box { left: 0.0, top: 0.0, right: 0.01, bottom: 0.01 }).contains("no cell of the 8×8"));
        assert!(say(Region::Mask { width: 2, height: 2, bits: vec![false; 4] }).contains("mask of 0"));
        assert!(say(Region::Mask { width: 2, height: 2, bits: vec![true; 3] }).contains("[2, 2]"));
        assert!(say(Region::Box { left: f64::NAN, top: 0.0, right: 1.0, bottom: 1.0 }).contains("NaN"));
    }
}
