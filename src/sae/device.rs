//! A step of training on a device: the mathematics of [`train`](super::train), written as dense operations of the tensor
//! library.
//!
//! A GPU multiplies matrices faster than it sorts entries by latent. So every product is dense here, and codes are matrices
//! `[tokens, latents]` that are zero nearly everywhere. Weights and moments stay on the device from step to step.

mod selection;
mod tide;

pub(crate) use selection::Selection;
use tide::Modulated;

use super::adam::{Adam, Moments};
use super::jump_relu;
use super::recipe::L1;
use super::rule::{Rule, risen};
use super::step::{Settings, Step, explained_variance};
use super::temporal;
use super::weights::Weights;
use crate::error::Result;
use candle_core::{D, DType, Device, Tensor};

/// What an architecture does in a step, as operations on whole matrices; see its [`Rule`] for the formulas.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Dense {
    /// The largest pre-activations are the codes; the prefixes of latents that end at `levels` each reconstruct the input
    /// (if there are none, only all latents do).
    Largest { selection: Selection, levels: Vec<usize> },
    /// The positive ones, under a penalty.
    Positive(L1),
    /// Those above thresholds, which are learnt.
    Thresholds(jump_relu::Settings),
    /// A gate decides which, its own gain and bias how strongly.
    Gated(L1),
    /// The largest of modulated activations, under a loss of its own.
    Tide(temporal::rule::Settings),
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
    dense: Dense,
    /// Whether the auxiliary loss reaches dead latents, as [`Rule::revives`] says.
    revives: bool,
    /// λ of a term λ‖W_enc‖² of the loss, as [`Rule::weight_penalty`] says.
    weight_penalty: f64,
    d: usize,
    latents: usize,
    /// `[latents, d]`, `[1, latents]`, `[latents, d]`, `[1, d]`.
    w_enc: Learnt,
    b_enc: Learnt,
    w_dec: Learnt,
    b_dec: Learnt,
    /// What the architecture learns beside them, in rows of a number for every latent, or for every channel (TIDE).
    own: Vec<Learnt>,
}

/// What a step found.
pub(crate) struct Found {
    pub(crate) step: Step,
    /// Whether each latent fired.
    pub(crate) fired: Vec<bool>,
    /// The smallest code of a selection from the whole batch, unless there is none.
    pub(crate) smallest: Option<f32>,
    /// x̂ − x of every token, if dead latents start anew from it.
    pub(crate) errors: Option<Vec<f32>>,
}

/// What reconstructions leave: ½ of the gradients of their squares.
struct Left {
    /// Of all latents, `[tokens, d]`.
    r: Tensor,
    /// What the decoder bias learns from, `[1, d]`.
    sum: Tensor,
    /// By every code, active or not, `[tokens, latents]`.
    slopes: Tensor,
    /// By the decoder.
    g_dec: Tensor,
}

impl OnDevice {
    pub(crate) fn new(
        weights: &Weights,
        moments: &[Moments; 4],
        rule: &mut dyn Rule,
        dense: Dense,
        device: &Device,
    ) -> Result<Self> {
        let (n, d) = (weights.latents, weights.d);
        let width = if matches!(dense, Dense::Tide(_)) { d } else { n };
        Ok(Self {
            device: device.clone(),
            dense,
            revives: rule.revives(),
            weight_penalty: f64::from(rule.weight_penalty()),
            d,
            latents: n,
            w_enc: Learnt::new(&weights.w_enc, &moments[0], (n, d), device)?,
            b_enc: Learnt::new(&weights.b_enc, &moments[1], (1, n), device)?,
            w_dec: Learnt::new(&weights.w_dec, &moments[2], (n, d), device)?,
            b_dec: Learnt::new(&weights.b_dec, &moments[3], (1, d), device)?,
            own: rule
                .own()
                .iter()
                .map(|own| Learnt::new(&own.value, &own.moments, (own.value.len() / width, width), device))
                .collect::<Result<_>>()?,
        })
    }

    /// The device.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Writes weights and moments back to the host.
    pub(crate) fn fetch(&self, weights: &mut Weights, moments: &mut [Moments; 4], rule: &mut dyn Rule) -> Result<()> {
        self.w_enc.fetch(&mut weights.w_enc, &mut moments[0])?;
        self.b_enc.fetch(&mut weights.b_enc, &mut moments[1])?;
        self.w_dec.fetch(&mut weights.w_dec, &mut moments[2])?;
        self.b_dec.fetch(&mut weights.b_dec, &mut moments[3])?;
        rule.own().into_iter().zip(&self.own).try_for_each(|(own, here)| here.fetch(&mut own.value, &mut own.moments))
    }

