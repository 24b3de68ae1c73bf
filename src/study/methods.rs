//! Three ways to read all steps of a layer, on the same activations at the same budget.
//!
//! | method | code of a trajectory of T steps | from |
//! |---|---|---|
//! | [`Method::Static`] | T TopK codes, an SAE for each step | *Emergence* |
//! | [`Method::Tide`] | T TopK codes of one dictionary that is told the step | *TIDE* |
//! | [`Method::Residual`] | one code of the residualized trajectory | *Residualized Temporal SAEs* |
//!
//! All have as many features in all, k of which fire on a token over its T steps, and see every token as often. The
//! pictures are renders with noise (TIDE's algorithm 1), so that what they show is known exactly.

use super::residual::{ResidualStudy, both_prompts, touched};
use super::scale::Scale;
use crate::activations::{Capture, Store, Trajectories};
use crate::concepts::{Dictionary, LabelledMask, Labelling, Vocabulary, truth};
use crate::diffusion::hook::{Kind, Site};
use crate::diffusion::pipeline::Pipeline;
use crate::error::{Error, Result};
use crate::intervene::{Edit, FeatureScores, MeanCode, Strength, Transfer};
use crate::measure::Reconstruct;
use crate::measure::loss_recovered::Seen;
use crate::sae::{Residualized, Sae, Tide, TideSae, TopK, TrajectorySae};
use crate::scene::{Scene, ScenePair, Split};
use image::RgbImage;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A way to read trajectories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// An SAE of its own for every step.
    Static,
    /// One dictionary that is told the step.
    Tide,
    /// Residualized trajectories, concatenated.
    Residual,
}

impl Method {
    /// All three.
    pub const ALL: [Method; 3] = [Method::Static, Method::Tide, Method::Residual];

    /// What tables call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Method::Static => "an SAE each step",
            Method::Tide => "TIDE",
            Method::Residual => "residualized",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a method was trained to.
#[derive(Debug, Clone)]
pub enum Code {
    /// One for every step.
    Static(Vec<Sae>),
    /// For all steps.
    Tide(Box<TideSae>),
    /// Of trajectories.
    Residual(TrajectorySae),
}

impl Code {
    /// Features in all.
    #[must_use]
    pub fn features(&self) -> usize {
        match self {
            Code::Static(saes) => saes.iter().map(|s| s.latents).sum(),
            Code::Tide(sae) => sae.latents(),
            Code::Residual(sae) => sae.features(),
        }
    }

    /// The SAE of every step, of a code that has such.
    fn steps(&self) -> Vec<Sae> {
        match self {
            Code::Static(saes) => saes.clone(),
            Code::Tide(sae) => (0..sae.about.len()).map(|i| sae.step(i)).collect(),
            Code::Residual(_) => Vec::new(),
        }
    }

    /// Explained variance of the activations of every step.
    ///
    /// # Errors
    /// Trajectories that do not fit, or cannot be read.
    pub fn explained(&self, of: &Trajectories) -> Result<Vec<f64>> {
        if let Code::Residual(sae) = self {
            return Ok(sae.measure(of)?.steps.iter().map(|s| s.explained_variance).collect());
        }
        let each = self.steps().into_iter().enumerate();
        each.map(|(i, sae)| Ok(sae.measure(of.step(i))?.explained_variance)).collect()
    }

    /// A dictionary for every step; of trajectories one.
    ///
    /// # Errors
    /// As [`Labelling::build`].
    pub fn dictionaries(&self, of: &Trajectories, masks: &[Vec<LabelledMask>]) -> Result<Vec<Dictionary>> {
        if let Code::Residual(sae) = self {
            return Ok(vec![Labelling::new().trajectories(sae, of, masks)?]);
        }
        let each = self.steps().into_iter().enumerate();
        each.map(|(i, sae)| Dictionary::build(&sae, of.step(i), masks)).collect()
    }

