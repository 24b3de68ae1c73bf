//! The sparse sums of a step where entries are many: taken panel by panel, so that what is read stays in the cache.
//!
//! A token with few entries reads a few rows of the dictionary, and no order of reading helps. Where a token has
//! hundreds (a large k, AuxK, the dense start of ReLU), each row is read by many tokens: entries are sorted by panel of
//! 256 latents, and the panels taken one after another while the next is fetched. Gradients are the same sums with
//! tokens and latents in exchange. The order of every sum depends on the shapes and the number of entries alone.

use super::codes::{ByLatent, Codes};
use crate::kernels::gathered::{Panel, Panels, ROWS, WIDTH, add_and_dot_picked, add_picked, dot_picked, prefetch};
use crate::kernels::sparse::add_rows;
use std::cell::RefCell;
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
#[derive(Default)]
pub(crate) struct Blocked {
    rows: usize,
    /// The first panel.
    first: usize,
    /// Where the entries of every row begin, panel by panel; and the end.
    starts: Vec<usize>,
    /// Where the next entry of every row goes while they are put in order.
    next: Vec<usize>,
    /// Rows of the panel.
    picks: Vec<u8>,
    /// Which entry of S it is, where S is not transposed.
    entry: Vec<u32>,
    /// Which entries of every token are of the latents in question, where it is.
    runs: Vec<Range<usize>>,
    /// What entries have, or get, in this order.
    values: Vec<f32>,
    sums: Vec<f32>,
}

thread_local! {
    /// The room of the last piece of work serves the next: memory that is given back to the system comes again page by
    /// page.
    static ROOM: RefCell<Blocked> = RefCell::default();
}

impl Blocked {
    /// Works with entries in order: row i of S has the entries `offsets[i]..offsets[i + 1]`; entry e meets the row
    /// `within.start + columns[e]` of M, which lies in `within`. The work may not begin other work of this kind.
    pub(crate) fn with<T>(
        offsets: &[usize],
        columns: &[u32],
        within: Range<usize>,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        ROOM.with_borrow_mut(|blocked| {
            blocked.put(offsets, columns, within);
            work(blocked)
        })
    }

    /// The same where S are some latents of the codes, transposed, with their values; M has a row for every token.
    fn with_latents<T>(codes: &Codes, latents: Range<usize>, work: impl FnOnce(&mut Self) -> T) -> T {
        ROOM.with_borrow_mut(|blocked| {
            blocked.put_latents(codes, latents);
            work(blocked)
        })
    }

    fn put_latents(&mut self, codes: &Codes, latents: Range<usize>) {
        let rows = latents.len();
        let Self { starts, next, picks, runs, values, .. } = self;
        starts.clear();
        starts.resize(codes.tokens().div_ceil(ROWS) * rows + 1, 0);
        let cell = |token: usize, e: usize| token / ROWS * rows + codes.index[e] as usize - latents.start;
        runs.clear();
        for (token, bounds) in codes.offsets.windows(2).enumerate() {
            let index = &codes.index[bounds[0]..bounds[1]];
            let before = |latent: usize| bounds[0] + below(index, latent, codes.latents);
            let run = before(latents.start)..before(latents.end);
            for e in run.clone() {
                starts[cell(token, e) + 1] += 1;
            }
            runs.push(run);
        }
        let entries = begin(starts, next);
        picks.resize(entries, 0);
        values.resize(entries, 0.0);
        for (token, run) in runs.iter().enumerate() {
            for e in run.clone() {
                let next = &mut next[cell(token, e)];
                (picks[*next], values[*next]) = ((token % ROWS) as u8, codes.value[e]);
                *next += 1;
            }
        }
        (self.rows, self.first) = (rows, 0);
    }

    fn put(&mut self, offsets: &[usize], columns: &[u32], within: Range<usize>) {
        let (rows, first) = (offsets.len() - 1, within.start / ROWS);
        let all = offsets[0]..offsets[rows];
        let Self { starts, next, picks, entry, .. } = self;
        starts.clear();
        starts.resize((within.end.div_ceil(ROWS) - first) * rows + 1, 0);
        let met = |e: usize| within.start + columns[e] as usize;
        let cell = |row: usize, e: usize| (met(e) / ROWS - first) * rows + row;
        let each = || (0..rows).flat_map(|row| (offsets[row]..offsets[row + 1]).map(move |e| (row, e)));
        for (row, e) in each() {
            starts[cell(row, e) + 1] += 1;
        }
        begin(starts, next);
        picks.resize(all.len(), 0);
        entry.resize(all.len(), 0);
        for (row, e) in each() {
            let next = &mut next[cell(row, e)];
            (picks[*next], entry[*next]) = ((met(e) % ROWS) as u8, (e - all.start) as u32);
            *next += 1;
        }
        (self.rows, self.first) = (rows, first);
    }

