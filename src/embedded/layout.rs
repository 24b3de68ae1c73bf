//! Layout: what a middle block should know of every place of the picture.
//!
//! The first thing that a denoiser has to decide is what goes where, and at high noise that is all it can: but an error of
//! noise hardly depends on it, so that a small network is long in learning it. Representation alignment (Yu et al. 2025)
//! gives a middle block a target of its own, the features of an image encoder, and shortens the training of a transformer
//! many times. Here the truth is known in place of features: from every location u of the middle block, a linear read-out
//! tells class and colour of what is there, background and style, and
//!
//! L = Σ_u w(u) Σ_questions −Σ_a p(a|u) ln softmax(W h(u))_a / (locations · samples),
//!
//! with p the shares of the location that the answers have. The read-out is no part of the network and is dropped with the
//! end of the training.

use crate::diffusion::hook::{Hook, Kind, Site, Visit};
use crate::diffusion::layers::{Linear, composed, reshape};
use crate::diffusion::weights::Weights;
use crate::embedded::grounding::Covers;
use crate::error::{Error, Result};
use crate::scene::{Background, Class, Colour, Scene, Style};
use candle_core::{D, Device, Tensor};

/// Answers to every question: class or none, colour or none, background, style.
const ANSWERS: [usize; 4] = [Class::COUNT + 1, Colour::COUNT + 1, Background::COUNT, Style::COUNT];

/// All answers.
const ALL: usize = ANSWERS[0] + ANSWERS[1] + ANSWERS[2] + ANSWERS[3];

/// The read-out of one module.
#[derive(Debug)]
pub struct ReadOut {
    module: String,
    linear: Linear,
}

impl ReadOut {
    /// A read-out of `module`, whose output has `width` channels; its weights come from `weights`.
    ///
    /// # Errors
    /// A misshapen tensor.
    pub fn load(weights: &Weights, module: &str, width: usize) -> Result<Self> {
        Ok(Self { module: module.into(), linear: Linear::load(weights, width, ALL, true)? })
    }

    /// Keeps the module's output while a pass runs.
    #[must_use]
    pub fn watch(&self) -> Middle {
        Middle { site: Site::new(&self.module, Kind::Output), grid: (0, 0), output: None }
    }

    /// The loss over samples that show these scenes; `scenes` are the scenes' numbers in `covers`.
    ///
    /// # Errors
    /// A module that the pass did not reach, or whose grid does not divide the covers'.
    pub fn loss(&self, seen: &Middle, covers: &Covers, scenes: &[(usize, Scene)]) -> Result<Tensor> {
        let Some(output) = &seen.output else {
            return Err(Error::invalid(format!("{}: no output was computed there", self.module)));
        };
        let (n, locations, _) = output.dims3()?;
        let mut target = Vec::with_capacity(n * locations * ALL);
        for (number, scene) in scenes {
            target.extend(shares(covers, *number, scene, seen.grid)?);
        }
        let target = Tensor::from_vec(target, (n * locations, ALL), &Device::Cpu)?;
        let logits = self.linear.forward(output)?;
        let logits = reshape(&logits, (n * locations, ALL))?;
        composed(&[&logits], |logits| {
            let (mut from, mut losses) = (0, Vec::new());
            for answers in ANSWERS {
                let logits = logits[0].narrow(1, from, answers)?.contiguous()?;
                let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
                let log_p = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
                losses.push((log_p * target.narrow(1, from, answers)?.contiguous()?)?.sum(D::Minus1)?);
                from += answers;
            }
            Ok((Tensor::stack(&losses, 0)?.sum_all()? / -((n * locations) as f64))?)
        })
    }
}

/// Weight of what an object covers, beyond that of the backdrop.
const COVERED: f32 = 3.0;

