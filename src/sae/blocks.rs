//! The sparse sums of a step where entries are many: taken panel by panel, so that what is read stays in the cache.
//!
//! A token with few entries reads a few rows of the dictionary, and no order of reading helps. Where a token has
//! hundreds (a large k, AuxK, the dense start of ReLU), each row is read by many tokens: entries are sorted by panel of
//! 256 latents, and the panels taken one after another while the next is fetched. Gradients are the same sums with
//! tokens and latents in exchange. The order of every sum depends on the shapes and the number of entries alone.

use super::codes::ByLatent;
use crate::kernels::gathered::{Panel, Panels, ROWS, WIDTH, add_picked, dot_picked, prefetch};
use crate::kernels::sparse::add_rows;
use std::ops::Range;

/// Share of tokens × latents from which entries are taken in panels: a panel then has several entries of a token, which
/// share the reading and writing of its row. (Batch 4096, d 1280, 5120 latents: at .4 % a step takes 4 % more processor
/// time in panels than entry by entry, at .6 % as much. Of 5 %, panels make 1.7 products of 2.9.)
const DENSE: f64 = 0.01;

/// Tokens, or latents in the update, that one thread takes at a time if entries are taken in panels. Their parts of 128
/// channels take 256 KB; more would share a panel, but leave fewer pieces of work.
pub(crate) const AT_ONCE: usize = 512;

/// Whether so many entries are taken in panels.
pub(crate) fn pay(entries: usize, tokens: usize, latents: usize) -> bool {
    entries as f64 > DENSE * tokens as f64 * latents as f64
}

/// Entries of a sparse matrix S, in the order of the panels of a matrix M with which it is multiplied: by panel, within
/// it by row of S.
pub(crate) struct Blocked {
    rows: usize,
    /// The first panel.
    first: usize,
    /// Where the entries of every row begin, panel by panel; and the end.
    starts: Vec<usize>,
    /// Rows of the panel.
    picks: Vec<u8>,
    /// Which entry of S it is.
    entry: Vec<u32>,
}

