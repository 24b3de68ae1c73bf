//! LPIPS as published: learnt perceptual distance in the features of AlexNet (Zhang et al. 2018, version 0.1).
//!
//! Trunk: torchvision's AlexNet up to its fifth ReLU, on pictures x in [−1, 1] that are shifted and scaled by channel,
//! (x − s)/t. The five ReLU outputs are compared as [`feature_distance`] does, with the squares of w_l from the package's
//! linear layers. Checked against lpips 0.1.4 (`tests/golden/make_lpips.py`).

use super::perceptual::{Perceptual, feature_distance, in_passes};
use crate::diffusion::layers::{Conv2d, Padding};
use crate::diffusion::weights::{Init, Weights};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use std::path::Path;

/// Pairs of one pass: two pictures of 512 × 512 need some 40 MiB.
const PASS: usize = 8;
/// Shift s of the channels red, green, blue.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
/// Scale t of the channels.
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];
/// One convolution of the trunk.
struct Layer {
    /// Place in torchvision's `features`.
    place: usize,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    /// The largest of 3 × 3 neighbours, every second, goes in.
    pooled: bool,
}

const LAYERS: [Layer; 5] = [
    Layer { place: 0, inputs: 3, outputs: 64, kernel: 11, stride: 4, padding: 2, pooled: false },
    Layer { place: 3, inputs: 64, outputs: 192, kernel: 5, stride: 1, padding: 2, pooled: true },
    Layer { place: 6, inputs: 192, outputs: 384, kernel: 3, stride: 1, padding: 1, pooled: true },
    Layer { place: 8, inputs: 384, outputs: 256, kernel: 3, stride: 1, padding: 1, pooled: false },
    Layer { place: 10, inputs: 256, outputs: 256, kernel: 3, stride: 1, padding: 1, pooled: false },
];
/// Below this side nothing is left to pool.
const LEAST: u32 = 31;

/// The published distance.
///
/// ```no_run
/// use denoscope::measure::{Lpips, Perceptual};
///
/// // torchvision's weights, and those in the folder of the Python package lpips.
/// let lpips = Lpips::open("alexnet-owt-7be5be79.pth", "lpips/weights/v0.1/alex.pth")?;
/// # let [before, after] = [image::RgbImage::new(64, 64), image::RgbImage::new(64, 64)];
/// println!("{}", lpips.distance(&before, &after)?);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lpips {
    trunk: Vec<Conv2d>,
    squares: Vec<Vec<f32>>,
}

impl Lpips {
    /// Opens the weights of torchvision's AlexNet and those of LPIPS' linear layers (`alex.pth` of the package, version
    /// 0.1): files of `torch.save`, which are read without executing anything, or safetensors with the same names.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another network: the tensor is named.
    pub fn open(alexnet: impl AsRef<Path>, linear: impl AsRef<Path>) -> Result<Self> {
        let (device, dtype) = (Device::Cpu, DType::F32);
        let weights = Weights::open_state(alexnet.as_ref(), &device, dtype, |name| name.starts_with("features."))?;
        let trunk = LAYERS.iter().map(|layer| {
            let Layer { place, inputs, outputs, kernel, stride, padding, .. } = *layer;
            let weights = weights.at("features").at(place);
            Conv2d::load(&weights, inputs, outputs, kernel, stride, Padding::Same(padding))
        });
        let trunk = trunk.collect::<Result<_>>()?;
        // In a safetensors file, too, the classifier may follow.
        for (layer, part) in [1, 4, 6].iter().flat_map(|layer| ["weight", "bias"].map(|part| (layer, part))) {
            weights.at("classifier").at(layer).skip(part);
        }
        weights.finish()?;
        let weights = Weights::open_state(linear.as_ref(), &device, dtype, |_| true)?;
        let squares = LAYERS.iter().enumerate().map(|(i, layer)| {
            let channels = layer.outputs;
            let name = format!("lin{i}.model.1.weight");
            let values: Vec<f32> = weights.get(&name, &[1, channels, 1, 1], Init::Ones)?.flatten_all()?.to_vec1()?;
            if values.iter().all(|v| v.is_finite() && *v >= 0.0) {
                return Ok(values);
            }
            Err(Error::format(linear.as_ref(), format!("{name} holds numbers below 0, which are no squares")))
        });
        let squares = squares.collect::<Result<_>>()?;
        weights.finish()?;
        Ok(Self { trunk, squares })
    }

    /// The share of each of the five layers in every pair's distance.
    ///
    /// # Errors
    /// As [`Perceptual::distances`].
    pub fn layers(&self, a: &[RgbImage], b: &[RgbImage]) -> Result<Vec<[f64; 5]>> {
        self.compare(a, b, |layer| Some(&self.squares[layer]))
    }

    /// The same without what was learnt from people: all w_l = 1 (`lpips=False` in the package).
    ///
    /// # Errors
    /// As [`Perceptual::distances`].
    pub fn baseline(&self, a: &[RgbImage], b: &[RgbImage]) -> Result<Vec<[f64; 5]>> {
        self.compare(a, b, |_| None)
    }

    fn compare<'a>(
        &self,
        a: &[RgbImage],
        b: &[RgbImage],
        squares: impl Fn(usize) -> Option<&'a Vec<f32>>,
    ) -> Result<Vec<[f64; 5]>> {
        in_passes(a, b, PASS, |a, b| {
            let (a, b) = (self.features(a)?, self.features(b)?);
            let mut found = vec![[0.0; 5]; a[0].dim(0)?];
            for (layer, (a, b)) in a.iter().zip(&b).enumerate() {
                let distances = feature_distance(a, b, squares(layer).map(Vec::as_slice))?;
                found.iter_mut().zip(distances).for_each(|(f, d)| f[layer] = d);
            }
            Ok(found)
        })
    }

    /// The five ReLU outputs, channels-last.
    fn features(&self, pictures: &[RgbImage]) -> Result<Vec<Tensor>> {
        let (w, h) = pictures.first().map_or((0, 0), RgbImage::dimensions);
        if w < LEAST || h < LEAST {
            return Err(Error::invalid(format!("pictures of {w} × {h}, too small for AlexNet: at least {LEAST}")));
        }
        let value = |(i, &byte): (usize, &u8)| {
            let c = i % 3;
            (f32::from(byte) / 127.5 - 1.0 - SHIFT[c]) / SCALE[c]
        };
        let values: Vec<f32> = pictures.iter().flat_map(|p| p.as_raw().iter().enumerate().map(value)).collect();
        let mut x = Tensor::from_vec(values, (pictures.len(), h as usize, w as usize, 3), &Device::Cpu)?;
        let mut found = Vec::with_capacity(LAYERS.len());
        for (layer, convolution) in LAYERS.iter().zip(&self.trunk) {
            if layer.pooled {
                x = pooled(&x)?;
            }
            x = convolution.forward(&x)?.relu()?;
            found.push(x.clone());
        }
        Ok(found)
    }
}

impl Perceptual for Lpips {
    fn name(&self) -> &str {
        "LPIPS (AlexNet)"
    }

    fn distances(&self, a: &[RgbImage], b: &[RgbImage]) -> Result<Vec<f64>> {
        Ok(self.layers(a, b)?.iter().map(|layers| layers.iter().sum()).collect())
    }
}

/// The largest of 3 × 3 neighbours, every second.
fn pooled(x: &Tensor) -> Result<Tensor> {
    let x = x.permute((0, 3, 1, 2))?.contiguous()?.max_pool2d_with_stride(3, 2)?;
    Ok(x.permute((0, 2, 3, 1))?.contiguous()?)
}
