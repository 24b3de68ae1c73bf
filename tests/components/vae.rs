use crate::support::{channels_last, golden, relative_error, tensors};
use candle_core::{DType, Device, Tensor};
use denoscope::diffusion::open::Fields;
use denoscope::diffusion::vae::{Vae, VaeConfig};
use denoscope::diffusion::weights::Weights;
use denoscope::random;

fn open(name: &str) -> Vae {
    let folder = golden("vae").join(name);
    let config = VaeConfig::read(&mut Fields::read(&folder.join("config.json")).unwrap()).unwrap();
    let file = folder.join("diffusion_pytorch_model.safetensors");
    let weights = Weights::open(&[file], &Device::Cpu, DType::F32).unwrap();
    let vae = Vae::load(&config, &weights).unwrap();
    weights.finish().unwrap();
    vae
}

#[test]
fn agrees_with_diffusers() {
    for name in ["three_levels", "plain"] {
        let vae = open(name);
        let g = tensors(&golden("vae").join(name).join("golden.safetensors"));
        let moments = vae.encode(&channels_last(&g["sample"])).unwrap();
        let decoded = vae.decode(&channels_last(&g["latents"])).unwrap();
        for (what, ours) in [("mean", &moments.mean), ("logvar", &moments.logvar), ("decoded", &decoded)] {
            let error = relative_error(ours, &channels_last(&g[what]));
            assert!(error <= 1e-5, "{name} {what}: {error:e}");
        }
    }
}

#[test]
fn tiles_agree_with_diffusers() {
    let mut vae = open("three_levels");
    let g = tensors(&golden("vae/three_levels/tiled.safetensors"));
    let (sample, latents) = (channels_last(&g["sample"]), channels_last(&g["latents"]));
    let whole = vae.decode(&latents).unwrap();
    vae.enable_tiling().unwrap();
    let moments = vae.encode(&sample).unwrap();
    let decoded = vae.decode(&latents).unwrap();
    for (what, ours) in [("mean", &moments.mean), ("logvar", &moments.logvar), ("decoded", &decoded)] {
        let error = relative_error(ours, &channels_last(&g[what]));
        assert!(error <= 1e-5, "{what}: {error:e}");
    }
    assert!(relative_error(&whole, &decoded) > 1e-3, "tiles make no difference");
    // What is no larger than a tile is done in one piece.
    let small = latents.narrow(1, 0, 4).unwrap().narrow(2, 0, 4).unwrap().contiguous().unwrap();
    let tiled = vae.decode(&small).unwrap();
    vae.disable_tiling();
    assert_eq!(relative_error(&tiled, &vae.decode(&small).unwrap()), 0.0);
}

#[test]
fn wrong_shapes_are_named() {
    let vae = open("three_levels");
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let error = vae.encode(&zeros(&[1, 10, 12, 3])).unwrap_err().to_string();
    assert!(error.contains("10, 12, 3") && error.contains("multiples of 4"), "{error}");
    assert!(vae.decode(&zeros(&[1, 4, 4, 4])).unwrap_err().to_string().contains("[batch, h, w, 5]"));
}

#[test]
fn posterior_draws_do_not_depend_on_the_batch() {
    let vae = open("three_levels");
    let g = tensors(&golden("vae/three_levels/golden.safetensors"));
    let images = channels_last(&g["sample"]);
    let both = vae.encode(&images).unwrap().sample(3, &[10, 11]).unwrap();
    let second = vae.encode(&images.narrow(0, 1, 1).unwrap()).unwrap().sample(3, &[11]).unwrap();
    assert!(relative_error(&second, &both.narrow(0, 1, 1).unwrap()) < 1e-6);
    let other = vae.encode(&images).unwrap().sample(4, &[10, 11]).unwrap();
    assert!(relative_error(&other, &both) > 0.01);
}

/// The loss of a training step, its gradient through autograd against a central difference along a random direction
/// of all weights at once, so that no parameter's gradient may be missing or wrong.
#[test]
fn gradients_reach_every_weight() {
    let config = VaeConfig { block_out_channels: vec![4, 6], norm_num_groups: 2, ..VaeConfig::default() };
    let weights = Weights::seeded(5, &Device::Cpu);
    let vae = Vae::load(&config, &weights).unwrap();
    let draw = |what: &str, shape: (usize, usize, usize, usize)| {
        let n = shape.0 * shape.1 * shape.2 * shape.3;
        Tensor::from_vec(random::stream(1, what, 0).normals(n), shape, &Device::Cpu).unwrap()
    };
    let images = draw("images", (2, 8, 12, 3));
    let noise = draw("noise", (2, 4, 6, 4));
    let loss = || {
        let moments = vae.encode(&images).unwrap();
        let decoded = vae.decode(&moments.sample_with(&noise).unwrap()).unwrap();
        let distance = (decoded - &images).unwrap().sqr().unwrap().sum_all().unwrap();
        (distance + moments.kl().unwrap()).unwrap()
    };
    let gradients = loss().backward().unwrap();
    let vars = weights.vars();
    let mut slope = 0f64;
    let mut directions = Vec::new();
    for (name, var) in &vars {
        let gradient = gradients.get(var).unwrap_or_else(|| panic!("no gradient for {name}"));
        let n = var.elem_count();
        let direction = Tensor::from_vec(random::stream(2, name, 0).normals(n), var.dims(), &Device::Cpu).unwrap();
        let product = (gradient * &direction).unwrap().to_dtype(DType::F64).unwrap();
        slope += product.sum_all().unwrap().to_scalar::<f64>().unwrap();
        directions.push((var, var.as_tensor().copy().unwrap(), direction));
    }
    let at = |step: f64| -> f64 {
        for (var, start, direction) in &directions {
            var.set(&(start + (direction * step).unwrap()).unwrap()).unwrap();
        }
        f64::from(loss().to_scalar::<f32>().unwrap())
    };
    let step = 1e-4;
    let difference = (at(step) - at(-step)) / (2.0 * step);
    assert!((slope - difference).abs() <= 0.01 * slope.abs(), "autograd {slope}, finite difference {difference}");
}
