//! A survey of a whole SAE: for every latent what an explorer shows of it.

use super::build::each_item;
use super::maps::Maps;
use super::neighbours::neighbours;
use super::timeline::Timeline;
use super::top::{Firing, Summary};
use crate::activations::Activations;
use crate::error::{Error, Result};
use crate::sae::Sae;

/// Bins of the histogram of activations.
pub const BINS: usize = 16;

/// A survey to be made.
///
/// ```
/// use denoscope::activations::Activations;
/// use denoscope::concepts::Survey;
/// use denoscope::sae::Sae;
///
/// let sae = Sae::random(3, 12, 2, 0)?;
/// let activations = Activations::from_vec((2, 2), 3, (0..60).map(|v| (v % 7) as f32).collect())?;
/// let survey = Survey::new().examples(2).build(&sae, &activations, &[])?;
/// assert_eq!(survey.latents.len(), 12);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Survey {
    examples: usize,
    neighbours: usize,
    words: usize,
}

/// What was found out about one latent.
#[derive(Debug, Clone, Default)]
pub struct Surveyed {
    /// Where and how it fires.
    pub firing: Firing,
    /// Its map on each of the [top](Firing::top) pictures.
    pub maps: Vec<Vec<f32>>,
    /// Its map on the first of them at every step of the timeline.
    pub over_time: Vec<Vec<f32>>,
    /// Tokens by activation, in equal bins from 0 to its greatest.
    pub histogram: [u32; BINS],
    /// The latents with the most similar concept vectors, and the cosines.
    pub neighbours: Vec<(usize, f32)>,
}

/// A survey that was made.
#[derive(Debug, Clone)]
pub struct SurveyResult {
    /// The SAE, in one line.
    pub sae: String,
    /// Height and width of the maps.
    pub grid: (usize, usize),
    /// Pictures of the survey.
    pub items: usize,
    /// One for every latent.
    pub latents: Vec<Surveyed>,
    /// What the latents do over time, and with which words.
    pub timeline: Timeline,
}

impl Default for Survey {
    fn default() -> Self {
        Self { examples: 6, neighbours: 8, words: 200 }
    }
}

impl Survey {
    /// Six top pictures, eight neighbours, the 200 most frequent words.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Top pictures of a latent.
    #[must_use]
    pub fn examples(mut self, n: usize) -> Self {
        self.examples = n;
        self
    }

    /// Neighbours of a latent.
    #[must_use]
    pub fn neighbours(mut self, n: usize) -> Self {
        self.neighbours = n;
        self
    }

    /// Words of the prompts that are followed.
    #[must_use]
    pub fn words(mut self, n: usize) -> Self {
        self.words = n;
        self
    }

    /// Surveys `sae` on `activations`, and over time on `stages`: the same pictures at several steps, noisiest first.
    /// Without stages the activations themselves are the only one.
    ///
    /// # Errors
    /// Of reading, or stages that do not fit; see [`Timeline::build`].
    pub fn build(&self, sae: &Sae, activations: &Activations, stages: &[Activations]) -> Result<SurveyResult> {
        let own = [activations.clone()];
        let stages = if stages.is_empty() { &own[..] } else { stages };
        if stages[0].items() != activations.items() || stages[0].grid() != activations.grid() {
            let first = &stages[0];
            return Err(Error::invalid(format!("survey: {first} is not of the same pictures as {activations}")));
        }
        let timeline = Timeline::build(sae, stages, self.words)?;
        let summary = Summary::build(sae, activations, self.examples)?;
        let near = neighbours(sae, self.neighbours)?;
        let mut latents: Vec<Surveyed> = Vec::with_capacity(sae.latents);
        for (latent, neighbours) in near.into_iter().enumerate() {
            let firing = summary.firing(latent)?;
            let maps = vec![Vec::new(); firing.top.len()];
            let over_time = vec![Vec::new(); if firing.top.is_empty() { 0 } else { stages.len() }];
            latents.push(Surveyed { firing, maps, over_time, histogram: [0; BINS], neighbours });
        }
        // Which latents have an item among their top pictures, and as which.
        let mut wanted: Vec<Vec<(usize, usize)>> = vec![Vec::new(); activations.len()];
        for (latent, found) in latents.iter().enumerate() {
            found.firing.top.iter().enumerate().for_each(|(rank, e)| wanted[e.item].push((latent, rank)));
        }
        each_item(sae, activations, "survey", |item, maps| {
            wanted[item].iter().for_each(|&(latent, rank)| latents[latent].maps[rank] = maps.dense(latent));
            add_histograms(&mut latents, &maps);
            Ok(())
        })?;
        for (s, stage) in stages.iter().enumerate() {
            each_item(sae, stage, "survey over time", |item, maps| {
                let first = wanted[item].iter().filter(|(_, rank)| *rank == 0);
                first.for_each(|&(latent, _)| latents[latent].over_time[s] = maps.dense(latent));
                Ok(())
            })?;
        }
        let (grid, items) = (activations.grid(), activations.len());
        Ok(SurveyResult { sae: sae.to_string(), grid, items, latents, timeline })
    }
}

