//! `transformer/config.json` as diffusers' `PixArtTransformer2DModel` writes it.

use crate::diffusion::open::Fields;
use crate::diffusion::transformer::HiddenLayer;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

/// The side that PixArt's 1024 models were trained at, which are told the size of their pictures.
const SIZED: usize = 128;

/// Latents in a unit of the positions' scale: 512 pixels.
const UNIT: usize = 64;

/// Configuration of a PixArt transformer. Field names, meanings and defaults are those of diffusers.
///
/// Where diffusers has a field that this class does not use (`dropout`, `norm_num_groups`, …) it is accepted and
/// ignored, as diffusers does; a field that would change the network in an unsupported way is refused by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DitConfig {
    /// Heads of every attention.
    pub num_attention_heads: usize,
    /// Channels of a head; heads × this is the width of a token.
    pub attention_head_dim: usize,
    /// Channels of the noisy latents.
    pub in_channels: usize,
    /// Channels of the output: as many as went in, or twice as many where a variance is learned too.
    pub out_channels: Option<usize>,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Width of the captions that the blocks look at; none means no cross-attention.
    pub cross_attention_dim: Option<usize>,
    /// Whether queries, keys and values have biases.
    pub attention_bias: bool,
    /// Side of the latents it was trained on; any size works.
    pub sample_size: usize,
    /// Side of the square of latents that makes a token.
    pub patch_size: usize,
    /// First layer of the feed-forward networks.
    pub activation_fn: HiddenLayer,
    /// Whether the blocks' normalisations have weights.
    pub norm_elementwise_affine: bool,
    /// ε of the blocks' normalisations.
    pub norm_eps: f64,
    /// What positions are divided by; by default as many as `sample_size` has units of 64.
    pub interpolation_scale: Option<f64>,
    /// Whether the network is told height, width and their ratio; by default the 1024 models are.
    pub use_additional_conditions: Option<bool>,
    /// Width of the text encoder's states, where they are projected first.
    pub caption_channels: Option<usize>,
}

impl Default for DitConfig {
    fn default() -> Self {
        Self {
            num_attention_heads: 16,
            attention_head_dim: 72,
            in_channels: 4,
            out_channels: Some(8),
            num_layers: 28,
            cross_attention_dim: Some(1152),
            attention_bias: true,
            sample_size: 128,
            patch_size: 2,
            activation_fn: HiddenLayer::GeluApproximate,
            norm_elementwise_affine: false,
            norm_eps: 1e-6,
            interpolation_scale: None,
            use_additional_conditions: None,
            caption_channels: None,
        }
    }
}

/// Fields that this class has no use for, in diffusers as here.
const UNUSED: [&str; 11] = [
    "dropout",
    "norm_num_groups",
    "upcast_attention",
    "use_linear_projection",
    // What diffusers' averaged weights leave behind in a configuration.
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
];

