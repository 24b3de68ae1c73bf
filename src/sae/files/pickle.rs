//! Files of `torch.save`: a reader that executes nothing.
//!
//! Such a file is a zip archive with a pickle, a program for a small stack machine, that describes objects, and with the
//! numbers of each tensor in an entry of their own. A pickle can name any function and call it. This machine knows
//! tensors, numbers, text and plain containers; of every other name, call or instruction it stops with an error.
//! (Instructions: CPython's Lib/pickletools.py, protocols 2 to 4. Tensors: torch/_utils.py, `_rebuild_tensor_v2`.)

use super::zip::Archive;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// Objects that are visited when the result is read out: one can be in many containers, which can multiply.
const VISITS: usize = 100_000;

/// Containers within containers.
const DEPTH: usize = 32;

/// A saved object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Tensor(Tensor),
    /// A list or a tuple.
    List(Vec<Object>),
    Dict(Vec<(Object, Object)>),
}

/// Where a tensor's numbers are.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    kind: Kind,
    /// Entry of the archive.
    entry: String,
    offset: usize,
    pub(super) shape: Vec<usize>,
    stride: Vec<usize>,
}

/// Types of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F16,
    BF16,
    F32,
    F64,
    I32,
    I64,
    U8,
    Bool,
}

/// Storage classes of torch, and the type and width of their numbers.
const STORAGES: [(&str, Kind, usize); 8] = [
    ("HalfStorage", Kind::F16, 2),
    ("BFloat16Storage", Kind::BF16, 2),
    ("FloatStorage", Kind::F32, 4),
    ("DoubleStorage", Kind::F64, 8),
    ("IntStorage", Kind::I32, 4),
    ("LongStorage", Kind::I64, 8),
    ("ByteStorage", Kind::U8, 1),
    ("BoolStorage", Kind::Bool, 1),
];

/// What may be called.
const CALLS: [&str; 3] =
    ["collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"];

/// A file of `torch.save`.
#[derive(Debug)]
pub(super) struct Saved {
    archive: Archive,
    pub(super) root: Object,
}

impl Saved {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it is damaged or holds anything but tensors, numbers, text and plain containers.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let archive = Archive::read(path)?;
        let (prefix, program) = archive.ending("data.pkl")?;
        if let Some(order) = archive.get(&format!("{prefix}byteorder")).filter(|order| *order != b"little") {
            let order = String::from_utf8_lossy(order);
            return Err(Error::format(path, format!("byteorder is {order}, supported: little")));
        }
        let mut machine = Machine::new(&archive, prefix, program);
        let root = machine
            .run()
            .map_err(|problem| Error::format(path, format!("data.pkl, byte {}: {problem}", machine.at)))?;
        let mut visits = 0;
        let root = machine.object(root, DEPTH, &mut visits).map_err(|problem| Error::format(path, problem))?;
        Ok(Self { archive, root })
    }

    /// The tensors of the dictionary `object`, and numbers, by their names.
    ///
    /// # Errors
    /// If it is no dictionary with names for keys.
    pub(super) fn dictionary<'a>(&'a self, object: &'a Object) -> Result<Dictionary<'a>> {
        let Object::Dict(pairs) = object else {
            return Err(Error::format(&self.archive.path, "holds no dictionary, expected one of tensors"));
        };
        let mut entries = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let Object::Text(name) = key else {
                return Err(Error::format(&self.archive.path, format!("a key {key:?}, expected a name")));
            };
            entries.push((name.as_str(), value));
        }
        Ok(Dictionary { archive: &self.archive, entries })
    }
}

/// Named tensors of a file.
#[derive(Debug)]
pub(super) struct Dictionary<'a> {
    archive: &'a Archive,
    entries: Vec<(&'a str, &'a Object)>,
}

impl Dictionary<'_> {
    /// The names, in alphabetical order.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.entries.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names
    }

    /// Refuses names other than `expected` (in alphabetical order).
    pub(super) fn only(&self, expected: &[&str], whose: &str) -> Result<()> {
        let found = self.names();
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (found.join(", "), expected.join(", "));
        Err(Error::format(&self.archive.path, format!("holds {found}, expected {expected} for {whose}")))
    }

    /// What is stored as `name`.
    pub(super) fn get(&self, name: &str) -> Result<&Object> {
        let found = self.entries.iter().find(|(n, _)| *n == name);
        found.map(|(_, object)| *object).ok_or_else(|| Error::unknown("tensor in the file", name, self.names()))
    }

    /// The tensor `name`, which must have `shape`, as floats.
    pub(super) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let path = &self.archive.path;
        let Object::Tensor(tensor) = self.get(name)? else {
            return Err(Error::format(path, format!("{name} is no tensor")));
        };
        if shape != tensor.shape {
            let what = format!("{}: {name}", path.display());
            return Err(Error::Shape { what, found: tensor.shape.clone(), expected: shape.to_vec() });
        }
        let data = self.archive.get(&tensor.entry).unwrap_or_default();
        tensor.numbers(data).map_err(|problem| Error::format(path, format!("{name}: {problem}")))
    }
}

