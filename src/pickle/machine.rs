//! The stack machine: runs the program of a pickle and calls nothing.

use super::tensor::{Kind, STORAGES, Tensor};
use super::{Archive, Object};
use std::collections::HashMap;

/// Objects that are visited when the result is read out: one can be in many containers, which can multiply.
const VISITS: usize = 100_000;

/// Containers within containers.
const DEPTH: usize = 32;

/// What may be called.
const CALLS: [&str; 3] =
    ["collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"];

/// What is on the stack. Containers are named by their place, since an instruction may fill one that was put elsewhere.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Plain(Object),
    Name(String),
    Storage(Kind, String),
    List(usize),
    Dict(usize),
}

/// Where the numbers of tensors are.
pub(super) enum Storages<'a> {
    /// In entries of an archive, whose names begin so.
    Entries(&'a Archive, &'a str),
    /// After the program, in an order that is told there: their names and types so far.
    Later(Vec<(String, Kind)>),
}

/// The stack machine.
pub(super) struct Machine<'a> {
    program: &'a [u8],
    pub(super) storages: Storages<'a>,
    /// The byte of the program that comes next.
    pub(super) at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<usize, Value>,
    lists: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
}

pub(super) type Step<T> = std::result::Result<T, String>;

impl<'a> Machine<'a> {
    pub(super) fn new(program: &'a [u8], storages: Storages<'a>) -> Self {
        let (stack, marks, memo) = (Vec::new(), Vec::new(), HashMap::new());
        Self { program, storages, at: 0, stack, marks, memo, lists: Vec::new(), dicts: Vec::new() }
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
    pub(super) fn run(&mut self) -> Step<Value> {
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
                // U is a string of Python 2, of which only ASCII is read.
                b'X' | b'U' | 0x8c => {
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

    /// `('storage', class, key, device, count)`, in a stream with a view of the storage behind it, which must be none.
    fn storage(&mut self, id: &Value) -> Step<Value> {
        let Value::List(id) = id else { return Err("a reference that is no storage".into()) };
        let ([Value::Plain(Object::Text(tag)), Value::Name(class), Value::Plain(Object::Text(key)), _, _]
        | [
            Value::Plain(Object::Text(tag)),
            Value::Name(class),
            Value::Plain(Object::Text(key)),
            _,
            _,
            Value::Plain(Object::None),
        ]) = &self.lists[*id][..]
        else {
            return Err("a reference that is no storage".into());
        };
        let kind = STORAGES.iter().find(|(name, ..)| class.strip_prefix("torch.") == Some(name)).map(|s| s.1);
        let (entry, there) = match &mut self.storages {
            Storages::Entries(archive, prefix) => {
                let entry = format!("{prefix}data/{key}");
                let there = archive.get(&entry).is_some();
                (entry, there)
            }
            Storages::Later(noted) => {
                let as_before = noted.iter().find(|(name, _)| name == key).is_none_or(|n| Some(n.1) == kind);
                noted.extend(kind.map(|kind| (key.clone(), kind)));
                (key.clone(), as_before)
            }
        };
        match kind {
            Some(kind) if tag == "storage" && there => Ok(Value::Storage(kind, entry)),
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
            // So Python 2 wrote it: a list of pairs, each of them a list.
            ("collections.OrderedDict", [Value::List(pairs)]) => {
                let pairs = self.lists[*pairs].clone();
                self.push_dict();
                for pair in pairs {
                    let Value::List(pair) = pair else { return Err("a dictionary of what are no pairs".into()) };
                    self.set(self.lists[pair].clone())?;
                }
            }
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
    pub(super) fn whole(&self, value: Value) -> Step<Object> {
        self.object(value, DEPTH, &mut 0)
    }

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
