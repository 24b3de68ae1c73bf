//! A step of training on a device: the mathematics of [`train`](super::train), written as dense operations of the tensor
//! library.
//!
//! A GPU multiplies matrices faster than it sorts entries by latent. So every product is dense here, codes are matrices
//! `[tokens, latents]` that are zero nearly everywhere, and the largest pre-activations are found by halving an interval
//! around the threshold above which they lie: no sort of the tensor library's takes rows of several thousand numbers on
//! CUDA. Weights and moments stay on the device from step to step.

use super::adam::{Adam, Moments};
use super::train::{Settings, Step, explained_variance};
use super::weights::Weights;
use crate::error::Result;
use candle_core::{D, DType, Device, Tensor};

/// Halvings of the interval of a threshold. From the greatest pre-activation down, this tells neighbouring numbers of single
/// precision apart that are 2⁻¹² of it or more.
const HALVINGS: usize = 36;

/// Which pre-activations become codes: the largest positive ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Selection {
    /// `k` of every token.
    Token(usize),
    /// `k` times the tokens, of the whole batch.
    Batch(usize),
}

impl Selection {
    /// 1 where a pre-activation of `p[tokens, latents]` becomes a code, else 0.
    fn mask(self, p: &Tensor) -> Result<Tensor> {
        let above = |t: &Tensor| -> Result<Tensor> { Ok(p.broadcast_gt(t)?.to_dtype(DType::F32)?) };
        let count = |t: &Tensor| -> Result<Tensor> {
            let of_tokens = above(t)?.sum_keepdim(1)?;
            Ok(match self {
                Self::Token(_) => of_tokens,
                Self::Batch(_) => of_tokens.sum_keepdim(0)?,
            })
        };
        let greatest = p.max_keepdim(1)?;
        let (most, mut high) = match self {
            Self::Token(k) => (k, greatest),
            Self::Batch(k) => (k * p.dim(0)?, greatest.max_keepdim(0)?),
        };
        let zero = high.zeros_like()?;
        high = high.maximum(&zero)?;
        let (few, mut low) = (count(&zero)?.le(most as f64)?, zero.clone());
        for _ in 0..HALVINGS {
            let middle = ((&low + &high)? * 0.5)?;
            let few = count(&middle)?.le(most as f64)?;
            (high, low) = (few.where_cond(&middle, &high)?, few.where_cond(&low, &middle)?);
        }
        // Where no more are positive than may be, all of them.
        above(&few.where_cond(&zero, &high)?)
    }
}

/// A matrix or a row of weights with its moments.
#[derive(Debug)]
struct Learnt {
    value: Tensor,
    m: Tensor,
    v: Tensor,
}

impl Learnt {
    fn new(value: &[f32], moments: &Moments, shape: (usize, usize), device: &Device) -> Result<Self> {
        let tensor = |data: &[f32]| Tensor::from_slice(data, shape, device);
        Ok(Self { value: tensor(value)?, m: tensor(&moments.m)?, v: tensor(&moments.v)? })
    }

    /// As [`Adam::apply`].
    fn update(&mut self, adam: &Adam, gradient: &Tensor) -> Result<()> {
        let (b1, b2) = (f64::from(adam.beta1), f64::from(adam.beta2));
        self.m = ((&self.m * b1)? + (gradient * (1.0 - b1))?)?;
        self.v = ((&self.v * b2)? + (gradient.sqr()? * (1.0 - b2))?)?;
        let root = ((&self.v * f64::from(adam.correction))?.sqrt()? + f64::from(adam.epsilon))?;
        self.value = (&self.value - ((&self.m / root)? * f64::from(adam.rate))?)?;
        Ok(())
    }

    fn fetch(&self, value: &mut Vec<f32>, moments: &mut Moments) -> Result<()> {
        *value = self.value.flatten_all()?.to_vec1()?;
        moments.m = self.m.flatten_all()?.to_vec1()?;
        moments.v = self.v.flatten_all()?.to_vec1()?;
        Ok(())
    }
}

