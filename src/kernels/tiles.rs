//! Products of bf16 operands with f32 sums on the matrix tiles (AMX) of recent server processors, or by [pairs].
//!
//! Operands are packed: A in panels of 32 rows, `[k/32][32 rows][32]`; B in panels of 32 columns,
//! `[k/2][32 columns][2]`. Both are padded with zeros. One call multiplies a panel of A with a panel of B into a
//! 32×32 block.

use super::pairs;
use super::wide::wide;

/// Rows of a panel of A, columns of a panel of B.
pub const PANEL: usize = 32;
/// Depth of one tile product.
pub const DEPTH: usize = 32;

/// Whether this machine has the tiles, or in their place products of [pairs].
pub fn available() -> bool {
    amx() || pairs::available()
}

/// Whether this machine has the tiles and the system lets this process use them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx() -> bool {
    use std::sync::OnceLock;
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        // CPUID leaf 7: EDX bit 22 is AMX-BF16, bit 24 AMX-TILE.
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        let has = leaf.edx & (1 << 22) != 0 && leaf.edx & (1 << 24) != 0;
        has && std::arch::is_x86_feature_detected!("avx512f") && permitted()
    })
}

/// Whether this machine has the tiles.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn amx() -> bool {
    false
}

/// Asks Linux for the tile registers: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn permitted() -> bool {
    let result: i64;
    // SAFETY: system call 158 with these arguments only sets a permission of this process; rcx and r11 are clobbered
    // by `syscall` as declared.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") 158_i64 => result,
            in("rdi") 0x1023_i64,
            in("rsi") 18_i64,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// What multiplies panels: the tile registers, configured for 16 rows of 64 bytes each while this value lives, or pairs.
pub struct Tiles {
    registers: bool,
}

impl Tiles {
    /// Configures this thread's tiles, if the machine has them; only after [`available`] said yes.
    pub fn configure() -> Self {
        let registers = amx();
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if registers {
            #[repr(C, align(64))]
            struct Config([u8; 64]);
            let mut config = Config([0; 64]);
            config.0[0] = 1;
            for tile in 0..8 {
                config.0[16 + 2 * tile] = 64;
                config.0[48 + tile] = 16;
            }
            // SAFETY: a valid palette-1 configuration on a machine that has tiles.
            unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        }
        Tiles { registers }
    }

    /// block[32×32] = A panel · B panel over `depth` (a multiple of 32).
    pub fn multiply(&self, a: &[u16], b: &[u16], depth: usize, block: &mut Block) {
        if self.registers { by_tiles(a, b, depth, block) } else { pairs::multiply(a, b, depth, block) }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn by_tiles(a: &[u16], b: &[u16], depth: usize, block: &mut Block) {
    assert!(depth > 0 && depth.is_multiple_of(DEPTH) && a.len() >= PANEL * depth && b.len() >= PANEL * depth);
    // SAFETY: each iteration reads 2048 bytes of a and of b and advances both by as much, depth/32 times, which the
    // assertion bounds; the block is 4096 bytes; the tiles are configured.
    unsafe {
        std::arch::asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a} + {sa}*1]",
            "tileloadd tmm6, [{b} + {sb}*1]",
            "tileloadd tmm7, [{b} + {sb}*1 + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{a} + {sa}*1 + 1024]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 2048",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            "tilestored [{c} + {sb}*1], tmm0",
            "tilestored [{c} + {sb}*1 + 64], tmm1",
            "tilestored [{c} + {sb}*1 + 2048], tmm2",
            "tilestored [{c} + {sb}*1 + 2112], tmm3",
            a = inout(reg) a.as_ptr() => _,
            b = inout(reg) b.as_ptr() => _,
            n = inout(reg) depth / DEPTH => _,
            c = in(reg) block.0.as_mut_ptr(),
            sa = in(reg) 64_usize,
            sb = in(reg) 128_usize,
            options(nostack),
        );
    }
}

/// Never called on machines without tiles.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn by_tiles(_a: &[u16], _b: &[u16], _depth: usize, _block: &mut Block) {
    unreachable!("there are no tiles");
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Drop for Tiles {
    fn drop(&mut self) {
        if self.registers {
            // SAFETY: returns the tiles to their initial state; nothing else on this thread uses them.
            unsafe { std::arch::asm!("tilerelease", options(nostack)) };
        }
    }
}

