//! Latent edits: change the code of a token, z → z′, and put the change back into the activation.
//!
//! Δ′\[i,j\] = Δ\[i,j\] + β Σ_c (z′_c − z_c)\[i,j\] f_c, inside a region. With [`ErrorTerm::Dropped`] the reconstruction
//! Σ z f + b takes the place of Δ first. TIDE (section 6 and supplement C.1) names three: erase or invert the top K
//! features of a token, scale the target's top K indices inside the original code, and replace the code; each with
//! [renormalisation](Norm), at one or more steps. Its effect grows with the number of tokens that are edited, which
//! [`LatentEdit::most`] limits.

use super::change::{Change, Code, ErrorTerm, Norm, difference, renormalised};
use super::edit::{Common, Item, add_parts, edit, length, norm, shift};
use super::mean_code::MeanCode;
use super::region::Region;
use super::space::Space;
use super::strength::Strength;
use crate::diffusion::hook::Visit;
use crate::error::{Error, Result};
use crate::sae::{Codes, Sae};
use candle_core::Tensor;
use std::sync::Arc;

/// An edit of the codes of tokens.
///
/// ```
/// use denoscope::intervene::{ErrorTerm, LatentEdit, Quadrant, Strength};
/// use denoscope::sae::Sae;
///
/// let sae = Sae::random(8, 32, 4, 0)?;
/// // Latents 3 and 5 three times as strong in one corner, at the first five steps.
/// let edit = LatentEdit::scale(&sae, [3, 5], 3.0).region(Quadrant::TopLeft).steps(&[0, 1, 2, 3, 4]);
/// // Every token loses its two strongest features; the rest grows to the old norm (TIDE).
/// let erase = LatentEdit::erase_top(&sae, 2);
/// // The layer's reconstruction in place of the layer.
/// let reconstruct = LatentEdit::scale(&sae, [], 1.0).error(ErrorTerm::Dropped);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct LatentEdit {
    common: Common,
    change: Change,
    region: Region,
    norm: Norm,
    error: ErrorTerm,
    most: Option<usize>,
}

edit!(LatentEdit, LatentEdit::is_nothing);

impl LatentEdit {
    /// Scaling: z′_c = `factor` · z_c for `latents`; 0 ablates, −1 inverts.
    #[must_use]
    pub fn scale(sae: &Sae, latents: impl IntoIterator<Item = usize>, factor: f32) -> Self {
        let common = Self::common(Arc::new(sae.clone()), latents.into_iter().collect());
        Self::of(common, Change::Scale(factor), Norm::Free)
    }

    /// Replacement of single activations: z′_c = v_c for `latents`, at every token of the region. With the values of a
    /// [`MeanCode`] it is mean ablation.
    ///
    /// # Errors
    /// Not as many values as latents, or one that is not finite.
    pub fn set(sae: &Sae, latents: impl IntoIterator<Item = usize>, values: &[f32]) -> Result<Self> {
        let common = Self::common(Arc::new(sae.clone()), latents.into_iter().collect());
        if common.latents.len() != values.len() {
            let (l, v) = (common.latents.len(), values.len());
            return Err(Error::invalid(format!("latent edit: {v} values for {l} latents")));
        }
        if let Some(v) = values.iter().find(|v| !v.is_finite()) {
            return Err(Error::invalid(format!("latent edit: an activation of {v} to be set")));
        }
        Ok(Self::of(common, Change::Set(values.to_vec()), Norm::Free))
    }

    /// TIDE's erasure: every token loses its `k` strongest features, and the rest keeps the code's norm.
    #[must_use]
    pub fn erase_top(sae: &Sae, k: usize) -> Self {
        let common = Self::common(Arc::new(sae.clone()), Vec::new());
        Self::of(common, Change::Top { k, factor: 0.0 }, Norm::Code)
    }

    /// TIDE's inversion: the `k` strongest features of every token change sign.
    #[must_use]
    pub fn invert_top(sae: &Sae, k: usize) -> Self {
        let common = Self::common(Arc::new(sae.clone()), Vec::new());
        Self::of(common, Change::Top { k, factor: -1.0 }, Norm::Code)
    }

    /// TIDE's transition: the `k` strongest features of the target are scaled by `factor` inside the picture's own
    /// code.
    #[must_use]
    pub fn scale_top(sae: &Sae, target: &MeanCode, k: usize, factor: f32) -> Self {
        let common = Self::common(Arc::new(sae.clone()), target.top(k));
        Self::of(common, Change::Scale(factor), Norm::Code)
    }

