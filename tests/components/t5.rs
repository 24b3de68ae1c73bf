use crate::support::{golden, relative_error, tensors};
use candle_core::{DType, Device, Tensor};
use denoscope::diffusion::open::Fields;
use denoscope::diffusion::t5::{T5Config, T5Encoder, T5Tokenizer};
use denoscope::diffusion::text::Activation;
use denoscope::diffusion::weights::Weights;
use serde::Deserialize;

fn open(name: &str) -> T5Encoder {
    let folder = golden("t5").join(name);
    let config = T5Config::read(&mut Fields::read(&folder.join("config.json")).unwrap()).unwrap();
    let weights = Weights::open(&[folder.join("model.safetensors")], &Device::Cpu, DType::F32).unwrap();
    let encoder = T5Encoder::load(&config, &weights).unwrap();
    weights.finish().unwrap();
    encoder
}

#[test]
fn encoder_agrees_with_transformers() {
    for name in ["gated", "relu"] {
        let encoder = open(name);
        let g = tensors(&golden("t5").join(name).join("golden.safetensors"));
        let mask = &g["attention_mask"];
        for (what, ids, mask) in
            [("last_hidden_state", "input_ids", Some(mask)), ("unmasked", "input_ids", None), ("far", "far_ids", None)]
        {
            let states = encoder.forward(&g[ids], mask).unwrap();
            let error = relative_error(&states, &g[what]);
            assert!(error <= 1e-5, "{name} {what}: {error:e}");
        }
        // What padding holds changes nothing that the mask shows.
        let ids = g["input_ids"].to_dtype(DType::I64).unwrap();
        let other = (&ids * mask.to_dtype(DType::I64).unwrap()).unwrap();
        let states = encoder.forward(&other, Some(mask)).unwrap();
        let shown = |x: &Tensor| x.get(1).unwrap().narrow(0, 0, 4).unwrap();
        let error = relative_error(&shown(&states), &shown(&g["last_hidden_state"]));
        assert!(error <= 1e-5, "{name}: {error:e}");
    }
}

#[test]
fn encoder_refuses_what_does_not_fit() {
    let encoder = open("gated");
    let ids = |id: u32| Tensor::new(&[[1u32, id]], &Device::Cpu).unwrap();
    assert!(encoder.forward(&ids(53), None).unwrap_err().to_string().contains("vocab_size = 53"));
    let mask = Tensor::ones((1, 3), DType::F32, &Device::Cpu).unwrap();
    let error = encoder.forward(&ids(2), Some(&mask)).unwrap_err().to_string();
    assert!(error.contains("attention_mask") && error.contains("[1, 3]") && error.contains("[1, 2]"), "{error}");
}

