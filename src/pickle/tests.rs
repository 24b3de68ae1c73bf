//! Pickles written by hand.

use super::*;

/// A zip archive of stored entries; `flags` and `method` are those of all.
fn archive(entries: &[(&str, &[u8])], flags: u16, method: u16) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let (at, size, length) = (out.len() as u32, data.len() as u32, name.len() as u16);
        let mut common = Vec::new(); // from the flags to the length of the name
        common.extend(flags.to_le_bytes());
        common.extend(method.to_le_bytes());
        common.extend([0; 8]); // time, date, checksum
        common.extend(size.to_le_bytes());
        common.extend(size.to_le_bytes());
        common.extend(length.to_le_bytes());
        out.extend(b"PK\x03\x04\x14\0");
        out.extend(&common);
        out.extend(3u16.to_le_bytes()); // an extra field that the directory does not have
        out.extend(name.as_bytes());
        out.extend(b"pad");
        out.extend(*data);
        directory.extend(b"PK\x01\x02\x14\0\x14\0");
        directory.extend(&common);
        directory.extend([0; 12]); // no extra field, comment, disk, attributes
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, count) = (out.len() as u32, entries.len() as u16);
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0; 2]);
    out
}

fn read(bytes: &[u8]) -> Result<Saved> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ae.pt");
    std::fs::write(&path, bytes).unwrap();
    Saved::read(&path)
}

/// The archive of a pickle and one storage of six floats 0 to 5.
fn saved(pickle: &[u8]) -> Result<Saved> {
    let data: Vec<u8> = (0..6).flat_map(|v| (v as f32).to_le_bytes()).collect();
    read(&archive(&[("ae/data.pkl", pickle), ("ae/byteorder", b"little"), ("ae/data/0", &data)], 0, 0))
}

fn refusal(result: Result<Saved>) -> String {
    result.expect_err("should be refused").to_string()
}

