//! From a configuration's fields to what every block is made of, as diffusers derives it.

use super::config::{Counts, Depths, Switches, UnetConfig};
use crate::error::{Error, Result};

/// What the attentions of a block are like.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AttentionPlan {
    pub heads: usize,
    /// Transformer layers of each attention.
    pub depths: Vec<usize>,
    pub text: usize,
    pub only_cross: bool,
}

/// What a down, middle or up block is made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BlockPlan {
    /// Channels entering every residual block.
    pub inputs: Vec<usize>,
    pub channels: usize,
    pub attention: Option<AttentionPlan>,
    pub resample: bool,
}

/// All blocks of a U-Net.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub down: Vec<BlockPlan>,
    pub mid: Option<BlockPlan>,
    pub up: Vec<BlockPlan>,
    /// Width of the text, if any block looks at it.
    pub text: Option<usize>,
}

fn refuse<T>(field: &str, value: impl std::fmt::Debug, why: impl std::fmt::Display) -> Result<T> {
    Err(Error::invalid(format!("{field} = {value:?}: {why}")))
}

/// One value a level.
fn each<T: Clone + std::fmt::Debug>(field: &str, one: Option<T>, list: &[T], levels: usize) -> Result<Vec<T>> {
    match one {
        Some(value) => Ok(vec![value; levels]),
        None if list.len() == levels => Ok(list.to_vec()),
        None => refuse(field, list, format!("{} entries for {levels} levels", list.len())),
    }
}

fn counts(field: &str, value: &Counts, levels: usize) -> Result<Vec<usize>> {
    let values = match value {
        Counts::Same(n) => each(field, Some(*n), &[], levels),
        Counts::Each(list) => each(field, None, list, levels),
    }?;
    if values.contains(&0) { refuse(field, values, "expected positive numbers") } else { Ok(values) }
}

fn depths(field: &str, value: &Depths, levels: usize) -> Result<Vec<Counts>> {
    match value {
        Depths::Same(n) => each(field, Some(Counts::Same(*n)), &[], levels),
        Depths::Levels(list) => each(field, None, list, levels),
    }
}

/// Transformer layers of every attention of a block that has `layers` of them.
fn spread(field: &str, depth: &Counts, layers: usize) -> Result<Vec<usize>> {
    match depth {
        Counts::Same(n) => Ok(vec![*n; layers]),
        Counts::Each(list) if list.len() >= layers => Ok(list[..layers].to_vec()),
        Counts::Each(list) => refuse(field, list, format!("expected {layers} entries, one for each attention")),
    }
}

/// Whether a block type has cross-attention.
fn crossing(field: &str, value: &str, plain: &str, cross: &str) -> Result<bool> {
    // Diffusers strips this prefix of old files.
    match value.strip_prefix("UNetRes").unwrap_or(value) {
        name if name == plain => Ok(false),
        name if name == cross => Ok(true),
        _ => refuse(field, value, format!("not supported; supported: {plain}, {cross}")),
    }
}

impl UnetConfig {
    /// Derives the blocks.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let channels = &self.block_out_channels;
        let levels = channels.len();
        if levels == 0 || channels.contains(&0) {
            return refuse("block_out_channels", channels, "expected a positive number for every level");
        }
        for (field, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("norm_num_groups", self.norm_num_groups),
            ("conv_in_kernel", self.conv_in_kernel),
            ("conv_out_kernel", self.conv_out_kernel),
        ] {
            if value == 0 {
                return refuse(field, value, "expected a positive number");
            }
        }
        if channels[0] < 2 || (channels[0] / 2) as f64 == self.freq_shift {
            return refuse("freq_shift", self.freq_shift, "leaves no frequencies for the timestep embedding");
        }
        let down_types = each("down_block_types", None, &self.down_block_types, levels)?;
        let up_types = each("up_block_types", None, &self.up_block_types, levels)?;
        let layers = counts("layers_per_block", &self.layers_per_block, levels)?;
        let heads = counts("attention_head_dim", &self.attention_head_dim, levels)?;
        let text = counts("cross_attention_dim", &self.cross_attention_dim, levels)?;
        let only_cross = match &self.only_cross_attention {
            Switches::Same(on) => each("only_cross_attention", Some(*on), &[], levels),
            Switches::Each(list) => each("only_cross_attention", None, list, levels),
        }?;
        let depth_field = "transformer_layers_per_block";
        let depth = depths(depth_field, &self.transformer_layers_per_block, levels)?;
        let (up_depth_field, up_depth) = match &self.reverse_transformer_layers_per_block {
            Some(list) => ("reverse_transformer_layers_per_block", Some(list)),
            None => (depth_field, None),
        };
        let up_depth = match up_depth {
            Some(list) => depths(up_depth_field, list, levels)?,
            None if depth.iter().any(|d| matches!(d, Counts::Each(_))) => {
                let why = "lists within the list need reverse_transformer_layers_per_block for the up blocks";
                return refuse(depth_field, depth, why);
            }
            None => depth.iter().rev().cloned().collect(),
        };