    /// One step on `x` = `[tokens, d]`; `dead` are the latents that count as dead.
    pub(crate) fn step(&mut self, x: &[f32], dead: &[u32], settings: &Settings) -> Result<Found> {
        let tokens = x.len() / self.d;
        let w_enc = &self.w_enc.value;
        let x = Tensor::from_slice(x, (tokens, self.d), &self.device)?;
        let u = (x * f64::from(settings.scale))?;
        let own: Vec<&Tensor> = self.own.iter().map(|own| &own.value).collect();
        let modulated = match (&self.dense, &own[..]) {
            (Dense::Tide(of), [scale, shift]) => Some(Modulated::new(of, &u, scale, shift)?),
            _ => None,
        };
        let xc = modulated.as_ref().map_or(&u, |modulated| &modulated.m).broadcast_sub(&self.b_dec.value)?;
        let p = xc.matmul(&w_enc.t()?)?.broadcast_add(&self.b_enc.value)?;
        // Codes, and 1 where there is one.
        let these = |active: Tensor| -> Result<_> { Ok(((&p * &active)?, active)) };
        let (z, active) = match (&self.dense, &own[..]) {
            (Dense::Largest { selection, .. }, _) => these(selection.mask(&p)?)?,
            (Dense::Tide(of), _) => these(Selection::Token(of.k_at(settings.progress, self.latents)).mask(&p)?)?,
            (Dense::Thresholds(_), [log_threshold]) => these(ones(&p.broadcast_gt(&log_threshold.exp()?)?)?)?,
            (Dense::Gated(_), [r_mag, b_mag]) => {
                let a = p.broadcast_sub(&self.b_enc.value)?;
                let z = a.broadcast_mul(&r_mag.exp()?)?.broadcast_add(b_mag)?.relu()?;
                let z = (z * ones(&p.gt(0f32)?)?)?;
                let active = ones(&z.gt(0f32)?)?;
                (z, active)
            }
            _ => (p.relu()?, ones(&p.gt(0f32)?)?),
        };
        let (Left { r, sum, slopes, mut g_dec }, behind) = match &modulated {
            Some(modulated) => {
                let (left, behind) = modulated.left(&z, &self.w_dec.value, &self.b_dec.value, settings.progress)?;
                (left, Some(behind))
            }
            None => (self.left(&z, &xc)?, None),
        };

        // The architecture's own terms and gradients.
        let mut g_own = Vec::new();
        let mut slopes = match (&self.dense, &own[..]) {
            (Dense::Positive(l1), _) => ((slopes + f64::from(l1.slope(settings.progress)))? * &active)?,
            (Dense::Thresholds(of), [log_threshold]) => {
                let threshold = log_threshold.exp()?;
                let half = f64::from(risen(of.l0, of.sparsity_warm_up, settings.progress) / 2.0);
                let width = f64::from(of.bandwidth);
                let above = p.broadcast_gt(&(&threshold - width / 2.0)?)?;
                let near = (ones(&above)? * ones(&p.broadcast_sub(&threshold)?.lt((width / 2.0) as f32)?)?)?;
                let moved = ((slopes.broadcast_mul(&threshold)? + half)? * near)?.sum_keepdim(0)?;
                g_own.push((moved * &threshold)?.affine(-1.0 / width, 0.0)?);
                (slopes * &active)?
            }
            (Dense::Gated(_), [r_mag, b_mag]) => {
                let slopes = (slopes * &active)?;
                g_own.push((&slopes * z.broadcast_sub(b_mag)?)?.sum_keepdim(0)?); // e^r·a
                g_own.push(slopes.sum_keepdim(0)?);
                slopes.broadcast_mul(&r_mag.exp()?)?
            }
            _ => (slopes * &active)?,
        };
        // What the encoder's bias learns from, where that is not all slopes.
        let mut to_bias = None;
        if let Dense::Gated(l1) = &self.dense {
            let left = self.left(&p.relu()?, &xc)?;
            let gate = ((left.slopes + f64::from(l1.slope(settings.progress)))? * ones(&p.gt(0f32)?)?)?;
            to_bias = Some(gate.sum_keepdim(0)?);
            slopes = (slopes + gate)?;
        }
        let k_dead = if self.revives && settings.aux_alpha > 0.0 { settings.aux_k.min(dead.len()) } else { 0 };
        if k_dead > 0 {
            let mut is_dead = vec![0f32; self.latents];
            dead.iter().for_each(|&j| is_dead[j as usize] = 1.0);
            let is_dead = Tensor::from_vec(is_dead, (1, self.latents), &self.device)?;
            let second = Selection::Token(k_dead).mask(&p.broadcast_mul(&is_dead)?)?;
            let (z, w_dec) = ((&p * &second)?, &self.w_dec.value);
            // As in the step on the host: the weight of this loss goes into its residual and so into every gradient.
            let whole = behind.as_ref().map_or(&r, |behind| &behind.whole);
            let r = ((z.matmul(w_dec)? + whole)? * f64::from(settings.aux_alpha))?;
            slopes = (slopes + (r.matmul(&w_dec.t()?)? * &second)?)?;
            g_dec = (g_dec + z.t()?.matmul(&r)?)?;
        }
        let mut g_enc = slopes.t()?.matmul(&xc)?;
        if self.weight_penalty > 0.0 {
            g_enc = (g_enc + (w_enc * (self.weight_penalty * xc.elem_count() as f64))?)?;
        }
        if let Some(behind) = &behind {
            g_own.extend(behind.gradients(&slopes.matmul(w_enc)?)?);
        }
        let all = slopes.sum_keepdim(0)?;
        let g_mean = (sum - all.matmul(w_enc)?)?;
        let w_dec = &self.w_dec.value;
        g_dec = (&g_dec - (w_dec.broadcast_mul(&(&g_dec * w_dec)?.sum_keepdim(1)?))?)?;
        let mut gradients = vec![g_enc, to_bias.unwrap_or(all), g_dec, g_mean];
        gradients.extend(g_own);

        let squares = |t: &Tensor| -> Result<f64> { Ok(f64::from(t.sqr()?.sum_all()?.to_scalar::<f32>()?)) };
        let loss = squares(&r)? / (tokens * self.d) as f64;
        let whole = 2.0 / (tokens * self.d) as f64;
        let factor = match settings.clip.map(f64::from) {
            Some(most) => {
                let all = gradients.iter().map(squares).sum::<Result<f64>>()?;
                whole * (most / (all.sqrt() * whole)).min(1.0)
            }
            None => whole,
        };
        let host = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let explained_variance = match settings.judge {
            true => Some(explained_variance(&host(if modulated.is_some() { &u } else { &xc })?, &host(&r)?, self.d)),
            false => None,
        };
        let errors = match settings.resample {
            Some(_) if !self.revives => Some(host(&r)?),
            _ => None,
        };
        let counts: Vec<f32> = active.sum(0)?.to_vec1()?;
        let codes: f64 = counts.iter().map(|&n| f64::from(n)).sum();
        let smallest = match self.dense {
            Dense::Largest { selection: Selection::Batch(_), .. } if codes > 0.0 => {
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
            let learnt = [&mut self.w_enc, &mut self.b_enc, &mut self.w_dec, &mut self.b_dec];
            for (learnt, gradient) in learnt.into_iter().chain(&mut self.own).zip(&gradients) {
                learnt.update(&settings.adam, &(gradient * factor)?)?;
            }
            let length = self.w_dec.value.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(f32::MIN_POSITIVE)?;
            self.w_dec.value = self.w_dec.value.broadcast_div(&length)?;
        }
        let step =
            Step { loss, l0: codes / tokens as f64, dead: dead.len() as f64 / self.latents as f64, explained_variance };
        Ok(Found { step, fired: counts.iter().map(|&n| n > 0.0).collect(), smallest, errors })
    }

    /// What codes `z[tokens, latents]` leave of `xc[tokens, d]`, level by level where there are several: of latents of level
    /// m every reconstruction from m on depends, so that R_m = Σ_{n ≥ m} r_n stands for the residual.
    fn left(&self, z: &Tensor, xc: &Tensor) -> Result<Left> {
        let w_dec = &self.w_dec.value;
        let levels = match &self.dense {
            Dense::Largest { levels, .. } if !levels.is_empty() => &levels[..],
            _ => &[self.latents][..],
        };
        let ranges: Vec<(usize, usize)> = levels
            .iter()
            .scan(0, |from, &to| Some((std::mem::replace(from, to), to)))
            .map(|(a, b)| (a, b - a))
            .collect();
        let mut residuals: Vec<Tensor> = Vec::with_capacity(ranges.len());
        for &(from, n) in &ranges {
            let part = z.narrow(1, from, n)?.matmul(&w_dec.narrow(0, from, n)?)?;
            residuals.push(match residuals.last() {
                Some(before) => (before + part)?,
                None => (part - xc)?,
            });
        }
        let r = residuals[residuals.len() - 1].clone();
        for m in (1..residuals.len()).rev() {
            residuals[m - 1] = (&residuals[m - 1] + &residuals[m])?;
        }
        let (mut slopes, mut g_dec) = (Vec::new(), Vec::new());
        for (&(from, n), r) in ranges.iter().zip(&residuals) {
            slopes.push(r.matmul(&w_dec.narrow(0, from, n)?.t()?)?);
            g_dec.push(z.narrow(1, from, n)?.t()?.matmul(r)?);
        }
        let sum = residuals[0].sum_keepdim(0)?;
        Ok(Left { r, sum, slopes: Tensor::cat(&slopes, 1)?, g_dec: Tensor::cat(&g_dec, 0)? })
    }
}

/// Truth as numbers.
fn ones(is: &Tensor) -> Result<Tensor> {
    Ok(is.to_dtype(DType::F32)?)
}
