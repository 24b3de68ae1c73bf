//! What an architecture decides about a step of training; everything else is shared.

use super::adam::{Adam, Moments};
use super::codes::Codes;
use super::device::Dense;
use super::forward::{self, Residuals};
use super::path::Path;
use super::step::Settings;
use super::weights::Weights;
use super::{Architecture, Sae};
use crate::kernels::gathered::Panels;

/// What a step's codes are made from.
#[derive(Clone, Copy)]
pub(crate) struct Batch<'a> {
    pub(crate) weights: &'a Weights,
    /// s·x − b_dec, `[tokens, d]`.
    pub(crate) xc: &'a [f32],
    /// Latents that count as dead.
    pub(crate) dead: &'a [u32],
    /// Dead latents that may take part in the auxiliary loss on a token; 0 without one.
    pub(crate) k_aux: usize,
    /// Share of the steps of the training that are done.
    pub(crate) progress: f32,
}

/// A step after both reconstructions, for a loss that is not the squares.
pub(crate) struct Pass<'a> {
    pub(crate) weights: &'a Weights,
    pub(crate) xc: &'a [f32],
    pub(crate) settings: &'a Settings,
    /// Of the decoder, where entries are many.
    pub(crate) panels: &'a Panels,
    pub(crate) main: &'a mut Path,
    pub(crate) second: &'a Path,
}

/// What a loss of the rule's own found.
pub(crate) struct Judged {
    /// Squares of the errors as they are reported, and the sum over tokens of what the decoder bias learns from.
    pub(crate) residuals: Residuals,
    /// If it is wanted.
    pub(crate) explained_variance: Option<f64>,
}

impl Batch<'_> {
    pub(crate) fn tokens(&self) -> usize {
        self.xc.len() / self.weights.d
    }

    /// Calls `each` with xc·W_encᵀ, a tile of rows at a time.
    pub(crate) fn tiles(&self, each: impl FnMut(&[f32])) {
        forward::tiles(self.weights.d, &self.weights.w_enc, self.xc, each);
    }

    /// Appends the `k` largest positive of the rows of a tile, and the codes that the dead latents would have.
    pub(crate) fn top(&self, scores: &[f32], k: usize, main: &mut Codes, second: &mut Codes) {
        let (b_enc, k_dead) = (&self.weights.b_enc, self.k_aux.min(self.dead.len()));
        if k_dead > 0 {
            forward::top_both(scores, b_enc, (k, k_dead), self.dead, [main, second]);
        } else {
            forward::top(scores, b_enc, k, main);
        }
    }

    /// Appends the codes that the dead latents would have on the rows of a tile (the k_aux largest positive).
    pub(crate) fn revive(&self, scores: &[f32], second: &mut Codes) {
        let k = self.k_aux.min(self.dead.len());
        if k > 0 {
            forward::top_among(scores, &self.weights.b_enc, k, self.dead, second);
        }
    }
}

/// What the second codes of a step reconstruct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Second {
    /// The error that the first leave, from dead latents (AuxK): trains encoder and decoder.
    Error,
    /// The input once more, through the decoder as it stands: trains the encoder only, and alone its bias.
    Input,
}

