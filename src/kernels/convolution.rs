//! Two-dimensional convolution, channels-last, as products over neighbourhoods that are gathered block by block.

use super::panels::{self, Start};
use super::product::{Matrix, PASS, PackedB, Precision, for_each_chunk, on_tiles, panel_times, product};
use super::tiles::{self, DEPTH, PANEL, Tiles};

/// Sizes of a convolution with a square kernel.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Items.
    pub batch: usize,
    /// Height and width of the input.
    pub input: (usize, usize),
    /// Channels of the input.
    pub inputs: usize,
    /// Channels of the output.
    pub outputs: usize,
    /// Kernel size.
    pub k: usize,
    /// Stride.
    pub stride: usize,
    /// Zeros above, below, left and right of the input.
    pub padding: [usize; 4],
}

impl Shape {
    /// Height and width of the padded input.
    fn padded(&self) -> (usize, usize) {
        let [top, bottom, left, right] = self.padding;
        (self.input.0 + top + bottom, self.input.1 + left + right)
    }

    /// Height and width of the output.
    #[must_use]
    pub fn output(&self) -> (usize, usize) {
        let (h, w) = self.padded();
        ((h - self.k) / self.stride + 1, (w - self.k) / self.stride + 1)
    }

    fn depth(&self) -> usize {
        self.k * self.k * self.inputs
    }

    fn is_product(&self) -> bool {
        self.k == 1 && self.stride == 1 && self.padding == [0; 4]
    }
}

/// Pixels whose neighbourhoods are gathered together in full precision: about a MiB of them.
fn block_pixels(depth: usize) -> usize {
    ((1 << 18) / depth).clamp(32, 512)
}

/// With fewer channels a pixel is too short a piece of a row, and neighbourhoods are gathered after all.
const FEW: usize = 32;

/// y = W ∗ x + b: `x[batch, h, w, inputs]`, `weight[k·k·inputs, outputs]`, `y[batch, h′, w′, outputs]`.
pub fn convolution(x: &[f32], weight: Matrix<'_>, bias: Option<&[f32]>, s: Shape, precision: Precision, y: &mut [f32]) {
    let (ho, wo) = s.output();
    let pixels = s.batch * ho * wo;
    if on_tiles(precision) {
        return tiled(x, weight, bias, s, y);
    }
    if panels::available() && s.inputs >= FEW {
        return by_panels(x, weight, bias, s, y);
    }
    if s.is_product() {
        product(y, s.outputs, Matrix::rows(x, s.inputs), weight, (pixels, s.inputs, s.outputs), false, precision);
        if let Some(bias) = bias {
            for_each_chunk(y, 256 * s.outputs, |(_, y)| add_bias(y, bias));
        }
        return;
    }
    let depth = s.depth();
    let block = block_pixels(depth);
    for_each_chunk(y, block * s.outputs, |(i, y)| {
        let count = y.len() / s.outputs;
        let mut columns = vec![0f32; count * depth];
        for (j, column) in columns.chunks_exact_mut(depth).enumerate() {
            gather(x, &s, i * block + j, column);
        }
        let inner = (count, depth, s.outputs);
        product(y, s.outputs, Matrix::rows(&columns, depth), weight, inner, false, precision);
        if let Some(bias) = bias {
            add_bias(y, bias);
        }
    });
}

/// Neighbours are read where they are.
fn by_panels(x: &[f32], weight: Matrix<'_>, bias: Option<&[f32]>, s: Shape, y: &mut [f32]) {
    let ((ho, wo), (h, w), c) = (s.output(), s.input, s.inputs);
    let outside = vec![0f32; c];
    let pixel = |tap: usize, p: usize| {
        let (item, py, px) = (p / (ho * wo), p / wo % ho, p % wo);
        let y = (py * s.stride + tap / s.k).wrapping_sub(s.padding[0]);
        let x_at = (px * s.stride + tap % s.k).wrapping_sub(s.padding[2]);
        if y < h && x_at < w { &x[((item * h + y) * w + x_at) * c..] } else { &outside }
    };
    let start = bias.map_or(Start::Zero, Start::Bias);
    panels::product(weight, (s.k * s.k, c), s.outputs, s.batch * ho * wo, pixel, start, y, s.outputs);
}

fn add_bias(y: &mut [f32], bias: &[f32]) {
    for row in y.chunks_exact_mut(bias.len()) {
        super::pointwise::add(row, bias);
    }
}

