//! Edits on a real (tiny, random) model: what does nothing changes no bit, what breaks is stopped and named.

use denoscope::diffusion::hook::{Half, Kind, Site};
use denoscope::diffusion::pipeline::Pipeline;
use denoscope::intervene::{
    Ablate, ErrorTerm, FeatureScores, Global, LatentEdit, MeanCode, Region, Spatial, Strength, Transfer,
};
use denoscope::prelude::{Capture, Quadrant, Sae};
use std::path::Path;

/// Makes an edit, as often as it is needed.
type Make<'a> = Box<dyn Fn() -> Box<dyn denoscope::prelude::Hook> + 'a>;

const MODULE: &str = "mid_block.attentions.0";

fn model() -> Pipeline {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pipeline/tiny");
    Pipeline::open(folder.to_str().unwrap()).unwrap()
}

fn at_module() -> Site {
    Site::new(MODULE, Kind::Residual)
}

#[test]
fn edits_act_combine_and_do_nothing_when_they_are_nothing() {
    let model = model();
    let folder = tempfile::tempdir().unwrap();
    let store = Capture::new(&model).at(MODULE, Kind::Residual).stages([1.0]);
    let store = store.prompts(&["a red house", "a fish"]).steps(3).run(folder.path()).unwrap();
    let seen = store.stage(1.0).unwrap();
    let sae = Sae::random(seen.d(), 4 * seen.d(), 3, 1).unwrap().centred(&seen).unwrap();
    let run = |edits: Vec<Box<dyn denoscope::prelude::Hook>>| {
        let mut edits = edits;
        let mut generation = model.prompt("a red house").seed(5).steps(3);
        for edit in &mut edits {
            generation = generation.with(edit.as_mut());
        }
        generation.run().unwrap().image
    };
    let plain = run(vec![]);
    let mean = MeanCode::of(&sae, &seen, &Region::Everywhere).unwrap();
    let top = mean.top(4);
    let code = sae.encode_all(&seen).unwrap();
    let scores = FeatureScores::between(
        MeanCode::of(&sae, &seen.range(0..1).unwrap(), &Region::Everywhere).unwrap(),
        MeanCode::of(&sae, &seen.range(1..2).unwrap(), &Region::Everywhere).unwrap(),
    )
    .unwrap();
    let zero = Strength::Constant(0.0);

    let nothing: Vec<Box<dyn denoscope::prelude::Hook>> = vec![
        Box::new(Global::new(&sae, top.clone()).strength(zero).both_halves()),
        Box::new(Spatial::new(&sae, top.clone()).strength(zero).region(Quadrant::TopLeft)),
        Box::new(Ablate::new(&sae, top.clone()).share(0.0)),
        Box::new(LatentEdit::scale(&sae, top.clone(), 1.0)),
        Box::new(LatentEdit::erase_top(&sae, 0)),
        Box::new(LatentEdit::replace(&sae, &code, 1).unwrap().strength(zero)),
        Box::new(Transfer::new(&sae, &scores, 3).strength(zero)),
    ];
    assert!(run(nothing) == plain, "edits that do nothing changed the picture");

    let edits: [(&str, Make<'_>); 9] = [
        ("scale", Box::new(|| Box::new(LatentEdit::scale(&sae, top.clone(), 9.0)))),
        ("set", Box::new(|| Box::new(LatentEdit::set(&sae, top.clone(), &[9.0; 4]).unwrap()))),
        ("erase", Box::new(|| Box::new(LatentEdit::erase_top(&sae, 1)))),
        ("invert", Box::new(|| Box::new(LatentEdit::invert_top(&sae, 2)))),
        ("target", Box::new(|| Box::new(LatentEdit::scale_top(&sae, &mean, 2, 20.0).half(Half::Conditional)))),
        ("replace", Box::new(|| Box::new(LatentEdit::replace(&sae, &code, 1).unwrap().steps(&[0])))),
        ("reconstruct", Box::new(|| Box::new(LatentEdit::scale(&sae, [], 1.0).error(ErrorTerm::Dropped)))),
        ("mean", Box::new(|| Box::new(Ablate::new(&sae, top.clone()).to_mean(&mean)))),
        ("transfer", Box::new(|| Box::new(Transfer::new(&sae, &scores, 3).strength(Strength::Constant(20.0))))),
    ];
    let mut alone = Vec::new();
    for (name, make) in &edits {
        let image = run(vec![make()]);
        assert!(image != plain, "{name} changed nothing");
        alone.push(image);
    }
    let both = run(vec![edits[0].1(), edits[3].1()]);
    assert!(both != alone[0] && both != alone[3], "edits at one place combine");
}

#[test]
fn what_overflows_is_stopped_at_its_step_with_its_strength() {
    let model = model();
    let d = {
        let folder = tempfile::tempdir().unwrap();
        let store = Capture::new(&model).at(MODULE, Kind::Residual).stages([1.0]).prompts(&["x"]).steps(2);
        store.run(folder.path()).unwrap().stage(1.0).unwrap().d()
    };
    let sae = Sae::random(d, 2 * d, 2, 1).unwrap();
    let try_at = |beta: f64| {
        let edit = Global::new(&sae, [0, 1]).at(at_module()).strength(Strength::Constant(beta)).steps(&[1]);
        model.prompt("a house").steps(3).with(edit).run().map(|_| ()).unwrap_err().to_string()
    };
    let e = try_at(1e39);
    assert!(e.contains("global edit") && e.contains("after the edit at step 1 of 3"), "{e}");
    // Finite at the edit, not behind it.
    let e = try_at(1e38);
    assert!(e.contains("after step 1 of 3") && e.contains("global edit of strength 1000000"), "{e}");
    let e = model.prompt("a house").steps(3).with(Global::new(&sae, [0]).steps(&[7])).run().map(|_| ()).unwrap_err();
    assert!(e.to_string().contains("step 7 of a generation of 3"), "{e}");
}

#[test]
fn the_command_paints_before_after_and_control() {
    use clap::Parser;
    use denoscope::intervene::command::EditPicture;
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        edit: EditPicture,
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pipeline/tiny").display().to_string();
    let model = model();
    let store = Capture::new(&model).at(MODULE, Kind::Residual).stages([1.0]).prompts(&["x"]).steps(2);
    let seen = store.run(folder.path().join("store")).unwrap().stage(1.0).unwrap();
    let sae = Sae { about: Some(seen.about().clone()), ..Sae::random(seen.d(), 2 * seen.d(), 2, 1).unwrap() };
    sae.save(at("sae")).unwrap();
    let run = |args: &[&str]| {
        let common = ["denoscope", &tiny, "a house", "--steps", "3", "--sae", &at("sae"), "--out", &at("out")];
        let cli = Cli::try_parse_from([&common, args].concat()).map_err(denoscope::Error::invalid)?;
        cli.edit.run()
    };
    let picture = |name: &str| image::open(folder.path().join("out").join(name)).unwrap().to_rgb8();
    run(&["--latents", "1,3", "--strength", "5", "--seeds", "4,9"]).unwrap();
    assert!(picture("4-before.png") != picture("4-after.png") && picture("9-after.png") != picture("9-control.png"));
    run(&["--edit", "invert-top", "--top", "2", "--region", "top-left", "--strength", "0", "--seeds", "4"]).unwrap();
    assert!(picture("4-before.png") == picture("4-after.png"), "a strength of 0 changes nothing");
    let say = |args: &[&str]| run(args).unwrap_err().to_string();
    assert!(say(&[]).contains("no latents"));
    assert!(say(&["--latents", "999"]).contains("latent 999 of an SAE with"));
    assert!(say(&["--latents", "1", "--region", "top-lef"]).contains("nearest: top-left"));
    assert!(say(&["--latents", "1", "--region", "top-left"]).contains("global acts everywhere"));
    assert!(say(&["--latents", "1", "--stage", "erly"]).contains("nearest: early"));
    assert!(say(&["--latents", "1", "--stage", "final"]).contains("final stage"), "an SAE of another stage");
    assert!(say(&["--word", "tree"]).contains("--dictionary"));
}

/// What the README's numbers come from: `cargo test --test edits -- --ignored --nocapture`.
#[test]
#[ignore = "measures on scene-unet for some minutes"]
fn sweeps_on_scene_unet() {
    use denoscope::prelude::*;
    let model = Pipeline::open("scene-unet").unwrap();
    let scenes: Vec<Scene> = (0..400).map(|i| Scene::sample(Split::Test, i)).collect();
    let renders: Vec<_> = scenes.iter().map(Scene::render).collect();
    let captions: Vec<String> = scenes.iter().map(|s| s.full_caption().text).collect();
    let folder =
        std::path::PathBuf::from(std::env::var("SWEEP_FOLDER").expect("SWEEP_FOLDER: where to keep the store"));
    let store = Capture::new(&model).at(MODULE, Kind::Residual).stages([1.0, 0.75, 0.5, 0.25, 0.0]).prompts(&captions);
    let store = store.pictures(renders.iter().map(|r| &r.image)).run(folder.join("store")).unwrap();
    let kinds = [Vocabulary::Class, Vocabulary::Style];
    let masks: Vec<_> = scenes.iter().zip(&renders).map(|(s, r)| truth::masks(s, r, &kinds)).collect();
    let annotator = SceneAnnotator::open().unwrap();
    let mut settled = Settled::new(&model, 20);

    let early = store.stage(1.0).unwrap();
    let sae = TopK::new(4, 10).train(&early).unwrap().sae;
    let words = Dictionary::build(&sae, &early, &masks).unwrap().only(&[Vocabulary::Class]);
    let classes: Vec<Class> = words.words().iter().take(3).map(|(l, _)| l.word.parse().unwrap()).collect();
    let trials = Trial::all(&classes, &[1, 2], |c| format!("a large {c}, on a meadow, in flat style"));
    let edit = |t: &Trial| Ok(Spatial::new(&sae, words.of(t.class.name())?).stage(Stage::Early));
    let spatial = BetaSweep::new(Strength::Relative(0.1)).bisections(2);
    let spatial = spatial.spatial(&mut settled, &annotator, &trials, &edit).unwrap();
    println!("spatial: {}\n{}", spatial.summary(), spatial.table().frame());

    let half = store.stage(0.5).unwrap();
    let sae = TopK::new(4, 10).train(&half).unwrap().sae;
    let looks = Dictionary::build(&sae, &half, &masks).unwrap().only(&[Vocabulary::Style]);
    let prompts: Vec<String> =
        Class::ALL[..4].iter().map(|c| format!("a large {c} in the centre, on a meadow")).collect();
    let named = looks.words().into_iter().take(3);
    let trial = |(l, _): (Label, usize)| StyleTrial {
        style: l.word.parse().unwrap(),
        prompts: prompts.clone(),
        seeds: vec![1, 2, 3, 4],
    };
    let trials: Vec<StyleTrial> = named.map(trial).collect();
    let edit = |t: &StyleTrial| Ok(vec![Global::new(&sae, looks.of(t.style.name())?).stage(Stage::Middle)]);
    let global = BetaSweep::new(Strength::Relative(0.1)).bisections(2);
    let global = global.global(&mut settled, &annotator, &trials, &edit).unwrap();
    println!("global: {}\n{}", global.summary(), global.table().frame());
    denoscope::figure::Page::new("β sweeps").figure(&spatial).figure(&global).save(folder.join("sweeps.html")).unwrap();

    // The scrubber and the explorer on the same store.
    let picture = model.prompt(&captions[0]).seed(7).keep_x0(&(0..50).collect::<Vec<_>>()).run().unwrap();
    let frames: Vec<_> = picture.clean.iter().map(|(_, image)| image.clone()).collect();
    let stages: Vec<_> = store.stages().iter().map(|(s, _)| store.step(*s).unwrap()).collect();
    let latent = words.of(classes[0].name()).unwrap()[0];
    let scrubber = Scrubber::new((0..50).map(|s| format!("step {s} · t = {:.2}", 1.0 - s as f64 / 49.0)))
        .pictures("expected picture", &frames)
        .title(&captions[0])
        .note("scene-unet, posterior mean after each step, seed 7");
    scrubber.save(folder.join("scrubber.html")).unwrap();
    let maps: Vec<Vec<f32>> = stages.iter().map(|s| sae.encode(&s.item(0).unwrap()).unwrap().map(latent, 0)).collect();
    let heat = Scrubber::new(store.stages().iter().map(|(_, t)| format!("t = {t:.2}")))
        .heat_over("latent over the picture", (8, 8), &maps, vec![&renders[0]; 5])
        .heat("latent", (8, 8), &maps)
        .title("One latent over time");
    heat.save(folder.join("heat.html")).unwrap();
    let truths: Vec<_> = scenes.iter().zip(&renders).map(|(s, r)| truth::masks(s, r, &Vocabulary::ALL)).collect();
    let labels = Dictionary::build(&sae, &half, &truths).unwrap();
    println!("{}", Effect::of(&sae, &half, &truths).unwrap().frame().unwrap());
    let survey = Survey::new().build(&sae, &half, &stages).unwrap();
    let page = Explorer::new(&survey).dictionary(&labels).prompts(&captions).pictures(|i| store.image(i));
    page.title("scene-unet, middle block, t = 0.5").save(folder.join("explorer.html")).unwrap();
}
