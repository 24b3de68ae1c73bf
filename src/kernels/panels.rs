//! Products of rows that may lie anywhere with a matrix that is packed panel by panel, for x86 processors with fused
//! multiply-add.
//!
//! The rows are read where they are, so that a convolution needs no copies of neighbourhoods: a row of its matrix is
//! made of k·k pixels, each contiguous, its segments. What is summed in which order depends on the shapes alone, never
//! on how rows and columns are shared out among threads.
//!
//! What it gains over products of gathered blocks stands in `benches/full_size.md`.

use super::panel::{Kernel, Kernels};
use super::product::{Matrix, for_each_chunk};
use rayon::prelude::*;

/// Depth of a packed panel at most: with 32 columns 48 KiB, which stay in a second-level cache beside the rows.
const DEPTH: usize = 384;
/// Rows that are multiplied at once at most: a panel that was fetched serves many, and their parts of 384 KiB stay in a
/// second-level cache.
const BLOCK: usize = 256;
/// Up to this many rows a product is shared out by columns, and every thread packs its own: packing is then not
/// negligible, and what is packed does not leave the cache.
const FEW: usize = 768;
/// Columns of such a share: many enough to read the rows seldom, few enough for two threads to have the same to do.
const SHARE: usize = 128;

/// Whether this works here.
pub(super) fn available() -> bool {
    Kernels::here().is_some()
}

/// How a matrix B is cut into parts by rows. Segments that are long are cut into pieces of equal depth, short ones are
/// put together.
#[derive(Debug, Clone, Copy)]
struct Parts {
    segments: usize,
    length: usize,
    /// Segments in a part.
    together: usize,
    /// Pieces of a segment.
    pieces: usize,
    /// Depth of a piece.
    depth: usize,
}

/// One part: `count` segments from `segment` on, and of each `depth` rows from `from` on.
#[derive(Debug, Clone, Copy)]
struct Part {
    segment: usize,
    count: usize,
    from: usize,
    depth: usize,
}

impl Parts {
    fn new(segments: usize, length: usize) -> Self {
        let pieces = length.div_ceil(DEPTH).max(1);
        let depth = length.div_ceil(pieces);
        let together = (DEPTH / depth.max(1)).clamp(1, segments.max(1));
        let together = if pieces > 1 { 1 } else { segments.div_ceil(segments.div_ceil(together).max(1)) };
        Self { segments, length, together, pieces, depth }
    }

    fn count(&self) -> usize {
        self.segments.div_ceil(self.together.max(1)) * self.pieces
    }

    fn part(&self, i: usize) -> Part {
        let (segment, from) = (i / self.pieces * self.together, i % self.pieces * self.depth);
        let count = self.together.min(self.segments - segment);
        Part { segment, count, from, depth: self.depth.min(self.length - from) }
    }

    /// Rows of a part at most.
    fn rows(&self) -> usize {
        self.together * self.depth
    }
}

/// First column, width and kernel of every panel.
fn panels(kernels: &'static Kernels, columns: usize) -> impl Iterator<Item = (usize, usize, &'static Kernel)> {
    let mut j = 0;
    std::iter::from_fn(move || {
        let kernel = (j < columns).then(|| kernels.widest(columns - j))?;
        let width = kernel.columns.min(columns - j);
        j += width;
        Some((j - width, width, kernel))
    })
}

