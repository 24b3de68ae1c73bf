//! Files of `torch.save` from before PyTorch 1.6: pickles one after the other, then numbers.
//!
//! In order (torch/serialization.py, `_legacy_load`): a magic number, a protocol version, facts about the machine, the
//! object, the list of its storages' names; then for every storage the count of its numbers (64 bits) and these.

use super::Object;
use super::machine::{Machine, Step, Storages};
use super::tensor::STORAGES;
use super::zip::Entries;

/// The pickle of 0x1950a86a20f9469cfc6c, by which such a file is known.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const PROTOCOL: i64 = 1001;

/// Whether the bytes begin as such a file does.
pub(super) fn is(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Runs the pickle at `at` and moves on to what comes next.
fn next<'a>(bytes: &'a [u8], at: &mut usize) -> Step<(Object, Storages<'a>)> {
    let mut machine = Machine::new(&bytes[*at..], Storages::Later(Vec::new()));
    let root = machine.run().and_then(|value| machine.whole(value));
    let object = root.map_err(|problem| format!("byte {}: {problem}", *at + machine.at))?;
    *at += machine.at;
    Ok((object, machine.storages))
}

/// The saved object, and where the numbers of its storages are.
pub(super) fn read(bytes: &[u8]) -> Step<(Object, Entries)> {
    let mut at = MAGIC.len();
    let (protocol, _) = next(bytes, &mut at)?;
    if protocol != Object::Int(PROTOCOL) {
        return Err(format!("protocol {protocol:?} of torch.save, supported: {PROTOCOL}"));
    }
    let (facts, _) = next(bytes, &mut at)?;
    let little = (Object::Text("little_endian".into()), Object::Bool(true));
    if !matches!(&facts, Object::Dict(facts) if facts.contains(&little)) {
        return Err("numbers that are not little-endian".into());
    }
    let (root, storages) = next(bytes, &mut at)?;
    let (Object::List(names), _) = next(bytes, &mut at)? else { return Err("no list of storages".into()) };
    let Storages::Later(noted) = storages else { return Err("no storages".into()) };
    let mut entries: Entries = Vec::with_capacity(names.len());
    for name in names {
        let Object::Text(name) = name else { return Err(format!("a storage named {name:?}")) };
        let kind = noted.iter().find(|(n, _)| *n == name).map(|n| n.1);
        let width = kind.and_then(|kind| STORAGES.iter().find(|s| s.1 == kind)).map(|s| s.2);
        let width = width.ok_or_else(|| format!("a storage {name} that no tensor has"))?;
        if entries.iter().any(|(n, _)| *n == name) {
            return Err(format!("storage {name} is there twice"));
        }
        let count = at.checked_add(8).and_then(|end| bytes.get(at..end)).ok_or("ends before all storages")?;
        let count = count.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        let start = at + 8;
        let size = usize::try_from(count).ok().and_then(|count| count.checked_mul(width));
        let end = size.and_then(|size| start.checked_add(size)).filter(|end| *end <= bytes.len());
        at = end.ok_or_else(|| format!("storage {name}: {count} numbers, more than there are"))?;
        entries.push((name, start..at));
    }
    if at != bytes.len() {
        return Err(format!("{} bytes after the last storage", bytes.len() - at));
    }
    Ok((root, entries))
}
