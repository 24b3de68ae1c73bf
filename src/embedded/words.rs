//! Vectors of the scene world's words, by latent semantic analysis of its captions.
//!
//! A document is a scene: the words of a few phrasings of its caption, and the names of what can be seen in it. With
//! x_w(s) = 1 if scene s mentions w and C the correlation matrix of these, the vectors are the leading eigenvectors of
//! C times the roots of their eigenvalues (Deerwester et al. 1990, on correlations, so that words which are
//! everywhere weigh nothing). Words for one thing lie together, since the same scenes mention them; different things
//! lie apart; a part lies near what it is a part of.

use crate::concepts::WordVectors;
use crate::embedded::options::Options;
use crate::error::{Error, Result};
use crate::random::stream;
use crate::scene::{Scene, Split};
use std::collections::{BTreeMap, BTreeSet};

/// Scenes that are read.
const SCENES: u64 = 6000;
/// Phrasings of each.
const PHRASINGS: u64 = 4;
/// Scenes that must mention a word.
const RARE: usize = 20;
/// Share of the scenes above which a word says nothing.
const EVERYWHERE: f64 = 0.9;
/// Numbers in a vector: with the world's 12 classes, 8 colours, 6 backgrounds, 6 styles, places, sizes and parts there
/// are about as many independent things to say.
const DIMENSIONS: usize = 48;
/// Rounds of orthogonal iteration; after 60 the vectors move by less than 1e-4.
const ROUNDS: usize = 60;
const SEED: u64 = 15;

/// The file below the folder of finished models, where [`WordVectors::embedded`] looks for it.
const FILE: &str = "scene-words/vectors.bin";

/// Makes the vectors and writes them into the folder of finished models. Takes seconds.
///
/// # Errors
/// A folder that cannot be written.
pub fn train(options: &Options) -> Result<()> {
    let vectors = vectors(SCENES)?;
    let path = options.out.join(FILE);
    let folder = path.parent().unwrap_or(&options.out);
    std::fs::create_dir_all(folder).map_err(Error::file(folder))?;
    vectors.save(&path)?;
    eprintln!("words: {} words of {} dimensions", vectors.words().len(), vectors.dimensions());
    Ok(())
}

/// What scene `i` mentions.
fn document(i: u64) -> BTreeSet<String> {
    let scene = Scene::sample(Split::Train, i);
    let mut words = BTreeSet::new();
    for n in 0..PHRASINGS {
        let caption = scene.caption(&mut stream(SEED, "phrasing", i * PHRASINGS + n));
        words.extend(caption.text.split_whitespace().map(|w| w.trim_end_matches(',').to_string()));
    }
    for object in &scene.objects {
        words.extend([object.class.to_string(), object.colour.to_string(), object.size.to_string()]);
        words.extend(object.class.parts().iter().map(|part| part.to_string()));
    }
    words.extend([scene.background.to_string(), scene.style.to_string()]);
    words.remove("");
    words
}

fn vectors(scenes: u64) -> Result<WordVectors> {
    let documents: Vec<BTreeSet<String>> = (0..scenes).map(document).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    documents.iter().flatten().for_each(|w| *counts.entry(w).or_insert(0) += 1);
    let says = |n: usize| n >= RARE && (n as f64) < EVERYWHERE * documents.len() as f64;
    let words: Vec<&str> = counts.iter().filter(|(_, n)| says(**n)).map(|(w, _)| *w).collect();
    let n = words.len();
    let index: BTreeMap<&str, usize> = words.iter().enumerate().map(|(i, w)| (*w, i)).collect();
    let mut both = vec![0f64; n * n];
    for document in &documents {
        let found: Vec<usize> = document.iter().filter_map(|w| index.get(w.as_str())).copied().collect();
        for &a in &found {
            found.iter().for_each(|&b| both[a * n + b] += 1.0);
        }
    }
    let total = documents.len() as f64;
    let share: Vec<f64> = (0..n).map(|i| both[i * n + i] / total).collect();
    let deviation: Vec<f64> = share.iter().map(|p| (p * (1.0 - p)).sqrt()).collect();
    let correlation: Vec<f64> = (0..n * n)
        .map(|i| (both[i] / total - share[i / n] * share[i % n]) / (deviation[i / n] * deviation[i % n]))
        .collect();
    let d = DIMENSIONS.min(n);
    let (vectors, values) = leading(&correlation, n, d);
    let vector = |w: usize| (0..d).map(|j| (vectors[j * n + w] * values[j].max(0.0).sqrt()) as f32).collect();
    WordVectors::from_entries(words.iter().enumerate().map(|(i, w)| (*w, vector(i))))
}

/// The `d` leading eigenvectors (as rows) and eigenvalues of a symmetric `n × n` matrix, by orthogonal iteration.
fn leading(matrix: &[f64], n: usize, d: usize) -> (Vec<f64>, Vec<f64>) {
    let mut rows: Vec<f64> = stream(SEED, "start", 0).normals(d * n).into_iter().map(f64::from).collect();
    let mut values = vec![0f64; d];
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    for _ in 0..ROUNDS {
        let mut next: Vec<f64> = rows
            .chunks_exact(n)
            .flat_map(|row| (0..n).map(|i| dot(&matrix[i * n..][..n], row)).collect::<Vec<_>>())
            .collect();
        for (j, value) in values.iter_mut().enumerate() {
            let (before, rest) = next.split_at_mut(j * n);
            let row = &mut rest[..n];
            for other in before.chunks_exact(n) {
                let along = dot(other, row);
                row.iter_mut().zip(other).for_each(|(x, o)| *x -= along * o);
            }
            let norm = dot(row, row).sqrt();
            *value = norm;
            row.iter_mut().for_each(|x| *x /= norm.max(f64::MIN_POSITIVE));
        }
        rows = next;
    }
    (rows, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::{Class, Colour, Style};

    #[test]
    fn words_for_one_thing_lie_together_and_different_things_apart() {
        let words = vectors(1500).unwrap();
        let like = |a: &str, b: &str| words.similarity(a, b).unwrap();
        assert!(like("large", "big") > 0.8, "{}", like("large", "big"));
        assert!(like("house", "roof") > 0.8, "{}", like("house", "roof"));
        for (i, a) in Class::ALL.iter().enumerate() {
            for b in &Class::ALL[i + 1..] {
                assert!(like(a.name(), b.name()) < 0.5, "{a} {b} {}", like(a.name(), b.name()));
            }
            for colour in Colour::ALL {
                assert!(like(a.name(), colour.name()) < 0.5, "{a} {colour}");
            }
        }
        assert!(Style::ALL.iter().all(|s| words.vector(s.name()).is_ok()));
    }

    #[test]
    fn eigenvectors_of_a_known_matrix() {
        // Eigenvalues 3 and 1 with (1, 1)/√2 and (1, −1)/√2.
        let (vectors, values) = leading(&[2.0, 1.0, 1.0, 2.0], 2, 2);
        assert!((values[0] - 3.0).abs() < 1e-9 && (values[1] - 1.0).abs() < 1e-9, "{values:?}");
        assert!((vectors[0] - vectors[1]).abs() < 1e-9 && (vectors[2] + vectors[3]).abs() < 1e-9, "{vectors:?}");
    }
}