/// Packs all panels of a part of b.
fn pack_part(data: &mut [f32], kernels: &'static Kernels, b: Matrix<'_>, parts: Parts, part: Part, columns: usize) {
    let depth = part.count * part.depth;
    let row = |i: usize| (part.segment + i / part.depth) * parts.length + part.from + i % part.depth;
    if b.column == 1 {
        // Row by row: memory is read in long runs.
        for i in 0..depth {
            let (from, mut at) = (&b.data[row(i) * b.row..][..columns], 0);
            for (j, width, kernel) in panels(kernels, columns) {
                let to = &mut data[at + i * kernel.columns..][..kernel.columns];
                for (to, from) in to.chunks_exact_mut(8).zip(from[j..j + width].chunks_exact(8)) {
                    (0..8).for_each(|i| to[i] = from[i]);
                }
                if width < kernel.columns {
                    to[width / 8 * 8..width].copy_from_slice(&from[j + width / 8 * 8..j + width]);
                    to[width..].fill(0.0);
                }
                at += depth * kernel.columns;
            }
        }
        return;
    }
    let mut at = 0;
    for (j, width, kernel) in panels(kernels, columns) {
        let panel = &mut data[at..at + depth * kernel.columns];
        if width < kernel.columns {
            panel.fill(0.0);
        }
        for (s, panel) in panel.chunks_exact_mut((part.depth * kernel.columns).max(1)).enumerate() {
            // Sixteen rows at a time, so that their lines are written once.
            for (i, rows) in panel.chunks_mut(16 * kernel.columns).enumerate() {
                let first = row(s * part.depth) + 16 * i;
                for c in 0..width {
                    let column = &b.data[first * b.row + (j + c) * b.column..];
                    for (to, from) in rows[c..].iter_mut().step_by(kernel.columns).zip(column.iter().step_by(b.row)) {
                        *to = *from;
                    }
                }
            }
        }
        at += depth * kernel.columns;
    }
}

/// A matrix B of which all panels are packed.
pub(super) struct Packed {
    kernels: &'static Kernels,
    data: Vec<f32>,
    parts: Parts,
    columns: usize,
    /// Columns of all panels.
    filled: usize,
}

impl Packed {
    /// Packs the first `segments · length` rows and `columns` columns of b.
    ///
    /// # Panics
    /// Without [`available`]; a matrix that does not lie within its slice.
    pub(super) fn new(b: Matrix<'_>, (segments, length): (usize, usize), columns: usize) -> Self {
        Self::within(Vec::new(), b, (segments, length), columns)
    }

    /// The same in the room of a vector that is no longer needed.
    pub(super) fn within(room: Vec<f32>, b: Matrix<'_>, (segments, length): (usize, usize), columns: usize) -> Self {
        Self::with(Kernels::here().expect("panels are available"), room, b, (segments, length), columns)
    }

    fn with(
        kernels: &'static Kernels,
        mut data: Vec<f32>,
        b: Matrix<'_>,
        (segments, length): (usize, usize),
        columns: usize,
    ) -> Self {
        let parts = Parts::new(segments, length);
        let filled = panels(kernels, columns).map(|(_, _, kernel)| kernel.columns).sum::<usize>();
        let size = parts.rows() * filled;
        if data.capacity() == 0 {
            // New memory is zero already.
            data = vec![0f32; parts.count() * size];
        } else {
            data.resize(parts.count() * size, 0.0);
        }
        for_each_chunk(&mut data, size.max(1), |(i, data)| {
            pack_part(data, kernels, b, parts, parts.part(i), columns);
        });
        Self { kernels, data, parts, columns, filled }
    }

    /// The vector that holds it.
    pub(super) fn into_room(self) -> Vec<f32> {
        self.data
    }

    /// c = A B for a few rows of A, in rows of `c_row`: segment s of row r begins with `row(s, r)`. With `padded`, columns
    /// after the last may be overwritten up to a multiple of eight.
    ///
    /// # Panics
    /// A row that does not lie within its slice.
    pub(super) fn multiply<'a>(
        &self,
        rows: usize,
        row: impl Fn(usize, usize) -> &'a [f32],
        padded: bool,
        c: &mut [f32],
        c_row: usize,
    ) {
        let columns = if padded { self.filled } else { self.columns };
        // SAFETY: c is borrowed mutably.
        unsafe { self.fill(rows, &row, Start::Zero, Out::new(c, c_row, rows, columns), padded) };
    }

    /// c = start + A B for many rows, on the threads of the pool; the rest as in [`multiply`](Self::multiply).
    ///
    /// # Panics
    /// A row that does not lie within its slice.
    pub(super) fn product<'a>(
        &self,
        rows: usize,
        row: impl Fn(usize, usize) -> &'a [f32] + Sync,
        start: Start<'_>,
        c: &mut [f32],
        c_row: usize,
    ) {
        let c = Out::new(c, c_row, rows, self.columns);
        // As many blocks for each thread.
        let blocks = rows.div_ceil(BLOCK).next_multiple_of(rayon::current_num_threads());
        let block = rows.div_ceil(blocks).next_multiple_of(self.kernels.rows);
        each(rows.div_ceil(block), &|i| {
            let (top, count) = (i * block, block.min(rows - i * block));
            // SAFETY: no other block has these rows.
            unsafe {
                let c = Out { data: c.at(top, 0), row: c_row };
                self.fill(count, &|s, r| row(s, top + r), start, c, false);
            }
        });
    }

    /// # Safety
    /// Nobody else may use the rows of c meanwhile.
    unsafe fn fill<'a>(
        &self,
        rows: usize,
        row: &impl Fn(usize, usize) -> &'a [f32],
        start: Start<'_>,
        c: Out,
        padded: bool,
    ) {
        let mut starts = Starts::default();
        let size = self.parts.rows() * self.filled;
        for i in 0..self.parts.count() {
            let part = self.parts.part(i);
            starts.set(self.kernels.rows, &self.parts, part, rows, row);
            let start = if i == 0 { start } else { Start::Add };
            // SAFETY: the caller's promise.
            unsafe {
                rows_times_part(
                    self.kernels,
                    &starts,
                    part,
                    &self.data[i * size..],
                    (0, self.columns),
                    start,
                    c,
                    padded,
                )
            };
        }
    }
}

