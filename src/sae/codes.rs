//! Sparse codes: for every token the few latents that fire, and how strongly.

use rayon::prelude::*;

/// Pieces in which entries are sorted by latent.
const PARTS: usize = 4;

/// Sparse latent activations of a list of tokens, in compressed rows: within a token by rising latent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Codes {
    /// Number of latents of the SAE.
    pub latents: usize,
    /// Tokens of one item (all of them, if the tokens have no items).
    pub tokens_per_item: usize,
    /// Entries of token `t` are `offsets[t]..offsets[t + 1]`.
    pub offsets: Vec<usize>,
    /// The latent of every entry.
    pub index: Vec<u32>,
    /// The activation of every entry.
    pub value: Vec<f32>,
}

impl Codes {
    pub(crate) fn empty(latents: usize) -> Self {
        Self { latents, tokens_per_item: 0, offsets: vec![0], index: Vec::new(), value: Vec::new() }
    }

    pub(crate) fn clear(&mut self) {
        self.offsets.truncate(1);
        self.index.clear();
        self.value.clear();
    }

    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of items.
    #[must_use]
    pub fn items(&self) -> usize {
        self.tokens() / self.tokens_per_item.max(1)
    }

    /// The latents that fire on token `t`, and their activations.
    #[must_use]
    pub fn token(&self, t: usize) -> (&[u32], &[f32]) {
        let range = self.offsets[t]..self.offsets[t + 1];
        (&self.index[range.clone()], &self.value[range])
    }

    /// The activation of `latent` on token `t`: 0 where it does not fire.
    #[must_use]
    pub fn get(&self, t: usize, latent: usize) -> f32 {
        let (index, value) = self.token(t);
        index.binary_search(&(latent as u32)).map_or(0.0, |at| value[at])
    }

    /// The activation map of `latent` on item `item`: one number a token, row by row.
    #[must_use]
    pub fn map(&self, latent: usize, item: usize) -> Vec<f32> {
        let first = item * self.tokens_per_item;
        (first..first + self.tokens_per_item).map(|t| self.get(t, latent)).collect()
    }

    /// How many tokens each latent fires on.
    #[must_use]
    pub fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.latents];
        for &latent in &self.index {
            counts[latent as usize] += 1;
        }
        counts
    }

    /// Mean number of latents that fire on a token.
    #[must_use]
    pub fn l0(&self) -> f64 {
        self.index.len() as f64 / self.tokens().max(1) as f64
    }

    /// Drops all but the `most` largest entries, of equal ones the last; returns the smallest that stays. Without
    /// anything to drop it returns 0.
    ///
    /// All values must be positive: their order is then that of their bits, for which `bits` is room.
    pub(crate) fn keep_largest(&mut self, most: usize, bits: &mut Vec<u32>) -> f32 {
        if self.value.len() <= most {
            return 0.0;
        }
        bits.clear();
        bits.extend(self.value.iter().map(|v| v.to_bits()));
        let (larger, smallest, _) = bits.select_nth_unstable_by(most - 1, |a, b| b.cmp(a));
        let smallest = f32::from_bits(*smallest);
        let mut equal = most - larger.iter().filter(|b| f32::from_bits(**b) > smallest).count();
        self.retain(|value| {
            let tie = value == smallest && equal > 0;
            equal -= usize::from(tie);
            value > smallest || tie
        });
        smallest
    }

    /// Keeps the entries whose values `keep` says yes to, asked in order; returns which they were.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(f32) -> bool) -> Vec<usize> {
        let (mut start, mut kept) = (0, Vec::with_capacity(self.value.len()));
        for offset in &mut self.offsets[1..] {
            for e in start..*offset {
                if keep(self.value[e]) {
                    let to = kept.len();
                    (self.index[to], self.value[to]) = (self.index[e], self.value[e]);
                    kept.push(e);
                }
            }
            start = *offset;
            *offset = kept.len();
        }
        self.index.truncate(kept.len());
        self.value.truncate(kept.len());
        kept
    }

    /// Adds the tokens of `other` behind these.
    pub(crate) fn append(&mut self, other: &Codes) {
        let base = self.index.len();
        self.offsets.extend(other.offsets[1..].iter().map(|o| base + o));
        self.index.extend_from_slice(&other.index);
        self.value.extend_from_slice(&other.value);
    }
}

/// Entries of codes ordered by latent: what the weights' gradients run over.
#[derive(Debug, Default)]
pub(crate) struct ByLatent {
    /// Entries of latent `j` are `offsets[j]..offsets[j + 1]`.
    pub(crate) offsets: Vec<usize>,
    pub(crate) token: Vec<u32>,
    pub(crate) value: Vec<f32>,
    pub(crate) slope: Vec<f32>,
}