impl Tensor {
    /// Its numbers row by row, whatever the order in which they are stored.
    fn numbers(&self, data: &[u8]) -> Result<Vec<f32>, String> {
        let width = STORAGES.iter().find(|s| s.1 == self.kind).map_or(1, |s| s.2);
        let stored = data.len() / width;
        let count = self.shape.iter().try_fold(1usize, |n, s| n.checked_mul(*s)).ok_or("a shape beyond all numbers")?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let reach = |(size, stride): (&usize, &usize)| (size - 1).checked_mul(*stride);
        let last = self.shape.iter().zip(&self.stride).map(reach).try_fold(self.offset, |n, s| n.checked_add(s?));
        // Strides of 0 could ask for more numbers than there are.
        if count > stored || last.is_none_or(|last| last >= stored) {
            return Err(format!("{count} numbers of shape {:?}, but {stored} are stored", self.shape));
        }
        let mut at = vec![0usize; self.shape.len()];
        let mut out = Vec::with_capacity(count);
        for _ in 0..count {
            let from = self.offset + at.iter().zip(&self.stride).map(|(i, s)| i * s).sum::<usize>();
            out.push(self.kind.number(&data[from * width..(from + 1) * width]));
            for axis in (0..at.len()).rev() {
                at[axis] += 1;
                if at[axis] < self.shape[axis] {
                    break;
                }
                at[axis] = 0;
            }
        }
        Ok(out)
    }
}

impl Kind {
    fn number(self, bytes: &[u8]) -> f32 {
        let mut b = [0u8; 8];
        b[..bytes.len()].copy_from_slice(bytes);
        let word = u64::from_le_bytes(b);
        match self {
            Kind::F16 => half::f16::from_bits(word as u16).to_f32(),
            Kind::BF16 => half::bf16::from_bits(word as u16).to_f32(),
            Kind::F32 => f32::from_bits(word as u32),
            Kind::F64 => f64::from_bits(word) as f32,
            Kind::I32 => word as u32 as i32 as f32,
            Kind::I64 => word as i64 as f32,
            Kind::U8 | Kind::Bool => word as f32,
        }
    }
}

/// What is on the stack. Containers are named by their place, since an instruction may fill one that was put elsewhere.
#[derive(Debug, Clone)]
enum Value {
    Plain(Object),
    Name(String),
    Storage(Kind, String),
    List(usize),
    Dict(usize),
}

/// The stack machine.
struct Machine<'a> {
    archive: &'a Archive,
    prefix: &'a str,
    program: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<usize, Value>,
    lists: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
}

type Step<T> = std::result::Result<T, String>;

impl<'a> Machine<'a> {
    fn new(archive: &'a Archive, prefix: &'a str, program: &'a [u8]) -> Self {
        let (stack, marks, memo) = (Vec::new(), Vec::new(), HashMap::new());
        Self { archive, prefix, program, at: 0, stack, marks, memo, lists: Vec::new(), dicts: Vec::new() }
    }

