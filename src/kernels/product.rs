//! Matrix products on slices with strides.

use super::panels::{self, Packed, Start};
use super::tiles::{self, Block, DEPTH, PANEL, Tiles};
use gemm::Parallelism;
use rayon::prelude::*;
use std::cell::{Cell, RefCell};

/// How products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// f32 operands and sums.
    #[default]
    Full,
    /// bf16 operands with f32 sums where the processor has matrix tiles or products of pairs, [`Precision::Full`]
    /// elsewhere. For training: on one core of a Sapphire Rapids server the tiles give over six times the rate of f32
    /// products.
    Mixed,
}

thread_local! {
    static PRECISION: Cell<Precision> = const { Cell::new(Precision::Full) };
}

/// The precision of products that this thread starts.
#[must_use]
pub fn precision() -> Precision {
    PRECISION.get()
}

/// Runs `work` with products on this thread computed in `precision`.
pub fn with_precision<T>(precision: Precision, work: impl FnOnce() -> T) -> T {
    struct Restore(Precision);
    impl Drop for Restore {
        fn drop(&mut self) {
            PRECISION.set(self.0);
        }
    }
    let _restore = Restore(PRECISION.replace(precision));
    work()
}

/// Whether products of this precision run on tiles here.
pub(super) fn on_tiles(precision: Precision) -> bool {
    precision == Precision::Mixed && tiles::available()
}

/// A matrix in a slice: element (i, j) is `data[i·row + j·column]`.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// The numbers.
    pub data: &'a [f32],
    /// Distance between rows.
    pub row: usize,
    /// Distance between columns.
    pub column: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `width` contiguous numbers.
    #[must_use]
    pub fn rows(data: &'a [f32], width: usize) -> Self {
        Self { data, row: width, column: 1 }
    }

    /// The transpose.
    #[must_use]
    pub fn t(self) -> Self {
        Self { data: self.data, row: self.column, column: self.row }
    }

    fn check(&self, rows: usize, columns: usize) {
        let last = (rows.max(1) - 1) * self.row + (columns.max(1) - 1) * self.column;
        assert!(last < self.data.len().max(1), "a {rows}×{columns} matrix outside its slice");
    }
}

/// C = A B, or C += A B if `accumulate`: A is m×k, B k×n, and C m×n in rows of stride `c_row`.
///
/// Runs on the threads of the current rayon pool; the result does not depend on their number.
///
/// # Panics
/// If a matrix does not lie within its slice.
#[allow(clippy::too_many_arguments)]
pub fn product(
    c: &mut [f32],
    c_row: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    (m, k, n): (usize, usize, usize),
    accumulate: bool,
    precision: Precision,
) {
    if m == 0 || n == 0 {
        return;
    }
    a.check(m, k);
    b.check(k, n);
    assert!(c_row >= n && (m - 1) * c_row + n <= c.len(), "an {m}×{n} product outside its slice");
    if k == 0 {
        if !accumulate {
            (0..m).for_each(|i| c[i * c_row..i * c_row + n].fill(0.0));
        }
        return;
    }
    if by_panels(a, b, (m, k, n), precision) {
        let start = if accumulate { Start::Add } else { Start::Zero };
        return panels::product(b, (1, k), n, m, |_, r| &a.data[r * a.row..], start, c, c_row);
    }
    // Below this a product is over before tiles are packed (measured: 16×64 · 64×64).
    if on_tiles(precision) && m * n * k >= 1 << 16 {
        return tiled(c, c_row, a, b, (m, k, n), accumulate);
    }
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 && m * n * k > 1 << 18 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: all three matrices lie within their slices (checked above), and C is borrowed mutably.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_row as isize,
            accumulate,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// A matrix B that many A are multiplied with, in full precision.
pub(crate) struct Factor<'a> {
    b: Matrix<'a>,
    /// k×n.
    shape: (usize, usize),
    /// Once for all, where that pays.
    packed: Option<Packed>,
}

thread_local! {
    /// Where matrices are packed, one after another.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Factor<'_> {
    fn drop(&mut self) {
        if let Some(packed) = self.packed.take() {
            ROOM.set(packed.into_room());
        }
    }
}

impl<'a> Factor<'a> {
    /// B is k×n; all A together have `rows` rows.
    ///
    /// # Panics
    /// If B does not lie within its slice.
    pub(crate) fn new(b: Matrix<'a>, (k, n): (usize, usize), rows: usize) -> Self {
        b.check(k, n);
        let packed = panels_pay(b, (rows, k, n)).then(|| Packed::within(ROOM.take(), b, (1, k), n));
        Self { b, shape: (k, n), packed }
    }

