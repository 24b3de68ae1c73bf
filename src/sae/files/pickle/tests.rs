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
        (b"\x80\x02ccollections\nOrderedDict\n(K\x01tR.", "collections.OrderedDict with 1 arguments"),
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
