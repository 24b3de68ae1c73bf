//! Tests of the course of a training: together, ended early, latents that start anew, a disk that is full.

use super::*;
use crate::sae::Training;

#[test]
fn together_each_becomes_what_it_becomes_alone() {
    let (recipes, activations) = shorts();
    let begun = recipes.iter().map(|(_, recipe, form)| recipe.begin(form, &activations)).collect::<Result<_>>();
    let together = Training::together(begun.unwrap()).unwrap();
    for ((name, recipe, form), trained) in recipes.iter().zip(&together) {
        let alone = recipe.train(form, &activations).unwrap();
        assert_eq!((&trained.sae, &trained.history), (&alone.sae, &alone.history), "{name}");
        assert_eq!(trained.mixing, alone.mixing, "{name}");
    }
    let (recipe, activations) = short();
    let begin = |recipe: &TopK| recipe.begin(&activations).unwrap();
    let refused = |other: Training| refusal(Training::together(vec![begin(&recipe), other]));
    assert!(refused(begin(&recipe.clone().seed(3))).contains("seed 0 and 3"));
    assert!(refused(begin(&recipe.clone().batch(100))).contains("tokens of a batch 200 and 100"));
    let mut ahead = begin(&recipe);
    ahead.step().unwrap();
    assert!(refused(ahead).contains("steps done 0 and 1"));
    assert!(Training::together(Vec::new()).unwrap().is_empty());
}

#[test]
fn a_training_that_stalls_ends_early_and_resumes_to_the_same_end() {
    let (recipe, activations) = short();
    let options = Options { patience: Some(5), ..recipe.recipe.options.clone() };
    // A rate at which nothing is learnt: the noise of batches decides.
    let recipe = recipe.options(options).epochs(200).learning_rate(1e-9);
    let whole = recipe.train(&activations).unwrap();
    let losses: Vec<f64> = whole.history.iter().map(|row| row.loss).collect();
    let best = losses.iter().position(|l| *l == losses.iter().copied().fold(f64::INFINITY, f64::min)).unwrap();
    assert_eq!(losses.len(), best + 6, "{losses:?}");
    let folder = tempfile::tempdir().unwrap();
    let mut killed = recipe.clone().run(folder.path());
    (killed.recipe.checkpoint_every, killed.recipe.stop_at) = (Some(7), Some(10));
    assert!(refusal(killed.train(&activations)).contains("stopped"));
    killed.recipe.stop_at = None;
    for _ in 0..2 {
        assert_eq!(killed.train(&activations).unwrap().history, whole.history);
    }
}

/// Latents that no token reaches: only starting anew can bring them back.
#[test]
fn dead_latents_start_anew_towards_what_is_not_explained() {
    let (activations, _) = planted(10, 20, 2, 60, 3);
    for form in [Form::ReLU(L1 { l1: 0.3, sparsity_warm_up: 0.1 }), Form::Gated(L1 { l1: 0.5, sparsity_warm_up: 0.1 })]
    {
        let dead = |resample| {
            let options =
                Options { dead_window: Some(400), epochs: Some(60), batch: Some(200), resample, ..Options::default() };
            let recipe = Recipe { options, ..Recipe::new(3) };
            let mut training = recipe.begin(&form, &activations).unwrap();
            for j in 0..15 {
                training.trainer.weights.b_enc[j] = -100.0;
            }
            while training.step().unwrap() {}
            let trained = training.finish().unwrap();
            (trained.dead_share, trained.training.explained_variance)
        };
        let (without, with) = (dead(0), dead(3));
        assert!(without.0 >= 0.5, "{form:?}: {without:?}");
        assert!(with.0 < 0.1 && with.1 > without.1, "{form:?}: {with:?} with, {without:?} without");
    }
}

/// A device that is always full stands where the next checkpoint is written.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_checkpoint_before() {
    let (recipe, activations) = short();
    let whole = recipe.train(&activations).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut killed = recipe.run(folder.path());
    (killed.recipe.checkpoint_every, killed.recipe.stop_at) = (Some(7), Some(10));
    assert!(refusal(killed.train(&activations)).contains("stopped"));
    killed.recipe.stop_at = None;
    let (path, next) =
        (folder.path().join("checkpoint.safetensors"), folder.path().join("checkpoint.safetensors.partial"));
    let before = std::fs::read(&path).unwrap();
    std::os::unix::fs::symlink("/dev/full", next).unwrap();
    let refused = refusal(killed.train(&activations));
    assert!(refused.contains("checkpoint.safetensors") && refused.contains("No space left"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(killed.train(&activations).unwrap().sae, whole.sae);
}

#[test]
fn constant_channels_are_kept_as_they_are() {
    let (activations, _) = planted(10, 20, 2, 60, 3);
    let mut data = Vec::new();
    for i in 0..activations.len() {
        for token in activations.item(i).unwrap().chunks_exact(10) {
            data.extend(token.iter().chain(&[7.5, 0.0]));
        }
    }
    let activations = Activations::from_vec((4, 4), 12, data).unwrap();
    for (name, recipe, form) in recipes(3, 2) {
        let recipe = Recipe { options: Options { batch: Some(200), epochs: Some(60), ..Options::default() }, ..recipe };
        let trained = recipe.train(&form, &activations).unwrap();
        assert_eq!(trained.training.constant_channels, 2, "{name}");
        assert!(trained.training.explained_variance > 0.5, "{name}: {}", trained.training);
        let x = activations.item(0).unwrap();
        for token in trained.decode(&trained.encode(&x).unwrap()).chunks_exact(12) {
            assert!((token[10] - 7.5).abs() < 1.0 && token[11].abs() < 0.5, "{name}: {token:?}");
        }
    }
}
