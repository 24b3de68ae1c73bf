//! `unet/config.json` as diffusers' `UNet2DConditionModel` writes it.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;

/// One number for all levels, or one for each (SD 2 has a list of heads, for instance).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Counts {
    /// The same for every level.
    Same(usize),
    /// One for each.
    Each(Vec<usize>),
}

/// One switch for all levels, or one for each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Switches {
    /// The same for every level.
    Same(bool),
    /// One for each.
    Each(Vec<bool>),
}

/// Transformer layers in an attention: one number for all, one a level, or one for each attention of a level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Depths {
    /// The same everywhere.
    Same(usize),
    /// One entry a level.
    Levels(Vec<Counts>),
}

/// The nonlinearity of residual blocks and of the time embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// x σ(x).
    #[serde(alias = "swish")]
    Silu,
    /// x Φ(x), exact.
    Gelu,
    /// x tanh(ln(1 + eˣ)).
    Mish,
    /// max(x, 0).
    Relu,
}

/// How a residual block takes in the time embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeNorm {
    /// Added before the second normalisation.
    Default,
    /// Scales and shifts what leaves the second normalisation.
    ScaleShift,
}

/// Configuration of a Stable Diffusion U-Net. Field names, meanings and defaults are those of diffusers.
///
/// Where diffusers has a field that no supported block uses (`dropout`, `cross_attention_norm`, …) it is accepted
/// and ignored, as diffusers does; a field that would change the network in an unsupported way is refused by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnetConfig {
    /// Height and width of the latents it was trained on; any size works.
    pub sample_size: Option<Counts>,
    /// Channels of the noisy latents.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Whether the input is mapped from [0, 1] to [−1, 1] first.
    pub center_input_sample: bool,
    /// Whether cosines come before sines in the timestep embedding.
    pub flip_sin_to_cos: bool,
    /// Shift of the frequencies' denominator: fᵢ = 10000^(−i/(half − shift)).
    pub freq_shift: f64,
    /// `CrossAttnDownBlock2D` or `DownBlock2D`, from the finest grid down.
    pub down_block_types: Vec<String>,
    /// `UNetMidBlock2DCrossAttn`, `UNetMidBlock2D` (one residual block) or none.
    pub mid_block_type: Option<String>,
    /// `CrossAttnUpBlock2D` or `UpBlock2D`, from the coarsest grid up.
    pub up_block_types: Vec<String>,
    /// Whether the first attention of a layer looks at the text too (not in the middle block).
    pub only_cross_attention: Switches,
    /// Channels of every level.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks in a down block (an up block has one more).
    pub layers_per_block: Counts,
    /// Zeros around the map before it is downsampled; 0 means one row below and one column to the right.
    pub downsample_padding: usize,
    /// Divides what leaves the middle block's residual blocks.
    pub mid_block_scale_factor: f64,
    /// The nonlinearity.
    pub act_fn: Activation,
    /// Groups of the group normalisations.
    pub norm_num_groups: usize,
    /// ε of the residual blocks' normalisations and of the last one.
    pub norm_eps: f64,
    /// Width of the text embedding.
    pub cross_attention_dim: Counts,
    /// Transformer layers in an attention.
    pub transformer_layers_per_block: Depths,
    /// The same for the up blocks, coarsest first, where it is not the mirror image.
    pub reverse_transformer_layers_per_block: Option<Depths>,
    /// The *number* of heads: a misnomer that diffusers keeps for old files.
    pub attention_head_dim: Counts,
    /// Whether transformers project in and out by linear layers (SD 2) or 1×1 convolutions (SD 1).
    pub use_linear_projection: bool,
    /// Whether attention scores are computed in f32 (always so here).
    pub upcast_attention: bool,
    /// How a residual block takes in the time embedding.
    pub resnet_time_scale_shift: TimeNorm,
    /// Width of the time embedding; 4 × the first level's channels by default.
    pub time_embedding_dim: Option<usize>,
    /// Applied to the time embedding once, before all blocks.
    pub time_embedding_act_fn: Option<Activation>,
    /// Applied to what leaves the time embedding's second layer.
    pub timestep_post_act: Option<Activation>,
    /// Kernel of the first convolution.
    pub conv_in_kernel: usize,
    /// Kernel of the last convolution.
    pub conv_out_kernel: usize,
}

