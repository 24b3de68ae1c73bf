//! From trajectories to residuals and back; from directions in residual space to paths in activation space and back.

use super::fit::{Fit, Prediction};
use crate::activations::{Description, Trajectories};
use crate::digest;
use crate::error::{Error, Result};
use crate::kernels::{Matrix, Precision, product};
use std::fmt;

/// Standardisation of every step and linear maps between neighbouring ones.
///
/// h̃_i = (h_i − μ_i) ⊘ σ_i, x_0 = h̃_0, x_{i+1} = (h̃_{i+1} − A_i h̃_i) / s_{i+1}: an exact change of coordinates, of
/// trajectories `[n, steps, d]` into residual space and back.
///
/// ```
/// use denoscope::activations::Trajectories;
/// use denoscope::sae::{Prediction, Predictors};
///
/// // Two channels that turn by a quarter from step to step, and a little noise.
/// let mut random = denoscope::random::stream(0, "example", 0);
/// let data: Vec<f32> = (0..400)
///     .flat_map(|_| {
///         let (a, b) = (random.normal(), random.normal());
///         [a, b, -b + 0.1 * random.normal(), a + 0.1 * random.normal()]
///     })
///     .collect();
/// let trajectories = Trajectories::from_vec((1, 1), 2, 2, data)?;
/// let predictors = Predictors::fit(&trajectories, &Prediction::default())?;
/// assert!(predictors.fits[0].explained > 0.9);
/// let map = predictors.map(0);
/// assert!(map[0].abs() < 0.1 && (map[1] + 1.0).abs() < 0.1);
///
/// let path = trajectories.item(3)?;
/// let back = predictors.restore(&predictors.residuals(&path)?)?;
/// assert!(path.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-5));
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Predictors {
    /// Steps of a trajectory.
    pub steps: usize,
    /// Channels of a step.
    pub d: usize,
    /// μ, `[steps, d]`.
    pub mean: Vec<f32>,
    /// σ, `[steps, d]`.
    pub deviation: Vec<f32>,
    /// A between standardised steps, `[steps − 1, d, d]`, row = channel of the later step; empty if nothing is predicted.
    pub maps: Vec<f32>,
    /// s, `[steps]`.
    pub scale: Vec<f32>,
    /// How well each step but the first is predicted; empty if nothing is.
    pub fits: Vec<Fit>,
    /// How they were found.
    pub options: Prediction,
    /// Where and when the activations of every step were taken.
    pub about: Vec<Description>,
}

/// Arrays as one digest: nobody reads a million numbers.
impl fmt::Debug for Predictors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Predictors")
            .field("steps", &self.steps)
            .field("d", &self.d)
            .field("arrays", &digest::of_arrays(&[&self.mean, &self.deviation, &self.maps, &self.scale]))
            .field("fits", &self.fits)
            .field("options", &self.options)
            .field("about", &self.about)
            .finish()
    }
}

impl Predictors {
    /// Whether a step is predicted from the one before.
    #[must_use]
    pub fn predicts(&self) -> bool {
        !self.maps.is_empty()
    }

    /// Numbers of a trajectory: steps · d.
    #[must_use]
    pub fn width(&self) -> usize {
        self.steps * self.d
    }

    /// The map from step `i` to the next in activation units, diag(σ_{i+1}) A_i diag(σ_i)⁻¹, `[d, d]`; zero if nothing is
    /// predicted.
    ///
    /// # Panics
    /// If there is no such transition.
    #[must_use]
    pub fn map(&self, i: usize) -> Vec<f32> {
        assert!(i + 1 < self.steps, "transition {i} of {}", self.steps - 1);
        let (d, from, to) = (self.d, &self.deviation[i * self.d..], &self.deviation[(i + 1) * self.d..]);
        match self.standard_map(i) {
            Some(map) => map.iter().enumerate().map(|(at, a)| to[at / d] * a / from[at % d]).collect(),
            None => vec![0.0; d * d],
        }
    }

    fn standard_map(&self, i: usize) -> Option<&[f32]> {
        let size = self.d * self.d;
        self.predicts().then(|| &self.maps[i * size..(i + 1) * size])
    }

    /// h̃ of rows `[n, steps, d]`.
    pub(super) fn standardise(&self, rows: &[f32]) -> Vec<f32> {
        let row = |row: &[f32], out: &mut Vec<f32>| {
            out.extend(row.iter().zip(&self.mean).zip(&self.deviation).map(|((v, m), s)| (v - m) / s));
        };
        let mut out = Vec::with_capacity(rows.len());
        rows.chunks_exact(self.width()).for_each(|r| row(r, &mut out));
        out
    }

