//! The innermost product: a few rows of A with one packed panel of B, all sums in registers.
//!
//! Twelve rows of two 512-bit registers, or six rows of two 256-bit ones, keep as many sums as fused multiply-adds are
//! under way, and read each number of B once for all rows. On a Zen 4, whose units for 512 bits are two of 256, both
//! come to 93–97 % of what its multipliers give (GFLOP/s, one thread, from the caches: 113 and 109 of 117).

/// c = add + A B: segments of A that begin at pointers (a group of rows for each segment) plus an offset, of this depth
/// each, with a panel; rows of `add` and of c at distances (0: the same row for all).
type Run = unsafe fn(*const *const f32, usize, usize, usize, *const f32, *const f32, usize, *mut f32, usize);

/// The innermost product for panels of some width.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Columns of a panel.
    pub(super) columns: usize,
    pub(super) run: Run,
}

/// The kernels of a kind of processor, widest first.
#[derive(Debug)]
pub(super) struct Kernels {
    #[cfg_attr(not(test), allow(dead_code))]
    pub(super) name: &'static str,
    /// Rows of A.
    pub(super) rows: usize,
    kernels: &'static [Kernel],
}

impl Kernels {
    /// What suits the processor, if anything.
    pub(super) fn here() -> Option<&'static Self> {
        Self::all().next()
    }

    /// All that the processor can run, the best first.
    pub(super) fn all() -> impl Iterator<Item = &'static Self> {
        #[cfg(target_arch = "x86_64")]
        let all = [(std::arch::is_x86_feature_detected!("avx512f"), &x86::AVX512), (true, &x86::AVX2)];
        #[cfg(target_arch = "x86_64")]
        let fused = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
        #[cfg(not(target_arch = "x86_64"))]
        let (all, fused): ([(bool, &'static Self); 0], bool) = ([], false);
        all.into_iter().filter(move |(has, _)| *has && fused).map(|(_, kernels)| kernels)
    }

    /// Columns of the widest panel.
    pub(super) fn columns(&self) -> usize {
        self.kernels[0].columns
    }

    /// The widest kernel that is not wider than so many columns, up to a multiple of eight.
    pub(super) fn widest(&'static self, columns: usize) -> &'static Kernel {
        let columns = columns.next_multiple_of(8);
        self.kernels.iter().find(|k| k.columns <= columns).unwrap_or(&self.kernels[self.kernels.len() - 1])
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Kernel, Kernels};
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    pub(super) static AVX512: Kernels = Kernels {
        name: "avx512",
        rows: 12,
        kernels: &[
            Kernel { columns: 32, run: avx512_32 },
            Kernel { columns: 16, run: avx512_16 },
            Kernel { columns: 8, run: avx512_8 },
        ],
    };

    pub(super) static AVX2: Kernels = Kernels {
        name: "avx2",
        rows: 6,
        kernels: &[Kernel { columns: 16, run: avx2_16 }, Kernel { columns: 8, run: avx2_8 }],
    };

    macro_rules! kernel {
        ($name:ident, $features:literal, [$($row:literal)*] by $registers:literal of $lanes:literal,
         $zero:expr, $load:expr, $one:expr, $fused:expr, $sum:expr, $store:expr) => {
            #[target_feature(enable = $features)]
            #[allow(clippy::too_many_arguments, clippy::needless_range_loop)]
            unsafe fn $name(
                starts: *const *const f32,
                segments: usize,
                from: usize,
                depth: usize,
                panel: *const f32,
                add: *const f32,
                add_row: usize,
                out: *mut f32,
                out_row: usize,
            ) {
                // SAFETY: each segment of each row has `depth` numbers after `from`, the panel has as many rows for each
                // segment, `add` and `out` have rows of a panel's width (the caller's promise).
                unsafe {
                    let mut b = panel;
                    const ROWS: usize = [$($row),*].len();
                    let mut sums = [[$zero; $registers]; ROWS];
                    for s in 0..segments {
                        let rows = [$((*starts.add(s * ROWS + $row)).add(from)),*];
                        for k in 0..depth {
                            let mut columns = [$zero; $registers];
                            for (j, column) in columns.iter_mut().enumerate() {
                                *column = $load(b.add(j * $lanes));
                            }
                            b = b.add($registers * $lanes);
                            // Rows are written out, not a loop: an array that is indexed is not kept in registers.
                            $(
                                let a = $one(&*rows[$row].add(k));
                                for j in 0..$registers {
                                    sums[$row][j] = $fused(a, columns[j], sums[$row][j]);
                                }
                            )*
                        }
                    }
                    $(
                        for j in 0..$registers {
                            let to = out.add(out_row * $row + j * $lanes);
                            $store(to, $sum(sums[$row][j], $load(add.add(add_row * $row + j * $lanes))));
                        }
                    )*
                }
            }
        };
    }

    kernel!(avx512_32, "avx512f", [0 1 2 3 4 5 6 7 8 9 10 11] by 2 of 16, _mm512_setzero_ps(), _mm512_loadu_ps, |a: &f32| _mm512_set1_ps(*a), _mm512_fmadd_ps, _mm512_add_ps,
        _mm512_storeu_ps);
    kernel!(avx512_16, "avx512f", [0 1 2 3 4 5 6 7 8 9 10 11] by 1 of 16, _mm512_setzero_ps(), _mm512_loadu_ps, |a: &f32| _mm512_set1_ps(*a), _mm512_fmadd_ps, _mm512_add_ps,
        _mm512_storeu_ps);
    kernel!(avx512_8, "avx2,fma", [0 1 2 3 4 5 6 7 8 9 10 11] by 1 of 8, _mm256_setzero_ps(), _mm256_loadu_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_add_ps,
        _mm256_storeu_ps);
    kernel!(avx2_16, "avx2,fma", [0 1 2 3 4 5] by 2 of 8, _mm256_setzero_ps(), _mm256_loadu_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_add_ps,
        _mm256_storeu_ps);
    kernel!(avx2_8, "avx2,fma", [0 1 2 3 4 5] by 1 of 8, _mm256_setzero_ps(), _mm256_loadu_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_add_ps,
        _mm256_storeu_ps);
}
