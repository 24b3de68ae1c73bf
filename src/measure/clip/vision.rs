//! The vision transformer of CLIP, transformers' `CLIPVisionTransformer`.
//!
//! A picture is cut into square patches, each projected to one vector; before them stands a learnt class vector, to all
//! of them positions are added, and after the blocks the class vector stands for the picture (Dosovitskiy et al. 2021).

use super::config::VisionConfig;
use crate::diffusion::layers::{LayerNorm, Linear};
use crate::diffusion::text::{Block, Sight};
use crate::diffusion::weights::{Init, Weights};
use crate::error::{Error, Result};
use candle_core::Tensor;

/// The vision transformer.
#[derive(Debug, Clone)]
pub struct VisionTransformer {
    config: VisionConfig,
    class: Tensor,
    patches: Linear,
    positions: Tensor,
    before: LayerNorm,
    blocks: Vec<Block>,
    after: LayerNorm,
}

impl VisionTransformer {
    /// Builds the network from its weights (names under `vision_model`).
    ///
    /// # Errors
    /// A missing or misshapen tensor.
    pub fn load(config: &VisionConfig, weights: &Weights) -> Result<Self> {
        let model = weights.at("vision_model");
        let embeddings = model.at("embeddings");
        // Files written before transformers 4.31 hold the numbers 0..n as a tensor, too.
        embeddings.skip("position_ids");
        let (d, p) = (config.hidden_size, config.patch_size);
        let init = Init::Normal(0.02);
        // [out, 3, p, p] is a linear layer of patches whose numbers are ordered by channel, row, column.
        let patches = embeddings.get("patch_embedding.weight", &[d, 3, p, p], Init::FanIn(3 * p * p))?;
        // The name is misspelt in the published files.
        let norm = |name: &str| LayerNorm::load(&model.at(name), d, config.layer_norm_eps);
        Ok(Self {
            class: embeddings.get("class_embedding", &[d], init)?,
            patches: Linear::new(patches.reshape((d, 3 * p * p))?, None),
            positions: embeddings.get("position_embedding.weight", &[config.patches() + 1, d], init)?,
            before: norm("pre_layrnorm")?,
            blocks: (0..config.num_hidden_layers)
                .map(|i| Block::load(&config.block(), &model.at(format!("encoder.layers.{i}"))))
                .collect::<Result<_>>()?,
            after: norm("post_layernorm")?,
            config: config.clone(),
        })
    }

    /// Normalised pictures `[batch, side, side, 3]` → the class vector after the last normalisation, `[batch, hidden]`.
    ///
    /// # Errors
    /// Pictures of another size.
    pub fn forward(&self, pictures: &Tensor) -> Result<Tensor> {
        let (n, p) = (self.config.image_size / self.config.patch_size, self.config.patch_size);
        let (batch, h, w, c) = pictures.dims4()?;
        if (h, w, c) != (n * p, n * p, 3) {
            let expected = vec![batch, n * p, n * p, 3];
            return Err(Error::Shape { what: "pictures for CLIP".into(), found: pictures.dims().into(), expected });
        }
        let patches = pictures.reshape(vec![batch, n, p, n, p, 3])?.permute(vec![0, 1, 3, 5, 2, 4])?;
        let patches = self.patches.forward(&patches.reshape((batch, n * n, 3 * p * p))?)?;
        let class = self.class.broadcast_as((batch, 1, self.config.hidden_size))?;
        let x = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.positions)?;
        let mut x = self.before.forward(&x)?;
        for block in &self.blocks {
            x = block.forward(&x, Sight::All)?;
        }
        self.after.forward(&x.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)
    }
}
