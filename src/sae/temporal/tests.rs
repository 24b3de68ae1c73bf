//! Tests of TIDE's step against autograd, of what it equals without modulation, and of its training.

use super::rule::Settings;
use super::*;
use crate::activations::Trajectories;
use crate::error::Result;
use crate::kernels::sparse as vector;
use crate::random::stream;
use crate::sae::adam::Adam;
use crate::sae::form::Form;
use crate::sae::step::Settings as Step;
use crate::sae::train::Trainer;
use crate::sae::weights::Weights;
use crate::sae::{Options, Sae, topk};
use candle_core::{DType, Device, Result as Outcome, Tensor, Var};

const D: usize = 5;
const LATENTS: usize = 11;
const K: usize = 3;
const STEPS: usize = 3;
const ROWS: usize = 4 * STEPS;
const AUX_K: usize = 2;

fn refusal<T>(result: Result<T>) -> String {
    result.err().expect("should be refused").to_string()
}

/// One step's settings; after the first step, m = 0.1·gradient.
fn step(rate: f32) -> Step {
    let adam = Adam::step((0.9, 0.999), 1e-8, rate, 1);
    Step {
        adam,
        scale: 1.3,
        aux_alpha: 0.7,
        aux_k: AUX_K,
        dead_window: 100,
        progress: 1.0,
        judge: true,
        clip: None,
        resample: None,
        shrink: 0.0,
    }
}

fn times() -> Vec<f64> {
    (0..STEPS).map(|i| 1.0 - i as f64 / (STEPS - 1) as f64).collect()
}

/// A modulation of random numbers of this size.
fn modulation(size: f32) -> Modulation {
    let values = |what| stream(2, what, 0).normals(STEPS * D).iter().map(|v| size * v.clamp(-2.0, 2.0)).collect();
    Modulation::new(times(), D, values("scale"), values("shift")).unwrap()
}

fn weights() -> Weights {
    let mut random = stream(4, "tide", 0);
    let w_dec = Sae::random(D, LATENTS, K, 4).unwrap().w_dec;
    let w_enc = random.normals(LATENTS * D);
    let b_enc = random.normals(LATENTS).iter().map(|b| b * 0.3).collect();
    let b_dec = random.normals(D).iter().map(|b| b * 0.3).collect();
    Weights { d: D, latents: LATENTS, w_enc, b_enc, w_dec, b_dec }
}

/// A trainer in which every third latent counts as dead, and a batch.
fn small(form: &Form) -> (Trainer, Vec<f32>) {
    let mut trainer = Trainer::new(weights(), form.rule(LATENTS).unwrap());
    trainer.silent.iter_mut().step_by(3).for_each(|s| *s = 100);
    (trainer, stream(1, "batch", 0).normals(ROWS * D))
}

/// All terms, large enough to be seen.
fn terms() -> Terms {
    Terms {
        mse: 0.8,
        cosine: 0.6,
        temporal: 0.4,
        sparsity: 0.5,
        sparsity_target: 0.6,
        huber_delta: 0.1,
        weights: 0.003,
    }
}

fn tide(undo: bool) -> Form {
    Form::Tide(Settings { terms: terms(), undo, ..Settings::new(K) }.starting(modulation(0.3)))
}

/// 1 where an entry is among the `k` largest positive of its row and `allowed`: by sorting, apart from what is tested.
fn largest(p: &Tensor, k: usize, allowed: impl Fn(usize) -> bool) -> Outcome<Tensor> {
    let mut mask = vec![0f32; ROWS * LATENTS];
    for (t, row) in p.to_vec2::<f32>()?.into_iter().enumerate() {
        let mut order: Vec<usize> = (0..LATENTS).filter(|&j| row[j] > 0.0 && allowed(j)).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        order.iter().take(k).for_each(|j| mask[t * LATENTS + j] = 1.0);
    }
    Tensor::from_vec(mask, (ROWS, LATENTS), &Device::Cpu)
}

