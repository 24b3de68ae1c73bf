use super::*;
use crate::diffusion::hook::{Half, Hook, Kind, Site, Visit};
use crate::measure::annotate::Exact;
use crate::measure::generate::ByFunction;
use crate::sae::Sae;
use crate::scene::{Background, Scene, Style};
use candle_core::{DType, Device, Tensor};

const N: usize = 1000;

/// A point with these shares of successes and of broken pictures.
fn point(beta: f64, success: f64, broken: f64) -> SweepPoint {
    let share = |x: f64| wilson((x * N as f64).round() as usize, N);
    SweepPoint {
        beta,
        success: share(success),
        control: share(0.1),
        broken: share(broken),
        distance: share(0.0),
        control_distance: share(0.0),
        stopped: None,
    }
}

fn sweep(sweep: BetaSweep, success: impl Fn(f64) -> f64, broken: impl Fn(f64) -> f64) -> (Swept, usize) {
    let mut asked = 0;
    let found = sweep.run(&mut |beta| {
        asked += 1;
        Ok(point(beta, success(beta), broken(beta)))
    });
    (found.unwrap(), asked)
}

#[test]
fn both_ends_are_found_by_bisection() {
    // The effect is there from 0.9 on, and pictures break from 7 on.
    let of = BetaSweep::new(Strength::Relative(0.05)).bisections(6);
    let (found, _) = sweep(of, |b| if b >= 0.9 { 0.7 + b / 50.0 } else { 0.2 }, |b| if b >= 7.0 { 0.9 } else { 0.0 });
    let (low, high) = found.useful.unwrap();
    assert!((0.9..0.92).contains(&low) && (6.85..7.0).contains(&high), "{low} {high}");
    assert_eq!(found.end, End::Broke);
    assert!(found.points.windows(2).all(|w| w[0].beta < w[1].beta));
    assert!(found.best().unwrap().success.value > 0.8 && found.best().unwrap().beta == high);
}

#[test]
fn a_saturated_effect_ends_the_doubling() {
    let (found, asked) = sweep(BetaSweep::new(Strength::Code(1.0)).bisections(0), |b| (b / 8.0).min(1.0), |_| 0.0);
    assert_eq!((found.end, asked), (End::Saturated, 4)); // 1, 2, 4, 8
    assert_eq!(found.useful, Some((8.0, 8.0)));
    // A plateau below 0.95: two doublings without a gain.
    let (found, asked) = sweep(BetaSweep::new(Strength::Code(1.0)).bisections(0), |b| (b / 8.0).min(0.5), |_| 0.0);
    assert_eq!((found.end, asked, found.useful), (End::Saturated, 5, Some((4.0, 16.0)))); // 1, 2, 4 | 8, 16
}

#[test]
fn a_start_that_breaks_pictures_is_halved() {
    let (found, _) = sweep(BetaSweep::new(Strength::Code(64.0)), |_| 0.8, |b| if b > 10.0 { 1.0 } else { 0.0 });
    let (low, high) = found.useful.unwrap();
    assert!((low - 8.0).abs() < 1e-9 && (9.0..=10.0).contains(&high), "{low} {high}");
}

#[test]
fn an_edit_that_does_nothing_has_no_range() {
    let (found, asked) = sweep(BetaSweep::new(Strength::Code(1.0)).doublings(4), |_| 0.1, |_| 0.0);
    assert_eq!((found.useful, found.end, asked), (None, End::Exhausted, 5));
}

#[test]
fn settings_out_of_range_are_named() {
    let say = |s: BetaSweep| s.run(&mut |b| Ok(point(b, 0.0, 0.0))).unwrap_err().to_string();
    assert!(say(BetaSweep::new(Strength::Code(0.0))).contains("start at 0"));
    assert!(say(BetaSweep::new(Strength::Code(f64::NAN))).contains("NaN"));
    assert!(say(BetaSweep::new(Strength::Code(1.0)).breaks(-1.0)).contains("breaks at -1"));
}

/// Sepia where channel 1 rose beyond 2, black beyond 9, not a number beyond 1e30; the seed chooses what lies behind.
fn toy(prompts: &[String], seeds: &[u64], mut hooks: Vec<Box<dyn Hook>>) -> Result<Vec<RgbImage>> {
    let (n, site) = (prompts.len(), Site::new("mid_block.attentions.0", Kind::Residual));
    let items: Vec<usize> = (0..n).collect();
    let (step, steps, half) = (0, 2, Half::Conditional);
    let visit = Visit { site: &site, step, steps, timestep: 999.0, half, grid: (1, 2), items: &items };
    let mut delta = Tensor::zeros((n, 2, 3), DType::F32, &Device::Cpu)?;
    delta = (delta + 1.0)?;
    for hook in &mut hooks {
        delta = hook.visit(&visit, &delta)?.unwrap_or(delta);
    }
    let values = delta.to_vec3::<f32>()?;
    let draw = |i: usize| {
        let rise = values[i][0][1] - 1.0;
        if rise > 9.0 {
            return RgbImage::from_pixel(64, 64, image::Rgb([0; 3]));
        }
        scene(seeds[i], if rise > 2.0 { Style::Sepia } else { Style::Flat }).render().image
    };
    Ok((0..n).map(draw).collect())
}

