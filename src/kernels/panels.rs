//! Products of rows that may lie anywhere with a matrix that is packed panel by panel, for x86 processors with fused
//! multiply-add.
//!
//! The rows are read where they are, so that a convolution needs no copies of neighbourhoods: a row of its matrix is
//! made of k·k pixels, each contiguous. What is summed in which order depends on the shapes and on the processor's
//! kind alone.
//!
//! Against products over gathered blocks (processor time of one thread, Zen 3, busy machine), 3×3 convolutions of two
//! items: 320 channels at 64×64 225 ms instead of 250, 640 at 32×32 215 instead of 283, 1280 at 16×16 291 instead of 461.

use super::product::{Matrix, for_each_chunk};

/// Columns of a panel at most.
const COLUMNS: usize = 16;
/// Rows that are multiplied at once at most.
const ROWS: usize = 6;
/// Depth of a packed panel at most: with sixteen columns 24 KiB, which leave a first-level cache room for the rows.
const DEPTH: usize = 384;
/// Rows that are best multiplied at once: a panel that was fetched serves many, and their parts of 384 KiB stay in a
/// second-level cache.
pub(super) const BLOCK: usize = 384;

/// Whether [`Packed`] works here and is the better way: with registers of 512 bits, for which this has no kernel yet, the
/// products over gathered blocks are.
pub(super) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let has = [
            std::arch::is_x86_feature_detected!("avx2"),
            std::arch::is_x86_feature_detected!("fma"),
            !std::arch::is_x86_feature_detected!("avx512f"),
        ];
        has.into_iter().all(|has| has)
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A matrix B of which all panels are packed.
pub(super) struct Packed {
    data: Vec<f32>,
    segments: usize,
    length: usize,
    /// Rows of a panel: parts of a segment of equal depth, rather than whole ones and a short rest.
    part: usize,
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
        let parts = length.div_ceil(DEPTH).max(1);
        let part = length.div_ceil(parts).max(1);
        let filled = panels(columns).map(|(_, _, kernel)| kernel.columns).sum::<usize>();
        let mut data = vec![0f32; segments * parts * part * filled];
        for_each_chunk(&mut data, (part * filled).max(1), |(i, data)| {
            let (s, from) = (i / parts, i % parts * part);
            let depth = part.min(length - from);
            let mut at = 0;
            for (j, width, kernel) in panels(columns) {
                let panel = &mut data[at..at + depth * kernel.columns];
                pack(panel, b, s * length + from, (j, width, kernel.columns));
                at += part * kernel.columns;
            }
        });
        Self { data, segments, length, part, columns, filled }
    }

    /// c = A B + bias for a few rows of A, in rows of `c_row`: segment s of row r begins with `row(s, r)`.
    ///
    /// # Panics
    /// A row that does not lie within its slice.
    pub(super) fn multiply<'a>(
        &self,
        rows: usize,
        row: impl Fn(usize, usize) -> &'a [f32],
        bias: Option<&[f32]>,
        c: &mut [f32],
        c_row: usize,
    ) {
        if rows == 0 {
            return;
        }
        let mut starts = vec![std::ptr::null(); rows.next_multiple_of(ROWS)];
        let mut at = 0;
        for s in 0..self.segments {
            for (r, start) in starts.iter_mut().enumerate() {
                // The last group is filled up with the last row.
                let row = row(s, r.min(rows - 1));
                assert!(row.len() >= self.length, "a row outside its slice");
                *start = row.as_ptr();
            }
            for from in (0..self.length).step_by(self.part) {
                let depth = self.part.min(self.length - from);
                let mut panel = &self.data[at..at + self.part * self.filled];
                for (j, width, kernel) in panels(self.columns) {
                    let bias = bias.map(|bias| &bias[j..j + width]);
                    let first = s == 0 && from == 0;
                    // SAFETY: the rows are `length` long, as was just asserted.
                    unsafe {
                        rows_times_panel(
                            kernel,
                            &starts,
                            rows,
                            from,
                            panel,
                            depth,
                            &mut c[j..],
                            c_row,
                            width,
                            first,
                            bias,
                        );
                    }
                    panel = &panel[self.part * kernel.columns..];
                }
                at += self.part * self.filled;
            }
        }
    }
}

