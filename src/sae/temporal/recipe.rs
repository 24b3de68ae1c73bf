//! The recipe of a temporal-aware SAE.

use super::rule::Settings;
use super::{Modulation, Terms, TideSae};
use crate::activations::shard::atomically;
use crate::activations::{Activations, Description, Rows, Trajectories};
use crate::error::{Error, Result};
use crate::sae::form::Form;
use crate::sae::recipe::{Recipe, held_out, settings};
use crate::sae::report::{columns, csv, show_table};
use crate::sae::training::End;
use crate::sae::{Options, Quality, Row, Schedule};
use std::ops::Deref;
use std::sync::Arc;

/// A recipe for TIDE's temporal-aware SAE on activations of all steps of some trajectories.
///
/// A batch holds whole trajectories, so that the codes of a token at neighbouring steps can be compared;
/// [`Options::batch`] counts tokens, as everywhere. Training is by AdamW with cosine annealing and clipped gradients, as
/// the paper has it; it gives no numbers, and here weight decay is 0.01, gradients are clipped at length 1 (on `scene-dit` no
/// gradient was ever longer, and decay changed nothing), and the peak learning rate is the usual one of cosine annealing
/// (see [`Options::learning_rate`]).
///
/// ```
/// use denoscope::activations::Trajectories;
/// use denoscope::sae::{Modulation, Tide};
///
/// // Tokens of one of four directions; what the model makes of them grows and moves from step to step.
/// let mut random = denoscope::random::stream(0, "example", 0);
/// let data: Vec<f32> = (0..200)
///     .flat_map(|_| {
///         let tokens: Vec<usize> = (0..16).map(|_| random.below(4)).collect();
///         (0..3).flat_map(|step| tokens.clone().into_iter().flat_map(move |j| {
///             let mut token = [step as f32; 4];
///             token[j] += 1.0 + step as f32;
///             token
///         })).collect::<Vec<_>>()
///     })
///     .collect();
/// let trajectories = Trajectories::from_vec((4, 4), 3, 4, data)?;
///
/// let trained = Tide::new(2, 1).modulation(Modulation::identity(&trajectories)).train(&trajectories)?;
/// assert!(trained.held_out.as_ref().unwrap().explained_variance > 0.8, "{}", trained.training);
/// let early = trained.step(0); // a plain SAE of the first step
/// assert_eq!(early.latents, 8);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Tide {
    pub(crate) recipe: Recipe,
    pub(super) settings: Settings,
    modulation: Option<Modulation>,
}

settings!(Tide);

/// The trajectories as they are, each a row.
#[derive(Debug)]
struct Whole(Trajectories);

impl Rows for Whole {
    fn item(&self, i: usize) -> Result<Vec<f32>> {
        self.0.item(i)
    }
}

impl Tide {
    /// `expansion`·d latents, of which at most `k` fire on a token. (Paper: 16 and 5 % of the latents.)
    #[must_use]
    pub fn new(expansion: usize, k: usize) -> Self {
        let options = Options { schedule: Schedule::Cosine, clip: Some(1.0), weight_decay: 0.01, ..Options::default() };
        let recipe = Recipe { options, ..Recipe::new(expansion) };
        Self { recipe, settings: Settings::new(k), modulation: None }
    }

    /// The weights of the loss.
    #[must_use]
    pub fn terms(mut self, terms: Terms) -> Self {
        self.settings.terms = terms;
        self
    }

    /// The modulation to start from (the identity): a transformer's own is
    /// [`Modulation::pretrained`].
    #[must_use]
    pub fn modulation(mut self, modulation: Modulation) -> Self {
        self.modulation = Some(modulation);
        self
    }

    /// Whether the modulation learns too (true), or stays what it starts as.
    #[must_use]
    pub fn train_modulation(mut self, train: bool) -> Self {
        self.settings.train_modulation = train;
        self
    }

    /// Whether the loss compares activations with the modulation undone (true), or modulated ones; the paper does not
    /// say. Modulated, a step with a large scale weighs more.
    #[must_use]
    pub fn undo(mut self, undo: bool) -> Self {
        self.settings.undo = undo;
        self
    }

    /// The progressive sparsity schedule: `start`·k latents may fire at first, falling linearly to k over the given
    /// share of the training (1 and 0.5: none).
    #[must_use]
    pub fn progressive(mut self, start: f32, share: f32) -> Self {
        (self.settings.sparsity_start, self.settings.sparsity_share) = (start, share);
        self
    }

