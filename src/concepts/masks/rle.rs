//! Run lengths as COCO has them: down the columns, outside first.
//!
//! Compressed, a count is written in groups of five bits, least significant first, each in a printable character; from
//! the third on, it is the difference to the count before the last.

use crate::scene::Mask;

/// A mask from its run lengths.
///
/// # Errors
/// Runs that do not add up to the picture.
pub(super) fn mask(counts: &[u64], width: usize, height: usize) -> Result<Mask, String> {
    let pixels = (width * height) as u64;
    let sum = counts.iter().try_fold(0u64, |sum, n| sum.checked_add(*n));
    if sum != Some(pixels) {
        let sum = sum.map_or_else(|| "too many".to_string(), |s| s.to_string());
        return Err(format!("run lengths of {sum} pixels for a picture of {width}×{height}"));
    }
    let mut mask = Mask::new(width, height);
    let mut at = 0usize;
    for (i, &n) in counts.iter().enumerate() {
        if i % 2 == 1 {
            (at..at + n as usize).for_each(|p| mask.set(p / height, p % height, true));
        }
        at += n as usize;
    }
    Ok(mask)
}

/// The run lengths of a compressed string.
///
/// # Errors
/// A character outside the alphabet, an unfinished count, or a negative one.
pub(super) fn decompress(text: &str) -> Result<Vec<u64>, String> {
    let mut counts: Vec<i64> = Vec::new();
    let mut bytes = text.bytes().enumerate();
    while let Some(mut next) = bytes.next() {
        let (mut value, mut shift) = (0i64, 0u32);
        loop {
            let (at, byte) = next;
            let group = i64::from(byte) - 48;
            if !(0..64).contains(&group) || shift > 55 {
                return Err(format!("character {:?} at {at} of the run lengths", char::from(byte)));
            }
            value |= (group & 31) << shift;
            shift += 5;
            if group & 32 == 0 {
                if group & 16 != 0 {
                    value |= -1i64 << shift;
                }
                break;
            }
            next = bytes.next().ok_or("run lengths end within a number")?;
        }
        if counts.len() > 2 {
            value += counts[counts.len() - 2];
        }
        if value < 0 {
            return Err(format!("a run of {value} pixels"));
        }
        counts.push(value);
    }
    Ok(counts.into_iter().map(|n| n as u64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_go_down_the_columns() {
        let mask = mask(&[1, 2, 3], 3, 2).unwrap();
        assert_eq!(mask.to_grey(), [0, 255, 0, 255, 0, 0]);
        assert!(super::mask(&[1, 2], 3, 2).unwrap_err().contains("of 3 pixels for a picture of 3×2"));
        assert!(super::mask(&[u64::MAX, 2], 3, 2).is_err());
    }

    #[test]
    fn broken_strings_are_refused() {
        assert_eq!(decompress("123").unwrap(), [1, 2, 3]);
        assert!(decompress("1 3").unwrap_err().contains("' ' at 1"));
        assert!(decompress("P").unwrap_err().contains("within"));
        assert!(decompress("O").unwrap_err().contains("-1"));
    }
}
