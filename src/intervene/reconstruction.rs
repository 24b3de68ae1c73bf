//! An SAE's reconstruction in the place of an activation, at every step: what a picture loses with what the code misses.
//!
//! a′\[i,j\] = W_dec z(a\[i,j\]) + b, with the SAE of the step. (Unlike the edits beside it, which act on the activation
//! itself.) TIDE's later version compares the Fréchet distances of pictures made this way.

use crate::diffusion::hook::{Half, Hook, Site, Visit};
use crate::digest::of_shown;
use crate::error::{Error, Result};
use crate::sae::Sae;
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// Replaces what is at a site by its reconstruction.
///
/// ```no_run
/// use denoscope::prelude::*;
/// let model = Pipeline::open("scene-unet")?;
/// let sae = Sae::load("work/sae")?;
/// let site = Site::new("mid_block.attentions.0", Kind::Residual);
/// let picture = model.prompt("a red house in a meadow").with(Reconstruction::new([sae], site)?).run()?;
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Reconstruction {
    /// One for all steps, or one for each.
    saes: Arc<Vec<Sae>>,
    site: Site,
    half: Option<Half>,
}

impl Reconstruction {
    /// With one SAE for all steps, or one for every step of the generation, in both halves of guidance.
    ///
    /// # Errors
    /// No SAE, or SAEs of different widths.
    pub fn new(saes: impl IntoIterator<Item = Sae>, site: Site) -> Result<Self> {
        let saes: Vec<Sae> = saes.into_iter().collect();
        let Some(first) = saes.first() else { return Err(Error::invalid("reconstruction: no SAE given")) };
        if let Some(other) = saes.iter().find(|s| s.d != first.d) {
            let (found, expected) = (vec![other.d], vec![first.d]);
            return Err(Error::Shape { what: "reconstruction: channels of an SAE".into(), found, expected });
        }
        Ok(Self { saes: Arc::new(saes), site, half: None })
    }

    /// In one guidance half only.
    #[must_use]
    pub fn half(mut self, half: Half) -> Self {
        self.half = Some(half);
        self
    }
}

impl Hook for Reconstruction {
    fn sites(&self) -> Vec<Site> {
        vec![self.site.clone()]
    }

    fn wants(&self, _: usize, _: usize, half: Half) -> bool {
        self.half.is_none_or(|own| own == half)
    }

    fn identity(&self) -> Option<u64> {
        of_shown(self)
    }

    fn visit(&mut self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        let sae = match &self.saes[..] {
            [one] => one,
            all if all.len() == visit.steps => &all[visit.step],
            all => {
                return Err(Error::invalid(format!(
                    "reconstruction: {} SAEs for a generation of {} steps, expected one or one for each",
                    all.len(),
                    visit.steps
                )));
            }
        };
        let (_, _, d) = activation.dims3()?;
        if d != sae.d {
            let what = format!("activation at {} for a reconstruction", visit.site);
            return Err(Error::Shape { what, found: vec![d], expected: vec![sae.d] });
        }
        let rows = activation.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let restored = sae.decode(&sae.encode(&rows)?);
        let restored = Tensor::from_vec(restored, activation.shape(), activation.device())?;
        Ok(Some(restored.to_dtype(activation.dtype())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::edit::toy::{activation, rows, site, visit};
    use super::*;

    #[test]
    fn the_sae_of_the_step_is_what_stands_there() {
        let saes: Vec<Sae> = (0..10).map(|i| Sae::random(3, 6, 2, i).unwrap()).collect();
        let (site, x) = (site(), activation());
        let apply = |mut hook: Reconstruction, step: usize| {
            hook.visit(&Visit { step, ..visit(&site) }, &x).map(|y| rows(&y.unwrap()))
        };
        let all = Reconstruction::new(saes.clone(), site.clone()).unwrap();
        for step in [0, 7] {
            let own = apply(all.clone(), step).unwrap();
            let input: Vec<f32> = rows(&x).concat();
            let by_hand = saes[step].decode(&saes[step].encode(&input).unwrap());
            assert_eq!(own.concat(), by_hand);
            assert_eq!(own, apply(Reconstruction::new([saes[step].clone()], site.clone()).unwrap(), 3).unwrap());
        }
        assert!(!all.clone().half(Half::Conditional).wants(0, 10, Half::Unconditional));
        let few = Reconstruction::new(saes[..4].to_vec(), site.clone()).unwrap();
        assert!(apply(few, 0).unwrap_err().to_string().contains("4 SAEs for a generation of 10 steps"));
        let wide = Reconstruction::new([Sae::random(5, 6, 2, 0).unwrap()], site.clone()).unwrap();
        assert!(apply(wide, 0).unwrap_err().to_string().contains("[3]"));
        assert!(Reconstruction::new([], site).is_err());
    }
}