fn scene(seed: u64, style: Style) -> Scene {
    Scene::new(Vec::new(), if seed == 1 { Background::Sea } else { Background::Desert }, style)
}

/// Any picture that is no known scene has no style.
struct Known(Exact);

impl Annotator for Known {
    fn annotate(&self, images: &[RgbImage]) -> Result<Vec<crate::measure::Annotation>> {
        let blank = || {
            let scores = crate::measure::annotate::Scores {
                size: (64, 64),
                class: vec![0.0; 64 * 64 * (1 + crate::scene::Class::COUNT)],
                colour: vec![0.0; 64 * 64 * (1 + crate::scene::Colour::COUNT)],
                part: Vec::new(),
                style: None,
                background: None,
            };
            crate::measure::Annotation::from_scores(scores)
        };
        images
            .iter()
            .map(|i| self.0.annotate(std::slice::from_ref(i)).map_or_else(|_| blank(), |mut a| Ok(a.remove(0))))
            .collect()
    }
}

#[test]
fn a_global_edit_is_swept_from_end_to_end() {
    let mut sae = Sae::random(3, 5, 1, 0).unwrap();
    sae.w_dec[3..6].copy_from_slice(&[0.0, 1.0, 0.0]);
    let trials = [StyleTrial { style: Style::Sepia, prompts: vec!["x".into(); 2], seeds: vec![1, 2] }];
    let scenes: Vec<Scene> = [1, 2].iter().flat_map(|&s| [Style::Flat, Style::Sepia].map(|y| scene(s, y))).collect();
    let annotator = Known(Exact::new(&scenes));
    let mut made = 0;
    let mut model = ByFunction(|p: &[String], s: &[u64], h: Vec<Box<dyn Hook>>| {
        made += usize::from(h.is_empty());
        toy(p, s, h)
    });
    // Black is further from a picture than sepia is.
    let gap = |a: &RgbImage, b: &RgbImage| mean_absolute(a, b).unwrap();
    let [sea, desert] = [1, 2].map(|s| scene(s, Style::Flat).render().image);
    let sepia = gap(&sea, &scene(1, Style::Sepia).render().image) / gap(&sea, &desert);
    let black = gap(&sea, &RgbImage::from_pixel(64, 64, image::Rgb([0; 3]))) / gap(&sea, &desert);
    assert!(sepia < black, "{sepia} {black}");
    let sweep = BetaSweep::new(Strength::Constant(0.25)).breaks((sepia + black) / 2.0).bisections(4);
    let edit = |_: &StyleTrial| Ok(vec![Global::new(&sae, [1])]);
    let found = sweep.global(&mut model, &annotator, &trials, &edit).unwrap();
    assert_eq!(made, 1, "unedited pictures are made once");
    assert_eq!((found.unedited.value, found.best().unwrap().success.value), (0.0, 1.0));
    let (low, high) = found.useful.unwrap();
    assert!((2.0..2.2).contains(&low) && high > 2.0, "{low} {high}");
}

#[test]
fn numbers_that_leave_the_finite_range_count_as_broken() {
    let sae = Sae::random(3, 5, 1, 0).unwrap();
    let trials = [StyleTrial { style: Style::Sepia, prompts: vec!["x".into(); 2], seeds: vec![1, 2] }];
    let annotator = Known(Exact::new(&[scene(1, Style::Flat), scene(2, Style::Flat)]));
    let edit = |_: &StyleTrial| Ok(vec![Global::new(&sae, [1])]);
    let sweep = BetaSweep::new(Strength::Constant(1e39)).doublings(2);
    let found = sweep.global(&mut ByFunction(toy), &annotator, &trials, &edit).unwrap();
    assert!(found.points.iter().any(|p| p.stopped.as_ref().is_some_and(|s| s.contains("step 0 of 2"))));
    // One picture cannot be compared with another.
    let one = [StyleTrial { style: Style::Sepia, prompts: vec!["x".into()], seeds: vec![1] }];
    let sweep = BetaSweep::new(Strength::Constant(0.1));
    let e = sweep.global(&mut ByFunction(toy), &annotator, &one, &edit).unwrap_err().to_string();
    assert!(e.contains("1 different unedited pictures"), "{e}");
}