        let mut down = Vec::new();
        let mut previous = channels[0];
        for (i, kind) in down_types.iter().enumerate() {
            let c = channels[i];
            let cross = crossing("down_block_types", kind, "DownBlock2D", "CrossAttnDownBlock2D")?;
            let attention = cross.then(|| -> Result<AttentionPlan> {
                let depths = spread(depth_field, &depth[i], layers[i])?;
                Ok(AttentionPlan { heads: heads[i], depths, text: text[i], only_cross: only_cross[i] })
            });
            let mut inputs = vec![c; layers[i]];
            inputs[0] = previous;
            let resample = i + 1 < levels;
            down.push(BlockPlan { inputs, channels: c, attention: attention.transpose()?, resample });
            previous = c;
        }

        let last = levels - 1;
        let mid_plan = |inputs, attention| BlockPlan { inputs, channels: channels[last], attention, resample: false };
        let mid = match self.mid_block_type.as_deref() {
            None => None,
            Some("UNetMidBlock2D") => Some(mid_plan(vec![channels[last]], None)),
            Some("UNetMidBlock2DCrossAttn") => {
                let depths = spread(depth_field, &depth[last], 1)?;
                // The middle block's first attention is always self-attention.
                let attention = AttentionPlan { heads: heads[last], depths, text: text[last], only_cross: false };
                Some(mid_plan(vec![channels[last]; 2], Some(attention)))
            }
            Some(other) => {
                let why = "not supported; supported: UNetMidBlock2DCrossAttn, UNetMidBlock2D, null";
                return refuse("mid_block_type", other, why);
            }
        };

        let mut up = Vec::new();
        for (i, kind) in up_types.iter().enumerate() {
            let level = last - i;
            let c = channels[level];
            let cross = crossing("up_block_types", kind, "UpBlock2D", "CrossAttnUpBlock2D")?;
            let n = layers[level] + 1;
            let attention = cross.then(|| -> Result<AttentionPlan> {
                let depths = spread(up_depth_field, &up_depth[i], n)?;
                Ok(AttentionPlan { heads: heads[level], depths, text: text[level], only_cross: only_cross[level] })
            });
            let before = if i == 0 { c } else { channels[level + 1] };
            let finer = channels[level.saturating_sub(1)];
            let inputs = (0..n).map(|j| if j == 0 { before } else { c } + if j == n - 1 { finer } else { c }).collect();
            up.push(BlockPlan { inputs, channels: c, attention: attention.transpose()?, resample: level > 0 });
        }

        let mut plan = Plan { down, mid, up, text: None };
        for block in plan.down.iter().chain(&plan.mid).chain(&plan.up) {
            let groups = self.norm_num_groups;
            if let Some(c) = block.inputs.iter().chain([&block.channels]).find(|c| **c % groups != 0) {
                return refuse("norm_num_groups", groups, format!("does not divide a block's {c} channels"));
            }
            let Some(attention) = &block.attention else { continue };
            if attention.heads > block.channels {
                let why = format!("more heads than a block's {} channels", block.channels);
                return refuse("attention_head_dim", &self.attention_head_dim, why);
            }
            if plan.text.is_some_and(|w| w != attention.text) {
                let why = "blocks with different text widths are not supported";
                return refuse("cross_attention_dim", &self.cross_attention_dim, why);
            }
            plan.text = Some(attention.text);
        }
        Ok(plan)
    }
}
