//! Tests of predictors, of paths and of trained trajectory SAEs, on planted ground truth.

use super::*;
use crate::activations::Trajectories;
use crate::error::Result;
use crate::kernels::sparse::dot;
use crate::random::stream;
use crate::sae::{Architecture, Sae};
use std::sync::Arc;

fn refusal<T>(result: Result<T>) -> String {
    result.err().expect("should be refused").to_string()
}

/// `[d, d]` matrices of steps, each a little different.
fn dynamics(steps: usize, d: usize) -> Vec<Vec<f32>> {
    let matrix = |i: usize| {
        let mut random = stream(i as u64, "dynamics", 0);
        let mut map: Vec<f32> = random.normals(d * d).iter().map(|v| v * 0.3 / (d as f32).sqrt()).collect();
        map.iter_mut().step_by(d + 1).for_each(|v| *v += 0.6);
        map
    };
    (0..steps - 1).map(matrix).collect()
}

/// Trajectories that follow [`dynamics`] from correlated starts, with an offset, a scale and some noise of each step.
fn linear(steps: usize, d: usize, n: usize, noise: f32) -> Trajectories {
    let maps = dynamics(steps, d);
    let mut random = stream(0, "linear", 0);
    let mixing = random.normals(d * d);
    let mut data = Vec::new();
    for _ in 0..n {
        let source = random.normals(d);
        let mut h: Vec<f32> =
            mixing.chunks_exact(d).zip(&source).map(|(row, s)| dot(row, &source) * 0.15 + s).collect();
        data.extend(h.iter().map(|v| v + 3.0));
        for map in &maps {
            h = map.chunks_exact(d).map(|row| dot(row, &h) + noise * random.normal()).collect();
            data.extend(h.iter().map(|v| v - 1.0));
        }
    }
    Trajectories::from_vec((1, 1), steps, d, data).unwrap()
}