/// What the sums of a part are added to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start<'a> {
    /// Nothing.
    Zero,
    /// A row, the same for all.
    Bias(&'a [f32]),
    /// What is there.
    Add,
}

/// Rows of an output that several threads fill, each its own part.
#[derive(Debug, Clone, Copy)]
struct Out {
    data: *mut f32,
    row: usize,
}

// SAFETY: who writes through it promises to be alone.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    fn new(c: &mut [f32], row: usize, rows: usize, columns: usize) -> Self {
        let inside = rows == 0 || columns <= row && (rows - 1) * row + columns <= c.len();
        assert!(inside, "{rows} rows of {columns} outside their slice");
        Self { data: c.as_mut_ptr(), row }
    }

    /// # Safety
    /// So many rows and columns must be there.
    unsafe fn at(self, row: usize, column: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.data.add(row * self.row + column) }
    }
}

/// Where the segments of a part begin, group of rows by group of rows, segment by segment.
#[derive(Default)]
struct Starts {
    rows: usize,
    data: Vec<*const f32>,
}

impl Starts {
    fn set<'a>(
        &mut self,
        group: usize,
        parts: &Parts,
        part: Part,
        rows: usize,
        row: &impl Fn(usize, usize) -> &'a [f32],
    ) {
        // Later pieces of a segment begin where its first did.
        if part.from > 0 {
            return;
        }
        self.rows = rows;
        self.data.clear();
        for top in (0..rows).step_by(group) {
            for s in 0..part.count {
                for r in top..top + group {
                    // The last group is filled up with the last row.
                    let row = row(part.segment + s, r.min(rows - 1));
                    assert!(row.len() >= parts.length, "a row outside its slice");
                    self.data.push(row.as_ptr());
                }
            }
        }
    }
}

/// Numbers of panels that are multiplied with all rows before the next ones: 256 KiB, which stay in a second-level cache.
/// (Panel by panel is 2–4 % slower, 384 KiB the same.)
const CACHED: usize = 64 << 10;
/// Room for the largest kernel's sums.
const SUMS: usize = 12 * 32;
static ZEROS: [f32; 32] = [0.0; 32];

