//! `vae/config.json`.

use crate::diffusion::open::Fields;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The shape of an autoencoder, as diffusers' `AutoencoderKL` names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VaeConfig {
    /// Channels of a picture going in.
    pub in_channels: usize,
    /// Channels of a picture coming out.
    pub out_channels: usize,
    /// Channels of each level, finest first; every level but the last halves the resolution.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per encoder level; a decoder level has one more.
    pub layers_per_block: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Groups of the group normalisations.
    pub norm_num_groups: usize,
    /// Side of the pictures it was trained on.
    pub sample_size: usize,
    /// What latents are multiplied with for the diffusion model.
    pub scaling_factor: f64,
    /// Whether the encoder ends in a 1×1 convolution.
    pub use_quant_conv: bool,
    /// Whether the decoder starts with one.
    pub use_post_quant_conv: bool,
    /// Whether the middle blocks have self-attention.
    pub mid_block_add_attention: bool,
}

impl Default for VaeConfig {
    /// diffusers' defaults.
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: 32,
            scaling_factor: 0.18215,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl VaeConfig {
    /// The embedded model's: ×4, 64×64 pictures to 16×16×4 latents.
    #[must_use]
    pub fn embedded() -> Self {
        Self { block_out_channels: vec![24, 48, 96], norm_num_groups: 8, sample_size: 64, ..Self::default() }
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// A field or value that this implementation does not have, by name.
    pub fn read(fields: &mut Fields) -> Result<Self> {
        let d = Self::default();
        let config = Self {
            in_channels: fields.get("in_channels", d.in_channels)?,
            out_channels: fields.get("out_channels", d.out_channels)?,
            block_out_channels: fields.get("block_out_channels", d.block_out_channels)?,
            layers_per_block: fields.get("layers_per_block", d.layers_per_block)?,
            latent_channels: fields.get("latent_channels", d.latent_channels)?,
            norm_num_groups: fields.get("norm_num_groups", d.norm_num_groups)?,
            sample_size: fields.get("sample_size", d.sample_size)?,
            scaling_factor: fields.get("scaling_factor", d.scaling_factor)?,
            use_quant_conv: fields.get("use_quant_conv", d.use_quant_conv)?,
            use_post_quant_conv: fields.get("use_post_quant_conv", d.use_post_quant_conv)?,
            mid_block_add_attention: fields.get("mid_block_add_attention", d.mid_block_add_attention)?,
        };
        fields.only("_class_name", &["AutoencoderKL"])?;
        fields.only("act_fn", &["silu", "swish"])?;
        fields.only::<Value>("latents_mean", &[])?;
        fields.only::<Value>("latents_std", &[])?;
        fields.only("shift_factor", &[0.0])?;
        fields.ignore(&["force_upcast"]);
        let levels = config.block_out_channels.len();
        for (name, kind) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
            let types: Vec<String> = fields.get(name, vec![kind.into()])?;
            if types.len() != levels || types.iter().any(|t| t != kind) {
                return Err(fields.refuse(name, &json!(types), &format!("supported: {levels} times {kind}")));
            }
        }
        fields.finish()?;
        config.check().map_err(|e| Error::format(fields.path(), e))?;
        Ok(config)
    }

    /// Refuses sizes that make no network.
    fn check(&self) -> Result<()> {
        if self.block_out_channels.is_empty() || self.latent_channels == 0 || self.layers_per_block == 0 {
            return Err(Error::invalid(
                "block_out_channels, latent_channels and layers_per_block must not be empty or zero",
            ));
        }
        if self.scaling_factor == 0.0 || !self.scaling_factor.is_finite() {
            return Err(Error::invalid(format!(
                "scaling_factor = {}: expected a finite number, not 0",
                self.scaling_factor
            )));
        }
        Ok(())
    }

    /// Pixels per latent in each direction: 2^(levels − 1).
    #[must_use]
    pub fn factor(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// The content of a `config.json` that diffusers opens.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let levels = self.block_out_channels.len();
        let mut value = json!(self);
        value["_class_name"] = json!("AutoencoderKL");
        value["act_fn"] = json!("silu");
        value["down_block_types"] = json!(vec!["DownEncoderBlock2D"; levels]);
        value["up_block_types"] = json!(vec!["UpDecoderBlock2D"; levels]);
        value["force_upcast"] = json!(true);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn written_configs_read_back() {
        let config = VaeConfig { scaling_factor: 0.3, ..VaeConfig::embedded() };
        let text = config.to_json().to_string();
        let read = VaeConfig::read(&mut Fields::parse(Path::new("c"), &text).unwrap()).unwrap();
        assert_eq!(read, config);
        assert_eq!(read.factor(), 4);
    }

    #[test]
    fn unsupported_values_are_named() {
        for (field, value) in [
            ("act_fn", json!("mish")),
            ("latents_mean", json!([0.0, 1.0])),
            ("down_block_types", json!(vec!["AttnDownEncoderBlock2D"; 3])),
            ("scaling_factor", json!(0.0)),
            ("sample_sice", json!(3)),
        ] {
            let mut json = VaeConfig::embedded().to_json();
            json[field] = value;
            let error = VaeConfig::read(&mut Fields::parse(Path::new("c"), &json.to_string()).unwrap()).unwrap_err();
            assert!(error.to_string().contains(field), "{field}: {error}");
        }
    }
}