    fn check(&self, what: &str, rows: &[f32]) -> Result<()> {
        if rows.len().is_multiple_of(self.width()) {
            return Ok(());
        }
        let expected = vec![rows.len() / self.width(), self.steps, self.d];
        Err(Error::Shape { what: what.into(), found: vec![rows.len()], expected })
    }

    /// A_i h̃_i of every row into `out` = `[n, d]`.
    fn step(&self, i: usize, h: &[f32], out: &mut [f32]) {
        let (n, d) = (h.len() / self.width(), self.d);
        match self.standard_map(i) {
            Some(map) => {
                let before = Matrix { data: &h[i * d..], row: self.width(), column: 1 };
                product(out, d, before, Matrix::rows(map, d).t(), (n, d, d), false, Precision::Full);
            }
            None => out.fill(0.0),
        }
    }

    /// Trajectories `[n, steps, d]` in residual space: `[n, steps, d]`.
    ///
    /// # Errors
    /// If the length of `rows` is not a multiple of steps · d.
    pub fn residuals(&self, rows: &[f32]) -> Result<Vec<f32>> {
        self.check("trajectories", rows)?;
        let (d, width) = (self.d, self.width());
        let h = self.standardise(rows);
        let (mut out, mut predicted) = (h.clone(), vec![0.0; rows.len() / self.steps]);
        for i in 0..self.steps - 1 {
            self.step(i, &h, &mut predicted);
            let s = 1.0 / self.scale[i + 1];
            for (row, p) in out.chunks_exact_mut(width).zip(predicted.chunks_exact(d)) {
                row[(i + 1) * d..(i + 2) * d].iter_mut().zip(p).for_each(|(v, p)| *v = (*v - p) * s);
            }
        }
        Ok(out)
    }

    /// What the linear maps say each step of trajectories `[n, steps, d]` is, given the true step before: `[n, steps, d]`
    /// in activation units. Of the first step nothing is known but its mean.
    ///
    /// # Errors
    /// If the length of `rows` is not a multiple of steps · d.
    pub fn predicted(&self, rows: &[f32]) -> Result<Vec<f32>> {
        self.check("trajectories", rows)?;
        let (d, width) = (self.d, self.width());
        let h = self.standardise(rows);
        let (mut out, mut predicted) = (vec![0.0; rows.len()], vec![0.0; rows.len() / self.steps]);
        for i in 0..self.steps - 1 {
            self.step(i, &h, &mut predicted);
            for (row, p) in out.chunks_exact_mut(width).zip(predicted.chunks_exact(d)) {
                row[(i + 1) * d..(i + 2) * d].copy_from_slice(p);
            }
        }
        for row in out.chunks_exact_mut(width) {
            row.iter_mut().zip(&self.mean).zip(&self.deviation).for_each(|((v, m), s)| *v = *v * s + m);
        }
        Ok(out)
    }

    /// The trajectories that rows of residual space stand for. Each step is predicted from the restored one before, so
    /// that what an SAE gets wrong early is carried on.
    ///
    /// # Errors
    /// If the length of `rows` is not a multiple of steps · d.
    pub fn restore(&self, rows: &[f32]) -> Result<Vec<f32>> {
        self.check("residuals", rows)?;
        let (d, width) = (self.d, self.width());
        let (mut h, mut predicted) = (rows.to_vec(), vec![0.0; rows.len() / self.steps]);
        for i in 0..self.steps - 1 {
            self.step(i, &h, &mut predicted);
            let s = self.scale[i + 1];
            for (row, p) in h.chunks_exact_mut(width).zip(predicted.chunks_exact(d)) {
                row[(i + 1) * d..(i + 2) * d].iter_mut().zip(p).for_each(|(v, p)| *v = *v * s + p);
            }
        }
        for row in h.chunks_exact_mut(width) {
            row.iter_mut().zip(&self.mean).zip(&self.deviation).for_each(|((v, m), s)| *v = *v * s + m);
        }
        Ok(h)
    }