/// The dense loss for autograd; `v` are W_enc, b_enc, W_dec, b_dec, scale, shift.
fn dense_loss(v: &[Var], u: &Tensor, undo: bool) -> Outcome<Tensor> {
    let t = terms();
    let (w_enc, b_enc, w_dec, b_dec) = (&v[0], &v[1], &v[2], &v[3]);
    let factor = (v[4].as_tensor() + 1.0)?.repeat((ROWS / STEPS, 1))?;
    let shift = v[5].as_tensor().repeat((ROWS / STEPS, 1))?;
    let m = ((u * &factor)? + &shift)?;
    let p = m.broadcast_sub(b_dec)?.matmul(&w_enc.t()?)?.broadcast_add(b_enc)?;
    let z = (&p * largest(&p, K, |_| true)?)?;
    let decoded = z.matmul(w_dec)?.broadcast_add(b_dec)?;
    let (target, found) =
        if undo { (u.clone(), ((&decoded - &shift)? / &factor)?) } else { (m.detach(), decoded.clone()) };

    let mse = (&target - &found)?.sqr()?.mean_all()?;
    let norm = |x: &Tensor| x.sqr()?.sum_keepdim(1)?.sqrt();
    let cosine = ((&target * &found)?.sum_keepdim(1)? / (norm(&target)? * norm(&found)?)?)?;
    let cosine = (1.0 - cosine)?.mean_all()?;
    let steps = z.reshape((ROWS / STEPS, STEPS, LATENTS))?;
    let apart = (steps.narrow(1, 0, STEPS - 1)? - steps.narrow(1, 1, STEPS - 1)?)?;
    let pairs = ROWS / STEPS * (STEPS - 1);
    let temporal = (apart.sqr()?.sum_all()? / (pairs * D) as f64)?;
    let s = (z.sum(1)?.sqr()? / (z.sqr()?.sum(1)? * K as f64)?)?;
    let off = (s - f64::from(t.sparsity_target))?.abs()?;
    let within = off.minimum(f64::from(t.huber_delta))?;
    assert!(off.to_vec1::<f32>()?.iter().any(|x| *x > t.huber_delta), "both sides of δ: {off}");
    assert!(off.to_vec1::<f32>()?.iter().any(|x| *x < t.huber_delta), "both sides of δ: {off}");
    let huber = ((&within * &off)? - (within.sqr()? * 0.5)?)?.mean_all()?;
    let penalty = w_enc.sqr()?.sum_all()?;

    let dead = largest(&p, AUX_K, |j| j % 3 == 0)?;
    assert!(dead.sum_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()? > 5.0, "the auxiliary loss is exercised");
    let aux = ((&p * dead)?.matmul(w_dec)? - (&m - &decoded)?.detach())?.sqr()?.mean_all()?;
    let all = [
        (mse, t.mse),
        (cosine, t.cosine),
        (temporal, t.temporal),
        (huber, t.sparsity),
        (penalty, t.weights),
        (aux, 0.7),
    ];
    let mut loss = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    for (term, weight) in all {
        loss = (loss + (term * f64::from(weight))?)?;
    }
    Ok(loss)
}

/// Gradients of all numbers, from the first moments that a step leaves.
fn gradients(trainer: &mut Trainer) -> Vec<Vec<f32>> {
    let mut all: Vec<Vec<f32>> = trainer.moments.iter().map(|m| m.m.clone()).collect();
    let own = trainer.rule.state();
    all.extend(own.into_iter().filter(|(name, _)| name.ends_with(".m")).map(|(_, values)| values.clone()));
    all.iter_mut().flatten().for_each(|m| *m /= 0.1);
    all
}

