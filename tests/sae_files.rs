//! SAE files of other programs: what they hold is read as they compute it, and what is written they read.

use denoscope::sae::{Architecture, Sae};
use std::path::{Path, PathBuf};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sae")
}

/// Names of the golden folders.
fn cases() -> Vec<String> {
    let entries = std::fs::read_dir(golden()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

fn tensor(file: &Path, name: &str) -> Vec<f32> {
    let bytes = std::fs::read(file).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let data = file.tensor(name).unwrap();
    data.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Largest differences of codes and reconstructions from what the package computed.
fn differences(sae: &Sae, case: &str) -> [f32; 2] {
    let file = golden().join(case).join("golden.safetensors");
    let codes = sae.encode(&tensor(&file, "x")).unwrap();
    let dense: Vec<f32> =
        (0..codes.tokens()).flat_map(|t| (0..sae.latents).map(|j| codes.get(t, j)).collect::<Vec<_>>()).collect();
    let largest = |ours: &[f32], name: &str| {
        let theirs = tensor(&file, name);
        assert_eq!(ours.len(), theirs.len(), "{case} {name}");
        ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    [largest(&dense, "codes"), largest(&sae.decode(&codes), "out")]
}

#[test]
fn every_programs_files_compute_what_the_program_computes() {
    let cases = cases();
    assert_eq!(cases.len(), 25);
    for case in cases {
        let sae = Sae::load(golden().join(&case)).unwrap();
        let found = differences(&sae, &case);
        assert!(found.iter().all(|d| *d <= 1e-5), "{case}: {found:?}");
        let program = &sae.facts["source"]["program"];
        assert!(case.starts_with(&program.as_str().unwrap().to_lowercase().replace('-', "_")), "{case}: {program}");
    }
}

/// `python tests/golden/make_sae.py --check` reads with the packages what this test leaves in the target folder.
#[test]
fn what_is_written_is_read_back_with_the_same_numbers() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sae");
    for case in cases() {
        let sae = Sae::load(golden().join(&case)).unwrap();
        let folder = out.join(format!("saelens-{case}"));
        sae.save(&folder).unwrap();
        assert_eq!(Sae::load(&folder).unwrap(), sae, "{case}");
        let folder = out.join(format!("sparsify-{case}"));
        if let Architecture::TopK { .. } = sae.architecture {
            sae.save_sparsify(&folder).unwrap();
            let found = differences(&Sae::load(&folder).unwrap(), &case);
            assert!(found.iter().all(|d| *d <= 1e-5), "{case}: {found:?}");
        } else {
            let refused = sae.save_sparsify(&folder).unwrap_err().to_string();
            assert!(refused.contains("TopK only") && refused.contains(&sae.architecture.to_string()), "{refused}");
        }
    }
}

/// A copy of a golden folder with one text replaced in its configuration.
fn changed(case: &str, config: &str, from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden().join(case)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().join(config);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{case}: {text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
    folder
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let (learning, lens) = ("dictionary_learning_", "saelens_");
    for (case, config, from, to, words) in [
        (format!("{lens}topk"), "cfg.json", r#""topk""#, r#""transcoder""#, "architecture = \"transcoder\""),
        (format!("{lens}topk"), "cfg.json", r#""k": 3"#, r#""k": 99"#, "k = 99 of 14 latents"),
        (format!("{lens}topk"), "cfg.json", r#""k": 3"#, r#""k": 2.5"#, "field k = 2.5"),
        (format!("{lens}gated"), "cfg.json", r#""none""#, r#""layer_norm""#, "normalize_activations = \"layer_norm\""),
        (
            format!("{lens}standard"),
            "cfg.json",
            r#""d_in": 6"#,
            r#""d_in": 7"#,
            "found shape [6, 14], expected [7, 14]",
        ),
        (
            format!("{lens}standard"),
            "cfg.json",
            r#""standard""#,
            r#""jumprelu""#,
            "expected W_dec, W_enc, b_dec, b_enc, threshold",
        ),
        (format!("{lens}standard"), "cfg.json", r#""d_in""#, r#""coupled": true, "d_in""#, "coupled = true"),
        (format!("{lens}old_standard"), "cfg.json", r#""relu""#, r#""tanh-relu""#, "activation_fn_str = \"tanh-relu\""),
        (
            format!("{lens}old_standard"),
            "cfg.json",
            "blocks.2.hook",
            "blocks.2.hook_z",
            "reshape_activations = \"hook_z\"",
        ),
        (format!("{lens}old_topk"), "cfg.json", r#"{"k": 3}"#, r#"{"k": 3, "signed": true}"#, "\"signed\":true"),
        (
            "sparsify_num_latents".into(),
            "cfg.json",
            r#""transcode": false"#,
            r#""transcode": true"#,
            "transcode = true",
        ),
        ("sparsify_num_latents".into(), "cfg.json", r#""topk""#, r#""groupmax""#, "activation = \"groupmax\""),
        (
            format!("{learning}BatchTopKSAE"),
            "config.json",
            "BatchTopKSAE",
            "CrossCoder",
            "trainer.dict_class = \"CrossCoder\"",
        ),
        (format!("{learning}BatchTopKSAE"), "config.json", "BatchTopKSAE", "AutoEncoder", "for AutoEncoder"),
        (format!("{learning}AutoEncoderTopK"), "config.json", r#""k": 3"#, r#""k": 4"#, "ae.pt says 3"),
        ("sdxl_unbox".into(), "config.json", r#""d_model": 6"#, r#""d_model": 5"#, "found shape [14, 6]"),
    ] {
        let folder = changed(&case, config, from, to);
        let refused = Sae::load(folder.path()).unwrap_err().to_string();
        assert!(refused.contains(words), "{case}: {refused}");
        assert!(refused.contains(&folder.path().display().to_string()), "{case}: {refused}");
    }
}

#[test]
fn a_folder_with_no_sae_or_two_is_refused() {
    let folder = changed("sparsify_num_latents", "cfg.json", "topk", "topk");
    std::fs::copy(golden().join("saelens_topk/sae_weights.safetensors"), folder.path().join("sae_weights.safetensors"))
        .unwrap();
    let refused = Sae::load(folder.path()).unwrap_err().to_string();
    assert!(refused.contains("more than one SAE: sae_weights.safetensors (SAELens), sae.safetensors"), "{refused}");
    let empty = tempfile::tempdir().unwrap();
    let refused = Sae::load(empty.path()).unwrap_err().to_string();
    assert!(refused.contains("holds no SAE") && refused.contains("ae.pt (dictionary_learning)"), "{refused}");
    assert!(Sae::load(empty.path().join("none")).unwrap_err().to_string().contains("no such folder"));
}
