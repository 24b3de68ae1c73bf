use crate::support::{golden, relative_error, tensors};
use candle_core::{DType, Device, Tensor};
use denoscope::diffusion::open::Fields;
use denoscope::diffusion::text::{TextConfig, TextEncoder, Tokenizer};
use denoscope::diffusion::weights::Weights;
use serde::Deserialize;

fn open(name: &str) -> TextEncoder {
    let folder = golden("text").join(name);
    let config = TextConfig::read(&mut Fields::read(&folder.join("config.json")).unwrap()).unwrap();
    let weights = Weights::open(&[folder.join("model.safetensors")], &Device::Cpu, DType::F32).unwrap();
    let encoder = TextEncoder::load(&config, &weights).unwrap();
    weights.finish().unwrap();
    encoder
}

#[test]
fn encoder_agrees_with_transformers() {
    for name in ["quick", "gelu"] {
        let encoder = open(name);
        let g = tensors(&golden("text").join(name).join("golden.safetensors"));
        let ids = g["input_ids"].to_dtype(DType::U32).unwrap();
        let short = ids.narrow(0, 0, 2).unwrap().narrow(1, 0, 5).unwrap();
        for (what, ids) in [("last_hidden_state", ids), ("short", short)] {
            let error = relative_error(&encoder.forward(&ids).unwrap(), &g[what]);
            assert!(error <= 1e-5, "{name} {what}: {error:e}");
        }
    }
}

#[test]
fn encoder_refuses_what_has_no_embedding() {
    let encoder = open("quick");
    let forward = |ids: Vec<u32>| {
        let n = ids.len();
        encoder.forward(&Tensor::from_vec(ids, (1, n), &Device::Cpu).unwrap())
    };
    assert!(forward(vec![53]).unwrap_err().to_string().contains("vocab_size = 53"));
    assert!(forward(vec![0; 12]).unwrap_err().to_string().contains("max_position_embeddings = 11"));
}

/// Autograd against a central difference along one direction in all weights, in f32.
#[test]
fn encoder_gradients_reach_every_weight() {
    let config = TextConfig {
        vocab_size: 7,
        hidden_size: 8,
        intermediate_size: 12,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        max_position_embeddings: 5,
        ..TextConfig::default()
    };
    let weights = Weights::seeded(3, &Device::Cpu);
    let encoder = TextEncoder::load(&config, &weights).unwrap();
    let ids = Tensor::new(&[[0u32, 3, 2, 6, 6], [0, 5, 1, 4, 6]], &Device::Cpu).unwrap();
    let normals = |purpose: &str, n: usize| denoscope::random::stream(1, purpose, 0).normals(n);
    let target = Tensor::from_vec(normals("target", 80), (2, 5, 8), &Device::Cpu).unwrap();
    let loss = || (encoder.forward(&ids).unwrap() - &target).unwrap().sqr().unwrap().sum_all().unwrap();
    for (name, var) in weights.vars() {
        // Freshly drawn embeddings are so small that the first normalisation would be all curvature.
        if name.contains("embedding") {
            var.set(&(var.as_tensor() * 50.0).unwrap()).unwrap();
        }
    }
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

fn cases(folder: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(golden("text").join(folder).join("golden.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn assert_agrees(tokenizer: &Tokenizer, folder: &str) {
    let mut wrong = Vec::new();
    for case in cases(folder) {
        let pieces: Vec<u32> = tokenizer.pieces(&case.text).iter().map(|p| p.0).collect();
        if pieces != case.pieces || tokenizer.encode(&case.text).ids != case.ids {
            wrong.push(format!("{:?}: {pieces:?}, expected {:?}", case.text, case.pieces));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tokenizer_agrees_with_transformers_on_hard_strings() {
    assert_agrees(&Tokenizer::open(&golden("text/tokenizer")).unwrap(), "tokenizer");
}

/// Words that are prefixes, suffixes and overlaps of one another.
const WORDS: [&str; 18] = [
    "a", "red", "tree", "tre", "trees", "re", "ed", "house", "the", "there", "here", "at", "that", "left", "of",
    "bottom", "käse", "ee",
];

#[test]
fn every_given_word_is_one_token_and_python_agrees() {
    let tokenizer = Tokenizer::from_words(&WORDS, 12).unwrap();
    for word in WORDS {
        let pieces = tokenizer.pieces(word);
        assert_eq!(pieces.len(), 1, "{word}: {pieces:?}");
        assert_eq!(tokenizer.decode(&[pieces[0].0]), word);
    }
    let scratch = tempfile::tempdir().unwrap();
    tokenizer.save(scratch.path()).unwrap();
    // The committed folder is what Python tokenised with; DENOSCOPE_WRITE_GOLDEN=1 renews it.
    let world = golden("text/world");
    if std::env::var_os("DENOSCOPE_WRITE_GOLDEN").is_some() {
        tokenizer.save(&world).unwrap();
    }
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"] {
        let read = |folder: &std::path::Path| std::fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(read(scratch.path()), read(&world), "{name}");
    }
    assert_agrees(&Tokenizer::open(scratch.path()).unwrap(), "world");
    assert_eq!(Tokenizer::open(scratch.path()).unwrap().vocab_size(), tokenizer.vocab_size());
}

#[test]
fn words_that_are_several_are_refused() {
    for word in ["two words", "Capital", "it's", "7up", ""] {
        let error = Tokenizer::from_words(&[word], 8).unwrap_err().to_string();
        assert!(error.contains(&format!("{word:?}")), "{error}");
    }
}

#[test]
fn what_the_window_cuts_off_is_quoted() {
    let tokenizer = Tokenizer::from_words(&WORDS, 6).unwrap();
    let fits = tokenizer.encode("a red tree there");
    assert_eq!((fits.used, &fits.lost, fits.ids.len()), (6, &None, 6));
    let long = tokenizer.encode("a red tree there left of the house");
    assert_eq!(long.lost.as_deref(), Some("left of the house"));
    assert_eq!(long.ids, fits.ids);
}

#[test]
fn broken_files_are_named() {
    let scratch = tempfile::tempdir().unwrap();
    let missing = Tokenizer::open(scratch.path()).unwrap_err().to_string();
    assert!(missing.contains("vocab.json"), "{missing}");
    Tokenizer::from_words(&WORDS, 6).unwrap().save(scratch.path()).unwrap();
    std::fs::write(scratch.path().join("merges.txt"), "#version: 0.2\na b\na b c\n").unwrap();
    let merges = Tokenizer::open(scratch.path()).unwrap_err().to_string();
    assert!(merges.contains("merges.txt: line 3"), "{merges}");
    std::fs::write(scratch.path().join("merges.txt"), "#version: 0.2\n").unwrap();
    std::fs::write(scratch.path().join("vocab.json"), "{\"a\": 0}").unwrap();
    let specials = Tokenizer::open(scratch.path()).unwrap_err().to_string();
    assert!(specials.contains("<|startoftext|>"), "{specials}");
}
