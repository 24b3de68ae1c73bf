use crate::support::{channels_last, golden, relative_error, tensors};
use candle_core::{DType, Device, Tensor};
use denoscope::diffusion::hook::{Half, Hook, Kind, Site, Visit};
use denoscope::diffusion::pipeline::{Picture, Pipeline};
use denoscope::diffusion::scheduler::SchedulerKind;
use denoscope::error::Result;
use std::collections::HashMap;
use std::path::Path;

const PROMPTS: [&str; 2] =
    ["a red house left of the tree", "the tree at the bottom of that there red house here and there and there"];
const SEEDS: [u64; 2] = [7, 8];

fn tiny() -> Pipeline {
    Pipeline::open(golden("pipeline/tiny").to_str().unwrap()).unwrap()
}

/// Mean absolute difference in grey levels.
fn difference(picture: &Picture, expected: &Tensor) -> f64 {
    let ours = picture.image.as_raw();
    let expected = expected.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    assert_eq!(ours.len(), expected.len());
    let sum: f64 = ours.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).sum();
    sum / ours.len() as f64
}

fn assert_same(g: &HashMap<String, Tensor>, name: &str, pictures: &[Picture]) {
    let finals = channels_last(&g[&format!("{name}.latents")]);
    for (i, picture) in pictures.iter().enumerate() {
        let d = difference(picture, &g[name].get(i).unwrap());
        assert!(d <= 1.0, "{name}, picture {i}: {d} grey levels apart");
        let error = relative_error(picture.latents.as_ref().unwrap(), &finals.get(i).unwrap());
        assert!(error <= 1e-4, "{name}, latents {i}: {error:e}");
    }
}

#[test]
fn ten_steps_give_the_picture_that_diffusers_gives() {
    let model = tiny();
    let g = tensors(&golden("pipeline/golden.safetensors"));
    assert_eq!(model.guidance(), 3.5);
    // Seeds alone: the golden's latents come from noise.py's version of the same streams.
    let run = || model.prompts(&PROMPTS).seeds(&SEEDS).steps(10).keep_latents();
    assert_same(&g, "ddim", &run().run().unwrap());
    assert_same(&g, "negative", &run().negative("tree").run().unwrap());
    assert_same(&g, "unguided", &run().guidance(1.0).run().unwrap());
    for (name, kind) in
        [("pndm", SchedulerKind::Pndm), ("dpm", SchedulerKind::DpmSolver), ("euler", SchedulerKind::Euler)]
    {
        assert_same(&g, name, &run().scheduler(kind).run().unwrap());
    }
    // The same latents given outright, one picture at a time.
    let latents = channels_last(&g["latents"]);
    assert!(relative_error(&model.noise(&SEEDS, 8, 12).unwrap(), &latents) < 1e-6);
    let second = model.prompt(PROMPTS[1]).steps(10).latents(&latents.get(1).unwrap()).unwrap().run().unwrap();
    assert!(difference(&second, &g["ddim"].get(1).unwrap()) <= 1.0);
}

#[test]
fn batches_do_not_matter() {
    let model = tiny();
    let prompts = ["a tree", "a red house", "the house"];
    let run = |batch| model.prompts(&prompts).seed(3).steps(4).batch(batch).keep_latents().run().unwrap();
    let (together, alone) = (run(3), run(2));
    for (i, (a, b)) in together.iter().zip(&alone).enumerate() {
        assert!(relative_error(a.latents.as_ref().unwrap(), b.latents.as_ref().unwrap()) < 1e-5);
        let one = model.prompt(prompts[i]).seed(3 + i as u64).steps(4).keep_latents().run().unwrap();
        assert!(relative_error(one.latents.as_ref().unwrap(), b.latents.as_ref().unwrap()) < 1e-5);
    }
    let seeds = model.prompt("a tree").steps(2).seeds(&[1, 2]).run().unwrap();
    assert_ne!(seeds[0].image, seeds[1].image);
    // Beyond rounding: a value between two grey levels may fall either way.
    let alone = model.prompt("a tree").steps(2).seed(2).run().unwrap().image;
    let apart = seeds[1].image.as_raw().iter().zip(alone.as_raw()).map(|(a, b)| u32::from(a.abs_diff(*b)));
    assert!(apart.clone().max() <= Some(1) && apart.sum::<u32>() <= 10);
}

/// Step, steps, half, grid, items and shape of a visit.
type Seen = (usize, usize, Half, (usize, usize), Vec<usize>, Vec<usize>);

/// Notes every visit; replaces nothing, or adds a constant.
#[derive(Default)]
struct Probe {
    module: &'static str,
    add: f64,
    only_step: Option<usize>,
    seen: Vec<Seen>,
}

impl Hook for Probe {
    fn sites(&self) -> Vec<Site> {
        vec![Site::new(self.module, Kind::Residual)]
    }

    fn wants(&self, step: usize, _: usize, half: Half) -> bool {
        half == Half::Conditional && self.only_step.is_none_or(|s| s == step)
    }

