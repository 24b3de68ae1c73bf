//! Shuffled batches of tokens, in bounded memory.

use super::{Activations, Source};
use crate::error::{Error, Result};
use crate::random::stream;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

/// Derived items that are asked for at once.
const TOGETHER: usize = 64;

/// How well batches were mixed: the share of token pairs of a batch that come from one item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixing {
    /// The share that was found.
    pub same_item: f64,
    /// The share that a uniform shuffle of all tokens has: (T − 1)/(N·T − 1) for N items of T tokens.
    pub chance: f64,
}

/// Batches of tokens in random order; every token comes once.
///
/// Items are drawn in random order into windows that fit the buffer, and all tokens of a window are permuted. The
/// order depends on the seed, the epoch, the items and the buffer only.
#[derive(Debug)]
pub struct Batches {
    from: Activations,
    batch: usize,
    seed: u64,
    epoch: u64,
    /// Items in the order in which windows take them.
    items: Vec<usize>,
    window_items: usize,
    window: Option<Window>,
    position: usize,
    same: f64,
    pairs: f64,
}

/// The tokens that are being handed out.
#[derive(Debug)]
struct Window {
    number: usize,
    /// Tokens of the window in random order.
    order: Vec<usize>,
    /// Tokens of items of the window, read from shards; empty for activations in memory.
    data: Vec<f16>,
}

impl Batches {
    pub(crate) fn new(from: Activations, batch: usize, seed: u64, epoch: u64) -> Result<Self> {
        if batch == 0 || from.tokens() == 0 {
            return Err(Error::invalid(format!("batches of {batch} tokens out of {}", from.tokens())));
        }
        let n = from.len();
        let most = match from.source {
            Source::Memory(_) => n,
            Source::Shards(_) | Source::Derived(_) => {
                (from.buffer / (from.tokens_per_item() * from.d() * 2)).clamp(1, n)
            }
        };
        // Windows of equal size: a small last one would be mixed worse than the others.
        let window_items = n.div_ceil(n.div_ceil(most));
        let items = stream(seed, "order of items", epoch).permutation(n);
        Ok(Self { from, batch, seed, epoch, items, window_items, window: None, position: 0, same: 0.0, pairs: 0.0 })
    }

    /// Goes to token `position` of the order without reading what lies before.
    pub(crate) fn seek(&mut self, position: usize) {
        self.position = position;
    }

    /// Fills `out` with the next batch, `[rows, d]`, and returns its rows: 0 at the end.
    ///
    /// # Errors
    /// If a shard cannot be read or holds a value that is not finite.
    pub fn next_into(&mut self, out: &mut Vec<f32>) -> Result<usize> {
        let (tokens, d) = (self.from.tokens_per_item(), self.from.d());
        let rows = self.batch.min(self.from.tokens() - self.position);
        out.resize(rows * d, 0.0);
        let mut origins = Vec::with_capacity(rows);
        let mut filled = 0;
        while filled < rows {
            let span = self.window_items * tokens;
            let number = self.position / span;
            if self.window.as_ref().is_none_or(|w| w.number != number) {
                self.window = None; // gives its memory back before the next is read
                self.window = Some(self.load(number)?);
            }
            let window = self.window.as_ref().ok_or_else(|| Error::invalid("no window of tokens"))?;
            let start = self.position - number * span;
            let take = (rows - filled).min(window.order.len() - start);
            let order = &window.order[start..start + take];
            let items = &self.items[number * self.window_items..];
            let base = self.from.range.start;
            out[filled * d..(filled + take) * d].par_chunks_mut(64 * d).zip(order.par_chunks(64)).for_each(
                |(rows, order)| {
                    for (row, &token) in rows.chunks_exact_mut(d).zip(order) {
                        match &self.from.source {
                            Source::Memory(data) => {
                                let at = ((base + items[token / tokens]) * tokens + token % tokens) * d;
                                row.copy_from_slice(&data[at..at + d]);
                            }
                            _ => window.data[token * d..(token + 1) * d].convert_to_f32_slice(row),
                        }
                    }
                },
            );
            origins.extend(order.iter().map(|&token| items[token / tokens]));
            filled += take;
            self.position += take;
        }
        self.count_pairs(&mut origins);
        Ok(rows)
    }

