use super::super::edit::toy::*;
use super::*;
use crate::diffusion::hook::Hook;
use crate::intervene::{Global, Quadrant};

/// Latent 0 reads channel 0 and stands for (0, 2, 0); latent 1 reads channel 1 and stands for (1, 0, 1).
fn of(change: Change, latents: &[usize]) -> LatentEdit {
    LatentEdit::of(LatentEdit::common(space(), latents.to_vec()), change, Norm::Free)
}

fn apply(mut edit: LatentEdit) -> Result<Option<Tensor>> {
    edit.visit(&visit(&site()), &activation())
}

fn changed(edit: LatentEdit) -> Vec<Vec<f32>> {
    rows(&apply(edit).unwrap().unwrap())
}

#[test]
fn scaling_adds_the_latents_own_part() {
    let out = changed(of(Change::Scale(3.0), &[0, 1]));
    // Token j of item i is (j + 1, −1, i): z_0 = j + 1, so + 2 (j + 1) f_0.
    for (row, values) in out.iter().enumerate() {
        let (i, j) = ((row / 8) as f32, (row % 8) as f32);
        assert_eq!(values, &[j + 1.0, -1.0 + 4.0 * (j + 1.0), i]);
    }
    let half = changed(of(Change::Scale(3.0), &[0]).strength(Strength::Constant(0.5)));
    assert_eq!(half[3], [4.0, -1.0 + 8.0, 0.0]);
}

#[test]
fn setting_reaches_silent_latents_too() {
    let out = changed(of(Change::Set(vec![1.0, 5.0]), &[0, 1]).region(Quadrant::TopLeft));
    // z_0 = j + 1 → 1 and z_1 = 0 → 5.
    assert_eq!(out[1], [2.0 + 5.0, -1.0 - 2.0, 5.0]);
    assert_eq!(out[2], [3.0, -1.0, 0.0]);
}

#[test]
fn tides_edits_keep_the_norm_of_the_code() {
    // Both latents active: token (4, 3, 0) has the code {0: 4, 1: 3} of norm 5.
    let x = Tensor::from_vec([4f32, 3.0, 0.0].repeat(8), (1, 8, 3), &candle_core::Device::Cpu).unwrap();
    let at = |edit: LatentEdit| {
        let mut edit = edit.norm(Norm::Code);
        rows(&edit.visit(&visit(&site()), &x).unwrap().unwrap())[0].clone()
    };
    let near = |a: Vec<f32>, b: [f32; 3]| assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
    // The strongest goes, the other grows from 3 to 5: − 4 f_0 + 2 f_1.
    near(at(of(Change::Top { k: 1, factor: 0.0 }, &[])), [6.0, -5.0, 2.0]);
    // Inverted: the norm is the same already.
    near(at(of(Change::Top { k: 1, factor: -1.0 }, &[])), [4.0, 3.0 - 16.0, 0.0]);
    // All of them go: nothing is left to scale.
    near(at(of(Change::Top { k: 9, factor: 0.0 }, &[])), [1.0, -5.0, -3.0]);
    // Replaced by {1: 1}, which grows to 5.
    near(at(of(Change::Replace(vec![vec![(1, 1.0)]; 8]), &[])), [6.0, -5.0, 2.0]);
    let mut kept = of(Change::Top { k: 1, factor: 0.0 }, &[]).norm(Norm::Activation);
    let out = rows(&kept.visit(&visit(&site()), &x).unwrap().unwrap());
    assert!((norm(&out[0]) - 5.0).abs() < 1e-5 && (out[0][1] + 5.0 * 5.0 / 41f32.sqrt()).abs() < 1e-4, "{out:?}");
}

#[test]
fn the_error_stays_unless_it_is_dropped() {
    // Without a change, dropping the error leaves Σ z f + b: (j + 1) f_0 + ½.
    let out = changed(of(Change::Scale(1.0), &[]).error(ErrorTerm::Dropped));
    assert_eq!(out[2], [0.5, 6.5, 0.5]);
    let both = changed(of(Change::Scale(0.0), &[0]).error(ErrorTerm::Dropped).region(Quadrant::TopLeft));
    assert_eq!((both[1].as_slice(), both[2].as_slice()), (&[0.5, 0.5, 0.5][..], &[3.0, -1.0, 0.0][..]));
}

#[test]
fn most_edits_where_the_change_is_greatest() {
    let out = changed(of(Change::Scale(0.0), &[0]).most(3));
    let before = rows(&activation());
    let moved: Vec<usize> = (0..8).filter(|&j| out[j] != before[j]).collect();
    assert_eq!(moved, [5, 6, 7]); // z_0 = j + 1
}