/// Autograd against a central difference along one direction in all weights, in f32.
#[test]
fn encoder_gradients_reach_every_weight() {
    let config = T5Config {
        vocab_size: 7,
        d_model: 8,
        d_kv: 3,
        d_ff: 12,
        num_layers: 2,
        num_heads: 2,
        dense_act_fn: Activation::GeluNew,
        is_gated_act: true,
        ..T5Config::default()
    };
    let weights = Weights::seeded(3, &Device::Cpu);
    let encoder = T5Encoder::load(&config, &weights).unwrap();
    let ids = Tensor::new(&[[0u32, 3, 2, 6, 6], [0, 5, 1, 4, 6]], &Device::Cpu).unwrap();
    let mask = Tensor::new(&[[1u32, 1, 1, 1, 1], [1, 1, 1, 0, 0]], &Device::Cpu).unwrap();
    let normals = |purpose: &str, n: usize| denoscope::random::stream(1, purpose, 0).normals(n);
    let target = Tensor::from_vec(normals("target", 80), (2, 5, 8), &Device::Cpu).unwrap();
    let loss = || (encoder.forward(&ids, Some(&mask)).unwrap() - &target).unwrap().sqr().unwrap().sum_all().unwrap();
    let gradients = loss().backward().unwrap();
    let mut slope = 0f64;
    let mut directions = Vec::new();
    for (name, var) in weights.vars() {
        let gradient = gradients.get(&var).unwrap_or_else(|| panic!("no gradient for {name}"));
        let direction = Tensor::from_vec(normals(&name, var.elem_count()), var.dims(), &Device::Cpu).unwrap();
        slope += f64::from((gradient * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap());
        directions.push((var.clone(), var.as_tensor().copy().unwrap(), direction));
    }
    let at = |step: f64| -> f64 {
        for (var, start, direction) in &directions {
            var.set(&(start + (direction * step).unwrap()).unwrap()).unwrap();
        }
        f64::from(loss().to_scalar::<f32>().unwrap())
    };
    let step = 1e-3;
    let difference = (at(step) - at(-step)) / (2.0 * step);
    assert!((slope - difference).abs() <= 0.02 * slope.abs(), "autograd {slope}, finite difference {difference}");
}

#[derive(Deserialize)]
struct Case {
    text: String,
    pieces: Vec<u32>,
    ids: Vec<u32>,
}

fn assert_agrees(tokenizer: &T5Tokenizer, folder: &str) {
    let text = std::fs::read_to_string(golden("t5").join(folder).join("golden.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 30);
    let mut wrong = Vec::new();
    for case in cases {
        let pieces: Vec<u32> = tokenizer.pieces(&case.text).unwrap().iter().map(|p| p.0).collect();
        let ids = tokenizer.encode(&case.text).unwrap().ids;
        if pieces != case.pieces || ids != case.ids {
            wrong.push(format!("{:?}: {pieces:?}, expected {:?}; {ids:?}", case.text, case.pieces));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn both_tokenizers_agree_with_transformers_on_hard_strings() {
    for name in ["tokenizer", "fast"] {
        let tokenizer = T5Tokenizer::open(&golden("t5").join(name)).unwrap().with_window(24);
        assert_agrees(&tokenizer, name);
        assert_eq!(tokenizer.vocab_size(), 120);
    }
}

#[test]
fn a_model_file_alone_is_enough() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::copy(golden("t5/tokenizer/spiece.model"), scratch.path().join("spiece.model")).unwrap();
    let alone = T5Tokenizer::open(scratch.path()).unwrap();
    assert_eq!((alone.window(), alone.vocab_size()), (120, 215));
    std::fs::write(scratch.path().join("tokenizer_config.json"), r#"{"extra_ids": 5}"#).unwrap();
    assert_agrees(&T5Tokenizer::open(scratch.path()).unwrap().with_window(24), "tokenizer");
}

#[test]
fn what_the_window_cuts_off_is_quoted() {
    let tokenizer = T5Tokenizer::open(&golden("t5/tokenizer")).unwrap().with_window(9);
    let long = tokenizer.encode("a red house and the tree in a meadow").unwrap();
    assert_eq!((long.ids.len(), long.used, long.ids.last()), (9, 9, Some(&1)));
    assert_eq!(long.lost.as_deref(), Some("in a meadow"));
    let short = tokenizer.encode("a tree").unwrap();
    assert_eq!((short.ids.len(), short.used, short.lost), (9, 3, None));
}

#[test]
fn broken_tokenizer_files_are_named() {
    let scratch = tempfile::tempdir().unwrap();
    let fault = || T5Tokenizer::open(scratch.path()).unwrap_err().to_string();
    assert!(fault().contains("spiece.model nor tokenizer.json"), "{}", fault());
    let whole = std::fs::read(golden("t5/tokenizer/spiece.model")).unwrap();
    std::fs::write(scratch.path().join("spiece.model"), &whole[..whole.len() / 2]).unwrap();
    assert!(fault().contains("spiece.model: truncated"), "{}", fault());
    std::fs::write(scratch.path().join("spiece.model"), &whole).unwrap();
    std::fs::write(scratch.path().join("tokenizer_config.json"), r#"{"legacy": false}"#).unwrap();
    assert!(fault().contains("legacy = false"), "{}", fault());
    std::fs::write(scratch.path().join("tokenizer_config.json"), r#"{"eos_token": "<end>"}"#).unwrap();
    assert!(fault().contains("\"<end>\""), "{}", fault());
    std::fs::write(scratch.path().join("tokenizer_config.json"), r#"{"tokenizer_class": "LlamaTokenizer"}"#).unwrap();
    assert!(fault().contains("LlamaTokenizer"), "{}", fault());
}