    /// TIDE's replacement: every token gets the code that item `item` of `codes` has at its place.
    ///
    /// # Errors
    /// No such item, or codes of another SAE.
    pub fn replace(sae: &Sae, codes: &Codes, item: usize) -> Result<Self> {
        if codes.latents != sae.latents || item >= codes.items() {
            return Err(Error::invalid(format!(
                "latent edit: item {item} of codes of {} items and {} latents, for an SAE of {} latents",
                codes.items(),
                codes.latents,
                sae.latents
            )));
        }
        let first = item * codes.tokens_per_item;
        let token = |t: usize| -> Code {
            let (index, value) = codes.token(t);
            index.iter().zip(value).map(|(&l, &v)| (l as usize, v)).collect()
        };
        let target = (first..first + codes.tokens_per_item).map(token).collect();
        let common = Self::common(Arc::new(sae.clone()), Vec::new());
        Ok(Self::of(common, Change::Replace(target), Norm::Code))
    }

    fn common(space: Arc<dyn Space>, latents: Vec<usize>) -> Common {
        Common::new("latent", space, latents, Strength::Constant(1.0))
    }

    fn of(common: Common, change: Change, norm: Norm) -> Self {
        Self { common, change, region: Region::Everywhere, norm, error: ErrorTerm::Kept, most: None }
    }

    /// Where it acts (default: everywhere).
    #[must_use]
    pub fn region(mut self, region: impl Into<Region>) -> Self {
        self.region = region.into();
        self
    }

    /// The share β of the change (default: the whole, 1), or its normaliser: [`Strength::Relative`] makes the change
    /// β times as long as Δ on average, [`Strength::Code`] multiplies it by β‖z‖.
    #[must_use]
    pub fn strength(mut self, strength: Strength) -> Self {
        self.common.strength = strength;
        self
    }

    /// Which norm stays (default: the code's for TIDE's edits, none for [`scale`](Self::scale) and
    /// [`set`](Self::set)).
    #[must_use]
    pub fn norm(mut self, norm: Norm) -> Self {
        self.norm = norm;
        self
    }

    /// Whether the SAE's error stays in the activation (default: it does).
    #[must_use]
    pub fn error(mut self, error: ErrorTerm) -> Self {
        self.error = error;
        self
    }

    /// Edits only the `tokens` tokens of the region that it would change most.
    #[must_use]
    pub fn most(mut self, tokens: usize) -> Self {
        self.most = Some(tokens);
        self
    }

    /// Whether it would leave every activation as it is.
    fn is_nothing(&self) -> bool {
        let same = match &self.change {
            Change::Scale(factor) => self.common.latents.is_empty() || *factor == 1.0,
            Change::Set(_) => self.common.latents.is_empty(),
            Change::Top { k, .. } => *k == 0,
            Change::Replace(_) => false,
        };
        // Putting a reconstruction in the activation's place is a change in itself.
        let reconstructs = self.error == ErrorTerm::Dropped;
        (same && !reconstructs) || self.common.strength.beta() == 0.0 || self.most == Some(0)
    }

    fn change(&self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        let cells = self.region.on_grid(visit.grid)?;
        if let Change::Replace(target) = &self.change
            && target.len() != cells.len()
        {
            let what = format!("codes to replace those at {} (tokens)", visit.site);
            return Err(Error::Shape { what, found: vec![target.len()], expected: vec![cells.len()] });
        }
        self.common.edit(visit, activation, true, &|item| self.item(item, &cells))
    }

    fn item(&self, item: &mut Item<'_>, cells: &[bool]) -> Result<()> {
        let common = &self.common;
        // Σ (z′ − z) f of every token of the region; nothing where nothing changes.
        let mut pushes: Vec<(usize, Vec<f64>, f64)> = Vec::new();
        for (token, code) in item.code.iter().enumerate().filter(|(t, _)| cells[*t]) {
            let mut new = self.change.apply(token, code, &common.latents);
            if self.norm == Norm::Code {
                new = renormalised(new, code);
            }
            let change = difference(&new, code);
            if change.is_empty() && self.error == ErrorTerm::Kept {
                continue;
            }
            let push = common.or_control(add_parts(common.space.as_ref(), &change));
            let length = length(&push);
            pushes.push((token, push, length));
        }
        if let Some(most) = self.most {
            // A stable sort: of equal changes the earlier tokens are edited.
            pushes.sort_by(|a, b| b.2.total_cmp(&a.2));
            pushes.truncate(most);
        }
        let mean = pushes.iter().map(|p| p.2).sum::<f64>() / pushes.len().max(1) as f64;
        let beta = common.strength.per_token(&item.code_norms(), &item.norms(), mean);
        let bias: Vec<f64> = common.space.bias().into_iter().map(f64::from).collect();
        for (token, push, _) in pushes {
            let row = &mut item.rows[token * item.width..(token + 1) * item.width];
            let before = norm(row);
            if self.error == ErrorTerm::Dropped {
                row.fill(0.0);
                shift(row, &add_parts(common.space.as_ref(), &item.code[token]), 1.0);
                shift(row, &bias, 1.0);
            }
            shift(row, &push, beta[token]);
            let after = norm(row);
            if self.norm == Norm::Activation && after > 0.0 {
                row.iter_mut().for_each(|x| *x = (f64::from(*x) * before / after) as f32);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "latent_edit_tests.rs"]
mod tests;