    /// The trajectories that `residuals` stand for if each step is predicted from the true one before in `rows`:
    /// [`predicted`](Self::predicted) plus the residuals in activation units.
    ///
    /// # Errors
    /// If the two differ in length, or it is not a multiple of steps · d.
    pub fn restore_given(&self, rows: &[f32], residuals: &[f32]) -> Result<Vec<f32>> {
        self.check("residuals", residuals)?;
        if rows.len() != residuals.len() {
            let (found, expected) = (vec![residuals.len()], vec![rows.len()]);
            return Err(Error::Shape { what: "residuals of trajectories".into(), found, expected });
        }
        let mut out = self.predicted(rows)?;
        for (row, own) in out.chunks_exact_mut(self.width()).zip(residuals.chunks_exact(self.width())) {
            let sizes = self.deviation.iter().enumerate().map(|(at, sigma)| sigma * self.scale[at / self.d]);
            row.iter_mut().zip(own).zip(sizes).for_each(|((v, r), size)| *v += r * size);
        }
        Ok(out)
    }

    /// The path of a direction of residual space: v_0 = d_0, v_{i+1} = A_i v_i + s_{i+1} d_{i+1}, in activation units
    /// σ_i ⊙ v_i, `[steps, d]`. It is what [`restore`](Self::restore) adds per unit of the direction.
    ///
    /// # Errors
    /// If `direction` has not steps · d numbers.
    pub fn path(&self, direction: &[f32]) -> Result<Vec<f32>> {
        self.check_one("direction", direction)?;
        let mut v = self.standard_path(direction);
        v.iter_mut().zip(&self.deviation).for_each(|(v, s)| *v *= f64::from(*s));
        Ok(v.into_iter().map(|v| v as f32).collect())
    }

    /// The same before σ: in deviations of every channel.
    pub(super) fn standard_path(&self, direction: &[f32]) -> Vec<f64> {
        let d = self.d;
        let mut v: Vec<f64> = direction.iter().map(|v| f64::from(*v)).collect();
        for i in 0..self.steps - 1 {
            let (before, after) = v[i * d..(i + 2) * d].split_at_mut(d);
            let s = f64::from(self.scale[i + 1]);
            after.iter_mut().for_each(|v| *v *= s);
            if let Some(map) = self.standard_map(i) {
                for (v, row) in after.iter_mut().zip(map.chunks_exact(d)) {
                    *v += row.iter().zip(&*before).map(|(a, b)| f64::from(*a) * b).sum::<f64>();
                }
            }
        }
        v
    }

    /// The direction of residual space whose path is `path` (`[steps, d]`, a change of activations): the inverse of
    /// [`path`](Self::path).
    ///
    /// # Errors
    /// If `path` has not steps · d numbers.
    pub fn direction(&self, path: &[f32]) -> Result<Vec<f32>> {
        self.check_one("path", path)?;
        let d = self.d;
        let v: Vec<f64> = path.iter().zip(&self.deviation).map(|(v, s)| f64::from(*v) / f64::from(*s)).collect();
        let mut out = v.clone();
        for i in 0..self.steps - 1 {
            let before = &v[i * d..(i + 1) * d];
            for c in 0..d {
                let predicted = self.standard_map(i).map_or(0.0, |map| {
                    map[c * d..(c + 1) * d].iter().zip(before).map(|(a, b)| f64::from(*a) * b).sum::<f64>()
                });
                let at = (i + 1) * d + c;
                out[at] = (v[at] - predicted) / f64::from(self.scale[i + 1]);
            }
        }
        Ok(out.into_iter().map(|v| v as f32).collect())
    }

    fn check_one(&self, what: &str, row: &[f32]) -> Result<()> {
        if row.len() == self.width() {
            return Ok(());
        }
        Err(Error::Shape { what: what.into(), found: vec![row.len()], expected: vec![self.steps, self.d] })
    }

    /// Refuses trajectories of another place, of other steps or of another shape.
    pub(crate) fn fits(&self, trajectories: &Trajectories) -> Result<()> {
        let found = [trajectories.steps(), trajectories.d()];
        if found != [self.steps, self.d] {
            return Err(Error::Shape {
                what: format!("{trajectories}: steps and channels"),
                found: found.to_vec(),
                expected: vec![self.steps, self.d],
            });
        }
        trajectories.same_place(&self.about)
    }

    /// What a notebook shows: how well each step is predicted.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl std::fmt::Display for Predictors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let t: Vec<String> = self.about.iter().map(|a| format!("{:.2}", a.t())).collect();
        write!(f, "trajectories of {} steps (t = {}) of {} channels", self.steps, t.join(", "), self.d)?;
        if !self.predicts() {
            return f.write_str(", nothing predicted");
        }
        for (i, fit) in self.fits.iter().enumerate() {
            let Fit { lambda, explained, .. } = fit;
            write!(f, "\n  t {} → {}: {explained:.3} of the variance explained, λ = {lambda:e}", t[i], t[i + 1])?;
        }
        Ok(())
    }
}