#[test]
fn a_planted_linear_dynamic_is_recovered() {
    let (steps, d) = (4, 7);
    let trajectories = linear(steps, d, 40_000, 0.01);
    let options = Prediction { lambdas: vec![1e-8, 1e-4, 1.0], tolerance: 0.0, ..Prediction::default() };
    let predictors = Predictors::fit(&trajectories, &options).unwrap();
    for (i, planted) in dynamics(steps, d).iter().enumerate() {
        let worst = predictors.map(i).iter().zip(planted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("transition {i}: largest difference {worst:.1e}, {:?}", predictors.fits[i].lambda);
        assert!(worst < 1e-3, "transition {i}: {worst}");
        // What is left is the noise, and its share of the variance what is not explained.
        let fit = &predictors.fits[i];
        assert!(fit.explained > 0.99 && fit.explained < 1.0 && (fit.explained - fit.explained_in_fit).abs() < 1e-3);
    }
    // Residuals have unit mean square at every step, and are not correlated with the step before.
    let residuals = predictors.residuals(&(0..500).flat_map(|i| trajectories.item(i).unwrap()).collect::<Vec<_>>());
    let residuals = residuals.unwrap();
    for step in 0..steps {
        let rows = residuals.chunks_exact(steps * d).flat_map(|r| &r[step * d..(step + 1) * d]);
        let mean = rows.map(|v| v * v).sum::<f32>() / (500 * d) as f32;
        assert!((mean - 1.0).abs() < 0.15, "step {step}: {mean}");
    }
}

#[test]
fn lambda_is_chosen_on_held_out_items() {
    // As many channels as trajectories of the fit, and noise: without a penalty the fit is perfect and worthless.
    let trajectories = linear(2, 40, 60, 1.0);
    let lambdas = vec![1e-6, 1e-3, 0.1, 0.3, 1.0, 10.0, 1000.0];
    let options = Prediction { lambdas, tolerance: 0.0, holdout: 0.3, ..Prediction::default() };
    let fit = &Predictors::fit(&trajectories, &options).unwrap().fits[0];
    println!("{fit:?}");
    assert!(fit.lambda > 1e-3 && fit.lambda < 1000.0, "{fit:?}");
    assert!(fit.tried.iter().all(|(_, e)| *e <= fit.explained) && fit.tried.len() == 7);
    assert!(fit.tried[0].1 < fit.explained - 0.1, "{fit:?}");
    // With a tolerance the greatest that is hardly worse.
    let near = Prediction { tolerance: 0.08, ..options.clone() };
    let near = &Predictors::fit(&trajectories, &near).unwrap().fits[0];
    assert!(near.lambda > fit.lambda && near.explained > fit.explained - 0.08, "{near:?}");
    let free = Prediction { lambdas: vec![1e-6], ..options };
    let free = &Predictors::fit(&trajectories, &free).unwrap().fits[0];
    assert!(free.explained_in_fit > fit.explained_in_fit);
}

#[test]
fn residual_space_is_an_exact_change_of_coordinates() {
    let trajectories = linear(3, 5, 300, 0.3);
    let rows: Vec<f32> = (0..40).flat_map(|i| trajectories.item(i).unwrap()).collect();
    for standardise in [Standardise::Channel, Standardise::Step] {
        for predict in [true, false] {
            let options = Prediction { predict, standardise, ..Prediction::default() };
            let predictors = Predictors::fit(&trajectories, &options).unwrap();
            assert_eq!(predictors.fits.len(), if predict { 2 } else { 0 });
            let residuals = predictors.residuals(&rows).unwrap();
            let back = predictors.restore(&residuals).unwrap();
            assert!(rows.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-4));
            // What is not predicted is what is left, in deviations.
            let predicted = predictors.predicted(&rows).unwrap();
            for step in 1..3 {
                for at in (0..40).map(|n| n * 15 + step * 5 + 2) {
                    let left = (rows[at] - predicted[at]) / predictors.deviation[at % 15] / predictors.scale[step];
                    assert!((left - residuals[at]).abs() < 1e-4, "step {step}: {left} {}", residuals[at]);
                }
            }
            assert_eq!(predicted[15..20], predictors.mean[..5]);
            let given = predictors.restore_given(&rows, &residuals).unwrap();
            assert!(rows.iter().zip(&given).all(|(a, b)| (a - b).abs() < 1e-4));
            if !predict {
                let by_hand = (rows[7] - predictors.mean[7]) / predictors.deviation[7];
                assert!((residuals[7] - by_hand).abs() < 1e-6);
            }
            // Directions to paths and back, both ways.
            let direction = stream(1, "direction", 0).normals(15);
            let path = predictors.path(&direction).unwrap();
            let again = predictors.direction(&path).unwrap();
            assert!(direction.iter().zip(&again).all(|(a, b)| (a - b).abs() < 1e-4), "{direction:?} {again:?}");
        }
    }
}

#[test]
fn weighed_by_path_an_error_counts_the_same_at_every_step() {
    let (steps, d) = (4, 7);
    let options = Prediction { weigh: Weigh::Path, ..Prediction::default() };
    let predictors = Predictors::fit(&linear(steps, d, 2000, 0.3), &options).unwrap();
    // What a unit of every channel of a step's row does to the whole path, in deviations.
    let effect = |step: usize| {
        let of = |c: usize| {
            let mut direction = vec![0.0; steps * d];
            direction[step * d + c] = 1.0;
            predictors.standard_path(&direction).iter().map(|v| v * v).sum::<f64>()
        };
        (0..d).map(of).sum::<f64>()
    };
    let first = effect(0);
    assert!(first > 1.2 * d as f64, "a first step is carried on: {first}");
    for step in 1..steps {
        assert!((effect(step) / first - 1.0).abs() < 1e-4, "step {step}: {} against {first}", effect(step));
    }
    let plain = Prediction { weigh: Weigh::Residual, ..options };
    assert_eq!(Predictors::fit(&linear(steps, d, 200, 0.3), &plain).unwrap().scale, vec![1.0; steps]);
}

#[test]
fn a_constant_channel_stays_what_it_is() {
    let mut data = Vec::new();
    let mut random = stream(0, "constant", 0);
    for _ in 0..200 {
        let v = random.normal();
        data.extend([v, 5.0, 2.0 * v + 0.1 * random.normal(), 5.0]);
    }
    let trajectories = Trajectories::from_vec((1, 1), 2, 2, data).unwrap();
    let options = Prediction { tolerance: 0.0, ..Prediction::default() };
    let predictors = Predictors::fit(&trajectories, &options).unwrap();
    assert_eq!(predictors.deviation[1], 1.0);
    let residuals = predictors.residuals(&trajectories.item(3).unwrap()).unwrap();
    assert!(residuals[1].abs() < 1e-5 && residuals[3].abs() < 1e-5, "{residuals:?}");
    assert!(predictors.fits[0].explained > 0.99);
}

