//! The labelling against analytic cases and against a dense version of the same definition.

use super::*;
use crate::random::stream;
use crate::scene::Mask;
use std::collections::BTreeMap;

/// Maps from dense ones, `[latents][tokens]`.
fn maps(dense: &[Vec<f32>]) -> Maps {
    let tokens = dense[0].len();
    let (mut offsets, mut index, mut value) = (vec![0], Vec::new(), Vec::new());
    for t in 0..tokens {
        for (latent, map) in dense.iter().enumerate().filter(|(_, m)| m[t] != 0.0) {
            index.push(latent as u32);
            value.push(map[t]);
        }
        offsets.push(index.len());
    }
    Maps::new(dense.len(), &offsets, &index, &value).unwrap()
}

fn mask(text: &str) -> Mask {
    let rows: Vec<&[u8]> = text.split('/').map(str::as_bytes).collect();
    Mask::from_fn(rows[0].len(), rows.len(), |x, y| rows[y][x] == b'#')
}

fn labelled(word: &str, text: &str) -> LabelledMask {
    LabelledMask::new(Vocabulary::Class, word, mask(text))
}

fn label(options: Options, items: &[(Maps, Vec<LabelledMask>)], latents: usize, grid: (usize, usize)) -> Dictionary {
    let mut labeller = Labeller::new(latents, grid, options).unwrap();
    labeller.add(items).unwrap();
    labeller.finish(Provenance::default())
}

/// A 2 × 3 grid, masks of 4 × 9 pixels, four latents.
fn worked_example() -> Vec<(Maps, Vec<LabelledMask>)> {
    let dense = [
        vec![0.0, 5.0, 5.0, 0.0, 5.0, 0.4], // above 0.1 of its maximum on cells 1, 2, 4 only
        vec![0.0; 6],
        vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        vec![2.0, 2.0, 2.0, 2.0, 2.0, 3.0], // everywhere; min–max leaves cell 5
    ];
    // Cells 1 and 2 of the upper row whole, and the left third of cell 5 (too little for the grid).
    let tree = labelled("tree", "...######/...######/......#../......#..");
    let house = labelled("house", "........./........./......###/......###");
    vec![(maps(&dense), vec![tree, house])]
}

#[test]
fn overlap_on_the_grid() {
    let d = label(Options::default(), &worked_example(), 4, (2, 3));
    let tree = &d.concepts[0].labels[0];
    assert_eq!((tree.label.word.as_str(), tree.hits, d.concepts[0].labels.len()), ("tree", 1, 1));
    assert!((tree.mean_iou - 2.0 / 3.0).abs() < 1e-6); // {1, 2, 4} and {1, 2}
    assert_eq!(tree.best, [(0, 2.0 / 3.0)]);
    assert!(d.concepts[1..].iter().all(|c| c.labels.is_empty()));
    assert_eq!((d.labelled(), d.live(), d.items), (1, 3, 1));
    let min_max = label(Options { scale: Scale::MinMax, ..Options::default() }, &worked_example(), 4, (2, 3));
    assert_eq!(min_max.concepts[3].labels[0].label.word, "house");
    assert_eq!(min_max.concepts[3].labels[0].mean_iou, 1.0);
}

#[test]
fn overlap_on_the_pixels() {
    let d = label(Options { compare: Compare::Pixels, ..Options::default() }, &worked_example(), 4, (2, 3));
    // A cell has 6 pixels: map {1, 2, 4} = 18, tree = 14, both = 12.
    assert!((d.concepts[0].labels[0].mean_iou - 12.0 / 20.0).abs() < 1e-6);
    let smooth =
        label(Options { compare: Compare::Smooth, iou: 0.0, ..Options::default() }, &worked_example(), 4, (2, 3));
    // The latent that fires in the corner cell only: 1 at (0, 0), falling off to the right and below.
    let corner = &smooth.concepts[2];
    assert!(corner.labels.iter().all(|e| e.label.word == "tree") && corner.labels[0].mean_iou < 0.3, "{corner:?}");
}