/// First column, width and kernel of every panel.
fn panels(columns: usize) -> impl Iterator<Item = (usize, usize, Kernel)> {
    let mut j = 0;
    std::iter::from_fn(move || {
        let kernel = (j < columns).then(Kernel::here)?;
        let width = kernel.columns.min(columns - j);
        j += width;
        Some((j - width, width, kernel))
    })
}

/// c = or += (`first` or not) the product of rows, from an offset on, with a panel.
///
/// # Safety
/// The rows must have `from + depth` numbers.
#[allow(clippy::too_many_arguments)]
unsafe fn rows_times_panel(
    kernel: Kernel,
    starts: &[*const f32],
    rows: usize,
    from: usize,
    panel: &[f32],
    depth: usize,
    c: &mut [f32],
    c_row: usize,
    width: usize,
    first: bool,
    bias: Option<&[f32]>,
) {
    assert!(panel.len() >= depth * kernel.columns);
    let mut sums = [0f32; ROWS * COLUMNS];
    for (g, group) in starts.chunks_exact(kernel.rows).enumerate() {
        let top = g * kernel.rows;
        let count = kernel.rows.min(rows.saturating_sub(top));
        if first && bias.is_none() && width == kernel.columns && count == kernel.rows {
            let c = &mut c[top * c_row..][..(count - 1) * c_row + width];
            // SAFETY: as below; so many rows of so many columns lie in c.
            unsafe { (kernel.run)(group, from, panel, depth, c.as_mut_ptr(), c_row) };
            continue;
        }
        // SAFETY: the processor has the kernel's features; the rows are long enough, the panel has `depth` of its own,
        // and the sums have room for the largest kernel's.
        unsafe { (kernel.run)(group, from, panel, depth, sums.as_mut_ptr(), kernel.columns) };
        for (r, sums) in sums.chunks_exact(kernel.columns).take(count).enumerate() {
            let c = &mut c[(top + r) * c_row..][..width];
            // Rows of sixteen need no loop.
            for (i, (c, sums)) in c.chunks_mut(16).zip(sums.chunks_exact(16)).enumerate() {
                let bias = bias.map(|b| &b[16 * i..][..c.len()]);
                let whole: Result<&mut [f32; 16], _> = c.as_mut().try_into();
                match (whole, bias) {
                    (Ok(c), None) if first => (0..16).for_each(|i| c[i] = sums[i]),
                    (Ok(c), Some(b)) if first => (0..16).for_each(|i| c[i] = sums[i] + b[i]),
                    (Ok(c), _) => (0..16).for_each(|i| c[i] += sums[i]),
                    (Err(_), None) if first => c.iter_mut().zip(sums).for_each(|(c, s)| *c = *s),
                    (Err(_), Some(b)) if first => c.iter_mut().zip(sums).zip(b).for_each(|((c, s), b)| *c = s + b),
                    (Err(_), _) => c.iter_mut().zip(sums).for_each(|(c, s)| *c += s),
                }
            }
        }
    }
}