/// c = start + the product of rows with a part's panels, for columns `first .. first + columns` of c and of the bias.
///
/// # Safety
/// Nobody else may use those columns of c, which must have the rows; the starts must be the part's.
#[allow(clippy::too_many_arguments)]
unsafe fn rows_times_part(
    kernels: &'static Kernels,
    starts: &Starts,
    part: Part,
    mut data: &[f32],
    (first, columns): (usize, usize),
    start: Start<'_>,
    c: Out,
    padded: bool,
) {
    let depth = part.count * part.depth;
    let mut panels = panels(kernels, columns).peekable();
    while panels.peek().is_some() {
        // Panels that stay in a second-level cache while all rows pass, the rows of a group in the first level.
        let (mut some, mut at) = (Vec::new(), 0);
        while let Some((j, width, kernel)) = panels.next_if(|_| at < CACHED) {
            let (panel, rest) = data.split_at(depth * kernel.columns);
            (data, at) = (rest, at + panel.len());
            some.push((j, width, kernel, panel));
        }
        for (g, group) in starts.data.chunks_exact(part.count * kernels.rows).enumerate() {
            let top = g * kernels.rows;
            let count = kernels.rows.min(starts.rows - top);
            for &(j, width, kernel, panel) in &some {
                // SAFETY: the rows are as long as their segments, which `Starts` has asserted; the panel has as many rows
                // as the part; c has the rows and columns (asserted where `Out` is made).
                unsafe {
                    let out = c.at(top, first + j);
                    let start = match start {
                        Start::Bias(bias) => Start::Bias(&bias[first + j..][..width]),
                        other => other,
                    };
                    let run = |add: *const f32, add_row: usize, out: *mut f32, out_row: usize| {
                        let (from, depth) = (part.from, part.depth);
                        (kernel.run)(
                            group.as_ptr(),
                            part.count,
                            from,
                            depth,
                            panel.as_ptr(),
                            add,
                            add_row,
                            out,
                            out_row,
                        );
                    };
                    if count == kernels.rows && (width == kernel.columns || padded) {
                        match start {
                            Start::Bias(bias) => run(bias.as_ptr(), 0, out, c.row),
                            Start::Add => run(out, c.row, out, c.row),
                            Start::Zero => run(ZEROS.as_ptr(), 0, out, c.row),
                        }
                    } else {
                        let mut sums = [0f32; SUMS];
                        run(ZEROS.as_ptr(), 0, sums.as_mut_ptr(), kernel.columns);
                        for (r, sums) in sums.chunks_exact(kernel.columns).take(count).enumerate() {
                            let c = std::slice::from_raw_parts_mut(out.add(r * c.row), width);
                            store(c, sums, start);
                        }
                    }
                }
            }
        }
    }
}

/// A row of a tile that is not whole.
fn store(c: &mut [f32], sums: &[f32], start: Start<'_>) {
    match start {
        Start::Zero => c.iter_mut().zip(sums).for_each(|(c, s)| *c = *s),
        Start::Bias(bias) => c.iter_mut().zip(sums).zip(bias).for_each(|((c, s), b)| *c = s + b),
        Start::Add => c.iter_mut().zip(sums).for_each(|(c, s)| *c += s),
    }
}

/// c = start + A B in rows of `c_row`, on the threads of the current pool: segment s of row r of A begins with
/// `row(s, r)`, and B has `segments · length` rows.
///
/// # Panics
/// Without [`available`]; a matrix that does not lie within its slice.
#[allow(clippy::too_many_arguments)]
pub(super) fn product<'a>(
    b: Matrix<'_>,
    (segments, length): (usize, usize),
    columns: usize,
    rows: usize,
    row: impl Fn(usize, usize) -> &'a [f32] + Sync,
    start: Start<'_>,
    c: &mut [f32],
    c_row: usize,
) {
    if let Start::Bias(bias) = start {
        assert!(bias.len() >= columns, "a bias of {} for {columns} columns", bias.len());
    }
    if rows <= FEW {
        let c = Out::new(c, c_row, rows, columns);
        let kernels = Kernels::here().expect("panels are available");
        let parts = Parts::new(segments, length);
        // Two threads share the columns of a narrow matrix, too.
        let share = columns.div_ceil(rayon::current_num_threads()).next_multiple_of(kernels.columns()).min(SHARE);
        each(columns.div_ceil(share), &|i| {
            let (first, mut starts) = (i * share, Starts::default());
            let width = share.min(columns - first);
            let filled = width.next_multiple_of(kernels.columns());
            let mut data = vec![0f32; parts.rows() * filled];
            let b = Matrix { data: &b.data[first * b.column..], ..b };
            for i in 0..parts.count() {
                let part = parts.part(i);
                pack_part(&mut data, kernels, b, parts, part, width);
                starts.set(kernels.rows, &parts, part, rows, &row);
                let start = if i == 0 { start } else { Start::Add };
                // SAFETY: no other share has these columns.
                unsafe { rows_times_part(kernels, &starts, part, &data, (first, width), start, c, false) };
            }
        });
        return;
    }
    Packed::new(b, (segments, length), columns).product(rows, row, start, c, c_row);
}