    /// y += S M for y in rows of `d`; the values of S begin with those of the first row.
    pub(crate) fn add(&mut self, values: &[f32], matrix: &Panels, d: usize, y: &mut [f32]) {
        self.order(values);
        self.add_ordered(matrix, d, y);
    }

    fn order(&mut self, values: &[f32]) {
        self.values.clear();
        self.values.extend(self.entry.iter().map(|&e| values[e as usize]));
    }

    fn add_ordered(&self, matrix: &Panels, d: usize, y: &mut [f32]) {
        self.each(matrix, d, |panel, row, entries, channels| {
            let y = &mut y[row * d + channels.start..row * d + channels.end];
            add_picked(y, &self.values[entries.clone()], &self.picks[entries], panel);
        });
    }

    /// ⟨M_j, y_i⟩ for every entry (i, j), in the order of entries.
    pub(crate) fn dot(&mut self, matrix: &Panels, d: usize, y: &[f32], found: &mut [f32]) {
        let mut sums = self.no_sums();
        self.each(matrix, d, |panel, row, entries, channels| {
            let y = &y[row * d + channels.start..row * d + channels.end];
            dot_picked(&mut sums[entries.clone()], y, &self.picks[entries], panel);
        });
        for (sum, &e) in sums.iter().zip(&self.entry) {
            found[e as usize] = *sum;
        }
        self.sums = sums;
    }

    /// Both, where y are as many rows as `of`: y += S M, and ⟨M_j, of_i⟩ for every entry (i, j), which become the values
    /// of S.
    fn add_and_dot(&mut self, matrix: &Panels, d: usize, y: &mut [f32], of: &[f32]) {
        let mut sums = self.no_sums();
        self.each(matrix, d, |panel, row, entries, channels| {
            let here = row * d + channels.start..row * d + channels.end;
            let (values, sums) = (&self.values[entries.clone()], &mut sums[entries.clone()]);
            add_and_dot_picked((&mut y[here.clone()], values), (&of[here], sums), &self.picks[entries], panel);
        });
        self.sums = std::mem::replace(&mut self.values, sums);
    }

    /// A zero for every entry.
    fn no_sums(&mut self) -> Vec<f32> {
        let mut sums = std::mem::take(&mut self.sums);
        sums.clear();
        sums.resize(self.picks.len(), 0.0);
        sums
    }

