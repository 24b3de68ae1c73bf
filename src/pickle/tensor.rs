//! Tensors of a pickle: where their numbers are, and what they are.

/// Where a tensor's numbers are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    pub(super) kind: Kind,
    /// Entry of the archive.
    pub(super) entry: String,
    pub(super) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(super) stride: Vec<usize>,
}

/// Types of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
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
pub(super) const STORAGES: [(&str, Kind, usize); 8] = [
    ("HalfStorage", Kind::F16, 2),
    ("BFloat16Storage", Kind::BF16, 2),
    ("FloatStorage", Kind::F32, 4),
    ("DoubleStorage", Kind::F64, 8),
    ("IntStorage", Kind::I32, 4),
    ("LongStorage", Kind::I64, 8),
    ("ByteStorage", Kind::U8, 1),
    ("BoolStorage", Kind::Bool, 1),
];

impl Tensor {
    /// Its numbers row by row, whatever the order in which they are stored.
    pub(super) fn numbers(&self, data: &[u8]) -> Result<Vec<f32>, String> {
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
