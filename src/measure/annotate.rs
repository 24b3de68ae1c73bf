//! What is in a picture: the interface of an annotator, and the objects in its maps.
//!
//! An annotator looks at pictures only. The embedded one is a segmentation network; [`Exact`] knows the truth of
//! rendered scenes. Both give an [`Annotation`].

use crate::concepts::{LabelledMask, Vocabulary};
use crate::error::{Error, Result};
use crate::scene::{Background, Class, Colour, Mask, ObjectTruth, Part, Place, Render, Scene, Style};
use image::RgbImage;
use std::collections::HashMap;

/// Objects of fewer pixels are taken for noise. The smallest object in 64×64 pictures, 16 pixels long, has about 100;
/// half hidden by another still more than this.
const LEAST_PIXELS: usize = 24;
/// Parts of fewer pixels are taken for noise. The eye of the smallest object has about 3.
const LEAST_OF_PART: usize = 2;

/// Something that says what pictures show.
pub trait Annotator: Send + Sync {
    /// One annotation for every picture.
    ///
    /// # Errors
    /// When a picture is of a size it cannot judge, or a network fails.
    fn annotate(&self, images: &[RgbImage]) -> Result<Vec<Annotation>>;
}

/// An object that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What it is.
    pub class: Class,
    /// Its colour: the one that most of its coloured pixels have.
    pub colour: Option<Colour>,
    /// Its pixels.
    pub mask: Mask,
    /// Mean probability of the class over its pixels.
    pub confidence: f32,
    /// Left, upper, right and lower edge in pixels; right and lower are one beyond the last.
    pub bbox: [usize; 4],
    /// What of its parts is seen, in the order of [`Class::parts`]; where the annotator knows no parts, none.
    pub parts: Vec<FoundPart>,
}

/// A part of an object that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundPart {
    /// What it is.
    pub part: Part,
    /// Its pixels, all of them the object's: both wheels of a car, if both are seen.
    pub mask: Mask,
    /// Mean probability of the part over its pixels.
    pub confidence: f32,
    /// Its edges, as [`Found::bbox`].
    pub bbox: [usize; 4],
}

impl Found {
    /// The named place nearest to its centre of mass.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.mask.place()
    }
}

/// What a picture shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotation {
    /// Its objects, largest first.
    pub objects: Vec<Found>,
    /// Per pixel 0 for the backdrop, 1 + class index.
    pub class_map: Vec<u8>,
    /// Height and width of the picture.
    pub size: (usize, usize),
    /// Its style.
    pub style: Option<Style>,
    /// Its background.
    pub background: Option<Background>,
    /// Cast shadow, where the annotator knows it.
    pub shadow: Option<Mask>,
    /// Probability of the backdrop and of every class, `[1 + classes, height, width]`.
    pub probability: Vec<f32>,
}

/// What a segmentation network says of one picture, before objects are looked for.
#[derive(Debug, Clone)]
pub struct Scores {
    /// Height and width.
    pub size: (usize, usize),
    /// Probabilities of the backdrop and of every class, `[1 + Class::COUNT, height, width]`.
    pub class: Vec<f32>,
    /// Probabilities of no colour and of every colour, `[1 + Colour::COUNT, height, width]`.
    pub colour: Vec<f32>,
    /// Probabilities of the backdrop and of every part, `[1 + Part::COUNT, height, width]`; empty from a network that knows
    /// no parts.
    pub part: Vec<f32>,
    /// The style.
    pub style: Option<Style>,
    /// The background.
    pub background: Option<Background>,
}

