//! Bicubic resizing of 8-bit pictures, to the last bit as Pillow does it.
//!
//! Separable, first along rows, then along columns, with 8 bits in between. An output pixel at x is the weighted mean of
//! the inputs around c = (x + ½)·s, s = input/output, with Keys' kernel (a = −½) of radius 2·max(s, 1): when a picture
//! shrinks the kernel widens, so that nothing is skipped. Weights are whole multiples of 2⁻²². (Pillow,
//! src/libImaging/Resample.c, `precompute_coeffs` and `ImagingResampleHorizontal_8bpc`. From version 13 on Pillow goes
//! along columns first where that is less work, which can round a byte otherwise; never in square pictures.)

use image::RgbImage;

/// Bits after the point of a weight.
const BITS: u32 = 32 - 8 - 2;
/// Radius of Keys' kernel.
const RADIUS: f64 = 2.0;

/// Keys' cubic convolution kernel with a = −½.
fn kernel(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < RADIUS {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// For every output position: the first input position, and the weights from there on.
fn weights(input: usize, output: usize) -> Vec<(usize, Vec<i32>)> {
    let scale = input as f64 / output as f64;
    let widen = scale.max(1.0);
    let (support, shrink) = (RADIUS * widen, 1.0 / widen);
    let one = |x: usize| {
        let centre = (x as f64 + 0.5) * scale;
        // Truncation towards zero, as C converts.
        let first = ((centre - support + 0.5) as i64).max(0) as usize;
        let end = ((centre + support + 0.5) as i64).min(input as i64) as usize;
        let raw: Vec<f64> = (first..end).map(|i| kernel((i as f64 - centre + 0.5) * shrink)).collect();
        let sum: f64 = raw.iter().sum();
        let whole = |w: f64| {
            let w = if sum == 0.0 { w } else { w / sum } * f64::from(1 << BITS);
            (if w < 0.0 { w - 0.5 } else { w + 0.5 }) as i32
        };
        (first, raw.into_iter().map(whole).collect())
    };
    (0..output).map(one).collect()
}

/// The picture at another size.
pub(super) fn bicubic(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    let across = resized(picture, width, picture.height(), true);
    resized(&across, width, height, false)
}

/// Along one axis; a length that stays is not touched.
fn resized(picture: &RgbImage, width: u32, height: u32, horizontal: bool) -> RgbImage {
    if picture.dimensions() == (width, height) {
        return picture.clone();
    }
    let (from, to) = if horizontal { (picture.width(), width) } else { (picture.height(), height) };
    let weights = weights(from as usize, to as usize);
    RgbImage::from_fn(width, height, |x, y| {
        let (first, weights) = &weights[if horizontal { x } else { y } as usize];
        let mut sums = [1i32 << (BITS - 1); 3];
        for (i, weight) in weights.iter().enumerate() {
            let at = (first + i) as u32;
            let pixel = if horizontal { picture.get_pixel(at, y) } else { picture.get_pixel(x, at) };
            sums.iter_mut().zip(pixel.0).for_each(|(sum, byte)| *sum += weight * i32::from(byte));
        }
        image::Rgb(sums.map(|sum| (sum >> BITS).clamp(0, 255) as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_sum_to_one_and_interpolate() {
        for (input, output) in [(7, 19), (19, 7), (64, 224), (5, 5)] {
            for (first, weights) in weights(input, output) {
                let sum: i32 = weights.iter().sum();
                assert!((sum - (1 << BITS)).abs() <= weights.len() as i32, "{input} to {output}: {sum}");
                assert!(first + weights.len() <= input);
            }
        }
        // At its own size every pixel is itself.
        let (first, own) = &weights(5, 5)[2];
        let at = (0..own.len()).find(|i| first + i == 2).unwrap();
        assert_eq!(own[at], 1 << BITS);
    }

    #[test]
    fn an_even_picture_stays_even() {
        let picture = RgbImage::from_pixel(9, 4, image::Rgb([255, 130, 0]));
        let found = bicubic(&picture, 4, 13);
        assert_eq!(found.dimensions(), (4, 13));
        assert!(found.pixels().all(|p| p.0 == [255, 130, 0]));
    }
}