/// A 32×32 block of sums, row by row.
#[repr(align(64))]
pub struct Block(pub [f32; PANEL * PANEL]);

impl Block {
    /// All zeros.
    pub fn new() -> Self {
        Block([0.0; PANEL * PANEL])
    }
}

/// f32 to bf16, to nearest even. (NaN may become infinity: training checks its loss.)
#[inline(always)]
pub fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits.wrapping_add(0x7fff + ((bits >> 16) & 1))) >> 16) as u16
}

wide! {
    /// Converts a slice.
    pub fn convert(source: &[f32], target: &mut [u16]) {
        for (t, &s) in target.iter_mut().zip(source) {
            *t = bf16(s);
        }
    }

    /// Packs a panel of A, `rows ≤ 32` rows of `k` numbers at stride `rs`, contiguous along k. `panel` is zeroed
    /// beyond rows and k by the caller's zeroed allocation.
    pub fn pack_rows(source: &[f32], rs: usize, rows: usize, k: usize, panel: &mut [u16]) {
        for r in 0..rows {
            let row = &source[r * rs..r * rs + k];
            for (kb, chunk) in row.chunks(DEPTH).enumerate() {
                let at = (kb * PANEL + r) * DEPTH;
                let target = &mut panel[at..at + chunk.len()];
                for (t, &s) in target.iter_mut().zip(chunk) {
                    *t = bf16(s);
                }
            }
        }
    }

    /// Packs a panel of A whose memory runs along the rows: element (r, i) at `source[i·cs + r]`.
    pub fn pack_columns(source: &[f32], cs: usize, rows: usize, k: usize, panel: &mut [u16]) {
        for kb in 0..k.div_ceil(DEPTH) {
            let depth = DEPTH.min(k - kb * DEPTH);
            let mut block = [[0u16; PANEL]; DEPTH];
            for (i, line) in block.iter_mut().enumerate().take(depth) {
                let from = (kb * DEPTH + i) * cs;
                for (t, &s) in line.iter_mut().zip(&source[from..from + rows]) {
                    *t = bf16(s);
                }
            }
            let target = &mut panel[kb * PANEL * DEPTH..(kb + 1) * PANEL * DEPTH];
            for r in 0..rows {
                for i in 0..DEPTH {
                    target[r * DEPTH + i] = block[i][r];
                }
            }
        }
    }

    /// Packs a panel of B, `k` rows of `columns ≤ 32` numbers at stride `rs`, contiguous along the columns.
    pub fn pack_b_rows(source: &[f32], rs: usize, k: usize, columns: usize, panel: &mut [u16]) {
        let mut pairs = panel.chunks_exact_mut(2 * PANEL);
        for i in (0..k).step_by(2) {
            let Some(target) = pairs.next() else { break };
            let even = &source[i * rs..i * rs + columns];
            if i + 1 < k {
                let odd = &source[(i + 1) * rs..(i + 1) * rs + columns];
                if columns == PANEL {
                    for j in 0..PANEL {
                        target[2 * j] = bf16(even[j]);
                        target[2 * j + 1] = bf16(odd[j]);
                    }
                } else {
                    for j in 0..columns {
                        target[2 * j] = bf16(even[j]);
                        target[2 * j + 1] = bf16(odd[j]);
                    }
                }
            } else {
                for j in 0..columns {
                    target[2 * j] = bf16(even[j]);
                }
            }
        }
    }

    /// Packs a panel of B whose memory runs along k: element (i, j) at `source[j·cs + i]`.
    pub fn pack_b_columns(source: &[f32], cs: usize, k: usize, columns: usize, panel: &mut [u16]) {
        for ib in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - ib);
            let mut block = [[0u16; DEPTH]; PANEL];
            for (j, line) in block.iter_mut().enumerate().take(columns) {
                let from = j * cs + ib;
                for (t, &s) in line.iter_mut().zip(&source[from..from + depth]) {
                    *t = bf16(s);
                }
            }
            let target = &mut panel[ib * PANEL..(ib + DEPTH) * PANEL];
            for i in 0..DEPTH / 2 {
                for j in 0..PANEL {
                    target[2 * (i * PANEL + j)] = block[j][2 * i];
                    target[2 * (i * PANEL + j) + 1] = block[j][2 * i + 1];
                }
            }
        }
    }
}