#[test]
fn pooled_iou_counts_pictures_without_the_label() {
    let cell = |c: usize| (0..4).map(|t| f32::from(t == c)).collect::<Vec<_>>();
    let upper_left = || labelled("tree", "#./..");
    let items = vec![
        (maps(&[cell(0)]), vec![upper_left()]),
        (maps(&[cell(1)]), vec![]),
        (maps(&[vec![0.0; 4]]), vec![upper_left()]),
        (maps(&[cell(0)]), vec![upper_left()]),
    ];
    let d = label(Options::default(), &items, 1, (2, 2));
    let entry = &d.concepts[0].labels[0];
    assert_eq!((entry.hits, entry.mean_iou), (2, 1.0));
    assert!((entry.pooled_iou - 2.0 / 4.0).abs() < 1e-6); // 2 / (3 + 3 − 2)
    assert!((entry.precision - 2.0 / 3.0).abs() < 1e-6 && (entry.recall - 2.0 / 3.0).abs() < 1e-6);
    assert_eq!(entry.best, [(0, 1.0), (3, 1.0)]);
    let pooled = label(Options { rule: Rule::Pooled, ..Options::default() }, &items, 1, (2, 2));
    assert_eq!(pooled.labelled(), 0);
    let twice = label(Options { hits: 3, ..Options::default() }, &items, 1, (2, 2));
    assert_eq!(twice.labelled(), 0);
    assert_eq!(d.at_least(2, 0.6), d);
    assert_eq!(d.at_least(2, 0.7).labelled(), 0);
}

/// Random items on a 3 × 5 grid with masks of 12 × 20 pixels: 7 latents, up to 3 masks.
fn random_items(n: u64) -> Vec<(Vec<Vec<f32>>, Vec<LabelledMask>)> {
    let words = ["tree", "house", "sun"];
    let item = |i| {
        let mut r = stream(11, "labelling test", i);
        let density: Vec<f32> = (0..7).map(|l| [0.0, 0.1, 0.3, 0.5, 0.8, 1.0, 1.0][l]).collect();
        let dense =
            density.iter().map(|&p| (0..15).map(|_| if r.chance(p) { r.range(0.01, 1.0) } else { 0.0 }).collect());
        let dense: Vec<Vec<f32>> = dense.collect();
        let masks = (0..r.below(4)).map(|_| {
            let (x0, y0) = (r.below(15), r.below(9));
            let (x1, y1) = (x0 + 1 + r.below(20 - x0), y0 + 1 + r.below(12 - y0));
            let mask = Mask::from_fn(20, 12, |x, y| (x0..x1).contains(&x) && (y0..y1).contains(&y) && r.chance(0.9));
            LabelledMask::new(Vocabulary::Class, words[r.below(3)], mask)
        });
        let masks = masks.collect();
        (dense, masks)
    };
    (0..n).map(item).collect()
}

/// The definition, written out densely: hits and summed IoU by latent and word.
fn dense_hits(
    items: &[(Vec<Vec<f32>>, Vec<LabelledMask>)],
    options: &Options,
) -> BTreeMap<(usize, String), (usize, f64)> {
    let ((h, w), (height, width)) = ((3, 5), (12, 20));
    let mut hits = BTreeMap::new();
    for (dense, masks) in items {
        for (latent, map) in dense.iter().enumerate() {
            let max = map.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let min = match options.scale {
                Scale::Max => 0.0,
                Scale::MinMax => map.iter().copied().fold(f32::INFINITY, f32::min),
            };
            let scaled: Vec<f32> = map.iter().map(|v| if max > min { (v - min) / (max - min) } else { 0.0 }).collect();
            let at = |y: usize, x: usize| match options.compare {
                Compare::Grid => scaled[y * w + x],
                Compare::Pixels => scaled[y * h / height * w + x * w / width],
                Compare::Smooth => {
                    let place = |i: usize, n: usize, m: usize| {
                        let p = ((i as f32 + 0.5) * (n as f32 / m as f32) - 0.5).max(0.0);
                        (p as usize, (p as usize + 1).min(n - 1), p - p.floor())
                    };
                    let ((ya, yb, v), (xa, xb, u)) = (place(y, h, height), place(x, w, width));
                    let line = |y: usize| scaled[y * w + xa] * (1.0 - u) + scaled[y * w + xb] * u;
                    line(ya) * (1.0 - v) + line(yb) * v
                }
            };
            for labelled in masks {
                let grid = matches!(options.compare, Compare::Grid);
                let (rows, columns) = if grid { (h, w) } else { (height, width) };
                let (mut both, mut either) = (0, 0);
                for y in 0..rows {
                    for x in 0..columns {
                        let inside = if grid {
                            let cell = (0..4).flat_map(|dy| (0..4).map(move |dx| (x * 4 + dx, y * 4 + dy)));
                            cell.filter(|&(x, y)| labelled.mask.get(x, y)).count() >= 8
                        } else {
                            labelled.mask.get(x, y)
                        };
                        let on = at(y, x) > options.threshold;
                        both += usize::from(inside && on);
                        either += usize::from(inside || on);
                    }
                }
                let iou = if either > 0 { both as f32 / either as f32 } else { 0.0 };
                if iou > options.iou {
                    let entry: &mut (usize, f64) = hits.entry((latent, labelled.label.word.clone())).or_default();
                    entry.0 += 1;
                    entry.1 += f64::from(iou);
                }
            }
        }
    }
    hits
}

