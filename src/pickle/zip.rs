//! Zip archives as PyTorch writes them: entries that are stored as they are.

use crate::error::{Error, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Signature and length of the record at the end of an archive.
const END: (&[u8], usize) = (b"PK\x05\x06", 22);
/// Signature and length of an entry in the directory.
const ENTRY: (&[u8], usize) = (b"PK\x01\x02", 46);
/// Signature and length of the header before an entry's data.
const HEADER: (&[u8], usize) = (b"PK\x03\x04", 30);
/// The longest comment behind the record at the end.
const COMMENT: usize = u16::MAX as usize;

/// Names of entries and where their bytes lie.
pub(super) type Entries = Vec<(String, Range<usize>)>;

/// An archive in memory.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) entries: Entries,
}

impl Archive {
    /// Reads the archive that the file at `path` holds.
    ///
    /// # Errors
    /// If it is no whole archive, or an entry is compressed or encrypted.
    pub(super) fn read(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let entries = entries(&bytes).map_err(|problem| Error::format(path, problem))?;
        Ok(Self { path: path.into(), bytes, entries })
    }

    /// The one entry whose name ends with `end`, and what is before that.
    pub(super) fn ending(&self, end: &str) -> Result<(&str, &[u8])> {
        let mut found = self.entries.iter().filter_map(|(name, at)| Some((name.strip_suffix(end)?, at)));
        match (found.next(), found.next()) {
            (Some((before, at)), None) => Ok((before, &self.bytes[at.clone()])),
            (None, _) => Err(Error::format(&self.path, format!("holds no entry …{end}"))),
            _ => Err(Error::format(&self.path, format!("holds more than one entry …{end}"))),
        }
    }

    /// The entry `name`, if there is one.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries.iter().find(|(n, _)| n == name).map(|(_, at)| &self.bytes[at.clone()])
    }
}

fn number(bytes: &[u8], at: usize, width: usize) -> usize {
    bytes[at..at + width].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
}

/// `record.1` bytes at `at`, which must begin with the signature `record.0`.
fn record<'a>(bytes: &'a [u8], at: usize, record: (&[u8], usize)) -> Result<&'a [u8], String> {
    let end = at.checked_add(record.1).filter(|end| *end <= bytes.len());
    let found = end.map(|end| &bytes[at..end]).filter(|found| found.starts_with(record.0));
    found.ok_or_else(|| format!("not a whole zip archive: nothing of its kind at byte {at}"))
}

fn entries(bytes: &[u8]) -> Result<Entries, String> {
    let from = bytes.len().saturating_sub(END.1 + COMMENT);
    let end = (from..(bytes.len() + 1).saturating_sub(END.1)).rev().find(|&at| bytes[at..].starts_with(END.0));
    let end = record(bytes, end.ok_or("not a zip archive, and no stream of torch.save from before version 1.6")?, END)?;
    let (count, mut at) = (number(end, 10, 2), number(end, 16, 4));
    if count == 0xffff || at == 0xffff_ffff {
        return Err("a zip64 archive, supported are files below 4 GB".into());
    }
    let mut entries: Entries = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = record(bytes, at, ENTRY)?;
        let (flags, method) = (number(entry, 8, 2), number(entry, 10, 2));
        let (packed, size) = (number(entry, 20, 4), number(entry, 24, 4));
        let header = number(entry, 42, 4);
        let (name_length, rest) = (number(entry, 28, 2), number(entry, 30, 2) + number(entry, 32, 2));
        let name = bytes.get(at + ENTRY.1..at + ENTRY.1 + name_length).ok_or("a name beyond the end of the archive")?;
        let name = String::from_utf8(name.into()).map_err(|_| "the name of an entry is not UTF-8")?;
        if flags & 1 != 0 {
            return Err(format!("entry {name} is encrypted, supported are entries that are stored as they are"));
        }
        if method != 0 || packed != size {
            return Err(format!("entry {name} is compressed, supported are entries that are stored as they are"));
        }
        // The header's own extra field may differ from the directory's: it aligns the data.
        let before = record(bytes, header, HEADER)?;
        let start = header + HEADER.1 + number(before, 26, 2) + number(before, 28, 2);
        if start + size > bytes.len() {
            return Err(format!("entry {name} goes beyond the end of the archive"));
        }
        if entries.iter().any(|(n, _)| *n == name) {
            return Err(format!("entry {name} is there twice"));
        }
        entries.push((name, start..start + size));
        at += ENTRY.1 + name_length + rest;
    }
    Ok(entries)
}
