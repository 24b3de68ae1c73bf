//! How far a picture moves with the number of edited tokens (TIDE, figure 6).
//!
//! The same latent edits, at one step or at several, are limited to the n tokens that each would change most; the distance is the mean absolute
//! difference to the unedited picture. Beside it stands a random direction of equal norm on as many tokens.

use super::generate::{Generate, pictures};
use super::image::mean_absolute;
use super::interval::{Interval, mean};
use crate::diffusion::hook::Hook;
use crate::error::{Error, Result};
use crate::intervene::LatentEdit;

/// Distances by the number of edited tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenDose {
    /// Tokens, distance of the edit, distance of the control.
    pub points: Vec<(usize, Interval, Interval)>,
}

impl TokenDose {
    /// Generates every prompt with `edits` on each number of `tokens`.
    ///
    /// ```no_run
    /// use denoscope::intervene::LatentEdit;
    /// use denoscope::measure::TokenDose;
    /// use denoscope::prelude::*;
    /// # fn demo(model: &Pipeline, sae: &Sae) -> denoscope::Result<()> {
    /// let prompts = ["a red house, on a meadow", "a blue fish, in the sea"].map(String::from);
    /// let dose = TokenDose::run(&mut Settled::new(model, 20), &prompts, &[1, 2], &[0, 4, 16, 64], &|| {
    ///     Ok(vec![LatentEdit::invert_top(sae, 2)])
    /// })?;
    /// dose.chart().save("dose.svg")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// No number of tokens, not as many seeds as prompts, or whatever the model or the edit refuse.
    pub fn run(
        model: &mut dyn Generate,
        prompts: &[String],
        seeds: &[u64],
        tokens: &[usize],
        edits: &dyn Fn() -> Result<Vec<LatentEdit>>,
    ) -> Result<Self> {
        if tokens.is_empty() || prompts.is_empty() || prompts.len() != seeds.len() {
            let (t, p, s) = (tokens.len(), prompts.len(), seeds.len());
            return Err(Error::invalid(format!("token dose: {t} numbers of tokens, {p} prompts and {s} seeds")));
        }
        let before = pictures(model, prompts, seeds, Vec::new())?;
        let mut distance = |edits: Vec<LatentEdit>| -> Result<Interval> {
            let hooks = edits.into_iter().map(|e| Box::new(e) as Box<dyn Hook>).collect();
            let after = pictures(model, prompts, seeds, hooks)?;
            let all = before.iter().zip(&after).map(|(a, b)| mean_absolute(a, b)).collect::<Result<Vec<f64>>>()?;
            Ok(mean(&all, 0))
        };
        let mut points = Vec::with_capacity(tokens.len());
        for &n in tokens {
            let edits: Vec<LatentEdit> = edits()?.into_iter().map(|e| e.most(n)).collect();
            let random = edits.iter().map(|e| e.clone().control(n as u64)).collect();
            points.push((n, distance(edits)?, distance(random)?));
        }
        Ok(Self { points })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::hook::{Half, Kind, Site, Visit};
    use crate::measure::generate::ByFunction;
    use crate::sae::Sae;
    use candle_core::{Device, Tensor};
    use image::RgbImage;

    /// A pixel a token: as bright as its first channel, 0 to 255.
    fn toy(prompts: &[String], _: &[u64], mut hooks: Vec<Box<dyn Hook>>) -> Result<Vec<RgbImage>> {
        let (n, site) = (prompts.len(), Site::new("mid_block.attentions.0", Kind::Residual));
        let items: Vec<usize> = (0..n).collect();
        let (step, steps, half) = (0, 2, Half::Conditional);
        let visit = Visit { site: &site, step, steps, timestep: 999.0, half, grid: (1, 4), items: &items };
        let one = [100f32, 0.0, 50.0, 0.0, 20.0, 0.0, 10.0, 0.0];
        let mut delta = Tensor::from_vec(one.repeat(n), (n, 4, 2), &Device::Cpu)?;
        for hook in &mut hooks {
            delta = hook.visit(&visit, &delta)?.unwrap_or(delta);
        }
        let values = delta.to_vec3::<f32>()?;
        let pixel = |i: usize, x: u32| image::Rgb([values[i][x as usize][0].clamp(0.0, 255.0).round() as u8; 3]);
        Ok((0..n).map(|i| RgbImage::from_fn(4, 1, |x, _| pixel(i, x))).collect())
    }

    #[test]
    fn more_tokens_move_the_picture_further() {
        // Latent 0 reads and writes channel 0: ablating it takes 100, 50, 20, 10 off the four tokens.
        let mut sae = Sae::random(2, 3, 2, 0).unwrap();
        (sae.w_enc, sae.w_dec) = (vec![1., 0., 0., 1., 0., -1.], vec![1., 0., 0., 1., 0., -1.]);
        let prompts = vec!["x".to_string(); 2];
        let edit = || Ok(vec![LatentEdit::scale(&sae, [0], 0.0)]);
        let dose = TokenDose::run(&mut ByFunction(toy), &prompts, &[1, 2], &[0, 1, 2, 9], &edit).unwrap();
        let off: Vec<f64> = dose.points.iter().map(|p| (p.1.value * 255.0 * 4.0).round()).collect();
        assert_eq!(off, [0.0, 100.0, 150.0, 180.0]);
        assert_eq!(dose.points[0].2.value, 0.0);
        assert!(dose.points[3].2.value > 0.0);
        let e = TokenDose::run(&mut ByFunction(toy), &prompts, &[1], &[1], &edit).unwrap_err().to_string();
        assert!(e.contains("2 prompts and 1 seeds"), "{e}");
    }
}
