//! Table 5 of Emergence as the paper measures it, on the pictures of a [`StyleSuccess`]: does similarity to the style's
//! words rise, and how far did the picture move?
//!
//! With s(x) the cosine of picture x with the style's words ([`Similarity`]), an edit succeeds where
//! s(edited) > s(unedited). The price is the perceptual distance between the two ([`Perceptual`]). The control, a random
//! direction of equal norm, is scored the same way.

use super::interval::{Interval, difference, mean, ones, wilson};
use super::perceptual::Perceptual;
use super::similarity::Similarity;
use super::style_success::{StyleOutcome, StyleSuccess};
use crate::error::Result;
use crate::scene::Style;
use image::RgbImage;
use std::fmt;

/// Outcomes whose pictures are scored together.
const TOGETHER: usize = 32;

/// Similarity of pictures to the words of the style that they were to get.
#[derive(Debug, Clone, PartialEq)]
pub struct StyleSimilarity {
    /// Whose similarity.
    pub scorer: String,
    /// Its mean without an edit, with it, and with the control, each with a bootstrap interval.
    pub mean: [Interval; 3],
    /// By how much it rose on average: with the edit, and with the control.
    pub rise: [Interval; 2],
    /// Share of pictures where it rose, the paper's success: with the edit, and with the control.
    pub rose: [Interval; 2],
    /// By how much it rose with the edit, picture by picture.
    pub rises: Vec<f64>,
}

/// Perceptual distance to the unedited picture.
#[derive(Debug, Clone, PartialEq)]
pub struct StyleDistance {
    /// Whose distance.
    pub metric: String,
    /// Its mean for the edit, with a bootstrap interval.
    pub edited: Interval,
    /// The same for the control.
    pub control: Interval,
    /// The edit's, picture by picture.
    pub each: Vec<f64>,
}

/// Words for a style that CLIP and the embedded dual encoder both read.
#[must_use]
pub fn style_words(style: Style) -> String {
    format!("a picture in {style} style")
}

impl StyleSuccess {
    /// Similarity to [`style_words`] without the edit, with it, and with the control.
    ///
    /// # Errors
    /// Of the scorer.
    pub fn similarity(&self, scorer: &dyn Similarity) -> Result<StyleSimilarity> {
        self.similarity_to(scorer, &style_words)
    }

    /// As [`StyleSuccess::similarity`], with other words for the styles.
    ///
    /// # Errors
    /// Of the scorer.
    pub fn similarity_to(&self, scorer: &dyn Similarity, words: &dyn Fn(Style) -> String) -> Result<StyleSimilarity> {
        let words: Vec<String> = Style::ALL.iter().map(|style| words(*style)).collect();
        let words = scorer.texts(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let mut similarity = [const { Vec::new() }; 3];
        for outcomes in self.outcomes.chunks(TOGETHER) {
            for (which, similarity) in similarity.iter_mut().enumerate() {
                let cosines = scorer.images(&pictures(outcomes, which))?.cosines(&words)?;
                similarity.extend(cosines.iter().zip(outcomes).map(|(row, outcome)| row[outcome.style.index()]));
            }
        }
        let [before, edited, control] = &similarity;
        let rises = [edited, control].map(|after| after.iter().zip(before).map(|(a, b)| a - b).collect::<Vec<f64>>());
        let [rise, rose] = [rises.each_ref().map(|rises| mean(rises, 0)), rises.each_ref().map(|rises| risen(rises))];
        let [rises, _] = rises;
        Ok(StyleSimilarity {
            scorer: scorer.name().into(),
            mean: similarity.map(|values| mean(&values, 0)),
            rise,
            rose,
            rises,
        })
    }

    /// Perceptual distance of edited pictures, and of the control's, to the unedited ones.
    ///
    /// # Errors
    /// Of the metric.
    pub fn perceptual(&self, metric: &dyn Perceptual) -> Result<StyleDistance> {
        let mut found = [const { Vec::new() }; 2];
        for outcomes in self.outcomes.chunks(TOGETHER) {
            let before = pictures(outcomes, 0);
            for (i, found) in found.iter_mut().enumerate() {
                found.extend(metric.distances(&before, &pictures(outcomes, 1 + i))?);
            }
        }
        let [edited, control] = found.each_ref().map(|distances| mean(distances, 0));
        let [each, _] = found;
        Ok(StyleDistance { metric: metric.name().into(), edited, control, each })
    }
}

fn risen(rises: &[f64]) -> Interval {
    wilson(rises.iter().filter(|rise| **rise > 0.0).count(), rises.len())
}

fn pictures(outcomes: &[StyleOutcome], which: usize) -> Vec<RgbImage> {
    outcomes.iter().map(|outcome| outcome.pictures[which].clone()).collect()
}

impl StyleSimilarity {
    /// In how many more pictures similarity rose than with `other` edits of the same trials, with a paired interval.
    ///
    /// # Errors
    /// Other trials.
    pub fn over(&self, other: &Self) -> Result<Interval> {
        let [own, other] = [self, other].map(|s| ones(s.rises.iter().map(|rise| *rise > 0.0)));
        difference(&own, &other)
    }

