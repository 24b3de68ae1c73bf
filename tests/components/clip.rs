use crate::support::{channels_last, golden, relative_error, tensors};
use candle_core::{DType, Device, Tensor};
use denoscope::measure::{Clip, Similarity};
use image::RgbImage;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

fn pictures(golden: &HashMap<String, Tensor>) -> Vec<RgbImage> {
    let picture = |i: usize| {
        let tensor = &golden[&format!("picture.{i}")];
        let (h, w, _) = tensor.dims3().unwrap();
        RgbImage::from_raw(w as u32, h as u32, tensor.flatten_all().unwrap().to_vec1().unwrap()).unwrap()
    };
    (0..4).map(picture).collect()
}

fn texts() -> Vec<String> {
    serde_json::from_str(&std::fs::read_to_string(golden("clip/golden.json")).unwrap()).unwrap()
}

fn agrees(folder: &Path) -> Clip {
    let clip = Clip::open(folder).unwrap();
    let g = tensors(&folder.join("golden.safetensors"));
    let (pictures, texts) = (pictures(&g), texts());
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for (what, found) in
        [("image_features", clip.image_features(&pictures)), ("text_features", clip.text_features(&texts))]
    {
        let error = relative_error(&found.unwrap(), &g[what]);
        assert!(error <= 1e-5, "{what}: {error:e}");
    }
    let cosines = Tensor::new(clip.matrix(&pictures, &texts).unwrap(), &Device::Cpu).unwrap();
    let error = relative_error(&cosines.to_dtype(DType::F32).unwrap(), &g["cosines"]);
    assert!(error <= 1e-5, "cosines: {error:e}");
    let scale = f64::from(g["logit_scale"].to_scalar::<f32>().unwrap());
    assert!((clip.logit_scale() - scale).abs() <= 1e-6 * scale);
    clip
}

/// The published size; see make_clip.py.
#[test]
#[ignore = "needs 1.7 GB of weights, made by make_clip.py --full FOLDER and named in DENOSCOPE_CLIP"]
fn full_size_clip_agrees_with_transformers() {
    agrees(Path::new(&std::env::var_os("DENOSCOPE_CLIP").expect("DENOSCOPE_CLIP names the folder")));
}

#[test]
fn features_and_cosines_agree_with_transformers() {
    let clip = agrees(&golden("clip"));
    assert!(clip.images(&[]).unwrap().is_empty());
    assert_eq!(Similarity::name(&clip), "clip");
}

#[test]
fn pictures_are_prepared_as_transformers_does() {
    let clip = Clip::open(golden("clip")).unwrap();
    let g = tensors(&golden("clip/golden.safetensors"));
    let expected = channels_last(&g["prepared"]);
    for (i, picture) in pictures(&g).iter().enumerate() {
        let difference = (clip.prepare(picture).unwrap() - expected.get(i).unwrap()).unwrap().abs().unwrap();
        let most = difference.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        // One step of 8 bits is 0.014.
        assert!(most < 1e-5, "picture {i}: {most}");
    }
    assert!(clip.prepare(&RgbImage::new(0, 4)).unwrap_err().to_string().contains("no pixels"));
}

/// A copy of the golden folder with one of its JSON files changed.
fn changed(file: &str, change: impl Fn(&mut Value)) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("clip")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join(file);
    let mut value: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(&path, value.to_string()).unwrap();
    let error = Clip::open(folder.path()).err().map(|e| e.to_string()).unwrap_or_default();
    (folder, error)
}

#[test]
fn older_files_open_the_same() {
    // Before transformers 4.25 both sides were given twice, and what `…_dict` says counts.
    let (folder, error) = changed("config.json", |c| {
        c["text_config_dict"] = c["text_config"].clone();
        c["text_config"]["hidden_size"] = json!(512);
        c["vision_config_dict"] = c["vision_config"].clone();
    });
    assert_eq!(error, "");
    let found = Clip::open(folder.path()).unwrap().text_features(&["the tree"]).unwrap();
    let expected = Clip::open(golden("clip")).unwrap().text_features(&["the tree"]).unwrap();
    assert_eq!(relative_error(&found, &expected), 0.0);
    let (_keep, error) = changed("preprocessor_config.json", |c| (c["size"], c["crop_size"]) = (json!(17), json!(15)));
    assert_eq!(error, "");
}

#[test]
fn what_is_not_a_clip_model_is_said() {
    let cases: [(&str, &[&str], Value); 7] = [
        ("config.json", &["model_type"], json!("siglip")),
        ("config.json", &["architectures"], json!(["CLIPTextModel"])),
        ("config.json", &["vision_config", "num_attention_heads"], json!(3)),
        ("config.json", &["vision_config", "patch_size"], json!(4)),
        ("preprocessor_config.json", &["resample"], json!(2)),
        ("preprocessor_config.json", &["do_center_crop"], json!(false)),
        ("preprocessor_config.json", &["crop_size"], json!({"height": 15, "width": 14})),
    ];
    for (file, names, value) in cases {
        let (_keep, error) = changed(file, |c| {
            let field = names.iter().fold(c, |c, name| &mut c[*name]);
            *field = value.clone();
        });
        assert!(error.contains(names[names.len() - 1]) && error.contains(file), "{names:?}: {error}");
    }
}

#[test]
fn missing_misshapen_and_further_tensors_are_named() {
    let weights = tensors(&golden("clip/model.safetensors"));
    let refusal = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let (folder, _) = changed("config.json", |_| ());
        let mut weights = weights.clone();
        change(&mut weights);
        let path: &Path = &folder.path().join("model.safetensors");
        candle_core::safetensors::save(&weights, path).unwrap();
        Clip::open(folder.path()).unwrap_err().to_string()
    };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let e = refusal(&|w| drop(w.remove("vision_model.pre_layrnorm.bias")));
    assert!(e.contains("vision_model.pre_layrnorm.bias") && e.contains("[20]"), "{e}");
    let e = refusal(&|w| drop(w.insert("visual_projection.weight".into(), zeros(&[20, 11]))));
    assert!(e.contains("visual_projection.weight") && e.contains("[11, 20]"), "{e}");
    let e = refusal(&|w| drop(w.insert("visual_projection.bias".into(), zeros(&[11]))));
    assert!(e.contains("no use for: visual_projection.bias"), "{e}");
}
