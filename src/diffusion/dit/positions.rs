//! Where a token is, as sines and cosines: diffusers' `get_2d_sincos_pos_embed`.

use crate::error::Result;
use candle_core::{Device, Tensor};

/// Positions of a grid of tokens, `[1, h, w, width]` in f32: the first half of the channels says x, the second y, each
/// by the sines and then the cosines of p·10000^(−i/n).
///
/// A grid of any size spans what the `trained` tokens of a side spanned: p = i/(size/trained)/scale. So a model sees
/// no positions beyond those it knows, whatever the aspect.
///
/// # Errors
/// Of the tensor library.
pub(super) fn positions(
    (h, w): (usize, usize),
    trained: usize,
    scale: f64,
    width: usize,
    device: &Device,
) -> Result<Tensor> {
    let n = width / 4;
    // Positions are rounded to f32 where the reference rounds them, angles are not.
    let place = |i: usize, size: usize| f64::from(i as f32 / (size as f64 / trained as f64) as f32 / scale as f32);
    let rows = |size: usize| -> Vec<f32> {
        let mut rows = Vec::with_capacity(size * 2 * n);
        for i in 0..size {
            let angle = |k: usize| place(i, size) / 10000f64.powf(k as f64 / n as f64);
            rows.extend((0..n).map(|k| angle(k).sin() as f32));
            rows.extend((0..n).map(|k| angle(k).cos() as f32));
        }
        rows
    };
    let (xs, ys) = (rows(w), rows(h));
    let mut values = Vec::with_capacity(h * w * width);
    for y in ys.chunks_exact(2 * n) {
        for x in xs.chunks_exact(2 * n) {
            values.extend_from_slice(x);
            values.extend_from_slice(y);
        }
    }
    Ok(Tensor::from_vec(values, (1, h, w, width), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_grid_spans_the_same_positions() {
        let at = |h, w, y: usize, x: usize| -> Vec<f32> {
            let all = positions((h, w), 4, 2.0, 8, &Device::Cpu).unwrap();
            all.get(0).unwrap().get(y).unwrap().get(x).unwrap().to_vec1().unwrap()
        };
        // x = 3/(4/4)/2 = 1.5, y = 1/2, with frequencies 1 and 1/100.
        let angles: [f32; 8] = [1.5, 0.015, 1.5, 0.015, 0.5, 0.005, 0.5, 0.005];
        let expected: Vec<f32> =
            angles.iter().enumerate().map(|(i, a)| if i / 2 % 2 == 0 { a.sin() } else { a.cos() }).collect();
        for (found, expected) in at(4, 4, 1, 3).iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
        }
        assert_eq!(at(4, 4, 1, 3), at(8, 16, 2, 12));
    }
}
