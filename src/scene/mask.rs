//! Bit masks over a picture.

use super::world::Place;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A set of pixels of a picture, row-major.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mask {
    width: usize,
    height: usize,
    words: Vec<u64>,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({}x{}, {} set)", self.width, self.height, self.area())
    }
}

impl Mask {
    /// An empty mask.
    #[must_use]
    pub fn new(width: usize, height: usize) -> Mask {
        Mask { width, height, words: vec![0; (width * height).div_ceil(64)] }
    }

    /// The pixels (x, y) for which `inside` holds.
    #[must_use]
    pub fn from_fn(width: usize, height: usize, mut inside: impl FnMut(usize, usize) -> bool) -> Mask {
        let mut mask = Mask::new(width, height);
        for y in 0..height {
            for x in 0..width {
                if inside(x, y) {
                    mask.set(x, y, true);
                }
            }
        }
        mask
    }

    /// The pixels of a row-major grey image that are at least 128.
    ///
    /// # Errors
    /// If `grey` does not hold `width * height` bytes.
    pub fn from_grey(width: usize, height: usize, grey: &[u8]) -> Result<Mask> {
        if grey.len() != width * height {
            return Err(Error::Shape {
                what: "grey image of a mask".into(),
                found: vec![grey.len()],
                expected: vec![width * height],
            });
        }
        Ok(Mask::from_fn(width, height, |x, y| grey[y * width + x] >= 128))
    }

    /// Row-major bytes: 255 inside, 0 outside.
    #[must_use]
    pub fn to_grey(&self) -> Vec<u8> {
        self.iter().map(|inside| if inside { 255 } else { 0 }).collect()
    }

    /// Width in pixels.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// Whether pixel (x, y) is inside; pixels beyond the edge are not.
    #[must_use]
    pub fn get(&self, x: usize, y: usize) -> bool {
        x < self.width && y < self.height && {
            let bit = y * self.width + x;
            self.words[bit / 64] >> (bit % 64) & 1 == 1
        }
    }

    /// Put pixel (x, y) in or out; pixels beyond the edge are ignored.
    pub fn set(&mut self, x: usize, y: usize, inside: bool) {
        if x < self.width && y < self.height {
            let bit = y * self.width + x;
            let flag = 1 << (bit % 64);
            if inside {
                self.words[bit / 64] |= flag;
            } else {
                self.words[bit / 64] &= !flag;
            }
        }
    }

