//! From an SAE and activations to a dictionary.

use super::dictionary::{Dictionary, Provenance};
use super::label::LabelledMask;
use super::labeller::{Compare, Labeller, Options, Rule, Scale};
use super::maps::Maps;
use super::top::Summary;
use crate::activations::{Activations, Trajectories};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::random::stream;
use crate::sae::{Codes, Sae, TrajectorySae};

/// Items whose maps are held at once. Larger groups do not label faster.
const GROUP: usize = 32;

/// A labelling to be made: the paper's choices, or others.
///
/// ```
/// use denoscope::concepts::{Compare, Labelling};
///
/// let labelling = Labelling::new().compare(Compare::Pixels).shuffled(1);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Labelling {
    options: Options,
    shuffled: Option<u64>,
}

impl Labelling {
    /// The paper's labelling: threshold 0.1, IoU > 0.5, one picture is enough; compared on the grid.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All options at once.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// See [`Options::scale`].
    #[must_use]
    pub fn scale(mut self, scale: Scale) -> Self {
        self.options.scale = scale;
        self
    }

    /// See [`Options::threshold`].
    #[must_use]
    pub fn threshold(mut self, threshold: f32) -> Self {
        self.options.threshold = threshold;
        self
    }

    /// See [`Options::compare`].
    #[must_use]
    pub fn compare(mut self, compare: Compare) -> Self {
        self.options.compare = compare;
        self
    }

    /// See [`Options::iou`].
    #[must_use]
    pub fn iou(mut self, iou: f32) -> Self {
        self.options.iou = iou;
        self
    }

    /// See [`Options::rule`].
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.options.rule = rule;
        self
    }

    /// See [`Options::hits`].
    #[must_use]
    pub fn hits(mut self, hits: u32) -> Self {
        self.options.hits = hits;
        self
    }

    /// The control: every item gets the masks of another one, in a random cycle drawn with `seed`.
    #[must_use]
    pub fn shuffled(mut self, seed: u64) -> Self {
        self.shuffled = Some(seed);
        self
    }

    /// Labels the latents of `sae` by their maps on `activations` and the masks of each item.
    ///
    /// # Errors
    /// When there are not as many lists of masks as items, the SAE is of another width, or an activation cannot be read.
    pub fn build(&self, sae: &Sae, activations: &Activations, masks: &[Vec<LabelledMask>]) -> Result<Dictionary> {
        fits(sae, activations)?;
        let about = sae.about.as_ref();
        let provenance = Provenance {
            model: about.map_or_else(String::new, |a| a.model.clone()),
            site: about.map(|a| a.site.clone()),
            step: about.map(|a| a.step),
            steps: about.map(|a| a.steps),
            half: about.map(|a| a.half),
            sae: sae.to_string(),
            shuffled: self.shuffled,
        };
        let maps = |i: usize| Maps::of(&sae.encode(&activations.item(i)?)?, 0);
        self.label((sae.latents, activations.grid(), activations.len()), masks, provenance, &maps)
    }

    /// Labels the features of an SAE of trajectories by their maps (one a feature and item: it acts on whole paths).
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn trajectories(
        &self,
        sae: &TrajectorySae,
        trajectories: &Trajectories,
        masks: &[Vec<LabelledMask>],
    ) -> Result<Dictionary> {
        sae.predictors.fits(trajectories)?;
        let about = trajectories.step(0).about();
        let provenance = Provenance {
            model: about.model.clone(),
            site: Some(about.site.clone()),
            step: None,
            steps: Some(about.steps),
            half: Some(about.half),
            sae: sae.to_string(),
            shuffled: self.shuffled,
        };
        let maps = |i: usize| {
            let codes = sae.encode(&trajectories.item(i)?)?;
            Maps::new(codes.latents, &codes.offsets, &codes.index, &codes.value)
        };
        self.label((sae.features(), trajectories.grid(), trajectories.len()), masks, provenance, &maps)
    }

    fn label(
        &self,
        (latents, grid, items): (usize, (usize, usize), usize),
        masks: &[Vec<LabelledMask>],
        provenance: Provenance,
        maps: &dyn Fn(usize) -> Result<Maps>,
    ) -> Result<Dictionary> {
        one_list_each(masks.len(), items)?;
        let mut source: Vec<usize> = (0..items).collect();
        if let Some(seed) = self.shuffled {
            let order = stream(seed, "shuffled masks", items as u64).permutation(items);
            // One cycle through a random order: with two items or more, none keeps its own masks.
            order.iter().zip(order.iter().cycle().skip(1)).for_each(|(&a, &b)| source[a] = b);
        }
        let mut labeller = Labeller::new(latents, grid, self.options)?;
        let mut group: Vec<(Maps, &[LabelledMask])> = Vec::with_capacity(GROUP);
        let mut progress = Progress::new("labelling", items);
        for i in 0..items {
            group.push((maps(i)?, &masks[source[i]]));
            if group.len() == GROUP || i + 1 == items {
                labeller.add(&group)?;
                group.clear();
            }
            progress.at(i + 1, "");
        }
        Ok(labeller.finish(provenance))
    }
}

