//! Grounding: which words a place of the picture should listen to.
//!
//! A denoising loss alone takes long to teach a small network that the colour and the place in a phrase belong to that
//! phrase's object. The world knows where every object is, so the cross-attention can be told (after TokenCompose, Wang
//! et al. 2024, eq. 3): with A(u, i) the attention of location u to token i, averaged over heads, S the tokens of an
//! object's phrase and M ∈ \[0, 1\] the object's cover of each location,
//!
//! L = mean over objects of (1 − Σ_u M(u) a(u) / Σ_u a(u))², a(u) = Σ_{i ∈ S} A(u, i).
//!
//! It says where attention goes, not how much of it. The network's architecture stays as it is.

use crate::diffusion::hook::{Hook, Kind, Site, Visit};
use crate::diffusion::layers::composed;
use crate::error::{Error, Result};
use crate::scene::{Caption, Scene, Split, Topic};
use candle_core::{D, Device, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// Side of the finer grid.
const FINE: usize = 16;

/// How much of every location the objects of the first scenes cover, on the finer grid, as bytes.
#[derive(Debug)]
pub struct Covers(Vec<Vec<[u8; FINE * FINE]>>);

impl Covers {
    /// Renders scenes `0..n` of the training split, in parallel.
    #[must_use]
    pub fn render(n: usize) -> Self {
        let of = |i: usize| {
            let render = Scene::sample(Split::Train, i as u64).render();
            let cover = |mask: &crate::scene::Mask| {
                let mut bytes = [0u8; FINE * FINE];
                bytes.iter_mut().zip(mask.coverage(FINE, FINE)).for_each(|(b, c)| *b = (c * 255.0).round() as u8);
                bytes
            };
            render.objects.iter().map(|o| cover(&o.mask)).collect()
        };
        Self((0..n).into_par_iter().map(of).collect())
    }

    /// The objects that a caption of scene `i` names, whose first word is token `first`.
    #[must_use]
    pub fn grounded(&self, i: usize, caption: &Caption, first: usize) -> Vec<Grounded> {
        let object = |span: &crate::scene::Span| match span.topic {
            Topic::Object(o) => Some(Grounded {
                tokens: first + span.words.start..first + span.words.end,
                cover: self.0[i][o].iter().map(|&b| f32::from(b) / 255.0).collect(),
            }),
            _ => None,
        };
        caption.spans.iter().filter_map(object).collect()
    }

    /// How much every object of scene `i` covers of each location of a coarser grid, at most 1.
    ///
    /// # Errors
    /// A grid that does not divide the finer one.
    pub fn on(&self, i: usize, grid: (usize, usize)) -> Result<Vec<Vec<f32>>> {
        let floats = |o: &[u8; FINE * FINE]| o.iter().map(|&b| f32::from(b) / 255.0).collect::<Vec<_>>();
        self.0[i].iter().map(|o| at(&floats(o), grid)).collect()
    }

    /// What any object of scene `i` covers, location by location.
    #[must_use]
    pub fn any(&self, i: usize) -> Vec<f32> {
        (0..FINE * FINE).map(|u| self.0[i].iter().map(|o| f32::from(o[u]) / 255.0).fold(0.0, f32::max)).collect()
    }
}

/// One object of one sample: the tokens that speak of it, and where it is.
#[derive(Debug, Clone)]
pub struct Grounded {
    tokens: Range<usize>,
    cover: Vec<f32>,
}

/// Keeps queries and keys of cross-attentions while a pass runs.
#[derive(Debug)]
pub struct Watch {
    attentions: Vec<Attention>,
}

#[derive(Debug)]
struct Attention {
    path: String,
    grid: (usize, usize),
    query: Option<Tensor>,
    key: Option<Tensor>,
}

impl Watch {
    /// Watches the attentions at these paths.
    pub fn new(paths: impl IntoIterator<Item = String>) -> Self {
        let attention = |path| Attention { path, grid: (0, 0), query: None, key: None };
        Self { attentions: paths.into_iter().map(attention).collect() }
    }

    /// The loss, averaged over attentions and over the objects of all samples; `None` if no sample has an object.
    ///
    /// # Errors
    /// An attention that was not reached by the pass.
    pub fn loss(&self, samples: &[Vec<Grounded>], heads: usize) -> Result<Option<Tensor>> {
        let count: usize = samples.iter().map(Vec::len).sum();
        if count == 0 {
            return Ok(None);
        }
        let mut losses = Vec::new();
        for attention in &self.attentions {
            let (Some(query), Some(key)) = (&attention.query, &attention.key) else {
                return Err(Error::invalid(format!("{}: no attention was computed there", attention.path)));
            };
            let locations = query.dim(1)?;
            let tokens = key.dim(1)?;
            let most = samples.iter().map(Vec::len).max().unwrap_or(1);
            let n = samples.len();
            let (mut spoken, mut covered) = (vec![0f32; n * tokens * most], vec![0f32; n * locations * most]);
            let mut counts = vec![0f32; n * most];
            for (s, objects) in samples.iter().enumerate() {
                for (o, object) in objects.iter().enumerate() {
                    object.tokens.clone().for_each(|t| spoken[(s * tokens + t) * most + o] = 1.0);
                    for (u, cover) in at(&object.cover, attention.grid)?.into_iter().enumerate() {
                        covered[(s * locations + u) * most + o] = cover;
                    }
                    counts[s * most + o] = 1.0 / count as f32;
                }
            }
            let device = &Device::Cpu;
            let spoken = Tensor::from_vec(spoken, (n, tokens, most), device)?;
            let covered = Tensor::from_vec(covered, (n, locations, most), device)?;
            let counts = Tensor::from_vec(counts, (n, most), device)?;
            losses.push(composed(&[query, key], |x| {
                let split = |x: &Tensor| -> Result<Tensor> {
                    let (n, len, width) = x.dims3()?;
                    Ok(x.reshape((n, len, heads, width / heads))?.transpose(1, 2)?.contiguous()?)
                };
                let (q, k) = (split(&x[0])?, split(&x[1])?);
                let scale = 1.0 / (q.dim(D::Minus1)? as f64).sqrt();
                let attention = candle_nn::ops::softmax(&(q.matmul(&k.t()?)? * scale)?, D::Minus1)?.mean(1)?;
                let to_object = attention.matmul(&spoken)?;
                let share = ((&to_object * &covered)?.sum(1)? / (to_object.sum(1)? + 1e-6)?)?;
                Ok(((1.0 - share)?.sqr()? * &counts)?.sum_all()?)
            })?);
        }
        let all: Vec<&Tensor> = losses.iter().collect();
        let n = losses.len() as f64;
        composed(&all, |losses| Ok((Tensor::stack(losses, 0)?.sum_all()? / n)?)).map(Some)
    }
}

/// A cover on a coarser grid. Twice the mean, at most 1: a location that is half an object's is the object's.
fn at(cover: &[f32], (height, width): (usize, usize)) -> Result<Vec<f32>> {
    if height == 0 || height != width || !FINE.is_multiple_of(height) {
        let (found, expected) = (vec![height, width], vec![FINE, FINE]);
        return Err(Error::Shape { what: "grid of an attention to ground".into(), found, expected });
    }
    let side = FINE / height;
    let location = |u: usize| {
        let (y, x) = (u / width * side, u % width * side);
        let sum: f32 = (0..side * side).map(|i| cover[(y + i / side) * FINE + x + i % side]).sum();
        (2.0 * sum / (side * side) as f32).min(1.0)
    };
    Ok((0..height * width).map(location).collect())
}

impl Hook for Watch {
    fn sites(&self) -> Vec<Site> {
        let both = |a: &Attention| ["to_q", "to_k"].map(|name| Site::new(format!("{}.{name}", a.path), Kind::Output));
        self.attentions.iter().flat_map(both).collect()
    }

    fn visit(&mut self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        let (path, name) = visit.site.module.rsplit_once('.').unwrap_or_default();
        if let Some(attention) = self.attentions.iter_mut().find(|a| a.path == path) {
            if name == "to_q" {
                attention.grid = visit.grid;
                attention.query = Some(activation.clone());
            } else {
                attention.key = Some(activation.clone());
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::hook::Half;

    /// A 2 × 2 grid, two tokens, one head of width 1: location u attends to token 1 with probability σ(q k).
    fn watched(query: [f32; 4], key: f32) -> Watch {
        let mut watch = Watch::new(["attn".to_string()]);
        let values = [(query.to_vec(), (1, 4, 1), (2, 2)), (vec![0.0, key], (1, 2, 1), (1, 2))];
        for (site, (values, shape, grid)) in watch.sites().iter().zip(values) {
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            let visit = Visit { site, step: 0, steps: 1, timestep: 0.0, half: Half::Conditional, grid, items: &[0] };
            assert!(watch.visit(&visit, &tensor).unwrap().is_none());
        }
        watch
    }

    fn object() -> Vec<Grounded> {
        // The upper left quarter.
        let cover = (0..FINE * FINE).map(|u| f32::from(u8::from(u / FINE < 8 && u % FINE < 8))).collect();
        vec![Grounded { tokens: 1..2, cover }]
    }

    #[test]
    fn the_loss_is_what_the_formula_says() {
        let sigma = |x: f32| 1.0 / (1.0 + (-x).exp());
        let query = [2.0, -1.0, 0.5, 0.0];
        let found = watched(query, 1.5).loss(&[object()], 1).unwrap().unwrap().to_scalar::<f32>().unwrap();
        let a = query.map(|q| sigma(1.5 * q));
        let expected = (1.0 - a[0] / a.iter().sum::<f32>()).powi(2);
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }

    #[test]
    fn without_objects_there_is_no_loss_and_unreached_attentions_are_named() {
        assert!(watched([0.0; 4], 1.0).loss(&[Vec::new()], 1).unwrap().is_none());
        let error = Watch::new(["a.attn2".to_string()]).loss(&[object()], 1).unwrap_err().to_string();
        assert!(error.contains("a.attn2"), "{error}");
    }

    #[test]
    fn covers_are_those_of_the_objects_that_a_caption_names() {
        let covers = Covers::render(3);
        for i in 0..3 {
            let scene = Scene::sample(Split::Train, i as u64);
            let caption = scene.full_caption();
            let grounded = covers.grounded(i, &caption, 1);
            assert_eq!(grounded.len(), scene.objects.len());
            for object in &grounded {
                // The cell at the object's centre of mass is covered.
                let total: f32 = object.cover.iter().sum();
                assert!(total > 1.0 && object.tokens.end <= caption.words().count() + 1);
            }
            let any: f32 = covers.any(i).iter().sum();
            assert!((any - grounded.iter().flat_map(|g| &g.cover).sum::<f32>()).abs() < 0.5, "objects do not overlap");
        }
    }
}
