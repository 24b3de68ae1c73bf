//! Products of bf16 operands with f32 sums by pairs (AVX512-BF16), on the operands that [tiles](super::tiles) are packed
//! for: for processors that have the instruction and no tiles, as Zen 4.
//!
//! One instruction adds 32 products to 16 sums, twice as many as one of f32 (at one a cycle on Zen 4).

use super::tiles::{Block, DEPTH, PANEL};

/// Rows of A whose sums are kept in registers: 8·2 of 32, so that sixteen sums run beside each other; with latency 6 at one
/// a cycle no instruction waits for another.
#[cfg(target_arch = "x86_64")]
const ROWS: usize = 8;

/// Whether this machine has the instruction.
#[cfg(target_arch = "x86_64")]
pub fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16") && std::arch::is_x86_feature_detected!("avx512f")
}

/// Whether this machine has the instruction.
#[cfg(not(target_arch = "x86_64"))]
pub fn available() -> bool {
    false
}

/// block[32×32] = A panel · B panel over `depth` (a multiple of 32); only where [`available`] says yes.
///
/// # Panics
/// Panels of another size.
#[cfg(target_arch = "x86_64")]
pub fn multiply(a: &[u16], b: &[u16], depth: usize, block: &mut Block) {
    assert!(depth > 0 && depth.is_multiple_of(DEPTH) && a.len() >= PANEL * depth && b.len() >= PANEL * depth);
    assert!(available(), "no products of bf16 pairs on this processor");
    for from in (0..PANEL).step_by(ROWS) {
        // SAFETY: the processor has the instruction; the panels are as long as was asserted.
        unsafe { rows_of(a.as_ptr(), b.as_ptr(), depth, from, block) };
    }
}

/// Never called without the instruction.
#[cfg(not(target_arch = "x86_64"))]
pub fn multiply(_a: &[u16], _b: &[u16], _depth: usize, _block: &mut Block) {
    unreachable!("pairs::available() said no");
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows_of(a: *const u16, b: *const u16, depth: usize, from: usize, block: &mut Block) {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    // SAFETY: the same bits in the same register.
    let pairs = |x: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(x) };
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for k in (0..depth).step_by(2) {
        // SAFETY: row k/2 of B's panel has 64 numbers; row r of A's block of 32 has those of k and k + 1 side by side.
        unsafe {
            let left = pairs(_mm512_loadu_si512(b.add(k * PANEL).cast()));
            let right = pairs(_mm512_loadu_si512(b.add(k * PANEL + PANEL).cast()));
            let column = a.add((k / DEPTH * PANEL + from) * DEPTH + k % DEPTH);
            // Written out, not a loop: an array that is indexed is not kept in registers.
            macro_rules! row {
                ($($r:literal)*) => {$(
                    let x = pairs(_mm512_set1_epi32(column.add($r * DEPTH).cast::<i32>().read_unaligned()));
                    sums[$r][0] = _mm512_dpbf16_ps(sums[$r][0], x, left);
                    sums[$r][1] = _mm512_dpbf16_ps(sums[$r][1], x, right);
                )*};
            }
            row!(0 1 2 3 4 5 6 7);
        }
    }
    for (row, sums) in block.0[from * PANEL..(from + ROWS) * PANEL].chunks_exact_mut(PANEL).zip(&sums) {
        // SAFETY: a row of the block has 32 numbers.
        unsafe {
            _mm512_storeu_ps(row.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(row.as_mut_ptr().add(16), sums[1]);
        }
    }
}