    fn take(&mut self, n: usize) -> Step<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.program.len()).ok_or("the program ends early")?;
        let bytes = &self.program[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn number(&mut self, width: usize) -> Step<usize> {
        Ok(self.take(width)?.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    fn text(&mut self, length: usize) -> Step<String> {
        String::from_utf8(self.take(length)?.into()).map_err(|_| "a text is not UTF-8".into())
    }

    fn line(&mut self) -> Step<String> {
        let length = self.program[self.at..].iter().position(|b| *b == b'\n').ok_or("a line without end")?;
        let line = self.text(length)?;
        self.at += 1;
        Ok(line)
    }

    fn pop(&mut self) -> Step<Value> {
        if self.marks.last().is_some_and(|mark| self.stack.len() <= *mark) {
            return Err("takes more from the stack than there is".into());
        }
        self.stack.pop().ok_or_else(|| "takes more from the stack than there is".into())
    }

    /// Everything above the last mark.
    fn marked(&mut self) -> Step<Vec<Value>> {
        let mark = self.marks.pop().ok_or("no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn push(&mut self, object: Object) {
        self.stack.push(Value::Plain(object));
    }

    fn push_list(&mut self, items: Vec<Value>) {
        self.lists.push(items);
        self.stack.push(Value::List(self.lists.len() - 1));
    }

    fn push_dict(&mut self) {
        self.dicts.push(Vec::new());
        self.stack.push(Value::Dict(self.dicts.len() - 1));
    }

    fn remember(&mut self, at: usize) -> Step<()> {
        let top = self.stack.last().ok_or("nothing to remember")?.clone();
        self.memo.insert(at, top);
        Ok(())
    }

    fn recall(&mut self, at: usize) -> Step<()> {
        let value = self.memo.get(&at).ok_or("recalls what was never remembered")?.clone();
        self.stack.push(value);
        Ok(())
    }

    /// A name of a class or function: only of those that are known.
    fn name(&mut self, module: &str, name: &str) -> Step<()> {
        let full = format!("{module}.{name}");
        let storage = module == "torch" && STORAGES.iter().any(|(s, ..)| *s == name);
        if !storage && !CALLS.contains(&full.as_str()) {
            return Err(format!("names {full}: only tensors and plain containers are read, and nothing is executed"));
        }
        self.stack.push(Value::Name(full));
        Ok(())
    }

    fn append(&mut self, items: Vec<Value>) -> Step<()> {
        match self.stack.last() {
            Some(Value::List(list)) => self.lists[*list].extend(items),
            _ => return Err("appends to what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Value>) -> Step<()> {
        let Some(Value::Dict(dict)) = self.stack.last() else {
            return Err("sets items of what is no dictionary".into());
        };
        let (mut items, dict) = (items.into_iter(), *dict);
        while let Some(key) = items.next() {
            let value = items.next().ok_or("a key without a value")?;
            self.dicts[dict].push((key, value));
        }
        Ok(())
    }

    /// Runs the program and returns what it leaves.
    fn run(&mut self) -> Step<Value> {
        loop {
            let instruction = self.take(1)?[0];
            match instruction {
                0x80 => match self.number(1)? {
                    2..=4 => {}
                    other => return Err(format!("protocol {other}, supported: 2 to 4")),
                },
                0x95 => drop(self.take(8)?), // length of a frame
                b'(' => self.marks.push(self.stack.len()),
                b'.' => return self.pop(),
                b'0' => drop(self.pop()?),
                b'N' => self.push(Object::None),
                0x88 => self.push(Object::Bool(true)),
                0x89 => self.push(Object::Bool(false)),
                b'J' => {
                    let n = self.number(4)? as u32 as i32;
                    self.push(Object::Int(n.into()));
                }
                b'K' | b'M' => {
                    let n = self.number(if instruction == b'K' { 1 } else { 2 })?;
                    self.push(Object::Int(n as i64));
                }
                0x8a => {
                    let bytes = self.number(1).and_then(|n| self.take(n))?;
                    if bytes.len() > 8 {
                        return Err("a number of more than 64 bits".into());
                    }
                    // Two's complement of any width.
                    let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { -1i64 } else { 0 };
                    let n = bytes.iter().rev().fold(fill, |n, b| n << 8 | i64::from(*b));
                    self.push(Object::Int(n));
                }
                b'G' => {
                    let bits = self.take(8)?.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
                    self.push(Object::Float(f64::from_bits(bits)));
                }
                b'X' | 0x8c => {
                    let length = self.number(if instruction == b'X' { 4 } else { 1 })?;
                    let text = self.text(length)?;
                    self.push(Object::Text(text));
                }
                b'}' => self.push_dict(),
                b']' | b')' => self.push_list(Vec::new()),
                b't' => {
                    let items = self.marked()?;
                    self.push_list(items);
                }
                0x85..=0x87 => {
                    let mut items = Vec::new();
                    for _ in 0..usize::from(instruction - 0x84) {
                        items.insert(0, self.pop()?);
                    }
                    self.push_list(items);
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.marked()?;
                    self.append(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(vec![key, value])?;
                }
                b'u' => {
                    let items = self.marked()?;
                    self.set(items)?;
                }
                b'q' | b'r' => {
                    let at = self.number(if instruction == b'q' { 1 } else { 4 })?;
                    self.remember(at)?;
                }
                0x94 => self.remember(self.memo.len())?,
                b'h' | b'j' => {
                    let at = self.number(if instruction == b'h' { 1 } else { 4 })?;
                    self.recall(at)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.name(&module, &name)?;
                }
                0x93 => match (self.pop()?, self.pop()?) {
                    (Value::Plain(Object::Text(name)), Value::Plain(Object::Text(module))) => {
                        self.name(&module, &name)?
                    }
                    _ => return Err("a name that is no text".into()),
                },
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(&id)?;
                    self.stack.push(storage);
                }
                b'R' => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.call(&function, &arguments)?;
                }
                b'b' => {
                    // Attributes of a dictionary (PyTorch notes versions there) are plain data like the rest.
                    self.pop()?;
                    if !matches!(self.stack.last(), Some(Value::Dict(_))) {
                        return Err("sets attributes of what is no dictionary".into());
                    }
                }
                other => return Err(format!("instruction {other:#04x} is not among those of tensors and containers")),
            }
        }
    }

    /// `('storage', class, key, device, count)`.
    fn storage(&self, id: &Value) -> Step<Value> {
        let Value::List(id) = id else { return Err("a reference that is no storage".into()) };
        let [Value::Plain(Object::Text(tag)), Value::Name(class), Value::Plain(Object::Text(key)), _, _] =
            &self.lists[*id][..]
        else {
            return Err("a reference that is no storage".into());
        };
        let kind = STORAGES.iter().find(|(name, ..)| class.strip_prefix("torch.") == Some(name)).map(|s| s.1);
        let entry = format!("{}data/{key}", self.prefix);
        match kind {
            Some(kind) if tag == "storage" && self.archive.get(&entry).is_some() => Ok(Value::Storage(kind, entry)),
            _ => Err(format!("a storage of {class} in {entry}, which is not there or not of numbers")),
        }
    }

    fn call(&mut self, function: &Value, arguments: &Value) -> Step<()> {
        let (Value::Name(name), Value::List(arguments)) = (function, arguments) else {
            return Err("calls what is no function".into());
        };
        let arguments = self.lists[*arguments].clone();
        match (name.as_str(), &arguments[..]) {
            ("collections.OrderedDict", []) => self.push_dict(),
            ("torch._utils._rebuild_parameter", [tensor @ Value::Plain(Object::Tensor(_)), _, _]) => {
                self.stack.push(tensor.clone());
            }
            (
                "torch._utils._rebuild_tensor_v2",
                [Value::Storage(kind, entry), offset, shape, stride, _, _]
                | [Value::Storage(kind, entry), offset, shape, stride, _, _, _],
            ) => {
                let (shape, stride, offset) = (self.sizes(shape)?, self.sizes(stride)?, self.size(offset)?);
                if shape.len() != stride.len() {
                    return Err(format!("a tensor of shape {shape:?} with strides {stride:?}"));
                }
                self.push(Object::Tensor(Tensor { kind: *kind, entry: entry.clone(), offset, shape, stride }));
            }
            _ => return Err(format!("calls {name} with {} arguments that it does not take", arguments.len())),
        }
        Ok(())
    }

    fn size(&self, value: &Value) -> Step<usize> {
        match value {
            Value::Plain(Object::Int(n)) if *n >= 0 => Ok(*n as usize),
            other => Err(format!("a size of {other:?}")),
        }
    }

    fn sizes(&self, value: &Value) -> Step<Vec<usize>> {
        match value {
            Value::List(list) => self.lists[*list].iter().map(|v| self.size(v)).collect(),
            other => Err(format!("a shape of {other:?}")),
        }
    }

    /// The object that `value` stands for, with everything in it.
    fn object(&self, value: Value, depth: usize, visits: &mut usize) -> Step<Object> {
        *visits += 1;
        if depth == 0 || *visits > VISITS {
            return Err(format!("more than {VISITS} objects, or more than {DEPTH} of them within each other"));
        }
        let mut inner = |value: &Value| self.object(value.clone(), depth - 1, visits);
        match value {
            Value::Plain(object) => Ok(object),
            Value::List(list) => self.lists[list].iter().map(&mut inner).collect::<Step<_>>().map(Object::List),
            Value::Dict(dict) => {
                let pair = |(key, value): &(Value, Value)| Ok((inner(key)?, inner(value)?));
                self.dicts[dict].iter().map(pair).collect::<Step<_>>().map(Object::Dict)
            }
            Value::Name(name) => Err(format!("the bare name {name}")),
            Value::Storage(_, entry) => Err(format!("the bare storage {entry}")),
        }
    }
}

#[cfg(test)]
mod tests {
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
        let list = Object::List(vec![
            Object::Int(-2),
            Object::Int(-256),
            Object::Float(1.5),
            Object::None,
            Object::Bool(true),
        ]);
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
}