/// w(u) p(a|u), location by location.
fn shares(covers: &Covers, number: usize, scene: &Scene, grid: (usize, usize)) -> Result<Vec<f32>> {
    let objects = covers.on(number, grid)?;
    let mut out = vec![0.0; grid.0 * grid.1 * ALL];
    for (u, row) in out.chunks_exact_mut(ALL).enumerate() {
        let covered: f32 = objects.iter().map(|o| o[u]).sum();
        // Objects that overlap at a location share it.
        let whole = covered.max(1.0);
        let weight = 1.0 + COVERED * covered.min(1.0);
        let (class, rest) = row.split_at_mut(ANSWERS[0]);
        let (colour, rest) = rest.split_at_mut(ANSWERS[1]);
        let (background, style) = rest.split_at_mut(ANSWERS[2]);
        class[0] = weight * (1.0 - covered).max(0.0);
        colour[0] = class[0];
        for (object, cover) in scene.objects.iter().zip(&objects) {
            class[1 + object.class.index()] += weight * cover[u] / whole;
            colour[1 + object.colour.index()] += weight * cover[u] / whole;
        }
        background[scene.background.index()] = 1.0;
        style[scene.style.index()] = 1.0;
    }
    Ok(out)
}

/// The output of a module in one pass.
#[derive(Debug)]
pub struct Middle {
    site: Site,
    grid: (usize, usize),
    output: Option<Tensor>,
}

impl Hook for Middle {
    fn sites(&self) -> Vec<Site> {
        vec![self.site.clone()]
    }

    fn visit(&mut self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        (self.grid, self.output) = (visit.grid, Some(activation.clone()));
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::hook::Half;
    use crate::scene::Split;

    #[test]
    fn shares_add_up_to_the_weight_of_a_location() {
        let covers = Covers::render(4);
        for i in 0..4 {
            let scene = Scene::sample(Split::Train, i as u64);
            let rows = shares(&covers, i, &scene, (8, 8)).unwrap();
            let (mut covered, mut free) = (0, 0);
            for row in rows.chunks_exact(ALL) {
                let sum = |from: usize, n: usize| row[from..from + n].iter().sum::<f32>();
                let weight = sum(0, ANSWERS[0]);
                assert!((sum(ANSWERS[0], ANSWERS[1]) - weight).abs() < 1e-5 && (1.0..=4.01).contains(&weight));
                assert!((sum(ANSWERS[0] + ANSWERS[1], ANSWERS[2] + ANSWERS[3]) - 2.0).abs() < 1e-6);
                covered += usize::from(row[0] == 0.0);
                free += usize::from(row[0] == 1.0);
            }
            assert!(covered > 0 && free > 10, "{covered} covered, {free} free");
        }
    }

    #[test]
    fn a_read_out_that_knows_nothing_costs_the_answers_logarithms() {
        let weights = Weights::seeded(1, &Device::Cpu);
        let read = ReadOut::load(&weights, "mid_block", 3).unwrap();
        for (_, var) in weights.vars() {
            var.set(&var.zeros_like().unwrap()).unwrap();
        }
        let mut seen = read.watch();
        let scene = Scene::sample(Split::Train, 0);
        let covers = Covers::render(1);
        let missing = read.loss(&seen, &covers, &[(0, scene.clone())]).unwrap_err().to_string();
        assert!(missing.contains("mid_block"), "{missing}");
        let site = seen.sites().remove(0);
        let half = Half::Conditional;
        let visit = Visit { site: &site, step: 0, steps: 1, timestep: 0.0, half, grid: (4, 4), items: &[0] };
        seen.visit(&visit, &Tensor::zeros((1, 16, 3), candle_core::DType::F32, &Device::Cpu).unwrap()).unwrap();
        let loss = read.loss(&seen, &covers, &[(0, scene.clone())]).unwrap().to_scalar::<f32>().unwrap();
        let rows = shares(&covers, 0, &scene, (4, 4)).unwrap();
        let weight: f32 = rows.chunks_exact(ALL).map(|r| r[..ANSWERS[0]].iter().sum::<f32>()).sum::<f32>() / 16.0;
        let ln = |i: usize| (ANSWERS[i] as f32).ln();
        let expected = weight * (ln(0) + ln(1)) + ln(2) + ln(3);
        assert!((loss - expected).abs() < 1e-3, "{loss} {expected}");
    }
}
