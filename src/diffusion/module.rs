//! The modules of a network under their diffusers paths, and layers that hooks can reach.

use crate::diffusion::hook::{Kind, Site};
use crate::diffusion::layers::{Conv2d, GroupNorm, LayerNorm, Linear, Padding};
use crate::diffusion::tap::Tap;
use crate::diffusion::weights::Weights;
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// How diffusers lays out the tensors that enter and leave a module (here all of them are channels-last).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A feature map, `[batch, channels, height, width]` in diffusers.
    Map,
    /// A sequence, `[batch, tokens, channels]` in diffusers and here.
    Tokens,
    /// One vector an item, `[batch, channels]` in diffusers; a hook sees it as a single token.
    Vector,
    /// Some vectors an item, `[batch · n, channels]` in diffusers; a hook sees them as n tokens.
    Vectors,
    /// One number an item, `[batch]` in diffusers; a hook sees it as a single token of one channel.
    Number,
}

impl Layout {
    /// What a hook sees, `[items, tokens, channels]` with the tokens on a grid, as diffusers lays it out.
    ///
    /// # Errors
    /// A grid that does not fit.
    pub fn to_diffusers(self, tokens: &Tensor, (h, w): (usize, usize)) -> Result<Tensor> {
        let (batch, n, c) = tokens.dims3()?;
        Ok(match self {
            Layout::Map => tokens.transpose(1, 2)?.contiguous()?.reshape((batch, c, h, w))?,
            Layout::Tokens => tokens.clone(),
            Layout::Vector => tokens.reshape((batch, n * c))?,
            Layout::Vectors => tokens.reshape((batch * n, c))?,
            Layout::Number => tokens.reshape(batch * n * c)?,
        })
    }
}

/// A module that hooks can reach: its path, and what enters and leaves it.
#[derive(Debug, Clone)]
pub struct Module {
    path: Arc<str>,
    layouts: (Layout, Layout),
    inputs: usize,
    outputs: usize,
    keeps_grid: bool,
}

impl Module {
    /// The path, as diffusers names it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The layout of the tensor `kind` in diffusers.
    #[must_use]
    pub fn layout(&self, kind: Kind) -> Layout {
        if kind == Kind::Input { self.layouts.0 } else { self.layouts.1 }
    }

    /// Channels of the tensor `kind`.
    #[must_use]
    pub fn channels(&self, kind: Kind) -> usize {
        if kind == Kind::Input { self.inputs } else { self.outputs }
    }

    /// Whether input and output have one shape, so that a residual update exists.
    #[must_use]
    pub fn has_residual(&self) -> bool {
        self.inputs == self.outputs && self.keeps_grid
    }
}

/// All modules of a network, in the order of their construction.
#[derive(Debug, Clone, Default)]
pub struct Modules(Vec<Module>);

impl Modules {
    /// All paths.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.0.iter().map(|m| m.path.to_string()).collect()
    }

    /// The module at `path`.
    ///
    /// # Errors
    /// A path that does not exist (with the nearest ones).
    pub fn get(&self, path: &str) -> Result<&Module> {
        let found = self.0.iter().find(|m| &*m.path == path);
        found.ok_or_else(|| Error::unknown("module", path, self.0.iter().map(|m| &*m.path)))
    }

    /// Refuses sites that this network does not have.
    ///
    /// # Errors
    /// A path that does not exist, or the residual of a module whose input and output differ in shape.
    pub fn check<'a>(&self, sites: impl IntoIterator<Item = &'a Site>) -> Result<()> {
        for site in sites {
            let module = self.get(&site.module)?;
            if site.kind == Kind::Residual && !module.has_residual() {
                return Err(Error::invalid(format!(
                    "{site}: this module's input and output differ in shape ({} and {} channels{}), so it has no \
                     residual update; ask for its input or output",
                    module.inputs,
                    module.outputs,
                    if module.keeps_grid { "" } else { ", on another grid" }
                )));
            }
        }
        Ok(())
    }
}

/// Walks down the weights and notes every module on the way.
pub(crate) struct Builder {
    weights: Weights,
    root: usize,
    modules: Rc<RefCell<Modules>>,
}

impl Builder {
    pub(crate) fn new(weights: &Weights) -> Self {
        let root = if weights.path().is_empty() { 0 } else { weights.path().len() + 1 };
        Self { weights: weights.clone(), root, modules: Rc::default() }
    }

    pub(crate) fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { weights: self.weights.at(name), root: self.root, modules: self.modules.clone() }
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    pub(crate) fn modules(&self) -> Modules {
        self.modules.borrow().clone()
    }

