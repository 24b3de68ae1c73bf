//! Measures of masks and of per-pixel probabilities: overlap, centre of mass, quadrant.

use crate::error::{Error, Result};
use crate::intervene::Quadrant;

/// Intersection over union of two masks, |A ∩ B| / |A ∪ B|; 0 when both are empty.
///
/// # Errors
/// When the masks differ in length.
pub fn iou(a: &[bool], b: &[bool]) -> Result<f64> {
    if a.len() != b.len() {
        return Err(Error::Shape { what: "mask to compare".into(), found: vec![b.len()], expected: vec![a.len()] });
    }
    let both = a.iter().zip(b).filter(|(x, y)| **x && **y).count();
    let either = a.iter().zip(b).filter(|(x, y)| **x || **y).count();
    Ok(if either == 0 { 0.0 } else { both as f64 / either as f64 })
}

/// Intersection over union of every label of a map, over the pixels of many pictures: |found ∩ true| / |found ∪ true|, as in
/// semantic segmentation. Label 0 is the backdrop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapOverlap {
    /// Pixels where both maps have the label, and where either has.
    pixels: Vec<(usize, usize)>,
}

impl MapOverlap {
    /// Of labels 1 to `labels`, nothing counted.
    #[must_use]
    pub fn new(labels: usize) -> Self {
        Self { pixels: vec![(0, 0); 1 + labels] }
    }

    /// Counts a pixel.
    ///
    /// # Panics
    /// If a label is greater than the number of labels.
    pub fn add(&mut self, found: usize, truth: usize) {
        self.pixels[truth].1 += 1;
        if found == truth {
            self.pixels[found].0 += 1;
        } else {
            self.pixels[found].1 += 1;
        }
    }

    /// Counts the pixels of two maps of one size.
    ///
    /// # Panics
    /// As [`add`](Self::add).
    pub fn add_maps(&mut self, found: &[u8], truth: &[u8]) {
        found.iter().zip(truth).for_each(|(&f, &t)| self.add(f.into(), t.into()));
    }

    /// The IoU of labels 1, 2, …; 0 of one that neither map has.
    #[must_use]
    pub fn each(&self) -> Vec<f64> {
        self.pixels[1..].iter().map(|&(both, either)| both as f64 / either.max(1) as f64).collect()
    }

    /// The mean over labels 1, 2, …
    #[must_use]
    pub fn mean(&self) -> f64 {
        let each = self.each();
        each.iter().sum::<f64>() / each.len().max(1) as f64
    }

    /// The mean and every label's IoU in words; `names` are those of labels 1, 2, …
    #[must_use]
    pub fn named<T: std::fmt::Display>(&self, names: &[T]) -> String {
        let each: Vec<String> = names.iter().zip(self.each()).map(|(name, x)| format!("{name} {x:.3}")).collect();
        format!("{:.3} ({})", self.mean(), each.join(", "))
    }
}

/// A point in a picture: x to the right and y downwards, both in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Point {
    /// Distance from the left edge, in widths.
    pub x: f64,
    /// Distance from the upper edge, in heights.
    pub y: f64,
}

impl Point {
    /// The quadrant that the point lies in; a point on a middle line belongs to the right or lower one.
    #[must_use]
    pub fn quadrant(&self) -> Quadrant {
        match (self.y < 0.5, self.x < 0.5) {
            (true, true) => Quadrant::TopLeft,
            (true, false) => Quadrant::TopRight,
            (false, true) => Quadrant::BottomLeft,
            (false, false) => Quadrant::BottomRight,
        }
    }
}

/// Centre of mass of non-negative `weights` on a `height × width` grid, Σ w·p / Σ w with p the pixel centres;
/// `None` when nothing has weight. (Emergence, table 4: of the segmenter's score for the object.)
///
/// # Errors
/// When the number of weights is not `height · width`, or a weight is negative or not finite.
pub fn centre_of_mass(weights: &[f32], height: usize, width: usize) -> Result<Option<Point>> {
    if weights.len() != height * width {
        return Err(Error::Shape {
            what: "weights of a centre of mass".into(),
            found: vec![weights.len()],
            expected: vec![height, width],
        });
    }
    let (mut sum, mut x, mut y) = (0.0, 0.0, 0.0);
    for (i, &w) in weights.iter().enumerate() {
        if !(w >= 0.0 && w.is_finite()) {
            return Err(Error::invalid(format!("centre of mass: weight {w} at index {i}, expected a number ≥ 0")));
        }
        let w = f64::from(w);
        sum += w;
        x += w * ((i % width) as f64 + 0.5);
        y += w * ((i / width) as f64 + 0.5);
    }
    Ok((sum > 0.0).then(|| Point { x: x / sum / width as f64, y: y / sum / height as f64 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iou_counts_cells() {
        let bits = |s: &str| s.bytes().map(|b| b == b'#').collect::<Vec<_>>();
        assert_eq!(iou(&bits("##.#."), &bits(".##..")).unwrap(), 0.25);
        assert_eq!(iou(&bits("..."), &bits("...")).unwrap(), 0.0);
        assert!(iou(&bits(".."), &bits("...")).is_err());
    }

    #[test]
    fn overlap_of_maps_counts_every_label() {
        let mut overlap = MapOverlap::new(3);
        for (found, truth) in [(1, 1), (1, 1), (1, 2), (0, 1), (2, 2), (0, 0), (2, 0)] {
            overlap.add(found, truth);
        }
        assert_eq!(overlap.each(), [2.0 / 4.0, 1.0 / 3.0, 0.0]);
        assert!((overlap.mean() - (0.5 + 1.0 / 3.0) / 3.0).abs() < 1e-12);
        assert_eq!(overlap.named(&["a", "b", "c"]), "0.278 (a 0.500, b 0.333, c 0.000)");
    }

    #[test]
    fn centre_of_mass_is_the_weighted_mean_of_pixel_centres() {
        // 2 high, 3 wide: weight 1 at (y 0, x 2) and 3 at (y 1, x 0).
        let c = centre_of_mass(&[0.0, 0.0, 1.0, 3.0, 0.0, 0.0], 2, 3).unwrap().unwrap();
        assert!(
            (c.x - (2.5 + 3.0 * 0.5) / 12.0).abs() < 1e-12 && (c.y - (0.5 + 3.0 * 1.5) / 8.0).abs() < 1e-12,
            "{c:?}"
        );
        assert_eq!(c.quadrant(), Quadrant::BottomLeft);
        assert_eq!(centre_of_mass(&[0.0; 6], 2, 3).unwrap(), None);
        assert!(centre_of_mass(&[0.0; 5], 2, 3).is_err());
        assert!(centre_of_mass(&[f32::NAN, 0.0], 1, 2).is_err());
    }

    #[test]
    fn quadrants_cover_the_picture() {
        let at = |x, y| Point { x, y }.quadrant();
        assert_eq!(at(0.49, 0.1), Quadrant::TopLeft);
        assert_eq!(at(0.5, 0.1), Quadrant::TopRight);
        assert_eq!(at(0.1, 0.5), Quadrant::BottomLeft);
        assert_eq!(at(0.9, 0.9), Quadrant::BottomRight);
    }
}