/// Copies the neighbourhood of output pixel `p`, zeros outside the picture.
fn gather(x: &[f32], s: &Shape, p: usize, column: &mut [f32]) {
    let (ho, wo) = s.output();
    let (item, py, px) = (p / (ho * wo), p / wo % ho, p % wo);
    let (h, w) = s.input;
    let c = s.inputs;
    for dy in 0..s.k {
        let row = &mut column[dy * s.k * c..(dy + 1) * s.k * c];
        let y = (py * s.stride + dy).wrapping_sub(s.padding[0]);
        if y >= h {
            row.fill(0.0);
            continue;
        }
        // The part of the k neighbours that lies inside the picture is contiguous.
        let left = px * s.stride;
        let from = s.padding[2].saturating_sub(left).min(s.k);
        let to = (w + s.padding[2]).saturating_sub(left).min(s.k).max(from);
        row[..from * c].fill(0.0);
        row[to * c..].fill(0.0);
        if from < to {
            let start = ((item * h + y) * w + left + from - s.padding[2]) * c;
            row[from * c..to * c].copy_from_slice(&x[start..start + (to - from) * c]);
        }
    }
}

/// Writes `source` into row `r` of a panel of A from depth `at` on.
#[inline(always)]
fn put(panel: &mut [u16], r: usize, mut at: usize, mut source: &[u16]) {
    while !source.is_empty() {
        let (block, offset) = (at / DEPTH, at % DEPTH);
        let n = source.len().min(DEPTH - offset);
        let start = (block * PANEL + r) * DEPTH + offset;
        panel[start..start + n].copy_from_slice(&source[..n]);
        source = &source[n..];
        at += n;
    }
}

/// The input in bf16 with its padding, `[batch, h, w, inputs]`.
fn padded(x: &[f32], s: &Shape) -> Vec<u16> {
    let ((hp, wp), (h, w), c) = (s.padded(), s.input, s.inputs);
    let mut out = vec![0u16; s.batch * hp * wp * c];
    for item in 0..s.batch {
        for y in 0..h {
            let to = ((item * hp + y + s.padding[0]) * wp + s.padding[2]) * c;
            let from = (item * h + y) * w * c;
            tiles::convert(&x[from..from + w * c], &mut out[to..to + w * c]);
        }
    }
    out
}

fn tiled(x: &[f32], weight: Matrix<'_>, bias: Option<&[f32]>, s: Shape, y: &mut [f32]) {
    let ((ho, wo), (hp, wp), c) = (s.output(), s.padded(), s.inputs);
    let image = padded(x, &s);
    let packed = PackedB::new(weight, s.depth(), s.outputs);
    for_each_chunk(y, PANEL * s.outputs, |(i, y)| {
        let tiles = Tiles::configure();
        let rows = y.len() / s.outputs;
        let mut panel = vec![0u16; PANEL * packed.depth];
        for r in 0..rows {
            let p = i * PANEL + r;
            let (item, py, px) = (p / (ho * wo), p / wo % ho, p % wo);
            for dy in 0..s.k {
                let from = ((item * hp + py * s.stride + dy) * wp + px * s.stride) * c;
                put(&mut panel, r, dy * s.k * c, &image[from..from + s.k * c]);
            }
        }
        panel_times(&tiles, &panel, &packed, rows, y, s.outputs, bias, false);
    });
}

/// dW `[k·k·inputs, outputs]` from the input and the gradient of the output.
pub fn weight_gradient(x: &[f32], dy: &[f32], s: Shape, precision: Precision) -> Vec<f32> {
    let (ho, wo) = s.output();
    let (depth, pixels) = (s.depth(), s.batch * ho * wo);
    let mut dw = vec![0f32; depth * s.outputs];
    if s.is_product() {
        let inner = (s.inputs, pixels, s.outputs);
        let dy = Matrix::rows(dy, s.outputs);
        product(&mut dw, s.outputs, Matrix::rows(x, s.inputs).t(), dy, inner, false, precision);
    } else if on_tiles(precision) {
        tiled_weight_gradient(x, dy, s, &mut dw);
    } else {
        let block = block_pixels(depth);
        let mut columns = vec![0f32; block.min(pixels) * depth];
        for first in (0..pixels).step_by(block) {
            let count = block.min(pixels - first);
            for (j, column) in columns.chunks_exact_mut(depth).take(count).enumerate() {
                gather(x, &s, first + j, column);
            }
            let dy = Matrix::rows(&dy[first * s.outputs..], s.outputs);
            let inner = (depth, count, s.outputs);
            product(&mut dw, s.outputs, Matrix::rows(&columns, depth).t(), dy, inner, first > 0, precision);
        }
    }
    dw
}

