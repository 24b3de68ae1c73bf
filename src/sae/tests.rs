//! Tests of training, files and measures.

use super::adam::Adam;
use super::form::Form;
use super::recipe::{L1, Recipe};
use super::step::Settings;
use super::weights::Weights;
use super::{
    Architecture, BatchTopK, Gated, JumpReLU, Matryoshka, Options, ReLU, Sae, TopK, batch_topk, gated, jump_relu,
    matryoshka, topk,
};
use crate::activations::Activations;
use crate::error::Result;
use crate::kernels::sparse as vector;
use crate::random::stream;

#[path = "tests/course.rs"]
mod course;
#[path = "tests/device.rs"]
mod device;
#[path = "tests/gradients.rs"]
mod gradients;

const D: usize = 5;
const LATENTS: usize = 11;
const K: usize = 3;

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
    Settings {
        adam,
        scale: 1.3,
        aux_alpha,
        aux_k,
        dead_window: 100,
        progress: 1.0,
        judge: true,
        clip: None,
        resample: None,
        shrink: 0.0,
    }
}

/// A recipe of every architecture for [`planted`] activations, with the concepts of a token as a guide to k.
fn recipes(expansion: usize, k: usize) -> Vec<(&'static str, Recipe, Form)> {
    let forms = [
        ("TopK", Form::TopK(topk::Settings { k })),
        ("BatchTopK", Form::BatchTopK(batch_topk::Settings { k })),
        ("Matryoshka", Form::Matryoshka(matryoshka::Settings { k, widths: None })),
        ("ReLU", Form::ReLU(L1 { l1: 0.7, sparsity_warm_up: 0.1 })),
        (
            "JumpReLU",
            Form::JumpReLU(jump_relu::Settings { l0: 0.5, bandwidth: 0.2, threshold: 0.5, sparsity_warm_up: 0.1 }),
        ),
        ("Gated", Form::Gated(L1 { l1: 3.0, sparsity_warm_up: 0.1 })),
    ];
    forms.into_iter().map(|(name, form)| (name, Recipe::new(expansion), form)).collect()
}

#[test]
fn a_planted_dictionary_is_recovered() {
    let (d, n) = (24, 48);
    let (activations, directions) = planted(d, n, 3, 1500, 5);
    let control = Sae::random(d, 4 * d, 4, 0).unwrap().centred(&activations).unwrap().measure(&activations).unwrap();
    let mut misses = Vec::new();
    for (name, recipe, mut form) in recipes(4, 4) {
        if let Form::Matryoshka(s) = &mut form {
            s.widths = Some(vec![3 * d, 4 * d]); // the directions have no order: the first level has room for all
        }
        let trained = recipe.train(&form, &activations).unwrap();
        let best = |row: &[f32]| trained.w_dec.chunks_exact(d).map(|f| vector::dot(f, row)).fold(-1.0, f32::max);
        let recovered = directions.chunks_exact(d).filter(|row| best(row) > 0.9).count();
        println!("{name}: {recovered} of {n} directions; {}", trained.training);
        if recovered * 100 < n * 95 || trained.held_out.as_ref().unwrap().explained_variance < 0.9 {
            misses.push(name);
        }
        for row in trained.w_dec.chunks_exact(d) {
            assert!((vector::dot(row, row) - 1.0).abs() < 1e-5, "{name}: decoder rows are saved with unit length");
        }
        assert!(control.explained_variance < trained.training.explained_variance - 0.3, "{control}");
    }
    assert!(misses.is_empty(), "{misses:?}");
}

fn short() -> (TopK, Activations) {
    let (activations, _) = planted(10, 20, 2, 60, 3);
    (TopK::new(3, 2).batch(200).epochs(8), activations)
}

/// The same of every architecture.
fn shorts() -> (Vec<(&'static str, Recipe, Form)>, Activations) {
    let mut all = recipes(3, 2);
    for (_, recipe, _) in &mut all {
        recipe.options = Options { dead_window: Some(500), epochs: Some(8), batch: Some(200), ..Options::default() };
    }
    (all, short().1)
}

#[test]
fn one_thread_or_two_give_the_same_bits() {
    let (recipes, activations) = shorts();
    for (name, recipe, form) in recipes {
        let train = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| recipe.train(&form, &activations)).unwrap()
        };
        let (one, two) = (train(1), train(2));
        assert_eq!(one.sae, two.sae, "{name}");
        assert_eq!(one.history, two.history, "{name}");
    }
}

