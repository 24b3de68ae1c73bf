//! One step of SAE training against one dense product of its size, in the same run.
//!
//! Batch 4096, d 1280, 5120 latents: the sizes of the papers on Stable Diffusion. A dense step costs six and a half
//! products; the sparse step needs one, and work proportional to k.
//!
//! `cargo bench --bench sae_step`, or with other sizes `cargo bench --bench sae_step -- BATCH D EXPANSION K`.

use denoscope::Result;
use denoscope::activations::Activations;
use denoscope::kernels::{Matrix, Precision, product};
use denoscope::random::stream;
use denoscope::sae::{BatchTopK, Gated, JumpReLU, Matryoshka, Options, ReLU, TopK};
use std::time::Instant;

/// Rounds of one product and one step each, taken in turn so that both see the same load; the median counts.
const ROUNDS: usize = 9;

fn main() -> Result<()> {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let [batch, d, expansion, k] = sizes[..].try_into().unwrap_or([4096, 1280, 4, 20]);
    let n = expansion * d;
    let x = stream(0, "bench", 0).normals(4 * batch * d);
    let w = stream(0, "bench", 1).normals(n * d);
    let mut c = vec![0.0; batch * n];
    let mut product_time = || {
        let start = Instant::now();
        product(&mut c, n, Matrix::rows(&x, d), Matrix::rows(&w, d).t(), (batch, d, n), false, Precision::Full);
        start.elapsed().as_secs_f64()
    };
    let activations = Activations::from_vec((1, 64), d, x.clone())?;
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
    let (plain, aux) = (options(u64::MAX), options(0));
    let trainings = [
        ("TopK", TopK::new(expansion, k).options(plain.clone()).begin(&activations)?),
        ("TopK with AuxK", TopK::new(expansion, k).options(aux).begin(&activations)?),
        ("BatchTopK", BatchTopK::new(expansion, k).options(plain.clone()).begin(&activations)?),
        ("Matryoshka", Matryoshka::new(expansion, k).options(plain.clone()).begin(&activations)?),
        ("JumpReLU", JumpReLU::new(expansion, 0.0).threshold(threshold).options(plain.clone()).begin(&activations)?),
        ("ReLU, dense start", ReLU::new(expansion, 0.0).options(plain.clone()).begin(&activations)?),
        ("Gated, dense start", Gated::new(expansion, 0.0).options(plain).begin(&activations)?),
    ];
    for (name, mut training) in trainings {
        training.step()?; // the first step draws buffers and is judged
        let mut times: [Vec<f64>; 2] = Default::default();
        for _ in 0..ROUNDS {
            times[0].push(product_time());
            let start = Instant::now();
            training.step()?;
            times[1].push(start.elapsed().as_secs_f64());
        }
        let [product, step] = times.map(|mut t| {
            t.sort_by(f64::total_cmp);
            t[ROUNDS / 2]
        });
        let ratio = step / product;
        println!(
            "batch {batch}, d {d}, {n} latents, k {k}: product {product:.3} s, {name} {step:.3} s, ratio {ratio:.2}"
        );
    }
    Ok(())
}