    /// C = A B for m rows of A that are contiguous.
    ///
    /// # Panics
    /// If a matrix does not lie within its slice.
    pub(crate) fn product(&self, c: &mut [f32], a: &[f32], m: usize) {
        let (k, n) = self.shape;
        match &self.packed {
            Some(packed) => packed.product(m, |_, r| &a[r * k..(r + 1) * k], Start::Zero, c, n),
            None => product(c, n, Matrix::rows(a, k), self.b, (m, k, n), false, Precision::Full),
        }
    }
}

/// Fewer rows than this are no work for panels, whose packing takes its time: of a matrix that lies column by column a
/// long one. (A linear layer 1280 → 10240, one thread of a Zen 4: 512 rows 137 ms by panels, 129 otherwise; 640 → 5120,
/// 2048 rows 132 and 134; 1152 → 4608, 8192 rows 810 and 948.)
const ROWS: usize = 24;
const ROWS_OF_COLUMNS: usize = 1024;

/// Whether a product is better done by panels: rows of A that lie in one piece, and enough of them.
fn by_panels(a: Matrix<'_>, b: Matrix<'_>, shape: (usize, usize, usize), precision: Precision) -> bool {
    a.column == 1 && !on_tiles(precision) && panels_pay(b, shape)
}

/// Whether packing B pays for m rows of A.
fn panels_pay(b: Matrix<'_>, (m, k, n): (usize, usize, usize)) -> bool {
    let rows = if b.column == 1 { ROWS } else { ROWS_OF_COLUMNS };
    m >= rows && k >= 16 && n >= 8 && panels::available()
}

/// C = A B + bias, as [`product`].
///
/// # Panics
/// If a matrix does not lie within its slice.
pub fn product_and_bias(
    c: &mut [f32],
    a: Matrix<'_>,
    b: Matrix<'_>,
    (m, k, n): (usize, usize, usize),
    bias: &[f32],
    precision: Precision,
) {
    if by_panels(a, b, (m, k, n), precision) {
        a.check(m, k);
        b.check(k, n);
        return panels::product(b, (1, k), n, m, |_, r| &a.data[r * a.row..], Start::Bias(bias), c, n);
    }
    for_each_chunk(c, 256 * n, |(_, c)| c.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(bias)));
    product(c, n, a, b, (m, k, n), true, precision);
}

/// Depth of one pass: a panel of A of this depth takes 256 KiB, which stays in the second-level cache.
pub(super) const PASS: usize = 4096;

/// B packed for tiles: panels of 32 columns, each `depth` (padded to 32) deep.
pub(super) struct PackedB {
    data: Vec<u16>,
    pub depth: usize,
    pub columns: usize,
}

impl PackedB {
    pub fn new(b: Matrix<'_>, k: usize, n: usize) -> Self {
        let depth = k.next_multiple_of(DEPTH);
        let mut data = vec![0u16; n.div_ceil(PANEL) * PANEL * depth];
        for (p, panel) in data.chunks_exact_mut(PANEL * depth).enumerate() {
            let (j, columns) = (p * PANEL, PANEL.min(n - p * PANEL));
            let source = &b.data[j * b.column..];
            if b.column == 1 {
                tiles::pack_b_rows(source, b.row, k, columns, panel);
            } else if b.row == 1 {
                tiles::pack_b_columns(source, b.column, k, columns, panel);
            } else {
                for i in 0..k {
                    for c in 0..columns {
                        panel[(i / 2 * PANEL + c) * 2 + i % 2] = tiles::bf16(source[i * b.row + c * b.column]);
                    }
                }
            }
        }
        Self { data, depth, columns: n }
    }

    pub fn panel(&self, p: usize) -> &[u16] {
        &self.data[p * PANEL * self.depth..(p + 1) * PANEL * self.depth]
    }
}

/// Multiplies one packed panel of A (`rows` of it valid) with all of B into rows of C.
#[allow(clippy::too_many_arguments)]
pub(super) fn panel_times(
    tiles: &Tiles,
    panel: &[u16],
    b: &PackedB,
    rows: usize,
    c: &mut [f32],
    c_row: usize,
    bias: Option<&[f32]>,
    accumulate: bool,
) {
    let mut block = Block::new();
    for p in 0..b.columns.div_ceil(PANEL) {
        tiles.multiply(panel, b.panel(p), b.depth, &mut block);
        let (j, columns) = (p * PANEL, PANEL.min(b.columns - p * PANEL));
        store(&block, rows, columns, &mut c[j..], c_row, bias.map(|b| &b[j..j + columns]), accumulate);
    }
}

super::wide::wide! {
    fn store(block: &Block, rows: usize, columns: usize, c: &mut [f32], c_row: usize, bias: Option<&[f32]>, accumulate: bool) {
        for r in 0..rows {
            let source = &block.0[r * PANEL..r * PANEL + columns];
            let target = &mut c[r * c_row..r * c_row + columns];
            match (bias, accumulate) {
                (Some(bias), _) => {
                    for ((t, s), b) in target.iter_mut().zip(source).zip(bias) {
                        *t = s + b;
                    }
                }
                (None, true) => {
                    for (t, s) in target.iter_mut().zip(source) {
                        *t += s;
                    }
                }
                (None, false) => target.copy_from_slice(source),
            }
        }
    }
}