fn add_histograms(latents: &mut [Surveyed], maps: &Maps) {
    for n in 0..maps.active().len() {
        let (latent, _, values) = maps.nth(n);
        let found = &mut latents[latent];
        for v in values {
            let bin = (v / found.firing.max * BINS as f32) as usize;
            found.histogram[bin.min(BINS - 1)] += 1;
        }
    }
}

impl SurveyResult {
    /// Share of the tokens on which a latent fires.
    ///
    /// # Errors
    /// No such latent.
    pub fn density(&self, latent: usize) -> Result<f64> {
        let n = self.latents.len();
        let found = self.latents.get(latent).ok_or_else(|| Error::invalid(format!("latent {latent} of {n}")))?;
        Ok(found.firing.tokens as f64 / (self.items * self.grid.0 * self.grid.1).max(1) as f64)
    }

    /// What a notebook shows: how much was surveyed.
    pub fn evcxr_display(&self) {
        let live = self.latents.iter().filter(|l| l.firing.items > 0).count();
        println!("{}\n{} of {} latents fire on {} pictures", self.sae, live, self.latents.len(), self.items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Latent l reads channel l of 3; three pictures of two tokens.
    fn reader() -> Sae {
        let mut sae = Sae::random(3, 4, 3, 1).unwrap();
        sae.w_enc = vec![1., 0., 0., 0., 1., 0., 0., 0., 1., -1., -1., -1.];
        sae
    }

    fn activations(scale: f32) -> Activations {
        let values = [[4., 0., 0., 1., 0., 0.], [0., 2., 0., 2., 0., 0.], [0., 0., 0., 3., 5., 0.]].concat();
        Activations::from_vec((1, 2), 3, values.into_iter().map(|v: f32| v * scale).collect()).unwrap()
    }

    #[test]
    fn a_latent_is_known_by_its_maps_bins_and_neighbours() {
        let survey = Survey::new().examples(2).neighbours(2).build(&reader(), &activations(1.0), &[]).unwrap();
        let found = &survey.latents[0];
        assert_eq!(found.firing.top.iter().map(|e| e.item).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(found.maps, [vec![4.0, 1.0], vec![0.0, 3.0]]);
        assert_eq!(found.over_time, [vec![4.0, 1.0]]);
        let mut bins = [0; BINS];
        // 1, 2, 3 and 4 of at most 4.
        (bins[4], bins[8], bins[12], bins[15]) = (1, 1, 1, 1);
        assert_eq!(found.histogram, bins);
        assert_eq!(found.neighbours.len(), 2);
        assert!((survey.density(0).unwrap() - 4.0 / 6.0).abs() < 1e-12);
        let silent = &survey.latents[3];
        assert!(silent.maps.is_empty() && silent.over_time.is_empty() && silent.firing.items == 0);
        assert!(survey.density(4).is_err());
    }

    #[test]
    fn maps_over_time_are_of_one_picture() {
        let stages = [activations(0.5), activations(1.0)];
        let survey = Survey::new().build(&reader(), &activations(1.0), &stages).unwrap();
        assert_eq!(survey.latents[1].over_time, [vec![0.0, 2.5], vec![0.0, 5.0]]);
        let fewer = activations(1.0).range(0..2).unwrap();
        let e = Survey::new().build(&reader(), &activations(1.0), &[fewer]).unwrap_err().to_string();
        assert!(e.contains("not of the same pictures"), "{e}");
    }
}
