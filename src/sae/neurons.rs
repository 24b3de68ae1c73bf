//! The control: the model's own channels in place of learned latents.

use super::{Architecture, Sae};
use crate::error::Result;

impl Sae {
    /// Raw neurons as an SAE: latent c is channel c where it is above its bias, latent d + c the same channel where it is
    /// below, and the `k` largest of a token count. What an SAE finds beyond this, it has learned;
    /// [`centred`](Self::centred) puts the bias at the mean.
    ///
    /// ```
    /// use denoscope::sae::Sae;
    ///
    /// let neurons = Sae::neurons(3, 2)?;
    /// let codes = neurons.encode(&[0.5, -2.0, 0.1])?;
    /// assert_eq!(codes.token(0), (&[0, 4][..], &[0.5, 2.0][..]));
    /// # Ok::<(), denoscope::Error>(())
    /// ```
    ///
    /// # Errors
    /// If `k` is 0 or exceeds the number of latents, 2 d.
    pub fn neurons(d: usize, k: usize) -> Result<Self> {
        let latents = 2 * d;
        let mut w_dec = vec![0.0; latents * d];
        for c in 0..d {
            w_dec[c * d + c] = 1.0;
            w_dec[(d + c) * d + c] = -1.0;
        }
        let architecture = Architecture::TopK { k };
        let (w_enc, b_enc, b_dec) = (w_dec.clone(), vec![0.0; latents], vec![0.0; d]);
        let sae =
            Self { architecture, d, latents, w_enc, b_enc, w_dec, b_dec, about: None, facts: serde_json::Map::new() };
        sae.check()?;
        Ok(sae)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_neurons_together_are_the_activation() {
        let neurons = Sae::neurons(3, 6).unwrap();
        let x = [1.0, -2.0, 0.5, 0.0, 3.0, -0.25];
        assert_eq!(neurons.decode(&neurons.encode(&x).unwrap()), x);
        assert!(Sae::neurons(3, 7).unwrap_err().to_string().contains('7'));
    }
}
