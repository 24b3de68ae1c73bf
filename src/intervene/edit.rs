//! What all edits share: where and when they act, the checks before, and the way from tensor to rows and back.

use super::space::Space;
use super::stage::{Stage, Window};
use super::strength::Strength;
use crate::diffusion::hook::{Half, Hook, Kind, Site, Visit, progress_t};
use crate::error::{Error, Result};
use crate::random::stream;
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// The settings that every edit has.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    pub name: &'static str,
    pub space: Arc<dyn Space>,
    pub site: Site,
    pub latents: Vec<usize>,
    pub weights: Vec<f32>,
    pub window: Window,
    pub half: Option<Half>,
    pub strength: Strength,
    pub control: Option<u64>,
    pub only: Option<Vec<usize>>,
    /// The steps at which it acts, in place of the window.
    pub steps: Option<Vec<usize>>,
}

/// One item's activation while it is edited.
pub(crate) struct Item<'a> {
    /// `[tokens, width]`, edited in place.
    pub rows: &'a mut [f32],
    /// The code of every token before the edit; empty when not asked for.
    pub code: Vec<Vec<(usize, f32)>>,
    /// Channels.
    pub width: usize,
}

impl Item<'_> {
    /// ‖Δ[i,j]‖ of every token.
    pub fn norms(&self) -> Vec<f64> {
        self.rows.chunks_exact(self.width).map(norm).collect()
    }

    /// ‖Z[i,j]‖ of every token.
    pub fn code_norms(&self) -> Vec<f64> {
        self.code.iter().map(|z| z.iter().map(|(_, v)| f64::from(*v).powi(2)).sum::<f64>().sqrt()).collect()
    }
}

impl Common {
    pub fn new(name: &'static str, space: Arc<dyn Space>, latents: Vec<usize>, strength: Strength) -> Self {
        let origin = space.origin();
        let site =
            origin.as_ref().map_or_else(|| Site::new("mid_block.attentions.0", Kind::Residual), |o| o.site.clone());
        // The stage whose t the SAE was trained at; every step for an SAE that knows no t.
        let window = origin.and_then(|o| o.t).map_or(Window::ALWAYS, |t| Window::Stage(Stage::of(t)));
        let weights = vec![1.0; latents.len()];
        Self {
            name,
            space,
            site,
            latents,
            weights,
            window,
            half: Some(Half::Conditional),
            strength,
            control: None,
            only: None,
            steps: None,
        }
    }

    pub fn wants(&self, step: usize, steps: usize, half: Half) -> bool {
        let now = match &self.steps {
            // A step that the generation does not have brings the edit to its first visit, which refuses it.
            Some(wanted) => wanted.contains(&step) || wanted.iter().any(|s| *s >= steps),
            None => self.window.contains(progress_t(step, steps)),
        };
        now && self.half.is_none_or(|h| h == half)
    }

    /// What it is and how strong, for messages.
    pub fn about(&self) -> String {
        format!("{} edit of strength {} at {}", self.name, self.strength, self.site)
    }

    /// Nothing to add and nothing to take away: the picture must stay as it is, to the bit.
    pub fn is_nothing(&self) -> bool {
        self.latents.is_empty() || self.strength.beta() == 0.0
    }

