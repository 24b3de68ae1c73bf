//! How an SAE is trained: every choice, with its default and why.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Where the decoder bias starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// At the point with the least sum of distances to a sample of tokens: outliers pull it less than the mean.
    GeometricMedian,
    /// At the mean of a sample of tokens.
    Mean,
    /// At zero.
    Zero,
}

/// How the learning rate falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Constant, then linearly to zero over the last share of the steps that [`Options::decay`] says.
    Linear,
    /// ½(1 + cos πs) at the share s of the steps (cosine annealing).
    Cosine,
}

/// Options of training. Those that are `None` are chosen from the amount of data; the report says what was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Peak learning rate. `None`: 2e-4·√(16384 / latents), the rule of public TopK code, for short trainings times
    /// √(16000 / steps), at most 4 (and no more than 0.008 in all); twice that with cosine annealing. The paper took 1e-4,
    /// with thousands of steps.
    pub learning_rate: Option<f32>,
    /// Tokens of a batch. `None`: 4096 (the paper), less where that would make fewer than 16 batches an epoch.
    pub batch: Option<usize>,
    /// Passes over the data. `None`: 1 (the paper), more where that would make fewer than 1000 steps.
    pub epochs: Option<usize>,
    /// Share of the steps over which the learning rate rises linearly from zero.
    pub warm_up: f32,
    /// Share of the steps over which it falls linearly to zero, at the end.
    pub decay: f32,
    /// How it falls. Public recipes of TopK SAEs have the linear one.
    pub schedule: Schedule,
    /// The largest length τ of a step's gradient over all weights; a longer one is shortened to it. `None`: no limit. The
    /// gradient's length has to be known before the first weight moves, so that gradients are summed twice.
    pub clip: Option<f32>,
    /// AdamW's decoupled decay of the encoder matrix, a share of the learning rate (0: Adam). Decoder rows have unit
    /// length, which decay would not change.
    pub weight_decay: f32,
    /// Weight α of the auxiliary loss ‖e − ê‖², in which dead latents explain the error e = x − x̂. The paper took 1/32.
    /// On 18,000 patches of pictures (d 192, k 10, 1000 steps) 1/32 left 20 % of the latents dead, 1/4 left 10 % and 1
    /// left 7 %, with explained variances of .983, .983 and .982.
    pub aux_alpha: f32,
    /// Dead latents that may take part in it on a token. Paper: 256.
    pub aux_k: usize,
    /// How often in a training dead latents start anew, for architectures whose dead latents have no positive
    /// pre-activation that the auxiliary loss could use (ReLU, Gated): at equal distances over the first three quarters
    /// of the steps, each in the direction of the error of a token drawn by the square of its error (Bricken et al. 2023,
    /// appendix; public code of it resamples four times in a training).
    pub resample: usize,
    /// Lines of the log (of which a training has about 200) without a smaller loss after which it ends early. The loss of
    /// a line is that of one batch: fewer than ten lines stop at noise. `None`: all steps are taken. The learning rate
    /// has not fallen by then.
    pub patience: Option<usize>,
    /// Tokens for which a latent must be silent to count as dead. `None`: 10 million (public code of the recipe), less
    /// where the training is too short for it.
    pub dead_window: Option<u64>,
    /// Adam's decay rates of the first and second moment.
    pub betas: (f32, f32),
    /// Adam's ε.
    pub epsilon: f32,
    /// Where the decoder bias starts.
    pub start: Start,
    /// Whether inputs are scaled by one number, so that the mean of ‖x‖² is d. It is folded into the biases on
    /// saving: what is saved works on activations as they are.
    pub normalise: bool,
    /// Share of the items (the last ones) that are kept out of training, to judge it by.
    pub holdout: f64,
    /// Seed of the initial weights and the order of tokens.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            learning_rate: None,
            batch: None,
            epochs: None,
            warm_up: 0.05,
            decay: 0.2,
            schedule: Schedule::Linear,
            clip: None,
            weight_decay: 0.0,
            aux_alpha: 0.25,
            aux_k: 256,
            resample: 4,
            patience: None,
            dead_window: None,
            betas: (0.9, 0.999),
            epsilon: 6.25e-10,
            start: Start::GeometricMedian,
            normalise: true,
            holdout: 0.05,
            seed: 0,
        }
    }
}

