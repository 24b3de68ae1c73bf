//! TIDE's modulation and loss as operations on whole matrices; the formulas stand at [`rule`](crate::sae::temporal::rule).

use super::{Left, ones};
use crate::error::Result;
use crate::sae::temporal::modulation::LEAST;
use crate::sae::temporal::rule::Settings;
use candle_core::Tensor;

/// A batch, whose rows are the steps of tokens, before the encoder.
pub(super) struct Modulated<'a> {
    of: &'a Settings,
    steps: usize,
    /// s·x, `[tokens, d]`.
    u: &'a Tensor,
    /// 1 + a of every row, `[tokens, d]`.
    factor: Tensor,
    /// What the encoder reads, `[tokens, d]`.
    pub(super) m: Tensor,
}

impl<'a> Modulated<'a> {
    /// `scale` and `shift` are `[steps, d]`.
    pub(super) fn new(of: &'a Settings, u: &'a Tensor, scale: &Tensor, shift: &Tensor) -> Result<Self> {
        let (steps, tokens) = (scale.dim(0)?, u.dim(0)?);
        let factor = (scale + 1.0)?;
        // Away from zero, on the side where it is.
        let small = ones(&factor.abs()?.lt(LEAST)?)?;
        let least = (ones(&factor.ge(0f32)?)?.affine(2.0, -1.0)? * f64::from(LEAST))?;
        let factor = ((&small * least)? + (small.affine(-1.0, 1.0)? * factor)?)?;
        let factor = factor.repeat((tokens / steps, 1))?;
        let m = ((u * &factor)? + shift.repeat((tokens / steps, 1))?)?;
        Ok(Self { of, steps, u, factor, m })
    }

    /// What codes `z[tokens, latents]` leave; `b` is the decoder's bias `[1, d]`.
    pub(super) fn left(&self, z: &Tensor, w_dec: &Tensor, b: &Tensor, progress: f32) -> Result<(Left, Behind<'_>)> {
        let terms = &self.of.terms;
        let whole = (z.matmul(w_dec)?.broadcast_add(b)? - &self.m)?;
        let error = (&whole / &self.factor)?;
        let (target, compared) = if self.of.undo { (self.u, &error) } else { (&self.m, &whole) };
        let decoded = (target + compared)?;
        let mut r = ((compared * f64::from(terms.mse))? + cosine(f64::from(terms.cosine), target, &decoded)?)?;
        if self.of.undo {
            r = (r / &self.factor)?;
        }
        let mut slopes = r.matmul(&w_dec.t()?)?;
        if terms.temporal > 0.0 {
            slopes = (slopes + self.consistency(z)?)?;
        }
        if terms.sparsity > 0.0 {
            slopes = (slopes + self.sparsity(z, self.of.k_at(progress, z.dim(1)?))?)?;
        }
        let (g_dec, sum) = (z.t()?.matmul(&r)?, r.sum_keepdim(0)?);
        Ok((Left { r: error, sum, slopes, g_dec }, Behind { before: self, whole, decoded, half: r }))
    }

    /// λ·steps/(steps − 1)·(2 z_t − z_{t−1} − z_{t+1}) of neighbouring steps of a token.
    fn consistency(&self, z: &Tensor) -> Result<Tensor> {
        let (tokens, latents) = z.dims2()?;
        if self.steps < 2 {
            return Ok(z.zeros_like()?);
        }
        let z = z.reshape((tokens / self.steps, self.steps, latents))?;
        let rises = (z.narrow(1, 1, self.steps - 1)? - z.narrow(1, 0, self.steps - 1)?)?;
        let apart = (rises.pad_with_zeros(1, 1, 0)? - rises.pad_with_zeros(1, 0, 1)?)?;
        let weight = f64::from(self.of.terms.temporal) * self.steps as f64 / (self.steps - 1) as f64;
        Ok((apart.reshape((tokens, latents))? * weight)?)
    }

    /// d λ H'(S − S*) S (1/Σz − z/Σz²).
    fn sparsity(&self, z: &Tensor, k: usize) -> Result<Tensor> {
        let terms = &self.of.terms;
        // Without a code both are zero, and so is S.
        let (sum, squares) = (z.sum_keepdim(1)?, z.sqr()?.sum_keepdim(1)?);
        let squares = squares.maximum(f32::MIN_POSITIVE)?;
        let s = ((sum.sqr()? / &squares)? / k as f64)?;
        let slope = (&s - f64::from(terms.sparsity_target))?.clamp(-terms.huber_delta, terms.huber_delta)?;
        let all = ((slope * s)? * (self.u.dim(1)? as f64 * f64::from(terms.sparsity)))?;
        let of_sum = (&all / sum.maximum(f32::MIN_POSITIVE)?)?;
        Ok(of_sum.broadcast_sub(&z.broadcast_mul(&(all / squares)?)?)?)
    }
}

/// A batch behind the decoder; what codes leave of it is x̂ − x.
pub(super) struct Behind<'a> {
    before: &'a Modulated<'a>,
    /// m̂ − m, `[tokens, d]`.
    pub(super) whole: Tensor,
    /// What is compared: x̂, or m̂.
    decoded: Tensor,
    /// Half the gradient by m̂.
    half: Tensor,
}

impl Behind<'_> {
    /// Gradients of scale and shift, where `h[tokens, d]` is what reaches m through the encoder.
    pub(super) fn gradients(&self, h: &Tensor) -> Result<[Tensor; 2]> {
        let Modulated { of, steps, u, .. } = *self.before;
        let (mut scale, mut shift) = ((h * u)?, h.clone());
        if of.undo {
            scale = (scale - (&self.half * &self.decoded)?)?;
            shift = (shift - &self.half)?;
        }
        let (tokens, d) = h.dims2()?;
        let share = if of.train_modulation { 1.0 } else { 0.0 };
        let of_steps =
            |rows: Tensor| -> Result<Tensor> { Ok((rows.reshape((tokens / steps, steps, d))?.sum(0)? * share)?) };
        Ok([of_steps(scale)?, of_steps(shift)?])
    }
}

/// ½ d λ (cos·y/‖y‖² − x/(‖x‖‖y‖)) of every row.
fn cosine(lambda: f64, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let dot = |a: &Tensor, b: &Tensor| (a * b)?.sum_keepdim(1);
    let (xx, yy, xy) = (dot(x, x)?, dot(y, y)?, dot(x, y)?);
    let norms = (xx.sqrt()? * yy.sqrt()?)?;
    // A row of zeros has no direction.
    let some = ones(&norms.gt(0f32)?)?;
    let half = (some * (0.5 * x.dim(1)? as f64 * lambda))?;
    let norms = norms.maximum(f32::MIN_POSITIVE)?;
    let by_x = (&half / &norms)?;
    let by_y = ((half * (xy / norms)?)? / yy.maximum(f32::MIN_POSITIVE)?)?;
    Ok((y.broadcast_mul(&by_y)? - x.broadcast_mul(&by_x)?)?)
}