#[test]
fn every_gradient_agrees_with_autograd() {
    for undo in [true, false] {
        let (mut trainer, x) = small(&tide(undo));
        let (w, m) = (trainer.weights.clone(), modulation(0.3));
        trainer.step(&x, &step(0.0)).unwrap();
        let found = gradients(&mut trainer);
        let before = [
            ("W_enc", w.w_enc, vec![LATENTS, D]),
            ("b_enc", w.b_enc, vec![LATENTS]),
            ("W_dec", w.w_dec, vec![LATENTS, D]),
            ("b_dec", w.b_dec, vec![D]),
            ("scale", m.scale, vec![STEPS, D]),
            ("shift", m.shift, vec![STEPS, D]),
        ];
        let var = |values: &[f32], shape: &[usize]| {
            Var::from_tensor(&Tensor::from_slice(values, shape, &Device::Cpu).unwrap()).unwrap()
        };
        let vars: Vec<Var> = before.iter().map(|(_, values, shape)| var(values, shape)).collect();
        let u = (Tensor::from_slice(&x, (ROWS, D), &Device::Cpu).unwrap() * 1.3).unwrap();
        let grads = dense_loss(&vars, &u, undo).unwrap().backward().unwrap();
        assert_eq!(found.len(), vars.len());
        for (((name, values, _), var), found) in before.iter().zip(&vars).zip(&found) {
            let mut expected = grads.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            if *name == "W_dec" {
                for (g, w) in expected.chunks_exact_mut(D).zip(values.chunks_exact(D)) {
                    let along = vector::dot(g, w);
                    vector::add_scaled(g, -along, w);
                }
            }
            assert!(expected.iter().any(|g| g.abs() > 1e-3), "undo {undo}: {name} has a gradient");
            for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
                assert!((f - e).abs() < 5e-5, "undo {undo}: {name}[{i}]: {f}, autograd says {e}");
            }
        }
    }
}

#[test]
fn clipped_gradients_have_the_length_that_was_asked_for() {
    let length = |clip: Option<f32>| {
        let (mut trainer, x) = small(&tide(true));
        trainer.step(&x, &Step { clip, ..step(0.0) }).unwrap();
        gradients(&mut trainer).iter().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt()
    };
    let free = length(None);
    assert!(free > 0.1);
    for most in [0.01, 0.05] {
        assert!((length(Some(most as f32)) / most - 1.0).abs() < 1e-4);
    }
    assert!((length(Some(100.0)) - free).abs() < 1e-6);
}

#[test]
fn steps_on_a_device_are_those_on_the_host() {
    let settings = |undo| Settings { terms: terms(), undo, sparsity_start: 2.0, ..Settings::new(K) };
    let fixed = Settings { train_modulation: false, ..settings(true) };
    // A factor below the least is kept away from zero.
    let mut start = modulation(0.3);
    start.scale[1] = -0.95;
    start.scale[D] = -1.02;
    for (settings, clip) in [(settings(true), None), (settings(false), Some(0.05)), (fixed, Some(0.05))] {
        let form = Form::Tide(settings.starting(start.clone()));
        let ((mut host, x), (mut other, _)) = (small(&form), small(&form));
        other.move_to(&Device::Cpu).unwrap();
        for t in 1..10 {
            let adam = Adam::step((0.9, 0.999), 1e-8, 0.003, t);
            let now = Step { adam, clip, shrink: 1e-3, progress: t as f32 / 10.0, ..step(0.0) };
            let [a, b] = [&mut host, &mut other].map(|trainer| trainer.step(&x, &now).unwrap());
            assert!((a.loss - b.loss).abs() < 1e-4 * a.loss && a.l0 == b.l0, "step {t}: {a:?}, {b:?}");
            let (a, b) = (a.explained_variance.unwrap(), b.explained_variance.unwrap());
            assert!((a - b).abs() < 1e-4, "step {t}: {a}, {b}");
        }
        other.fetch().unwrap();
        let all = |trainer: &mut Trainer| {
            let w = trainer.weights.clone();
            let mut all = vec![("W_enc", w.w_enc), ("b_enc", w.b_enc), ("W_dec", w.w_dec), ("b_dec", w.b_dec)];
            all.extend(trainer.rule.state().into_iter().map(|(name, values)| (name, values.clone())));
            all
        };
        for ((name, a), (_, b)) in all(&mut host).into_iter().zip(all(&mut other)) {
            let apart = a.iter().zip(&b).map(|(a, b)| (a - b).abs() / (1.0 + a.abs())).fold(0.0, f32::max);
            assert!(a.len() == b.len() && apart < 5e-5, "{name} differs by {apart}, clip {clip:?}");
        }
    }
}