    fn visit(&mut self, visit: &Visit<'_>, activation: &Tensor) -> Result<Option<Tensor>> {
        let shape = activation.dims().to_vec();
        self.seen.push((visit.step, visit.steps, visit.half, visit.grid, visit.items.to_vec(), shape));
        Ok((self.add != 0.0).then(|| activation + self.add).transpose()?)
    }
}

#[test]
fn hooks_look_without_a_trace_and_replace_where_asked() {
    let model = tiny();
    let run = || model.prompts(&["a tree", "a house", "the red tree"]).steps(3).batch(2);
    let plain = run().run().unwrap();
    let mut look = Probe { module: "down_blocks.0.attentions.0", ..Probe::default() };
    let looked = run().with(&mut look).run().unwrap();
    assert!(plain.iter().zip(&looked).all(|(a, b)| a.image == b.image));
    assert_eq!(look.seen.len(), 6);
    assert_eq!(look.seen[1], (1, 3, Half::Conditional, (8, 12), vec![0, 1], vec![2, 96, 8]));
    assert_eq!(look.seen[5].4, [2]);
    let change = Probe { module: "down_blocks.0.attentions.0", add: 2.0, only_step: Some(1), ..Probe::default() };
    let changed = run().with(change).run().unwrap();
    assert!(plain.iter().zip(&changed).all(|(a, b)| a.image != b.image));
    assert_eq!(changed[0].settings.hooks, ["down_blocks.0.attentions.0:residual"]);
    // A step that never comes.
    let never = Probe { module: "down_blocks.0.attentions.0", add: 2.0, only_step: Some(9), ..Probe::default() };
    assert_eq!(run().with(never).run().unwrap()[0].image, plain[0].image);
}

#[test]
fn predictions_of_the_clean_picture_are_kept() {
    let model = tiny();
    let picture = model.prompt("a tree").steps(5).keep_x0(&[0, 4]).run().unwrap();
    assert_eq!(picture.clean.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 4]);
    // At the last step almost no noise is left: prediction and result agree; at the first they do not.
    let apart = |image: &image::RgbImage| {
        let pairs = image.as_raw().iter().zip(picture.image.as_raw());
        pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / image.as_raw().len() as f64
    };
    assert!(apart(&picture.clean[1].1) < 5.0, "{}", apart(&picture.clean[1].1));
    assert!(apart(&picture.clean[0].1) > apart(&picture.clean[1].1));
    assert!(model.prompt("a").steps(5).keep_x0(&[5]).run().unwrap_err().to_string().contains("step 5 of 5"));
}

#[test]
fn wrong_requests_are_refused_before_any_work() {
    let model = tiny();
    let message = |r: Result<Vec<Picture>>| r.unwrap_err().to_string();
    let probe = Probe { module: "down_block.0.attentions.0", ..Probe::default() };
    let hook = message(model.prompts(&["a"]).with(probe).run());
    assert!(hook.contains("nearest: down_blocks.0.attentions.0"), "{hook}");
    assert!(message(model.prompts(&["a", "b"]).seeds(&[1]).run()).contains("1 seeds for 2 prompts"));
    assert!(message(model.prompts::<&str>(&[]).run()).contains("0 prompts"));
    assert!(message(model.prompts(&["a"]).size(15, 16).run()).contains("multiples of 2"));
    assert!(message(model.prompts(&["a"]).steps(0).run()).contains("0 denoising steps"));
    let latents = Tensor::zeros((1, 4, 8, 12), DType::F32, model.device()).unwrap();
    assert!(message(model.prompts(&["a"]).latents(&latents).run()).contains("[1, 8, 12, 4]"));
    // Another size than the one it was trained on works.
    assert_eq!(model.prompt("a").steps(1).size(8, 12).run().unwrap().image.dimensions(), (12, 8));
}

/// Copies a folder with all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, target).unwrap();
        }
    }
}

