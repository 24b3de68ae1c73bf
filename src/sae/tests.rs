//! Tests of training, files and measures.

use super::adam::Adam;
use super::train::{Settings, Trainer};
use super::{Architecture, Options, Sae, TopK};
use crate::activations::Activations;
use crate::error::Result;
use crate::kernels::sparse as vector;
use crate::random::stream;
use candle_core::{Device, Tensor, Var};

/// An untied SAE with random numbers everywhere, unit decoder rows.
fn random_sae(d: usize, latents: usize, k: usize, seed: u64) -> Sae {
    let mut sae = Sae::random(d, latents, k, seed).unwrap();
    let mut random = stream(seed, "test sae", 0);
    sae.w_enc = random.normals(latents * d);
    sae.b_enc = random.normals(latents).iter().map(|b| b * 0.3).collect();
    sae.b_dec = random.normals(d).iter().map(|b| b * 0.3).collect();
    sae
}

/// Tokens that are sums of `active` of `n` planted unit directions, plus an offset; and the directions.
fn planted(d: usize, n: usize, active: usize, items: usize, seed: u64) -> (Activations, Vec<f32>) {
    let mut random = stream(seed, "planted", 0);
    let mut directions = random.normals(n * d);
    directions.chunks_exact_mut(d).for_each(super::start::normalise);
    let mut data = Vec::new();
    for _ in 0..items * 16 {
        let mut token = vec![0.5; d];
        for _ in 0..active {
            let j = random.below(n);
            vector::add_scaled(&mut token, random.range(2.0, 4.0), &directions[j * d..(j + 1) * d]);
        }
        data.extend(token);
    }
    (Activations::from_vec((4, 4), d, data).unwrap(), directions)
}

fn refusal<T>(result: Result<T>) -> String {
    result.err().expect("should be refused").to_string()
}

/// One step's settings with an auxiliary loss; after the first step, m = (1 − β₁)·gradient.
fn settings(rate: f32, aux_alpha: f32, aux_k: usize) -> Settings {
    let adam = Adam::step((0.9, 0.999), 1e-8, rate, 1);
    Settings { adam, scale: 1.3, aux_alpha, aux_k, dead_window: 100, judge: true }
}

const D: usize = 5;
const LATENTS: usize = 11;
const K: usize = 3;
const TOKENS: usize = 7;
const AUX_K: usize = 2;

/// A trainer in which every third latent counts as dead, and a batch.
fn small() -> (Trainer, Vec<f32>) {
    let mut trainer = Trainer::new(random_sae(D, LATENTS, K, 4));
    trainer.silent.iter_mut().step_by(3).for_each(|s| *s = 100);
    (trainer, stream(1, "batch", 0).normals(TOKENS * D))
}