#[test]
fn the_sparse_labelling_equals_the_dense_one() {
    let items = random_items(300);
    let sparse: Vec<_> = items.iter().map(|(d, m)| (maps(d), m.clone())).collect();
    for scale in [Scale::Max, Scale::MinMax] {
        for compare in [Compare::Grid, Compare::Pixels, Compare::Smooth] {
            let options = Options { scale, compare, iou: 0.3, ..Options::default() };
            let d = label(options, &sparse, 7, (3, 5));
            let found: BTreeMap<_, _> = d
                .concepts
                .iter()
                .flat_map(|c| {
                    c.labels
                        .iter()
                        .map(|e| ((c.latent, e.label.word.clone()), (e.hits, f64::from(e.mean_iou) * e.hits as f64)))
                })
                .collect();
            let expected = dense_hits(&items, &options);
            assert!(expected.len() >= 9, "{scale:?} {compare:?}: too few labels to test with: {expected:?}");
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
            for (key, (hits, sum)) in &expected {
                assert_eq!(found[key].0, *hits, "{scale:?} {compare:?} {key:?}");
                assert!((found[key].1 - sum).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn items_can_come_in_any_number_of_pieces() {
    let items: Vec<_> = random_items(40).into_iter().map(|(d, m)| (maps(&d), m)).collect();
    let whole = label(Options::default(), &items, 7, (3, 5));
    let mut pieces = Labeller::new(7, (3, 5), Options::default()).unwrap();
    for piece in items.chunks(7) {
        pieces.add(piece).unwrap();
    }
    assert!(pieces.finish(Provenance::default()) == whole);
}

#[test]
fn bad_input_is_refused() {
    let say = |o: Options| Labeller::new(3, (2, 2), o).unwrap_err().to_string();
    assert!(say(Options { threshold: 1.0, ..Options::default() }).contains("threshold is 1"));
    assert!(say(Options { iou: f32::NAN, ..Options::default() }).contains("iou is NaN"));
    let mut labeller = Labeller::new(2, (2, 3), Options::default()).unwrap();
    let e = labeller.add(&worked_example()).unwrap_err().to_string();
    assert!(e.contains("[6, 4]") && e.contains("[6, 2]"), "{e}");
    let mut labeller = Labeller::new(4, (2, 3), Options::default()).unwrap();
    let mut items = worked_example();
    items[0].1.push(labelled("sun", "#."));
    let e = labeller.add(&items).unwrap_err().to_string();
    assert!(e.contains("mask sun") && e.contains("[1, 2]") && e.contains("[4, 9]"), "{e}");
}

#[test]
fn a_dictionary_is_asked_by_word_and_kept_as_a_file() {
    let items: Vec<_> = random_items(60).into_iter().map(|(d, m)| (maps(&d), m)).collect();
    let d = label(Options { iou: 0.3, ..Options::default() }, &items, 7, (3, 5));
    let trees = d.of("tree").unwrap();
    assert!(trees.len() > 1);
    let hits = |l: &usize| d.concepts[*l].labels.iter().find(|e| e.label.word == "tree").unwrap().hits;
    assert!(trees.windows(2).all(|w| hits(&w[0]) >= hits(&w[1])));
    assert_eq!(d.of_kind(Vocabulary::Class, "tree").unwrap(), trees);
    let e = d.of("hause").unwrap_err().to_string();
    assert!(e.contains("nearest: house"), "{e}");
    assert!(d.of_kind(Vocabulary::Part, "tree").is_err());
    assert!(d.concept(7).unwrap_err().to_string().contains("latent 7 of a dictionary of 7"));
    let table = d.table().unwrap();
    assert_eq!(table.height(), d.concepts.iter().map(|c| c.labels.len()).sum::<usize>());
    assert_eq!(d.words().iter().find(|(l, _)| l.word == "tree").unwrap().1, trees.len());

    assert_eq!((d.coverage().value, d.coverage().n), (d.labelled() as f64 / d.live() as f64, d.live()));

    let folder = tempfile::tempdir().unwrap();
    d.save_csv(folder.path().join("labels.csv")).unwrap();
    let rows = std::fs::read_to_string(folder.path().join("labels.csv")).unwrap();
    assert!(rows.starts_with("latent,word,vocabulary,hits,mean_iou") && rows.lines().count() == table.height() + 1);
    let path = folder.path().join("dictionary.json");
    d.save(&path).unwrap();
    assert!(Dictionary::load(&path).unwrap() == d);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert!(Dictionary::load(&path).unwrap_err().to_string().contains("dictionary.json: not a dictionary"));
    std::fs::write(&path, text.replace("dictionary-1", "dictionary-9")).unwrap();
    assert!(Dictionary::load(&path).unwrap_err().to_string().contains("dictionary-9"));
}
