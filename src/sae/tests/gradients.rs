//! Gradients of every architecture against autograd on the dense loss, and against finite differences.

use super::super::form::Form;
use super::super::rule::Rule;
use super::super::train::Trainer;
use super::super::{batch_topk, jump_relu, matryoshka, topk};
use super::*;
use candle_core::{DType, Device, Result as Outcome, Tensor, Var};

const TOKENS: usize = 7;
const AUX_K: usize = 2;
/// Wide, so that the window holds entries on both sides of the threshold.
const BANDWIDTH: f32 = 0.8;

fn forms() -> [Form; 6] {
    [
        Form::TopK(topk::Settings { k: K }),
        Form::BatchTopK(batch_topk::Settings { k: K }),
        Form::Matryoshka(matryoshka::Settings { k: K, widths: Some(vec![2, 5, LATENTS]) }),
        Form::ReLU(L1 { l1: 0.6, sparsity_warm_up: 0.0 }),
        Form::JumpReLU(jump_relu::Settings { l0: 0.6, bandwidth: BANDWIDTH, threshold: 0.7, sparsity_warm_up: 0.0 }),
        Form::Gated(L1 { l1: 0.6, sparsity_warm_up: 0.0 }),
    ]
}

/// What the architecture learns beside the weights, at random instead of equal numbers.
fn scramble(rule: &mut dyn Rule) {
    for (name, values) in rule.state() {
        if ["log_threshold", "r_mag", "b_mag"].contains(&name) {
            let noise = stream(5, name, 0).normals(values.len());
            values.iter_mut().zip(noise).for_each(|(v, n)| *v += 0.3 * n);
        }
    }
}

/// A trainer in which every third latent counts as dead, and a batch.
fn small(form: &Form) -> (Trainer, Vec<f32>) {
    let sae = random_sae(D, LATENTS, K, 4);
    let weights =
        Weights { d: D, latents: LATENTS, w_enc: sae.w_enc, b_enc: sae.b_enc, w_dec: sae.w_dec, b_dec: sae.b_dec };
    let mut trainer = Trainer::new(weights, form.rule(LATENTS).unwrap());
    scramble(trainer.rule.as_mut());
    trainer.silent.iter_mut().step_by(3).for_each(|s| *s = 100);
    (trainer, stream(1, "batch", 0).normals(TOKENS * D))
}

/// The numbers that a step is taken from: weights and the rule's own.
fn numbers(trainer: &mut Trainer) -> Vec<(&'static str, Vec<f32>)> {
    let w = trainer.weights.clone();
    let mut all = vec![("W_enc", w.w_enc), ("b_enc", w.b_enc), ("W_dec", w.w_dec), ("b_dec", w.b_dec)];
    all.extend(own(trainer, ["log_threshold", "r_mag", "b_mag"]));
    all
}

fn own(trainer: &mut Trainer, names: [&str; 3]) -> Vec<(&'static str, Vec<f32>)> {
    let state = trainer.rule.state();
    state.into_iter().filter(|(name, _)| names.contains(name)).map(|(name, values)| (name, values.clone())).collect()
}

/// The gradients of a step, from the first moments that it leaves.
fn gradients(trainer: &mut Trainer) -> Vec<Vec<f32>> {
    let mut all: Vec<Vec<f32>> = trainer.moments.iter().map(|m| m.m.clone()).collect();
    all.extend(own(trainer, ["log_threshold.m", "r_mag.m", "b_mag.m"]).into_iter().map(|(_, values)| values));
    all.iter_mut().flatten().for_each(|m| *m /= 0.1);
    all
}

/// 1 where an entry is among the `k` largest positive of its group and `allowed`: by sorting, apart from what is tested.
fn largest(p: &Tensor, k: usize, whole_batch: bool, allowed: impl Fn(usize) -> bool) -> Outcome<Tensor> {
    let rows = p.to_vec2::<f32>()?;
    let group = |rows: &[Vec<f32>], base: usize, k: usize, mask: &mut [f32]| {
        let flat: Vec<f32> = rows.concat();
        let mut order: Vec<usize> = (0..flat.len()).filter(|&i| flat[i] > 0.0 && allowed(i % LATENTS)).collect();
        order.sort_by(|a, b| flat[*b].total_cmp(&flat[*a]));
        order.iter().take(k).for_each(|i| mask[base + i] = 1.0);
    };
    let mut mask = vec![0f32; TOKENS * LATENTS];
    if whole_batch {
        group(&rows, 0, k * TOKENS, &mut mask);
    } else {
        for (t, row) in rows.iter().enumerate() {
            group(std::slice::from_ref(row), t * LATENTS, k, &mut mask);
        }
    }
    Tensor::from_vec(mask, (TOKENS, LATENTS), &Device::Cpu)
}

