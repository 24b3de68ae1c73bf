//! A trained temporal-aware SAE.

use super::Modulation;
use super::modulation::factor;
use crate::activations::{Description, Trajectories};
use crate::error::{Error, Result};
use crate::sae::measure::Tally;
use crate::sae::{Codes, Quality, Sae};

/// One dictionary for all steps, with the modulation by which it is told the step.
///
/// At every step it is a plain SAE, [`at`](Self::at): the modulation is folded into its weights, so that whatever takes an
/// [`Sae`] takes this one at a step. Latents are the same at all steps.
#[derive(Debug, Clone, PartialEq)]
pub struct TideSae {
    /// The dictionary, of modulated activations: unit decoder rows.
    pub sae: Sae,
    /// Scale and shift, in units of the activations (the shift is not of scaled ones any more).
    pub modulation: Modulation,
    /// Where and when the activations of every step were taken.
    pub about: Vec<Description>,
}

impl TideSae {
    /// Puts a dictionary and a modulation together.
    ///
    /// # Errors
    /// If their channels differ, or there is not one description for every step.
    pub fn new(sae: Sae, modulation: Modulation, about: Vec<Description>) -> Result<Self> {
        if sae.d != modulation.d || about.len() != modulation.t.len() {
            return Err(Error::invalid(format!(
                "temporal-aware SAE: a dictionary of {} channels, a modulation of {} steps of {} channels, {} descriptions",
                sae.d,
                modulation.t.len(),
                modulation.d,
                about.len()
            )));
        }
        sae.check()?;
        Ok(Self { sae, modulation, about })
    }

    /// The SAE at step `i` of those it was trained on.
    ///
    /// W_enc ⊙ (1 + a), W_dec ⊘ (1 + a) and (b_dec − c) ⊘ (1 + a): the same codes, and x̂ with the modulation undone. Its
    /// decoder rows have no unit length.
    ///
    /// # Panics
    /// If there is no such step.
    #[must_use]
    pub fn step(&self, i: usize) -> Sae {
        let mut sae = self.at(self.modulation.t[i]);
        sae.about = (!self.about[i].fingerprint.is_empty()).then(|| self.about[i].clone());
        sae
    }

    /// The SAE at progress `t`, between two steps with the modulation on the line between theirs.
    #[must_use]
    pub fn at(&self, t: f64) -> Sae {
        let ((scale, shift), mut sae) = (self.modulation.at(t), self.sae.clone());
        let factors: Vec<f32> = scale.iter().map(|a| factor(*a)).collect();
        for (encoder, decoder) in sae.w_enc.chunks_exact_mut(sae.d).zip(sae.w_dec.chunks_exact_mut(sae.d)) {
            encoder.iter_mut().zip(&factors).for_each(|(w, f)| *w *= f);
            decoder.iter_mut().zip(&factors).for_each(|(w, f)| *w /= f);
        }
        for ((b, c), f) in sae.b_dec.iter_mut().zip(&shift).zip(&factors) {
            *b = (*b - c) / f;
        }
        sae.about = None;
        sae
    }

    /// Channels of an activation.
    #[must_use]
    pub fn d(&self) -> usize {
        self.sae.d
    }

    /// Number of latents.
    #[must_use]
    pub fn latents(&self) -> usize {
        self.sae.latents
    }

    fn fits(&self, trajectories: &Trajectories) -> Result<()> {
        let found = [trajectories.steps(), trajectories.d()];
        if found == [self.modulation.t.len(), self.sae.d] {
            return trajectories.same_place(&self.about);
        }
        Err(Error::Shape {
            what: format!("{trajectories}: steps and channels"),
            found: found.to_vec(),
            expected: vec![self.modulation.t.len(), self.sae.d],
        })
    }

    /// The codes of every step of every trajectory: one [`Codes`] a step.
    ///
    /// # Errors
    /// If the trajectories are of other steps, another place or shape, or cannot be read.
    pub fn encode_all(&self, trajectories: &Trajectories) -> Result<Vec<Codes>> {
        self.fits(trajectories)?;
        (0..trajectories.steps()).map(|i| self.step(i).encode_all(trajectories.step(i))).collect()
    }

    /// Measures it on every token of every step, together.
    ///
    /// # Errors
    /// If the trajectories are of other steps, another place or shape, cannot be read, or do not vary.
    pub fn measure(&self, trajectories: &Trajectories) -> Result<Quality> {
        self.fits(trajectories)?;
        let mut tally = Tally::new(&self.step(0).b_dec, self.sae.latents);
        for s in 0..trajectories.steps() {
            let (sae, step) = (self.step(s), trajectories.step(s));
            for i in 0..step.len() {
                let x = step.item(i)?;
                let codes = sae.encode(&x)?;
                tally.add(&x, &codes, &sae.decode(&codes));
            }
        }
        tally.quality(trajectories)
    }

    /// What a notebook shows: the SAE in one line.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl std::fmt::Display for TideSae {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let t: Vec<String> = self.modulation.t.iter().map(|t| format!("{t:.2}")).collect();
        write!(f, "temporal-aware {}, at t = {}", self.sae, t.join(", "))
    }
}
