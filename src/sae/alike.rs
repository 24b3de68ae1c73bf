//! How alike two sets of codes are, token by token.

use super::Codes;
use crate::error::{Error, Result};

/// Likeness of the codes of the same tokens at two moments (TIDE, figure 5).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likeness {
    /// Mean over tokens of z·z′/(‖z‖‖z′‖); 0 where a code is empty and the other is not, 1 where both are.
    pub cosine: f64,
    /// Mean over tokens of ‖z − z′‖²/latents.
    pub mse: f64,
}

impl Codes {
    /// Compares with codes of as many tokens of the same SAE, or of a temporal-aware one at another step.
    ///
    /// ```
    /// use denoscope::sae::Sae;
    ///
    /// let sae = Sae::neurons(2, 2)?;
    /// let (a, b) = (sae.encode(&[3.0, 0.0, 0.0, 1.0])?, sae.encode(&[3.0, 4.0, 0.0, -1.0])?);
    /// let likeness = a.likeness(&b)?;
    /// // Cosines 3/5 and 0; squared distances 16 and 2, over four latents.
    /// assert!((likeness.cosine - 0.3).abs() < 1e-6 && (likeness.mse - 2.25).abs() < 1e-6);
    /// # Ok::<(), denoscope::Error>(())
    /// ```
    ///
    /// # Errors
    /// Codes of another number of tokens or latents.
    pub fn likeness(&self, other: &Self) -> Result<Likeness> {
        if (self.tokens(), self.latents) != (other.tokens(), other.latents) {
            return Err(Error::Shape {
                what: "codes to compare (tokens, latents)".into(),
                found: vec![other.tokens(), other.latents],
                expected: vec![self.tokens(), self.latents],
            });
        }
        let square = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let (mut cosine, mut distance) = (0.0, 0.0);
        for t in 0..self.tokens() {
            let ((a, x), (b, y)) = (self.token(t), other.token(t));
            let (mut both, mut i, mut j) = (0.0, 0, 0);
            while i < a.len() && j < b.len() {
                match a[i].cmp(&b[j]) {
                    std::cmp::Ordering::Less => i += 1,
                    std::cmp::Ordering::Greater => j += 1,
                    std::cmp::Ordering::Equal => {
                        both += f64::from(x[i]) * f64::from(y[j]);
                        (i, j) = (i + 1, j + 1);
                    }
                }
            }
            let (xx, yy) = (square(x), square(y));
            cosine += if xx + yy == 0.0 {
                1.0
            } else if xx * yy == 0.0 {
                0.0
            } else {
                both / (xx * yy).sqrt()
            };
            distance += (xx + yy - 2.0 * both).max(0.0) / self.latents as f64;
        }
        let n = self.tokens().max(1) as f64;
        Ok(Likeness { cosine: cosine / n, mse: distance / n })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::Sae;

    #[test]
    fn equal_codes_are_alike_and_others_are_refused() {
        let sae = Sae::random(4, 9, 3, 1).unwrap();
        let codes = sae.encode(&[1.0, 2.0, -1.0, 0.5, 0.0, 1.0, 3.0, -2.0]).unwrap();
        let same = codes.likeness(&codes).unwrap();
        assert!((same.cosine - 1.0).abs() < 1e-9 && same.mse < 1e-9);
        let empty = Codes { latents: 9, tokens_per_item: 2, offsets: vec![0; 3], index: Vec::new(), value: Vec::new() };
        assert_eq!(codes.likeness(&empty).unwrap().cosine, 0.0);
        assert_eq!(empty.likeness(&empty).unwrap(), Likeness { cosine: 1.0, mse: 0.0 });
        let one = sae.encode(&[1.0; 4]).unwrap();
        assert!(codes.likeness(&one).unwrap_err().to_string().contains("[1, 9]"));
    }
}
