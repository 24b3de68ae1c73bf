//! A tiny PixArt pipeline against diffusers.

use crate::support::{channels_last, golden, relative_error, tensors};
use candle_core::{Device, Tensor};
use denoscope::activations::Capture;
use denoscope::diffusion::captions::Precomputed;
use denoscope::diffusion::hook::{Half, Hook, Kind, Site, Visit};
use denoscope::diffusion::open::Fields;
use denoscope::diffusion::pipeline::{Picture, Pipeline, Reader};
use denoscope::diffusion::scheduler::SchedulerConfig;
use denoscope::error::Result;
use std::collections::HashMap;
use std::path::Path;

const PROMPTS: [&str; 2] =
    ["a red house in the Meadow ", "an oil painting of a ship in a storm at night, with a cat on a table"];
const SEEDS: [u64; 2] = [7, 8];

fn tiny() -> Pipeline {
    Pipeline::open(golden("pixart/pipeline/tiny").to_str().unwrap()).unwrap()
}

fn precomputed() -> Precomputed {
    Precomputed::open(golden("pixart/pipeline/captions.safetensors")).unwrap()
}

/// Pictures within a grey level on average, latents to 1e-4.
fn assert_same(g: &HashMap<String, Tensor>, name: &str, pictures: &[Picture]) {
    let finals = channels_last(&g[&format!("{name}.latents")]);
    for (i, picture) in pictures.iter().enumerate() {
        let expected = g[name].get(i).unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
        let ours = picture.image.as_raw();
        assert_eq!(ours.len(), expected.len());
        let apart: f64 = ours.iter().zip(&expected).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        let apart = apart / ours.len() as f64;
        assert!(apart <= 1.0, "{name}, picture {i}: {apart} grey levels apart");
        let error = relative_error(picture.latents.as_ref().unwrap(), &finals.get(i).unwrap());
        assert!(error <= 1e-4, "{name}, latents {i}: {error:e}");
    }
}

#[test]
fn ten_steps_give_the_picture_that_diffusers_gives() {
    let model = tiny();
    let g = tensors(&golden("pixart/pipeline/golden.safetensors"));
    assert_eq!((model.guidance(), model.picture_size()), (4.5, (256, 256)));
    let run = || model.prompts(&PROMPTS).seeds(&SEEDS).size(16, 24).steps(10).keep_latents();
    assert_same(&g, "dpm", &run().run().unwrap());
    assert_same(&g, "negative", &run().negative("lightning").guidance(3.0).run().unwrap());
    assert_same(&g, "unguided", &run().guidance(1.0).run().unwrap());
    let ddim = SchedulerConfig::read(&mut Fields::read(&golden("pixart/pipeline/ddim.json")).unwrap()).unwrap();
    assert_same(&g, "ddim", &run().scheduler_config(&ddim).run().unwrap());
    let captions = run().precomputed(&precomputed()).run().unwrap();
    assert_same(&g, "captions", &captions);
    assert!(captions[0].settings.captions.is_some());
    let read = model.captions(&PROMPTS).unwrap();
    assert!(relative_error(&read.embeds, &g["prompt_embeds"]) <= 1e-5);
    let previews = run().keep_x0(&[0, 9]).batch(1).run().unwrap();
    assert_same(&g, "dpm", &previews);
    assert_eq!(previews[1].clean.len(), 2);
}

/// Counts what it sees, and takes a block's update away from the conditional half.
struct Mute(Vec<(usize, Half, (usize, usize))>);

impl Hook for Mute {
    fn sites(&self) -> Vec<Site> {
        vec![Site::new("transformer_blocks.1", Kind::Residual)]
    }

    fn visit(&mut self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        self.0.push((visit.step, visit.half, visit.grid));
        Ok(if visit.half == Half::Conditional { Some(activation.zeros_like()?) } else { None })
    }
}

#[test]
fn hooks_reach_the_blocks_of_both_halves() {
    let model = tiny();
    let run = || model.prompt("a tree").size(16, 24).steps(2);
    let mut mute = Mute(Vec::new());
    let changed = run().with(&mut mute).run().unwrap();
    let grid = (4, 6);
    let visits = [0, 1].into_iter().flat_map(|s| [(s, Half::Unconditional, grid), (s, Half::Conditional, grid)]);
    assert_eq!(mute.0, visits.collect::<Vec<_>>());
    assert_ne!(changed.image, run().run().unwrap().image);
    assert_eq!(changed.settings.hooks, ["transformer_blocks.1:residual"]);
    let modulation = model.dit().unwrap();
    assert_eq!(modulation.config().num_layers, 3);
    assert!(model.unet().unwrap_err().to_string().contains("not a U-Net"));
}

