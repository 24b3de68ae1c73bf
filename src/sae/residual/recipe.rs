//! The recipe: predictors first, then one of the shared trainings on what they leave.

use super::join::views;
use super::{Join, Prediction, Predictors, TrajectoryQuality, TrajectorySae};
use crate::activations::Trajectories;
use crate::error::{Error, Result};
use crate::sae::form::Form;
use crate::sae::recipe::{Recipe, held_out, settings};
use crate::sae::report::show_table;
use crate::sae::{Trained, batch_topk, matryoshka, topk};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Trajectories of the training items on which the result is judged.
const JUDGED: usize = 16_384;

/// A recipe for a residualized temporal SAE.
///
/// | variant of the ablation | |
/// |---|---|
/// | Resid + Concat | `Residualized::new(expansion, k)` |
/// | Resid + NoConcat | `….join(Join::Pooled)`, or `Join::PerStep` |
/// | NoResid + Concat | `….predict(false)` |
/// | Matryoshka | `….matryoshka()` |
///
/// All have the same budget: k latents fire on a whole trajectory in the mean, and a dictionary has expansion · steps · d
/// latents in all.
///
/// ```
/// use denoscope::activations::Trajectories;
/// use denoscope::sae::Residualized;
///
/// // 3000 paths of three steps: a direction of its own that each step inherits from the one before, and new ones.
/// let mut random = denoscope::random::stream(0, "example", 0);
/// let data: Vec<f32> = (0..3000)
///     .flat_map(|_| {
///         let mut h = [0.0f32; 4];
///         let mut path = Vec::new();
///         for _ in 0..3 {
///             h.iter_mut().for_each(|v| *v *= 0.7);
///             h[random.below(4)] += random.range(1.0, 2.0);
///             path.extend(h);
///         }
///         path
///     })
///     .collect();
/// let paths = Trajectories::from_vec((1, 1), 3, 4, data)?;
///
/// let trained = Residualized::new(2, 3).train(&paths)?;
/// let quality = trained.held_out.as_ref().unwrap();
/// assert!(quality.activation.explained_variance > 0.6, "{quality}");
/// assert_eq!(trained.features(), 2 * 3 * 4);
/// let path = trained.trajectory(0)?; // what the feature adds at every step
/// assert_eq!(path.vectors.len(), 3 * 4);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Residualized {
    pub(crate) recipe: Recipe,
    k: usize,
    join: Join,
    choice: Choice,
    prediction: Prediction,
    predictors: Option<Arc<Predictors>>,
}

/// Which latents may fire.
#[derive(Debug, Clone, Copy)]
enum Choice {
    Batch,
    Nested,
    Row,
}

settings!(Residualized);

impl Residualized {
    /// A BatchTopK dictionary of `expansion` · steps · d latents, of which `k` fire on a whole trajectory in the mean.
    #[must_use]
    pub fn new(expansion: usize, k: usize) -> Self {
        let prediction = Prediction::default();
        let recipe = Recipe::new(expansion);
        Self { recipe, k, join: Join::Concat, choice: Choice::Batch, prediction, predictors: None }
    }

    /// How steps come before the SAE (all at once).
    #[must_use]
    pub fn join(mut self, join: Join) -> Self {
        self.join = join;
        self
    }

    /// Whether steps are predicted from the ones before (true).
    #[must_use]
    pub fn predict(mut self, predict: bool) -> Self {
        self.prediction.predict = predict;
        self
    }

    /// A Matryoshka dictionary in place of BatchTopK.
    #[must_use]
    pub fn matryoshka(mut self) -> Self {
        self.choice = Choice::Nested;
        self
    }

    /// TopK in place of BatchTopK: no row has more than its budget, also where it was not trained, so that variants are
    /// compared at exactly the same. (The threshold of a BatchTopK dictionary keeps k in the mean of what it was trained
    /// on; on other pictures it may let more through.)
    #[must_use]
    pub fn topk(mut self) -> Self {
        self.choice = Choice::Row;
        self
    }

    /// All options of standardisation and prediction. Their held-out share is that of the training, see
    /// [`holdout`](Self::holdout).
    #[must_use]
    pub fn prediction(mut self, prediction: Prediction) -> Self {
        self.prediction = prediction;
        self
    }

