//! Gradients through the whole U-Net against finite differences.

use candle_core::{Device, Tensor, Var};
use denoscope::diffusion::tap::Tap;
use denoscope::diffusion::unet::{Unet, UnetConfig};
use denoscope::diffusion::weights::Weights;
use denoscope::random::stream;

fn normal(seed: u64, what: &str, shape: &[usize]) -> Tensor {
    let mut stream = stream(seed, what, 0);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| stream.normal()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.contiguous().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    values(a).iter().zip(values(b)).map(|(a, b)| a * b).sum()
}

#[test]
fn gradients_agree_with_finite_differences() {
    let config = UnetConfig::parse(
        r#"{"in_channels": 3, "out_channels": 5, "block_out_channels": [8, 12], "norm_num_groups": 4,
            "cross_attention_dim": 7, "attention_head_dim": 2, "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}"#,
    )
    .unwrap();
    let weights = Weights::seeded(3, &Device::Cpu);
    let unet = Unet::load(&config, &weights).unwrap();
    let sample = normal(1, "sample", &[2, 6, 4, 3]);
    let text = normal(1, "text", &[2, 5, 7]);
    let timesteps = Tensor::new(&[731f32, 12.0], &Device::Cpu).unwrap();
    let direction = normal(1, "direction", &[2, 6, 4, 5]);
    let forward = || unet.forward(&sample, &timesteps, &text, &mut Tap::none()).unwrap();

    let gradients = (forward() * &direction).unwrap().sum_all().unwrap().backward().unwrap();
    let vars = weights.vars();
    for (name, var) in &vars {
        assert!(gradients.get(var.as_tensor()).is_some(), "no gradient reaches {name}");
    }
    let named: std::collections::HashMap<_, _> = vars.into_iter().collect();
    for name in [
        "conv_in.weight",
        "conv_in.bias",
        "time_embedding.linear_1.weight",
        "down_blocks.0.resnets.0.norm1.weight",
        "down_blocks.0.resnets.0.time_emb_proj.weight",
        "down_blocks.0.attentions.0.norm.bias",
        "down_blocks.0.attentions.0.proj_in.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.norm1.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0.bias",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.2.weight",
        "down_blocks.0.downsamplers.0.conv.weight",
        "up_blocks.0.resnets.0.conv_shortcut.weight",
        "up_blocks.0.upsamplers.0.conv.weight",
        "up_blocks.1.resnets.1.conv1.weight",
        "conv_norm_out.weight",
        "conv_out.weight",
    ] {
        let var: &Var = &named[name];
        let gradient = gradients.get(var.as_tensor()).unwrap();
        let start = var.as_tensor().copy().unwrap();
        let size = dot(gradient, gradient).sqrt();
        let other = normal(2, name, gradient.dims());
        for step in [gradient.affine(1.0 / size, 0.0).unwrap(), (&other / dot(&other, &other).sqrt()).unwrap()] {
            let epsilon = 5e-3 * dot(&start, &start).sqrt().max(1.0);
            let loss = |by: f64| {
                var.set(&(&start + (&step * by).unwrap()).unwrap()).unwrap();
                dot(&forward(), &direction)
            };
            let difference = |by: f64| (loss(by) - loss(-by)) / (2.0 * by);
            // The steps must be large for f32; Richardson's extrapolation takes out their error of second order.
            let found = (4.0 * difference(epsilon) - difference(2.0 * epsilon)) / 3.0;
            let expected = dot(gradient, &step);
            let error = (found - expected).abs() / size;
            assert!(error < 2e-3, "{name}: finite difference {found}, gradient {expected} (norm {size}): {error}");
        }
        var.set(&start).unwrap();
    }
}