    /// The transfer that turns item `i` of `source` into that of `target` (see
    /// [`ResidualStudy::transfer`](super::ResidualStudy::transfer)): of trajectories one edit along paths; otherwise one
    /// for every step, which acts at all steps nearer to it than to the others.
    ///
    /// # Errors
    /// Trajectories that do not fit, or an item that they do not hold.
    pub fn transfer(
        &self,
        [source, target]: [&Trajectories; 2],
        (i, pair): (usize, &ScenePair),
        k: usize,
        beta: f64,
    ) -> Result<Vec<Box<dyn Edit>>> {
        let grid = source.grid();
        let strength = Strength::Constant(beta);
        if let Code::Residual(sae) = self {
            let edit = ResidualStudy::transfer(sae, [source, target], (i, pair), k)?;
            return Ok(vec![Box::new(edit.strength(strength))]);
        }
        let [before, after] = pair.masks();
        let (own, other, either) =
            (touched(&[&before], grid), touched(&[&after], grid), touched(&[&before, &after], grid));
        let t: Vec<f64> = source.about().iter().map(|a| a.t()).collect();
        let mut edits: Vec<Box<dyn Edit>> = Vec::new();
        for (s, sae) in self.steps().iter().enumerate() {
            let mean = |of: &Trajectories, region| MeanCode::of(sae, &of.step(s).range(i..i + 1)?, region);
            let scores = FeatureScores::between(mean(source, &own)?, mean(target, &other)?)?;
            // From half-way to the step before, to just short of half-way to the one after.
            let high = if s == 0 { 1.0 } else { f64::midpoint(t[s - 1], t[s]) };
            let low = if s + 1 == t.len() { 0.0 } else { f64::midpoint(t[s], t[s + 1]) + 1e-9 };
            let edit = Transfer::new(sae, &scores, k).between(low, high).region(either.clone()).strength(strength);
            edits.push(Box::new(edit));
        }
        Ok(edits)
    }
}

impl Reconstruct for Code {
    fn channels(&self) -> usize {
        match self {
            Code::Static(saes) => saes[0].d,
            Code::Tide(sae) => sae.d(),
            Code::Residual(sae) => sae.d(),
        }
    }

    fn reconstruct(&self, seen: &[Seen]) -> Result<Vec<Vec<f32>>> {
        match self {
            Code::Static(saes) => saes.iter().zip(seen).map(|(sae, s)| Ok(sae.decode(&sae.encode(&s.rows)?))).collect(),
            Code::Tide(sae) => sae.reconstruct(seen),
            Code::Residual(sae) => sae.reconstruct(seen),
        }
    }
}

/// One layer of one embedded model, with the sizes of the comparison.
#[derive(Debug, Clone)]
pub struct Methods {
    /// The scale. There is no published comparison: at [`Scale::Paper`] it is the embedded models with more pictures.
    pub scale: Scale,
    /// The model's name.
    pub model_name: &'static str,
    /// The layer.
    pub site: Site,
    /// Renders to train on, and to judge by.
    pub pictures: [usize; 2],
    /// Denoising steps.
    pub steps: usize,
    /// Where results are kept.
    pub folder: PathBuf,
}

impl Methods {
    /// Latents that fire on a token over its steps, for every step: as sparse as *Emergence*'s sparser SAEs.
    pub const K: usize = 10;

    /// Features for each number of a trajectory.
    pub const EXPANSION: usize = 2;

    fn of(scale: Scale, model_name: &'static str, site: Site) -> Self {
        Self {
            scale,
            model_name,
            site,
            pictures: scale.pick([16, 8], [320, 80], [2000, 400]),
            steps: scale.pick(5, 25, 50),
            folder: Path::new("work").join(scale.name()).join(model_name),
        }
    }

    /// The middle block of `scene-unet`, and the block before the last of `scene-dit`.
    #[must_use]
    pub fn both(scale: Scale) -> [Self; 2] {
        [
            Self::of(scale, "scene-unet", Site::new("mid_block.attentions.0", Kind::Residual)),
            Self::of(scale, "scene-dit", Site::new("transformer_blocks.6", Kind::Output)),
        ]
    }

    /// Progress of the steps.
    #[must_use]
    pub fn times(&self) -> Vec<f64> {
        vec![1.0, 0.75, 0.5, 0.25, 0.0]
    }

    /// Opens the model.
    ///
    /// # Errors
    /// As [`Pipeline::open`].
    pub fn model(&self) -> Result<Pipeline> {
        Pipeline::open(self.model_name)
    }

    /// The scenes to train on, then those to judge by.
    #[must_use]
    pub fn scenes(&self) -> Vec<Scene> {
        (0..(self.pictures[0] + self.pictures[1]) as u64).map(|i| Scene::sample(Split::Validation, i)).collect()
    }