/// A pickle of `{"w": tensor}` with offset 1 and the given shape and strides.
fn tensor(shape: [u8; 2], stride: [u8; 2]) -> Vec<u8> {
    let mut p = b"\x80\x02}q\0X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n".to_vec();
    p.extend(b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQK\x01");
    p.extend([b'K', shape[0], b'K', shape[1], 0x86, b'K', stride[0], b'K', stride[1], 0x86]);
    p.extend(b"\x89ccollections\nOrderedDict\n)RtRs.");
    p
}

#[test]
fn tensors_are_read_in_any_order_of_storage() {
    for (stride, expected) in [([2, 1], [1.0, 2.0, 3.0, 4.0]), ([1, 2], [1.0, 3.0, 2.0, 4.0])] {
        let saved = saved(&tensor([2, 2], stride)).unwrap();
        let dictionary = saved.dictionary(&saved.root).unwrap();
        assert_eq!(dictionary.names(), ["w"]);
        assert_eq!(dictionary.floats("w", &[2, 2]).unwrap(), expected);
        assert!(dictionary.floats("w", &[4]).unwrap_err().to_string().contains("[2, 2]"));
        assert!(dictionary.floats("v", &[4]).unwrap_err().to_string().contains("\"v\""));
    }
}

#[test]
fn containers_and_numbers_are_read() {
    // A list that is put into a dictionary and filled afterwards, by reference.
    let pickle = b"\x80\x02}q\0X\x01\0\0\0a]q\x01sX\x01\0\0\0bh\x01s0h\x01(J\xfe\xff\xff\xff\x8a\x02\x00\xffG\x3f\xf8\0\0\0\0\0\0N\x88e0h\0.";
    let saved = saved(pickle).unwrap();
    let list =
        Object::List(vec![Object::Int(-2), Object::Int(-256), Object::Float(1.5), Object::None, Object::Bool(true)]);
    let key = |k: &str| Object::Text(k.into());
    assert_eq!(saved.root, Object::Dict(vec![(key("a"), list.clone()), (key("b"), list)]));
}

#[test]
fn whatever_could_execute_is_refused_by_name() {
    for (pickle, word) in [
        (&b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R."[..], "os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "builtins.eval"),
        (b"\x80\x02ctorch\nload\n.", "torch.load"),
        (b"\x80\x02ctorch.FloatStorage\n__reduce__\n.", "__reduce__"),
        (
            b"\x80\x02ccollections\nOrderedDict\n(K\x01tR.",
            "collections.OrderedDict with 1 arguments that it does not take",
        ),
        (b"\x80\x02K\x01}b.", "attributes of what is no dictionary"),
        (b"\x80\x02ccollections\nOrderedDict\n.", "bare name"),
        (b"\x80\x02(icollections\nOrderedDict\n.", "0x69"), // INST
        (b"\x80\x02}\x81.", "0x81"),                        // NEWOBJ
        (b"\x80\x05N.", "protocol 5"),
        (b"\x80\x02K\x01Q.", "no storage"),
        (b"\x80\x02h\x07.", "never remembered"),
        (b"\x80\x02(00.", "more from the stack"),
        (b"\x80\x02N", "ends early"),
    ] {
        let text = refusal(saved(pickle));
        assert!(text.contains(word) && text.contains("ae.pt"), "{text}");
    }
}

#[test]
fn more_than_there_is_is_refused() {
    for (shape, stride) in [([2, 3], [3, 1]), ([4, 2], [0, 1]), ([200, 200], [0, 0])] {
        let saved = saved(&tensor(shape, stride)).unwrap();
        let dictionary = saved.dictionary(&saved.root).unwrap();
        let text = dictionary.floats("w", &shape.map(usize::from)).unwrap_err().to_string();
        assert!(text.contains("6 are stored"), "{text}");
    }
    // Ten lists of ten of the one before: ten objects that stand for ten billion.
    let mut pickle = b"\x80\x02]q\0".to_vec();
    for level in 0..10u8 {
        pickle.push(b'(');
        (0..10).for_each(|_| pickle.extend([b'h', level]));
        pickle.extend([b't', b'q', level + 1]);
    }
    pickle.push(b'.');
    assert!(refusal(saved(&pickle)).contains("100000 objects"));
    // A list in itself.
    assert!(refusal(saved(b"\x80\x02]q\0h\0a.")).contains("within each other"));
}

/// A stream as it was written before PyTorch 1.6: the same tensor, named by Python 2, and one storage of six floats.
fn stream(object: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    bytes.extend(b"\x80\x02}U\x0dlittle_endian\x88s.");
    bytes.extend(object);
    bytes.extend(b"\x80\x02](U\x0212e.");
    bytes.extend(6u64.to_le_bytes());
    bytes.extend((0..6).flat_map(|v| (v as f32).to_le_bytes()));
    bytes
}

/// `OrderedDict([["w", tensor]])` with offset 1, two rows of two; `class` holds its numbers.
fn ordered(class: &str) -> Vec<u8> {
    let mut p = b"\x80\x02ccollections\nOrderedDict\n](](U\x01wctorch._utils\n_rebuild_tensor_v2\n".to_vec();
    p.extend(format!("((U\x07storagectorch\n{class}\nU\x0212U\x06cuda:0K\x06Nt").bytes());
    p.extend(b"QK\x01K\x02K\x02\x86K\x02K\x01\x86\x89NtRee\x85R.");
    p
}

#[test]
fn streams_of_older_versions_are_read() {
    let saved = read(&stream(&ordered("FloatStorage"))).unwrap();
    let dictionary = saved.dictionary(&saved.root).unwrap();
    assert_eq!((dictionary.names(), dictionary.shape("w").unwrap()), (vec!["w"], &[2, 2][..]));
    assert_eq!(dictionary.floats("w", &[2, 2]).unwrap(), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn damaged_streams_are_refused() {
    let whole = stream(&ordered("FloatStorage"));
    for cut in 16..whole.len() {
        assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
    }
    let with = |from: &[u8], to: &[u8]| {
        let at = whole.windows(from.len()).position(|w| w == from).unwrap();
        refusal(read(&[&whole[..at], to, &whole[at + from.len()..]].concat()))
    };
    assert!(refusal(read(&[&whole[..], b"more"].concat())).contains("4 bytes after"));
    assert!(with(b"M\xe9\x03.", b"M\xea\x03.").contains("1001"));
    assert!(with(b"endian\x88", b"endian\x89").contains("little-endian"));
    assert!(with(b"](U\x0212e.", b"](U\x0213e.").contains("13"));
    assert!(with(b"](U\x0212e.", b"](U\x0212U\x0212e.").contains("12"));
    assert!(with(b"](U\x0212e.", b"}.").contains("no list"));
    assert!(with(b"\x06\0\0\0\0\0\0\0", b"\x06\0\0\0\0\0\0\x7f").contains("more than there are"));
    assert!(with(b"OrderedDict\n](](U\x01w", b"OrderedDict\n](](U\x01wN").contains("key without"));
    // A view of a storage, and a call.
    assert!(with(b"K\x06Nt", b"K\x06K\x01t").contains("no storage"));
    assert!(refusal(read(&stream(b"\x80\x02cos\nsystem\n."))).contains("os.system"));
    assert!(refusal(read(&stream(&ordered("Generator")))).contains("torch.Generator"));
}

#[test]
fn other_archives_are_refused() {
    let entries: [(&str, &[u8]); 1] = [("ae/data.pkl", b"\x80\x02N.")];
    assert_eq!(read(&archive(&entries, 0, 0)).unwrap().root, Object::None);
    assert!(refusal(read(&archive(&entries, 0, 8))).contains("ae/data.pkl is compressed"));
    assert!(refusal(read(&archive(&entries, 1, 0))).contains("ae/data.pkl is encrypted"));
    assert!(refusal(read(&archive(&[entries[0], entries[0]], 0, 0))).contains("there twice"));
    assert!(refusal(read(&archive(&[("ae/other", b"")], 0, 0))).contains("data.pkl"));
    let big: [(&str, &[u8]); 2] = [entries[0], ("ae/byteorder", b"big")];
    assert!(refusal(read(&archive(&big, 0, 0))).contains("byteorder is big"));
    let whole = archive(&entries, 0, 0);
    for cut in [0, 10, whole.len() / 2, whole.len() - 1] {
        assert!(refusal(read(&whole[..cut])).contains("zip"), "cut at {cut}");
    }
    assert!(refusal(read(&whole[9..])).contains("not a whole zip archive"));
}
