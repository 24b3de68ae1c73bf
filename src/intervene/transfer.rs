//! Feature transfer: give a picture what another prompt's picture has and it lacks (RIEBench's protocol).
//!
//! With m_c the mean activation of latent c over the tokens of a region, once for the source's picture and once for the
//! target's, the score of a latent is
//!
//! s_c = m_c^src / Σ m^src − m_c^tgt / Σ m^tgt
//!
//! The k latents with the greatest scores are the source's own (S), the k with the least the target's (T), and the
//! source is generated anew with
//!
//! Δ′\[i,j\] = Δ\[i,j\] + β ( Σ_{c∈T} m_c^tgt f_c − Σ_{c∈S} z_c\[i,j\] f_c )
//!
//! The protocol does not say with which weights features are added and subtracted; here the added ones get the target's
//! mean, and [`Removal`] says what is subtracted.

use super::edit::{Common, add_parts, edit, length, shift};
use super::mean_code::MeanCode;
use super::region::Region;
use super::spatial::Removal;
use super::strength::Strength;
use crate::diffusion::hook::Visit;
use crate::error::{Error, Result};
use crate::sae::Sae;
use candle_core::Tensor;
use std::sync::Arc;

/// How much more a latent belongs to the source than to the target, by latent.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureScores {
    source: MeanCode,
    target: MeanCode,
    scores: Vec<f64>,
}

impl FeatureScores {
    /// The scores of two mean codes, over the masked tokens of the source's and of the target's picture.
    ///
    /// # Errors
    /// Mean codes of two SAEs, or one in which no latent is active.
    pub fn between(source: MeanCode, target: MeanCode) -> Result<Self> {
        let (s, t) = (source.values().len(), target.values().len());
        if s != t {
            return Err(Error::Shape { what: "target's mean code".into(), found: vec![t], expected: vec![s] });
        }
        for (name, code) in [("source", &source), ("target", &target)] {
            if code.sum() <= 0.0 {
                return Err(Error::invalid(format!("feature scores: no latent is active in the {name}'s mean code")));
            }
        }
        let share = |code: &MeanCode, c: usize| f64::from(code.values()[c]) / code.sum();
        let scores = (0..s).map(|c| share(&source, c) - share(&target, c)).collect();
        Ok(Self { source, target, scores })
    }

    /// s_c by latent: above 0 where it is more the source's.
    #[must_use]
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }

    /// The `k` latents that are most the source's own, first the most so; only with scores above 0.
    #[must_use]
    pub fn of_source(&self, k: usize) -> Vec<usize> {
        self.top(k, 1.0)
    }

    /// The `k` latents that are most the target's own.
    #[must_use]
    pub fn of_target(&self, k: usize) -> Vec<usize> {
        self.top(k, -1.0)
    }

    /// What is added: the `k` latents that are most the target's own, with their means in the target.
    pub(super) fn added(&self, k: usize) -> Vec<(usize, f32)> {
        self.of_target(k).into_iter().map(|c| (c, self.target.values()[c])).collect()
    }

    /// What is taken away: the `k` latents that are most the source's own, with their means in the source.
    pub(super) fn removed(&self, k: usize) -> Vec<(usize, f32)> {
        self.of_source(k).into_iter().map(|c| (c, self.source.values()[c])).collect()
    }

    fn top(&self, k: usize, sign: f64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.scores.len()).filter(|&c| sign * self.scores[c] > 0.0).collect();
        order.sort_by(|&a, &b| (sign * self.scores[b]).total_cmp(&(sign * self.scores[a])).then(a.cmp(&b)));
        order.truncate(k);
        order
    }
}

/// A transfer of features into the picture of the source prompt.
///
/// ```
/// use denoscope::activations::Activations;
/// use denoscope::intervene::{FeatureScores, MeanCode, Region, Transfer};
/// use denoscope::sae::Sae;
///
/// let sae = Sae::random(4, 16, 3, 0)?;
/// let with = |x: [f32; 4]| Activations::from_vec((1, 2), 4, x.repeat(2));
/// let (source, target) = (with([1.0, 0.2, 0.0, 0.1])?, with([0.0, 0.1, 1.0, 0.3])?);
/// let scores = FeatureScores::between(
///     MeanCode::of(&sae, &source, &Region::Everywhere)?,
///     MeanCode::of(&sae, &target, &Region::Everywhere)?,
/// )?;
/// let edit = Transfer::new(&sae, &scores, 2);
/// assert_eq!(edit.latents(), scores.of_target(2));
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Transfer {
    common: Common,
    /// The source's features with their means.
    from: Vec<(usize, f32)>,
    region: Region,
    removal: Removal,
}

edit!(Transfer, Transfer::is_nothing);

impl Transfer {
    /// Adds the `k` features that are most the target's and takes away the `k` that are most the source's.
    #[must_use]
    pub fn new(sae: &Sae, scores: &FeatureScores, k: usize) -> Self {
        let (to, weights) = scores.added(k).into_iter().unzip();
        let mut common = Common::new("transfer", Arc::new(sae.clone()), to, Strength::Constant(1.0));
        common.weights = weights;
        Self { common, from: scores.removed(k), region: Region::Everywhere, removal: Removal::Activation }
    }

    /// Where features are transferred (default: everywhere).
    #[must_use]
    pub fn region(mut self, region: impl Into<Region>) -> Self {
        self.region = region.into();
        self
    }

