//! Caption retrieval: does a dual encoder find a picture's own caption among others, and a caption's own picture?
//!
//! Top-1 accuracy, as CLIP is measured on zero-shot retrieval (Radford et al. 2021, appendix E.1): a picture is right if
//! the cosine with its own caption is higher than with every other of its group; the same for captions. Equal cosines
//! are wrong, so that an encoder that tells nothing apart finds nothing.

use super::interval::{Interval, wilson};
use super::similarity::Similarity;
use crate::error::{Error, Result};
use image::RgbImage;
use std::fmt;

/// How often the own one was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Retrieval {
    /// Whose similarity.
    pub scorer: String,
    /// Among how many.
    pub among: usize,
    /// Share of pictures whose own caption was found.
    pub captions: Interval,
    /// Share of captions whose own picture was found.
    pub pictures: Interval,
}

impl Retrieval {
    /// Looks for the own one in groups of `among`, one after the other.
    ///
    /// # Errors
    /// Pictures and captions of different number, or a number that `among` does not divide; of the scorer.
    pub fn of(scorer: &dyn Similarity, pictures: &[RgbImage], captions: &[&str], among: usize) -> Result<Self> {
        let n = pictures.len();
        if n != captions.len() || among < 2 || n == 0 || !n.is_multiple_of(among) {
            let found = format!("{n} pictures and {} captions in groups of {among}", captions.len());
            return Err(Error::invalid(format!("retrieval of {found}: expected as many of both, in whole groups")));
        }
        let mut right = [0, 0];
        for (pictures, captions) in pictures.chunks_exact(among).zip(captions.chunks_exact(among)) {
            let cosines = scorer.matrix(pictures, captions)?;
            for (own, row) in cosines.iter().enumerate() {
                let others = || (0..among).filter(|other| *other != own);
                right[0] += usize::from(others().all(|j| row[j] < row[own]));
                right[1] += usize::from(others().all(|i| cosines[i][own] < row[own]));
            }
        }
        let [captions, pictures] = right.map(|right| wilson(right, n));
        Ok(Self { scorer: scorer.name().into(), among, captions, pictures })
    }

    /// What a notebook shows: both shares.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl fmt::Display for Retrieval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: own caption among {} found for {}, own picture for {}",
            self.scorer, self.among, self.captions, self.pictures
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::similarity::ByFirstPixel;
    use super::*;

    #[test]
    fn own_ones_are_counted_in_both_directions() {
        // Directions (red, green) and (length, 4): the second caption is the nearest of both pictures.
        let pictures = [[1, 1], [10, 9]].map(|[r, g]| RgbImage::from_pixel(1, 1, image::Rgb([r, g, 0])));
        let captions = ["", "abcde"];
        let found = Retrieval::of(&ByFirstPixel, &pictures, &captions, 2).unwrap();
        assert_eq!((found.captions.value, found.pictures.value, found.captions.n), (0.5, 1.0, 2));
        assert!(found.to_string().starts_with("first pixel: own caption among 2"), "{found}");
        // One picture twice: nothing tells them apart.
        let same = [pictures[0].clone(), pictures[0].clone()];
        let found = Retrieval::of(&ByFirstPixel, &same, &["", "abcd"], 2).unwrap();
        assert_eq!((found.captions.value, found.pictures.value), (0.5, 0.0));
        let e = Retrieval::of(&ByFirstPixel, &pictures, &["a"], 2).unwrap_err().to_string();
        assert!(e.contains("2 pictures and 1 captions"), "{e}");
    }
}