/// Σ squares / (tokens·d).
fn mean_square(x: &Tensor) -> Outcome<Tensor> {
    x.sqr()?.mean_all()
}

/// The dense loss of `form`, as its paper states it, for autograd. `v` are the numbers in the order of [`numbers`].
fn dense_loss(form: &Form, v: &[Var], x: &Tensor, aux_alpha: f64) -> Outcome<Tensor> {
    let (w_enc, b_enc, w_dec, b_dec) = (&v[0], &v[1], &v[2], &v[3]);
    let a = x.broadcast_sub(b_dec)?.matmul(&w_enc.t()?)?;
    let p = a.broadcast_add(b_enc)?;
    let decode = |z: &Tensor, w: &Tensor, b: &Tensor| z.matmul(w)?.broadcast_add(b);
    let with_aux = |loss: Tensor, decoded: &Tensor| -> Outcome<Tensor> {
        let dead = largest(&p, AUX_K, false, |j| j % 3 == 0)?;
        assert!(dead.sum_all()?.to_scalar::<f32>()? > 5.0, "the case exercises the auxiliary loss");
        let rest = ((&p * dead)?.matmul(w_dec)? - (x - decoded)?.detach())?;
        loss + (mean_square(&rest)? * aux_alpha)?
    };
    // A sum over entries in the unit of the squares: mean over tokens, over d.
    let per_token =
        |sum: Tensor, weight: f32| -> Outcome<Tensor> { sum.sum_all()? * (f64::from(weight) / (TOKENS * D) as f64) };
    match form {
        Form::TopK(_) | Form::BatchTopK(_) => {
            let mask = largest(&p, K, matches!(form, Form::BatchTopK(_)), |_| true)?;
            let decoded = decode(&(&p * mask)?, w_dec, b_dec)?;
            with_aux(mean_square(&(x - &decoded)?)?, &decoded)
        }
        Form::Matryoshka(s) => {
            let z = (&p * largest(&p, K, true, |_| true)?)?;
            let (mut loss, mut decoded) = (Tensor::zeros((), DType::F32, &Device::Cpu)?, x.clone());
            for &width in s.widths.as_ref().unwrap() {
                decoded = decode(&z.narrow(1, 0, width)?, &w_dec.narrow(0, 0, width)?, b_dec)?;
                loss = (loss + mean_square(&(x - &decoded)?)?)?;
            }
            with_aux(loss, &decoded)
        }
        Form::ReLU(s) => {
            let z = p.relu()?;
            mean_square(&(x - decode(&z, w_dec, b_dec)?)?)? + per_token(z, s.l1)?
        }
        Form::JumpReLU(s) => {
            let theta = v[4].exp()?;
            let fixed = theta.detach();
            let fires = p.broadcast_gt(&fixed)?.to_dtype(DType::F32)?;
            let window = p.broadcast_sub(&fixed)?.abs()?.lt(s.bandwidth / 2.0)?.to_dtype(DType::F32)?;
            let both = [window.mul(&fires)?, window.clone()].map(|w| w.sum_all().unwrap().to_scalar::<f32>().unwrap());
            assert!(both[0] > 2.0 && both[1] - both[0] > 2.0, "entries on both sides of the threshold: {both:?}");
            // Zero, with the pseudo-derivatives −(θ/ε)K and −(1/ε)K by θ.
            let pseudo = |slope: &Tensor| window.broadcast_mul(&((&theta - &fixed)? * slope)?);
            let width = f64::from(s.bandwidth);
            let z = ((&p * &fires)? - pseudo(&(&fixed / width)?)?)?;
            let count = (&fires - pseudo(&(fixed.ones_like()? / width)?)?)?;
            let decoded = decode(&z, w_dec, b_dec)?;
            with_aux((mean_square(&(x - &decoded)?)? + per_token(count, s.l0)?)?, &decoded)
        }
        Form::Gated(s) => {
            let (r_mag, b_mag) = (&v[4], &v[5]);
            let open = p.gt(0f32)?.to_dtype(DType::F32)?;
            let magnitude = a.broadcast_mul(&r_mag.exp()?)?.broadcast_add(b_mag)?.relu()?;
            let gate = p.relu()?;
            let frozen = decode(&gate, &w_dec.detach(), &b_dec.detach())?;
            let loss = mean_square(&(x - decode(&(open * magnitude)?, w_dec, b_dec)?)?)?;
            (loss + per_token(gate, s.l1)?)? + mean_square(&(x - frozen)?)?
        }
        Form::Tide(_) => unreachable!("has its own test"),
    }
}

