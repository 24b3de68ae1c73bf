//! `config.json` and `preprocessor_config.json` of a CLIP model.

use crate::diffusion::open::Fields;
use crate::diffusion::text::{Activation, BlockShape, TextConfig};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The shape of a vision transformer, as transformers' `CLIPVisionConfig` names it.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    /// Width of a patch's vector.
    pub hidden_size: usize,
    /// Width between the two linear layers of a block.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads of the self-attention.
    pub num_attention_heads: usize,
    /// Side of the pictures.
    pub image_size: usize,
    /// Side of a patch.
    pub patch_size: usize,
    /// Nonlinearity of the blocks.
    pub hidden_act: Activation,
    /// ε of the layer normalisations.
    pub layer_norm_eps: f64,
}

impl VisionConfig {
    /// Reads the fields; what is left out has transformers' default.
    ///
    /// # Errors
    /// A value that this implementation does not have, by name.
    pub fn read(fields: &mut Fields) -> Result<Self> {
        let config = Self {
            hidden_size: fields.get("hidden_size", 768)?,
            intermediate_size: fields.get("intermediate_size", 3072)?,
            num_hidden_layers: fields.get("num_hidden_layers", 12)?,
            num_attention_heads: fields.get("num_attention_heads", 12)?,
            image_size: fields.get("image_size", 224)?,
            patch_size: fields.get("patch_size", 32)?,
            hidden_act: fields.get("hidden_act", Activation::QuickGelu)?,
            layer_norm_eps: fields.get("layer_norm_eps", 1e-5)?,
        };
        fields.only("model_type", &["clip_vision_model"])?;
        fields.only("num_channels", &[3])?;
        let divides = |n: usize, by: usize| by > 0 && n > 0 && n.is_multiple_of(by);
        for (what, n, by_what, by) in [
            ("hidden_size", config.hidden_size, "num_attention_heads", config.num_attention_heads),
            ("image_size", config.image_size, "patch_size", config.patch_size),
        ] {
            if !divides(n, by) {
                let problem = format!("vision_config: {what} = {n} does not divide into {by_what} = {by}");
                return Err(Error::format(fields.path(), problem));
            }
        }
        Ok(config)
    }

    /// Patches of a picture.
    #[must_use]
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    pub(super) fn block(&self) -> BlockShape {
        BlockShape {
            width: self.hidden_size,
            wide: self.intermediate_size,
            heads: self.num_attention_heads,
            eps: self.layer_norm_eps,
            activation: self.hidden_act,
        }
    }
}

/// Both sides, and the width of the space they meet in.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    /// The text encoder.
    pub text: TextConfig,
    /// The vision transformer.
    pub vision: VisionConfig,
    /// Width of the embeddings.
    pub projection_dim: usize,
}

impl ClipConfig {
    /// Reads the `config.json` of a transformers `CLIPModel`.
    ///
    /// # Errors
    /// A file of another class of model; a value that this implementation does not have, by name.
    pub fn read(path: &Path) -> Result<Self> {
        let mut fields = Fields::read(path)?;
        let model: String = fields.require("model_type")?;
        if model != "clip" {
            return Err(fields.refuse(
                "model_type",
                &json!(model),
                "expected \"clip\", a CLIPModel with both its sides",
            ));
        }
        fields.only("architectures", &[json!(["CLIPModel"])])?;
        let text = TextConfig::read(&mut part(&mut fields, "text_config")?)?;
        let vision = VisionConfig::read(&mut part(&mut fields, "vision_config")?)?;
        Ok(Self { text, vision, projection_dim: fields.get("projection_dim", 512)? })
    }
}

/// One side's fields. Older files have them under `NAME_dict` as well, which then counts (as in transformers).
fn part(fields: &mut Fields, name: &str) -> Result<Fields> {
    let older: Option<Map<String, Value>> = fields.optional(&format!("{name}_dict"))?;
    let newer: Option<Map<String, Value>> = fields.optional(name)?;
    let values = older.or(newer).unwrap_or_default();
    Fields::parse(fields.path(), &Value::Object(values).to_string())
}

/// How pictures become a network's input, as transformers' `CLIPImageProcessor` has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocessing {
    /// Length that the shorter side is brought to.
    pub shortest_edge: usize,
    /// Height and width of the piece that is cut from the middle.
    pub crop: (usize, usize),
    /// Means of the channels, of values in [0, 1].
    pub mean: [f32; 3],
    /// Standard deviations of the channels.
    pub std: [f32; 3],
}

impl Preprocessing {
    /// Reads a `preprocessor_config.json`.
    ///
    /// # Errors
    /// Steps that are left out or done otherwise, by name.
    pub fn read(path: &Path) -> Result<Self> {
        let mut fields = Fields::read(path)?;
        for step in ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"] {
            fields.only(step, &[true])?;
        }
        fields.only("resample", &[3])?; // bicubic
        let factor: f64 = fields.get("rescale_factor", 1.0 / 255.0)?;
        if (factor * 255.0 - 1.0).abs() > 1e-9 {
            return Err(fields.refuse("rescale_factor", &json!(factor), "supported: 1/255"));
        }
        let size: Value = fields.get("size", json!({"shortest_edge": 224}))?;
        let crop: Value = fields.get("crop_size", json!({"height": 224, "width": 224}))?;
        // A bare number, in older files, is the shorter edge of a size and the side of a square to cut.
        let number = |v: &Value| v.as_u64().filter(|n| *n > 0).map(|n| n as usize);
        let edge = number(&size).or_else(|| number(&size["shortest_edge"]));
        let piece = number(&crop).map(|n| (n, n)).or_else(|| Some((number(&crop["height"])?, number(&crop["width"])?)));
        Ok(Self {
            shortest_edge: edge.ok_or_else(|| fields.refuse("size", &size, "expected {\"shortest_edge\": N}"))?,
            crop: piece.ok_or_else(|| fields.refuse("crop_size", &crop, "expected {\"height\": N, \"width\": N}"))?,
            mean: fields.get("image_mean", [0.481_454_66, 0.457_827_5, 0.408_210_73])?,
            std: fields.get("image_std", [0.268_629_54, 0.261_302_6, 0.275_777_1])?,
        })
    }
}
