//! The k largest positive of many numbers, exactly, ties to the lower index.

use super::forward::Found;
use crate::kernels::sparse::{above, at_least, positive_bits};

/// One of so many chunks of scores is in the sample from which a row's threshold is guessed.
const SAMPLED: usize = 8;

/// Scores of such a chunk.
const CHUNK: usize = 16;

/// Finds the k largest positive scores of one row after another.
///
/// A sample of the row says above which score there are somewhat more than k; these are collected, and the k largest of
/// them found by halving an interval of thresholds, in which counting is vectorised and nothing is moved. If the sample
/// was wrong, all positive scores are collected: what is found does not depend on it.
#[derive(Debug)]
pub(crate) struct Selector {
    k: usize,
    /// Where the scores collected stand, and their bits: of positive floats in the same order.
    index: Vec<u32>,
    bits: Vec<i32>,
    sample: Vec<i32>,
    /// Scores and biases of the latents to select among.
    scores: Vec<f32>,
    bias: Vec<f32>,
}

impl Selector {
    pub(crate) fn new(k: usize) -> Self {
        let (index, bits, sample) = (Vec::new(), Vec::new(), Vec::new());
        Self { k, index, bits, sample, scores: Vec::new(), bias: Vec::new() }
    }

    /// Appends the k largest positive of `scores[i] + bias[i]` to `found`, by rising index.
    pub(crate) fn row(&mut self, scores: &[f32], bias: &[f32], found: &mut Found) {
        let threshold = self.guess(scores, bias);
        self.collect(scores, bias, threshold);
        if self.bits.len() < self.k && threshold > 0.0 {
            self.collect(scores, bias, 0.0);
        }
        self.keep(found);
    }

    /// The same among the latents in `among` only, which rise.
    pub(crate) fn row_among(&mut self, among: &[u32], scores: &[f32], bias: &[f32], found: &mut Found) {
        if among.len() == scores.len() {
            return self.row(scores, bias, found);
        }
        let (mut some, mut biases) = (std::mem::take(&mut self.scores), std::mem::take(&mut self.bias));
        some.clear();
        some.extend(among.iter().map(|&i| scores[i as usize]));
        biases.clear();
        biases.extend(among.iter().map(|&i| bias[i as usize]));
        let before = found.index.len();
        self.row(&some, &biases, found);
        found.index[before..].iter_mut().for_each(|i| *i = among[*i as usize]);
        (self.scores, self.bias) = (some, biases);
    }

    /// A threshold above which there probably are at least k scores, and not many more.
    fn guess(&mut self, scores: &[f32], bias: &[f32]) -> f32 {
        let expected = self.k as f32 / SAMPLED as f32;
        // So many of the sample that fewer than k of the row are unlikely.
        let rank = (expected + 2.5 * expected.sqrt() + 2.0) as usize;
        let step = SAMPLED * CHUNK;
        if scores.len() / SAMPLED < 2 * rank || scores.len() < 2 * step {
            return 0.0;
        }
        self.sample.resize(scores.len() / step * CHUNK, 0);
        let chunks = scores.chunks_exact(step).zip(bias.chunks_exact(step));
        for ((scores, bias), sample) in chunks.zip(self.sample.chunks_exact_mut(CHUNK)) {
            positive_bits(&scores[..CHUNK], &bias[..CHUNK], sample);
        }
        // Anything at least this is above the number before it.
        cut(&self.sample, rank, rank + rank / 8 + 1).map_or(0.0, |least| f32::from_bits(least as u32 - 1))
    }

    fn collect(&mut self, scores: &[f32], bias: &[f32], threshold: f32) {
        let Self { index, bits, .. } = self;
        index.clear();
        bits.clear();
        above(scores, bias, threshold, |i, score| {
            index.push(i as u32);
            bits.push(score.to_bits() as i32);
        });
    }

    /// Appends the k largest of what was collected.
    fn keep(&self, found: &mut Found) {
        let least = cut(&self.bits, self.k, self.k).unwrap_or(1);
        // More than k are at least this if several are equal: the first of them are kept.
        let mut equal = self.k.saturating_sub(at_least(&self.bits, least.saturating_add(1)));
        for (&i, &bits) in self.index.iter().zip(&self.bits) {
            if bits > least || (bits == least && equal > 0) {
                equal -= usize::from(bits == least);
                found.index.push(i);
                found.value.push(f32::from_bits(bits as u32));
            }
        }
    }
}

/// A number above 0 such that at least `fewest` and at most `most` of `values` are not below it; where equal values leave
/// none, the largest with at least `fewest`. `None` if fewer are above 0.
fn cut(values: &[i32], fewest: usize, most: usize) -> Option<i32> {
    // At least `fewest` are not below `low`, fewer not below `high`.
    let (mut low, mut high) = (1, values.iter().copied().max()?.max(0).saturating_add(1));
    if at_least(values, low) < fewest {
        return None;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        match at_least(values, middle) {
            count if count < fewest => high = middle,
            count if count <= most => return Some(middle),
            _ => low = middle,
        }
    }
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    /// Sorts everything.
    fn plainly(scores: &[f32], bias: &[f32], k: usize) -> Vec<(u32, f32)> {
        let mut all: Vec<(u32, f32)> =
            scores.iter().zip(bias).map(|(s, b)| s + b).enumerate().map(|(i, v)| (i as u32, v)).collect();
        all.retain(|x| x.1 > 0.0);
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(k);
        all.sort_by_key(|x| x.0);
        all
    }

    fn found(find: impl FnOnce(&mut Found)) -> Vec<(u32, f32)> {
        let mut found = Found::default();
        find(&mut found);
        found.index.into_iter().zip(found.value).collect()
    }

    #[test]
    fn selects_what_sorting_selects() {
        let mut random = stream(0, "select", 0);
        for (n, k) in [(5, 3), (100, 1), (1000, 20), (1000, 200), (333, 333), (70, 500), (5000, 20), (5000, 256)] {
            let mut selector = Selector::new(k);
            for round in 0..20 {
                // Rounded scores make ties.
                let scores: Vec<f32> = (0..n).map(|_| (random.normal() * 4.0).round() / 4.0).collect();
                let bias: Vec<f32> = (0..n).map(|i| if i % 7 == round % 7 { 0.5 } else { 0.0 }).collect();
                assert_eq!(found(|f| selector.row(&scores, &bias, f)), plainly(&scores, &bias, k), "n {n}, k {k}");
            }
        }
    }

    #[test]
    fn a_sample_that_misleads_changes_nothing() {
        // What is sampled is larger than the rest, or smaller; or all are equal.
        for factor in [4.0, 0.25, 0.0] {
            let scores: Vec<f32> = (0..4000)
                .map(|i| {
                    let sampled = i % (SAMPLED * CHUNK) < CHUNK;
                    if factor == 0.0 { 1.0 } else { ((i * 37) % 1009) as f32 * if sampled { factor } else { 1.0 } }
                })
                .collect();
            let bias = vec![-0.5; 4000];
            let mut selector = Selector::new(100);
            assert_eq!(found(|f| selector.row(&scores, &bias, f)), plainly(&scores, &bias, 100), "{factor}");
        }
    }

    #[test]
    fn nothing_positive_selects_nothing() {
        let mut selector = Selector::new(2);
        assert_eq!(found(|f| selector.row(&[-1.0; 40], &[0.5; 40], f)), []);
        let among = found(|f| selector.row_among(&[3, 9, 11], &[1.0; 40], &[0.5; 40], f));
        assert_eq!(among, [(3, 1.5), (9, 1.5)]);
    }
}