/// An SAE of trajectories with random numbers everywhere.
fn random(predictors: Predictors, join: Join, latents: usize) -> TrajectorySae {
    let (d, steps) = (predictors.d, predictors.steps);
    let part = |d: usize, seed: u64| {
        let mut sae = Sae::random(d, latents, 3, seed).unwrap();
        let mut random = stream(seed, "random trajectory sae", 0);
        sae.b_dec = random.normals(d).iter().map(|v| 0.2 * v).collect();
        sae.b_enc = random.normals(latents).iter().map(|v| 0.2 * v).collect();
        sae.architecture = Architecture::JumpReLU { threshold: vec![0.3; latents] };
        sae.facts.insert("seed".into(), seed.into());
        sae
    };
    let parts = match join {
        Join::Concat => vec![part(steps * d, 0)],
        Join::Pooled => vec![part(d, 0)],
        Join::PerStep => (0..steps as u64).map(|i| part(d, i)).collect(),
    };
    TrajectorySae::new(Arc::new(predictors), join, parts).unwrap()
}

const JOINS: [Join; 3] = [Join::Concat, Join::Pooled, Join::PerStep];

#[test]
fn paths_of_features_are_the_differences_of_the_reconstruction() {
    let trajectories = linear(4, 5, 300, 0.3);
    for join in JOINS {
        let predictors = Predictors::fit(&trajectories, &Prediction::default()).unwrap();
        let sae = random(predictors, join, 9);
        assert_eq!(sae.features(), if join == Join::Concat { 9 } else { 36 });
        let codes = (0..50).map(|i| sae.encode(&trajectories.item(i).unwrap()).unwrap());
        let codes = codes.max_by_key(|codes| codes.index.len()).unwrap();
        let (index, _) = codes.token(0);
        assert!(index.len() > 2 && index.is_sorted());
        let before = sae.decode(&codes).unwrap();
        for (e, &feature) in index.iter().enumerate() {
            let mut more = codes.clone();
            let h = 0.5;
            more.value[e] += h;
            let after = sae.decode(&more).unwrap();
            let path = sae.trajectory(feature as usize).unwrap();
            for ((a, b), v) in after.iter().zip(&before).zip(&path.vectors) {
                assert!(((a - b) / h - v).abs() < 1e-3, "{join} feature {feature}: {} against {v}", (a - b) / h);
            }
            // A feature that enters late adds nothing before.
            if let Some(step) = sae.enters(feature as usize) {
                assert!(path.norms()[..step].iter().all(|n| *n == 0.0) && path.norms()[step] > 0.0);
            }
        }
    }
}