#[test]
fn gradients_agree_with_autograd() {
    let (mut trainer, x) = small();
    let settings = settings(0.0, 0.7, AUX_K);
    let before = trainer.sae.clone();
    trainer.step(&x, &settings).unwrap();
    let found = trainer.moments.each_ref().map(|m| m.m.iter().map(|m| m / 0.1).collect::<Vec<f32>>());

    let dev = &Device::Cpu;
    let var = |v: &[f32], shape: &[usize]| Var::from_tensor(&Tensor::from_slice(v, shape, dev).unwrap()).unwrap();
    let w_enc = var(&before.w_enc, &[LATENTS, D]);
    let b_enc = var(&before.b_enc, &[LATENTS]);
    let w_dec = var(&before.w_dec, &[LATENTS, D]);
    let b_dec = var(&before.b_dec, &[D]);
    let x = (Tensor::from_slice(&x, (TOKENS, D), dev).unwrap() * 1.3).unwrap();
    let pre = x.broadcast_sub(&b_dec).unwrap().matmul(&w_enc.t().unwrap()).unwrap().broadcast_add(&b_enc).unwrap();
    // Which entries fire is decided by sorting, apart from the code under test.
    let (mut main, mut aux) = (vec![0f32; TOKENS * LATENTS], vec![0f32; TOKENS * LATENTS]);
    for (t, row) in pre.to_vec2::<f32>().unwrap().iter().enumerate() {
        for (mask, k, dead) in [(&mut main, K, false), (&mut aux, AUX_K, true)] {
            let mut order: Vec<usize> = (0..LATENTS).filter(|j| row[*j] > 0.0 && (!dead || j % 3 == 0)).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            order.iter().take(k).for_each(|j| mask[t * LATENTS + j] = 1.0);
        }
    }
    assert!(main.iter().sum::<f32>() > 10.0 && aux.iter().sum::<f32>() > 5.0, "the case exercises both losses");
    let masked = |mask: Vec<f32>| (&pre * Tensor::from_vec(mask, (TOKENS, LATENTS), dev).unwrap()).unwrap();
    let decoded = masked(main).matmul(&w_dec).unwrap().broadcast_add(&b_dec).unwrap();
    let error = (&x - &decoded).unwrap();
    let aux_error = (masked(aux).matmul(&w_dec).unwrap() - error.detach()).unwrap();
    let loss = (error.sqr().unwrap().mean_all().unwrap()
        + (aux_error.sqr().unwrap().mean_all().unwrap() * 0.7).unwrap())
    .unwrap();
    let grads = loss.backward().unwrap();
    let expected = [&w_enc, &b_enc, &w_dec, &b_dec]
        .map(|v| grads.get(v).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
    for (which, (found, mut expected)) in
        ["W_enc", "b_enc", "W_dec", "b_dec"].iter().zip(found.into_iter().zip(expected))
    {
        if *which == "W_dec" {
            for (g, w) in expected.chunks_exact_mut(D).zip(before.w_dec.chunks_exact(D)) {
                let along = vector::dot(g, w);
                vector::add_scaled(g, -along, w);
            }
        }
        for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
            assert!((f - e).abs() < 2e-5, "{which}[{i}]: {f}, autograd says {e}");
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    let loss = |sae: &Sae, x: &[f32]| -> f64 {
        let scaled: Vec<f32> = x.iter().map(|v| v * 1.3).collect();
        let decoded = sae.decode(&sae.encode(&scaled).unwrap());
        scaled.iter().zip(decoded).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / x.len() as f64
    };
    let (mut trainer, x) = small();
    let sae = trainer.sae.clone();
    let report = trainer.step(&x, &settings(0.0, 0.0, 0)).unwrap();
    assert!((report.loss - loss(&sae, &x)).abs() < 1e-5);
    let mut checked = 0;
    for (which, pick) in [(0, 13), (0, 27), (1, 4), (1, 7), (3, 0), (3, 3)] {
        let shifted = |by: f32| {
            let mut sae = sae.clone();
            let tensor = match which {
                0 => &mut sae.w_enc,
                1 => &mut sae.b_enc,
                _ => &mut sae.b_dec,
            };
            tensor[pick] += by;
            loss(&sae, &x)
        };
        let h = 1e-3;
        let numeric = (shifted(h) - shifted(-h)) / f64::from(2.0 * h);
        let found = f64::from(trainer.moments[which].m[pick] / 0.1);
        assert!(
            (found - numeric).abs() < 2e-3 * (1.0 + numeric.abs()),
            "tensor {which}[{pick}]: {found} against {numeric}"
        );
        checked += usize::from(numeric.abs() > 1e-3);
    }
    assert!(checked >= 3, "most of the picked weights matter");
}

#[test]
fn a_planted_dictionary_is_recovered() {
    let (d, n) = (24, 48);
    let (activations, directions) = planted(d, n, 3, 1500, 5);
    let trained = TopK::new(4, 4).train(&activations).unwrap();
    let best = |row: &[f32]| trained.w_dec.chunks_exact(d).map(|f| vector::dot(f, row)).fold(-1.0, f32::max);
    let recovered = directions.chunks_exact(d).filter(|row| best(row) > 0.9).count();
    assert!(recovered * 100 >= n * 95, "{recovered} of {n} directions; {}", trained.training);
    assert!(trained.held_out.as_ref().unwrap().explained_variance > 0.9);
    for row in trained.w_dec.chunks_exact(d) {
        assert!((vector::dot(row, row) - 1.0).abs() < 1e-5, "decoder rows are saved with unit length");
    }
    let control = Sae::random(d, 4 * d, 4, 0).unwrap().centred(&activations).unwrap().measure(&activations).unwrap();
    assert!(control.explained_variance < trained.training.explained_variance - 0.3, "{control}");
}

fn short() -> (TopK, Activations) {
    let (activations, _) = planted(10, 20, 2, 60, 3);
    (TopK::new(3, 2).batch(200).epochs(8), activations)
}

#[test]
fn one_thread_or_two_give_the_same_bits() {
    let train = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (recipe, activations) = short();
            recipe
                .options(Options { dead_window: Some(500), epochs: Some(8), batch: Some(200), ..Options::default() })
                .train(&activations)
        })
        .unwrap()
    };
    let (one, two) = (train(1), train(2));
    assert_eq!(one.sae, two.sae);
    assert_eq!(one.history, two.history);
}

