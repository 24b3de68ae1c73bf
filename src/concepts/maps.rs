//! The activation maps of all latents on one item: a sparse code, turned from tokens to latents.

use crate::error::{Error, Result};

/// Activation maps of every latent that fires on one item; the others cost nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Maps {
    tokens: usize,
    latents: Vec<u32>,
    starts: Vec<usize>,
    token: Vec<u32>,
    value: Vec<f32>,
}

impl Maps {
    /// The maps of an item whose token `t` has the latents `index[offsets[t]..offsets[t + 1]]` with the activations
    /// `value[…]` (compressed rows). Activations of 0 are left out.
    ///
    /// # Errors
    /// When an activation is negative or not finite (a code is what a ReLU let through), or a latent does not exist.
    pub fn new(latents: usize, offsets: &[usize], index: &[u32], value: &[f32]) -> Result<Self> {
        let tokens = offsets.len().saturating_sub(1);
        let range = offsets.first().copied().unwrap_or(0)..offsets.last().copied().unwrap_or(0);
        // Counting sort by latent; tokens stay in order within a latent.
        let mut next = vec![0u32; latents + 1];
        for e in range.clone() {
            let (latent, v) = (index[e] as usize, value[e]);
            if latent >= latents {
                return Err(Error::invalid(format!("code: latent {latent} of an SAE with {latents}")));
            }
            if !(v >= 0.0 && v.is_finite()) {
                return Err(Error::invalid(format!("code: latent {latent} has activation {v}, expected a number ≥ 0")));
            }
            next[latent + 1] += u32::from(v > 0.0);
        }
        let mut active = Vec::new();
        let mut starts = vec![0];
        for latent in 0..latents {
            if next[latent + 1] > 0 {
                active.push(latent as u32);
            }
            next[latent + 1] += next[latent];
            if active.last() == Some(&(latent as u32)) {
                starts.push(next[latent + 1] as usize);
            }
        }
        let total = next[latents] as usize;
        let (mut token, mut kept) = (vec![0; total], vec![0.0; total]);
        for t in 0..tokens {
            for e in offsets[t]..offsets[t + 1] {
                if value[e] > 0.0 {
                    let place = &mut next[index[e] as usize];
                    token[*place as usize] = t as u32;
                    kept[*place as usize] = value[e];
                    *place += 1;
                }
            }
        }
        Ok(Self { tokens, latents: active, starts, token, value: kept })
    }

    /// Tokens of the item.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The latents that fire somewhere on the item, rising.
    #[must_use]
    pub fn active(&self) -> &[u32] {
        &self.latents
    }

    /// The `n`-th active latent with the tokens on which it fires and its activations there.
    #[must_use]
    pub fn nth(&self, n: usize) -> (usize, &[u32], &[f32]) {
        let range = self.starts[n]..self.starts[n + 1];
        (self.latents[n] as usize, &self.token[range.clone()], &self.value[range])
    }

    /// The whole map of a latent, zero where it is silent.
    #[must_use]
    pub fn dense(&self, latent: usize) -> Vec<f32> {
        let mut map = vec![0.0; self.tokens];
        if let Ok(n) = self.latents.binary_search(&(latent as u32)) {
            let (_, tokens, values) = self.nth(n);
            tokens.iter().zip(values).for_each(|(&t, &v)| map[t as usize] = v);
        }
        map
    }

    /// γ of every active latent: the mean of its map over all tokens (Emergence, section 4.1).
    pub fn means(&self) -> impl Iterator<Item = (usize, f32)> + '_ {
        (0..self.latents.len()).map(|n| {
            let (latent, _, values) = self.nth(n);
            (latent, values.iter().sum::<f32>() / self.tokens.max(1) as f32)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_turn_into_maps() {
        // Three tokens (the item starts at entry 1 of a longer code): {4: 2, 1: 3}, {}, {1: 5, 0: 0}.
        let maps = Maps::new(6, &[1, 3, 3, 5], &[9, 4, 1, 1, 0], &[9.0, 2.0, 3.0, 5.0, 0.0]).unwrap();
        assert_eq!(maps.active(), [1, 4]);
        assert_eq!(maps.nth(0), (1, &[0, 2][..], &[3.0, 5.0][..]));
        assert_eq!(maps.dense(1), [3.0, 0.0, 5.0]);
        assert_eq!(maps.dense(4), [2.0, 0.0, 0.0]);
        assert_eq!(maps.dense(0), [0.0; 3]);
        let means: Vec<_> = maps.means().collect();
        assert_eq!(means, [(1, 8.0 / 3.0), (4, 2.0 / 3.0)]);
    }

    #[test]
    fn bad_codes_are_refused() {
        let say = |index: u32, value: f32| Maps::new(6, &[0, 1], &[index], &[value]).unwrap_err().to_string();
        assert!(say(6, 1.0).contains("latent 6 of an SAE with 6"));
        assert!(say(2, f32::NAN).contains("NaN") && say(2, -1.0).contains("-1"));
    }
}