    /// Notes the module here; with `grid` false its output lies on another grid than its input.
    pub(crate) fn module(&self, layout: Layout, inputs: usize, outputs: usize, keeps_grid: bool) -> Module {
        self.module_between((layout, inputs), (layout, outputs), keeps_grid)
    }

    /// Notes the module here, whose output is laid out in another way than its input.
    pub(crate) fn module_between(
        &self,
        (from, inputs): (Layout, usize),
        (to, outputs): (Layout, usize),
        keeps_grid: bool,
    ) -> Module {
        let path = self.weights.path().get(self.root..).unwrap_or_default().into();
        let module = Module { path, layouts: (from, to), inputs, outputs, keeps_grid };
        self.modules.borrow_mut().0.push(module.clone());
        module
    }

    pub(crate) fn linear(
        &self,
        name: &str,
        layout: Layout,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Hooked<Linear>> {
        let here = self.at(name);
        let at = here.module(layout, inputs, outputs, true);
        Ok(Hooked { layer: Linear::load(&here.weights, inputs, outputs, bias)?, at })
    }

    pub(crate) fn conv(
        &self,
        name: &str,
        inputs: usize,
        outputs: usize,
        k: usize,
        stride: usize,
        padding: Padding,
    ) -> Result<Hooked<Conv2d>> {
        let here = self.at(name);
        let (before, after) = padding.ends();
        let at = here.module(Layout::Map, inputs, outputs, stride == 1 && before + after + 1 == k);
        Ok(Hooked { layer: Conv2d::load(&here.weights, inputs, outputs, k, stride, padding)?, at })
    }

    pub(crate) fn group_norm(&self, name: &str, groups: usize, channels: usize, eps: f64) -> Result<Hooked<GroupNorm>> {
        let here = self.at(name);
        let at = here.module(Layout::Map, channels, channels, true);
        Ok(Hooked { layer: GroupNorm::load(&here.weights, groups, channels, eps)?, at })
    }

    pub(crate) fn layer_norm(&self, name: &str, channels: usize, eps: f64) -> Result<Hooked<LayerNorm>> {
        let here = self.at(name);
        let at = here.module(Layout::Tokens, channels, channels, true);
        Ok(Hooked { layer: LayerNorm::load(&here.weights, channels, eps)?, at })
    }

    /// A layer normalisation without weights.
    pub(crate) fn plain_norm(&self, name: &str, channels: usize, eps: f64) -> Result<Hooked<LayerNorm>> {
        let here = self.at(name);
        let at = here.module(Layout::Tokens, channels, channels, true);
        Ok(Hooked { layer: LayerNorm::plain(channels, eps, here.weights.dtype(), here.weights.device())?, at })
    }
}

/// What a layer does with one tensor.
pub(crate) trait Layer {
    fn apply(&self, x: &Tensor) -> Result<Tensor>;
}

macro_rules! layers {
    ($($layer:ty),*) => { $(impl Layer for $layer {
        fn apply(&self, x: &Tensor) -> Result<Tensor> {
            self.forward(x)
        }
    })* };
}
layers!(Conv2d, GroupNorm, LayerNorm, Linear);

/// A layer that hooks can reach.
#[derive(Debug)]
pub(crate) struct Hooked<L> {
    pub(crate) layer: L,
    pub(crate) at: Module,
}

impl<L: Layer> Hooked<L> {
    pub(crate) fn forward(&self, x: &Tensor, tap: &mut Tap<'_>) -> Result<Tensor> {
        tap.around(&self.at, x, |x, _| self.layer.apply(x))
    }
}

impl Hooked<GroupNorm> {
    /// Normalisation and the activation after it; `fused` does both at once and is what runs as long as no hook
    /// replaces the normalised tensor, so that a hook that only looks changes no bit.
    pub(crate) fn then(
        &self,
        x: &Tensor,
        fused: impl FnOnce(&GroupNorm, &Tensor) -> Result<Tensor>,
        activation: impl FnOnce(&Tensor) -> Result<Tensor>,
        tap: &mut Tap<'_>,
    ) -> Result<Tensor> {
        let x = tap.input(&self.at, x)?;
        if tap.sees_output(&self.at) {
            let plain = self.layer.forward(&x)?;
            let id = plain.id();
            let seen = tap.output(&self.at, &x, plain)?;
            if seen.id() != id {
                return activation(&seen);
            }
        }
        fused(&self.layer, &x)
    }
}