impl Default for UnetConfig {
    fn default() -> Self {
        let types = |names: [&str; 4]| names.map(str::to_string).to_vec();
        let (down, up) = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D");
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: types([down, down, down, "DownBlock2D"]),
            mid_block_type: Some("UNetMidBlock2DCrossAttn".into()),
            up_block_types: types(["UpBlock2D", up, up, up]),
            only_cross_attention: Switches::Same(false),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: Counts::Same(2),
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            act_fn: Activation::Silu,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: Counts::Same(1280),
            transformer_layers_per_block: Depths::Same(1),
            reverse_transformer_layers_per_block: None,
            attention_head_dim: Counts::Same(8),
            use_linear_projection: false,
            upcast_attention: false,
            resnet_time_scale_shift: TimeNorm::Default,
            time_embedding_dim: None,
            time_embedding_act_fn: None,
            timestep_post_act: None,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
        }
    }
}

/// Fields that change the network in a way that is not supported, and the values that do not.
const NEUTRAL: [(&str, &[Value]); 12] = [
    ("_class_name", &[]),
    ("addition_embed_type", &[Value::Null]),
    ("attention_type", &[]),
    ("class_embed_type", &[Value::Null]),
    ("class_embeddings_concat", &[Value::Null, Value::Bool(false)]),
    ("dual_cross_attention", &[Value::Null, Value::Bool(false)]),
    ("encoder_hid_dim", &[Value::Null]),
    ("encoder_hid_dim_type", &[Value::Null]),
    ("num_attention_heads", &[Value::Null]),
    ("num_class_embeds", &[Value::Null]),
    ("time_cond_proj_dim", &[Value::Null]),
    ("time_embedding_type", &[]),
];

/// Fields that the supported blocks have no use for, in diffusers as here.
const UNUSED: [&str; 15] = [
    "addition_embed_type_num_heads",
    "addition_time_embed_dim",
    "cross_attention_norm",
    "dropout",
    "mid_block_only_cross_attention",
    "projection_class_embeddings_input_dim",
    "resnet_out_scale_factor",
    "resnet_skip_time_act",
    // What diffusers' averaged weights leave behind in a configuration.
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
];

/// The text that a field of [`NEUTRAL`] with no other neutral value must have.
fn neutral_text(field: &str) -> Option<&'static str> {
    match field {
        "_class_name" => Some("UNet2DConditionModel"),
        "attention_type" => Some("default"),
        "time_embedding_type" => Some("positional"),
        _ => None,
    }
}

impl UnetConfig {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// A file that cannot be read, and as [`UnetConfig::parse`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
        Self::parse(&text).map_err(|e| Error::format(path, e))
    }

    /// Reads a configuration from JSON and checks that its lists fit together.
    ///
    /// # Errors
    /// Names the field and its value: an unknown field, one of the wrong form, or a value that asks for a network
    /// that is not supported.
    pub fn parse(text: &str) -> Result<Self> {
        let all: Map<String, Value> = serde_json::from_str(text).map_err(Error::invalid)?;
        let Ok(Value::Object(known)) = serde_json::to_value(Self::default()) else {
            return Err(Error::invalid("the default configuration is not an object"));
        };
        let mut own = Map::new();
        for (field, value) in all {
            if let Some((_, neutral)) = NEUTRAL.iter().find(|(f, _)| *f == field) {
                let expected = neutral_text(&field).map_or_else(|| neutral.to_vec(), |text| vec![json!(text)]);
                if !expected.contains(&value) {
                    let problem = format!("{field} = {value} is not supported; supported: {}", expected[0]);
                    return Err(Error::invalid(problem));
                }
            } else if known.contains_key(&field) {
                own.insert(field, value);
            } else if !field.starts_with('_') && !UNUSED.contains(&field.as_str()) {
                return Err(Error::unknown("field of a U-Net's configuration", &field, known.keys()));
            }
        }
        for (field, value) in &mut own {
            // Diffusers takes activations in any case, as in "SiLU".
            if let (true, Value::String(name)) = (field.contains("act"), &value) {
                *value = json!(name.to_lowercase());
            }
            let alone = Map::from_iter([(field.clone(), value.clone())]);
            serde_json::from_value::<Self>(Value::Object(alone))
                .map_err(|e| Error::invalid(format!("{field} = {value} is not supported: {e}")))?;
        }
        let config: Self = serde_json::from_value(Value::Object(own)).map_err(Error::invalid)?;
        config.plan()?;
        Ok(config)
    }

    /// The JSON that diffusers opens.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["_class_name"] = json!("UNet2DConditionModel");
        value["_diffusers_version"] = json!("0.32.2");
        value
    }

    /// Width of the time embedding.
    #[must_use]
    pub fn time_dim(&self) -> usize {
        self.time_embedding_dim.filter(|d| *d > 0).unwrap_or(4 * self.block_out_channels[0])
    }
}