impl Dictionary {
    /// The dictionary of the paper's labelling; see [`Labelling`] for other choices and the control.
    ///
    /// # Errors
    /// As [`Labelling::build`].
    pub fn build(sae: &Sae, activations: &Activations, masks: &[Vec<LabelledMask>]) -> Result<Self> {
        Labelling::new().build(sae, activations, masks)
    }
}

impl Summary {
    /// The summary of all items, with `keep` top pictures for each latent.
    ///
    /// # Errors
    /// When the SAE is of another width, or an activation cannot be read.
    pub fn build(sae: &Sae, activations: &Activations, keep: usize) -> Result<Self> {
        let mut summary = Self::new(sae.latents, activations.grid(), keep);
        each_item(sae, activations, "summary", |_, maps| summary.add(&maps))?;
        Ok(summary)
    }
}

impl Maps {
    /// The maps of item `item` of codes.
    ///
    /// # Errors
    /// When there is no such item.
    pub fn of(codes: &Codes, item: usize) -> Result<Self> {
        if item >= codes.items() {
            return Err(Error::invalid(format!("item {item} of codes of {}", codes.items())));
        }
        let first = item * codes.tokens_per_item;
        let offsets = &codes.offsets[first..=first + codes.tokens_per_item];
        Self::new(codes.latents, offsets, &codes.index, &codes.value)
    }
}

/// Refuses masks that are not one list for every item.
pub(super) fn one_list_each(lists: usize, items: usize) -> Result<()> {
    if lists == items {
        return Ok(());
    }
    Err(Error::Shape { what: "lists of masks".into(), found: vec![lists], expected: vec![items] })
}

/// Refuses activations of another width.
fn fits(sae: &Sae, activations: &Activations) -> Result<()> {
    if activations.d() == sae.d {
        return Ok(());
    }
    let what = format!("{activations} for an SAE");
    Err(Error::Shape { what, found: vec![activations.d()], expected: vec![sae.d] })
}

