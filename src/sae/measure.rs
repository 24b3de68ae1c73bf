//! How well an SAE stands for activations: one formula a number.

use super::Sae;
use super::codes::Codes;
use crate::activations::Activations;
use crate::error::{Error, Result};
use crate::kernels::sparse::dot;
use std::fmt::Display;
use std::ops::Range;

/// Reconstruction and sparsity of an SAE on some activations.
///
/// x̄ and Var are over tokens, channel by channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Quality {
    /// Tokens measured.
    pub tokens: usize,
    /// Mean over tokens and channels of (x − x̂)², in squared units of the activations.
    pub mse: f64,
    /// Mean (x − x̂)² / mean (x − x̄)² (Emergence, section 4): 0 is perfect, 1 is as good as the mean.
    pub scaled_mse: f64,
    /// Mean over channels of 1 − Var(x − x̂)/Var(x) (Emergence, section 4); constant channels do not count.
    pub explained_variance: f64,
    /// Fraction of variance unexplained: Σ Var(x − x̂) / Σ Var(x), sums over channels.
    pub fvu: f64,
    /// Mean over tokens of ⟨x, x̂⟩ / (‖x‖‖x̂‖).
    pub cosine: f64,
    /// Mean number of latents that fire on a token.
    pub l0: f64,
    /// Share of latents that fired on none of the tokens.
    pub dead_share: f64,
    /// Channels without any variance.
    pub constant_channels: usize,
    /// Share of the tokens on which each latent fires.
    pub density: Vec<f64>,
    /// Tokens at the end on which each latent did not fire: all of them, if it never did.
    pub silent: Vec<u64>,
    /// Tokens on which 0, 1, 2, … latents fire.
    pub tokens_by_l0: Vec<u64>,
}

/// Running sums of one channel.
#[derive(Clone, Copy, Default)]
struct Channel {
    x: f64,
    xx: f64,
    r: f64,
    rr: f64,
}

/// Running sums behind a [`Quality`], about a centre near the mean: no digits are lost to a large mean.
pub(crate) struct Tally {
    centre: Vec<f32>,
    channels: Vec<Channel>,
    fired: Vec<u64>,
    last: Vec<u64>,
    tokens_by_l0: Vec<u64>,
    cosines: f64,
    entries: usize,
    tokens: usize,
}

/// What is said of some channels together.
pub(crate) struct Summary {
    pub(crate) mse: f64,
    pub(crate) scaled_mse: f64,
    pub(crate) explained_variance: f64,
    pub(crate) fvu: f64,
    /// Channels that vary.
    pub(crate) varying: usize,
}

impl Tally {
    pub(crate) fn new(centre: &[f32], latents: usize) -> Self {
        let (channels, centre) = (vec![Channel::default(); centre.len()], centre.to_vec());
        let (fired, last) = (vec![0; latents], vec![0; latents]);
        Self { centre, channels, fired, last, tokens_by_l0: Vec::new(), cosines: 0.0, entries: 0, tokens: 0 }
    }

    /// Counts tokens `x` with their codes and what these decode to.
    pub(crate) fn add(&mut self, x: &[f32], codes: &Codes, decoded: &[f32]) {
        let d = self.centre.len();
        self.entries += codes.index.len();
        for t in 0..codes.tokens() {
            self.tokens += 1;
            let l0 = codes.token(t).0.len();
            if self.tokens_by_l0.len() <= l0 {
                self.tokens_by_l0.resize(l0 + 1, 0);
            }
            self.tokens_by_l0[l0] += 1;
            for &j in codes.token(t).0 {
                self.fired[j as usize] += 1;
                self.last[j as usize] = self.tokens as u64;
            }
        }
        for (x, y) in x.chunks_exact(d).zip(decoded.chunks_exact(d)) {
            let norms = f64::from(dot(x, x)).sqrt() * f64::from(dot(y, y)).sqrt();
            self.cosines += if norms > 0.0 { f64::from(dot(x, y)) / norms } else { 0.0 };
            for (((c, &x), &y), &b) in self.channels.iter_mut().zip(x).zip(y).zip(&self.centre) {
                let (x, r) = (f64::from(x - b), f64::from(x - y));
                *c = Channel { x: c.x + x, xx: c.xx + x * x, r: c.r + r, rr: c.rr + r * r };
            }
        }
    }