/// Steps below which a short training gets more epochs. On 6,080 tokens of the embedded model's middle block (d 128, 512
/// latents, k 20, t = 0.5) 1000 steps take two seconds on two cores.
const STEPS: usize = 1000;

/// Batches below which an epoch gets smaller batches.
const BATCHES: usize = 16;

/// Steps from which the peak learning rate is that of public TopK code, and how many times that at most.
///
/// On 24,320 tokens of the embedded model's middle block (d 128, k 20, t = 0), held-out explained variance at 1, 2, 4 and 8
/// times the rate of public code:
///
/// | | 1 | 2 | 4 | 8 |
/// |---|---|---|---|---|
/// | 512 latents, 1000 steps | .934 | .938 | .944 | .950 |
/// | 512 latents, 4000 steps | .947 | .949 | | |
/// | 2048 latents, 1000 steps (times 1, 3.5, 7, 14) | .922 | .941 | .946 | .951 |
///
/// At 4 times no more latents are dead than at 1 (1 and 0 %); at 15 times 12 % of 512 are, at 7 and 14 times 6 and 24 % of
/// 2048.
const LONG: f32 = 16_000.0;
const MOST: f32 = 4.0;
/// No rate is raised above this: few latents, as in small examples, have a high one already.
const HIGHEST: f32 = 8e-3;

/// Cosine annealing has half the peak in the mean, the linear schedule seven eighths: twice the peak makes the means alike,
/// so that comparisons are not of rates. On block 6 of `scene-dit` (25 pictures, 768 latents, k 39, 192 steps; error on 75
/// other pictures) TIDE's training with all terms left .193 at 4 and .166 at 8 times the rate of public code, and .168 at
/// 4 times with the linear schedule; see `benches/tide_recipe.rs`.
const COSINE: f32 = 2.0;

impl Schedule {
    /// The peak learning rate where nothing else is asked for: that of public TopK code, raised where a training is short.
    pub(crate) fn usual_rate(self, latents: usize, steps: usize) -> f32 {
        let public = 2e-4 * (16384.0 / latents as f32).sqrt();
        let raised = (public * (LONG / steps.max(1) as f32).sqrt().clamp(1.0, MOST)).min(HIGHEST);
        let rate = raised.max(public);
        match self {
            Self::Linear => rate,
            Self::Cosine => COSINE * rate,
        }
    }
}

/// Options with nothing left open.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Resolved {
    pub(crate) learning_rate: f32,
    pub(crate) batch: usize,
    pub(crate) steps: usize,
    pub(crate) steps_per_epoch: usize,
    pub(crate) dead_window: u64,
}

impl Options {
    /// Fills in what depends on the data; refuses what cannot be trained.
    pub(crate) fn resolve(&self, tokens: usize, latents: usize) -> Result<Resolved> {
        let batch = self.batch.unwrap_or_else(|| (tokens / BATCHES).clamp(256, 4096).min(tokens));
        if batch == 0 || batch > tokens {
            return Err(Error::invalid(format!("{tokens} tokens to train on are fewer than a batch of {batch}")));
        }
        let bounded = |what: &str, v: f32, most: f32| match v >= 0.0 && v <= most {
            true => Ok(()),
            false => Err(Error::invalid(format!("{what} of {v}: expected 0 to {most}"))),
        };
        bounded("warm-up", self.warm_up, 1.0)?;
        bounded("decay", self.decay, 1.0)?;
        bounded("auxiliary weight", self.aux_alpha, f32::MAX)?;
        bounded("weight decay", self.weight_decay, f32::MAX)?;
        if let Some(clip) = self.clip.filter(|c| !(*c > 0.0 && c.is_finite())) {
            return Err(Error::invalid(format!("gradients clipped at {clip}: expected more than 0")));
        }
        let steps_per_epoch = tokens / batch;
        let steps = steps_per_epoch * self.epochs.unwrap_or_else(|| STEPS.div_ceil(steps_per_epoch));
        let learning_rate = self.learning_rate.unwrap_or_else(|| self.schedule.usual_rate(latents, steps));
        if steps == 0 || !(learning_rate > 0.0 && learning_rate.is_finite()) {
            return Err(Error::invalid(format!(
                "{steps} steps at a learning rate of {learning_rate}: expected more than 0 of both"
            )));
        }
        let dead_window = self.dead_window.unwrap_or_else(|| 10_000_000.min((steps * batch / 20) as u64));
        Ok(Resolved { learning_rate, batch, steps, steps_per_epoch, dead_window })
    }

