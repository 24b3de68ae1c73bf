use crate::support::golden;
use denoscope::concepts::{Vocabulary, WordVectors, truth};
use denoscope::diffusion::pipeline::Pipeline;
use denoscope::embedded::SceneAnnotator;
use denoscope::measure::Annotator;
use denoscope::measure::segmentation::MapOverlap;
use denoscope::scene::{Class, Part, Scene, Split};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    prompt: String,
    seed: u64,
    steps: usize,
    guidance: f64,
}

/// The shipped models paint what Python diffusers painted from the same seed (see `compare_embedded.py`).
#[test]
fn the_embedded_models_paint_what_diffusers_paints() {
    for name in ["scene-unet", "scene-dit"] {
        let folder = golden("embedded").join(name);
        let text = std::fs::read_to_string(folder.join("cases.json")).unwrap();
        let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
        assert!(!cases.is_empty());
        let model = Pipeline::open(name).unwrap();
        for (i, case) in cases.iter().enumerate() {
            let expected = image::open(folder.join(format!("{i}.png"))).unwrap().to_rgb8();
            let made = model.prompt(&case.prompt).seed(case.seed).steps(case.steps).guidance(case.guidance);
            let picture = made.run().unwrap().image;
            assert_eq!(picture.dimensions(), expected.dimensions());
            let pairs = picture.as_raw().iter().zip(expected.as_raw());
            let difference = pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / picture.as_raw().len() as f64;
            assert!(difference <= 1.0, "{name}, {:?}: {difference} grey levels apart", case.prompt);
        }
    }
}

/// The annotator knows the world: objects of unseen renders with class and colour, background and style.
#[test]
fn the_annotator_finds_what_unseen_renders_show() {
    let annotator = SceneAnnotator::open().unwrap();
    let scenes: Vec<Scene> = (0..40).map(|i| Scene::sample(Split::Test, 5000 + i)).collect();
    let renders: Vec<_> = scenes.iter().map(Scene::render).collect();
    let images: Vec<_> = renders.iter().map(|r| r.image.clone()).collect();
    let annotations = annotator.annotate(&images).unwrap();
    let (mut objects, mut right, mut overlap, mut whole) = (0, 0, 0.0, 0);
    let (mut of_classes, mut of_parts) = (MapOverlap::new(Class::COUNT), MapOverlap::new(Part::COUNT));
    for ((scene, render), found) in scenes.iter().zip(&renders).zip(&annotations) {
        for truth in &render.objects {
            let best = found.objects.iter().find(|f| f.class == truth.object.class);
            objects += 1;
            right += usize::from(best.is_some_and(|f| f.colour == Some(truth.object.colour)));
            overlap += best.map_or(0.0, |f| f.mask.iou(&truth.mask).unwrap());
        }
        of_classes.add_maps(&found.class_map, &render.class_map);
        of_parts.add_maps(&found.part_map(), &render.part_map);
        whole += usize::from((found.style, found.background) == (Some(scene.style), Some(scene.background)));
    }
    // Over 192 unseen renders: mean IoU of objects .936, of parts .853, style and background right in all.
    assert!(right * 100 >= objects * 95, "{right} of {objects} objects");
    assert!(overlap / objects as f32 > 0.8, "mean IoU {}", overlap / objects as f32);
    assert!(of_classes.mean() > 0.9, "objects: {}", of_classes.named(Class::ALL));
    assert!(of_parts.mean() > 0.75, "parts: {}", of_parts.named(Part::ALL));
    assert!(whole >= 38, "{whole} of 40 pictures");
}

/// The word vectors cover every label that the world can give.
#[test]
fn every_label_of_the_world_has_a_vector() {
    let words = WordVectors::embedded().unwrap();
    for i in 0..60 {
        let scene = Scene::sample(Split::Test, i);
        for mask in truth::masks(&scene, &scene.render(), &[Vocabulary::Class, Vocabulary::Part, Vocabulary::Style]) {
            words.vector(&mask.label.word).unwrap();
        }
    }
}
