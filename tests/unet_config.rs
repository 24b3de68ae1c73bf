//! U-Net configurations: what diffusers writes is read, what is not supported is refused by field and value.

use candle_core::Device;
use denoscope::diffusion::unet::{Activation, Counts, Unet, UnetConfig};
use denoscope::diffusion::weights::Weights;

/// The configuration of Stable Diffusion 1.4, as published.
const SD14: &str = r#"{
  "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.2.2", "act_fn": "silu", "attention_head_dim": 8,
  "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": false, "cross_attention_dim": 768,
  "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
  "downsample_padding": 1, "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 4, "layers_per_block": 2,
  "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
  "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"] }"#;

#[test]
fn stable_diffusion_is_read_and_written_back() {
    let config = UnetConfig::parse(SD14).unwrap();
    assert_eq!(config.sample_size, Some(Counts::Same(64)));
    assert_eq!(config.cross_attention_dim, Counts::Same(768));
    let again = UnetConfig::parse(&config.to_json().to_string()).unwrap();
    assert_eq!(config, again);
    assert_eq!(
        config,
        UnetConfig {
            sample_size: Some(Counts::Same(64)),
            cross_attention_dim: Counts::Same(768),
            ..UnetConfig::default()
        }
    );
}

#[test]
fn activations_are_read_in_any_case() {
    for name in ["swish", "SiLU", "silu"] {
        assert_eq!(UnetConfig::parse(&format!(r#"{{"act_fn": "{name}"}}"#)).unwrap().act_fn, Activation::Silu);
    }
}

#[test]
fn unsupported_values_are_refused_by_field_and_value() {
    for (field, value, says) in [
        ("class_embed_type", r#""projection""#, "null"),
        ("addition_embed_type", r#""text_time""#, "null"),
        ("num_class_embeds", "10", "null"),
        ("dual_cross_attention", "true", "null"),
        ("num_attention_heads", "8", "null"),
        ("time_embedding_type", r#""fourier""#, "positional"),
        ("attention_type", r#""gated""#, "default"),
        ("_class_name", r#""UNet3DConditionModel""#, "UNet2DConditionModel"),
        ("act_fn", r#""tanh""#, "gelu"),
        ("resnet_time_scale_shift", r#""spatial""#, "scale_shift"),
        ("norm_num_groups", "null", "usize"),
        ("norm_num_groups", "48", "320"),
        ("in_channels", "-4", "usize"),
        ("in_channels", "0", "positive"),
        ("block_out_channels", "[]", "positive"),
        ("block_out_channels", "[320, 640]", "levels"),
        ("down_block_types", r#"["DownBlock2D", "DownBlock2D"]"#, "2 entries for 4 levels"),
        ("down_block_types", r#"["DownBlock2D", "KDownBlock2D", "DownBlock2D", "DownBlock2D"]"#, "KDownBlock2D"),
        ("mid_block_type", r#""UNetMidBlock2DSimpleCrossAttn""#, "UNetMidBlock2DCrossAttn"),
        ("layers_per_block", "[1, 2, 3]", "3 entries for 4 levels"),
        ("layers_per_block", "0", "positive"),
        ("attention_head_dim", "[5, 10, 20]", "3 entries for 4 levels"),
        ("attention_head_dim", "2000", "more heads"),
        ("attention_head_dim", "null", "null"),
        ("cross_attention_dim", "[768, 768, 1024, 768]", "text widths"),
        ("transformer_layers_per_block", "[[1, 1], 1, 1, 1]", "reverse_transformer_layers_per_block"),
        ("freq_shift", "160", "frequencies"),
    ] {
        let message = UnetConfig::parse(&format!(r#"{{"{field}": {value}}}"#)).unwrap_err().to_string();
        let named = message.contains(field) || message.contains("_types");
        assert!(named && message.contains(says), "{field} = {value}: {message}");
    }
}

#[test]
fn unknown_fields_are_refused_with_the_nearest() {
    let message = UnetConfig::parse(r#"{"block_out_chanels": [4]}"#).unwrap_err().to_string();
    assert!(message.contains("block_out_chanels") && message.contains("nearest: block_out_channels"), "{message}");
    assert!(UnetConfig::parse("{").is_err());
    assert!(UnetConfig::parse(r#"{"_name_or_path": "x", "dropout": 0.1, "decay": 0.9999}"#).is_ok());
}

#[test]
fn weights_drawn_from_a_seed_are_the_same_every_time() {
    let config = UnetConfig::parse(
        r#"{"block_out_channels": [4], "norm_num_groups": 2, "cross_attention_dim": 3, "attention_head_dim": 2,
            "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"]}"#,
    )
    .unwrap();
    let draw = |seed| {
        let weights = Weights::seeded(seed, &Device::Cpu);
        let unet = Unet::load(&config, &weights.at("unet")).unwrap();
        let var = weights.vars().into_iter().find(|(n, _)| n == "unet.conv_in.weight").unwrap().1;
        (unet.modules(), var.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    };
    let (modules, first) = draw(7);
    assert_eq!(modules[0], "conv_in", "paths start below the prefix of the weights");
    assert_eq!(first, draw(7).1);
    assert_ne!(first, draw(8).1);
}