    /// Whether dead latents are to start anew after step `step`.
    pub(crate) fn resamples(&self, resolved: &Resolved, step: usize) -> bool {
        let every = resolved.steps * 3 / 4 / self.resample.max(1);
        self.resample > 0 && every > 0 && (step + 1).is_multiple_of(every) && (step + 1) / every <= self.resample
    }

    /// The options as they are written beside an SAE: through text, in which 0.9 is 0.9 and not its nearest double.
    pub(crate) fn facts(&self) -> Result<serde_json::Value> {
        serde_json::to_string(self).and_then(|text| serde_json::from_str(&text)).map_err(Error::invalid)
    }

    /// The learning rate of step `step` of `resolved.steps`.
    pub(crate) fn rate(&self, resolved: &Resolved, step: usize) -> f32 {
        let steps = resolved.steps as f32;
        let ramp = |share: f32, done: f32| if share > 0.0 { (done / (share * steps)).min(1.0) } else { 1.0 };
        let falls = match self.schedule {
            Schedule::Linear => ramp(self.decay, steps - step as f32),
            Schedule::Cosine => 0.5 * (1.0 + (std::f32::consts::PI * step as f32 / steps).cos()),
        };
        resolved.learning_rate * ramp(self.warm_up, step as f32 + 1.0) * falls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_follows_the_data() {
        let options = Options::default();
        let small = options.resolve(19200, 512).unwrap();
        assert_eq!((small.batch, small.steps_per_epoch, small.steps), (1200, 16, 1008));
        let large = options.resolve(12_800_000, 5120).unwrap();
        assert_eq!((large.batch, large.steps), (4096, 3125));
        assert!(
            Options { batch: Some(300), ..options }.resolve(299, 8).unwrap_err().to_string().contains("299 tokens")
        );
    }

    #[test]
    fn short_trainings_have_higher_rates() {
        let rate = |schedule: Schedule, latents, steps| schedule.usual_rate(latents, steps);
        assert!((rate(Schedule::Linear, 16384, 100_000) - 2e-4).abs() < 1e-9);
        assert!((rate(Schedule::Linear, 1024, 16_000) - 8e-4).abs() < 1e-8);
        assert!((rate(Schedule::Linear, 1024, 4000) - 1.6e-3).abs() < 1e-8);
        assert!((rate(Schedule::Linear, 1024, 10) - 3.2e-3).abs() < 1e-8);
        assert!((rate(Schedule::Cosine, 1024, 10) - 6.4e-3).abs() < 1e-8);
        assert!((rate(Schedule::Linear, 64, 1000) - 8e-3).abs() < 1e-8, "raised so far only");
        assert!((rate(Schedule::Linear, 4, 1000) - 1.28e-2).abs() < 1e-7, "not lowered");
    }

    #[test]
    fn dead_latents_start_anew_in_the_first_three_quarters() {
        let options = Options { resample: 3, batch: Some(10), epochs: Some(40), ..Options::default() };
        let resolved = options.resolve(100, 8).unwrap();
        let at: Vec<usize> = (0..resolved.steps).filter(|&s| options.resamples(&resolved, s)).collect();
        assert_eq!((resolved.steps, at), (400, vec![99, 199, 299]));
        assert!(!(0..400).any(|s| Options { resample: 0, ..options.clone() }.resamples(&resolved, s)));
    }

    #[test]
    fn the_rate_warms_up_and_decays() {
        let options =
            Options { warm_up: 0.1, decay: 0.5, learning_rate: Some(1.0), epochs: Some(10), ..Options::default() };
        let resolved = options.resolve(4096 * 10, 8).unwrap();
        let rates: Vec<f32> = (0..resolved.steps).map(|s| options.rate(&resolved, s)).collect();
        let n = rates.len();
        let cosine = Options { schedule: Schedule::Cosine, warm_up: 0.0, ..options.clone() };
        let half = cosine.rate(&resolved, n / 2);
        assert!((half - 0.5).abs() < 0.01 && cosine.rate(&resolved, 0) == 1.0 && cosine.rate(&resolved, n - 1) < 1e-3);
        assert!(rates[0] < 0.1 && rates[n / 4] == 1.0 && (rates[n * 3 / 4] - 0.5).abs() < 0.01 && rates[n - 1] < 0.02);
    }
}