impl Annotation {
    /// Objects from per-pixel scores: connected pixels (8 neighbours) of one most probable class are an object, and each of
    /// them belongs to the most probable of the parts that the class has.
    ///
    /// # Errors
    /// When a map is not of the stated size.
    pub fn from_scores(scores: Scores) -> Result<Self> {
        let (height, width) = scores.size;
        let check = |what: &str, found: usize, planes: usize| match found == planes * height * width {
            true => Ok(()),
            false => Err(Error::Shape {
                what: format!("{what} scores of an annotation"),
                found: vec![found],
                expected: vec![planes, height, width],
            }),
        };
        check("class", scores.class.len(), 1 + Class::COUNT)?;
        check("colour", scores.colour.len(), 1 + Colour::COUNT)?;
        if !scores.part.is_empty() {
            check("part", scores.part.len(), 1 + Part::COUNT)?;
        }
        let class_map = most_probable(&scores.class, height * width);
        let objects = objects(&class_map, &scores);
        let Scores { size, class: probability, style, background, .. } = scores;
        Ok(Self { objects, class_map, size, style, background, shadow: None, probability })
    }

    /// The exact annotation of a rendered scene.
    #[must_use]
    pub fn of_render(scene: &Scene, render: &Render) -> Self {
        let (width, height) = (render.image.width() as usize, render.image.height() as usize);
        let pixels = width * height;
        let mut probability = vec![0.0; (1 + Class::COUNT) * pixels];
        for (i, &class) in render.class_map.iter().enumerate() {
            probability[usize::from(class) * pixels + i] = 1.0;
        }
        let part = |(part, mask): &(Part, Mask)| FoundPart {
            part: *part,
            mask: mask.clone(),
            confidence: 1.0,
            bbox: bbox(mask),
        };
        let found = |t: &ObjectTruth| {
            let (class, colour) = (t.object.class, Some(t.object.colour));
            let parts = t.parts.iter().filter(|(_, mask)| !mask.is_empty()).map(part).collect();
            Found { class, colour, mask: t.mask.clone(), confidence: 1.0, bbox: bbox(&t.mask), parts }
        };
        let mut objects: Vec<Found> = render.objects.iter().filter(|t| !t.mask.is_empty()).map(found).collect();
        objects.sort_by_key(|o| std::cmp::Reverse(o.mask.area()));
        Self {
            objects,
            class_map: render.class_map.clone(),
            size: (height, width),
            style: Some(scene.style),
            background: Some(scene.background),
            shadow: Some(render.shadow.clone()),
            probability,
        }
    }

    /// Per-pixel probability of a class, row by row.
    #[must_use]
    pub fn probability(&self, class: Class) -> &[f32] {
        let pixels = self.size.0 * self.size.1;
        &self.probability[(1 + class.index()) * pixels..(2 + class.index()) * pixels]
    }

    /// Per pixel 0, or 1 + the index of the part that an object has there.
    #[must_use]
    pub fn part_map(&self) -> Vec<u8> {
        let (height, width) = self.size;
        let mut map = vec![0; height * width];
        for part in self.objects.iter().flat_map(|o| &o.parts) {
            let within = (0..height * width).filter(|p| part.mask.get(p % width, p / width));
            within.for_each(|p| map[p] = 1 + part.part.index() as u8);
        }
        map
    }

    /// The masks with their labels, for labelling latents; empty ones are left out.
    #[must_use]
    pub fn masks(&self, vocabularies: &[Vocabulary]) -> Vec<LabelledMask> {
        let (height, width) = self.size;
        let mut found = Vec::new();
        let mut add = |mask: LabelledMask| {
            if vocabularies.contains(&mask.label.vocabulary) && !mask.mask.is_empty() {
                found.push(mask);
            }
        };
        for object in &self.objects {
            add(LabelledMask::new(Vocabulary::Class, object.class.name(), object.mask.clone()));
            if let Some(colour) = object.colour {
                add(LabelledMask::new(Vocabulary::Colour, colour.name(), object.mask.clone()));
            }
            for part in &object.parts {
                add(LabelledMask::new(Vocabulary::Part, part.part.name(), part.mask.clone()));
            }
        }
        if let Some(background) = self.background {
            let mask = Mask::from_fn(width, height, |x, y| self.class_map[y * width + x] == 0);
            add(LabelledMask::new(Vocabulary::Background, background.name(), mask));
        }
        if let Some(style) = self.style {
            add(LabelledMask::new(Vocabulary::Style, style.name(), Mask::from_fn(width, height, |_, _| true)));
        }
        if let Some(shadow) = &self.shadow {
            add(LabelledMask::new(Vocabulary::Shadow, "shadow", shadow.clone()));
        }
        found
    }