    /// What a notebook shows: means and shares.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl fmt::Display for StyleSimilarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([unedited, edited, control], [rose, rose_too]) = (&self.mean, &self.rose);
        writeln!(f, "similarity to the style's words ({})", self.scorer)?;
        writeln!(f, "  unedited {unedited}\n  edited   {edited}, rose in {rose}")?;
        write!(f, "  control  {control}, rose in {rose_too}")
    }
}

impl StyleDistance {
    /// How much further pictures moved than with `other` edits of the same trials, with a paired interval.
    ///
    /// # Errors
    /// Other trials.
    pub fn over(&self, other: &Self) -> Result<Interval> {
        difference(&self.each, &other.each)
    }

    /// What a notebook shows: both means.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl fmt::Display for StyleDistance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "distance to the unedited picture ({})\n  edited  {}\n  control {}",
            self.metric, self.edited, self.control
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::similarity::ByFirstPixel;
    use super::*;
    use crate::measure::image::mean_absolute;

    struct Absolute;

    impl Perceptual for Absolute {
        fn name(&self) -> &str {
            "absolute"
        }

        fn distances(&self, a: &[RgbImage], b: &[RgbImage]) -> Result<Vec<f64>> {
            a.iter().zip(b).map(|(a, b)| mean_absolute(a, b)).collect()
        }
    }

    fn outcome(style: Style, colours: [[u8; 2]; 3]) -> StyleOutcome {
        let pictures = colours.map(|[r, g]| RgbImage::from_pixel(2, 2, image::Rgb([r, g, 0])));
        StyleOutcome { style, seed: 0, found: [None; 3], distance: [0.0; 2], pictures }
    }

    #[test]
    fn rises_and_distances_are_those_of_the_pictures() {
        // The words of Flat point to (0, 4), those of Night to (3, 4).
        let words = |style: Style| if style == Style::Night { "abc".to_string() } else { String::new() };
        let outcomes = vec![
            outcome(Style::Night, [[0, 51], [3, 4], [0, 51]]),
            outcome(Style::Flat, [[4, 3], [3, 4], [1, 0]]),
            outcome(Style::Flat, [[0, 9], [3, 4], [0, 8]]),
        ];
        let edits = StyleSuccess { outcomes };
        let found = edits.similarity_to(&ByFirstPixel, &words).unwrap();
        let means = [(0.8 + 0.6 + 1.0) / 3.0, (1.0 + 0.8 + 0.8) / 3.0, (0.8 + 0.0 + 1.0) / 3.0];
        assert!(found.mean.iter().zip(means).all(|(a, b)| (a.value - b).abs() < 1e-6), "{found}");
        assert!((found.rise[0].value - 0.2 / 3.0).abs() < 1e-6 && (found.rise[1].value + 0.2).abs() < 1e-6, "{found}");
        // To stay where it was is no rise.
        assert_eq!(found.rose.map(|r| (r.value * 3.0).round()), [2.0, 0.0]);
        assert_eq!(found.rose[0].n, 3);
        assert!(found.to_string().contains("first pixel"));
        let distance = edits.perceptual(&Absolute).unwrap();
        let expected = [(50.0, 0.0), (2.0, 6.0), (8.0, 1.0)].map(|(e, c)| (e / 765.0, c / 765.0));
        let mean = |f: fn(&(f64, f64)) -> f64| expected.iter().map(f).sum::<f64>() / 3.0;
        assert!((distance.edited.value - mean(|e| e.0)).abs() < 1e-9, "{distance}");
        assert!((distance.control.value - mean(|e| e.1)).abs() < 1e-9, "{distance}");
        // Against itself nothing differs; against what moves nothing, all of it does.
        assert_eq!((found.over(&found).unwrap().value, distance.over(&distance).unwrap().value), (0.0, 0.0));
        let none = StyleDistance { each: vec![0.0; 3], ..distance.clone() };
        assert!((distance.over(&none).unwrap().value - distance.edited.value).abs() < 1e-12);
        let fell = StyleSimilarity { rises: vec![-1.0, 1.0, 0.0], ..found.clone() };
        assert!((found.over(&fell).unwrap().value - 1.0 / 3.0).abs() < 1e-12);
        assert!(found.over(&StyleSimilarity { rises: Vec::new(), ..found.clone() }).is_err());
    }

    #[test]
    fn the_words_are_in_the_worlds_vocabulary() {
        let known = crate::scene::vocabulary();
        for style in Style::ALL {
            assert!(style_words(*style).split(' ').all(|word| known.iter().any(|k| k == word)), "{style}");
        }
    }
}