#[test]
fn measures_in_time_of_paths_made_by_hand() {
    // Two steps of the identity: what enters at the first stays.
    let data: Vec<f32> = (0..400)
        .flat_map(|i| {
            let mut r = stream(i, "still", 0);
            let (a, b) = (r.normal(), r.normal());
            [a, b, a, b, a, b]
        })
        .collect();
    let still = Trajectories::from_vec((1, 1), 3, 2, data).unwrap();
    let mut predictors = Predictors::fit(&still, &Prediction::default()).unwrap();
    predictors.maps = [1.0, 0.0, 0.0, 1.0].repeat(2);
    predictors.deviation = vec![1.0, 1.0, 2.0, 2.0, 4.0, 4.0];
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} against {b}");
    let early = FeatureTrajectory::new(&predictors, 0, &[0.6, 0.8, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(early.t, [1.0, 0.5, 0.0]);
    assert_eq!(early.profile().iter().map(|p| (p * 3.0).round()).collect::<Vec<_>>(), [1.0; 3]);
    close(early.norms()[2], 4.0);
    close(early.centre(), 0.5);
    close(early.entropy(), 1.0);
    close(early.persistence(), 1.0);
    let late = FeatureTrajectory::new(&predictors, 1, &[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    close(late.centre(), 0.0);
    close(late.entropy(), 0.0);
    close(late.persistence(), 0.0);
    // Half-way between the first two steps, and beyond the end.
    let at = early.at(0.75);
    close(f64::from(at[0]), 0.9);
    assert_eq!(early.at(-1.0), early.vector(2));
    assert_eq!(early.at(2.0), early.vector(0));
    assert_eq!(early.at(0.5), early.vector(1));
}

#[test]
fn spread_of_maps_made_by_hand() {
    let one = Spread::of_map(&[0.0, 0.0, 3.0, 0.0]).unwrap();
    assert_eq!((one.gini, one.entropy, one.area), (0.75, 0.0, 0.25));
    let even = Spread::of_map(&[2.0; 4]).unwrap();
    assert!(even.gini.abs() < 1e-12 && (even.entropy - 1.0).abs() < 1e-12 && even.area == 1.0);
    let half = Spread::of_map(&[1.0, 1.0, 0.0, 0.0]).unwrap();
    assert!((half.gini - 0.5).abs() < 1e-12 && (half.entropy - 0.5).abs() < 1e-12);
    assert_eq!(Spread::of_map(&[0.0; 4]), None);
}

/// Paths in which each step inherits from the one before through a linear map and gains one of `n` planted directions
/// of its own; and these directions, `[steps, n, d]`.
fn planted(steps: usize, d: usize, n: usize, items: usize) -> (Trajectories, Vec<f32>) {
    let (maps, mut random) = (dynamics(steps, d), stream(7, "planted paths", 0));
    let mut directions = random.normals(steps * n * d);
    directions.chunks_exact_mut(d).for_each(crate::sae::start::normalise);
    let mut data = vec![0.0; items * steps * 4 * d];
    for item in 0..items {
        for token in 0..4 {
            let mut h = vec![0.0; d];
            for step in 0..steps {
                if step > 0 {
                    h = maps[step - 1].chunks_exact(d).map(|row| dot(row, &h)).collect();
                }
                let j = random.below(n);
                let row = &directions[(step * n + j) * d..(step * n + j + 1) * d];
                crate::kernels::sparse::add_scaled(&mut h, random.range(2.0, 4.0), row);
                let at = ((item * steps + step) * 4 + token) * d;
                data[at..at + d].copy_from_slice(&h);
            }
        }
    }
    (Trajectories::from_vec((2, 2), steps, d, data).unwrap(), directions)
}

#[test]
fn a_planted_dictionary_is_recovered_from_what_is_not_predicted() {
    let (steps, d, n) = (3, 16, 12);
    let (trajectories, directions) = planted(steps, d, n, 1500);
    for join in JOINS {
        let trained = Residualized::new(4, 3).join(join).epochs(120).train(&trajectories).unwrap();
        // The direction of a feature, in activation units, where it enters.
        let paths: Vec<_> = (0..trained.features()).map(|f| trained.trajectory(f).unwrap()).collect();
        let mut recovered = 0;
        for (at, planted) in directions.chunks_exact(d).enumerate() {
            let step = at / n;
            let best = paths.iter().map(|path| {
                // Of Concat, features that were there before are no entrance.
                let before: f64 = path.norms()[..step].iter().sum();
                let v = path.vector(step);
                let own = dot(v, v).sqrt();
                if before < 0.3 * f64::from(own) { dot(v, planted) / own } else { 0.0 }
            });
            recovered += usize::from(best.fold(0.0, f32::max) > 0.9);
        }
        let quality = trained.held_out.as_ref().unwrap();
        println!("{join}: {recovered} of {} directions; {quality}", steps * n);
        // Each step is centred by its own mean, and pooled they have one bias for all: there the offsets bend directions.
        let least = if join == Join::Pooled { 75 } else { 95 };
        assert!(recovered * 100 >= least * steps * n, "{join}: {recovered} of {}", steps * n);
        assert!(quality.activation.explained_variance > 0.9, "{join}: {quality}");
        assert_eq!(quality.steps.len(), 3);
    }
}

fn short() -> (Residualized, Trajectories) {
    (Residualized::new(2, 4).batch(100).epochs(6), planted(2, 6, 8, 100).0)
}

#[test]
fn variants_differ_in_what_they_should_and_in_nothing_else() {
    let (recipe, trajectories) = short();
    let recipe = recipe.epochs(100); // the running threshold needs some steps
    let plain = recipe.train(&trajectories).unwrap();
    assert_eq!((plain.features(), plain.latents()), (24, 24));
    assert!(plain.predictors.predicts());
    let predictors = plain.predictors.clone();
    let again = recipe.clone().with(&predictors).train(&trajectories).unwrap();
    assert_eq!(again.sae, plain.sae);
    let without = recipe.clone().predict(false).train(&trajectories).unwrap();
    assert!(!without.predictors.predicts() && without.predictors.mean == predictors.mean);
    assert_eq!(without.trajectory(3).unwrap().profile().len(), 2);
    let nested = recipe.clone().matryoshka().train(&trajectories).unwrap();
    assert_ne!(nested.parts, plain.parts);
    let pooled = recipe.clone().join(Join::Pooled).train(&trajectories).unwrap();
    assert_eq!((pooled.latents(), pooled.features(), pooled.parts.len()), (24, 48, 1));
    let exact = recipe.clone().topk().train(&trajectories).unwrap();
    let codes = exact.encode_all(&trajectories).unwrap();
    assert!((0..codes.tokens()).all(|t| codes.token(t).0.len() <= 4) && codes.l0() > 3.9);
    let each = recipe.join(Join::PerStep).train(&trajectories).unwrap();
    assert_eq!((each.latents(), each.features(), each.parts.len()), (12, 24, 2));
    let held = |t: &TrainedTrajectories| t.held_out.clone().unwrap();
    assert_eq!(held(&without).one_step.mse, held(&without).activation.mse);
    assert!(held(&plain).one_step.explained_variance > held(&plain).activation.explained_variance);
    for trained in [&plain, &without, &nested, &pooled, &each] {
        let l0 = trained.training.activation.l0;
        assert!((l0 - 4.0).abs() < 0.8, "the same budget on a trajectory: {l0}");
        let codes = trained.encode_all(&trajectories).unwrap();
        assert_eq!((codes.items(), codes.tokens_per_item), (100, 4));
        let judged = trained.measure(&trajectories).unwrap();
        assert!((judged.activation.l0 - codes.l0()).abs() < 1e-9);
    }
}

#[test]
fn killed_and_resumed_gives_the_same_bits() {
    let (recipe, trajectories) = short();
    for join in JOINS {
        let recipe = recipe.clone().join(join);
        let whole = recipe.train(&trajectories).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut killed = recipe.run(folder.path());
        killed.recipe.checkpoint_every = Some(5);
        for stop in [7, 13] {
            killed.recipe.stop_at = Some(stop);
            assert!(refusal(killed.train(&trajectories)).contains("stopped"));
        }
        killed.recipe.stop_at = None;
        let resumed = killed.train(&trajectories).unwrap();
        assert_eq!(resumed.sae, whole.sae, "{join}");
        assert!(refusal(killed.predict(false).train(&trajectories)).contains("digest"), "{join}");
        let saved = TrajectorySae::open(folder.path().join("trajectory.safetensors")).unwrap();
        assert_eq!(saved.parts, whole.parts);
    }
}

#[test]
fn one_thread_or_two_give_the_same_bits() {
    let (recipe, trajectories) = short();
    for join in JOINS {
        let recipe = recipe.clone().join(join);
        let train = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| recipe.train(&trajectories)).unwrap()
        };
        assert_eq!(train(1).sae, train(2).sae, "{join}");
    }
}

#[test]
fn a_file_round_trips_and_what_does_not_fit_is_refused_by_name() {
    let trajectories = linear(3, 4, 200, 0.3);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sae.safetensors");
    for (join, predict) in [(Join::Concat, true), (Join::Pooled, false), (Join::PerStep, true)] {
        let options = Prediction { predict, lambdas: vec![0.5], ..Prediction::default() };
        let mut sae = random(Predictors::fit(&trajectories, &options).unwrap(), join, 7);
        if join == Join::Pooled {
            sae.parts[0].architecture = Architecture::TopK { k: 2 };
        }
        sae.save(&path).unwrap();
        let mut opened = TrajectorySae::open(&path).unwrap();
        for (a, b) in opened.predictors.fits.iter().zip(&sae.predictors.fits) {
            assert!(a.lambda == b.lambda && (a.explained - b.explained).abs() < 1e-12);
        }
        // Reading a number of the header back may change its last digit.
        Arc::make_mut(&mut opened.predictors).fits = sae.predictors.fits.clone();
        assert_eq!(opened, sae, "{join}");
    }
    let bytes = std::fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let header = text.find("\"mean\"").is_some();
    assert!(header);
    // Edits of the same length keep the file whole.
    for (from, to, word) in [
        (r#"\"format\":2"#, r#"\"format\":3"#, "format 3, this version reads format 2"),
        (r#"\"join\":\"per_step\""#, r#"\"join\":\"per_stop\""#, "per_stop"),
        (r#"\"steps\":3,\"d\":4"#, r#"\"steps\":4,\"d\":4"#, "3 descriptions of steps, expected 4"),
        (r#"\"steps\":3,\"d\":4"#, r#"\"steps\":3,\"d\":5"#, "mean"),
        ("0.b_enc", "0.b_end", "0.b_end"),
        (r#"\"d_sae\":7"#, r#"\"d_sae\":8"#, "0."),
        (r#"\"architecture\":\"jumprelu\""#, r#"\"architecture\":\"jumpreli\""#, "jumpreli"),
    ] {
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect(from);
        let mut changed = bytes.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&path, &changed).unwrap();
        let refused = refusal(TrajectorySae::open(&path));
        assert!(refused.contains(word) && refused.contains("sae.safetensors"), "{word}: {refused}");
    }
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(refusal(TrajectorySae::open(&path)).contains("not a whole safetensors file"));
}

#[test]
fn unusable_input_is_refused() {
    let trajectories = linear(3, 4, 200, 0.3);
    let fit = |options: Prediction| refusal(Predictors::fit(&trajectories, &options));
    assert!(fit(Prediction { lambdas: vec![], ..Prediction::default() }).contains("λ from []"));
    assert!(fit(Prediction { lambdas: vec![-1.0], ..Prediction::default() }).contains("-1.0"));
    assert!(fit(Prediction { holdout: 0.0, ..Prediction::default() }).contains("no item held out"));
    assert!(fit(Prediction { holdout: 1.0, ..Prediction::default() }).contains("held-out share of 1"));
    let still = Trajectories::from_vec((1, 1), 2, 2, [1.0, 2.0, 1.0, 2.0].repeat(30)).unwrap();
    let singular = Prediction { lambdas: vec![0.0], ..Prediction::default() };
    assert!(refusal(Predictors::fit(&still, &singular)).contains("singular"));
    let single = Trajectories::from_vec((1, 1), 1, 4, vec![1.0; 40]).unwrap();
    assert!(refusal(Predictors::fit(&single, &Prediction::default())).contains("at least 2"));
    let recipe = Residualized::new(2, 4);
    assert!(
        refusal(recipe.clone().join(Join::Pooled).train(&trajectories)).contains("k = 4 of a trajectory of 3 steps")
    );
    let predictors = Arc::new(Predictors::fit(&trajectories, &Prediction::default()).unwrap());
    let others = linear(2, 4, 200, 0.3);
    assert!(refusal(recipe.with(&predictors).train(&others)).contains("found shape [2, 4], expected [3, 4]"));
    assert!(refusal(predictors.residuals(&[0.0; 13])).contains("[1, 3, 4]"));
    assert!(refusal(predictors.path(&[0.0; 13])).contains("[3, 4]"));
    assert!(refusal(predictors.restore_given(&[0.0; 24], &[0.0; 12])).contains("found shape [12], expected [24]"));
    let sae = random((*predictors).clone(), Join::PerStep, 7);
    assert!(refusal(sae.trajectory(21)).contains("feature 21 of 21"));
    assert!(refusal(TrajectorySae::new(predictors.clone(), Join::Concat, sae.parts.clone())).contains("7×4, 7×4, 7×4"));
    let mut row = trajectories.item(0).unwrap();
    row[5] = f32::NAN;
    assert!(refusal(sae.encode(&row)).contains("NaN"));
}