fn tiled_weight_gradient(x: &[f32], dy: &[f32], s: Shape, dw: &mut [f32]) {
    let ((ho, wo), (hp, wp), c) = (s.output(), s.padded(), s.inputs);
    let image = padded(x, &s);
    // Channels first, so that one channel's neighbours along a row are contiguous.
    let mut planes = vec![0u16; image.len()];
    for item in 0..s.batch {
        let (source, target) =
            (&image[item * hp * wp * c..], &mut planes[item * hp * wp * c..(item + 1) * hp * wp * c]);
        for p in 0..hp * wp {
            for (ch, &v) in source[p * c..(p + 1) * c].iter().enumerate() {
                target[ch * hp * wp + p] = v;
            }
        }
    }
    let items = (PASS / (ho * wo)).max(1);
    for first in (0..s.batch).step_by(items) {
        let count = items.min(s.batch - first);
        let pixels = count * ho * wo;
        let gradient = Matrix::rows(&dy[first * ho * wo * s.outputs..], s.outputs);
        let packed = PackedB::new(gradient, pixels, s.outputs);
        for_each_chunk(dw, PANEL * s.outputs, |(i, dw)| {
            let tiles = Tiles::configure();
            let rows = dw.len() / s.outputs;
            let mut panel = vec![0u16; PANEL * packed.depth];
            let mut strided = vec![0u16; wo];
            for r in 0..rows {
                let index = i * PANEL + r;
                let (dy, dx, ch) = (index / (s.k * c), index / c % s.k, index % c);
                for item in 0..count {
                    let plane = &planes[((first + item) * c + ch) * hp * wp..];
                    for y in 0..ho {
                        let from = (y * s.stride + dy) * wp + dx;
                        let at = (item * ho + y) * wo;
                        if s.stride == 1 {
                            put(&mut panel, r, at, &plane[from..from + wo]);
                        } else {
                            for (v, &p) in strided.iter_mut().zip(plane[from..].iter().step_by(s.stride)) {
                                *v = p;
                            }
                            put(&mut panel, r, at, &strided);
                        }
                    }
                }
            }
            panel_times(&tiles, &panel, &packed, rows, dw, s.outputs, None, first > 0);
        });
    }
}