    /// Predictors that were found before, so that several recipes need not find them each for itself. They take the place
    /// of [`predict`](Self::predict) and [`prediction`](Self::prediction).
    #[must_use]
    pub fn with(mut self, predictors: &Arc<Predictors>) -> Self {
        self.predictors = Some(predictors.clone());
        self
    }

    /// Trains on `trajectories`, streamed: at no time are all of them in memory.
    ///
    /// # Errors
    /// If the predictors cannot be found or are for other trajectories, k cannot be shared equally by the steps (other
    /// joins than [`Join::Concat`]), or the training fails as any other would.
    pub fn train(&self, trajectories: &Trajectories) -> Result<TrainedTrajectories> {
        let (steps, holdout) = (trajectories.steps(), self.recipe.options.holdout);
        let (k, expansion) = match self.join {
            Join::Concat => (self.k, self.recipe.expansion),
            // Rows are steps here: their budgets add up to that of a trajectory.
            _ if !self.k.is_multiple_of(steps) || self.k == 0 => {
                return Err(Error::invalid(format!(
                    "k = {} of a trajectory of {steps} steps, {}: expected a multiple of the steps",
                    self.k, self.join
                )));
            }
            Join::Pooled => (self.k / steps, self.recipe.expansion * steps),
            Join::PerStep => (self.k / steps, self.recipe.expansion),
        };
        let out = held_out(trajectories.len(), holdout)?;
        let predictors = match &self.predictors {
            Some(predictors) => predictors.clone(),
            None => {
                let options = Prediction { holdout, ..self.prediction.clone() };
                Arc::new(Predictors::fit(trajectories, &options)?)
            }
        };
        predictors.fits(trajectories)?;
        let form = match self.choice {
            Choice::Batch => Form::BatchTopK(batch_topk::Settings { k }),
            Choice::Nested => Form::Matryoshka(matryoshka::Settings { k, widths: None }),
            Choice::Row => Form::TopK(topk::Settings { k }),
        };
        let views = views(trajectories, &predictors, self.join);
        let mut trainings = Vec::with_capacity(views.len());
        for (i, view) in views.iter().enumerate() {
            let folder = self.recipe.folder.as_ref().map(|folder| folder_of(folder, i, views.len()));
            trainings.push(Recipe { expansion, folder, ..self.recipe.clone() }.train(&form, view)?);
        }
        let parts = trainings.iter().map(|t| t.sae.clone()).collect();
        let sae = TrajectorySae::new(predictors, self.join, parts)?;
        let n = trajectories.len();
        let judged = (JUDGED / trajectories.tokens_per_item()).clamp(1, n - out);
        let training = sae.measure(&trajectories.range(0..judged)?)?;
        let held_out = (out > 0).then(|| sae.measure(&trajectories.range(n - out..n)?)).transpose()?;
        if let Some(folder) = &self.recipe.folder {
            sae.save(folder.join(super::file::NAME))?;
        }
        Ok(TrainedTrajectories { sae, trainings, training, held_out })
    }
}

/// Where the training of dictionary `i` of so many is kept in the folder of the whole.
pub(crate) fn folder_of(folder: &Path, i: usize, dictionaries: usize) -> PathBuf {
    if dictionaries > 1 { folder.join(format!("step-{i}")) } else { folder.to_path_buf() }
}

/// A trained SAE of trajectories with its report. It can stand wherever a [`TrajectorySae`] is asked for.
#[derive(Debug, Clone)]
pub struct TrainedTrajectories {
    /// The SAE.
    pub sae: TrajectorySae,
    /// The training of every dictionary, with its log.
    pub trainings: Vec<Trained>,
    /// Its quality on (a part of) the trajectories it was trained on.
    pub training: TrajectoryQuality,
    /// Its quality on the items that were kept out, if any were.
    pub held_out: Option<TrajectoryQuality>,
}

impl Deref for TrainedTrajectories {
    type Target = TrajectorySae;
    fn deref(&self) -> &TrajectorySae {
        &self.sae
    }
}

impl TrainedTrajectories {
    /// What a notebook shows: the measures as a table.
    pub fn evcxr_display(&self) {
        println!("{}", self.sae);
        let mut columns =
            vec![("training, residual", &self.training.residual), ("training, activation", &self.training.activation)];
        if let Some(held_out) = &self.held_out {
            columns.push(("held out, residual", &held_out.residual));
            columns.push(("held out, activation", &held_out.activation));
            columns.push(("held out, one step", &held_out.one_step));
        }
        show_table(&columns);
    }
}
