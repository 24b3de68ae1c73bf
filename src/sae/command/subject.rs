//! What a configuration trains, by the name of its architecture.

use crate::activations::Trajectories;
use crate::error::{Error, Result};
use crate::sae::form::Form;
use crate::sae::recipe::Recipe;
use crate::sae::{Join, Modulation, Options, Prediction, Residualized, Terms, Tide};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Error as Fault, Value, from_value};

/// The name of TIDE's SAE, and that of residualized ones.
const TIDE: &str = "temporal_aware_topk";
const RESIDUALIZED: &str = "residualized";

/// What is trained.
#[derive(Debug)]
pub(super) enum Subject {
    /// On single activations.
    Single(Form),
    /// On trajectories.
    Tide(TideSettings),
    Residualized(ResidualizedSettings),
}

impl Subject {
    /// From the object `sae` of a configuration.
    pub(super) fn read(sae: &Value) -> std::result::Result<Self, Fault> {
        match sae.get("architecture").and_then(Value::as_str) {
            Some(TIDE) => settings(sae).map(Self::Tide),
            Some(RESIDUALIZED) => settings(sae).map(Self::Residualized),
            _ => from_value(sae.clone()).map(Self::Single).map_err(|fault: Fault| {
                if fault.to_string().contains("variant") {
                    serde::de::Error::custom(format!("{fault}; on trajectories: `{TIDE}`, `{RESIDUALIZED}`"))
                } else {
                    fault
                }
            }),
        }
    }

    /// The options that a configuration gives, the others as the architecture has them.
    pub(super) fn options(&self, given: &Value) -> std::result::Result<Options, Fault> {
        let usual = match self {
            Self::Tide(_) => Tide::new(1, 1).recipe.options,
            Self::Single(_) | Self::Residualized(_) => Options::default(),
        };
        let mut all = serde_json::to_value(usual)?;
        match (&mut all, given) {
            (_, Value::Null) => {}
            (Value::Object(all), Value::Object(given)) => all.extend(given.clone()),
            _ => return from_value(given.clone()), // says what it is instead
        }
        from_value(all)
    }
}

/// The settings beside the name.
fn settings<T: DeserializeOwned>(sae: &Value) -> std::result::Result<T, Fault> {
    let mut sae = sae.clone();
    if let Value::Object(sae) = &mut sae {
        sae.remove("architecture");
    }
    from_value(sae)
}

fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

/// Where a modulation starts.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Begin {
    /// It changes nothing.
    #[default]
    Identity,
    /// At the block's own adaLN.
    Pretrained,
}

/// As the methods of [`Tide`] have them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TideSettings {
    k: usize,
    #[serde(default)]
    terms: Terms,
    #[serde(default)]
    modulation: Begin,
    #[serde(default = "yes")]
    train_modulation: bool,
    #[serde(default = "yes")]
    undo: bool,
    /// Start and share.
    #[serde(default)]
    progressive: Option<(f32, f32)>,
    #[serde(default = "one")]
    sample: f64,
}

impl TideSettings {
    /// What trains on these trajectories, with the options of `recipe`.
    pub(super) fn tide(&self, recipe: Recipe, trajectories: &Trajectories) -> Result<Tide> {
        let modulation = match self.modulation {
            Begin::Identity => Modulation::identity(trajectories),
            Begin::Pretrained => pretrained(trajectories)?,
        };
        let mut tide = Tide::new(1, self.k);
        tide.recipe = recipe;
        let tide = tide
            .terms(self.terms)
            .modulation(modulation)
            .train_modulation(self.train_modulation)
            .undo(self.undo)
            .sample(self.sample);
        Ok(match self.progressive {
            Some((start, share)) => tide.progressive(start, share),
            None => tide,
        })
    }
}

/// What the model that the trajectories come from multiplies and adds before the attention of their block.
fn pretrained(trajectories: &Trajectories) -> Result<Modulation> {
    let about = trajectories.about();
    let (first, steps) = (&about[0], about.iter().map(|a| a.step).collect::<Vec<_>>());
    let module = &first.site.module;
    let block = module.strip_prefix("transformer_blocks.").and_then(|block| block.parse().ok());
    let block = block.ok_or_else(|| {
        Error::invalid(format!(
            "a pretrained modulation of \"{module}\": expected a block, transformer_blocks.0 and so on"
        ))
    })?;
    let own = first.open_model()?.modulation(block, &steps, first.steps)?;
    Modulation::pretrained(trajectories, &own.scale_msa, &own.shift_msa)
}

/// The dictionary of residuals.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
enum Dictionary {
    #[default]
    #[serde(rename = "batchtopk")]
    BatchTopK,
    #[serde(rename = "topk")]
    TopK,
    #[serde(rename = "matryoshka_batchtopk")]
    Matryoshka,
}

/// As the methods of [`Residualized`] have them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResidualizedSettings {
    k: usize,
    #[serde(default)]
    join: Option<Join>,
    #[serde(default)]
    dictionary: Dictionary,
    #[serde(default)]
    prediction: Prediction,
}

impl ResidualizedSettings {
    /// What trains, with the options of `recipe`.
    pub(super) fn residualized(&self, recipe: Recipe) -> Residualized {
        let mut residualized = Residualized::new(1, self.k).prediction(self.prediction.clone());
        residualized.recipe = recipe;
        let residualized = residualized.join(self.join.unwrap_or(Join::Concat));
        match self.dictionary {
            Dictionary::BatchTopK => residualized,
            Dictionary::TopK => residualized.topk(),
            Dictionary::Matryoshka => residualized.matryoshka(),
        }
    }
}
