//! For tests: a fused operation against the same one composed of the tensor library's.

use crate::error::Result;
use crate::kernels::{Precision, with_precision};
use crate::random::stream;
use candle_core::{Device, Tensor, Var};

fn relative(a: &Tensor, b: &Tensor) -> f32 {
    let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
    assert_eq!(a.dims(), b.dims());
    norm(&(a - b).unwrap()) / norm(b).max(1e-20)
}

/// Values and gradients of both on normal inputs of these shapes agree: to 1e-5 in full precision, 2 % in mixed.
pub(super) fn against_composed(
    shapes: &[&[usize]],
    fused: impl Fn(&[Tensor]) -> Result<Tensor>,
    composed: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let vars: Vec<Var> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            let values = stream(7, "check", i as u64).normals(shape.iter().product());
            Var::from_vec(values, *shape, &Device::Cpu).unwrap()
        })
        .collect();
    let inputs: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let expected = composed(&inputs).unwrap();
    let weight =
        Tensor::from_vec(stream(7, "weight", 0).normals(expected.elem_count()), expected.shape(), &Device::Cpu);
    let weight = weight.unwrap();
    let gradients = |y: &Tensor| (y * &weight).unwrap().sum_all().unwrap().backward().unwrap();
    let expected_gradients = gradients(&expected);
    for (precision, bound) in [(Precision::Full, 1e-5), (Precision::Mixed, 2e-2)] {
        with_precision(precision, || {
            let got = fused(&inputs).unwrap();
            let error = relative(&got, &expected);
            assert!(error < bound, "{precision:?}: value differs by {error}");
            let got_gradients = gradients(&got);
            for (i, var) in vars.iter().enumerate() {
                let (got, expected) = (got_gradients.get(var).unwrap(), expected_gradients.get(var).unwrap());
                let error = relative(got, expected);
                assert!(error < bound, "{precision:?}: gradient of input {i} differs by {error}");
            }
        });
    }
}