/// dx from the gradient of the output: a convolution of the (spread out) gradient with the turned kernel.
pub fn input_gradient(dy: &[f32], weight: &[f32], s: Shape, precision: Precision, dx: &mut [f32]) {
    let (ho, wo) = s.output();
    if s.is_product() {
        let inner = (s.batch * ho * wo, s.outputs, s.inputs);
        let turned = Matrix::rows(weight, s.outputs).t();
        return product(dx, s.inputs, Matrix::rows(dy, s.outputs), turned, inner, false, precision);
    }
    // Row (dy·k + dx)·outputs + o of the turned kernel is row (k−1−dy, k−1−dx) of the kernel, output o.
    let (ci, co, kk) = (s.inputs, s.outputs, s.k * s.k);
    let mut turned = vec![0f32; weight.len()];
    for p in 0..kk {
        for i in 0..ci {
            for (o, &w) in weight[((kk - 1 - p) * ci + i) * co..][..co].iter().enumerate() {
                turned[(p * co + o) * ci + i] = w;
            }
        }
    }
    let spread = ((ho - 1) * s.stride + 1, (wo - 1) * s.stride + 1);
    let spread_dy;
    let dy = if s.stride == 1 {
        dy
    } else {
        let mut out = vec![0f32; s.batch * spread.0 * spread.1 * co];
        for (p, pixel) in dy.chunks_exact(co).enumerate() {
            let (item, y, x) = (p / (ho * wo), p / wo % ho, p % wo);
            let to = ((item * spread.0 + y * s.stride) * spread.1 + x * s.stride) * co;
            out[to..to + co].copy_from_slice(pixel);
        }
        spread_dy = out;
        &spread_dy
    };
    let (top, left) = (s.k - 1 - s.padding[0], s.k - 1 - s.padding[2]);
    let back = Shape {
        batch: s.batch,
        input: spread,
        inputs: co,
        outputs: ci,
        k: s.k,
        stride: 1,
        padding: [top, s.input.0 + s.padding[0] - spread.0, left, s.input.1 + s.padding[2] - spread.1],
    };
    convolution(dy, Matrix::rows(&turned, ci), None, back, precision, dx);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    const SHAPES: [Shape; 4] = [
        Shape { batch: 2, input: (5, 7), inputs: 3, outputs: 4, k: 3, stride: 1, padding: [1; 4] },
        Shape { batch: 3, input: (6, 8), inputs: 5, outputs: 2, k: 3, stride: 2, padding: [1; 4] },
        Shape { batch: 2, input: (6, 4), inputs: 3, outputs: 34, k: 3, stride: 2, padding: [0, 1, 0, 1] },
        Shape { batch: 2, input: (3, 5), inputs: 33, outputs: 6, k: 1, stride: 1, padding: [0; 4] },
    ];

    fn direct(x: &[f32], w: &[f32], b: &[f32], s: &Shape) -> Vec<f32> {
        let (ho, wo) = s.output();
        let mut y = Vec::new();
        for item in 0..s.batch {
            for py in 0..ho {
                for px in 0..wo {
                    for o in 0..s.outputs {
                        let mut sum = f64::from(b[o]);
                        for dy in 0..s.k {
                            for dx in 0..s.k {
                                let iy = (py * s.stride + dy) as isize - s.padding[0] as isize;
                                let ix = (px * s.stride + dx) as isize - s.padding[2] as isize;
                                if iy < 0 || ix < 0 || iy >= s.input.0 as isize || ix >= s.input.1 as isize {
                                    continue;
                                }
                                for i in 0..s.inputs {
                                    let at =
                                        ((item * s.input.0 + iy as usize) * s.input.1 + ix as usize) * s.inputs + i;
                                    let weight = w[((dy * s.k + dx) * s.inputs + i) * s.outputs + o];
                                    sum += f64::from(x[at]) * f64::from(weight);
                                }
                            }
                        }
                        y.push(sum as f32);
                    }
                }
            }
        }
        y
    }

    fn close(a: &[f32], b: &[f32], bound: f32, what: &str) {
        assert_eq!(a.len(), b.len());
        let difference: f32 = a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f32>().sqrt();
        let norm: f32 = b.iter().map(|y| y * y).sum::<f32>().sqrt();
        assert!(difference <= bound * norm, "{what}: relative error {}", difference / norm);
    }

    #[test]
    fn forward_agrees_with_the_definition() {
        // Enough channels for pixels to be read in place, with one, two and no rows outside the picture.
        let wide = Shape { batch: 2, input: (5, 4), inputs: 35, outputs: 18, k: 3, stride: 1, padding: [1, 2, 0, 1] };
        let strided = Shape { stride: 2, ..wide };
        for s in SHAPES.into_iter().chain([wide, strided]) {
            let x = stream(0, "x", 0).normals(s.batch * s.input.0 * s.input.1 * s.inputs);
            let w = stream(0, "w", 0).normals(s.depth() * s.outputs);
            let b = stream(0, "b", 0).normals(s.outputs);
            let expected = direct(&x, &w, &b, &s);
            for (precision, bound) in [(Precision::Full, 1e-6), (Precision::Mixed, 1e-2)] {
                let mut y = vec![f32::NAN; expected.len()];
                convolution(&x, Matrix::rows(&w, s.outputs), Some(&b), s, precision, &mut y);
                close(&y, &expected, bound, &format!("{s:?} {precision:?}"));
            }
        }
    }

    /// ⟨dy, conv(x)⟩ is linear in x and in w: its gradients are exact sums of the definition over unit vectors.
    #[test]
    fn gradients_agree_with_the_definition() {
        for s in SHAPES {
            let (ho, wo) = s.output();
            let x = stream(1, "x", 0).normals(s.batch * s.input.0 * s.input.1 * s.inputs);
            let w = stream(1, "w", 0).normals(s.depth() * s.outputs);
            let dy = stream(1, "dy", 0).normals(s.batch * ho * wo * s.outputs);
            let zero = vec![0.0; s.outputs];
            let inner = |x: &[f32], w: &[f32]| -> f32 {
                direct(x, w, &zero, &s).iter().zip(&dy).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
            };
            let unit = |n: usize, i: usize| -> Vec<f32> { (0..n).map(|j| if i == j { 1.0 } else { 0.0 }).collect() };
            let expected_w: Vec<f32> = (0..w.len()).map(|i| inner(&x, &unit(w.len(), i))).collect();
            let expected_x: Vec<f32> = (0..x.len()).map(|i| inner(&unit(x.len(), i), &w)).collect();
            for (precision, bound) in [(Precision::Full, 1e-5), (Precision::Mixed, 1e-2)] {
                let dw = weight_gradient(&x, &dy, s, precision);
                close(&dw, &expected_w, bound, &format!("dw {s:?} {precision:?}"));
                let mut dx = vec![f32::NAN; x.len()];
                input_gradient(&dy, &w, s, precision, &mut dx);
                close(&dx, &expected_x, bound, &format!("dx {s:?} {precision:?}"));
            }
        }
    }
}