impl Blocked {
    /// Row i of S has the entries `offsets[i]..offsets[i + 1]`: entry e meets the row `within.start + columns[e]` of M,
    /// which lies in `within`.
    pub(crate) fn new(offsets: &[usize], columns: &[u32], within: Range<usize>) -> Self {
        let (rows, first) = (offsets.len() - 1, within.start / ROWS);
        let all = offsets[0]..offsets[rows];
        let mut starts = vec![0; (within.end.div_ceil(ROWS) - first) * rows + 1];
        let met = |e: usize| within.start + columns[e] as usize;
        let cell = |row: usize, e: usize| (met(e) / ROWS - first) * rows + row;
        let each = || (0..rows).flat_map(|row| (offsets[row]..offsets[row + 1]).map(move |e| (row, e)));
        for (row, e) in each() {
            starts[cell(row, e) + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let (mut next, mut picks, mut entry) = (starts.clone(), vec![0; all.len()], vec![0; all.len()]);
        for (row, e) in each() {
            let next = &mut next[cell(row, e)];
            (picks[*next], entry[*next]) = ((met(e) % ROWS) as u8, (e - all.start) as u32);
            *next += 1;
        }
        Self { rows, first, starts, picks, entry }
    }

    /// What entries have, in the order of this; `values` begin with those of the first row.
    pub(crate) fn ordered(&self, values: &[f32]) -> Vec<f32> {
        self.entry.iter().map(|&e| values[e as usize]).collect()
    }

    /// y += S M, with the values of S in the order of this, y in rows of `d`.
    pub(crate) fn add(&self, values: &[f32], matrix: &Panels, d: usize, y: &mut [f32]) {
        self.each(matrix, d, |panel, row, entries, channels| {
            let y = &mut y[row * d + channels.start..row * d + channels.end];
            add_picked(y, &values[entries.clone()], &self.picks[entries], panel);
        });
    }

    /// ⟨M_j, y_i⟩ for every entry (i, j), in the order of entries.
    pub(crate) fn dot(&self, matrix: &Panels, d: usize, y: &[f32], found: &mut [f32]) {
        let mut sums = vec![0.0; self.entry.len()];
        self.each(matrix, d, |panel, row, entries, channels| {
            let y = &y[row * d + channels.start..row * d + channels.end];
            dot_picked(&mut sums[entries.clone()], y, &self.picks[entries], panel);
        });
        for (sum, &e) in sums.iter().zip(&self.entry) {
            found[e as usize] = *sum;
        }
    }

    /// Calls `visit` with every panel of the matrix, every row that has entries in it, these and the panel's channels.
    fn each(&self, matrix: &Panels, d: usize, mut visit: impl FnMut(&Panel, usize, Range<usize>, Range<usize>)) {
        let panels = (self.starts.len() - 1) / self.rows.max(1);
        for from in (0..d).step_by(WIDTH) {
            let channels = from..(from + WIDTH).min(d);
            for p in 0..panels {
                let panel = matrix.panel(self.first + p, from / WIDTH);
                // The next panel is on its way while this one is used.
                let mut coming = match p + 1 < panels {
                    true => &matrix.panel(self.first + p + 1, from / WIDTH)[..],
                    false => &[],
                }
                .chunks(panel.len() / self.rows.clamp(1, ROWS));
                for (row, bounds) in self.starts[p * self.rows..=(p + 1) * self.rows].windows(2).enumerate() {
                    if bounds[0] < bounds[1] {
                        visit(panel, row, bounds[0]..bounds[1], channels.clone());
                    }
                    prefetch(coming.next().unwrap_or_default());
                }
            }
        }
    }
}

/// What gradients are summed from: a batch, or a residual, in rows and, where entries are many, in panels.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) panels: &'a Panels,
    /// The row of the first token.
    pub(crate) first: usize,
}

/// Adds Σ s·xc to the rows of `g_enc` and, where decoder rows learn from a residual `r`, Σ z·r to those of `g_dec`, for the
/// latents from `first` on; and Σ s to `sums`. Panels are read if they [`pay`] for all entries.
#[allow(clippy::too_many_arguments)]
pub(crate) fn gather(
    entries: &ByLatent,
    first: usize,
    (tokens, d): (usize, usize),
    xc: Rows<'_>,
    r: Option<Rows<'_>>,
    g_enc: &mut [f32],
    g_dec: &mut [f32],
    sums: &mut [f32],
) {
    let latents = sums.len();
    let offsets = &entries.offsets[first..=first + latents];
    let all = offsets[0]..offsets[latents];
    if all.is_empty() {
        return;
    }
    for (sum, bounds) in sums.iter_mut().zip(offsets.windows(2)) {
        *sum += entries.slope[bounds[0]..bounds[1]].iter().sum::<f32>();
    }
    let part = |range: Range<usize>, values: &[f32], from: Rows<'_>, to: &mut [f32]| {
        let rows = &from.rows[from.first * d..(from.first + tokens) * d];
        add_rows(to, &values[range.clone()], &entries.token[range], rows);
    };
    if pay(entries.token.len(), tokens, entries.offsets.len() - 2) {
        let order = |from: Rows<'_>| Blocked::new(offsets, &entries.token, from.first..from.first + tokens);
        let blocked = order(xc);
        blocked.add(&blocked.ordered(&entries.slope[all.clone()]), xc.panels, d, g_enc);
        if let Some(r) = r {
            let blocked = if r.first == xc.first { blocked } else { order(r) };
            blocked.add(&blocked.ordered(&entries.value[all]), r.panels, d, g_dec);
        }
        return;
    }
    for ((g_enc, g_dec), bounds) in g_enc.chunks_exact_mut(d).zip(g_dec.chunks_exact_mut(d)).zip(offsets.windows(2)) {
        part(bounds[0]..bounds[1], &entries.slope, xc, g_enc);
        if let Some(r) = r {
            part(bounds[0]..bounds[1], &entries.value, r, g_dec);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::sparse::{add_scaled, dot};
    use crate::random::stream;
    use crate::sae::codes::Codes;
    use crate::sae::forward;
    use crate::sae::weights::Weights;

    /// Codes with the given share of all entries.
    fn codes(tokens: usize, latents: usize, share: f32) -> Codes {
        let mut random = stream(4, "blocks", latents as u64);
        let mut codes = Codes::empty(latents);
        for _ in 0..tokens {
            for j in 0..latents {
                if random.range(0.0, 1.0) < share {
                    codes.index.push(j as u32);
                    codes.value.push(random.range(0.1, 1.0));
                }
            }
            codes.offsets.push(codes.index.len());
        }
        codes
    }

    fn close(a: &[f32], b: &[f32]) {
        let far = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(a.len() == b.len() && far < 2e-3, "{far}");
    }

    #[test]
    fn blocks_find_what_entries_one_by_one_find() {
        // Neither latents, tokens nor channels fill their last panel.
        let (tokens, latents, d) = (600, 700, 270);
        let mut random = stream(5, "blocks", 0);
        let w_dec = random.normals(latents * d);
        let weights = Weights { d, latents, w_enc: Vec::new(), b_enc: Vec::new(), w_dec, b_dec: vec![0.0; d] };
        let target = random.normals(tokens * d);
        let codes = codes(tokens, latents, 0.03);
        assert!(pay(codes.index.len(), tokens, latents));
        let (mut r, mut slopes) = (vec![9.0; tokens * d], vec![9.0; codes.index.len()]);
        let mut panels = Panels::default();
        panels.fill(&weights.w_dec, d);
        let found = forward::residuals(&weights, &panels, &codes, &target, -1.0, &mut r, &mut slopes);
        let (mut squares, mut sum) = (0.0, vec![0.0f32; d]);
        for t in 0..tokens {
            let (index, value) = codes.token(t);
            let mut row: Vec<f32> = target[t * d..(t + 1) * d].to_vec();
            add_rows(&mut row, value, index, &weights.w_dec);
            close(&row, &r[t * d..(t + 1) * d]);
            let expected: Vec<f32> =
                index.iter().map(|&j| dot(&row, &weights.w_dec[j as usize * d..(j as usize + 1) * d])).collect();
            close(&expected, &slopes[codes.offsets[t]..codes.offsets[t + 1]]);
            squares += f64::from(dot(&row, &row));
            add_scaled(&mut sum, 1.0, &row);
        }
        assert!((found.squares / squares - 1.0).abs() < 1e-5);
        close(&sum, &found.sum);

        let mut entries = ByLatent::default();
        entries.sort(&codes, &slopes);
        let (first, n) = (512, latents - 512);
        let (mut g_enc, mut g_dec, mut sums) = (vec![1.0; n * d], vec![2.0; n * d], vec![3.0; n]);
        let half = n / 2;
        // The residual is the second of two, which begins within a panel.
        let twice = [target.clone(), r.clone()].concat();
        panels.fill(&target, d);
        let mut of_r = Panels::default();
        of_r.fill(&twice, d);
        let xc = Rows { rows: &target, panels: &panels, first: 0 };
        let learns = Rows { rows: &twice, panels: &of_r, first: tokens };
        for (from, to, r) in [(0, 1, Some(learns)), (1, half, Some(learns)), (half, n, None)] {
            let (g_enc, g_dec) = (&mut g_enc[from * d..to * d], &mut g_dec[from * d..to * d]);
            gather(&entries, first + from, (tokens, d), xc, r, g_enc, g_dec, &mut sums[from..to]);
        }
        for j in first..latents {
            let range = entries.offsets[j]..entries.offsets[j + 1];
            let (mut enc, mut dec) = (vec![1.0; d], vec![2.0; d]);
            add_rows(&mut enc, &entries.slope[range.clone()], &entries.token[range.clone()], &target);
            if j - first < half {
                add_rows(&mut dec, &entries.value[range.clone()], &entries.token[range.clone()], &r);
            }
            let scale = 1.0 / range.len() as f32; // sums of many large slopes
            let scaled = |x: &[f32]| x.iter().map(|v| v * scale).collect::<Vec<_>>();
            let (row, j) = ((j - first) * d..(j - first + 1) * d, j - first);
            close(&scaled(&enc), &scaled(&g_enc[row.clone()]));
            close(&scaled(&dec), &scaled(&g_dec[row]));
            close(&scaled(&[3.0 + entries.slope[range].iter().sum::<f32>()]), &scaled(&sums[j..=j]));
        }
    }
}
