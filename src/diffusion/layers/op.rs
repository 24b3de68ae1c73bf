//! What the fused CPU operations share: slices out of tensors, tensors out of vectors.

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Storage, Tensor};

/// Whether an operation on `x` runs fused: f32 on the CPU.
pub(super) fn fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The contiguous numbers behind a storage.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => candle_core::bail!("a fused operation was given a tensor that is not contiguous"),
    }
}

/// The result of a forward pass.
pub(super) fn output(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// Calls `work` with the numbers of a tensor, which is made contiguous if it is not.
pub(super) fn read<T>(x: &Tensor, work: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => work(slice(cpu, layout)?),
        _ => candle_core::bail!("a fused operation was given a tensor that is not on the CPU"),
    }
}

/// A tensor shaped like another.
pub(super) fn like(values: Vec<f32>, other: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, other.shape(), other.device())
}