    /// What a notebook shows: the objects in words.
    pub fn evcxr_display(&self) {
        for o in &self.objects {
            let colour = o.colour.map_or("", Colour::name);
            let place = o.place().map_or("", Place::name);
            println!("{colour} {} · {place} · {} pixels · {:.2}", o.class, o.mask.area(), o.confidence);
        }
        let (background, style) = (self.background.map_or("?", Background::name), self.style.map_or("?", Style::name));
        println!("background {background} · style {style}");
    }
}

/// The exact annotator of known scenes: it recognises their pictures and refuses all others.
#[derive(Debug, Default)]
pub struct Exact {
    known: HashMap<Vec<u8>, Annotation>,
}

impl Exact {
    /// Knows these scenes.
    #[must_use]
    pub fn new(scenes: &[Scene]) -> Self {
        let known = scenes.iter().map(|scene| {
            let render = scene.render();
            let annotation = Annotation::of_render(scene, &render);
            (render.image.into_raw(), annotation)
        });
        Self { known: known.collect() }
    }
}

impl Annotator for Exact {
    fn annotate(&self, images: &[RgbImage]) -> Result<Vec<Annotation>> {
        let one = |(i, image): (usize, &RgbImage)| {
            let known = self.known.get(image.as_raw()).cloned();
            known.ok_or_else(|| Error::invalid(format!("exact annotator: picture {i} is no render of a known scene")))
        };
        images.iter().enumerate().map(one).collect()
    }
}

/// Index of the greatest of several planes at every pixel; the first of equals.
fn most_probable(planes: &[f32], pixels: usize) -> Vec<u8> {
    let mut best = planes[..pixels].to_vec();
    let mut map = vec![0; pixels];
    for (index, plane) in planes.chunks_exact(pixels.max(1)).enumerate().skip(1) {
        for ((best, index_of), &p) in best.iter_mut().zip(&mut map).zip(plane) {
            if p > *best {
                (*best, *index_of) = (p, index as u8);
            }
        }
    }
    map
}

fn objects(class_map: &[u8], scores: &Scores) -> Vec<Found> {
    let (height, width) = scores.size;
    let colour_map = most_probable(&scores.colour, height * width);
    let mut seen = vec![false; class_map.len()];
    let mut objects = Vec::new();
    for start in 0..class_map.len() {
        let Some(class) = usize::from(class_map[start]).checked_sub(1).and_then(Class::from_index) else { continue };
        if seen[start] {
            continue;
        }
        let pixels = component(class_map, start, (height, width), &mut seen);
        if pixels.len() < LEAST_PIXELS {
            continue;
        }
        let mut votes = [0usize; 1 + Colour::COUNT];
        pixels.iter().for_each(|&p| votes[usize::from(colour_map[p])] += 1);
        // Of equal votes the first; no vote at all is no colour.
        let best = (1..votes.len()).rev().max_by_key(|&c| votes[c]).filter(|&c| votes[c] > 0);
        let (mask, confidence) = region(&pixels, &scores.class, 1 + class.index(), scores.size);
        let (bbox, parts) = (bbox(&mask), parts(class, &pixels, scores));
        objects.push(Found {
            class,
            colour: best.and_then(|c| Colour::from_index(c - 1)),
            mask,
            confidence,
            bbox,
            parts,
        });
    }
    objects.sort_by_key(|o| std::cmp::Reverse(o.mask.area()));
    objects
}

/// The parts of an object of these pixels.
fn parts(class: Class, pixels: &[usize], scores: &Scores) -> Vec<FoundPart> {
    let plane = scores.size.0 * scores.size.1;
    if scores.part.is_empty() {
        return Vec::new();
    }
    let has = class.parts();
    let mut of = vec![Vec::new(); has.len()];
    for &pixel in pixels {
        let p = |i: usize| scores.part[(1 + has[i].index()) * plane + pixel];
        // Of equals the first.
        if let Some(best) = (0..has.len()).rev().max_by(|&a, &b| p(a).total_cmp(&p(b))) {
            of[best].push(pixel);
        }
    }
    let seen = has.into_iter().zip(of).filter(|(_, pixels)| pixels.len() >= LEAST_OF_PART);
    let found = seen.map(|(part, pixels)| {
        let (mask, confidence) = region(&pixels, &scores.part, 1 + part.index(), scores.size);
        FoundPart { part, bbox: bbox(&mask), mask, confidence }
    });
    found.collect()
}

