//! Sums over picked rows of a matrix, with what is summed in registers.
//!
//! The matrix is copied to panels of 256 rows and 128 columns, each contiguous and aligned, small enough for a
//! second-level cache. A row of what is summed is kept in registers while rows of a panel are added to it or multiplied
//! with it, so that a number of the panel costs one load and the cache's bandwidth is the limit. With 5 % of the rows,
//! picked by chance, sums run at half the rate of a dense product (Zen 4, one thread: 51 of 100 GFLOP/s, scalar products
//! 44; with rows that are not aligned 31 and 30, and in place, where every row is a page of its own, slower still). The
//! same bits on every processor: products are fused with what they are added to, in the same order.

use rayon::prelude::*;

/// Numbers side by side in a vector.
const LANES: usize = 16;

/// Columns of a panel.
pub(crate) const WIDTH: usize = 128;
const VECTORS: usize = WIDTH / LANES;

/// Rows of a panel: as many as a byte can tell apart.
pub(crate) const ROWS: usize = 256;

/// Floats of a cache line.
const LINE: usize = 16;

/// The numbers of a panel.
pub(crate) type Panel = [f32; ROWS * WIDTH];

/// A matrix in panels: those of the first 256 rows, then those of the next.
#[derive(Default)]
pub(crate) struct Panels {
    /// Padded with zeros.
    data: Vec<f32>,
    /// Where the first line begins.
    skip: usize,
    /// Panels side by side.
    across: usize,
}

impl Panels {
    /// Takes all of a matrix with rows of `d` numbers, and forgets what was here; the room is used again.
    pub(crate) fn fill(&mut self, matrix: &[f32], d: usize) {
        self.across = d.div_ceil(WIDTH);
        let size = self.across * ROWS * WIDTH;
        self.data.resize((matrix.len() / d).div_ceil(ROWS) * size + LINE, 0.0);
        self.skip = self.data.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let panels = self.data[self.skip..].par_chunks_exact_mut(size);
        panels.zip(matrix.par_chunks(ROWS * d)).for_each(|(panels, rows)| {
            for (i, row) in rows.chunks_exact(d).enumerate() {
                for (panel, part) in panels.chunks_exact_mut(ROWS * WIDTH).zip(row.chunks(WIDTH)) {
                    let to = &mut panel[i * WIDTH..(i + 1) * WIDTH];
                    to[..part.len()].copy_from_slice(part);
                    to[part.len()..].fill(0.0);
                }
            }
        });
    }

    /// The panel of the rows from `down · 256` and the columns from `across · 128` on.
    pub(crate) fn panel(&self, down: usize, across: usize) -> &Panel {
        let all = self.data[self.skip..].as_chunks::<{ ROWS * WIDTH }>().0;
        &all[down * self.across + across]
    }
}

/// y += Σ_i scales_i · panel[rows_i], for the numbers that y has.
///
/// # Panics
/// If y is wider than a panel, or there are fewer scales than rows.
pub(crate) fn add_picked(y: &mut [f32], scales: &[f32], rows: &[u8], panel: &Panel) {
    match y.len() {
        WIDTH => add_whole::<VECTORS>(y, scales, rows, panel),
        n if n == WIDTH / 2 => add_whole::<{ VECTORS / 2 }>(y, scales, rows, panel),
        n => {
            let mut whole = [0.0; WIDTH];
            whole[..n].copy_from_slice(y);
            add_whole::<VECTORS>(&mut whole, scales, rows, panel);
            y.copy_from_slice(&whole[..n]);
        }
    }
}

/// sums_i += ⟨panel[rows_i], y⟩ over the numbers that y has.
///
/// # Panics
/// If y is wider than a panel, or there are fewer sums than rows.
pub(crate) fn dot_picked(sums: &mut [f32], y: &[f32], rows: &[u8], panel: &Panel) {
    match y.len() {
        WIDTH => dot_whole::<VECTORS>(sums, y, rows, panel),
        n if n == WIDTH / 2 => dot_whole::<{ VECTORS / 2 }>(sums, y, rows, panel),
        n => {
            let mut whole = [0.0; WIDTH];
            whole[..n].copy_from_slice(y);
            dot_whole::<VECTORS>(sums, &whole, rows, panel);
        }
    }
}