    /// β and its normaliser (default: 1, the means themselves). [`Strength::Relative`] measures by what is added.
    #[must_use]
    pub fn strength(mut self, strength: Strength) -> Self {
        self.common.strength = strength;
        self
    }

    /// What is subtracted for the source's features: each one's own part at the token (default), with
    /// [`Removal::Literal`] its mean in the source, m_c^src f_c, or nothing.
    #[must_use]
    pub fn removal(mut self, removal: Removal) -> Self {
        self.removal = removal;
        self
    }

    /// The source's features, which are taken away.
    #[must_use]
    pub fn removed(&self) -> Vec<usize> {
        self.from.iter().map(|(c, _)| *c).collect()
    }

    fn is_nothing(&self) -> bool {
        let removes = !self.from.is_empty() && !matches!(self.removal, Removal::None | Removal::Scaled(0.0));
        self.common.strength.beta() == 0.0 || (self.common.latents.is_empty() && !removes)
    }

    fn change(&self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        let common = &self.common;
        let cells = self.region.on_grid(visit.grid)?;
        let space = common.space.as_ref();
        let added = common.direction();
        let length = length(&added);
        let mean: Vec<f64> = add_parts(space, &self.from);
        common.edit(visit, activation, true, &|item| {
            let beta = common.strength.per_token(&item.code_norms(), &item.norms(), length);
            for (token, row) in item.rows.chunks_exact_mut(item.width).enumerate().filter(|(t, _)| cells[*t]) {
                let own = || -> Vec<(usize, f32)> {
                    let code = &item.code[token];
                    code.iter().filter(|(c, _)| self.from.iter().any(|(f, _)| f == c)).copied().collect()
                };
                let (taken, share) = match self.removal {
                    Removal::Activation => (add_parts(space, &own()), 1.0),
                    Removal::Scaled(gamma) => (add_parts(space, &own()), gamma),
                    Removal::Literal => (mean.clone(), 1.0),
                    Removal::None => (Vec::new(), 0.0),
                };
                shift(row, &added, beta[token]);
                if share != 0.0 {
                    shift(row, &common.or_control(taken), -share * beta[token]);
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::edit::toy::*;
    use super::*;
    use crate::diffusion::hook::Hook;
    use crate::intervene::Quadrant;

    fn means(values: &[f32]) -> MeanCode {
        MeanCode::from_values(values.to_vec(), 8).unwrap()
    }

    #[test]
    fn scores_compare_shares_of_the_code() {
        // Twice the activation everywhere is the same picture: only shares count.
        let scores = FeatureScores::between(means(&[6.0, 2.0, 0.0]), means(&[1.0, 1.0, 2.0])).unwrap();
        assert_eq!(scores.scores(), [0.75 - 0.25, 0.25 - 0.25, 0.0 - 0.5]);
        assert_eq!((scores.of_source(5), scores.of_target(5)), (vec![0], vec![2]));
        let same = FeatureScores::between(means(&[3.0, 1.0]), means(&[6.0, 2.0])).unwrap();
        assert!(same.of_source(2).is_empty() && same.of_target(2).is_empty());
    }

    /// Latent 0 is the source's (mean 4), latent 1 the target's (mean 3).
    fn edit() -> Transfer {
        let scores = FeatureScores::between(means(&[4.0, 0.0]), means(&[0.0, 3.0])).unwrap();
        let mut common = Common::new("transfer", space(), scores.of_target(1), Strength::Constant(1.0));
        common.weights = vec![3.0];
        Transfer { common, from: vec![(0, 4.0)], region: Region::Everywhere, removal: Removal::Activation }
    }

    #[test]
    fn the_targets_features_come_and_the_sources_go() {
        let apply = |mut e: Transfer| rows(&e.visit(&visit(&site()), &activation()).unwrap().unwrap());
        // Token j of item i is (j + 1, −1, i); z_0 = j + 1, f_0 = (0, 2, 0), f_1 = (1, 0, 1).
        let out = apply(edit().region(Quadrant::BottomRight).strength(Strength::Constant(2.0)));
        assert_eq!(out[6], [7.0 + 6.0, -1.0 - 2.0 * 7.0 * 2.0, 6.0]);
        assert_eq!(out[0], [1.0, -1.0, 0.0]);
        assert_eq!(apply(edit().removal(Removal::Literal))[0], [4.0, -1.0 - 8.0, 3.0]);
        assert_eq!(apply(edit().removal(Removal::None))[0], [4.0, -1.0, 3.0]);
        assert_eq!(edit().removed(), [0]);
    }

    #[test]
    fn nothing_to_transfer_leaves_the_activation_alone() {
        let mut zero = edit().strength(Strength::Constant(0.0));
        assert!(zero.visit(&visit(&site()), &activation()).unwrap().is_none());
        let mut none = Transfer { from: vec![], ..edit() };
        none.common.latents.clear();
        none.common.weights.clear();
        assert!(none.visit(&visit(&site()), &activation()).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_compared_is_named() {
        let e = FeatureScores::between(means(&[1.0]), means(&[1.0, 2.0])).unwrap_err().to_string();
        assert!(e.contains("target's mean code") && e.contains("[2]"), "{e}");
        let e = FeatureScores::between(means(&[1.0, 0.0]), means(&[0.0, 0.0])).unwrap_err().to_string();
        assert!(e.contains("no latent is active in the target's"), "{e}");
    }
}