/// One architecture in training.
pub(crate) trait Rule: Send {
    /// Fills the codes of a batch, and the second codes beside them.
    fn encode(&mut self, batch: &Batch<'_>, main: &mut Codes, second: &mut Codes);

    /// Whether the auxiliary loss reaches this architecture's dead latents; otherwise they start anew.
    fn revives(&self) -> bool {
        true
    }

    /// Gives latent `j` its own parameters of the start.
    fn restart(&mut self, _j: usize) {}

    /// Latents that fire on a token in the mean, where one threshold for all decides it in the inference form.
    fn budget(&self) -> Option<usize> {
        None
    }

    /// The step as operations on whole matrices, by which it can be taken on a device.
    fn dense(&self) -> Dense;

    /// The numbers, of every latent or every channel, that it learns beside the weights.
    fn own(&mut self) -> Vec<&mut Own> {
        Vec::new()
    }

    /// Learns what the smallest code of a batch was.
    fn smallest(&mut self, _code: f32) {}

    /// Ends of the nested prefixes of latents that each reconstruct the input; empty if only all of them do.
    fn levels(&self) -> &[usize] {
        &[]
    }

    /// What the second codes reconstruct.
    fn second(&self) -> Second {
        Second::Error
    }

    /// Fills `out` with what the encoder reads of a batch, less the decoder bias: s·x − b_dec.
    fn input(&mut self, x: &[f32], b_dec: &[f32], scale: f32, out: &mut Vec<f32>) {
        forward::centre(x, b_dec, scale, out);
    }

    /// Puts half the gradient of another loss by the reconstruction in the place of its residual, with the slopes that
    /// follow, and gathers the gradients of what is before the encoder.
    fn loss(&mut self, _pass: Pass<'_>) -> Option<Judged> {
        None
    }

    /// Whether its loss or its terms need the slopes of the entries; they may otherwise be found in the update.
    fn reads_slopes(&self) -> bool {
        false
    }

    /// λ of a term λ‖W_enc‖² of the loss.
    fn weight_penalty(&self) -> f32 {
        0.0
    }

    /// ‖gradient‖² of its own parameters, but for the factor of every gradient.
    fn gradient_squares(&self) -> f64 {
        0.0
    }

    /// Adds the architecture's own terms to the slopes that the reconstructions left, gathers the gradients of its own
    /// parameters, and drops entries that do not fire.
    fn terms(&mut self, _settings: &Settings, _main: &mut Path, _second: &mut Path) {}

    /// Updates its own parameters; `c` is the factor of every gradient.
    fn update(&mut self, _adam: &Adam, _c: f32) {}

    /// Everything beside the weights that decides the rest of the training, by the name it has in checkpoints.
    fn state(&mut self) -> Vec<(&'static str, &mut Vec<f32>)> {
        Vec::new()
    }

    /// The length of encoder rows to start from, where the decoder's are 1.
    fn start(&self, _d: usize, _latents: usize) -> f32 {
        1.0
    }

    /// The inference form of a training that ended with these weights.
    fn fold(&self, weights: Weights) -> Sae;
}

/// The length of encoder rows with which a tied start reconstructs its input where half of the latents fire:
/// Σ_j ReLU(a⟨f_j, x⟩) f_j ≈ a·(latents/2d)·x for random unit vectors f.
pub(crate) fn dense_start(d: usize, latents: usize) -> f32 {
    (2.0 * d as f32 / latents as f32).min(1.0)
}

/// A coefficient that rises linearly over the first `warm_up` of the training.
pub(crate) fn risen(coefficient: f32, warm_up: f32, progress: f32) -> f32 {
    if warm_up > 0.0 { coefficient * (progress / warm_up).min(1.0) } else { coefficient }
}

/// Numbers of every latent, or every channel, that one architecture learns beside the weights.
pub(crate) struct Own {
    pub(crate) value: Vec<f32>,
    pub(crate) moments: Moments,
    /// Summed over the entries of a step in their order.
    pub(crate) gradient: Vec<f32>,
}

impl Own {
    pub(crate) fn new(value: Vec<f32>) -> Self {
        let n = value.len();
        Self { value, moments: Moments::zeros(n), gradient: vec![0.0; n] }
    }

    /// Takes the gathered gradient, times `c`, and forgets it.
    pub(crate) fn update(&mut self, adam: &Adam, c: f32) {
        self.gradient.iter_mut().for_each(|g| *g *= c);
        adam.apply(&mut self.value, &mut self.moments.m, &mut self.moments.v, &self.gradient);
        self.gradient.fill(0.0);
    }

    /// Sets the number of latent `j`, with no memory of gradients.
    pub(crate) fn restart(&mut self, j: usize, value: f32) {
        (self.value[j], self.moments.m[j], self.moments.v[j]) = (value, 0.0, 0.0);
    }

    /// ‖gradient‖², but for the factor of every gradient.
    pub(crate) fn squares(&self) -> f64 {
        self.gradient.iter().map(|g| f64::from(*g) * f64::from(*g)).sum()
    }

    /// Value and moments, under the given names.
    pub(crate) fn state(&mut self, names: [&'static str; 3]) -> [(&'static str, &mut Vec<f32>); 3] {
        let [value, m, v] = names;
        [(value, &mut self.value), (m, &mut self.moments.m), (v, &mut self.moments.v)]
    }
}

/// The form of an SAE whose latents fire above one threshold for all.
pub(crate) fn above_one(weights: Weights, threshold: f32) -> Sae {
    let threshold = vec![threshold; weights.latents];
    weights.sae(Architecture::JumpReLU { threshold })
}
