//! The tap: carries hooks through a forward pass and shows them the tensors they asked for.
//!
//! A network calls [`Tap::input`] and [`Tap::output`] at every module. Where no hook wants to see this step, both
//! return at once; a hook that only looks leaves the very tensor it looked at in place.

use crate::diffusion::hook::{Half, Hook, Kind, Site, Visit};
use crate::diffusion::layers::reshape;
use crate::diffusion::module::Module;
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use std::collections::HashMap;

/// What one forward pass computes: when, and for whom.
#[derive(Debug, Clone)]
pub struct Pass {
    /// Denoising step, 0 = the noisiest.
    pub step: usize,
    /// How many steps the generation takes.
    pub steps: usize,
    /// The scheduler's timestep.
    pub timestep: f64,
    /// The guidance halves, in the order in which they lie in the batch; each has all items.
    pub halves: Vec<Half>,
    /// The id of every item.
    pub items: Vec<usize>,
}

/// Hooks on their way through a network.
pub struct Tap<'a> {
    hooks: Vec<&'a mut dyn Hook>,
    /// By module path: which hook asked for which of the module's tensors.
    places: HashMap<String, Vec<(usize, Site)>>,
    pass: Pass,
    /// `wanted[half][hook]`.
    wanted: Vec<Vec<bool>>,
    active: bool,
}

impl Tap<'_> {
    /// A tap without hooks: costs nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::new(Vec::new())
    }
}

impl<'a> Tap<'a> {
    /// A tap with these hooks, to be started with [`Tap::begin`] before every pass. Where several hooks ask for one
    /// tensor, each sees what the ones before it left.
    #[must_use]
    pub fn new(hooks: Vec<&'a mut dyn Hook>) -> Self {
        let mut places: HashMap<String, Vec<(usize, Site)>> = HashMap::new();
        for (i, hook) in hooks.iter().enumerate() {
            for site in hook.sites() {
                places.entry(site.module.clone()).or_default().push((i, site));
            }
        }
        let pass = Pass { step: 0, steps: 1, timestep: 0.0, halves: Vec::new(), items: Vec::new() };
        Self { hooks, places, pass, wanted: Vec::new(), active: false }
    }

    /// Starts a forward pass: asks every hook whether it wants to see it.
    pub fn begin(&mut self, pass: Pass) {
        let ask = |half: &Half| self.hooks.iter().map(|h| h.wants(pass.step, pass.steps, *half)).collect();
        self.wanted = pass.halves.iter().map(ask).collect();
        self.active = self.wanted.iter().flatten().any(|w| *w);
        self.pass = pass;
    }

    /// The sites that hooks ask for.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.places.values().flatten().map(|(_, site)| site)
    }

    /// Shows what enters a module; returns what is to enter it.
    ///
    /// # Errors
    /// A hook's own, or a replacement of another shape.
    pub fn input(&mut self, at: &Module, x: &Tensor) -> Result<Tensor> {
        if self.active { self.show(at, None, x.clone()) } else { Ok(x.clone()) }
    }

    /// Shows what leaves a module (and the update that it made); returns what is to leave it.
    ///
    /// # Errors
    /// As [`Tap::input`]; a residual where input and output differ in shape.
    pub fn output(&mut self, at: &Module, input: &Tensor, output: Tensor) -> Result<Tensor> {
        if self.active { self.show(at, Some(input), output) } else { Ok(output) }
    }

    /// Runs a module between its two taps.
    pub(crate) fn around(
        &mut self,
        at: &Module,
        x: &Tensor,
        module: impl FnOnce(&Tensor, &mut Self) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if !self.active {
            return module(x, self);
        }
        let x = self.input(at, x)?;
        let y = module(&x, self)?;
        self.output(at, &x, y)
    }

    /// Whether a hook wants what leaves this module, in this pass.
    pub(crate) fn sees_output(&self, at: &Module) -> bool {
        let wanted = |hook: usize| self.wanted.iter().any(|half| half[hook]);
        self.active
            && self
                .places
                .get(at.path())
                .is_some_and(|places| places.iter().any(|(h, s)| s.kind != Kind::Input && wanted(*h)))
    }

    /// `input` is absent while the input itself is being shown.
    fn show(&mut self, at: &Module, input: Option<&Tensor>, mut current: Tensor) -> Result<Tensor> {
        let Self { hooks, places, pass, wanted, .. } = self;
        let Some(places) = places.get(at.path()) else { return Ok(current) };
        let n = pass.items.len();
        for (hook, site) in places {
            if (site.kind == Kind::Input) != input.is_none() {
                continue;
            }
            let mut parts = vec![None; pass.halves.len()];
            for (h, half) in pass.halves.iter().enumerate() {
                if !wanted[h][*hook] {
                    continue;
                }
                let whole = part(&current, h, n, pass, site)?;
                let base = match (site.kind, input) {
                    (Kind::Residual, Some(input)) if input.dims() == current.dims() => {
                        Some(part(input, h, n, pass, site)?)
                    }
                    (Kind::Residual, Some(input)) => {
                        let what = format!("{site}: no residual update, the output differs from the input in shape");
                        return Err(Error::Shape { what, found: current.dims().into(), expected: input.dims().into() });
                    }
                    _ => None,
                };
                let (grid, tokens) = tokens(&match &base {
                    Some(base) => (&whole - base)?,
                    None => whole.clone(),
                })?;
                let visit = Visit {
                    site,
                    step: pass.step,
                    steps: pass.steps,
                    timestep: pass.timestep,
                    half: *half,
                    grid,
                    items: &pass.items,
                };
                let Some(new) = hooks[*hook].visit(&visit, &tokens)? else { continue };
                if new.dims() != tokens.dims() {
                    let what = format!("replacement for {site}");
                    return Err(Error::Shape { what, found: new.dims().into(), expected: tokens.dims().into() });
                }
                let new = new.to_dtype(whole.dtype())?.reshape(whole.shape())?;
                parts[h] = Some(match base {
                    Some(base) => (base + new)?,
                    None => new,
                });
            }
            if parts.iter().any(Option::is_some) {
                let parts: Vec<Tensor> = parts
                    .into_iter()
                    .enumerate()
                    .map(|(h, new)| new.map_or_else(|| part(&current, h, n, pass, site), Ok))
                    .collect::<Result<_>>()?;
                current = Tensor::cat(&parts, 0)?;
            }
        }
        Ok(current)
    }
}

/// The items of one guidance half.
fn part(x: &Tensor, half: usize, items: usize, pass: &Pass, site: &Site) -> Result<Tensor> {
    if x.dim(0)? != pass.halves.len() * items {
        let what = format!("{site}: batch of {} halves with {items} items each", pass.halves.len());
        return Err(Error::Shape { what, found: vec![x.dim(0)?], expected: vec![pass.halves.len() * items] });
    }
    if pass.halves.len() == 1 {
        return Ok(x.clone());
    }
    Ok(x.narrow(0, half * items, items)?)
}

/// A map, a sequence or a vector as `[items, tokens, channels]` in f32, and the grid of the tokens.
fn tokens(x: &Tensor) -> Result<((usize, usize), Tensor)> {
    let (grid, shape) = match *x.dims() {
        [b, h, w, c] => ((h, w), (b, h * w, c)),
        [b, n, c] => ((1, n), (b, n, c)),
        [b, c] => ((1, 1), (b, 1, c)),
        _ => {
            let what = "activation for a hook".to_string();
            return Err(Error::Shape { what, found: x.dims().into(), expected: vec![0; 3] });
        }
    };
    Ok((grid, reshape(&x.to_dtype(DType::F32)?, shape)?.contiguous()?))
}
