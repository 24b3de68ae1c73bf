//! Hooks on a network that is held against diffusers: what the tests of both networks share.

use candle_core::Tensor;
use denoscope::Result;
use denoscope::diffusion::hook::{Half, Hook, Site, Visit};
use denoscope::diffusion::module::Module;
use denoscope::diffusion::tap::{Pass, Tap};
use std::collections::BTreeMap;

pub fn values(x: &Tensor) -> Vec<f32> {
    x.contiguous().unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

pub fn relative(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let (a, b) = (values(found), values(expected));
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

/// Keeps every tensor that it sees, both halves one after the other.
pub struct Look {
    sites: Vec<Site>,
    seen: BTreeMap<Site, (Vec<Tensor>, (usize, usize))>,
}

impl Look {
    pub fn at(sites: Vec<Site>) -> Self {
        Self { sites, seen: BTreeMap::new() }
    }

    /// As diffusers lays it out.
    pub fn take(&self, module: &Module, site: &Site) -> Tensor {
        let (parts, grid) = &self.seen[site];
        module.layout(site.kind).to_diffusers(&Tensor::cat(parts, 0).unwrap(), *grid).unwrap()
    }
}

impl Hook for Look {
    fn sites(&self) -> Vec<Site> {
        self.sites.clone()
    }

    fn visit(&mut self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        assert_eq!((visit.step, visit.steps), (3, 10));
        assert_eq!(activation.dim(0)?, visit.items.len());
        let seen = self.seen.entry(visit.site.clone()).or_insert((Vec::new(), visit.grid));
        seen.0.push(activation.clone());
        Ok(None)
    }
}

/// 1.7 x + 0.1 on the conditional half, as the goldens' edit.
pub struct Edit(pub Site);

impl Hook for Edit {
    fn sites(&self) -> Vec<Site> {
        vec![self.0.clone()]
    }

    fn wants(&self, _step: usize, _steps: usize, half: Half) -> bool {
        half == Half::Conditional
    }

    fn visit(&mut self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        assert_eq!(visit.half, Half::Conditional);
        Ok(Some(activation.affine(1.7, 0.1)?))
    }
}

/// A tap that has begun step 3 of 10. A batch of four is two items in both halves, as the goldens have it.
pub fn started(hook: &mut dyn Hook, batch: usize) -> Tap<'_> {
    let (halves, items) = match batch {
        4 => (vec![Half::Unconditional, Half::Conditional], vec![0, 1]),
        n => (vec![Half::Conditional], (0..n).collect()),
    };
    let mut tap = Tap::new(vec![hook]);
    tap.begin(Pass { step: 3, steps: 10, timestep: 500.0, halves, items });
    tap
}