impl DitConfig {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// A file that cannot be read, and as [`DitConfig::parse`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(&mut Fields::read(path)?)
    }

    /// Reads a configuration from JSON.
    ///
    /// # Errors
    /// As [`DitConfig::read`].
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(&mut Fields::parse(Path::new("config.json"), text)?)
    }

    /// Reads a configuration and checks that its parts fit together.
    ///
    /// # Errors
    /// Names the field and its value: an unknown field, one of the wrong form, or a value that asks for a network
    /// that is not supported.
    pub fn read(fields: &mut Fields) -> Result<Self> {
        let d = Self::default();
        // Published models were written when one class served all transformers.
        fields.only("_class_name", &["PixArtTransformer2DModel", "Transformer2DModel"])?;
        fields.only("norm_type", &["ada_norm_single"])?;
        fields.only("attention_type", &["default"])?;
        fields.only("only_cross_attention", &[false])?;
        fields.only("double_self_attention", &[false])?;
        fields.only::<Value>("num_vector_embeds", &[])?;
        if fields.is_null("num_embeds_ada_norm") {
            return Err(fields.refuse("num_embeds_ada_norm", &Value::Null, "expected a number, as diffusers does"));
        }
        fields.get("num_embeds_ada_norm", 1000usize)?;
        fields.ignore(&UNUSED);
        // Null turns these two off, leaving them out does not.
        let or_none = |fields: &mut Fields, name: &str, default: Option<usize>| -> Result<Option<usize>> {
            Ok(fields.optional(name)?.or(if fields.is_null(name) { None } else { default }))
        };
        let config = Self {
            num_attention_heads: fields.get("num_attention_heads", d.num_attention_heads)?,
            attention_head_dim: fields.get("attention_head_dim", d.attention_head_dim)?,
            in_channels: fields.get("in_channels", d.in_channels)?,
            out_channels: or_none(fields, "out_channels", d.out_channels)?,
            num_layers: fields.get("num_layers", d.num_layers)?,
            cross_attention_dim: or_none(fields, "cross_attention_dim", d.cross_attention_dim)?,
            attention_bias: fields.get("attention_bias", d.attention_bias)?,
            sample_size: fields.get("sample_size", d.sample_size)?,
            patch_size: fields.get("patch_size", d.patch_size)?,
            activation_fn: fields.get("activation_fn", d.activation_fn)?,
            norm_elementwise_affine: fields.get("norm_elementwise_affine", d.norm_elementwise_affine)?,
            norm_eps: fields.get("norm_eps", d.norm_eps)?,
            interpolation_scale: fields.optional("interpolation_scale")?,
            use_additional_conditions: fields.optional("use_additional_conditions")?,
            caption_channels: fields.optional("caption_channels")?,
        };
        fields.finish()?;
        config.check().map_err(|e| Error::format(fields.path(), e))?;
        Ok(config)
    }

    /// Refuses values that make no network.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |field: &str, value: Value, why: String| {
            Err(Error::invalid(format!("field {field} = {value} is not supported: {why}")))
        };
        for (field, value) in [
            ("num_attention_heads", Some(self.num_attention_heads)),
            ("attention_head_dim", Some(self.attention_head_dim)),
            ("in_channels", Some(self.in_channels)),
            ("out_channels", self.out_channels),
            ("cross_attention_dim", self.cross_attention_dim),
            ("caption_channels", self.caption_channels),
            ("patch_size", Some(self.patch_size)),
        ] {
            if value == Some(0) {
                return refuse(field, json!(0), "expected a positive number".into());
            }
        }
        let width = self.width();
        let head = json!(self.attention_head_dim);
        if !width.is_multiple_of(4) {
            let why =
                format!("{} heads make a width of {width}; positions need a multiple of 4", self.num_attention_heads);
            return refuse("attention_head_dim", head, why);
        }
        if self.additional_conditions() && !width.is_multiple_of(3) {
            let why = format!("height, width and ratio share a width of {width}, expected a multiple of 3");
            return refuse("attention_head_dim", head, why);
        }
        if let (Some(_), Some(text)) = (self.caption_channels, self.cross_attention_dim)
            && text != width
        {
            return refuse("cross_attention_dim", json!(text), format!("captions are projected to a width of {width}"));
        }
        if self.sample_size < self.patch_size {
            let why = format!("smaller than a patch of {}", self.patch_size);
            return refuse("sample_size", json!(self.sample_size), why);
        }
        if self.interpolation_scale.is_some_and(|s| s == 0.0 || !s.is_finite()) {
            let why = "positions are divided by it".into();
            return refuse("interpolation_scale", json!(self.interpolation_scale), why);
        }
        Ok(())
    }

    /// Channels of a token.
    #[must_use]
    pub fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Channels of the output.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.out_channels.unwrap_or(self.in_channels)
    }

    /// Width of the captions that go in, if they matter.
    #[must_use]
    pub fn caption_width(&self) -> Option<usize> {
        self.caption_channels.or(self.cross_attention_dim)
    }

    /// Whether the network is told height, width and their ratio.
    #[must_use]
    pub fn additional_conditions(&self) -> bool {
        self.use_additional_conditions.unwrap_or(self.sample_size == SIZED)
    }

    /// What positions are divided by.
    #[must_use]
    pub fn position_scale(&self) -> f64 {
        self.interpolation_scale.unwrap_or((self.sample_size / UNIT).max(1) as f64)
    }

    /// The JSON that diffusers opens.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut value = json!(self);
        value["_class_name"] = json!("PixArtTransformer2DModel");
        value["_diffusers_version"] = json!("0.32.2");
        value["norm_type"] = json!("ada_norm_single");
        value
    }
}
