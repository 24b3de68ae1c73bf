//! Weights by name: read from safetensors files (or, where nothing else is published, from those of `torch.save`), or
//! drawn from a seed, and trainable if asked.
//!
//! A network asks for every tensor by its diffusers name and the shape that its configuration calls for. A file
//! that lacks one, holds another shape, another type or a number that is not finite, or holds tensors nobody asked for
//! is refused by name.
//!
//! Files in f16 and bf16 open like those in f32, and everything is computed in f32. The weights of linear and
//! convolutional layers, which are nearly all there is, may be kept in half precision: a layer widens its own while it
//! computes, so that memory is halved, nothing but the weights is rounded, and weights that are in half precision in
//! their file give the same numbers to the bit either way.

use crate::error::{Error, Result, nearest};
use crate::kernels::half::{Float, not_finite};
use crate::pickle::Saved;
use crate::random;
use candle_core::{DType, Device, Tensor, Var};
use clap::ValueEnum;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The largest header that the safetensors format allows.
const MAX_HEADER: u64 = 100_000_000;

/// The largest number in f16.
const MAX_F16: f32 = 65504.0;

/// How a weight starts when it is drawn from a seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Uniform in ±1/√fan_in, PyTorch's default for linear and convolution layers.
    FanIn(usize),
    /// Normal with this standard deviation.
    Normal(f32),
}

/// What the weights of linear and convolutional layers are kept in, for command lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Kept {
    /// Full precision.
    #[default]
    F32,
    /// Half precision, with f32's range.
    Bf16,
    /// Half precision, with more digits and a smaller range.
    F16,
}

impl Kept {
    /// As the tensor library names it.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Kept::F32 => DType::F32,
            Kept::Bf16 => DType::BF16,
            Kept::F16 => DType::F16,
        }
    }
}

/// How a tensor lies in memory against how its file has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    /// As in the file.
    Plain,
    /// A convolution, `[out, in, k, k]` in the file and `[k·k·in, out]` in memory (channels-last products).
    Convolution { outputs: usize, inputs: usize, k: usize },
}

/// A tree of named weights; [`Weights::at`] walks down it.
#[derive(Debug, Clone)]
pub struct Weights {
    shared: Arc<Shared>,
    prefix: String,
}

#[derive(Debug)]
struct Shared {
    origin: PathBuf,
    files: Vec<TensorFile>,
    index: HashMap<String, usize>,
    /// Tensors that are in memory already.
    held: HashMap<String, Tensor>,
    seed: Option<u64>,
    trainable: bool,
    device: Device,
    kept: DType,
    used: Mutex<BTreeSet<String>>,
    vars: Mutex<BTreeMap<String, (Var, Packing)>>,
}

/// One safetensors file, read tensor by tensor.
#[derive(Debug)]
struct TensorFile {
    path: PathBuf,
    start: u64,
    tensors: HashMap<String, TensorInfo>,
}

impl TensorFile {
    fn open(path: &Path) -> Result<Self> {
        let mut file = std::fs::File::open(path).map_err(Error::file(path))?;
        let length = file.metadata().map_err(Error::file(path))?.len();
        let mut size = [0u8; 8];
        file.read_exact(&mut size)
            .map_err(|_| Error::format(path, format!("{length} bytes, too short for a safetensors header")))?;
        let header = u64::from_le_bytes(size);
        if header > MAX_HEADER || header + 8 > length {
            let problem = format!("a header of {header} bytes in a file of {length}: truncated, or not safetensors");
            return Err(Error::format(path, problem));
        }
        let mut bytes = vec![0u8; header as usize];
        file.read_exact(&mut bytes).map_err(Error::file(path))?;
        let metadata: Metadata = serde_json::from_slice(&bytes)
            .map_err(|e| Error::format(path, format!("unreadable safetensors header: {e}")))?;
        let tensors: HashMap<String, TensorInfo> =
            metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        let start = 8 + header;
        for (name, info) in &tensors {
            let end = start + info.data_offsets.1 as u64;
            if end > length {
                let problem = format!("truncated: tensor {name} ends at byte {end}, the file has {length}");
                return Err(Error::format(path, problem));
            }
        }
        Ok(Self { path: path.into(), start, tensors })
    }