#[test]
fn killed_and_resumed_gives_the_same_bits() {
    let (recipes, activations) = shorts();
    for (name, recipe, form) in recipes {
        let whole = recipe.train(&form, &activations).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut killed = Recipe { folder: Some(folder.path().into()), checkpoint_every: Some(7), ..recipe };
        for stop in [10, 17, 25] {
            killed.stop_at = Some(stop); // the last checkpoint is older: some steps are done again
            assert!(refusal(killed.train(&form, &activations)).contains("stopped"));
        }
        killed.stop_at = None;
        let resumed = killed.train(&form, &activations).unwrap();
        assert_eq!(resumed.sae, whole.sae, "{name}");
        assert_eq!(resumed.history, whole.history, "{name}");
        assert_eq!(std::fs::read_to_string(folder.path().join("log.csv")).unwrap(), whole.csv());
        // A finished training is read back, and its result is on disk.
        assert_eq!(killed.train(&form, &activations).unwrap().sae, whole.sae, "{name}");
        assert_eq!(Sae::load(folder.path()).unwrap(), whole.sae, "{name}");
    }
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
fn settings_that_cannot_be_meant_are_refused() {
    let (_, activations) = short();
    assert!(refusal(BatchTopK::new(2, 21).train(&activations)).contains("k = 21 of 20 latents"));
    assert!(refusal(Matryoshka::new(2, 2).widths([5, 19]).train(&activations)).contains("[5, 19]"));
    assert!(refusal(Matryoshka::new(2, 2).widths([5, 5, 20]).train(&activations)).contains("expected to rise"));
    assert!(refusal(ReLU::new(2, -1.0).train(&activations)).contains("l1 = -1"));
    assert!(refusal(Gated::new(2, 1.0).sparsity_warm_up(1.5).train(&activations)).contains("warm-up of 1.5"));
    assert!(refusal(JumpReLU::new(2, 1.0).bandwidth(0.0).train(&activations)).contains("bandwidth of 0"));
    assert!(refusal(JumpReLU::new(2, f32::NAN).train(&activations)).contains("l0 = NaN"));
}

#[test]
fn diverging_training_stops_with_the_step() {
    let (recipe, activations) = short();
    let mut training = recipe.begin(&activations).unwrap();
    let mut x = activations.item(0).unwrap();
    x[3] = 1e30;
    assert!(refusal(training.trainer.step(&x, &settings(0.1, 0.0, 0))).contains("at step 0"));
}

/// The codes of a batch in training and those of the folded SAE are the same.
#[test]
fn a_gated_sae_folds_to_the_same_codes() {
    let (d, latents) = (D, LATENTS);
    let sae = random_sae(d, latents, K, 4);
    let (r_mag, b_mag) = (stream(1, "r", 0).normals(latents), stream(1, "b", 0).normals(latents));
    let x = stream(2, "x", 0).normals(40 * d);
    let mut open = 0;
    let mut expected = vec![0.0; 40 * latents];
    for t in 0..40 {
        let xc: Vec<f32> = x[t * d..(t + 1) * d].iter().zip(&sae.b_dec).map(|(x, b)| x - b).collect();
        for j in 0..latents {
            let a = vector::dot(&xc, &sae.w_enc[j * d..(j + 1) * d]);
            if a + sae.b_enc[j] > 0.0 {
                expected[t * latents + j] = (r_mag[j].exp() * a + b_mag[j]).max(0.0);
                open += 1;
            }
        }
    }
    assert!(open > 50 && expected.iter().filter(|z| **z > 0.0).count() < open, "both conditions decide");
    let Sae { w_enc, b_enc, w_dec, b_dec, .. } = sae;
    let folded = gated::fold(Weights { d, latents, w_enc, b_enc, w_dec, b_dec }, &r_mag, &b_mag);
    let codes = folded.encode(&x).unwrap();
    for t in 0..40 {
        for j in 0..latents {
            let (found, expected) = (codes.get(t, j), expected[t * latents + j]);
            assert!((found - expected).abs() < 1e-4, "token {t}, latent {j}: {found} against {expected}");
        }
    }
}

#[test]
fn a_batch_keeps_its_largest_and_the_threshold_keeps_about_as_many() {
    let (activations, _) = planted(10, 20, 2, 200, 3);
    let recipe = BatchTopK::new(3, 2).batch(400).epochs(20);
    let mut training = recipe.begin(&activations).unwrap();
    while training.step().unwrap() {}
    // In training k on a token in the mean, exactly.
    assert!(training.history().iter().all(|row| (row.l0 - 2.0).abs() < 1e-9), "{:?}", training.history().last());
    let trained = training.finish().unwrap();
    let Architecture::JumpReLU { threshold } = &trained.architecture else { panic!("{}", trained.sae) };
    assert!(threshold.iter().all(|t| *t == threshold[0] && *t > 0.0));
    assert!((trained.training.l0 - 2.0).abs() < 0.2, "{}", trained.training);
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
        ("\"topk\"", "\"gated\"", "architecture gated has none"),
        ("\"topk\"", "\"temporal\"", "\"temporal\""),
        ("\"d_in\"", "\"use_skip\": true, \"d_in\"", "use_skip = true"),
        ("\"none\"", "\"layer_norm\"", "layer_norm"),
        ("\"reshape_activations\": \"none\"", "\"reshape_activations\": \"hook_z\"", "hook_z"),
        ("\"d_in\": 5", "\"d_in\": 6", "W_enc"),
        ("\"k\": 3", "\"k\": 300", "k = 300"),
    ] {
        assert!(text.contains(from));
        std::fs::write(&config, text.replace(from, to)).unwrap();
        let refused = refusal(Sae::load(folder.path()));
        assert!(refused.contains(word), "{refused}");
    }
}

/// Tokens with the given numbers in channel 0 and two other channels.
fn spread(x: &[f32]) -> Vec<f32> {
    x.iter().flat_map(|&v| [v, -v, 5.0]).collect()
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
    assert_eq!(quality.silent, [0, 4]);
    assert_eq!(quality.tokens_by_l0, [0, 4]);
    // A latent that fires on the second token of four only is dead over windows of up to two tokens.
    sae.b_enc[0] = -2.0;
    let late = sae.measure(&Activations::from_vec((1, 4), 3, spread(&[1.0, 3.0, 0.5, 1.5])).unwrap()).unwrap();
    assert_eq!((late.silent[0], late.dead_share_over(2).unwrap()), (2, 1.0));
    assert_eq!(late.dead_share_over(3).unwrap(), 0.5);
    assert!(refusal(late.dead_share_over(5)).contains("5 tokens, 4 were measured"));
    sae.b_enc[0] = 0.0;
    let cosine = |a: f64| (a * a + 25.0) / ((a * a + 26.0).sqrt() * (a * a + 25.0).sqrt());
    close(quality.cosine, (cosine(1.0) + cosine(3.0)) / 2.0);
    let constant = Activations::from_vec((2, 2), 3, vec![1.0; 12]).unwrap();
    assert!(refusal(sae.measure(&constant)).contains("no channel varies"));
}
