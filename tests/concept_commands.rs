//! `denoscope label` and `denoscope explore`, from a store and a trained SAE to a dictionary and a page.

use candle_core::{Device, Tensor};
use clap::Parser;
use denoscope::activations::{Item, Plan, Recorder, Seen, Writer};
use denoscope::concepts::Dictionary;
use denoscope::concepts::command::{Explore, Label};
use denoscope::diffusion::hook::{Half, Hook, Kind, Site, Visit};
use denoscope::sae::command::Train;
use denoscope::scene::{Class, Scene, Split};
use image::ImageFormat;
use std::io::Cursor;
use std::path::Path;

const GRID: (usize, usize) = (8, 8);
const PICTURES: u64 = 40;
/// Channels: one for each class, and one that never changes.
const D: usize = Class::COUNT + 1;

#[derive(Parser)]
enum Cli {
    Label(Label),
    Explore(Explore),
}

fn run(args: &[&str]) -> denoscope::Result<()> {
    match Cli::try_parse_from([&["denoscope"], args].concat()).map_err(denoscope::Error::invalid)? {
        Cli::Label(label) => label.run(),
        Cli::Explore(explore) => explore.run(),
    }
}

/// A store of the test split's scenes whose channel c is 1 where an object of class c is, at two steps.
fn store(folder: &Path) {
    let site = Site::new("mid", Kind::Residual);
    let scenes: Vec<Scene> = (0..PICTURES).map(|i| Scene::sample(Split::Test, i)).collect();
    let plan = Plan {
        model: "toy".into(),
        fingerprint: "abc".into(),
        sites: vec![site.clone()],
        steps: 5,
        kept: vec![0, 4],
        halves: vec![Half::Conditional],
        guidance: 4.0,
        source: Seen::Generated,
        shard_items: PICTURES as usize,
        items: scenes.iter().map(|s| Item { prompt: s.full_caption().text, seed: 0 }).collect(),
    };
    let writer = Writer::open(folder, plan).unwrap();
    let mut recorder = Recorder::new(std::slice::from_ref(&site), &[0, 4], &[Half::Conditional]);
    let ids: Vec<usize> = (0..PICTURES as usize).collect();
    let renders: Vec<_> = scenes.iter().map(Scene::render).collect();
    for (step, strength) in [(0, 0.5f32), (4, 1.0)] {
        let mut data = Vec::new();
        for render in &renders {
            let masks: Vec<_> = render.objects.iter().map(|o| (o.object.class, o.mask.at_grid(8, 8))).collect();
            for token in 0..64 {
                let mut row = [0.0f32; D];
                for (class, mask) in &masks {
                    row[class.index()] += strength * f32::from(mask.get(token % 8, token / 8));
                }
                row[D - 1] = 0.01 * (token % 3) as f32;
                data.extend(row);
            }
        }
        let tensor = Tensor::from_vec(data, (ids.len(), 64, D), &Device::Cpu).unwrap();
        let visit =
            Visit { site: &site, step, steps: 5, timestep: 0.0, half: Half::Conditional, grid: GRID, items: &ids };
        recorder.visit(&visit, &tensor).unwrap();
    }
    let png = |i: usize| {
        let mut bytes = Cursor::new(Vec::new());
        renders[i].image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    writer.write(0, &recorder.take(), &ids.iter().map(|&i| png(i)).collect::<Vec<_>>()).unwrap();
    writer.finish().unwrap();
}

#[test]
fn a_store_becomes_a_dictionary_and_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    store(&folder.path().join("store"));
    let config = format!(
        r#"{{"activations": {{"store": {:?}, "t": 0.0}}, "sae": {{"architecture": "topk", "k": 2}}, "expansion": 3,
            "options": {{"epochs": 60, "batch": 128, "learning_rate": 0.003}}, "run": {:?}}}"#,
        at("store"),
        at("run")
    );
    std::fs::write(at("train.json"), config).unwrap();
    Train { config: at("train.json").into() }.run().unwrap();

    let label = ["label", &at("run"), "--masks", "scene-test", "--kinds", "class", "--hits", "2"];
    let out = ["--out", &at("dictionary.json"), "--csv", &at("labels.csv"), "--effect"];
    run(&[&label[..], &out[..]].concat()).unwrap();
    let dictionary = Dictionary::load(at("dictionary.json")).unwrap();
    // What was planted is found: most classes have a latent of their own, with nearly whole masks.
    assert!(dictionary.words().len() >= Class::COUNT / 2, "{:?}", dictionary.words());
    let best = dictionary.concepts.iter().flat_map(|c| &c.labels).map(|e| e.mean_iou).fold(0.0, f32::max);
    assert!(best > 0.9, "{best}");
    let rows = std::fs::read_to_string(at("labels.csv")).unwrap().lines().count();
    assert_eq!(rows, 1 + dictionary.concepts.iter().map(|c| c.labels.len()).sum::<usize>());

    run(&["explore", &at("run"), "--dictionary", &at("dictionary.json"), "--out", &at("page.html")]).unwrap();
    let page = std::fs::read_to_string(at("page.html")).unwrap();
    let word = &dictionary.words()[0].0.word;
    assert!(page.contains(&format!("\"{word}\",\"class\"")) && page.contains("data:image/jpeg;base64"));
    assert!(page.contains("\"t\":[1.0,0.0]"), "both steps of the store");

    // The validation split's scenes are others than these.
    let e = run(&["label", &at("run"), "--masks", "scene-validation"]).unwrap_err().to_string();
    assert!(e.contains("picture 0") && e.contains("Validation split"), "{e}");
    let e = run(&["label", &at("run"), "--kinds", "clas"]).unwrap_err().to_string();
    assert!(e.contains("nearest: class"), "{e}");
    let e = run(&["explore", &at("store")]).unwrap_err().to_string();
    assert!(e.contains("store"), "{e}");
}