#[test]
fn decoupled_decay_takes_its_share_of_the_encoder_alone() {
    let (mut trainer, x) = small(&tide(true));
    let before = trainer.weights.clone();
    trainer.step(&x, &Step { shrink: 0.1, ..step(0.0) }).unwrap();
    let after = &trainer.weights;
    assert!(before.w_enc.iter().zip(&after.w_enc).all(|(b, a)| (0.9 * b - a).abs() < 1e-6));
    assert_eq!((&before.b_enc, &before.b_dec), (&after.b_enc, &after.b_dec));
    assert!(before.w_dec.iter().zip(&after.w_dec).all(|(b, a)| (b - a).abs() < 1e-6));
}

#[test]
fn without_modulation_and_with_squares_alone_it_is_topk() {
    let plain = Form::TopK(topk::Settings { k: K });
    let settings = Settings { terms: Terms::squares(), train_modulation: false, ..Settings::new(K) };
    let same = Form::Tide(settings.starting(modulation(0.0)));
    let ((mut a, x), (mut b, _)) = (small(&plain), small(&same));
    for t in 1..8 {
        let adam = Adam::step((0.9, 0.999), 1e-8, 0.01, t);
        let steps = [&mut a, &mut b].map(|t| t.step(&x, &Step { adam, ..step(0.0) }).unwrap());
        assert!((steps[0].loss - steps[1].loss).abs() < 1e-6 && steps[0].l0 == steps[1].l0, "step {t}");
        let variances = steps.map(|s| s.explained_variance.unwrap());
        assert!((variances[0] - variances[1]).abs() < 1e-5, "step {t}: {variances:?}");
    }
    let all =
        |w: &Weights| [&w.w_enc, &w.b_enc, &w.w_dec, &w.b_dec].into_iter().flatten().copied().collect::<Vec<f32>>();
    let moved = all(&weights()).iter().zip(all(&a.weights)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let apart = all(&a.weights).iter().zip(all(&b.weights)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(moved > 0.01 && apart < 1e-5, "{moved} {apart}");
}

/// Tokens of planted directions that every step multiplies and moves, channel by channel, in a way of its own; and the
/// directions.
fn planted(d: usize, n: usize, items: usize) -> (Trajectories, Vec<f32>) {
    let mut random = stream(3, "planted steps", 0);
    let mut directions = random.normals(n * d);
    directions.chunks_exact_mut(d).for_each(crate::sae::start::normalise);
    let factors: Vec<f32> = (0..STEPS * d).map(|_| random.range(0.4, 2.5)).collect();
    let offsets: Vec<f32> = random.normals(STEPS * d).iter().map(|v| 1.5 * v).collect();
    let mut data = vec![0.0; items * STEPS * 16 * d];
    for item in 0..items {
        for token in 0..16 {
            let mut x = vec![0.0; d];
            for _ in 0..2 {
                let j = random.below(n);
                vector::add_scaled(&mut x, random.range(2.0, 4.0), &directions[j * d..(j + 1) * d]);
            }
            for step in 0..STEPS {
                for c in 0..d {
                    let at = ((item * STEPS + step) * 16 + token) * d + c;
                    data[at] = x[c] * factors[step * d + c] + offsets[step * d + c];
                }
            }
        }
    }
    (Trajectories::from_vec((4, 4), STEPS, d, data).unwrap(), directions)
}

#[test]
fn a_modulation_is_learnt_and_needs_fewer_steps() {
    let (trajectories, _) = planted(16, 24, 120);
    let recipe = Tide::new(4, 4).batch(480).epochs(60).learning_rate(0.0032).terms(Terms::squares());
    let aware = recipe.train(&trajectories).unwrap();
    let blind = recipe.clone().train_modulation(false).train(&trajectories).unwrap();
    let variance = |t: &TrainedTide| t.held_out.as_ref().unwrap().explained_variance;
    let last = blind.history.last().unwrap().loss;
    let reached = aware.history.iter().find(|row| row.loss <= last).map(|row| row.step);
    println!(
        "aware {:.3}, blind {:.3}; the loss {last:.4} of {} steps is reached after {reached:?}",
        variance(&aware),
        variance(&blind),
        blind.history.last().unwrap().step
    );
    assert!(variance(&aware) > variance(&blind) + 0.01);
    assert!(reached.unwrap() < blind.history.last().unwrap().step * 2 / 3);
    assert_eq!(blind.modulation.scale, vec![0.0; STEPS * 16]);
    assert!(aware.modulation.scale.iter().any(|a| a.abs() > 0.05));
    let whole = recipe.terms(Terms::default()).train(&trajectories).unwrap();
    println!("all terms {:.3}, {}", variance(&whole), whole.training);
    assert!(variance(&whole) > variance(&blind));
}

#[test]
fn a_step_is_a_plain_sae_with_the_codes_of_the_modulated_input() {
    let (trajectories, _) = planted(6, 8, 40);
    let start =
        Modulation::new(times(), 6, vec![0.5; STEPS * 6], (0..STEPS * 6).map(|v| v as f32 * 0.1).collect()).unwrap();
    let trained = Tide::new(3, 2).batch(240).epochs(4).modulation(start).train(&trajectories).unwrap();
    for i in 0..STEPS {
        let (sae, (a, c)) = (trained.step(i), trained.modulation.at(times()[i]));
        let x = trajectories.step(i).item(7).unwrap();
        let modulate = |x: &[f32]| -> Vec<f32> { (0..6).map(|j| x[j] * (1.0 + a[j]) + c[j]).collect() };
        let m: Vec<f32> = x.chunks_exact(6).flat_map(modulate).collect();
        let (folded, direct) = (sae.encode(&x).unwrap(), trained.sae.sae.encode(&m).unwrap());
        assert_eq!(folded.index, direct.index);
        assert!(folded.value.iter().zip(&direct.value).all(|(a, b)| (a - b).abs() < 1e-4));
        let undone: Vec<f32> = trained
            .sae
            .sae
            .decode(&direct)
            .chunks_exact(6)
            .flat_map(|m| (0..6).map(|j| (m[j] - c[j]) / (1.0 + a[j])).collect::<Vec<_>>())
            .collect();
        assert!(sae.decode(&folded).iter().zip(&undone).all(|(a, b)| (a - b).abs() < 1e-4));
        assert_eq!(trained.encode_all(&trajectories).unwrap()[i].token(7 * 16), folded.token(0));
    }
    assert_eq!(trained.options.schedule, crate::sae::Schedule::Cosine);
    assert_eq!(trained.options.learning_rate, Some(1.6e-2), "twice the highest that a rate is raised to");
    // What the training reports is what the result has.
    let last = trained.history.last().unwrap();
    assert!(
        (last.explained_variance - trained.training.explained_variance).abs() < 0.05,
        "{last:?}, {}",
        trained.training
    );
}

#[test]
fn killed_and_resumed_gives_the_same_bits() {
    let (trajectories, _) = planted(6, 8, 60);
    let recipe = Tide::new(3, 2).batch(240).epochs(3).sample(0.5).progressive(3.0, 0.5);
    let whole = recipe.train(&trajectories).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut killed = recipe.run(folder.path());
    killed.recipe.checkpoint_every = Some(3);
    for stop in [4, 8] {
        killed.recipe.stop_at = Some(stop);
        assert!(refusal(killed.train(&trajectories)).contains("stopped"));
    }
    killed.recipe.stop_at = None;
    let resumed = killed.train(&trajectories).unwrap();
    assert_eq!((&resumed.sae, &resumed.history), (&whole.sae, &whole.history));
    let path = folder.path().join("tide.safetensors");
    assert_eq!(TideSae::open(&path).unwrap(), whole.sae);
    let other = killed.clone().modulation(Modulation { scale: vec![0.1; 18], ..Modulation::identity(&trajectories) });
    assert!(refusal(other.train(&trajectories)).contains("architecture.digest"));
    assert!(refusal(killed.undo(false).train(&trajectories)).contains("architecture.undo"));
    // Another file is refused by name.
    let bytes = std::fs::read(&path).unwrap();
    for (from, to, word) in [
        (r#"\"format\":1"#, r#"\"format\":7"#, "format 7"),
        ("modulation.shift", "modulation.shirt", "modulation.shirt"),
        (r#"\"d_in\":6"#, r#"\"d_in\":7"#, "W_enc"),
    ] {
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect(from);
        let mut changed = bytes.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&path, changed).unwrap();
        let refused = refusal(TideSae::open(&path));
        assert!(refused.contains(word) && refused.contains("tide.safetensors"), "{word}: {refused}");
    }
}

#[test]
fn one_thread_or_two_give_the_same_bits() {
    let (trajectories, _) = planted(6, 8, 60);
    let recipe = Tide::new(3, 2).batch(240).epochs(3).sample(0.5).progressive(3.0, 0.5);
    let train = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| recipe.train(&trajectories)).unwrap()
    };
    let (one, two) = (train(1), train(2));
    assert_eq!((&one.sae, &one.history), (&two.sae, &two.history));
}

#[test]
fn the_sparsity_schedule_falls_to_k() {
    let (trajectories, _) = planted(6, 8, 60);
    let mut l0 = Vec::new();
    let recipe = Tide::new(3, 2).batch(240).epochs(10).progressive(3.0, 0.5);
    for row in recipe.train(&trajectories).unwrap().history {
        l0.push(row.l0);
    }
    let n = l0.len();
    assert!(l0[0] > 4.0 && l0[n / 4] > 3.0 && l0[n / 4] < l0[0], "{l0:?}");
    assert!(l0[n / 2 + 1..].iter().all(|l| *l <= 2.0) && l0.is_sorted_by(|a, b| a >= &(b - 0.3)), "{l0:?}");
}

#[test]
fn unusable_input_is_refused() {
    let (trajectories, _) = planted(6, 8, 20);
    let train = |recipe: Tide| refusal(recipe.batch(240).epochs(1).train(&trajectories));
    assert!(train(Tide::new(2, 13)).contains("k = 13 of 12 latents"));
    assert!(train(Tide::new(2, 2).modulation(modulation(0.1))).contains("a modulation of 5 channels"));
    assert!(train(Tide::new(2, 2).terms(Terms { cosine: -1.0, ..Terms::default() })).contains("cosine = -1"));
    assert!(train(Tide::new(2, 2).terms(Terms { huber_delta: 0.0, ..Terms::default() })).contains("huber_delta"));
    assert!(train(Tide::new(2, 2).progressive(0.5, 0.5)).contains("0.5 times"));
    assert!(train(Tide::new(2, 2).sample(1.5)).contains("share of 1.5"));
    assert!(train(Tide::new(2, 2).options(Options { clip: Some(0.0), ..Options::default() })).contains("clipped at 0"));
    let flat = Tensor::zeros((3, 5), DType::F32, &Device::Cpu).unwrap();
    assert!(
        refusal(Modulation::pretrained(&trajectories, &flat, &flat)).contains("found shape [3, 5], expected [3, 6]")
    );
    assert!(refusal(Modulation::new(vec![0.0, 1.0], 1, vec![0.0; 2], vec![0.0; 2])).contains("expected to fall"));
    assert!(refusal(Modulation::new(vec![1.0, 0.0], 1, vec![0.0, f32::NAN], vec![0.0; 2])).contains("NaN at step 1"));
    let trained = Tide::new(2, 2).batch(240).epochs(1).train(&trajectories).unwrap();
    let other = Trajectories::from_vec((4, 4), 2, 6, vec![1.0; 20 * 2 * 16 * 6]).unwrap();
    assert!(refusal(trained.measure(&other)).contains("[2, 6], expected [3, 6]"));
}
