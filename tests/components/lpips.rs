use crate::support::golden;
use candle_core::{Device, Tensor};
use denoscope::measure::{Lpips, Perceptual};
use image::RgbImage;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// `count` numbers in ±bound, as `formula` of make_lpips.py makes them.
fn formula(layer: u32, count: usize, bound: f64) -> Vec<f32> {
    let one = |i: u32| {
        let mut z = i.wrapping_mul(0x9e37_79b1).wrapping_add(layer.wrapping_mul(0x85eb_ca77));
        z ^= z >> 15;
        z = z.wrapping_mul(0x2c1b_3c6d);
        z ^= z >> 12;
        z = z.wrapping_mul(0x297a_2d39);
        z ^= z >> 15;
        ((f64::from(z >> 8) / f64::from(1 << 23) - 1.0) * bound) as f32
    };
    (0..count as u32).map(one).collect()
}

/// `picture` of make_lpips.py.
fn picture(kind: usize) -> RgbImage {
    RgbImage::from_fn(57, 48, |x, y| {
        image::Rgb([0, 1, 2].map(|c| {
            let first = x * 7 + y * 13 + c * 31 + x * y / 5;
            let value = match kind {
                0 => first,
                1 => x * x / 9 + y * 4 + c * 90,
                2 => (x / 8 + y / 6) * 37 + c * 11,
                _ => first + u32::from(x > 30) * 40,
            };
            (value % 256) as u8
        }))
    })
}

/// Place in `features`, outputs, inputs, kernel.
const TRUNK: [(usize, usize, usize, usize); 5] =
    [(0, 64, 3, 11), (3, 192, 64, 5), (6, 384, 192, 3), (8, 256, 384, 3), (10, 256, 256, 3)];

fn trunk() -> HashMap<String, Tensor> {
    let mut tensors = HashMap::new();
    for (i, (place, outputs, inputs, k)) in TRUNK.into_iter().enumerate() {
        let (fan_in, layer) = (inputs * k * k, 2 * i as u32);
        let weight = formula(layer, outputs * fan_in, (6.0 / fan_in as f64).sqrt());
        let weight = Tensor::from_vec(weight, (outputs, inputs, k, k), &Device::Cpu).unwrap();
        tensors.insert(format!("features.{place}.weight"), weight);
        let bias = Tensor::from_vec(formula(layer + 1, outputs, 0.1), outputs, &Device::Cpu).unwrap();
        tensors.insert(format!("features.{place}.bias"), bias);
    }
    tensors
}

fn write(tensors: &HashMap<String, Tensor>, folder: &Path) -> PathBuf {
    let path = folder.join("alexnet.safetensors");
    candle_core::safetensors::save(tensors, &path).unwrap();
    path
}

#[derive(serde::Deserialize)]
struct Case {
    a: usize,
    b: usize,
    layers: Vec<f64>,
}

/// Every layer of every pair against the package's.
fn agrees(lpips: &Lpips) {
    let text = std::fs::read_to_string(golden("lpips/golden.json")).unwrap();
    let golden_cases: HashMap<String, Vec<Case>> = serde_json::from_str(&text).unwrap();
    for (name, cases) in golden_cases {
        assert_eq!(cases.len(), 4);
        let pictures = |of: fn(&Case) -> usize| cases.iter().map(|c| picture(of(c))).collect::<Vec<_>>();
        let (a, b) = (pictures(|c| c.a), pictures(|c| c.b));
        let found = if name == "lpips" { lpips.layers(&a, &b) } else { lpips.baseline(&a, &b) }.unwrap();
        for (found, case) in found.iter().zip(&cases) {
            for (layer, (found, expected)) in found.iter().zip(&case.layers).enumerate() {
                let close = (found - expected).abs() <= 1e-5 * expected;
                assert!(close, "{name} {} {} layer {layer}: {found} {expected}", case.a, case.b);
            }
        }
        if name == "lpips" {
            let whole = lpips.distance(&a[0], &b[0]).unwrap();
            let expected: f64 = cases[0].layers.iter().sum();
            assert!((whole - expected).abs() <= 1e-5 * expected, "{whole} {expected}");
        }
    }
}

#[test]
fn every_layer_agrees_with_the_lpips_package() {
    let scratch = tempfile::tempdir().unwrap();
    let mut tensors = trunk();
    // A whole AlexNet has a classifier, too, which takes no part.
    tensors.insert("classifier.6.bias".into(), Tensor::new(&[1f32], &Device::Cpu).unwrap());
    agrees(&Lpips::open(write(&tensors, scratch.path()), golden("lpips/alex.pth")).unwrap());
}

/// The same weights in files as torchvision publishes them; see make_lpips.py.
#[test]
#[ignore = "needs 490 MB of files, made by make_lpips.py --trunk FOLDER and named in DENOSCOPE_ALEXNET"]
fn whole_files_agree_with_the_lpips_package() {
    let folder = std::env::var_os("DENOSCOPE_ALEXNET").expect("DENOSCOPE_ALEXNET names the folder");
    for name in ["zip.pth", "stream.pth"] {
        agrees(&Lpips::open(Path::new(&folder).join(name), golden("lpips/alex.pth")).unwrap());
    }
}

#[test]
fn files_of_other_networks_are_refused_by_tensor() {
    let scratch = tempfile::tempdir().unwrap();
    let linear = golden("lpips/alex.pth");
    let refusal = |tensors: &HashMap<String, Tensor>| {
        Lpips::open(write(tensors, scratch.path()), &linear).unwrap_err().to_string()
    };
    let mut missing = trunk();
    missing.remove("features.8.bias");
    let e = refusal(&missing);
    assert!(e.contains("features.8.bias") && e.contains("alexnet.safetensors"), "{e}");
    let mut vgg = trunk();
    vgg.insert(
        "features.0.weight".into(),
        Tensor::zeros((64, 3, 3, 3), candle_core::DType::F32, &Device::Cpu).unwrap(),
    );
    let e = refusal(&vgg);
    assert!(e.contains("[64, 3, 3, 3]") && e.contains("[64, 3, 11, 11]"), "{e}");
    let mut more = trunk();
    more.insert("features.12.weight".into(), Tensor::new(&[1f32], &Device::Cpu).unwrap());
    assert!(refusal(&more).contains("features.12.weight"));
    // The two files exchanged, and one that was cut short.
    let e = Lpips::open(&linear, &linear).unwrap_err().to_string();
    assert!(e.contains("features.0.weight") && e.contains("alex.pth"), "{e}");
    let bytes = std::fs::read(&linear).unwrap();
    for cut in [bytes.len() - 1, bytes.len() / 2, 40] {
        let path = scratch.path().join("cut.pth");
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let e = Lpips::open(write(&trunk(), scratch.path()), &path).unwrap_err().to_string();
        assert!(e.contains("cut.pth"), "{e}");
    }
    let lpips = Lpips::open(write(&trunk(), scratch.path()), &linear).unwrap();
    let e = lpips.distance(&RgbImage::new(30, 64), &RgbImage::new(30, 64)).unwrap_err().to_string();
    assert!(e.contains("30 × 64") && e.contains("31"), "{e}");
}
