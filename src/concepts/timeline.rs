//! When concepts emerge: what one SAE's latents do at several steps of the same pictures, and with which words.
//!
//! An SAE is trained at one step; read at others it shows when what it learned there is first there. Latents of SAEs
//! of two steps are not comparable (Emergence, limitations), those of one SAE at two steps are. With γ_c(t) the mean
//! activation of latent c over all tokens of all pictures at step t, the latent *emerges* at the noisiest t at which
//! γ_c reaches half of its greatest value over the steps. This is the library's own measure.

use super::build::each_item;
use crate::activations::Activations;
use crate::error::{Error, Result};
use crate::sae::Sae;
use std::collections::BTreeMap;

/// Words on fewer of the pictures than this share say little, those on more than the rest say nothing.
const SHARES: (f64, f64) = (0.01, 0.9);

/// Mean activations by step, latent and word of the prompt.
///
/// ```
/// use denoscope::activations::Activations;
/// use denoscope::concepts::Timeline;
/// use denoscope::sae::Sae;
///
/// let sae = Sae::random(3, 6, 2, 0)?;
/// let step = |x: f32| Activations::from_vec((1, 2), 3, vec![x, 0.0, 0.0, 0.0, x, 0.0]);
/// let timeline = Timeline::build(&sae, &[step(0.1)?, step(2.0)?], 10)?;
/// assert_eq!(timeline.steps(), 2);
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Timeline {
    t: Vec<f64>,
    latents: usize,
    /// γ, `[steps, latents]`.
    means: Vec<f64>,
    words: Vec<String>,
    /// Pictures with the word, and without it.
    counts: Vec<(f64, f64)>,
    /// Sum of γ over the pictures with the word, `[steps, latents, words]`.
    sums: Vec<f32>,
    items: usize,
}

/// A word and the mean γ of a latent over the pictures whose prompt has it.
#[derive(Debug, Clone, PartialEq)]
pub struct WordProfile {
    /// The word.
    pub word: String,
    /// Mean γ at every step.
    pub means: Vec<f64>,
    /// Mean γ over all steps with the word, less that without it.
    pub lift: f64,
}

impl Timeline {
    /// Reads `sae` on activations of the same pictures at several steps, noisiest first; keeps the `words` most frequent
    /// words of the prompts (of those on 1 % to 90 % of the pictures).
    ///
    /// # Errors
    /// No step, steps out of order, of other pictures or places than the first, or of another width than the SAE.
    pub fn build(sae: &Sae, stages: &[Activations], words: usize) -> Result<Self> {
        let Some(first) = stages.first() else { return Err(Error::invalid("timeline: no step")) };
        for pair in stages.windows(2) {
            if pair[0].about().step > pair[1].about().step {
                let (a, b) = (pair[0].about().step, pair[1].about().step);
                return Err(Error::invalid(format!("timeline: step {a} before step {b}, expected the noisiest first")));
            }
        }
        for stage in &stages[1..] {
            if stage.about().site != first.about().site || stage.items() != first.items() {
                return Err(Error::invalid(format!(
                    "timeline: {stage} is not of the same pictures and place as {first}"
                )));
            }
        }
        let has: Vec<Vec<usize>>;
        let (names, counts) = {
            let prompts: Vec<Vec<String>> = first.items().iter().map(|i| words_of(&i.prompt)).collect();
            let chosen = frequent(&prompts, words);
            let index: BTreeMap<&str, usize> = chosen.iter().enumerate().map(|(i, (w, _))| (w.as_str(), i)).collect();
            has = prompts.iter().map(|p| p.iter().filter_map(|w| index.get(w.as_str()).copied()).collect()).collect();
            let n = first.len() as f64;
            let counts = chosen.iter().map(|(_, c)| (*c as f64, n - *c as f64)).collect();
            (chosen.iter().map(|(w, _)| w.clone()).collect::<Vec<_>>(), counts)
        };
        let (latents, n) = (sae.latents, names.len());
        let mut means = vec![0f64; stages.len() * latents];
        let mut sums = vec![0f32; stages.len() * latents * n];
        for (s, stage) in stages.iter().enumerate() {
            let what = format!("timeline t = {:.2}", stage.about().t());
            each_item(sae, stage, &what, |item, maps| {
                for (latent, mean) in maps.means() {
                    means[s * latents + latent] += f64::from(mean) / first.len() as f64;
                    let row = &mut sums[(s * latents + latent) * n..][..n];
                    has[item].iter().for_each(|&w| row[w] += mean);
                }
                Ok(())
            })?;
        }
        let t = stages.iter().map(|s| s.about().t()).collect();
        Ok(Self { t, latents, means, words: names, counts, sums, items: first.len() })
    }