#[test]
fn agree_with_autograd() {
    for form in forms() {
        let (mut trainer, x) = small(&form);
        let before = numbers(&mut trainer);
        trainer.step(&x, &settings(0.0, 0.7, AUX_K)).unwrap();
        let found = gradients(&mut trainer);
        assert_eq!(found.len(), before.len());

        let vars: Vec<Var> = before
            .iter()
            .map(|(name, values)| {
                let shape = if name.starts_with("W_") { vec![LATENTS, D] } else { vec![values.len()] };
                Var::from_tensor(&Tensor::from_slice(values, shape, &Device::Cpu).unwrap()).unwrap()
            })
            .collect();
        let x = (Tensor::from_slice(&x, (TOKENS, D), &Device::Cpu).unwrap() * 1.3).unwrap();
        let grads = dense_loss(&form, &vars, &x, 0.7).unwrap().backward().unwrap();
        for (((name, values), var), found) in before.iter().zip(&vars).zip(&found) {
            let mut expected = grads.get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            if *name == "W_dec" {
                for (g, w) in expected.chunks_exact_mut(D).zip(values.chunks_exact(D)) {
                    let along = vector::dot(g, w);
                    vector::add_scaled(g, -along, w);
                }
            }
            assert!(expected.iter().any(|g| g.abs() > 1e-3), "{form:?}: {name} has a gradient");
            for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
                assert!((f - e).abs() < 3e-5, "{form:?}: {name}[{i}]: {f}, autograd says {e}");
            }
        }
    }
}

/// The reconstruction's gradients by weights that do not change which latents fire, without autograd: a step says its
/// loss before its update.
#[test]
fn agree_with_finite_differences() {
    for mut form in forms() {
        match &mut form {
            Form::Matryoshka(_) | Form::Gated(_) => continue, // the loss that a step reports is a part of theirs
            Form::ReLU(s) => s.l1 = 0.0,
            Form::JumpReLU(s) => s.l0 = 0.0,
            _ => {}
        }
        let h = 1e-3;
        let loss = |which: usize, pick: usize, by: f32| {
            let (mut trainer, x) = small(&form);
            let w = &mut trainer.weights;
            [&mut w.w_enc, &mut w.b_enc, &mut w.w_dec, &mut w.b_dec][which][pick] += by;
            trainer.step(&x, &settings(0.0, 0.0, 0)).unwrap().loss
        };
        let (mut trainer, x) = small(&form);
        trainer.step(&x, &settings(0.0, 0.0, 0)).unwrap();
        let found = gradients(&mut trainer);
        let mut matter = 0;
        for (which, pick) in [(0, 13), (0, 27), (0, 38), (1, 4), (1, 7), (3, 0), (3, 3)] {
            let numeric = (loss(which, pick, h) - loss(which, pick, -h)) / f64::from(2.0 * h);
            let found = f64::from(found[which][pick]);
            let close = (found - numeric).abs() < 2e-3 * (1.0 + numeric.abs());
            assert!(close, "{form:?}: tensor {which}[{pick}]: {found} against {numeric}");
            matter += usize::from(numeric.abs() > 1e-3);
        }
        assert!(matter >= 4, "{form:?}: most of the picked weights matter");
    }
}

/// JumpReLU's estimate of the gradient by the threshold, over many tokens, against the difference of the losses at the
/// ends of the window.
#[test]
fn the_threshold_moves_as_the_expected_loss_says() {
    let (tokens, width, l0) = (60_000, 0.2f32, 0.8f32);
    let x = stream(3, "many tokens", 0).normals(tokens * 2);
    let trainer = |threshold: f32| {
        let settings = jump_relu::Settings { l0, bandwidth: width, threshold, sparsity_warm_up: 0.0 };
        let weights = Weights {
            d: 2,
            latents: 2,
            w_enc: vec![1.0, 0.0, 0.4, 0.9],
            b_enc: vec![0.0, 0.1],
            w_dec: vec![1.0, 0.0, 0.6, 0.8],
            b_dec: vec![0.1, 0.0],
        };
        Trainer::new(weights, Form::JumpReLU(settings).rule(2).unwrap())
    };
    let loss = |threshold: f32| {
        let step = trainer(threshold).step(&x, &settings(0.0, 0.0, 0)).unwrap();
        step.loss + f64::from(l0) * step.l0 / 2.0
    };
    let threshold = 0.9;
    let mut at = trainer(threshold);
    at.step(&x, &settings(0.0, 0.0, 0)).unwrap();
    // Both latents have one threshold; the gradient is by its logarithm.
    let found: f32 = gradients(&mut at)[4].iter().sum::<f32>() / threshold;
    let expected = (loss(threshold + width / 2.0) - loss(threshold - width / 2.0)) / f64::from(width);
    assert!(expected.abs() > 0.05);
    assert!((f64::from(found) / expected - 1.0).abs() < 0.05, "{found} against {expected}");
}