    /// Refuses a latent that does not exist and an SAE that was trained elsewhere.
    pub fn check(&self, visit: &Visit<'_>, activation: &Tensor) -> Result<()> {
        let (_, tokens, width) = activation.dims3()?;
        let space = &self.space;
        if width != space.width() || tokens != visit.grid.0 * visit.grid.1 {
            return Err(Error::Shape {
                what: format!("activation at {} for {} edit", visit.site, self.name),
                found: vec![tokens, width],
                expected: vec![visit.grid.0 * visit.grid.1, space.width()],
            });
        }
        if let Some(&latent) = self.latents.iter().find(|&&l| l >= space.latents()) {
            return Err(Error::invalid(format!(
                "{} edit: latent {latent} of an SAE with {}",
                self.name,
                space.latents()
            )));
        }
        if let Some(late) = self.steps.iter().flatten().find(|s| **s >= visit.steps) {
            return Err(Error::invalid(format!(
                "{} edit: step {late} of a generation of {} steps",
                self.name, visit.steps
            )));
        }
        if self.weights.len() != self.latents.len() {
            return Err(Error::invalid(format!(
                "{} edit: {} weights for {} latents",
                self.name,
                self.weights.len(),
                self.latents.len()
            )));
        }
        let Some(origin) = space.origin() else { return Ok(()) };
        let refuse = |what: &str, found: String, expected: String| {
            Err(Error::invalid(format!(
                "{} edit: the SAE was trained at {what} {found}, but is applied at {expected}",
                self.name
            )))
        };
        if origin.site != *visit.site {
            return refuse("site", origin.site.to_string(), visit.site.to_string());
        }
        if let Some(grid) = origin.grid.filter(|&g| g != visit.grid) {
            return refuse("grid", format!("{grid:?}"), format!("{:?}", visit.grid));
        }
        if let (Some(t), Window::Stage(stage), None) = (origin.t, self.window, &self.steps)
            && Stage::of(t) != stage
        {
            return refuse("t =", format!("{t} ({})", Stage::of(t)), format!("the {stage} stage"));
        }
        Ok(())
    }

    /// v = Σ w_c f_c, or with a control a random direction of the same norm.
    pub fn direction(&self) -> Vec<f64> {
        let mut sum = vec![0.0; self.space.width()];
        for (&latent, &weight) in self.latents.iter().zip(&self.weights) {
            add(&mut sum, &self.space.vector(latent), f64::from(weight));
        }
        self.or_control(sum)
    }

    /// Σ z_c f_c over the edited latents that are active in `code`; with a control turned as a whole.
    pub fn part(&self, code: &[(usize, f32)]) -> Vec<f64> {
        let mut sum = vec![0.0; self.space.width()];
        for &(latent, value) in code.iter().filter(|(l, _)| self.latents.contains(l)) {
            add(&mut sum, &self.space.vector(latent), f64::from(value));
        }
        self.or_control(sum)
    }

    /// `v`, or with a control a random direction of the same norm.
    pub fn or_control(&self, v: Vec<f64>) -> Vec<f64> {
        let Some(seed) = self.control else { return v };
        let random = stream(seed, "control direction", v.len() as u64).normals(v.len());
        let random: Vec<f64> = random.into_iter().map(f64::from).collect();
        let scale = length(&v) / length(&random).max(f64::MIN_POSITIVE);
        random.into_iter().map(|r| r * scale).collect()
    }

