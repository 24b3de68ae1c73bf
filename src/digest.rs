//! A short digest, to tell contents apart (not to withstand forgery).

use std::fmt::{self, Write};

/// FNV-1a over 64-bit words. Anything that can be written can be digested: `write!(digest, "{edit:?}")`.
#[derive(Debug)]
pub(crate) struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    pub(crate) fn word(&mut self, word: u64) {
        // The rotation lets high bits of a word reach low bits of the digest, which a product alone does not.
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let words = bytes.chunks(8);
        for chunk in words {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        self.word(bytes.len() as u64);
    }

    /// The bits of numbers, and how many there are.
    pub(crate) fn floats(&mut self, values: &[f32]) {
        values.iter().for_each(|v| self.word(u64::from(v.to_bits())));
        self.word(values.len() as u64);
    }

    pub(crate) fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

impl Write for Digest {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.bytes(s.as_bytes());
        Ok(())
    }
}

/// The digest of all that `{:?}` shows of a value and its name: for types whose `Debug` leaves nothing out.
pub(crate) fn of_shown<T: fmt::Debug>(value: &T) -> Option<u64> {
    let mut digest = Digest::default();
    write!(digest, "{} {value:?}", std::any::type_name::<T>()).ok()?;
    Some(digest.0)
}

/// The digest of arrays of numbers, as it stands for them where a structure is shown.
pub(crate) fn of_arrays(arrays: &[&[f32]]) -> String {
    let mut digest = Digest::default();
    arrays.iter().for_each(|a| digest.floats(a));
    digest.hex()
}
