//! Labelling 5120 latents × 1000 pictures with five masks each on a 16×16 grid, against the definition in NumPy.
//!
//! `cargo bench --profile dev --bench labelling -- PYTHON`. Both sides get the same codes (k = 20 on every token) and masks
//! in memory; reading them is not counted. `benches/labelling.py` computes the definition densely, one picture at a time,
//! and compares every label, its number of hits and its mean IoU.
//!
//! Two quiet cores of a Zen 4 server: .28 to .30 s, NumPy 7.6 s: 27 times as long; 5514 labels, hits equal to the last.

use denoscope::Result;
use denoscope::concepts::{LabelledMask, Labeller, Maps, Options, Provenance, Vocabulary};
use denoscope::error::Error;
use denoscope::random::stream;
use denoscope::scene::Mask;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const LATENTS: usize = 5120;
const PICTURES: usize = 1000;
const MASKS: usize = 5;
const SIDE: usize = 16;
const K: usize = 20;
/// Different labels.
const WORDS: usize = 40;
/// Pictures whose maps are held at once, as the library does.
const GROUP: usize = 32;

/// What both sides get.
struct Input {
    /// `[pictures, tokens, K]`.
    index: Vec<u32>,
    value: Vec<f32>,
    /// `[pictures, MASKS, SIDE, SIDE]`.
    masks: Vec<u8>,
    /// `[pictures, MASKS]`.
    words: Vec<u32>,
}

fn main() -> Result<()> {
    let python = std::env::args().skip(1).find(|a| a != "--bench");
    rayon::ThreadPoolBuilder::new().num_threads(2).build_global().map_err(Error::invalid)?;
    let input = input();
    let tokens = SIDE * SIDE;
    let masks: Vec<Vec<LabelledMask>> = (0..PICTURES).map(|i| masks_of(&input, i)).collect();
    let start = Instant::now();
    let mut labeller = Labeller::new(LATENTS, (SIDE, SIDE), Options::default())?;
    for from in (0..PICTURES).step_by(GROUP) {
        let group: Vec<(Maps, &Vec<LabelledMask>)> = (from..(from + GROUP).min(PICTURES))
            .map(|i| {
                let offsets: Vec<usize> = (0..=tokens).map(|t| (i * tokens + t) * K).collect();
                Ok((Maps::new(LATENTS, &offsets, &input.index, &input.value)?, &masks[i]))
            })
            .collect::<Result<_>>()?;
        labeller.add(&group)?;
    }
    let provenance = Provenance { sae: "bench".into(), ..Provenance::default() };
    let dictionary = labeller.finish(provenance);
    let ours = start.elapsed().as_secs_f64();
    // Hits and mean IoU of every latent and word.
    let (mut hits, mut iou) = (vec![0u32; LATENTS * WORDS], vec![0f32; LATENTS * WORDS]);
    for concept in &dictionary.concepts {
        for entry in &concept.labels {
            let at = concept.latent * WORDS + entry.label.word.parse::<usize>().map_err(Error::invalid)?;
            (hits[at], iou[at]) = (entry.hits as u32, entry.mean_iou);
        }
    }
    let labels = hits.iter().filter(|h| **h > 0).count();
    println!("{LATENTS} latents, {PICTURES} pictures, {MASKS} masks each: {ours:.3} s, {labels} labels");
    let Some(python) = python else {
        println!("no comparison: cargo bench --bench labelling -- PYTHON");
        return Ok(());
    };
    let folder = tempfile::tempdir().map_err(Error::file(Path::new("a temporary folder")))?;
    let file = folder.path().join("labelling.safetensors");
    write(&file, &input, &hits, &iou)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/labelling.py");
    let out = Command::new(&python).args([&script, &file]).output().map_err(Error::file(&python))?;
    let said = String::from_utf8_lossy(&out.stdout);
    if !out.status.success() {
        return Err(Error::invalid(format!("{said}{}", String::from_utf8_lossy(&out.stderr))));
    }
    let theirs: f64 = said.lines().next().and_then(|l| l.parse().ok()).ok_or_else(|| Error::invalid(&said))?;
    println!("NumPy {theirs:.2} s: {:.0} times as long; {}", theirs / ours, said.lines().nth(1).unwrap_or(""));
    Ok(())
}

/// Codes in patches, as they are in pictures: a latent fires on a rectangle, on some of them exactly where a mask is.
fn input() -> Input {
    let tokens = SIDE * SIDE;
    let mut out = Input { index: Vec::new(), value: Vec::new(), masks: Vec::new(), words: Vec::new() };
    for i in 0..PICTURES {
        let s = &mut stream(1, "labelling", i as u64);
        let rectangle = |s: &mut denoscope::random::Stream| {
            let (w, h) = (2 + s.below(7), 2 + s.below(7));
            let (x, y) = (s.below(SIDE - w + 1), s.below(SIDE - h + 1));
            [x, y, x + w, y + h]
        };
        let inside = |r: &[usize; 4], t: usize| {
            let (x, y) = (t % SIDE, t / SIDE);
            (r[0]..r[2]).contains(&x) && (r[1]..r[3]).contains(&y)
        };
        let rectangles: Vec<[usize; 4]> = (0..MASKS).map(|_| rectangle(s)).collect();
        for r in &rectangles {
            out.words.push(s.below(WORDS) as u32);
            out.masks.extend((0..tokens).map(|t| u8::from(inside(r, t))));
        }
        let shift = s.below(LATENTS);
        for t in 0..tokens {
            let mut latents: Vec<u32> = Vec::with_capacity(K);
            for (m, r) in rectangles.iter().enumerate().filter(|(_, r)| inside(r, t)) {
                // Two latents for each word, and one that moves from picture to picture.
                let word = out.words[i * MASKS + m] as usize;
                latents.extend([2 * word, 2 * word + 1, (shift + r[0] * SIDE + r[1]) % LATENTS].map(|l| l as u32));
            }
            while latents.len() < K {
                latents.push(s.below(LATENTS) as u32);
                latents.sort_unstable();
                latents.dedup();
            }
            out.value.extend((0..latents.len()).map(|_| 0.05 + s.uniform()));
            out.index.extend(latents);
        }
    }
    out
}

fn masks_of(input: &Input, i: usize) -> Vec<LabelledMask> {
    let tokens = SIDE * SIDE;
    (0..MASKS)
        .map(|m| {
            let bits = &input.masks[(i * MASKS + m) * tokens..][..tokens];
            let word = input.words[i * MASKS + m].to_string();
            LabelledMask::new(Vocabulary::Class, word, Mask::from_fn(SIDE, SIDE, |x, y| bits[y * SIDE + x] == 1))
        })
        .collect()
}

fn write(path: &Path, input: &Input, hits: &[u32], iou: &[f32]) -> Result<()> {
    let bytes = |v: &[u32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let floats = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let tokens = SIDE * SIDE;
    let data = [
        ("index", Dtype::U32, vec![PICTURES, tokens, K], bytes(&input.index)),
        ("value", Dtype::F32, vec![PICTURES, tokens, K], floats(&input.value)),
        ("masks", Dtype::U8, vec![PICTURES, MASKS, tokens], input.masks.clone()),
        ("words", Dtype::U32, vec![PICTURES, MASKS], bytes(&input.words)),
        ("hits", Dtype::U32, vec![LATENTS, WORDS], bytes(hits)),
        ("iou", Dtype::F32, vec![LATENTS, WORDS], floats(iou)),
    ];
    let views = data
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(Error::invalid)?))
        })
        .collect::<Result<Vec<_>>>()?;
    serialize_to_file(views, None, path).map_err(Error::invalid)
}