    fn at<'a>(&self, model: &'a Pipeline) -> Capture<'a> {
        Capture::new(model).at(&self.site.module, self.site.kind).stages(self.times()).steps(self.steps)
    }

    /// Passes noised renders of the scenes through the model, and keeps the layer.
    ///
    /// # Errors
    /// As [`Capture::run`].
    pub fn capture(&self, model: &Pipeline) -> Result<Store> {
        let (scenes, renders) = (self.scenes(), self.renders());
        let captions: Vec<String> = scenes.iter().map(|s| s.full_caption().text).collect();
        self.at(model).prompts(&captions).pictures(&renders).run(self.folder.join("activations"))
    }

    /// The pictures of [`scenes`](Self::scenes).
    #[must_use]
    pub fn renders(&self) -> Vec<RgbImage> {
        self.scenes().iter().map(|s| s.render().image).collect()
    }

    /// Exact masks of [`scenes`](Self::scenes): classes, parts and backgrounds.
    #[must_use]
    pub fn masks(&self) -> Vec<Vec<LabelledMask>> {
        let kinds = [Vocabulary::Class, Vocabulary::Part, Vocabulary::Background];
        self.scenes().iter().map(|s| truth::masks(s, &s.render(), &kinds)).collect()
    }

    /// Pictures of both prompts of every pair, generated from the same noise, with the layer.
    ///
    /// # Errors
    /// As [`Capture::run`].
    pub fn pairs(&self, model: &Pipeline, pairs: &[ScenePair]) -> Result<[Store; 2]> {
        both_prompts(&self.at(model), pairs, &self.folder)
    }

    /// The trajectories of a store.
    ///
    /// # Errors
    /// A store without the steps.
    pub fn trajectories(&self, store: &Store) -> Result<Trajectories> {
        store.trajectories(self.times())
    }

    /// Trains one method, the first time; reads it back afterwards. With the seconds that the training took.
    ///
    /// # Errors
    /// Whatever stops a training.
    pub fn train(&self, method: Method, of: &Trajectories) -> Result<(Code, f64)> {
        let folder = self.folder.join("saes").join(method.name().replace(' ', "-"));
        let (epochs, steps) = (self.scale.pick(2, 40, 10), of.steps());
        let clock = Instant::now();
        let code = match method {
            Method::Static => {
                let one = |i: usize| {
                    let recipe =
                        TopK::new(Self::EXPANSION, Self::K).epochs(epochs).run(folder.join(format!("step-{i}")));
                    Ok(recipe.train(of.step(i))?.sae)
                };
                Code::Static((0..steps).map(one).collect::<Result<_>>()?)
            }
            Method::Tide => {
                let recipe = Tide::new(Self::EXPANSION * steps, Self::K).epochs(epochs);
                Code::Tide(Box::new(recipe.run(&folder).train(of)?.sae))
            }
            Method::Residual => {
                // The rate is that of the residual study.
                let recipe =
                    Residualized::new(Self::EXPANSION, Self::K * steps).epochs(epochs).topk().learning_rate(3e-3);
                Code::Residual(recipe.run(&folder).train(of)?.sae)
            }
        };
        // What is read back took its time when it was trained.
        let path = folder.join("seconds");
        let seconds = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| Error::format(&path, format!("{text:?} is no number")))?,
            Err(_) => {
                let seconds = clock.elapsed().as_secs_f64();
                std::fs::write(&path, format!("{seconds}\n")).map_err(Error::file(&path))?;
                seconds
            }
        };
        Ok((code, seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::LossRecovered;
    use crate::measure::generate::{Generate, Settled};
    use crate::scene::Change;

    #[test]
    fn all_methods_are_trained_judged_and_transfer() {
        let folder = tempfile::tempdir().unwrap();
        let [mut unet, _] = Methods::both(Scale::Smoke);
        (unet.folder, unet.pictures) = (folder.path().into(), [10, 4]);
        let model = unet.model().unwrap();
        let store = unet.capture(&model).unwrap();
        let all = unet.trajectories(&store).unwrap();
        let (train, judge) = (all.range(0..10).unwrap(), all.range(10..14).unwrap());
        let pairs = [ScenePair::sample(Change::Object, 0)];
        let [a, b] = unet.pairs(&model, &pairs).unwrap().map(|s| unet.trajectories(&s).unwrap());
        let (captions, renders) =
            (store.items()[10..].iter().map(|i| i.prompt.clone()).collect::<Vec<_>>(), unet.renders());
        for method in Method::ALL {
            let (code, seconds) = unet.train(method, &train).unwrap();
            assert_eq!(code.features(), Methods::EXPANSION * 5 * all.d(), "{method}");
            assert_eq!(unet.train(method, &train).unwrap().1, seconds, "{method}: read back");
            assert_eq!(code.explained(&judge).unwrap().len(), 5);
            let steps = judge.about().iter().map(|a| a.step).collect::<Vec<_>>();
            let loss = LossRecovered::new(&model, unet.site.clone()).at_steps(steps, unet.steps);
            let loss = loss.of(&code, &renders[10..], &captions).unwrap();
            assert_eq!(loss.bins.len(), 5, "{method}");
            let dictionaries = code.dictionaries(&judge, &unet.masks()[10..]).unwrap();
            assert_eq!(dictionaries.len(), if method == Method::Residual { 1 } else { 5 });
            let edits = code.transfer([&a, &b], (0, &pairs[0]), 4, 1.0).unwrap();
            assert_eq!(edits.len(), dictionaries.len());
            let hooks: Vec<_> = edits.iter().map(|e| e.alone(0, None)).collect();
            let made = Settled::new(&model, unet.steps).generate(&["a meadow".into()], &[1], hooks).unwrap();
            assert_eq!(made.len(), 1);
        }
    }
}