    /// Trains on a random share of the tokens of every item (1; the paper's "sample" has 1/16). Neighbouring tokens tell
    /// nearly the same. The result is judged on all tokens.
    #[must_use]
    pub fn sample(mut self, share: f64) -> Self {
        self.settings.sample = share;
        self
    }

    /// Trains on `trajectories`.
    ///
    /// # Errors
    /// If the modulation is of other steps or channels, settings cannot be meant, or the training fails as any other
    /// would.
    pub fn train(&self, trajectories: &Trajectories) -> Result<TrainedTide> {
        let (form, view) = self.prepared(trajectories)?;
        let End { sae, mut rule, scale, dead_share, options, history, folder, .. } =
            self.recipe.run(&form, &view)?.end()?;
        let mut tables = rule.state().into_iter();
        let mut table = |name: &str| {
            let found = tables.find(|(n, _)| *n == name).map(|(_, values)| values.clone());
            found.ok_or_else(|| Error::invalid(format!("no {name} in the rule")))
        };
        let (a, mut c) = (table("modulation.scale")?, table("modulation.shift")?);
        // Of s·x it makes m; m/s is what it makes of x, and what the unscaled dictionary reads.
        c.iter_mut().for_each(|c| *c /= scale);
        let about = trajectories.about();
        let t = about.iter().map(Description::t).collect();
        let sae = TideSae::new(sae, Modulation::new(t, trajectories.d(), a, c)?, about)?;
        let (n, out) = (trajectories.len(), held_out(trajectories.len(), options.holdout)?);
        let judged = (JUDGED / (trajectories.tokens_per_item() * trajectories.steps())).clamp(1, n - out);
        let training = sae.measure(&trajectories.range(0..judged)?)?;
        let held_out = (out > 0).then(|| sae.measure(&trajectories.range(n - out..n)?)).transpose()?;
        if let Some(folder) = &folder {
            sae.save(folder.join(super::file::NAME))?;
            let log = csv(&history);
            atomically(&folder.join("log.csv"), |out| out.write_all(log.as_bytes()))?;
        }
        Ok(TrainedTide { sae, options, history, training, held_out, dead_share })
    }

    /// What the shared training takes.
    pub(super) fn prepared(&self, trajectories: &Trajectories) -> Result<(Form, Activations)> {
        let start = self.modulation.clone().unwrap_or_else(|| Modulation::identity(trajectories));
        let t: Vec<f64> = trajectories.about().iter().map(Description::t).collect();
        if start.d != trajectories.d() || start.t != t {
            return Err(Error::invalid(format!(
                "{trajectories}: a modulation of {} channels at t = {:?}, expected {} channels at t = {t:?}",
                start.d,
                start.t,
                trajectories.d()
            )));
        }
        let sampled = trajectories.sampled(self.settings.sample, self.recipe.options.seed)?;
        // The dictionary alone is not for activations as they are: no place goes with it.
        let d = sampled.steps() * sampled.d();
        let about = Description { d, fingerprint: String::new(), ..sampled.step(0).about().clone() };
        let items = Arc::new(sampled.items().to_vec());
        let view = Activations::derived(about, items, Arc::new(Whole(sampled)));
        Ok((Form::Tide(self.settings.clone().starting(start)), view))
    }
}

/// Tokens of the training data on which the result is judged.
const JUDGED: usize = 65_536;

/// A trained temporal-aware SAE with its report. It can stand wherever a [`TideSae`] is asked for.
#[derive(Debug, Clone)]
pub struct TrainedTide {
    /// The SAE.
    pub sae: TideSae,
    /// How it was trained, with what was open filled in.
    pub options: Options,
    /// The log.
    pub history: Vec<Row>,
    /// Its quality on (a part of) the trajectories it was trained on.
    pub training: Quality,
    /// Its quality on the items that were kept out, if any were.
    pub held_out: Option<Quality>,
    /// Share of latents that were silent over the last dead window of the training.
    pub dead_share: f64,
}

impl Deref for TrainedTide {
    type Target = TideSae;
    fn deref(&self) -> &TideSae {
        &self.sae
    }
}

impl TrainedTide {
    /// What a notebook shows: the measures as a table.
    pub fn evcxr_display(&self) {
        println!("{}", self.sae);
        show_table(&columns(&self.training, self.held_out.as_ref()));
    }

    /// The log as CSV, with a header line.
    #[must_use]
    pub fn csv(&self) -> String {
        csv(&self.history)
    }
}