    /// Number of steps.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.t.len()
    }

    /// Progress of every step, 1 = noise.
    #[must_use]
    pub fn t(&self) -> &[f64] {
        &self.t
    }

    /// Pictures behind the means.
    #[must_use]
    pub fn items(&self) -> usize {
        self.items
    }

    /// γ of a latent at every step.
    ///
    /// # Errors
    /// No such latent.
    pub fn mean(&self, latent: usize) -> Result<Vec<f64>> {
        if latent >= self.latents {
            return Err(Error::invalid(format!("latent {latent} of a timeline of {}", self.latents)));
        }
        Ok((0..self.steps()).map(|s| self.means[s * self.latents + latent]).collect())
    }

    /// The t at which a latent emerges; `None` if it never fires.
    ///
    /// # Errors
    /// No such latent.
    pub fn emergence(&self, latent: usize) -> Result<Option<f64>> {
        let means = self.mean(latent)?;
        let most = means.iter().copied().fold(0.0, f64::max);
        Ok(means.iter().position(|m| most > 0.0 && *m >= most / 2.0).map(|s| self.t[s]))
    }

    /// The `most` words whose presence raises γ of a latent most, with γ at every step; those that lower it are left
    /// out.
    ///
    /// # Errors
    /// No such latent.
    pub fn words(&self, latent: usize, most: usize) -> Result<Vec<WordProfile>> {
        let all = self.mean(latent)?;
        let n = self.words.len();
        let profile = |w: usize| {
            let (with, without) = self.counts[w];
            let sum = |s: usize| f64::from(self.sums[(s * self.latents + latent) * n + w]);
            let means: Vec<f64> = (0..self.steps()).map(|s| sum(s) / with).collect();
            let rest = |s: usize| (all[s] * self.items as f64 - sum(s)) / without;
            let lift = (0..self.steps()).map(|s| means[s] - rest(s)).sum::<f64>() / self.steps() as f64;
            WordProfile { word: self.words[w].clone(), means, lift }
        };
        let mut found: Vec<WordProfile> = (0..n).map(profile).filter(|p| p.lift > 0.0).collect();
        found.sort_by(|a, b| b.lift.total_cmp(&a.lift).then(a.word.cmp(&b.word)));
        found.truncate(most);
        Ok(found)
    }
}

/// The words of a prompt, each once, in lower case.
fn words_of(prompt: &str) -> Vec<String> {
    let mut words: Vec<String> =
        prompt.split(|c: char| !c.is_alphanumeric()).filter(|w| w.len() > 1).map(str::to_lowercase).collect();
    words.sort();
    words.dedup();
    words
}

/// The most frequent words with the number of prompts that have them, in alphabetical order.
fn frequent(prompts: &[Vec<String>], most: usize) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    prompts.iter().flatten().for_each(|w| *counts.entry(w).or_default() += 1);
    let n = prompts.len() as f64;
    let fits = |c: usize| c as f64 >= SHARES.0 * n && c as f64 <= SHARES.1 * n;
    let mut words: Vec<(String, usize)> =
        counts.into_iter().filter(|(_, c)| fits(*c)).map(|(w, c)| (w.to_string(), c)).collect();
    words.sort_by_key(|(_, c)| std::cmp::Reverse(*c));
    words.truncate(most);
    words.sort();
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activations::Item;

    /// Latent l reads channel l; four pictures of one token, two with a tree.
    fn stage(step: usize, values: [[f32; 2]; 4]) -> Activations {
        let prompts = ["a tree at night", "a tree", "a house", "a house by the sea"];
        let items = prompts.map(|p| Item { prompt: p.into(), seed: 0 }).to_vec();
        let base = Activations::from_vec((1, 1), 2, vec![0.0; 8]).unwrap();
        let about = crate::activations::Description { step, steps: 5, ..base.about().clone() };
        Activations::described(about, items, values.concat()).unwrap()
    }

    fn reader() -> Sae {
        let mut sae = Sae::random(2, 3, 2, 1).unwrap();
        sae.w_enc = vec![1.0, 0.0, 0.0, 1.0, -1.0, -1.0];
        sae
    }

    #[test]
    fn emergence_is_half_of_the_greatest_mean() {
        let early = stage(0, [[1.0, 0.0], [0.0; 2], [0.0; 2], [0.0; 2]]);
        let middle = stage(2, [[2.0, 0.0], [0.0; 2], [0.0; 2], [0.0, 1.0]]);
        let late = stage(4, [[3.0, 0.0], [0.0; 2], [0.0; 2], [0.0, 4.0]]);
        let line = Timeline::build(&reader(), &[early, middle, late], 9).unwrap();
        assert_eq!(line.mean(0).unwrap(), [0.25, 0.5, 0.75]);
        assert_eq!(line.emergence(0).unwrap(), Some(0.5)); // 0.5 ≥ 0.75 / 2
        assert_eq!(line.emergence(1).unwrap(), Some(0.0));
        assert_eq!(line.emergence(2).unwrap(), None);
        assert!(line.emergence(3).unwrap_err().to_string().contains("latent 3 of a timeline of 3"));
    }

    #[test]
    fn words_are_ranked_by_what_they_add() {
        let one = stage(1, [[4.0, 0.0], [2.0, 0.0], [1.0, 8.0], [0.0, 0.0]]);
        let line = Timeline::build(&reader(), &[one], 9).unwrap();
        let words = line.words(0, 9).unwrap();
        let named: Vec<(&str, f64)> = words.iter().map(|w| (w.word.as_str(), w.lift)).collect();
        // night: 4 − 1; at: the same; tree: 3 − ½; house and sea lower it.
        assert_eq!(named, [("at", 3.0), ("night", 3.0), ("tree", 2.5)]);
        assert_eq!(words[2].means, [3.0]);
        assert_eq!(line.words(1, 1).unwrap()[0].word, "house");
    }

    #[test]
    fn steps_of_other_pictures_are_refused() {
        let zero = [[0.0; 2]; 4];
        let e = Timeline::build(&reader(), &[stage(3, zero), stage(1, zero)], 3).unwrap_err().to_string();
        assert!(e.contains("step 3 before step 1"), "{e}");
        let e = Timeline::build(&reader(), &[], 3).unwrap_err().to_string();
        assert!(e.contains("no step"), "{e}");
        let fewer = stage(4, zero).range(0..3).unwrap();
        let e = Timeline::build(&reader(), &[stage(1, zero), fewer], 3).unwrap_err().to_string();
        assert!(e.contains("not of the same pictures"), "{e}");
    }
}