#[test]
fn killed_and_resumed_gives_the_same_bits() {
    let (recipe, activations) = short();
    let whole = recipe.train(&activations).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut killed = recipe.clone().run(folder.path());
    killed.checkpoint_every = Some(7);
    for stop in [10, 17, 25] {
        killed.stop_at = Some(stop); // the last checkpoint is older: some steps are done again
        assert!(refusal(killed.train(&activations)).contains("stopped"));
    }
    killed.stop_at = None;
    let resumed = killed.train(&activations).unwrap();
    assert_eq!(resumed.sae, whole.sae);
    assert_eq!(resumed.history, whole.history);
    assert_eq!(std::fs::read_to_string(folder.path().join("log.csv")).unwrap(), whole.csv());
    // A finished training is read back, and its result is on disk.
    assert_eq!(killed.train(&activations).unwrap().sae, whole.sae);
    assert_eq!(Sae::load(folder.path()).unwrap(), whole.sae);
}

#[test]
fn another_trainings_folder_is_refused() {
    let (recipe, activations) = short();
    let folder = tempfile::tempdir().unwrap();
    recipe.clone().run(folder.path()).train(&activations).unwrap();
    let text = refusal(recipe.clone().run(folder.path()).seed(9).train(&activations));
    assert!(text.contains("options.seed = 0, wanted 9"), "{text}");
    let (others, _) = planted(10, 20, 2, 60, 4);
    assert!(refusal(recipe.clone().run(folder.path()).train(&others)).contains("digest"));
    let path = folder.path().join("checkpoint.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(refusal(recipe.run(folder.path()).train(&activations)).contains("checkpoint.safetensors"));
}

#[test]
fn unusable_input_is_refused() {
    let (_, activations) = short();
    assert!(refusal(TopK::new(2, 21).train(&activations)).contains("k = 21 of 20 latents"));
    assert!(refusal(TopK::new(2, 0).train(&activations)).contains("k = 0"));
    assert!(refusal(TopK::new(2, 2).batch(5000).train(&activations)).contains("fewer than a batch of 5000"));
    assert!(refusal(TopK::new(2, 2).learning_rate(f32::NAN).train(&activations)).contains("learning rate"));
    assert!(refusal(TopK::new(2, 2).holdout(1.0).train(&activations)).contains("held-out"));
    let zeros = Activations::from_vec((4, 4), 3, vec![0.0; 4800]).unwrap();
    assert!(refusal(TopK::new(2, 2).train(&zeros)).contains("zero"));
    let sae = random_sae(D, LATENTS, K, 0);
    assert!(refusal(sae.encode(&[0.0; 7])).contains("[1, 5]"));
    assert!(refusal(sae.encode(&[0.0, f32::INFINITY, 0.0, 0.0, 0.0])).contains("row 0, channel 1"));
    assert!(refusal(sae.measure(&activations)).contains("[10]"));
}

#[test]
fn diverging_training_stops_with_the_step() {
    let (mut trainer, mut x) = small();
    x[3] = 1e30;
    assert!(refusal(trainer.step(&x, &settings(0.1, 0.0, 0))).contains("at step 0"));
}

#[test]
fn codes_are_the_k_largest_and_maps_have_the_shape_of_items() {
    let (_, activations) = short();
    let sae = random_sae(10, 30, 4, 1);
    let codes = sae.encode_all(&activations).unwrap();
    assert_eq!((codes.items(), codes.tokens_per_item), (60, 16));
    let x = activations.item(7).unwrap();
    for t in 0..16 {
        let xc: Vec<f32> = x[t * 10..(t + 1) * 10].iter().zip(&sae.b_dec).map(|(x, b)| x - b).collect();
        let mut pre: Vec<(usize, f32)> =
            (0..30).map(|j| (j, vector::dot(&xc, &sae.w_enc[j * 10..(j + 1) * 10]) + sae.b_enc[j])).collect();
        pre.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (rank, (j, p)) in pre.into_iter().enumerate() {
            let expected = if rank < 4 { p.max(0.0) } else { 0.0 };
            assert!((codes.map(j, 7)[t] - expected).abs() < 1e-4);
        }
    }
}

#[test]
fn saelens_folders_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, activations) = short();
    let trained = recipe.train(&activations).unwrap();
    trained.save(folder.path()).unwrap();
    assert_eq!(Sae::load(folder.path()).unwrap(), trained.sae);

    // Our matrices are turned: SAELens' W_enc is [d_in, d_sae].
    let sae = random_sae(D, LATENTS, K, 2);
    sae.save(folder.path()).unwrap();
    let file = super::tensors::Arrays::read(&folder.path().join("sae_weights.safetensors")).unwrap();
    let theirs = file.floats("W_enc", &[D, LATENTS]).unwrap();
    assert_eq!(theirs[3 * LATENTS + 7], sae.w_enc[7 * D + 3]);

    // Scaling by decoder norms is folded: z·‖f‖ chooses and z f adds up to the same.
    let config = folder.path().join("cfg.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        text.replace("\"rescale_acts_by_decoder_norm\": false", "\"rescale_acts_by_decoder_norm\": true"),
    )
    .unwrap();
    assert_eq!(Sae::load(folder.path()).unwrap().architecture, Architecture::TopK { k: K });

    for (from, to, word) in [
        ("\"topk\"", "\"gated\"", "gated"),
        ("\"none\"", "\"layer_norm\"", "layer_norm"),
        ("\"apply_b_dec_to_input\": true", "\"apply_b_dec_to_input\": false", "apply_b_dec_to_input"),
        ("\"d_in\": 5", "\"d_in\": 6", "W_enc"),
        ("\"k\": 3", "\"k\": 300", "k = 300"),
    ] {
        assert!(text.contains(from));
        std::fs::write(&config, text.replace(from, to)).unwrap();
        let refused = refusal(Sae::load(folder.path()));
        assert!(refused.contains(word), "{refused}");
    }
}