    /// What is said of these channels; `what` was measured.
    ///
    /// # Errors
    /// If none of them varies.
    pub(crate) fn summary(&self, range: Range<usize>, what: &dyn Display) -> Result<Summary> {
        let n = self.tokens as f64;
        let variance = |sum: f64, squares: f64| (squares / n - (sum / n) * (sum / n)).max(0.0);
        let mut shares = Vec::with_capacity(range.len());
        let (mut x_variance, mut r_variance, mut squares) = (0.0, 0.0, 0.0);
        for c in &self.channels[range.clone()] {
            let (x, r) = (variance(c.x, c.xx), variance(c.r, c.rr));
            // Rounding leaves a constant channel with a variance of some 1e-16 of its mean square.
            if x > 1e-12 * c.xx / n {
                shares.push(1.0 - r / x);
            }
            x_variance += x;
            r_variance += r;
            squares += c.rr;
        }
        if shares.is_empty() {
            return Err(Error::invalid(format!("{what}: no channel varies, nothing to explain")));
        }
        Ok(Summary {
            mse: squares / n / range.len() as f64,
            scaled_mse: squares / n / x_variance,
            explained_variance: shares.iter().sum::<f64>() / shares.len() as f64,
            fvu: r_variance / x_variance,
            varying: shares.len(),
        })
    }

    /// All of it.
    ///
    /// # Errors
    /// If no channel varies.
    pub(crate) fn quality(&self, what: &dyn Display) -> Result<Quality> {
        let n = self.tokens as f64;
        let Summary { mse, scaled_mse, explained_variance, fvu, varying } =
            self.summary(0..self.channels.len(), what)?;
        Ok(Quality {
            tokens: self.tokens,
            mse,
            scaled_mse,
            explained_variance,
            fvu,
            cosine: self.cosines / n,
            l0: self.entries as f64 / n,
            dead_share: self.fired.iter().filter(|&&f| f == 0).count() as f64 / self.fired.len() as f64,
            constant_channels: self.channels.len() - varying,
            density: self.fired.iter().map(|&f| f as f64 / n).collect(),
            silent: self.last.iter().map(|&at| self.tokens as u64 - at).collect(),
            tokens_by_l0: self.tokens_by_l0.clone(),
        })
    }
}

impl Sae {
    /// Measures the SAE on every token of `activations`.
    ///
    /// # Errors
    /// If the activations have another number of channels, cannot be read, or do not vary at all.
    pub fn measure(&self, activations: &Activations) -> Result<Quality> {
        self.fits(activations)?;
        let mut tally = Tally::new(&self.b_dec, self.latents);
        for i in 0..activations.len() {
            let x = activations.item(i)?;
            let codes = self.encode(&x)?;
            tally.add(&x, &codes, &self.decode(&codes));
        }
        tally.quality(activations)
    }
}

impl Quality {
    /// Share of latents that fired on none of the last `window` tokens: what counts as dead in training.
    ///
    /// # Errors
    /// If fewer tokens were measured.
    pub fn dead_share_over(&self, window: usize) -> Result<f64> {
        if window > self.tokens {
            return Err(Error::invalid(format!("a window of {window} tokens, {} were measured", self.tokens)));
        }
        Ok(self.silent.iter().filter(|&&s| s >= window as u64).count() as f64 / self.silent.len() as f64)
    }

    /// Names and values of the single numbers, as tables show them.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            ("tokens", self.tokens.to_string()),
            ("explained variance", format!("{:.3}", self.explained_variance)),
            ("scaled MSE", format!("{:.3}", self.scaled_mse)),
            ("FVU", format!("{:.3}", self.fvu)),
            ("MSE", format!("{:.4e}", self.mse)),
            ("cosine", format!("{:.3}", self.cosine)),
            ("L0", format!("{:.2}", self.l0)),
            ("dead share", format!("{:.3}", self.dead_share)),
        ]
    }

    /// What a notebook shows: a table.
    pub fn evcxr_display(&self) {
        super::report::show_table(&[("", self)]);
    }
}

impl std::fmt::Display for Quality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows: Vec<String> = self.rows().iter().map(|(name, value)| format!("{name} {value}")).collect();
        f.write_str(&rows.join(", "))
    }
}