/// An SAE in training on a device.
#[derive(Debug)]
pub(crate) struct OnDevice {
    device: Device,
    selection: Selection,
    d: usize,
    latents: usize,
    /// `[latents, d]`, `[1, latents]`, `[latents, d]`, `[1, d]`.
    w_enc: Learnt,
    b_enc: Learnt,
    w_dec: Learnt,
    b_dec: Learnt,
}

/// What a step found.
pub(crate) struct Found {
    pub(crate) step: Step,
    /// Whether each latent fired.
    pub(crate) fired: Vec<bool>,
    /// The smallest code, unless there is none.
    pub(crate) smallest: Option<f32>,
}

impl OnDevice {
    pub(crate) fn new(
        weights: &Weights,
        moments: &[Moments; 4],
        selection: Selection,
        device: &Device,
    ) -> Result<Self> {
        let (n, d) = (weights.latents, weights.d);
        Ok(Self {
            device: device.clone(),
            selection,
            d,
            latents: n,
            w_enc: Learnt::new(&weights.w_enc, &moments[0], (n, d), device)?,
            b_enc: Learnt::new(&weights.b_enc, &moments[1], (1, n), device)?,
            w_dec: Learnt::new(&weights.w_dec, &moments[2], (n, d), device)?,
            b_dec: Learnt::new(&weights.b_dec, &moments[3], (1, d), device)?,
        })
    }

    /// Writes weights and moments back to the host.
    pub(crate) fn fetch(&self, weights: &mut Weights, moments: &mut [Moments; 4]) -> Result<()> {
        self.w_enc.fetch(&mut weights.w_enc, &mut moments[0])?;
        self.b_enc.fetch(&mut weights.b_enc, &mut moments[1])?;
        self.w_dec.fetch(&mut weights.w_dec, &mut moments[2])?;
        self.b_dec.fetch(&mut weights.b_dec, &mut moments[3])
    }