#[test]
fn relative_strength_makes_the_change_a_share_of_the_activation() {
    let out = changed(of(Change::Scale(0.0), &[0]).strength(Strength::Relative(0.5)));
    let before = rows(&activation());
    let pushes: Vec<f64> = (0..8).map(|j| f64::from(before[j][1] - out[j][1])).collect();
    let mean = before[..8].iter().map(|r| norm(r)).sum::<f64>() / 8.0;
    assert!((pushes.iter().sum::<f64>() / 8.0 - 0.5 * mean).abs() < 1e-4);
    assert!((pushes[7] / pushes[0] - 8.0).abs() < 1e-4, "in proportion to each token's own change");
}

#[test]
fn the_control_keeps_every_push_as_long() {
    let length = |edit: LatentEdit| -> Vec<f64> {
        let d = |(a, b): (&Vec<f32>, &Vec<f32>)| norm(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>());
        changed(edit).iter().zip(&rows(&activation())).map(d).collect()
    };
    let (real, control) = (of(Change::Scale(2.0), &[0]), of(Change::Scale(2.0), &[0]).control(4));
    assert_ne!(changed(real.clone()), changed(control.clone()));
    assert!(length(real).iter().zip(length(control)).all(|(a, b)| (a - b).abs() < 1e-4 * a));
}

#[test]
fn nothing_to_do_leaves_the_activation_alone() {
    for edit in [
        of(Change::Scale(1.0), &[0]),
        of(Change::Scale(0.0), &[]),
        of(Change::Top { k: 0, factor: 0.0 }, &[]),
        of(Change::Scale(0.0), &[0]).strength(Strength::Relative(0.0)),
        of(Change::Scale(0.0), &[0]).most(0),
    ] {
        assert!(apply(edit).unwrap().is_none());
    }
    // A latent that is silent everywhere has nothing to scale: equal to the bit.
    assert_eq!(changed(of(Change::Scale(0.0), &[1])), rows(&activation()));
}

#[test]
fn edits_combine_in_order() {
    let mut first = of(Change::Scale(0.0), &[0]); // takes 2 (j + 1) off channel 1
    let mut then = Global::within(space(), vec![1]).strength(Strength::Constant(2.0));
    let once = first.visit(&visit(&site()), &activation()).unwrap().unwrap();
    let twice = rows(&then.visit(&visit(&site()), &once).unwrap().unwrap());
    assert_eq!(twice[8 + 2], [3.0 + 2.0, -1.0 - 6.0, 1.0 + 2.0]);
}

#[test]
fn steps_choose_when_and_must_exist() {
    use crate::diffusion::hook::Half;
    let edit = of(Change::Scale(0.0), &[0]).steps(&[2, 7]);
    let at: Vec<usize> = (0..10).filter(|&i| edit.wants(i, 10, Half::Conditional)).collect();
    assert_eq!(at, [2, 7]);
    let e = apply(edit.steps(&[10])).unwrap_err().to_string();
    assert!(e.contains("latent edit: step 10 of a generation of 10"), "{e}");
    assert!(of(Change::Scale(0.0), &[0]).steps(&[10]).wants(0, 10, Half::Conditional), "so that it is refused");
}

#[test]
fn bad_input_is_named() {
    let sae = Sae::random(3, 4, 2, 0).unwrap();
    let e = LatentEdit::set(&sae, [0, 1], &[1.0]).unwrap_err().to_string();
    assert!(e.contains("1 values for 2 latents"), "{e}");
    let e = LatentEdit::set(&sae, [0], &[f32::INFINITY]).unwrap_err().to_string();
    assert!(e.contains("inf"), "{e}");
    let codes = sae.encode(&[1.0; 12]).unwrap();
    let e = LatentEdit::replace(&sae, &codes, 1).unwrap_err().to_string();
    assert!(e.contains("item 1 of codes of 1 items"), "{e}");
    let e = apply(of(Change::Replace(vec![vec![]; 5]), &[])).unwrap_err().to_string();
    assert!(e.contains("[5]") && e.contains("[8]"), "{e}");
    let e = apply(of(Change::Scale(0.0), &[2])).unwrap_err().to_string();
    assert!(e.contains("latent 2 of an SAE with 2"), "{e}");
    let e = apply(of(Change::Scale(1e38), &[0]).strength(Strength::Constant(1e9))).unwrap_err().to_string();
    assert!(e.contains("strength 1000000000") && e.contains("after the edit at step 0 of 10"), "{e}");
}