#[test]
fn measures_on_an_analytic_case() {
    // Latent 0 reads channel 0 exactly; channel 1 is never explained; channel 2 is constant.
    let mut sae = Sae::random(3, 2, 1, 0).unwrap();
    sae.w_enc = vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    sae.w_dec = sae.w_enc.clone();
    sae.b_enc = vec![0.0, 0.0];
    sae.b_dec = vec![0.0, 0.0, 5.0];
    let data = vec![1.0, 1.0, 5.0, 3.0, -1.0, 5.0, 1.0, -1.0, 5.0, 3.0, 1.0, 5.0];
    let quality = sae.measure(&Activations::from_vec((2, 2), 3, data).unwrap()).unwrap();
    assert_eq!((quality.tokens, quality.constant_channels), (4, 1));
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} against {b}");
    close(quality.mse, 1.0 / 3.0);
    close(quality.explained_variance, 0.5); // 1 and 0
    close(quality.fvu, 0.5); // 1 of 2
    close(quality.scaled_mse, 0.5);
    close(quality.l0, 1.0);
    close(quality.dead_share, 0.5);
    assert_eq!(quality.density, [1.0, 0.0]);
    let cosine = |a: f64| (a * a + 25.0) / ((a * a + 26.0).sqrt() * (a * a + 25.0).sqrt());
    close(quality.cosine, (cosine(1.0) + cosine(3.0)) / 2.0);
    let constant = Activations::from_vec((2, 2), 3, vec![1.0; 12]).unwrap();
    assert!(refusal(sae.measure(&constant)).contains("no channel varies"));
}
