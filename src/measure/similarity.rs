//! Similarity of pictures and texts: the interface of image–text dual encoders, the role of CLIP.
//!
//! A dual encoder puts pictures and texts into one space; with f(x) and g(t) scaled to unit length, the similarity of
//! picture x and text t is the cosine f(x) · g(t), in [−1, 1] (Radford et al. 2021, section 2.3). Cosines of different
//! encoders are different scales: a table says whose they are ([`Similarity::name`]).

use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use image::RgbImage;

/// Something that embeds pictures and texts in one space.
pub trait Similarity: Send + Sync {
    /// What tables and figures call it.
    fn name(&self) -> &str;

    /// One embedding for every picture.
    ///
    /// # Errors
    /// When a picture is of a size it cannot take, or a network fails.
    fn images(&self, pictures: &[RgbImage]) -> Result<Embeddings>;

    /// One embedding for every text.
    ///
    /// # Errors
    /// When a text is none that it can read, or a network fails.
    fn texts(&self, texts: &[&str]) -> Result<Embeddings>;

    /// Cosine of every picture (row) with every text (column).
    ///
    /// # Errors
    /// Of [`Similarity::images`] and [`Similarity::texts`].
    fn matrix(&self, pictures: &[RgbImage], texts: &[&str]) -> Result<Vec<Vec<f64>>> {
        self.images(pictures)?.cosines(&self.texts(texts)?)
    }

    /// Cosine of every picture with its own text.
    ///
    /// # Errors
    /// Pictures and texts of different number; of [`Similarity::images`] and [`Similarity::texts`].
    fn paired(&self, pictures: &[RgbImage], texts: &[&str]) -> Result<Vec<f64>> {
        if pictures.len() != texts.len() {
            let what = "texts, one for every picture".into();
            return Err(Error::Shape { what, found: vec![texts.len()], expected: vec![pictures.len()] });
        }
        self.images(pictures)?.paired(&self.texts(texts)?)
    }
}

/// Unit vectors of pictures or texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    width: usize,
    values: Vec<f32>,
}

impl Embeddings {
    /// Vectors of `width` numbers, one after the other; each is scaled to unit length.
    ///
    /// # Errors
    /// Numbers that `width` does not divide; a vector without direction (all zeros, or numbers that are not finite).
    pub fn new(width: usize, mut values: Vec<f32>) -> Result<Self> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(Error::invalid(format!("embeddings: {} numbers, not a multiple of {width}", values.len())));
        }
        for (i, row) in values.chunks_exact_mut(width).enumerate() {
            let norm = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            if !norm.is_finite() || norm == 0.0 {
                return Err(Error::invalid(format!("embedding {i} has length {norm}, and so no direction")));
            }
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        }
        Ok(Self { width, values })
    }

    /// The rows of a tensor `[n, width]`.
    ///
    /// # Errors
    /// A tensor of another rank; as [`Embeddings::new`].
    pub fn from_tensor(rows: &Tensor) -> Result<Self> {
        let (_, width) = rows.dims2()?;
        Self::new(width, rows.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Numbers in one vector.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Vector `i`.
    #[must_use]
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.width..(i + 1) * self.width]
    }

    /// Cosine of every vector (row) with every one of `other` (column).
    ///
    /// # Errors
    /// Vectors of different widths.
    pub fn cosines(&self, other: &Self) -> Result<Vec<Vec<f64>>> {
        self.check(other)?;
        let row = |i| (0..other.len()).map(|j| dot(self.row(i), other.row(j))).collect();
        Ok((0..self.len()).map(row).collect())
    }

    /// Cosine of every vector with the one of `other` at the same place.
    ///
    /// # Errors
    /// Vectors of different widths or number.
    pub fn paired(&self, other: &Self) -> Result<Vec<f64>> {
        self.check(other)?;
        if self.len() != other.len() {
            let (found, expected) = (vec![other.len()], vec![self.len()]);
            return Err(Error::Shape { what: "embeddings in pairs".into(), found, expected });
        }
        Ok((0..self.len()).map(|i| dot(self.row(i), other.row(i))).collect())
    }

    fn check(&self, other: &Self) -> Result<()> {
        if self.width == other.width {
            return Ok(());
        }
        let (found, expected) = (vec![other.width], vec![self.width]);
        Err(Error::Shape { what: "width of embeddings to compare".into(), found, expected })
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

/// For tests: knows a picture by its first pixel (red, green) and a text by its length.
#[cfg(test)]
pub(crate) struct ByFirstPixel;

#[cfg(test)]
impl Similarity for ByFirstPixel {
    fn name(&self) -> &str {
        "first pixel"
    }

    fn images(&self, pictures: &[RgbImage]) -> Result<Embeddings> {
        Embeddings::new(2, pictures.iter().flat_map(|p| [f32::from(p.as_raw()[0]), f32::from(p.as_raw()[1])]).collect())
    }

    fn texts(&self, texts: &[&str]) -> Result<Embeddings> {
        Embeddings::new(2, texts.iter().flat_map(|t| [t.len() as f32, 4.0]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(red: u8, green: u8) -> RgbImage {
        RgbImage::from_pixel(1, 1, image::Rgb([red, green, 7]))
    }

    #[test]
    fn cosines_of_known_angles() {
        let pictures = [picture(3, 4), picture(100, 0), picture(0, 2)];
        let scorer: &dyn Similarity = &ByFirstPixel;
        let found = scorer.matrix(&pictures, &["abc", ""]).unwrap();
        for (row, expected) in found.iter().zip([[1.0, 0.8], [0.6, 0.0], [0.8, 1.0]]) {
            assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{row:?} {expected:?}");
        }
        let paired = scorer.paired(&pictures[..2], &["", "abc"]).unwrap();
        assert!((paired[0] - 0.8).abs() < 1e-6 && (paired[1] - 0.6).abs() < 1e-6, "{paired:?}");
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let e = ByFirstPixel.paired(&[picture(1, 1)], &["a", "b"]).unwrap_err().to_string();
        assert!(e.contains("[2]") && e.contains("[1]"), "{e}");
        assert!(Embeddings::new(2, vec![1.0, 0.0, 0.0, 0.0]).unwrap_err().to_string().contains("embedding 1"));
        assert!(Embeddings::new(2, vec![f32::NAN, 0.0]).is_err() && Embeddings::new(2, vec![1.0]).is_err());
        let (two, three) = (Embeddings::new(2, vec![1.0; 4]).unwrap(), Embeddings::new(3, vec![1.0; 3]).unwrap());
        assert!(two.cosines(&three).unwrap_err().to_string().contains("[3]"));
        assert!(two.paired(&Embeddings::new(2, vec![1.0; 2]).unwrap()).is_err());
    }
}