    /// Runs `each` over the rows of every item of `activation` that the edit is for; [`check`](Self::check) first.
    pub fn edit(
        &self,
        visit: &Visit<'_>,
        activation: &Tensor,
        with_code: bool,
        each: &dyn Fn(&mut Item<'_>) -> Result<()>,
    ) -> Result<Option<Tensor>> {
        let (items, tokens, width) = activation.dims3()?;
        let mut values = activation.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let finite = |values: &[f32], when: &str| match values.iter().all(|v| v.is_finite()) {
            true => Ok(()),
            false => Err(Error::NotFinite(format!(
                "{} edit of strength {}: the activation at {} is not finite {when} step {} of {}",
                self.name, self.strength, visit.site, visit.step, visit.steps
            ))),
        };
        finite(&values, "before the edit at")?;
        let mut touched = false;
        for (item, rows) in values.chunks_exact_mut(tokens * width).enumerate() {
            let id = visit.items.get(item).copied().unwrap_or(item);
            if self.only.as_ref().is_some_and(|only| !only.contains(&id)) {
                continue;
            }
            touched = true;
            let code = if with_code { self.space.encode(rows)? } else { Vec::new() };
            each(&mut Item { rows, code, width })?;
        }
        if !touched {
            return Ok(None);
        }
        // Half precision overflows far below f32: look at what the model will see.
        let edited =
            Tensor::from_vec(values, (items, tokens, width), activation.device())?.to_dtype(activation.dtype())?;
        finite(&edited.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?, "after the edit at")?;
        Ok(Some(edited))
    }
}

/// Σ z f over the entries of a code.
pub(crate) fn add_parts(space: &dyn Space, code: &[(usize, f32)]) -> Vec<f64> {
    let mut sum = vec![0.0; space.width()];
    for &(latent, value) in code {
        add(&mut sum, &space.vector(latent), f64::from(value));
    }
    sum
}

/// row ← row + scale · v.
pub(crate) fn shift(row: &mut [f32], v: &[f64], scale: f64) {
    for (x, v) in row.iter_mut().zip(v) {
        *x = (f64::from(*x) + scale * v) as f32;
    }
}

fn add(sum: &mut [f64], v: &[f32], scale: f64) {
    for (s, &v) in sum.iter_mut().zip(v) {
        *s += scale * f64::from(v);
    }
}

/// ‖v‖ of a direction.
pub(crate) fn length(v: &[f64]) -> f64 {
    v.iter().map(|x| x * x).sum::<f64>().sqrt()
}

pub(crate) fn norm(v: &[f32]) -> f64 {
    v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// What an evaluation of many pictures at once asks of an edit.
pub trait Edit: Hook {
    /// The edit on one item of a batch alone (its position in the list of prompts); with a seed its control.
    fn alone(&self, item: usize, control: Option<u64>) -> Box<dyn Hook>;
}

/// The builder methods and accessors that every edit has, and its place as a hook: `$edit::change` makes the new
/// activation where there is something to do and all of it fits; `$nothing` says of an edit whether there is nothing.
macro_rules! edit {
    ($edit:ident) => {
        $crate::intervene::edit::edit!($edit, |edit: &$edit| edit.common.is_nothing());
    };
    ($edit:ident, $nothing:expr) => {
        impl $crate::diffusion::hook::Hook for $edit {
            fn sites(&self) -> Vec<$crate::diffusion::hook::Site> {
                vec![self.common.site.clone()]
            }

            fn wants(&self, step: usize, steps: usize, half: $crate::diffusion::hook::Half) -> bool {
                self.common.wants(step, steps, half)
            }

            fn about(&self) -> Option<String> {
                Some(self.common.about())
            }

            fn identity(&self) -> Option<u64> {
                $crate::digest::of_shown(self)
            }

            fn visit(
                &mut self,
                visit: &$crate::diffusion::hook::Visit<'_>,
                activation: &candle_core::Tensor,
            ) -> $crate::error::Result<Option<candle_core::Tensor>> {
                let nothing: fn(&$edit) -> bool = $nothing;
                if nothing(self) {
                    return Ok(None);
                }
                self.common.check(visit, activation)?;
                self.change(visit, activation)
            }
        }

        impl $crate::intervene::Edit for $edit {
            fn alone(&self, item: usize, control: Option<u64>) -> Box<dyn $crate::diffusion::hook::Hook> {
                let mut edit = self.clone().only(&[item]);
                edit.common.control = control;
                Box::new(edit)
            }
        }

        impl $edit {
            /// Acts in one stage (default: the stage that the SAE was trained in). An SAE of another stage is
            /// refused when the edit is first applied.
            #[must_use]
            pub fn stage(mut self, stage: $crate::intervene::Stage) -> Self {
                self.common.window = $crate::intervene::Window::Stage(stage);
                self.common.steps = None;
                self
            }

            /// Acts at all steps with `low ≤ t ≤ high`, whatever t the SAE was trained at.
            #[must_use]
            pub fn between(mut self, low: f64, high: f64) -> Self {
                self.common.window = $crate::intervene::Window::Between { low, high };
                self.common.steps = None;
                self
            }

            /// Acts at these steps, counted from the noisiest, whatever t the SAE was trained at. A step beyond the
            /// generation's last is refused when the edit is first applied.
            #[must_use]
            pub fn steps(mut self, steps: &[usize]) -> Self {
                self.common.steps = Some(steps.to_vec());
                self
            }

            /// Acts in this guidance half (default: the conditional one, as in the paper).
            #[must_use]
            pub fn half(mut self, half: $crate::diffusion::hook::Half) -> Self {
                self.common.half = Some(half);
                self
            }

            /// Acts in both guidance halves.
            #[must_use]
            pub fn both_halves(mut self) -> Self {
                self.common.half = None;
                self
            }

            /// Acts at another place than the one that the SAE names. An SAE of another site is refused.
            #[must_use]
            pub fn at(mut self, site: $crate::diffusion::hook::Site) -> Self {
                self.common.site = site;
                self
            }

            /// Acts only on these items of the batch (positions in the list of prompts).
            #[must_use]
            pub fn only(mut self, items: &[usize]) -> Self {
                self.common.only = Some(items.to_vec());
                self
            }

            /// The control: every change keeps its norm, but goes in a random direction drawn with `seed`.
            #[must_use]
            pub fn control(mut self, seed: u64) -> Self {
                self.common.control = Some(seed);
                self
            }

            /// The latents that are edited.
            #[must_use]
            pub fn latents(&self) -> &[usize] {
                &self.common.latents
            }
        }
    };
}
pub(crate) use edit;

/// A small space for tests: latent `l` is active where channel `l % width` is positive, with that value.
#[cfg(test)]
pub(crate) mod toy {
    use super::*;
    use crate::intervene::space::Origin;

    #[derive(Debug)]
    pub struct Toy {
        pub vectors: Vec<Vec<f32>>,
        pub origin: Option<Origin>,
    }

    impl Space for Toy {
        fn width(&self) -> usize {
            self.vectors[0].len()
        }
        fn latents(&self) -> usize {
            self.vectors.len()
        }
        fn encode(&self, rows: &[f32]) -> Result<Vec<Vec<(usize, f32)>>> {
            let width = self.width();
            let active =
                |row: &[f32]| (0..self.latents()).map(|l| (l, row[l % width])).filter(|(_, v)| *v > 0.0).collect();
            Ok(rows.chunks_exact(width).map(active).collect())
        }
        fn vector(&self, latent: usize) -> Vec<f32> {
            self.vectors[latent].clone()
        }
        fn bias(&self) -> Vec<f32> {
            vec![0.5; self.width()]
        }
        fn origin(&self) -> Option<Origin> {
            self.origin.clone()
        }
    }

    pub fn site() -> Site {
        Site::new("mid_block.attentions.0", Kind::Residual)
    }

    /// Three channels, two latents: f_0 = (0, 2, 0), f_1 = (1, 0, 1).
    pub fn space() -> Arc<dyn Space> {
        let vectors = vec![vec![0.0, 2.0, 0.0], vec![1.0, 0.0, 1.0]];
        let origin = Origin { site: site(), grid: Some((2, 4)), t: Some(1.0), half: Some(Half::Conditional) };
        Arc::new(Toy { vectors, origin: Some(origin) })
    }

    /// Two items on a 2 × 4 grid with 3 channels: token j of item i is (j + 1, −1, i).
    pub fn activation() -> Tensor {
        let values: Vec<f32> =
            (0..2).flat_map(|i| (0..8).flat_map(move |j| [j as f32 + 1.0, -1.0, i as f32])).collect();
        Tensor::from_vec(values, (2, 8, 3), &candle_core::Device::Cpu).unwrap()
    }

    pub fn visit(site: &Site) -> Visit<'_> {
        Visit { site, step: 0, steps: 10, timestep: 999.0, half: Half::Conditional, grid: (2, 4), items: &[0, 1] }
    }

    pub fn rows(t: &Tensor) -> Vec<Vec<f32>> {
        t.flatten(0, 1).unwrap().to_vec2::<f32>().unwrap()
    }
}
