//! The step on a device against the step on the host. A device of any kind takes the same operations of the tensor library, so
//! that its CPU stands for all.

use super::*;
use candle_core::Device;

fn differ(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn steps_on_a_device_are_those_on_the_host() {
    let (recipes, activations) = shorts();
    for (name, recipe, form) in recipes {
        for (clip, weight_decay) in [(None, 0.0), (Some(0.05), 0.01)] {
            let options = Options { clip, weight_decay, ..recipe.options.clone() };
            let recipe = Recipe { options, ..recipe.clone() };
            let begin = || recipe.begin(&form, &activations).unwrap();
            let (mut host, mut other) = (begin(), begin());
            // Some latents are dead from the start, so that the auxiliary loss has work.
            for training in [&mut host, &mut other] {
                training.trainer.silent.iter_mut().step_by(3).for_each(|s| *s = 1000);
            }
            other.trainer.move_to(&Device::Cpu).unwrap();
            for _ in 0..10 {
                host.step().unwrap();
                other.step().unwrap();
            }
            let before = other.trainer.weights.clone();
            other.trainer.fetch().unwrap();
            let (a, b) = (&host.trainer.weights, &other.trainer.weights);
            assert!(differ(&before.w_dec, &b.w_dec) > 1e-3, "{name}: nothing was learnt");
            for (what, a, b) in [
                ("W_enc", &a.w_enc, &b.w_enc),
                ("b_enc", &a.b_enc, &b.b_enc),
                ("W_dec", &a.w_dec, &b.w_dec),
                ("b_dec", &a.b_dec, &b.b_dec),
            ] {
                assert!(differ(a, b) < 2e-5, "{name}, clip {clip:?}: {what} differs by {}", differ(a, b));
            }
            assert_eq!(host.trainer.silent, other.trainer.silent, "{name}");
            for (a, b) in host.history().iter().zip(other.history()) {
                assert!((a.loss - b.loss).abs() < 1e-5 * a.loss && a.l0 == b.l0, "{name}: {a:?}, {b:?}");
                assert!((a.explained_variance - b.explained_variance).abs() < 1e-5, "{name}: {a:?}, {b:?}");
            }
            let (a, b) = (host.trainer.rule.state(), other.trainer.rule.state());
            for ((what, a), (_, b)) in a.into_iter().zip(b) {
                assert!(differ(a, b) < 2e-5, "{name}: {what} is {a:?} and {b:?}");
            }
        }
    }
}

#[test]
fn a_training_on_a_device_goes_on_from_its_checkpoint() {
    let (recipe, activations) = short();
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe.run(folder.path());
    let mut first = recipe.begin(&activations).unwrap();
    first.checkpoint_every = Some(7);
    first.trainer.move_to(&Device::Cpu).unwrap();
    for _ in 0..7 {
        first.step().unwrap();
    }
    first.trainer.fetch().unwrap();
    let resumed = recipe.begin(&activations).unwrap();
    assert_eq!(resumed.done(), 7);
    assert_eq!(resumed.trainer.weights, first.trainer.weights);
    assert_eq!(resumed.trainer.moments, first.trainer.moments);
}

#[test]
fn dead_latents_start_anew_as_on_the_host() {
    let (recipes, activations) = shorts();
    for (name, recipe, form) in recipes.into_iter().filter(|r| ["ReLU", "Gated"].contains(&r.0)) {
        let options = Options { resample: 4, ..recipe.options.clone() };
        let recipe = Recipe { options, ..recipe };
        let begin = || recipe.begin(&form, &activations).unwrap();
        let (mut host, mut other) = (begin(), begin());
        let start = host.trainer.weights.w_dec[..10].to_vec();
        for training in [&mut host, &mut other] {
            // Latent 0 is dead, and stays so: nothing makes it fire.
            training.trainer.weights.b_enc[0] = -1e3;
            training.trainer.silent[0] = 10_000;
        }
        other.trainer.move_to(&Device::Cpu).unwrap();
        for _ in 0..8 {
            host.step().unwrap();
            other.step().unwrap();
        }
        other.trainer.fetch().unwrap();
        let (a, b) = (&host.trainer.weights, &other.trainer.weights);
        assert!(b.b_enc[0] > -1.0 && differ(&b.w_dec[..10], &start) > 1e-2, "{name}: latent 0 did not start anew");
        for (what, a, b) in [("W_enc", &a.w_enc, &b.w_enc), ("W_dec", &a.w_dec, &b.w_dec)] {
            assert!(differ(a, b) < 2e-5, "{name}: {what} differs by {}", differ(a, b));
        }
    }
}