/// Both at once, so that a row is read from the cache once: y += Σ_i scales_i · panel[rows_i] and
/// sums_i += ⟨panel[rows_i], x⟩. The same bits as one after the other.
///
/// (Where the registers hold y and x together. Rows of 128 in the second-level cache, Zen 4, one thread: 6.0 ns a row, where
/// adding alone takes 4.3.)
///
/// # Panics
/// If y is wider than a panel, x not as wide as y, or there are fewer scales or sums than rows.
pub(crate) fn add_and_dot_picked(
    (y, scales): (&mut [f32], &[f32]),
    (x, sums): (&[f32], &mut [f32]),
    rows: &[u8],
    panel: &Panel,
) {
    assert_eq!(x.len(), y.len());
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        let (scales, sums) = (&scales[..rows.len()], &mut sums[..rows.len()]);
        match y.len() {
            // SAFETY: the processor has AVX-512.
            WIDTH => return unsafe { x86::add_and_dot_avx512::<VECTORS>((y, scales), (x, sums), rows, panel) },
            n if n == WIDTH / 2 => {
                // SAFETY: the same.
                return unsafe { x86::add_and_dot_avx512::<{ VECTORS / 2 }>((y, scales), (x, sums), rows, panel) };
            }
            _ => {}
        }
    }
    add_picked(y, scales, rows, panel);
    dot_picked(sums, x, rows, panel);
}

fn add_whole<const N: usize>(y: &mut [f32], scales: &[f32], rows: &[u8], panel: &Panel) {
    let (y, scales) = (&mut y[..N * LANES], &scales[..rows.len()]);
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512.
            return unsafe { x86::add_avx512::<N>(y, scales, rows, panel) };
        }
        if has_avx2() {
            // SAFETY: the processor has AVX2 and FMA.
            return unsafe { x86::add_avx2::<N>(y, scales, rows, panel) };
        }
    }
    // SAFETY: needs no feature.
    unsafe { add::<Plain, N>(y, scales, rows, panel) }
}

fn dot_whole<const N: usize>(sums: &mut [f32], y: &[f32], rows: &[u8], panel: &Panel) {
    let (sums, y) = (&mut sums[..rows.len()], &y[..N * LANES]);
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512.
            return unsafe { x86::dot_avx512::<N>(sums, y, rows, panel) };
        }
        if has_avx2() {
            // SAFETY: the processor has AVX2 and FMA.
            return unsafe { x86::dot_avx2::<N>(sums, y, rows, panel) };
        }
    }
    // SAFETY: needs no feature.
    unsafe { dot::<Plain, N>(sums, y, rows, panel) }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// Asks for the cache lines of numbers that will soon be read.
pub(crate) fn prefetch(numbers: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in numbers.chunks(LINE) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

/// Sixteen numbers side by side.
trait Vector: Copy {
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn all(value: f32) -> Self;
    /// self + a·b, rounded once.
    unsafe fn plus(self, a: Self, b: Self) -> Self;
    /// The sum of the lanes: in every quarter (0 + 2) + (1 + 3), and so of the quarters.
    unsafe fn sum(self) -> f32;
    /// The same of four vectors.
    unsafe fn sums(four: [Self; 4]) -> [f32; 4];
}

/// y of N vectors += Σ_i scales_i · panel[rows_i].
///
/// # Safety
/// The processor must have the features of `V`.
#[inline(always)]
unsafe fn add<V: Vector, const N: usize>(y: &mut [f32], scales: &[f32], rows: &[u8], panel: &Panel) {
    assert!(y.len() == N * LANES && N <= VECTORS);
    // SAFETY: y and every row of the panel have N vectors, and a byte picks one of its rows.
    unsafe {
        let mut sums = [V::all(0.0); N];
        for (v, sum) in sums.iter_mut().enumerate() {
            *sum = V::load(y.as_ptr().add(v * LANES));
        }
        for (s, i) in scales.iter().zip(rows) {
            let (s, row) = (V::all(*s), panel.as_ptr().add(*i as usize * WIDTH));
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = sum.plus(s, V::load(row.add(v * LANES)));
            }
        }
        for (v, sum) in sums.into_iter().enumerate() {
            sum.store(y.as_mut_ptr().add(v * LANES));
        }
    }
}