    fn read(&self, name: &str, info: &TensorInfo, device: &Device) -> Result<Tensor> {
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0u8; to - from];
        let mut file = std::fs::File::open(&self.path).map_err(Error::file(&self.path))?;
        file.seek(SeekFrom::Start(self.start + from as u64)).map_err(Error::file(&self.path))?;
        file.read_exact(&mut bytes).map_err(Error::file(&self.path))?;
        let (dtype, float) = match info.dtype {
            Dtype::F64 => (DType::F64, Float::F64),
            Dtype::F32 => (DType::F32, Float::F32),
            Dtype::F16 => (DType::F16, Float::F16),
            Dtype::BF16 => (DType::BF16, Float::Bf16),
            found => {
                let problem = format!("tensor {name}: found type {found:?}, expected F32, F16, BF16 or F64");
                return Err(Error::format(&self.path, problem));
            }
        };
        if let Some(at) = not_finite(&bytes, float) {
            let problem = format!("tensor {name}: number {at} of shape {:?} is NaN or infinite", info.shape);
            return Err(Error::format(&self.path, problem));
        }
        Ok(Tensor::from_raw_buffer(&bytes, dtype, &info.shape, device)?)
    }
}

impl Shared {
    fn empty(origin: PathBuf, device: &Device, kept: DType) -> Self {
        Self {
            origin,
            files: Vec::new(),
            index: HashMap::new(),
            held: HashMap::new(),
            seed: None,
            trainable: false,
            device: device.clone(),
            kept,
            used: Mutex::default(),
            vars: Mutex::default(),
        }
    }

    /// Names of all tensors.
    fn names(&self) -> impl Iterator<Item = &String> {
        self.index.keys().chain(self.held.keys())
    }

    /// The tensor `full`, which must have this shape.
    fn read(&self, full: &str, shape: &[usize]) -> Result<Tensor> {
        let wrong = |path: &Path, found: &[usize]| {
            Error::format(path, format!("tensor {full}: found shape {found:?}, expected {shape:?}"))
        };
        if let Some(held) = self.held.get(full) {
            return if held.dims() == shape { Ok(held.clone()) } else { Err(wrong(&self.origin, held.dims())) };
        }
        let file = self.index.get(full).map(|&i| &self.files[i]).ok_or_else(|| {
            let missing = Error::unknown("tensor", full, self.names());
            Error::format(&self.origin, format!("{missing}; expected shape {shape:?}"))
        })?;
        let info = &file.tensors[full];
        if info.shape != shape {
            return Err(wrong(&file.path, &info.shape));
        }
        file.read(full, info, &self.device)
    }
}

