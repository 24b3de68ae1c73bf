//! Numbers in half precision: widening to f32, and finding what is not finite.

use super::product::for_each_chunk;
use super::wide::wide;

/// How a number lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Float {
    /// IEEE's, eight bytes.
    F64,
    /// IEEE's, four bytes.
    F32,
    /// IEEE's, two bytes.
    F16,
    /// The upper half of [`Float::F32`].
    Bf16,
}

wide! {
    /// bf16 is the upper half of f32.
    fn widen_bf16(x: &[u16], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = f32::from_bits(u32::from(x) << 16);
        }
    }

    /// The exponent of f16 is five bits wide and biased by 15: moved to the place of f32's and multiplied by 2¹¹², which
    /// serves subnormal numbers, too. (For finite numbers.)
    fn widen_f16(x: &[u16], y: &mut [f32]) {
        const SCALE: f32 = f32::from_bits((127 + 112) << 23);
        for (y, &x) in y.iter_mut().zip(x) {
            let x = u32::from(x);
            let size = f32::from_bits((x & 0x7fff) << 13) * SCALE;
            *y = f32::from_bits(size.to_bits() | (x & 0x8000) << 16);
        }
    }

    /// Whether one of the 32-bit words has all bits of `mask`.
    fn any_with(words: &[u8], mask: u32) -> bool {
        let mut any = false;
        for word in words.chunks_exact(4) {
            any |= u32::from_le_bytes([word[0], word[1], word[2], word[3]]) & mask == mask;
        }
        any
    }

    /// As [`any_with`], of 16-bit words.
    fn any_half_with(words: &[u8], mask: u16) -> bool {
        let mut any = false;
        for word in words.chunks_exact(2) {
            any |= u16::from_le_bytes([word[0], word[1]]) & mask == mask;
        }
        any
    }
}

/// Numbers that one task widens.
const CHUNK: usize = 1 << 16;

/// y = x for x in bf16, on the threads of the current pool.
pub fn from_bf16(x: &[u16], y: &mut [f32]) {
    for_each_chunk(y, CHUNK, |(i, y)| widen_bf16(&x[i * CHUNK..][..y.len()], y));
}

/// y = x for finite x in f16, on the threads of the current pool.
pub fn from_f16(x: &[u16], y: &mut [f32]) {
    for_each_chunk(y, CHUNK, |(i, y)| widen_f16(&x[i * CHUNK..][..y.len()], y));
}

/// The place of the first number that is infinite or no number, in the little-endian bytes of floats.
#[must_use]
pub fn not_finite(bytes: &[u8], float: Float) -> Option<usize> {
    // All bits of the exponent are set in what is not finite.
    let (width, bad): (usize, fn(&[u8]) -> bool) = match float {
        // The upper half tells.
        Float::F64 => (8, |bytes| bytes.chunks_exact(8).any(|b| any_with(&b[4..], 0x7ff0_0000))),
        Float::F32 => (4, |bytes| any_with(bytes, 0x7f80_0000)),
        Float::F16 => (2, |bytes| any_half_with(bytes, 0x7c00)),
        Float::Bf16 => (2, |bytes| any_half_with(bytes, 0x7f80)),
    };
    let block = bytes.chunks(CHUNK).position(bad)? * CHUNK;
    let inside = bytes[block..].chunks_exact(width).position(bad)?;
    Some(block / width + inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_exactly() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        let mut y = vec![0f32; all.len()];
        from_bf16(&all, &mut y);
        // (Of NaN there are several, and which one is nobody's concern.)
        for (&x, y) in all.iter().zip(&y).filter(|(x, _)| !half::bf16::from_bits(**x).is_nan()) {
            assert_eq!(y.to_bits(), half::bf16::from_bits(x).to_f32().to_bits(), "{x:#x}");
        }
        from_f16(&all, &mut y);
        for (&x, y) in all.iter().zip(&y).filter(|(x, _)| half::f16::from_bits(**x).is_finite()) {
            assert_eq!(y.to_bits(), half::f16::from_bits(x).to_f32().to_bits(), "{x:#x}");
        }
    }

    #[test]
    fn the_first_number_that_is_not_finite_is_found() {
        let n = 100_000;
        for at in [0, 1, 40_000, n - 1] {
            let mut x = vec![1.5f32; n];
            x[at] = if at % 2 == 0 { f32::NAN } else { f32::NEG_INFINITY };
            let words = |x: &[f32], to: fn(f32) -> Vec<u8>| -> Vec<u8> { x.iter().flat_map(|&x| to(x)).collect() };
            type Bytes = fn(f32) -> Vec<u8>;
            let types: [(Float, Bytes); 4] = [
                (Float::F32, |x| x.to_le_bytes().to_vec()),
                (Float::F64, |x| f64::from(x).to_le_bytes().to_vec()),
                (Float::F16, |x| half::f16::from_f32(x).to_le_bytes().to_vec()),
                (Float::Bf16, |x| half::bf16::from_f32(x).to_le_bytes().to_vec()),
            ];
            for (float, to) in types {
                assert_eq!(not_finite(&words(&x, to), float), Some(at), "{float:?}");
                assert_eq!(not_finite(&words(&[65504.0, -0.0, 1e-30], to), float), None, "{float:?}");
            }
        }
    }
}