    /// Share of same-item pairs in the batches so far, against chance.
    #[must_use]
    pub fn mixing(&self) -> Mixing {
        let chance = (self.from.tokens_per_item() - 1) as f64 / (self.from.tokens() - 1).max(1) as f64;
        Mixing { same_item: self.same / self.pairs.max(1.0), chance }
    }

    fn count_pairs(&mut self, origins: &mut [usize]) {
        let pairs = |n: usize| (n * n.saturating_sub(1)) as f64;
        origins.sort_unstable();
        self.same += origins.chunk_by(|a, b| a == b).map(|run| pairs(run.len())).sum::<f64>();
        self.pairs += pairs(origins.len());
    }

    fn load(&self, number: usize) -> Result<Window> {
        let end = ((number + 1) * self.window_items).min(self.items.len());
        let items = &self.items[number * self.window_items..end];
        let mut random = stream(self.seed, "order of tokens", self.epoch << 32 | number as u64);
        let order = random.permutation(items.len() * self.from.tokens_per_item());
        let size = self.from.tokens_per_item() * self.from.d();
        let read = |fill: &(dyn Fn(&mut [f16], usize) -> Result<()> + Sync)| {
            let mut data = vec![f16::ZERO; items.len() * size];
            data.par_chunks_mut(size).zip(items).try_for_each(|(out, &i)| fill(out, self.from.range.start + i))?;
            Ok::<_, Error>(data)
        };
        let data = match &self.from.source {
            Source::Memory(_) => Vec::new(),
            Source::Shards(shards) => read(&|out, i| {
                out.copy_from_slice(&shards.item(i)?);
                Ok(())
            })?,
            Source::Derived(rows) => {
                let mut data = vec![f16::ZERO; items.len() * size];
                for (out, items) in data.chunks_mut(TOGETHER * size).zip(items.chunks(TOGETHER)) {
                    let wanted: Vec<usize> = items.iter().map(|i| self.from.range.start + i).collect();
                    let found = rows.items(&wanted)?;
                    out.par_chunks_mut(size).zip(&found).zip(&wanted).try_for_each(|((out, item), i)| {
                        out.convert_from_f32_slice(item);
                        match out.iter().position(|v| !v.is_finite()) {
                            None => Ok(()),
                            Some(at) => Err(Error::invalid(format!(
                                "{}: {} at item {i}, row {}, channel {} is beyond half precision (65504)",
                                self.from,
                                item[at],
                                at / self.from.d(),
                                at % self.from.d()
                            ))),
                        }
                    })?;
                }
                data
            }
        };
        Ok(Window { number, order, data })
    }
}

impl Iterator for Batches {
    type Item = Result<Vec<f32>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut out = Vec::new();
        match self.next_into(&mut out) {
            Ok(0) => None,
            Ok(_) => Some(Ok(out)),
            Err(e) => {
                self.position = self.from.tokens(); // an error ends the iteration
                Some(Err(e))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(items: usize) -> Activations {
        Activations::from_vec((2, 4), 2, (0..items * 16).map(|v| (v / 2) as f32).collect()).unwrap()
    }

    #[test]
    fn every_token_comes_once_in_an_order_of_the_seed() {
        let draw = |seed| -> Vec<f32> {
            numbered(30)
                .batches(64, seed)
                .unwrap()
                .flat_map(|b| b.unwrap().chunks(2).map(|r| r[0]).collect::<Vec<_>>())
                .collect()
        };
        let (a, b) = (draw(1), draw(2));
        assert_eq!(a, draw(1));
        assert_ne!(a, b);
        let mut sorted = a.clone();
        sorted.sort_by(f32::total_cmp);
        assert_eq!(sorted, (0..240).map(|v| v as f32).collect::<Vec<_>>());
    }

    #[test]
    fn mixing_in_memory_is_at_chance() {
        let mut batches = numbered(400).batches(512, 0).unwrap();
        while batches.next().is_some() {}
        let Mixing { same_item, chance } = batches.mixing();
        assert!((chance - 7.0 / 3199.0).abs() < 1e-12);
        assert!((same_item / chance - 1.0).abs() < 0.2, "{same_item} against {chance}");
    }

    #[test]
    fn seeking_skips_without_changing_the_order() {
        let all: Vec<Vec<f32>> = numbered(30).batches(32, 5).unwrap().map(|b| b.unwrap()).collect();
        let mut later = numbered(30).batches(32, 5).unwrap();
        later.seek(3 * 32);
        assert_eq!(later.next().unwrap().unwrap(), all[3]);
    }
}