/// Work on each of n things, on the threads of the pool.
fn each(n: usize, work: &(dyn Fn(usize) + Sync)) {
    if rayon::current_num_threads() > 1 && n > 1 {
        (0..n).into_par_iter().with_max_len(1).for_each(work);
    } else {
        (0..n).for_each(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    /// Whole and partial panels, groups of rows and segments, on every kernel that this processor can run.
    const SIZES: [(usize, usize, usize, usize); 6] =
        [(1, 1, 1, 1), (7, 2, 5, 17), (13, 1, 400, 40), (25, 3, 900, 70), (800, 9, 50, 8), (40, 4, 100, 261)];

    #[test]
    fn products_agree_with_the_definition() {
        for (m, segments, length, n) in SIZES {
            let k = segments * length;
            let (a, b) = (stream(3, "a", 0).normals(m * k), stream(3, "b", 0).normals(k * n));
            let bias = stream(3, "bias", 0).normals(n);
            let row = |s: usize, r: usize| &a[r * k + s * length..];
            for transposed in [false, true] {
                let bm = if transposed { Matrix::rows(&b, k).t() } else { Matrix::rows(&b, n) };
                let exact = |i: usize, j: usize| -> f64 {
                    let term = |l: usize| f64::from(a[i * k + l]) * f64::from(bm.data[l * bm.row + j * bm.column]);
                    (0..k).map(term).sum()
                };
                let expected: Vec<f64> = (0..m * n).map(|i| exact(i / n, i % n)).collect();
                let check = |c: &[f32], c_row: usize, added: &dyn Fn(usize) -> f32, what: &str| {
                    for (i, expected) in expected.iter().enumerate() {
                        let found = c[i / n * c_row + i % n] - added(i % n);
                        let error = (f64::from(found) - expected).abs();
                        assert!(error < 3e-6 * (k as f64).sqrt(), "{what} {m}×{k}×{n} {transposed} {i}: {error}");
                    }
                };
                for kernels in Kernels::all() {
                    let packed = Packed::with(kernels, Vec::new(), bm, (segments, length), n);
                    let mut c = vec![f32::NAN; m * (n + 2)];
                    packed.multiply(m, row, false, &mut c, n + 2);
                    check(&c, n + 2, &|_| 0.0, kernels.name);
                    assert!(c.chunks(n + 2).all(|c| c[n].is_nan() && c[n + 1].is_nan()), "wrote past a row");
                    let wide = n.next_multiple_of(8);
                    let mut c = vec![f32::NAN; m * wide];
                    packed.multiply(m, row, true, &mut c, wide);
                    check(&c, wide, &|_| 0.0, kernels.name);
                }
                if available() {
                    let mut c = vec![f32::NAN; m * (n + 2)];
                    product(bm, (segments, length), n, m, row, Start::Bias(&bias), &mut c, n + 2);
                    check(&c, n + 2, &|j| bias[j], "bias");
                    product(bm, (segments, length), n, m, row, Start::Zero, &mut c, n + 2);
                    check(&c, n + 2, &|_| 0.0, "zero");
                    let mut c = vec![1.5; m * n];
                    product(bm, (segments, length), n, m, row, Start::Add, &mut c, n);
                    check(&c, n, &|_| 1.5, "add");
                }
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_threads() {
        if !available() {
            return;
        }
        for (m, segments, length, n) in [(100, 3, 200, 300), (900, 9, 70, 41)] {
            let k = segments * length;
            let (a, b) = (stream(4, "a", 0).normals(m * k), stream(4, "b", 0).normals(k * n));
            let found: Vec<Vec<f32>> = [1, 2, 3]
                .map(|threads| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let mut c = vec![0f32; m * n];
                    let row = |s: usize, r: usize| &a[r * k + s * length..];
                    pool.install(|| {
                        product(Matrix::rows(&b, n), (segments, length), n, m, row, Start::Zero, &mut c, n)
                    });
                    c
                })
                .into();
            assert!(found[0] == found[1] && found[0] == found[2], "{m}×{k}×{n}");
        }
    }
}
