//! Numeric kernels on slices: products, convolution, normalisation, attention.
//!
//! Nothing here knows of tensors or models. All kernels are deterministic: every output element is summed in an
//! order that depends on the shapes alone, never on the number of threads.
//!
//! This is the one module with `unsafe` code: calls into the `gemm` crate, functions compiled for wide vectors after
//! the processor has been asked for them, and the matrix tiles of recent server processors.
#![allow(unsafe_code)]

pub mod attention;
pub(crate) mod cholesky;
pub mod convolution;
pub(crate) mod eigen;
pub(crate) mod gathered;
pub mod half;
pub mod normalisation;
mod pairs;
mod panel;
mod panels;
pub mod pointwise;
pub mod product;
pub(crate) mod sparse;
mod tiles;
mod wide;

pub(crate) use product::Factor;
pub use product::{Matrix, Precision, precision, product, product_and_bias, with_precision};

/// Calls `work(i, chunk)` for every chunk of `data`, in parallel if the current rayon pool has several threads.
pub fn chunks<T: Send>(data: &mut [T], chunk: usize, work: impl Fn(usize, &mut [T]) + Sync + Send) {
    product::for_each_chunk(data, chunk, |(i, part)| work(i, part));
}