/// The mask of some pixels, and the mean over them of a plane of probabilities.
fn region(pixels: &[usize], planes: &[f32], plane: usize, (height, width): (usize, usize)) -> (Mask, f32) {
    let mut mask = Mask::new(width, height);
    pixels.iter().for_each(|&p| mask.set(p % width, p / width, true));
    let sum: f32 = pixels.iter().map(|&p| planes[plane * height * width + p]).sum();
    (mask, sum / pixels.len() as f32)
}

/// All pixels of the class at `start` that connect to it, marked as seen.
fn component(map: &[u8], start: usize, (height, width): (usize, usize), seen: &mut [bool]) -> Vec<usize> {
    let (mut found, mut next) = (vec![start], 0);
    seen[start] = true;
    while let Some(&p) = found.get(next) {
        next += 1;
        let (y, x) = (p / width, p % width);
        for ny in y.saturating_sub(1)..(y + 2).min(height) {
            for nx in x.saturating_sub(1)..(x + 2).min(width) {
                let n = ny * width + nx;
                if !seen[n] && map[n] == map[start] {
                    seen[n] = true;
                    found.push(n);
                }
            }
        }
    }
    found
}

/// Left, upper, right and lower edge of a mask; zeros for an empty one.
fn bbox(mask: &Mask) -> [usize; 4] {
    let mut edges: Option<[usize; 4]> = None;
    for y in 0..mask.height() {
        for x in (0..mask.width()).filter(|&x| mask.get(x, y)) {
            let [l, t, r, b] = edges.unwrap_or([x, y, x + 1, y + 1]);
            edges = Some([l.min(x), t.min(y), r.max(x + 1), b.max(y + 1)]);
        }
    }
    edges.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::Split;

    /// Scores with certainty from a class and a colour map.
    fn scores(class: &[u8], colour: &[u8], size: (usize, usize)) -> Scores {
        let one_hot = |map: &[u8], planes: usize| {
            let mut p = vec![0.1 / planes as f32; planes * map.len()];
            map.iter().enumerate().for_each(|(i, &c)| p[usize::from(c) * map.len() + i] = 0.9);
            p
        };
        let (class, colour) = (one_hot(class, 1 + Class::COUNT), one_hot(colour, 1 + Colour::COUNT));
        Scores { size, class, colour, part: Vec::new(), style: Some(Style::Pixel), background: None }
    }

    #[test]
    fn connected_pixels_of_a_class_are_an_object() {
        // 8 rows of 20: a car (class 4) of 5 × 6, another one touching nothing, and a speck of a tree.
        let size = (8, 20);
        let (mut class, mut colour) = (vec![0u8; 160], vec![0u8; 160]);
        for y in 1..6 {
            for x in 0..6 {
                class[y * 20 + x] = 4;
                colour[y * 20 + x] = if x < 1 {
                    2
                } else if x < 3 {
                    5
                } else {
                    0
                };
            }
            for x in 12..19 {
                class[y * 20 + x] = 4;
            }
        }
        class[0] = 2;
        let a = Annotation::from_scores(scores(&class, &colour, size)).unwrap();
        let seen: Vec<_> = a.objects.iter().map(|o| (o.class, o.colour, o.mask.area(), o.bbox)).collect();
        let expected = [
            (Class::from_index(3).unwrap(), None, 35, [12, 1, 19, 6]),
            (Class::from_index(3).unwrap(), Colour::from_index(4), 30, [0, 1, 6, 6]),
        ];
        assert_eq!(seen, expected);
        assert!((a.objects[0].confidence - 0.9).abs() < 1e-6);
        assert_eq!(a.probability(Class::Car)[20], 0.9);
        assert!(a.probability(Class::Tree)[0] == 0.9 && a.probability(Class::Tree)[20] < 0.1);
        let masks = a.masks(&[Vocabulary::Class, Vocabulary::Colour, Vocabulary::Style]);
        let words: Vec<_> = masks.iter().map(|m| m.label.word.as_str()).collect();
        assert_eq!(words, ["car", "car", "blue", "pixel"]);
    }

    /// An object's pixels belong to the likeliest part that its class has, be another class's part likelier.
    #[test]
    fn an_objects_pixels_are_divided_among_its_parts() {
        let size = (6, 8);
        let mut class = vec![0u8; 48];
        let tree = 1 + Class::Tree.index() as u8;
        (0..48).filter(|p| p % 8 < 6).for_each(|p| class[p] = tree);
        let mut s = scores(&class, &[0; 48], size);
        s.part = vec![0.01; (1 + Part::COUNT) * 48];
        let mut set = |part: Part, pixels: &dyn Fn(usize, usize) -> bool, p: f32| {
            (0..48).filter(|i| pixels(i % 8, i / 8)).for_each(|i| s.part[(1 + part.index()) * 48 + i] = p);
        };
        set(Part::Crown, &|_, y| y < 4, 0.6);
        set(Part::Trunk, &|_, y| y >= 4, 0.8);
        set(Part::Wheel, &|x, _| x < 3, 0.9);
        let parts = |s: Scores| Annotation::from_scores(s).unwrap().objects[0].parts.clone();
        let seen: Vec<_> = parts(s.clone()).iter().map(|p| (p.part, p.mask.area(), p.bbox)).collect();
        assert_eq!(seen, [(Part::Trunk, 12, [0, 4, 6, 6]), (Part::Crown, 24, [0, 0, 6, 4])]);
        assert!((parts(s.clone())[0].confidence - 0.8).abs() < 1e-6);
        let a = Annotation::from_scores(s.clone()).unwrap();
        let map = a.part_map();
        assert_eq!((map[0], map[5 * 8], map[7]), (1 + Part::Crown.index() as u8, 1 + Part::Trunk.index() as u8, 0));
        assert_eq!(a.masks(&[Vocabulary::Part]).len(), 2);
        s.part.pop();
        assert!(Annotation::from_scores(s).unwrap_err().to_string().contains("part scores"));
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let mut s = scores(&[0; 12], &[0; 12], (3, 4));
        s.colour.pop();
        let e = Annotation::from_scores(s).unwrap_err().to_string();
        assert!(e.contains("colour scores") && e.contains("[107]") && e.contains("[9, 3, 4]"), "{e}");
    }

    #[test]
    fn the_exact_annotator_knows_its_scenes_only() {
        let scenes: Vec<Scene> = (0..6).map(|i| Scene::sample(Split::Test, i)).collect();
        let exact = Exact::new(&scenes[..5]);
        let images: Vec<RgbImage> = scenes.iter().map(|s| s.render().image).collect();
        let annotations = exact.annotate(&images[..5]).unwrap();
        for (a, scene) in annotations.iter().zip(&scenes) {
            assert_eq!(a.objects.len(), scene.objects.len());
            assert_eq!((a.style, a.background), (Some(scene.style), Some(scene.background)));
        }
        assert!(exact.annotate(&images[5..]).unwrap_err().to_string().contains("picture 0"));
    }

    #[test]
    fn objects_in_exact_maps_are_the_scenes_objects() {
        let mut agree = 0;
        for i in 0..40 {
            let scene = Scene::sample(Split::Train, i);
            let r = scene.render();
            let s = scores(&r.class_map, &r.colour_map, (64, 64));
            let found = Annotation::from_scores(s).unwrap();
            let truth = Annotation::of_render(&scene, &r);
            let list = |a: &Annotation| {
                let mut l: Vec<_> = a.objects.iter().map(|o| (o.class, o.colour, o.place())).collect();
                l.sort();
                l
            };
            agree += usize::from(list(&found) == list(&truth));
        }
        assert!(agree >= 36, "only {agree} of 40 scenes");
    }
}