    /// Adds the sum of the values of every row.
    fn add_sums(&self, sums: &mut [f32]) {
        for (cell, bounds) in self.starts.windows(2).enumerate() {
            sums[cell % self.rows] += self.values[bounds[0]..bounds[1]].iter().sum::<f32>();
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

/// Turns numbers of entries, each one place late, into where entries begin, and lets the next begin there; returns how many
/// there are.
fn begin(starts: &mut [usize], next: &mut Vec<usize>) -> usize {
    for i in 1..starts.len() {
        starts[i] += starts[i - 1];
    }
    next.clear();
    next.extend_from_slice(starts);
    starts[starts.len() - 1]
}

/// How many of these rising latents, of so many, are below `latent`. Where they are spread evenly they are found at once; a
/// binary search took three times as long.
fn below(index: &[u32], latent: usize, latents: usize) -> usize {
    let mut at = index.len() * latent / latents;
    while at > 0 && index[at - 1] as usize >= latent {
        at -= 1;
    }
    while at < index.len() && (index[at] as usize) < latent {
        at += 1;
    }
    at
}

/// What gradients are summed from: a batch, or a residual, in rows and, where entries are many, in panels.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) panels: &'a Panels,
    /// The row of the first token.
    pub(crate) first: usize,
}

/// Where the gradients of some latents are added: to the rows of the encoder, those of the decoder, and Σ s.
pub(crate) struct Totals<'a> {
    pub(crate) enc: &'a mut [f32],
    pub(crate) dec: &'a mut [f32],
    pub(crate) slopes: &'a mut [f32],
}

/// Adds Σ s·xc and, where decoder rows learn from a residual `r`, Σ z·r for the latents from `first` on; and Σ s. Panels
/// are read if they [`pay`] for all entries.
pub(crate) fn gather(
    entries: &ByLatent,
    first: usize,
    (tokens, d): (usize, usize),
    xc: Rows<'_>,
    r: Option<Rows<'_>>,
    totals: Totals<'_>,
) {
    let Totals { enc, dec, slopes } = totals;
    let latents = slopes.len();
    let offsets = &entries.offsets[first..=first + latents];
    let all = offsets[0]..offsets[latents];
    if all.is_empty() {
        return;
    }
    for (sum, bounds) in slopes.iter_mut().zip(offsets.windows(2)) {
        *sum += entries.slope[bounds[0]..bounds[1]].iter().sum::<f32>();
    }
    let part = |range: Range<usize>, values: &[f32], from: Rows<'_>, to: &mut [f32]| {
        let rows = &from.rows[from.first * d..(from.first + tokens) * d];
        add_rows(to, &values[range.clone()], &entries.token[range], rows);
    };
    if pay(entries.token.len(), tokens, entries.offsets.len() - 2) {
        let within = |from: Rows<'_>| from.first..from.first + tokens;
        let (same, other) = (r.filter(|r| r.first == xc.first), r.filter(|r| r.first != xc.first));
        Blocked::with(offsets, &entries.token, within(xc), |blocked| {
            blocked.add(&entries.slope[all.clone()], xc.panels, d, enc);
            if let Some(r) = same {
                blocked.add(&entries.value[all.clone()], r.panels, d, dec);
            }
        });
        if let Some(r) = other {
            Blocked::with(offsets, &entries.token, within(r), |blocked| {
                blocked.add(&entries.value[all.clone()], r.panels, d, dec);
            });
        }
        return;
    }
    for ((enc, dec), bounds) in enc.chunks_exact_mut(d).zip(dec.chunks_exact_mut(d)).zip(offsets.windows(2)) {
        part(bounds[0]..bounds[1], &entries.slope, xc, enc);
        if let Some(r) = r {
            part(bounds[0]..bounds[1], &entries.value, r, dec);
        }
    }
}

/// The same, in panels, where slopes are not known: s = ⟨w_dec, r⟩ is found while r is read for the decoder's gradient.
/// `xc` and `r` have a row for every token of the codes.
pub(crate) fn gather_with_slopes(
    codes: &Codes,
    first: usize,
    d: usize,
    xc: &Panels,
    (r, w_dec): (&Panels, &[f32]),
    totals: Totals<'_>,
) {
    let Totals { enc, dec, slopes } = totals;
    Blocked::with_latents(codes, first..first + slopes.len(), |blocked| {
        blocked.add_and_dot(r, d, dec, w_dec);
        blocked.add_ordered(xc, d, enc);
        blocked.add_sums(slopes);
    });
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
            let (enc, dec) = (&mut g_enc[from * d..to * d], &mut g_dec[from * d..to * d]);
            let totals = Totals { enc, dec, slopes: &mut sums[from..to] };
            gather(&entries, first + from, (tokens, d), xc, r, totals);
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

        // Slopes that are not known are found from what the decoder learns from.
        let mut of_r = Panels::default();
        of_r.fill(&r, d);
        let learns = Rows { rows: &r, panels: &of_r, first: 0 };
        let w_dec = &weights.w_dec[first * d..];
        let totals = || (vec![1.0; n * d], vec![2.0; n * d], vec![3.0; n]);
        let ((mut enc, mut dec, mut sums), (mut late_enc, mut late_dec, mut late_sums)) = (totals(), totals());
        let known = Totals { enc: &mut enc, dec: &mut dec, slopes: &mut sums };
        gather(&entries, first, (tokens, d), xc, Some(learns), known);
        let late = Totals { enc: &mut late_enc, dec: &mut late_dec, slopes: &mut late_sums };
        gather_with_slopes(&codes, first, d, &panels, (&of_r, w_dec), late);
        let scaled = |x: &[f32]| x.iter().map(|v| v / 600.0).collect::<Vec<_>>();
        close(&scaled(&enc), &scaled(&late_enc));
        close(&dec, &late_dec);
        close(&scaled(&sums), &scaled(&late_sums));
    }
}