/// sums_i += ⟨panel[rows_i], y⟩ for y of N vectors.
///
/// # Safety
/// The processor must have the features of `V`.
#[inline(always)]
unsafe fn dot<V: Vector, const N: usize>(sums: &mut [f32], y: &[f32], rows: &[u8], panel: &Panel) {
    assert!(y.len() == N * LANES && N <= VECTORS);
    // SAFETY: y and every row of the panel have N vectors, and a byte picks one of its rows.
    unsafe {
        let mut here = [V::all(0.0); N];
        for (v, here) in here.iter_mut().enumerate() {
            *here = V::load(y.as_ptr().add(v * LANES));
        }
        let (fours, rest) = rows.as_chunks::<4>();
        let (of_fours, of_rest) = sums.as_chunks_mut::<4>();
        for (sums, i) in of_fours.iter_mut().zip(fours) {
            let mut four = [V::all(0.0); 4];
            for (sum, i) in four.iter_mut().zip(i) {
                *sum = times(&here, panel.as_ptr().add(*i as usize * WIDTH));
            }
            for (sum, found) in sums.iter_mut().zip(V::sums(four)) {
                *sum += found;
            }
        }
        for (sum, i) in of_rest.iter_mut().zip(rest) {
            *sum += times(&here, panel.as_ptr().add(*i as usize * WIDTH)).sum();
        }
    }
}

/// Both of N vectors: y += Σ_i scales_i · panel[rows_i] and sums_i += ⟨panel[rows_i], x⟩.
///
/// # Safety
/// The processor must have the features of `V`.
#[inline(always)]
unsafe fn add_and_dot<V: Vector, const N: usize>(
    (y, scales): (&mut [f32], &[f32]),
    (x, sums): (&[f32], &mut [f32]),
    rows: &[u8],
    panel: &Panel,
) {
    assert!(y.len() == N * LANES && x.len() == N * LANES && N <= VECTORS);
    // SAFETY: y, x and every row of the panel have N vectors, and a byte picks one of its rows.
    unsafe {
        let (mut added, mut here) = ([V::all(0.0); N], [V::all(0.0); N]);
        for (v, (added, here)) in added.iter_mut().zip(&mut here).enumerate() {
            *added = V::load(y.as_ptr().add(v * LANES));
            *here = V::load(x.as_ptr().add(v * LANES));
        }
        for ((sum, scale), i) in sums.iter_mut().zip(scales).zip(rows) {
            let (scale, row) = (V::all(*scale), panel.as_ptr().add(*i as usize * WIDTH));
            let mut products = V::all(0.0);
            for (v, (added, here)) in added.iter_mut().zip(&here).enumerate() {
                let numbers = V::load(row.add(v * LANES));
                *added = added.plus(scale, numbers);
                products = products.plus(*here, numbers);
            }
            *sum += products.sum();
        }
        for (v, added) in added.into_iter().enumerate() {
            added.store(y.as_mut_ptr().add(v * LANES));
        }
    }
}

/// The products of `here` with a row, summed lane by lane.
#[inline(always)]
unsafe fn times<V: Vector, const N: usize>(here: &[V; N], row: *const f32) -> V {
    // SAFETY: as the caller promises, the row has N vectors.
    unsafe {
        let mut sum = V::all(0.0);
        for (v, here) in here.iter().enumerate() {
            sum = sum.plus(*here, V::load(row.add(v * LANES)));
        }
        sum
    }
}

/// For every processor.
#[derive(Clone, Copy)]
struct Plain([f32; LANES]);