    /// Every pixel in row-major order.
    pub fn iter(&self) -> impl Iterator<Item = bool> + '_ {
        (0..self.width * self.height).map(|bit| self.words[bit / 64] >> (bit % 64) & 1 == 1)
    }

    /// How many pixels are inside.
    #[must_use]
    pub fn area(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no pixel is inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Pixels in either.
    ///
    /// # Errors
    /// If the sizes differ.
    pub fn union(&self, other: &Mask) -> Result<Mask> {
        self.zip(other, |a, b| a | b)
    }

    /// Pixels in both.
    ///
    /// # Errors
    /// If the sizes differ.
    pub fn intersection(&self, other: &Mask) -> Result<Mask> {
        self.zip(other, |a, b| a & b)
    }

    /// Pixels in this mask but not in `other`.
    ///
    /// # Errors
    /// If the sizes differ.
    pub fn difference(&self, other: &Mask) -> Result<Mask> {
        self.zip(other, |a, b| a & !b)
    }

    /// Pixels outside.
    #[must_use]
    pub fn complement(&self) -> Mask {
        Mask::from_fn(self.width, self.height, |x, y| !self.get(x, y))
    }

    fn zip(&self, other: &Mask, op: impl Fn(u64, u64) -> u64) -> Result<Mask> {
        if (self.width, self.height) != (other.width, other.height) {
            return Err(Error::Shape {
                what: "mask".into(),
                found: vec![other.height, other.width],
                expected: vec![self.height, self.width],
            });
        }
        let words = self.words.iter().zip(&other.words).map(|(&a, &b)| op(a, b)).collect();
        Ok(Mask { width: self.width, height: self.height, words })
    }

    /// Intersection over union, |A ∩ B| / |A ∪ B|; 0 when both are empty.
    ///
    /// # Errors
    /// If the sizes differ.
    pub fn iou(&self, other: &Mask) -> Result<f32> {
        let both = self.intersection(other)?.area();
        let either = self.union(other)?.area();
        Ok(if either == 0 { 0.0 } else { both as f32 / either as f32 })
    }

    /// Mean position of the pixels inside as (x, y) in shares of width and height (pixel centres count);
    /// none for an empty mask.
    #[must_use]
    pub fn centre_of_mass(&self) -> Option<[f32; 2]> {
        let (mut n, mut sx, mut sy) = (0u64, 0u64, 0u64);
        for y in 0..self.height {
            for x in 0..self.width {
                if self.get(x, y) {
                    n += 1;
                    sx += 2 * x as u64 + 1;
                    sy += 2 * y as u64 + 1;
                }
            }
        }
        let share = |sum: u64, side: usize| (sum as f64 / (2 * n * side as u64) as f64) as f32;
        (n > 0).then(|| [share(sx, self.width), share(sy, self.height)])
    }

    /// The corner place in whose quadrant the centre of mass lies; none for an empty mask.
    #[must_use]
    pub fn quadrant(&self) -> Option<Place> {
        self.centre_of_mass().map(|[x, y]| match (x < 0.5, y < 0.5) {
            (true, true) => Place::TopLeft,
            (false, true) => Place::TopRight,
            (true, false) => Place::BottomLeft,
            (false, false) => Place::BottomRight,
        })
    }

    /// The place (corners and centre) nearest to the centre of mass; none for an empty mask.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.centre_of_mass().map(|[x, y]| Place::nearest(x, y))
    }

    /// The share of each cell of a `grid_h` by `grid_w` grid that is inside, row-major, in 0..=1.
    ///
    /// Pixels that straddle cells count in proportion, so any grid will do.
    #[must_use]
    pub fn coverage(&self, grid_h: usize, grid_w: usize) -> Vec<f32> {
        let mut cells = vec![0.0f32; grid_h * grid_w];
        if cells.is_empty() || self.width == 0 || self.height == 0 {
            return cells;
        }
        // In units of 1 / (side * grid), pixel p covers [p * grid, (p + 1) * grid), cell c covers [c * side, (c + 1) * side).
        let overlaps = |p: usize, side: usize, grid: usize| {
            let (from, to) = (p * grid, (p + 1) * grid);
            (from / side..=(to - 1) / side).map(move |c| (c, to.min((c + 1) * side) - from.max(c * side)))
        };
        let cell_area = (self.width * self.height) as f32;
        for y in 0..self.height {
            for x in 0..self.width {
                if self.get(x, y) {
                    for (cy, h) in overlaps(y, self.height, grid_h) {
                        for (cx, w) in overlaps(x, self.width, grid_w) {
                            cells[cy * grid_w + cx] += (h * w) as f32;
                        }
                    }
                }
            }
        }
        // Sums of whole numbers below 2^24 are exact; one division at the end.
        cells.iter_mut().for_each(|cell| *cell /= cell_area);
        cells
    }

    /// The mask on a coarser grid: a cell is inside when at least half of it is.
    #[must_use]
    pub fn at_grid(&self, grid_h: usize, grid_w: usize) -> Mask {
        let cells = self.coverage(grid_h, grid_w);
        Mask::from_fn(grid_w, grid_h, |x, y| cells[y * grid_w + x] >= 0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(x0: usize, y0: usize, x1: usize, y1: usize) -> Mask {
        Mask::from_fn(16, 8, |x, y| (x0..x1).contains(&x) && (y0..y1).contains(&y))
    }

    #[test]
    fn iou_of_shifted_blocks() {
        let (a, b) = (block(0, 0, 4, 4), block(2, 0, 6, 4));
        assert_eq!(a.area(), 16);
        assert_eq!(a.iou(&b).unwrap(), 8.0 / 24.0);
        assert_eq!(a.iou(&a).unwrap(), 1.0);
        assert_eq!(Mask::new(3, 3).iou(&Mask::new(3, 3)).unwrap(), 0.0);
        assert!(a.iou(&Mask::new(8, 16)).unwrap_err().to_string().contains("[16, 8], expected [8, 16]"));
    }

    #[test]
    fn centre_of_mass_and_places() {
        assert_eq!(block(0, 0, 4, 4).centre_of_mass(), Some([2.0 / 16.0, 2.0 / 8.0]));
        assert_eq!(block(0, 0, 4, 4).quadrant(), Some(Place::TopLeft));
        assert_eq!(block(12, 5, 16, 8).quadrant(), Some(Place::BottomRight));
        assert_eq!(block(6, 3, 10, 5).place(), Some(Place::Centre));
        assert_eq!(Mask::new(4, 4).quadrant(), None);
    }

    #[test]
    fn coverage_keeps_the_area_on_any_grid() {
        let mask = block(1, 2, 12, 7);
        for (h, w) in [(8, 16), (4, 4), (3, 5), (1, 1), (16, 32)] {
            let cells = mask.coverage(h, w);
            let area = cells.iter().sum::<f32>() / (h * w) as f32 * 128.0;
            assert!((area - mask.area() as f32).abs() < 1e-3, "{h}x{w}: {area}");
        }
        assert_eq!(mask.at_grid(8, 16), mask);
        assert_eq!(block(0, 0, 3, 4).coverage(2, 4), [0.75, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(block(0, 0, 2, 4).at_grid(2, 4).area(), 1);
    }

    #[test]
    fn set_operations_and_grey() {
        let (a, b) = (block(0, 0, 4, 4), block(2, 0, 6, 4));
        assert_eq!(a.union(&b).unwrap().area(), 24);
        assert_eq!(a.difference(&b).unwrap().area(), 8);
        assert_eq!(a.complement().area(), 16 * 8 - 16);
        assert_eq!(Mask::from_grey(16, 8, &a.to_grey()).unwrap(), a);
        assert!(Mask::from_grey(16, 8, &[0; 3]).is_err());
    }
}