/// The rows of b from `first` on, as many as the panel has of `columns` each, and `width` columns from `j` on.
fn pack(panel: &mut [f32], b: Matrix<'_>, first: usize, (j, width, columns): (usize, usize, usize)) {
    if b.column == 1 {
        for (i, row) in panel.chunks_exact_mut(columns).enumerate() {
            let from = &b.data[(first + i) * b.row + j..][..width];
            if width == columns {
                for (to, from) in row.chunks_exact_mut(16).zip(from.chunks_exact(16)) {
                    (0..16).for_each(|i| to[i] = from[i]);
                }
            } else {
                row.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
        }
        return;
    }
    for c in 0..width {
        let column = &b.data[first * b.row + (j + c) * b.column..];
        for (to, from) in panel[c..].iter_mut().step_by(columns).zip(column.iter().step_by(b.row)) {
            *to = *from;
        }
    }
}

/// The innermost product: rows of A, from an offset on, with a panel of a depth, into rows of sums at a distance.
#[derive(Clone, Copy)]
struct Kernel {
    rows: usize,
    columns: usize,
    run: unsafe fn(&[*const f32], usize, &[f32], usize, *mut f32, usize),
}

impl Kernel {
    /// What suits the processor.
    ///
    /// # Panics
    /// Without [`available`].
    fn here() -> Self {
        assert!(available(), "a product by panels without fused multiply-add");
        #[cfg(target_arch = "x86_64")]
        return Self { rows: ROWS, columns: COLUMNS, run: x86::avx2 };
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("products by panels without fused multiply-add");
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };

    /// A kernel of two registers to a row: all sums stay in registers.
    macro_rules! kernel {
        ($name:ident, $features:literal, $rows:literal, $lanes:literal, $zero:ident, $load:ident, $one:expr, $add:ident, $store:ident) => {
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(
                rows: &[*const f32],
                from: usize,
                panel: &[f32],
                depth: usize,
                out: *mut f32,
                out_row: usize,
            ) {
                // SAFETY: each of the rows has `depth` numbers after `from`, the panel as many rows of two registers
                // and `out` has room for as many (the caller's promise).
                unsafe {
                    let rows: [*const f32; $rows] = std::array::from_fn(|r| rows[r].add(from));
                    let mut b = panel.as_ptr();
                    let mut sums = [[$zero(); 2]; $rows];
                    for k in 0..depth {
                        let (b0, b1) = ($load(b), $load(b.add($lanes)));
                        b = b.add(2 * $lanes);
                        for r in 0..$rows {
                            let a = $one(&*rows[r].add(k));
                            sums[r][0] = $add(a, b0, sums[r][0]);
                            sums[r][1] = $add(a, b1, sums[r][1]);
                        }
                    }
                    for (r, sums) in sums.iter().enumerate() {
                        let at = out.add(out_row * r);
                        $store(at, sums[0]);
                        $store(at.add($lanes), sums[1]);
                    }
                }
            }
        };
    }

    kernel!(
        avx2,
        "avx2,fma",
        6,
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_broadcast_ss,
        _mm256_fmadd_ps,
        _mm256_storeu_ps
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    #[test]
    fn products_agree_with_the_definition() {
        if !available() {
            return;
        }
        for (m, segments, length, n) in [(1, 1, 1, 1), (7, 2, 5, 17), (13, 1, 400, 40), (25, 3, 900, 70)] {
            let k = segments * length;
            let (a, b) = (stream(3, "a", 0).normals(m * k), stream(3, "b", 0).normals(k * n));
            let bias = stream(3, "bias", 0).normals(n);
            for transposed in [false, true] {
                let bm = if transposed { Matrix::rows(&b, k).t() } else { Matrix::rows(&b, n) };
                let mut c = vec![f32::NAN; m * (n + 2)];
                let row = |s: usize, r: usize| &a[r * k + s * length..];
                Packed::new(bm, (segments, length), n).multiply(m, row, Some(&bias), &mut c, n + 2);
                for i in 0..m {
                    for j in 0..n {
                        let term = |l: usize| f64::from(a[i * k + l]) * f64::from(bm.data[l * bm.row + j * bm.column]);
                        let exact = (0..k).map(term).sum::<f64>() + f64::from(bias[j]);
                        let size = (k as f64).sqrt();
                        let error = (f64::from(c[i * (n + 2) + j]) - exact).abs();
                        assert!(error < 3e-6 * size, "{m}×{k}×{n} {transposed} ({i}, {j}): {error}");
                    }
                    assert!(c[i * (n + 2) + n].is_nan(), "wrote past a row");
                }
            }
        }
    }
}