fn tiled(
    c: &mut [f32],
    c_row: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    (m, k, n): (usize, usize, usize),
    accumulate: bool,
) {
    for from in (0..k).step_by(PASS) {
        let depth = PASS.min(k - from);
        let packed = PackedB::new(Matrix { data: &b.data[from * b.row..], ..b }, depth, n);
        let accumulate = accumulate || from > 0;
        let one = |(p, c): (usize, &mut [f32])| {
            let tiles = Tiles::configure();
            let rows = PANEL.min(m - p * PANEL);
            let mut panel = vec![0u16; PANEL * packed.depth];
            let source = &a.data[p * PANEL * a.row + from * a.column..];
            if a.column == 1 {
                tiles::pack_rows(source, a.row, rows, depth, &mut panel);
            } else if a.row == 1 {
                tiles::pack_columns(source, a.column, rows, depth, &mut panel);
            } else {
                for r in 0..rows {
                    for i in 0..depth {
                        panel[(i / DEPTH * PANEL + r) * DEPTH + i % DEPTH] =
                            tiles::bf16(source[r * a.row + i * a.column]);
                    }
                }
            }
            panel_times(&tiles, &panel, &packed, rows, c, c_row, None, accumulate);
        };
        // C may be a part of something wider: only its own rows are cut into panels.
        for_each_chunk(&mut c[..(m - 1) * c_row + n], PANEL * c_row, one);
    }
}

/// Calls `work` for every chunk of `data`, in parallel if the current pool has several threads.
pub(super) fn for_each_chunk<T: Send>(data: &mut [T], chunk: usize, work: impl Fn((usize, &mut [T])) + Sync + Send) {
    if rayon::current_num_threads() > 1 {
        data.par_chunks_mut(chunk).enumerate().for_each(work);
    } else {
        data.chunks_mut(chunk).enumerate().for_each(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    fn naive(a: Matrix<'_>, b: Matrix<'_>, (m, k, n): (usize, usize, usize)) -> Vec<f32> {
        let mut c = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k)
                    .map(|l| f64::from(a.data[i * a.row + l * a.column]) * f64::from(b.data[l * b.row + j * b.column]))
                    .sum();
                c[i * n + j] = sum as f32;
            }
        }
        c
    }

    fn relative(x: &[f32], y: &[f32]) -> f32 {
        let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| x * x).sum::<f32>().sqrt();
        norm(&mut x.iter().zip(y).map(|(a, b)| a - b)) / norm(&mut y.iter().copied())
    }

    #[test]
    fn products_agree_with_the_definition_in_every_orientation() {
        for (m, k, n) in [(1, 1, 1), (5, 7, 3), (33, 70, 65), (64, 96, 31), (200, 33, 100)] {
            let a = stream(1, "a", 0).normals(m * k);
            let b = stream(1, "b", 0).normals(k * n);
            for (at, bt) in [(false, false), (true, false), (false, true), (true, true)] {
                let am = if at { Matrix::rows(&a, m).t() } else { Matrix::rows(&a, k) };
                let bm = if bt { Matrix::rows(&b, k).t() } else { Matrix::rows(&b, n) };
                let expected = naive(am, bm, (m, k, n));
                for (precision, bound) in [(Precision::Full, 1e-6), (Precision::Mixed, 1e-2)] {
                    let mut c = vec![0.5; m * (n + 3)];
                    product(&mut c, n + 3, am, bm, (m, k, n), true, precision);
                    let mut got = Vec::new();
                    for row in c.chunks(n + 3) {
                        got.extend(row[..n].iter().map(|x| x - 0.5));
                        assert_eq!(row[n..], [0.5; 3], "wrote past a row");
                    }
                    let error = relative(&got, &expected);
                    assert!(error < bound, "{m}×{k}×{n} {at} {bt} {precision:?}: {error}");
                }
            }
        }
    }

    #[test]
    fn deep_products_accumulate_over_passes() {
        let (m, k, n) = (40, PASS + 100, 40);
        let a = stream(2, "a", 0).normals(m * k);
        let b = stream(2, "b", 0).normals(k * n);
        let expected = naive(Matrix::rows(&a, k), Matrix::rows(&b, n), (m, k, n));
        let mut c = vec![9.0; m * n];
        product(&mut c, n, Matrix::rows(&a, k), Matrix::rows(&b, n), (m, k, n), false, Precision::Mixed);
        assert!(relative(&c, &expected) < 1e-2);
    }
}
