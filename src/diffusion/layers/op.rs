//! What the fused CPU operations share: slices out of tensors, tensors out of vectors.

use crate::kernels::half;
use ::half::slice::HalfFloatSliceExt;
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

/// Weights in f32, widened if they are kept in half precision.
pub(super) fn widened(weight: &Tensor) -> Result<Tensor> {
    if weight.dtype() == DType::F32 || !weight.device().is_cpu() {
        return weight.to_dtype(DType::F32);
    }
    let weight = weight.contiguous()?;
    let mut values = vec![0f32; weight.elem_count()];
    {
        let (storage, layout) = weight.storage_and_layout();
        let Storage::Cpu(cpu) = &*storage else { candle_core::bail!("weights that are not on the CPU") };
        let from = layout.start_offset();
        match cpu {
            CpuStorage::BF16(x) => half::from_bf16(x[from..][..values.len()].reinterpret_cast(), &mut values),
            CpuStorage::F16(x) => half::from_f16(x[from..][..values.len()].reinterpret_cast(), &mut values),
            _ => candle_core::bail!("weights kept in {:?}", weight.dtype()),
        }
    }
    Tensor::from_vec(values, weight.shape(), weight.device())
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