impl Weights {
    /// Opens the safetensors files of one component. The weights of linear and convolutional layers are kept in `kept`:
    /// [`DType::F32`], or half precision to save memory.
    ///
    /// # Errors
    /// A missing, truncated or unreadable file, a tensor that two files hold, or another type to keep weights in.
    pub fn open(files: &[PathBuf], device: &Device, kept: DType) -> Result<Self> {
        if !matches!(kept, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::invalid(format!("weights kept in {}: expected f32, f16 or bf16", kept.as_str())));
        }
        Self::from_files(files, device, kept, false)
    }

    /// Opens weights to train them further: every tensor that a network asks for becomes a variable.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn open_trainable(files: &[PathBuf], device: &Device) -> Result<Self> {
        Self::from_files(files, device, DType::F32, true)
    }

    fn from_files(paths: &[PathBuf], device: &Device, kept: DType, trainable: bool) -> Result<Self> {
        let files = paths.iter().map(|p| TensorFile::open(p)).collect::<Result<Vec<_>>>()?;
        let mut index = HashMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.tensors.keys() {
                if let Some(other) = index.insert(name.clone(), i) {
                    let problem = format!("tensor {name} is also in {}", files[other].path.display());
                    return Err(Error::format(&file.path, problem));
                }
            }
        }
        let origin = paths.first().cloned().unwrap_or_default();
        Ok(Self::new(Shared { files, index, trainable, ..Shared::empty(origin, device, kept) }))
    }

    /// Opens a state dict: a safetensors file, or one of `torch.save`, which is read without executing anything. Of the
    /// latter only tensors that `wanted` names are kept.
    ///
    /// # Errors
    /// A file that is missing, damaged or holds anything but tensors.
    pub fn open_state(path: &Path, device: &Device, dtype: DType, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        if path.extension().is_some_and(|e| e == "safetensors") {
            return Self::open(&[path.into()], device, dtype);
        }
        let saved = Saved::read(path)?;
        let tensors = saved.dictionary(&saved.root)?;
        let mut held = HashMap::new();
        for name in tensors.names().into_iter().filter(|name| wanted(name)) {
            let shape = tensors.shape(name)?;
            let tensor = Tensor::from_vec(tensors.floats(name, shape)?, shape, device)?;
            held.insert(name.to_string(), tensor);
        }
        Ok(Self::new(Shared { held, ..Shared::empty(path.into(), device, dtype) }))
    }

    /// Weights drawn from `seed`, each tensor from a stream of its own name, as trainable variables in f32.
    #[must_use]
    pub fn seeded(seed: u64, device: &Device) -> Self {
        let empty = Shared::empty("seeded weights".into(), device, DType::F32);
        Self::new(Shared { seed: Some(seed), trainable: true, ..empty })
    }

    fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared), prefix: String::new() }
    }

    /// The weights below `name`, which may itself hold dots.
    #[must_use]
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { shared: self.shared.clone(), prefix: self.full(&name.to_string()) }
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.into() } else { format!("{}.{name}", self.prefix) }
    }

    /// The path walked so far, as in `down_blocks.0.resnets.1`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.prefix
    }

    /// The device that tensors are placed on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.shared.device
    }

    /// The type that is computed in.
    #[must_use]
    pub fn dtype(&self) -> DType {
        DType::F32
    }

    /// Bytes that the tensors of the files take when they are loaded.
    #[must_use]
    pub fn size(&self) -> u64 {
        let infos = self.shared.files.iter().flat_map(|f| f.tensors.values());
        infos
            .map(|info| {
                // Vectors are kept in f32: biases, and what norms multiply with.
                let bytes = if info.shape.len() > 1 { self.shared.kept.size_in_bytes() } else { 4 };
                (info.shape.iter().product::<usize>() * bytes) as u64
            })
            .sum()
    }

    /// Whether a file holds this tensor (always true for seeded weights).
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let (full, shared) = (self.full(name), &self.shared);
        shared.seed.is_some() || shared.index.contains_key(&full) || shared.held.contains_key(&full)
    }

    /// The tensor `name` of this shape; `init` matters for seeded weights only.
    ///
    /// # Errors
    /// A tensor that is missing (with the nearest names) or has another shape.
    pub fn get(&self, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        self.fetch(name, shape, init, Packing::Plain, DType::F32)
    }

    /// The matrix `[outputs, inputs]` of a linear layer, in the type that such are kept in.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn matrix(&self, name: &str, outputs: usize, inputs: usize, init: Init) -> Result<Tensor> {
        self.fetch(name, &[outputs, inputs], init, Packing::Plain, self.shared.kept)
    }

    /// A convolution's weight, `[outputs, inputs, k, k]` in the file, as `[k·k·inputs, outputs]` in memory: row
    /// (dy·k + dx)·inputs + c multiplies channel c of the neighbour at (dy, dx); in the type that such are kept in.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn convolution(&self, name: &str, outputs: usize, inputs: usize, k: usize, init: Init) -> Result<Tensor> {
        let packing = Packing::Convolution { outputs, inputs, k };
        self.fetch(name, &[outputs, inputs, k, k], init, packing, self.shared.kept)
    }

    fn fetch(&self, name: &str, shape: &[usize], init: Init, packing: Packing, dtype: DType) -> Result<Tensor> {
        let full = self.full(name);
        let shared = &*self.shared;
        if let Some((var, _)) = shared.vars.lock().expect("weights lock").get(&full) {
            return Ok(var.as_tensor().clone());
        }
        let stored = match shared.seed {
            Some(seed) => draw(seed, &full, shape, init, &shared.device)?,
            None => {
                let stored = shared.read(&full, shape)?;
                if dtype == DType::F16 && stored.dtype() != DType::F16 {
                    let largest = stored.to_dtype(DType::F32)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
                    if largest > MAX_F16 {
                        let problem = format!("tensor {full}: {largest} is too large for f16: keep weights in bf16");
                        return Err(Error::format(&shared.origin, problem));
                    }
                }
                stored.to_dtype(dtype)?
            }
        };
        shared.used.lock().expect("weights lock").insert(full.clone());
        let packed = match packing {
            Packing::Plain => stored,
            Packing::Convolution { outputs, inputs, k } => {
                stored.permute((2, 3, 1, 0))?.reshape((k * k * inputs, outputs))?.contiguous()?
            }
        };
        if !shared.trainable {
            return Ok(packed);
        }
        let var = Var::from_tensor(&packed)?;
        let tensor = var.as_tensor().clone();
        shared.vars.lock().expect("weights lock").insert(full, (var, packing));
        Ok(tensor)
    }

    /// Tells [`Weights::finish`] that a file may hold `name`, which nobody needs.
    pub fn skip(&self, name: &str) {
        self.shared.used.lock().expect("weights lock").insert(self.full(name));
    }

    /// Refuses files with tensors that no network asked for.
    ///
    /// # Errors
    /// Names the first few of them.
    pub fn finish(&self) -> Result<()> {
        let used = self.shared.used.lock().expect("weights lock");
        let mut extra: Vec<&String> = self.shared.names().filter(|n| !used.contains(*n)).collect();
        if extra.is_empty() {
            return Ok(());
        }
        extra.sort();
        let shown: Vec<&str> = extra.iter().take(5).map(|s| s.as_str()).collect();
        let mut problem =
            format!("{} tensors that this configuration has no use for: {}", extra.len(), shown.join(", "));
        let near = nearest(shown[0], &*used);
        if !near.is_empty() {
            problem += &format!("; nearest to the first that it has: {}", near.join(", "));
        }
        Err(Error::format(&self.shared.origin, problem))
    }

    /// All trainable variables by full name, in alphabetical order.
    #[must_use]
    pub fn vars(&self) -> Vec<(String, Var)> {
        let vars = self.shared.vars.lock().expect("weights lock");
        vars.iter().map(|(name, (var, _))| (name.clone(), var.clone())).collect()
    }

    /// Writes all variables in the layout of diffusers, under a temporary name first. `values` replaces a
    /// variable's own value (averaged weights, say).
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn save(&self, path: &Path, dtype: DType, values: Option<&HashMap<String, Tensor>>) -> Result<()> {
        let vars = self.shared.vars.lock().expect("weights lock");
        let mut out: HashMap<String, Tensor> = HashMap::new();
        for (name, (var, packing)) in vars.iter() {
            let value = values.and_then(|v| v.get(name)).unwrap_or(var.as_tensor()).detach();
            let plain = match *packing {
                Packing::Plain => value,
                Packing::Convolution { outputs, inputs, k } => {
                    value.reshape((k, k, inputs, outputs))?.permute((3, 2, 0, 1))?.contiguous()?
                }
            };
            out.insert(name.clone(), plain.to_dtype(dtype)?.to_device(&Device::Cpu)?);
        }
        let partial = path.with_extension("partial");
        // "format" is what Python's loaders look for to tell PyTorch weights from others.
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::serialize_to_file(&out, Some(metadata), &partial).map_err(|e| Error::format(&partial, e))?;
        std::fs::rename(&partial, path).map_err(Error::file(path))
    }
}

fn draw(seed: u64, name: &str, shape: &[usize], init: Init, device: &Device) -> Result<Tensor> {
    let n = shape.iter().product();
    let mut stream = random::stream(seed, name, 0);
    let values: Vec<f32> = match init {
        Init::Zeros => vec![0.0; n],
        Init::Ones => vec![1.0; n],
        Init::FanIn(fan_in) => {
            let bound = 1.0 / (fan_in as f32).sqrt();
            (0..n).map(|_| stream.range(-bound, bound)).collect()
        }
        Init::Normal(std) => (0..n).map(|_| std * stream.normal()).collect(),
    };
    Ok(Tensor::from_vec(values, shape, device)?)
}
