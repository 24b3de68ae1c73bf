//! Pictures tile by tile, as diffusers' `enable_tiling` has it: memory stays that of a tile, and the result differs a
//! little, since a tile sees nothing beyond its edges.
//!
//! Tiles of the size that the autoencoder was trained on overlap by a quarter. Where two overlap, the earlier one fades
//! into the later one: pixel y of an overlap of n is a (1 − y/n) + b y/n, first from above, then from the left.

use super::VaeConfig;
use crate::error::{Error, Result};
use candle_core::Tensor;

/// Sides of tiles in pixels and in latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiling {
    pub(super) pixels: usize,
    pub(super) latents: usize,
}

/// What tiles share with their neighbours, of their side.
const OVERLAP: f64 = 0.25;

/// Part of a side, rounded down as the reference does.
fn part(side: usize, of: f64) -> usize {
    (side as f64 * of) as usize
}

impl Tiling {
    /// The reference's tiles for an autoencoder.
    ///
    /// # Errors
    /// Tiles too small to overlap.
    pub(super) fn new(config: &VaeConfig) -> Result<Self> {
        let (pixels, latents) = (config.sample_size, config.sample_size / config.factor());
        if part(latents, 1.0 - OVERLAP) == 0 {
            let problem = format!("sample_size = {pixels}: tiles of {latents} latents are too small to overlap");
            return Err(Error::invalid(problem));
        }
        Ok(Self { pixels, latents })
    }

    /// `work` on tiles of side `from` of `x[batch, h, w, channels]`, put together from results of side `to`.
    pub(super) fn map(x: &Tensor, from: usize, to: usize, work: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let (_, h, w, _) = x.dims4()?;
        let (step, fade) = (part(from, 1.0 - OVERLAP), part(to, OVERLAP));
        let mut above: Vec<Tensor> = Vec::new();
        let mut rows = Vec::new();
        for top in (0..h).step_by(step) {
            let mut row: Vec<Tensor> = Vec::new();
            for (j, left) in (0..w).step_by(step).enumerate() {
                let tile = x.narrow(1, top, from.min(h - top))?.narrow(2, left, from.min(w - left))?.contiguous()?;
                let mut tile = work(&tile)?;
                if let Some(above) = above.get(j) {
                    tile = faded(above, &tile, 1, fade)?;
                }
                if let Some(before) = row.last() {
                    tile = faded(before, &tile, 2, fade)?;
                }
                row.push(tile);
            }
            let kept = |tile: &Tensor| -> Result<Tensor> {
                let (_, h, w, _) = tile.dims4()?;
                Ok(tile.narrow(1, 0, h.min(to - fade))?.narrow(2, 0, w.min(to - fade))?)
            };
            rows.push(Tensor::cat(&row.iter().map(kept).collect::<Result<Vec<_>>>()?, 2)?);
            above = row;
        }
        Ok(Tensor::cat(&rows, 1)?.contiguous()?)
    }
}

/// `b` with its first few rows (or columns, `dim` 2) faded in from the last ones of `a`.
fn faded(a: &Tensor, b: &Tensor, dim: usize, extent: usize) -> Result<Tensor> {
    let (before, length) = (a.dim(dim)?, b.dim(dim)?);
    let n = extent.min(before).min(length);
    if n == 0 {
        return Ok(b.clone());
    }
    let ramp: Vec<f32> = (0..n).map(|y| y as f32 / n as f32).collect();
    let shape = if dim == 1 { (1, n, 1, 1) } else { (1, 1, n, 1) };
    let ramp = Tensor::from_vec(ramp, shape, b.device())?;
    let from = a.narrow(dim, before - n, n)?.broadcast_mul(&ramp.affine(-1.0, 1.0)?)?;
    let both = (from + b.narrow(dim, 0, n)?.broadcast_mul(&ramp)?)?;
    Ok(Tensor::cat(&[both, b.narrow(dim, n, length - n)?], dim)?)
}