impl Vector for Plain {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller promises sixteen numbers.
        Self(unsafe { from.cast::<[f32; LANES]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller promises room for sixteen numbers.
        unsafe { to.cast::<[f32; LANES]>().write(self.0) }
    }

    #[inline(always)]
    unsafe fn all(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    unsafe fn plus(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|l| a.0[l].mul_add(b.0[l], self.0[l])))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let v = self.0;
        let quarter = |q: usize| (v[4 * q] + v[4 * q + 2]) + (v[4 * q + 1] + v[4 * q + 3]);
        (quarter(0) + quarter(2)) + (quarter(1) + quarter(3))
    }

    #[inline(always)]
    unsafe fn sums(four: [Self; 4]) -> [f32; 4] {
        // SAFETY: as the caller promises.
        four.map(|v| unsafe { v.sum() })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{LANES, Panel, Vector, add, add_and_dot, dot};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn add_avx512<const N: usize>(y: &mut [f32], s: &[f32], rows: &[u8], p: &Panel) {
        // SAFETY: the processor has AVX-512, as the caller promises.
        unsafe { add::<__m512, N>(y, s, rows, p) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn add_avx2<const N: usize>(y: &mut [f32], s: &[f32], rows: &[u8], p: &Panel) {
        // SAFETY: the processor has AVX2 and FMA, as the caller promises.
        unsafe { add::<Pair, N>(y, s, rows, p) }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn dot_avx512<const N: usize>(sums: &mut [f32], y: &[f32], rows: &[u8], p: &Panel) {
        // SAFETY: the processor has AVX-512, as the caller promises.
        unsafe { dot::<__m512, N>(sums, y, rows, p) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn dot_avx2<const N: usize>(sums: &mut [f32], y: &[f32], rows: &[u8], p: &Panel) {
        // SAFETY: the processor has AVX2 and FMA, as the caller promises.
        unsafe { dot::<Pair, N>(sums, y, rows, p) }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn add_and_dot_avx512<const N: usize>(
        add: (&mut [f32], &[f32]),
        dot: (&[f32], &mut [f32]),
        rows: &[u8],
        p: &Panel,
    ) {
        // SAFETY: the processor has AVX-512, as the caller promises.
        unsafe { add_and_dot::<__m512, N>(add, dot, rows, p) }
    }

    /// The sums of quarters of four vectors of eight lanes, side by side.
    #[inline(always)]
    unsafe fn quarters([a, b, c, d]: [__m256; 4]) -> __m256 {
        // SAFETY: the caller promises AVX2.
        unsafe {
            let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            _mm256_add_ps(_mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0xEE>(ab, cd))
        }
    }

    /// (0 + 2) + (1 + 3) of the quarters of sixteen lanes.
    #[inline(always)]
    unsafe fn all_quarters(low: __m256, high: __m256) -> [f32; 4] {
        // SAFETY: the caller promises AVX2; four numbers are stored.
        unsafe {
            let both = _mm256_add_ps(low, high);
            let sums = _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps::<1>(both));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), sums);
            out
        }
    }

    impl Vector for __m512 {
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller promises sixteen numbers, and AVX-512 here and below.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller promises room for sixteen numbers.
            unsafe { _mm512_storeu_ps(to, self) }
        }

        #[inline(always)]
        unsafe fn all(value: f32) -> Self {
            // SAFETY: see `load`.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn plus(self, a: Self, b: Self) -> Self {
            // SAFETY: see `load`.
            unsafe { _mm512_fmadd_ps(a, b, self) }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: see `load`.
            unsafe {
                let pairs = _mm512_add_ps(self, _mm512_permute_ps::<0x4E>(self));
                let quarters = _mm512_castps_pd(_mm512_add_ps(pairs, _mm512_permute_ps::<0xB1>(pairs)));
                let high = _mm512_castpd_ps(_mm512_shuffle_f64x2::<0xEE>(quarters, quarters));
                let low = _mm512_castps512_ps256(_mm512_castpd_ps(quarters));
                all_quarters(low, _mm512_castps512_ps256(high))[0]
            }
        }

        #[inline(always)]
        unsafe fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
            // SAFETY: see `load`.
            unsafe {
                let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                let all = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(ab, cd), _mm512_shuffle_ps::<0xEE>(ab, cd));
                let high = _mm512_castps_pd(all);
                let high = _mm512_castpd_ps(_mm512_shuffle_f64x2::<0xEE>(high, high));
                all_quarters(_mm512_castps512_ps256(all), _mm512_castps512_ps256(high))
            }
        }
    }

    /// Two registers of AVX2.
    #[derive(Clone, Copy)]
    struct Pair(__m256, __m256);

    impl Vector for Pair {
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller promises sixteen numbers, and AVX2 here and below.
            unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(LANES / 2))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller promises room for sixteen numbers.
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(LANES / 2), self.1);
            }
        }

        #[inline(always)]
        unsafe fn all(value: f32) -> Self {
            // SAFETY: see `load`.
            unsafe { Self(_mm256_set1_ps(value), _mm256_set1_ps(value)) }
        }

        #[inline(always)]
        unsafe fn plus(self, a: Self, b: Self) -> Self {
            // SAFETY: see `load`.
            unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: see `load`.
            unsafe { Self::sums([self; 4])[0] }
        }

        #[inline(always)]
        unsafe fn sums(four: [Self; 4]) -> [f32; 4] {
            // SAFETY: see `load`.
            unsafe { all_quarters(quarters(four.map(|v| v.0)), quarters(four.map(|v| v.1))) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    #[test]
    fn picked_rows_have_the_same_sums_on_every_processor() {
        let mut random = stream(8, "gathered", 0);
        // The last panel has 44 rows; panels of 128, 64 and 37 columns are met last.
        for d in [WIDTH + 64, WIDTH, 37] {
            let matrix = random.normals(300 * d);
            let mut panels = Panels::default();
            panels.fill(&random.normals(600 * d), d);
            panels.fill(&matrix, d);
            let (down, across) = (1, (d - 1) / WIDTH);
            let (panel, width) = (panels.panel(down, across), d - across * WIDTH);
            for n in [0, 1, 3, 4, 5, 13] {
                let rows: Vec<u8> = (0..n).map(|_| random.below(44) as u8).collect();
                let part = |i: u8| &matrix[(down * ROWS + i as usize) * d + across * WIDTH..][..width];
                let (scales, y, start) = (random.normals(n), random.normals(width), random.normals(n));
                let (mut added, mut exact) = (y.clone(), y.clone());
                add_picked(&mut added, &scales, &rows, panel);
                for (s, i) in scales.iter().zip(&rows) {
                    exact.iter_mut().zip(part(*i)).for_each(|(y, v)| *y = s.mul_add(*v, *y));
                }
                assert_eq!(added, exact, "width {width}, {n} rows");
                let mut sums = start.clone();
                dot_picked(&mut sums, &y, &rows, panel);
                let (mut also_added, mut also_sums) = (y.clone(), start.clone());
                add_and_dot_picked((&mut also_added, &scales), (&y, &mut also_sums), &rows, panel);
                assert_eq!((&also_added, &also_sums), (&added, &sums), "width {width}, {n} rows");
                for ((sum, start), i) in sums.iter().zip(&start).zip(&rows) {
                    let exact: f64 = part(*i).iter().zip(&y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    assert!((f64::from(*sum - start) - exact).abs() < 1e-4, "width {width}, {n} rows");
                }
                if width != WIDTH {
                    continue;
                }
                let (mut plain, mut of_plain) = (y.clone(), start.clone());
                // SAFETY: needs no feature.
                unsafe {
                    add::<Plain, VECTORS>(&mut plain, &scales, &rows, panel);
                    dot::<Plain, VECTORS>(&mut of_plain, &y, &rows, panel);
                }
                assert_eq!((&plain, &of_plain), (&added, &sums), "{n} rows");
                #[cfg(target_arch = "x86_64")]
                if has_avx2() {
                    let (mut wide, mut of_wide) = (y.clone(), start);
                    // SAFETY: the processor has AVX2 and FMA.
                    unsafe {
                        x86::add_avx2::<VECTORS>(&mut wide, &scales, &rows, panel);
                        x86::dot_avx2::<VECTORS>(&mut of_wide, &y, &rows, panel);
                    }
                    assert_eq!((wide, of_wide), (added, sums), "{n} rows");
                }
            }
        }
    }
}
