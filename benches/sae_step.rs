//! One step of SAE training against one dense product of its size, in the same run, and its peak memory.
//!
//! Batch 4096, d 1280, 5120 latents: the sizes of the papers on Stable Diffusion. A dense step costs six and a half
//! products; the sparse step needs one, and work proportional to k.
//!
//! `cargo bench --profile dev --bench sae_step`, or with other sizes and some architectures
//! `… -- BATCH D EXPANSION K [NAME …]`. `benches/sae_step.py` times the same step in PyTorch, dense.
//!
//! Two quiet cores of a Zen 4 server (a product takes .26 s), steps over products: TopK 1.20, with k 32 1.28, with AuxK and
//! every latent dead (256 of 5120 on every token) 1.73 to 1.79 in eight runs, up to 1.89 while others used the memory;
//! BatchTopK 1.27, Matryoshka 1.29, JumpReLU 1.24; `4096 1152 16 922` (16 times the width, k = 5 %) 1.58, where a third of a
//! dense step is 2.2. Peak memory beyond 4 × parameters, in rows of d + k numbers for every token: 2.4, 2.5, 6.7, and 5.0 at
//! 16 times the width. (Several
//! names in one run use each other's memory: the peak counts for the first only.)

use denoscope::Result;
use denoscope::activations::Activations;
use denoscope::kernels::{Matrix, Precision, product};
use denoscope::random::stream;
use denoscope::sae::{BatchTopK, Gated, JumpReLU, Matryoshka, Options, ReLU, TopK, Training};
use std::time::Instant;

/// Rounds of one product and one step each, taken in turn so that both see the same load; the median counts.
const ROUNDS: usize = 9;

type Begin<'a> = Box<dyn Fn() -> Result<Training> + 'a>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let sizes: Vec<usize> = arguments.iter().filter_map(|a| a.parse().ok()).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|a| a.parse::<usize>().is_err()).collect();
    let [batch, d, expansion, k] = sizes[..].try_into().unwrap_or([4096, 1280, 4, 20]);
    let n = expansion * d;
    let activations = Activations::from_vec((1, 64), d, stream(0, "bench", 0).normals(4 * batch * d))?;
    let options = |dead_window| Options {
        batch: Some(batch),
        epochs: Some(1000),
        dead_window: Some(dead_window),
        holdout: 0.0,
        ..Options::default()
    };
    // The three below start with half of all latents; this threshold leaves k of them on noise, whose pre-activations have
    // the deviation of the encoder rows' length at the start.
    let mut normals = stream(0, "bench", 2).normals(1 << 16);
    normals.sort_by(|a, b| b.total_cmp(a));
    let threshold = normals[(normals.len() * k / n).min(normals.len() / 3)] * (2.0 / expansion as f32).min(1.0);
    let (plain, aux, data) = (options(u64::MAX), options(0), &activations);
    let jump = JumpReLU::new(expansion, 0.0).threshold(threshold);
    let trainings: [(&str, Begin<'_>); 7] = [
        ("TopK", Box::new(|| TopK::new(expansion, k).options(plain.clone()).begin(data))),
        ("TopK+AuxK", Box::new(|| TopK::new(expansion, k).options(aux.clone()).begin(data))),
        ("BatchTopK", Box::new(|| BatchTopK::new(expansion, k).options(plain.clone()).begin(data))),
        ("Matryoshka", Box::new(|| Matryoshka::new(expansion, k).options(plain.clone()).begin(data))),
        ("JumpReLU", Box::new(|| jump.clone().options(plain.clone()).begin(data))),
        ("ReLU-dense-start", Box::new(|| ReLU::new(expansion, 0.0).options(plain.clone()).begin(data))),
        ("Gated-dense-start", Box::new(|| Gated::new(expansion, 0.0).options(plain.clone()).begin(data))),
    ];
    println!("batch {batch}, d {d}, {n} latents, k {k}");
    for (name, begin) in trainings {
        if !wanted.is_empty() && !wanted.iter().any(|w| *w == name) {
            continue;
        }
        let before = memory("VmRSS");
        let mut training = begin()?;
        reset_peak();
        training.step()?; // the first step draws buffers and is judged
        training.step()?;
        let peak = memory("VmHWM").saturating_sub(before);
        let x = activations.item(0)?[..d].repeat(batch);
        let w = stream(0, "bench", 1).normals(n * d);
        let mut c = vec![0.0; batch * n];
        let mut times: [Vec<f64>; 2] = Default::default();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let (x, w) = (Matrix::rows(&x, d), Matrix::rows(&w, d).t());
            product(&mut c, n, x, w, (batch, d, n), false, Precision::Full);
            times[0].push(start.elapsed().as_secs_f64());
            let start = Instant::now();
            training.step()?;
            times[1].push(start.elapsed().as_secs_f64());
        }
        let [product, step] = times.map(|mut t| {
            t.sort_by(f64::total_cmp);
            t[ROUNDS / 2]
        });
        let ratio = step / product;
        // Weights, both moments and as much again, then what is left in rows of d + k numbers for every token.
        let (held, row) = (4 * (2 * n * d + n + d) * 4, 4 * batch * (d + k));
        let rows = (peak as f64 - held as f64) / row as f64;
        println!(
            "{name:<18} product {product:.3} s, step {step:.3} s, ratio {ratio:.2}; peak {} MB = 4 × parameters + {rows:.1} \
             × batch × (d + k), in f32",
            peak >> 20
        );
    }
    Ok(())
}

/// A figure of this process' memory in bytes, where the system tells (Linux).
fn memory(figure: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(figure)?.strip_prefix(':'));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<usize>().ok()).unwrap_or(0) * 1024
}

/// Makes the peak what is held now.
fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5"); // where it cannot be reset, the peak reads too large
}
