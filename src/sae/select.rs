//! The k largest positive of many numbers, exactly, ties to the lower index.

use crate::kernels::sparse::above;

/// Finds the k largest positive scores of one row after another.
///
/// Candidates above the running threshold are collected; whenever twice k are at hand, the lower half goes and the
/// threshold rises. A row of n scores costs one vectorised pass and about k·ln(n/k) candidates.
#[derive(Debug)]
pub(crate) struct Selector {
    k: usize,
    /// Score in the upper half (positive floats order like their bits), complement of the index in the lower.
    keys: Vec<u64>,
    threshold: f32,
}

impl Selector {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, keys: Vec::with_capacity(Self::room(k)), threshold: 0.0 }
    }

    fn room(k: usize) -> usize {
        // At least 64, so that small k do not cut all the time.
        (2 * k).max(64)
    }

    /// The k largest positive of `scores[i] + bias[i]`: writes index and score by rising index, returns how many.
    pub(crate) fn row(&mut self, scores: &[f32], bias: &[f32], index: &mut [u32], value: &mut [f32]) -> usize {
        self.start();
        above(scores, bias, 0.0, |i, score, _| {
            self.offer(score, i);
            self.threshold
        });
        self.finish(index, value)
    }

    /// The same among the latents in `among` only.
    pub(crate) fn row_among(
        &mut self,
        among: &[u32],
        scores: &[f32],
        bias: &[f32],
        index: &mut [u32],
        value: &mut [f32],
    ) -> usize {
        self.start();
        for &i in among {
            self.offer(scores[i as usize] + bias[i as usize], i as usize);
        }
        self.finish(index, value)
    }

    fn start(&mut self) {
        self.keys.clear();
        self.threshold = 0.0;
    }

    fn offer(&mut self, score: f32, index: usize) {
        if score > self.threshold {
            self.keys.push(u64::from(score.to_bits()) << 32 | u64::from(!(index as u32)));
            if self.keys.len() == Self::room(self.k) {
                self.cut();
            }
        }
    }

    /// Keeps the k largest.
    fn cut(&mut self) {
        if self.keys.len() > self.k {
            // Indices rise within a row, so a later equal score never displaces an earlier one: `>` above is exact.
            let (_, smallest, _) = self.keys.select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a));
            self.threshold = f32::from_bits((*smallest >> 32) as u32);
            self.keys.truncate(self.k);
        }
    }

    fn finish(&mut self, index: &mut [u32], value: &mut [f32]) -> usize {
        self.cut();
        self.keys.sort_unstable_by_key(|&key| !(key as u32));
        for ((key, index), value) in self.keys.iter().zip(index).zip(value) {
            *index = !(*key as u32);
            *value = f32::from_bits((key >> 32) as u32);
        }
        self.keys.len()
    }
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

    #[test]
    fn selects_what_sorting_selects() {
        let mut random = stream(0, "select", 0);
        for (n, k) in [(5, 3), (100, 1), (1000, 20), (1000, 200), (333, 333), (70, 500)] {
            let mut selector = Selector::new(k);
            for round in 0..20 {
                // Rounded scores make ties.
                let scores: Vec<f32> = (0..n).map(|_| (random.normal() * 4.0).round() / 4.0).collect();
                let bias: Vec<f32> = (0..n).map(|i| if i % 7 == round % 7 { 0.5 } else { 0.0 }).collect();
                let (mut index, mut value) = (vec![0; k], vec![0.0; k]);
                let count = selector.row(&scores, &bias, &mut index, &mut value);
                let found: Vec<(u32, f32)> = index.iter().copied().zip(value.iter().copied()).take(count).collect();
                assert_eq!(found, plainly(&scores, &bias, k), "n {n}, k {k}");
            }
        }
    }

    #[test]
    fn nothing_positive_selects_nothing() {
        let mut selector = Selector::new(2);
        assert_eq!(selector.row(&[-1.0; 40], &[0.5; 40], &mut [0; 2], &mut [0.0; 2]), 0);
        assert_eq!(selector.row_among(&[3, 9], &[1.0; 40], &[0.5; 40], &mut [0; 2], &mut [0.0; 2]), 2);
    }
}