#[test]
fn activations_are_captured_with_their_grid() {
    let model = tiny();
    let folder = tempfile::tempdir().unwrap();
    let picture = image::RgbImage::from_fn(256, 256, |x, y| image::Rgb([x as u8, y as u8, 7]));
    let store = Capture::new(&model)
        .at("transformer_blocks.2", Kind::Output)
        .stages([0.0])
        .prompts(&["a cat on a table"])
        .pictures([&picture])
        .steps(10)
        .run(folder.path())
        .unwrap();
    let last = store.stage(0.0).unwrap();
    assert_eq!((last.d(), last.item(0).unwrap().len()), (24, 64 * 64 * 24));
}

/// The tiny model in a folder of its own, changed.
fn changed(change: impl FnOnce(&Path)) -> (tempfile::TempDir, Result<Pipeline>) {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target)
            } else {
                std::fs::copy(entry.path(), target).map(|_| ()).unwrap()
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&golden("pixart/pipeline/tiny"), folder.path());
    change(folder.path());
    let model = Pipeline::open(folder.path().to_str().unwrap());
    (folder, model)
}

#[test]
fn a_model_without_its_text_encoder_paints_from_captions() {
    let (_folder, model) = changed(|f| std::fs::remove_dir_all(f.join("text_encoder")).unwrap());
    let model = model.unwrap();
    assert!(matches!(model.reader, Reader::Absent));
    let g = tensors(&golden("pixart/pipeline/golden.safetensors"));
    let run = || model.prompts(&PROMPTS).seeds(&SEEDS).size(16, 24).steps(10).keep_latents();
    assert_same(&g, "captions", &run().precomputed(&precomputed()).run().unwrap());
    let refused = run().run().unwrap_err().to_string();
    assert!(refused.contains("no text encoder") && refused.contains("prompt_embeds"), "{refused}");
    let alone = Precomputed { negative: None, ..precomputed() };
    assert!(run().precomputed(&alone).run().unwrap_err().to_string().contains("no text encoder"));
    run().precomputed(&alone).guidance(1.0).run().unwrap();
    let three = model.prompts(&["a", "b", "c"]).size(16, 24).precomputed(&precomputed()).run().unwrap_err();
    assert!(three.to_string().contains("2 captions for 3 prompts"), "{three}");
    assert!(model.to_string().contains("no text encoder"), "{model}");
}

#[test]
fn faults_are_named() {
    let edit = |file: &'static str, from: &'static str, to: &'static str| {
        let (_folder, model) = changed(|f| {
            let text = std::fs::read_to_string(f.join(file)).unwrap();
            assert!(text.contains(from), "{text}");
            std::fs::write(f.join(file), text.replace(from, to)).unwrap();
        });
        model.unwrap_err().to_string()
    };
    let class = edit("model_index.json", "PixArtAlphaPipeline", "PixArtSigmaPipeline");
    assert!(class.contains("PixArtSigmaPipeline") && class.contains("or PixArtAlphaPipeline"), "{class}");
    let outputs = edit("transformer/config.json", "\"out_channels\": 8", "\"out_channels\": 6");
    assert!(outputs.contains("proj_out"), "{outputs}");
    let text = edit("model_index.json", "T5EncoderModel", "UMT5EncoderModel");
    assert!(text.contains("text_encoder is a UMT5EncoderModel"), "{text}");
    let few = edit("text_encoder/config.json", "\"vocab_size\": 128", "\"vocab_size\": 100");
    assert!(few.contains("120 tokens") && few.contains("vocab_size = 100"), "{few}");
    let odd = tiny().prompt("a").size(16, 26).run().unwrap_err().to_string();
    assert!(odd.contains("multiples of 4"), "{odd}");
    // Weights of the text encoder are read when it is needed, and then refused.
    let (_folder, model) = changed(|f| {
        let text = std::fs::read_to_string(f.join("text_encoder/config.json")).unwrap();
        std::fs::write(f.join("text_encoder/config.json"), text.replace("\"d_ff\": 28", "\"d_ff\": 30")).unwrap();
    });
    let late = model.unwrap().captions(&["a"]).unwrap_err().to_string();
    assert!(late.contains("wi_0.weight") && late.contains("[28, 20]"), "{late}");
    let latents = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(tiny().prompt("a").latents(&latents).unwrap().run().is_err());
}