/// A copy of the tiny model with one file changed; the message of opening it.
fn broken(change: impl FnOnce(&Path)) -> String {
    let scratch = tempfile::tempdir().unwrap();
    copy(&golden("pipeline/tiny"), scratch.path());
    change(scratch.path());
    match Pipeline::open(scratch.path().to_str().unwrap()) {
        Ok(_) => String::new(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn missing_truncated_and_unfit_files_are_named() {
    assert_eq!(broken(|_| {}), "");
    let unet = "unet/diffusion_pytorch_model.safetensors";
    let missing = broken(|f| std::fs::remove_file(f.join(unet)).unwrap());
    assert!(missing.contains(unet) && missing.contains("missing"), "{missing}");
    let truncated = broken(|f| {
        let bytes = std::fs::read(f.join(unet)).unwrap();
        std::fs::write(f.join(unet), &bytes[..bytes.len() - 9]).unwrap();
    });
    assert!(truncated.contains(unet) && truncated.contains("truncated"), "{truncated}");
    let edit = |file: &'static str, from: &'static str, to: &'static str| {
        move |f: &Path| {
            let text = std::fs::read_to_string(f.join(file)).unwrap();
            assert!(text.contains(from), "{text}");
            std::fs::write(f.join(file), text.replace(from, to)).unwrap();
        }
    };
    let shape = broken(edit("vae/config.json", "\"latent_channels\": 4", "\"latent_channels\": 6"));
    assert!(
        shape.contains("vae/") && shape.contains("encoder.conv_out.weight") && shape.contains("[12, 12, 3, 3]"),
        "{shape}"
    );
    let class = broken(edit("model_index.json", "CLIPTextModel", "T5EncoderModel"));
    assert!(class.contains("text_encoder is a T5EncoderModel"), "{class}");
    let scheduler = broken(edit("scheduler/scheduler_config.json", "scaled_linear", "sigmoid"));
    assert!(scheduler.contains("beta_schedule"), "{scheduler}");
    let gone = broken(|f| std::fs::remove_dir_all(f.join("tokenizer")).unwrap());
    assert!(gone.contains("tokenizer: missing"), "{gone}");
    let nowhere = Pipeline::open("scene-unett").unwrap_err().to_string();
    assert!(nowhere.contains("scene-unett") && nowhere.contains("hub id"), "{nowhere}");
}

/// The U-Net's tensors after a change.
fn reweighted(change: impl FnOnce(&mut HashMap<String, Tensor>)) -> String {
    broken(|f| {
        let path = f.join("unet/diffusion_pytorch_model.safetensors");
        let mut unet = tensors(&path);
        change(&mut unet);
        candle_core::safetensors::save(&unet, &path).unwrap();
    })
}

#[test]
fn unfit_tensors_are_named_with_their_file() {
    const NAME: &str = "conv_in.weight";
    const FILE: &str = "unet/diffusion_pytorch_model.safetensors";
    let all = |message: &str, parts: &[&str]| assert!(parts.iter().all(|p| message.contains(p)), "{message}");
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        let message = reweighted(|unet| {
            let shape = unet[NAME].shape().clone();
            let mut values = unet[NAME].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values[5] = bad;
            unet.insert(NAME.into(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
        });
        all(&message, &[FILE, NAME, "number 5 of", "NaN or infinite"]);
    }
    let whole = reweighted(|unet| {
        let integers = unet[NAME].to_dtype(DType::I64).unwrap();
        unet.insert(NAME.into(), integers);
    });
    all(&whole, &[FILE, NAME, "found type I64", "expected F32"]);
    let renamed = reweighted(|unet| {
        let tensor = unet.remove(NAME).unwrap();
        unet.insert("conv_inn.weight".into(), tensor);
    });
    all(&renamed, &["model.safetensors", NAME, "nearest: conv_inn.weight"]);
    let extra = reweighted(|unet| {
        let tensor = unet[NAME].clone();
        unet.insert("conv_inn.weight".into(), tensor);
    });
    all(&extra, &[FILE, "1 tensors", "conv_inn.weight", "nearest to the first that it has: conv_in.weight"]);
}

#[test]
fn half_precision_opens_and_may_be_kept() {
    let scratch = tempfile::tempdir().unwrap();
    let picture = |model: &Pipeline| model.prompt(PROMPTS[0]).steps(3).keep_latents().run().unwrap().latents.unwrap();
    let full = picture(&tiny());
    for (dtype, bound) in [(DType::F16, 0.01), (DType::BF16, 0.1)] {
        copy(&golden("pipeline/tiny"), scratch.path());
        for part in ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"] {
            let path = scratch.path().join(format!("{part}.safetensors"));
            let halves: HashMap<String, Tensor> = tensors(&path)
                .into_iter()
                .map(|(name, x)| if x.dtype() == DType::F32 { (name, x.to_dtype(dtype).unwrap()) } else { (name, x) })
                .collect();
            candle_core::safetensors::save(&halves, &path).unwrap();
        }
        let open = |kept| Pipeline::open_kept_in(scratch.path().to_str().unwrap(), &Device::Cpu, kept).unwrap();
        let (widened, kept) = (picture(&open(DType::F32)), picture(&open(dtype)));
        assert_eq!(relative_error(&kept, &widened), 0.0, "{dtype:?} kept and widened");
        let error = relative_error(&widened, &full);
        assert!(error > 0.0 && error < bound, "{dtype:?} against full precision: {error}");
    }
    let refused = Pipeline::open_kept_in(golden("pipeline/tiny").to_str().unwrap(), &Device::Cpu, DType::F64);
    assert!(refused.unwrap_err().to_string().contains("f64"));
}

#[test]
fn the_fingerprint_tells_models_apart() {
    let model = tiny();
    assert_eq!(model.fingerprint(), tiny().fingerprint());
    assert_eq!(model.fingerprint().len(), 16);
    assert_eq!(model.picture_size(), (16, 24));
    assert!(model.modules().contains(&"mid_block.attentions.0".to_string()));
}