impl ByLatent {
    /// Counting sort of the entries of `codes`, each with the loss's slope in it; tokens rise within a latent.
    pub(crate) fn sort(&mut self, codes: &Codes, slopes: &[f32]) {
        let (latents, entries) = (codes.latents, codes.index.len());
        self.offsets.clear();
        self.offsets.resize(latents + 2, 0);
        // Shifted by two: after the sum, offsets[j + 1] is where latent j starts, and filling moves it to its end.
        for &j in &codes.index {
            self.offsets[j as usize + 2] += 1;
        }
        for j in 2..latents + 2 {
            self.offsets[j] += self.offsets[j - 1];
        }
        self.token.resize(entries, 0);
        self.value.resize(entries, 0.0);
        self.slope.resize(entries, 0.0);
        // Threads take latents, so that each writes to places of its own.
        let at_once = latents.div_ceil(PARTS).max(1);
        let (offsets, _) = self.offsets[1..].split_at_mut(latents);
        let (mut token, mut value, mut slope) = (&mut self.token[..], &mut self.value[..], &mut self.slope[..]);
        let mut jobs = Vec::with_capacity(PARTS);
        let mut begins = offsets.chunks_mut(at_once).peekable();
        while let Some(next) = begins.next() {
            let begin = next[0];
            let until = begins.peek().map_or(entries, |later| later[0]);
            let (mine, others) = std::mem::take(&mut token).split_at_mut(until - begin);
            let (my_value, other_values) = std::mem::take(&mut value).split_at_mut(until - begin);
            let (my_slope, other_slopes) = std::mem::take(&mut slope).split_at_mut(until - begin);
            (token, value, slope) = (others, other_values, other_slopes);
            jobs.push((begin, next, mine, my_value, my_slope));
        }
        jobs.into_par_iter().enumerate().for_each(|(number, (begin, next, token, value, slope))| {
            let first = number * at_once;
            for t in 0..codes.tokens() {
                let index = codes.token(t).0;
                let from = index.partition_point(|&j| (j as usize) < first);
                for (e, &j) in index.iter().enumerate().skip(from) {
                    let Some(next) = next.get_mut(j as usize - first) else { break };
                    let (to, e) = (*next - begin, codes.offsets[t] + e);
                    (token[to], value[to], slope[to]) = (t as u32, codes.value[e], slopes[e]);
                    *next += 1;
                }
            }
        });
    }

    /// No entry of any latent.
    pub(crate) fn clear(&mut self, latents: usize) {
        self.offsets.clear();
        self.offsets.resize(latents + 2, 0);
        self.token.clear();
        self.value.clear();
        self.slope.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes() -> Codes {
        let (index, value) = (vec![1, 3, 0, 3, 4], vec![1.0, 2.0, 3.0, 4.0, 5.0]);
        Codes { latents: 5, tokens_per_item: 2, offsets: vec![0, 2, 2, 5, 5], index, value }
    }

    #[test]
    fn maps_and_counts() {
        let codes = codes();
        assert_eq!((codes.tokens(), codes.items()), (4, 2));
        assert_eq!(codes.map(3, 0), [2.0, 0.0]);
        assert_eq!(codes.map(3, 1), [4.0, 0.0]);
        assert_eq!(codes.counts(), [1, 1, 0, 2, 1]);
        assert_eq!(codes.l0(), 1.25);
    }

    #[test]
    fn the_largest_of_all_tokens_stay_and_of_equal_ones_the_first() {
        let value = vec![3.0, 1.0, 2.0, 2.0, 5.0, 2.0];
        let mut codes = Codes {
            latents: 9,
            tokens_per_item: 4,
            offsets: vec![0, 2, 3, 3, 6],
            index: vec![0, 4, 2, 1, 3, 8],
            value,
        };
        assert_eq!(codes.keep_largest(6, &mut Vec::new()), 0.0);
        assert_eq!(codes.keep_largest(4, &mut Vec::new()), 2.0);
        assert_eq!((codes.index, codes.value), (vec![0, 2, 1, 3], vec![3.0, 2.0, 2.0, 5.0]));
        assert_eq!(codes.offsets, [0, 1, 2, 2, 4]);
    }

    #[test]
    fn sorting_by_latent_keeps_entries_together() {
        let mut sorted = ByLatent::default();
        for _ in 0..2 {
            sorted.sort(&codes(), &[0.1, 0.2, 0.3, 0.4, 0.5]);
            assert_eq!(sorted.offsets[..6], [0, 1, 2, 2, 4, 5]);
            assert_eq!(sorted.token, [2, 0, 0, 2, 2]);
            assert_eq!(sorted.value, [3.0, 1.0, 2.0, 4.0, 5.0]);
            assert_eq!(sorted.slope, [0.3, 0.1, 0.2, 0.4, 0.5]);
        }
    }
}