    /// One step on `x` = `[tokens, d]`; `dead` are the latents that count as dead.
    pub(crate) fn step(&mut self, x: &[f32], dead: &[u32], settings: &Settings) -> Result<Found> {
        let tokens = x.len() / self.d;
        let (w_enc, w_dec) = (&self.w_enc.value, &self.w_dec.value);
        let x = Tensor::from_slice(x, (tokens, self.d), &self.device)?;
        let xc = (x * f64::from(settings.scale))?.broadcast_sub(&self.b_dec.value)?;
        let p = xc.matmul(&w_enc.t()?)?.broadcast_add(&self.b_enc.value)?;
        let active = self.selection.mask(&p)?;
        let z = (&p * &active)?;
        let r = (z.matmul(w_dec)? - &xc)?;
        let mut slopes = (r.matmul(&w_dec.t()?)? * &active)?;
        let mut g_dec = z.t()?.matmul(&r)?;

        let k_dead = if settings.aux_alpha > 0.0 { settings.aux_k.min(dead.len()) } else { 0 };
        if k_dead > 0 {
            let mut is_dead = vec![0f32; self.latents];
            dead.iter().for_each(|&j| is_dead[j as usize] = 1.0);
            let is_dead = Tensor::from_vec(is_dead, (1, self.latents), &self.device)?;
            let second = Selection::Token(k_dead).mask(&p.broadcast_mul(&is_dead)?)?;
            let z = (&p * &second)?;
            // As in the step on the host: the weight of this loss goes into its residual and so into every gradient.
            let r = ((z.matmul(w_dec)? + &r)? * f64::from(settings.aux_alpha))?;
            slopes = (slopes + (r.matmul(&w_dec.t()?)? * &second)?)?;
            g_dec = (g_dec + z.t()?.matmul(&r)?)?;
        }
        let mut g_enc = slopes.t()?.matmul(&xc)?;
        let mut g_bias = slopes.sum_keepdim(0)?;
        let mut g_mean = (r.sum_keepdim(0)? - g_bias.matmul(w_enc)?)?;
        g_dec = (&g_dec - (w_dec.broadcast_mul(&(&g_dec * w_dec)?.sum_keepdim(1)?))?)?;

        let squares = |t: &Tensor| -> Result<f64> { Ok(f64::from(t.sqr()?.sum_all()?.to_scalar::<f32>()?)) };
        let loss = squares(&r)? / (tokens * self.d) as f64;
        let whole = 2.0 / (tokens * self.d) as f64;
        let factor = match settings.clip.map(f64::from) {
            Some(most) => {
                let all = squares(&g_enc)? + squares(&g_dec)? + squares(&g_bias)? + squares(&g_mean)?;
                whole * (most / (all.sqrt() * whole)).min(1.0)
            }
            None => whole,
        };
        for gradient in [&mut g_enc, &mut g_dec, &mut g_bias, &mut g_mean] {
            *gradient = (&*gradient * factor)?;
        }
        let explained_variance = if settings.judge {
            let host = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
            Some(explained_variance(&host(&xc)?, &host(&r)?, self.d))
        } else {
            None
        };
        let counts: Vec<f32> = active.sum(0)?.to_vec1()?;
        let codes: f64 = counts.iter().map(|&n| f64::from(n)).sum();
        let smallest = match self.selection {
            Selection::Batch(_) if codes > 0.0 => {
                let others = Tensor::full(f32::MAX, active.shape(), &self.device)?;
                let kept = active.gt(0f32)?.where_cond(&p, &others)?;
                Some(kept.min(D::Minus1)?.min(0)?.to_scalar::<f32>()?)
            }
            _ => None,
        };
        // A loss that is no number is refused by the caller, with the weights as they were.
        if loss.is_finite() {
            if settings.shrink > 0.0 {
                self.w_enc.value = (w_enc * f64::from(1.0 - settings.shrink))?;
            }
            self.w_enc.update(&settings.adam, &g_enc)?;
            self.b_enc.update(&settings.adam, &g_bias)?;
            self.w_dec.update(&settings.adam, &g_dec)?;
            let length = self.w_dec.value.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(f32::MIN_POSITIVE)?;
            self.w_dec.value = self.w_dec.value.broadcast_div(&length)?;
            self.b_dec.update(&settings.adam, &g_mean)?;
        }
        let step =
            Step { loss, l0: codes / tokens as f64, dead: dead.len() as f64 / self.latents as f64, explained_variance };
        Ok(Found { step, fired: counts.iter().map(|&n| n > 0.0).collect(), smallest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_holds_the_largest_positive() {
        let p: [[f32; 5]; 3] = [[3.0, 1e-3, -1.0, 2.0, 2.5], [-1.0, -2.0, 0.0, -0.5, 1e-6], [5.0, 4.0, 3.0, 2.0, 1.0]];
        let p = Tensor::new(&p, &Device::Cpu).unwrap();
        let mask = |s: Selection| s.mask(&p).unwrap().to_vec2::<f32>().unwrap();
        let expected = [[1.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0, 0.0]];
        assert_eq!(mask(Selection::Token(2)), expected);
        // Six of the whole: 5, 4, 3, 3, 2.5 and one of the two 2s, which are as many as six only without both.
        let six = mask(Selection::Batch(2));
        assert_eq!(six, [[1.0, 0.0, 0.0, 0.0, 1.0], [0.0; 5], [1.0, 1.0, 1.0, 0.0, 0.0]]);
        assert_eq!(mask(Selection::Batch(3)).iter().flatten().sum::<f32>(), 9.0);
        assert_eq!(mask(Selection::Token(5))[0], [1.0, 1.0, 0.0, 1.0, 1.0]);
    }
}