/// Encodes item by item.
pub(super) fn each_item(
    sae: &Sae,
    activations: &Activations,
    what: &str,
    mut each: impl FnMut(usize, Maps) -> Result<()>,
) -> Result<()> {
    fits(sae, activations)?;
    let mut progress = Progress::new(what, activations.len());
    for i in 0..activations.len() {
        each(i, Maps::of(&sae.encode(&activations.item(i)?)?, 0)?)?;
        progress.at(i + 1, "");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::concepts::Vocabulary;
    use crate::scene::Mask;

    const WORDS: [&str; 3] = ["tree", "house", "cup"];

    /// 90 items on a 4 × 6 grid with 5 channels: channel c is 1 inside a random box, whose mask is labelled WORDS[c].
    fn planted() -> (Activations, Vec<Vec<LabelledMask>>) {
        let (mut data, mut masks) = (Vec::new(), Vec::new());
        for i in 0..90 {
            let mut r = stream(3, "planted", i);
            let mut item = vec![0.0; 24 * 5];
            let boxes = (0..3).map(|c| {
                let (x0, y0) = (r.below(4), r.below(3));
                let (x1, y1) = (x0 + 1 + r.below(6 - x0).min(2), y0 + 1 + r.below(4 - y0).min(1));
                for y in y0..y1 {
                    (x0..x1).for_each(|x| item[(y * 6 + x) * 5 + c] = 1.0);
                }
                let inside = |x: usize, y: usize| (x0..x1).contains(&(x / 2)) && (y0..y1).contains(&(y / 2));
                LabelledMask::new(Vocabulary::Class, WORDS[c], Mask::from_fn(12, 8, inside))
            });
            masks.push(boxes.collect());
            data.extend(item.iter().map(|v| v + 0.001 * r.uniform()));
        }
        (Activations::from_vec((4, 6), 5, data).unwrap(), masks)
    }

    /// Latent l reads channel l.
    fn reader() -> Sae {
        let mut sae = Sae::random(5, 7, 3, 1).unwrap();
        sae.w_enc.fill(0.0);
        (0..5).for_each(|l| sae.w_enc[l * 5 + l] = 1.0);
        sae.b_enc.fill(-0.01);
        sae
    }

    #[test]
    fn planted_concepts_are_found_and_the_control_loses_them() {
        let (activations, masks) = planted();
        let d = Dictionary::build(&reader(), &activations, &masks).unwrap();
        for (latent, word) in WORDS.iter().enumerate() {
            let entry = &d.concept(latent).unwrap().labels[0];
            assert_eq!((entry.label.word.as_str(), entry.hits, entry.mean_iou), (*word, 90, 1.0));
            assert_eq!(d.of(word).unwrap()[0], latent);
        }
        assert_eq!((d.labelled(), d.live(), d.items), (3, 3, 90));
        let control = Labelling::new().shuffled(5).build(&reader(), &activations, &masks).unwrap();
        let hits = |d: &Dictionary| d.concepts.iter().flat_map(|c| &c.labels).map(|e| e.hits).sum::<usize>();
        assert!(hits(&control) * 4 < hits(&d), "{} of {}", hits(&control), hits(&d));
        assert_eq!(control.at_least(1, 0.5).labelled(), 0);
        assert_eq!(control.provenance.shuffled, Some(5));
        let random = Sae::random(5, 7, 3, 1).unwrap().centred(&activations).unwrap();
        let random = Dictionary::build(&random, &activations, &masks).unwrap().at_least(1, 0.9);
        assert!(random.labelled() < 3);
    }

    #[test]
    fn shuffling_gives_every_item_the_masks_of_another() {
        let (activations, masks) = planted();
        let two = activations.range(0..2).unwrap();
        let swapped = vec![masks[1].clone(), masks[0].clone()];
        let control = Labelling::new().iou(0.0).shuffled(0).build(&reader(), &two, &masks[..2]).unwrap();
        let by_hand = Labelling::new().iou(0.0).build(&reader(), &two, &swapped).unwrap();
        assert!(control.concepts == by_hand.concepts);
    }

    #[test]
    fn masks_and_widths_must_fit() {
        let (activations, masks) = planted();
        let say = |e: Result<Dictionary>| e.unwrap_err().to_string();
        let e = say(Dictionary::build(&reader(), &activations, &masks[1..]));
        assert!(e.contains("[89]") && e.contains("[90]"), "{e}");
        let wide = Sae::random(6, 7, 3, 1).unwrap();
        let e = say(Dictionary::build(&wide, &activations, &masks));
        assert!(e.contains("[5]") && e.contains("[6]"), "{e}");
    }

    #[test]
    fn a_summary_counts_what_fires() {
        let (activations, masks) = planted();
        let s = Summary::build(&reader(), &activations, 4).unwrap();
        let areas: Vec<usize> = masks.iter().map(|m| m[1].mask.area() / 4).collect();
        assert_eq!(s.firing(1).unwrap().tokens, areas.iter().sum::<usize>());
        assert_eq!(areas[s.top(1).unwrap()[0].item], *areas.iter().max().unwrap());
        assert_eq!(s.firing(6).unwrap().items, 0);
    }
}
