//! Models from the Hugging Face hub, kept in its usual cache.

use super::INDEX;
use super::folder::PICKLED;
use crate::error::{Error, Result};
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use std::path::PathBuf;

/// The revision where none is given.
const MAIN: &str = "main";

/// What of a repository is fetched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// The file that makes a folder one of this layout.
    marker: &'static str,
    /// Which of a repository's files are read.
    needed: fn(&[String]) -> Vec<String>,
}

/// A pipeline of diffusers.
pub(super) const PIPELINE: Layout = Layout { marker: INDEX, needed };
/// A single network of transformers, with its tokenizer.
pub(super) const NETWORK: Layout = Layout { marker: "config.json", needed: needed_by_network };

/// Endings of the small files that every component needs.
const SMALL: [&str; 3] = [".json", "merges.txt", "spiece.model"];

/// Splits `owner/model` or `owner/model@revision`.
pub(super) fn parse(name: &str) -> Option<(&str, &str)> {
    let (id, revision) = name.split_once('@').unwrap_or((name, MAIN));
    let (owner, model) = id.split_once('/')?;
    let fine = |s: &str| {
        !s.is_empty() && !s.starts_with('.') && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    (fine(owner) && fine(model) && !revision.is_empty()).then_some((id, revision))
}

/// Components with weights.
const COMPONENTS: [&str; 4] = ["unet", "vae", "text_encoder", "transformer"];

/// What is wrong with a repository that has a component's weights only in pickled form.
fn only_pickled(files: &[String]) -> Option<String> {
    COMPONENTS.iter().find_map(|component| {
        let of = |ends: &[&str]| {
            let inside = files.iter().filter(|f| f.strip_prefix(component).is_some_and(|rest| rest.starts_with('/')));
            inside.into_iter().find(|f| f.rsplit('.').next().is_some_and(|end| ends.contains(&end)))
        };
        let pickled = of(&PICKLED).filter(|_| of(&["safetensors"]).is_none())?;
        Some(format!(
            "{component} has only pickled weights there ({pickled}), which can run code when read; open the model in \
             Python, save it to a folder with save_pretrained, which writes safetensors, and open that folder"
        ))
    })
}

/// Which of a repository's files a pipeline reads: one set of safetensors a component, full precision before half.
fn needed(files: &[String]) -> Vec<String> {
    let mut chosen: Vec<String> = files
        .iter()
        .filter(|f| f.matches('/').count() <= 1 && SMALL.iter().any(|end| f.ends_with(end)))
        .filter(|f| f.contains('/') || *f == INDEX)
        .filter(|f| !f.starts_with("safety_checker/") && !f.starts_with("feature_extractor/"))
        .cloned()
        .collect();
    for component in COMPONENTS {
        let weights: Vec<&String> = files
            .iter()
            .filter(|f| f.strip_prefix(component).is_some_and(|f| f.starts_with('/')) && f.ends_with(".safetensors"))
            .collect();
        // model.safetensors and model-00001-of-00002.safetensors, but not model.fp16.safetensors
        let variant = |f: &str| f[component.len() + 1..].trim_end_matches(".safetensors").contains('.');
        let full: Vec<&String> = weights.iter().copied().filter(|f| !variant(f)).collect();
        let half = weights.into_iter().filter(|f| f.contains(".fp16."));
        chosen.extend(if full.is_empty() {
            half.cloned().collect::<Vec<_>>()
        } else {
            full.into_iter().cloned().collect()
        });
    }
    chosen
}

/// The files of a single network: one set of safetensors in full precision, and what is small.
fn needed_by_network(files: &[String]) -> Vec<String> {
    let top = files.iter().filter(|f| !f.contains('/'));
    let weights = |f: &str| {
        let stem = f.strip_prefix("model").and_then(|f| f.strip_suffix(".safetensors"));
        stem.is_some_and(|stem| stem.is_empty() || stem.starts_with('-'))
    };
    top.filter(|f| weights(f) || SMALL.iter().any(|end| f.ends_with(end))).cloned().collect()
}

/// The folder of a model, fetched where it is not yet in the cache (`$HF_HOME`, by default `~/.cache/huggingface`).
/// With `HF_HUB_OFFLINE=1` only the cache counts.
pub(super) fn snapshot(id: &str, revision: &str, layout: Layout) -> Result<PathBuf> {
    let repo = Repo::with_revision(id.into(), RepoType::Model, revision.into());
    let cache = Cache::from_env();
    if std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !matches!(v.as_str(), "" | "0" | "false")) {
        return cached(&cache, repo, layout).ok_or_else(|| fault(id, revision, &cache, "HF_HUB_OFFLINE is set"));
    }
    match fetch(&repo, layout) {
        Ok(folder) => Ok(folder),
        // Without network, what was fetched before still serves.
        Err(problem) => cached(&cache, repo, layout).ok_or_else(|| fault(id, revision, &cache, &problem)),
    }
}

fn cached(cache: &Cache, repo: Repo, layout: Layout) -> Option<PathBuf> {
    let marker = cache.repo(repo).get(layout.marker)?;
    marker.parent().map(PathBuf::from)
}

fn fetch(repo: &Repo, Layout { marker, needed }: Layout) -> std::result::Result<PathBuf, String> {
    let api = ApiBuilder::from_env().with_progress(false).with_retries(3).build().map_err(|e| e.to_string())?;
    let api: ApiRepo = api.repo(repo.clone());
    let info = api.info().map_err(|e| e.to_string())?;
    let files: Vec<String> = info.siblings.into_iter().map(|s| s.rfilename).collect();
    if !files.iter().any(|f| f == marker) {
        return Err(format!("the repository has no {marker}"));
    }
    if let Some(problem) = only_pickled(&files) {
        return Err(problem);
    }
    let needed = needed(&files);
    let mut folder = None;
    for (i, file) in needed.iter().enumerate() {
        if file.ends_with(".safetensors") {
            eprintln!("fetching {file} ({} of {})", i + 1, needed.len());
        }
        let path = api.get(file).map_err(|e| format!("{file}: {e}"))?;
        if file == marker {
            folder = path.parent().map(PathBuf::from);
        }
    }
    folder.ok_or_else(|| format!("{marker} was not fetched"))
}

fn fault(id: &str, revision: &str, cache: &Cache, problem: &str) -> Error {
    let mut have: Vec<String> = std::fs::read_dir(cache.path())
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.file_name().to_str()?.strip_prefix("models--")?.replace("--", "/")))
        .collect();
    have.sort();
    let have = if have.is_empty() { "nothing".to_string() } else { have.join(", ") };
    Error::invalid(format!(
        "{id}@{revision}: cannot be fetched ({problem}); in the cache {}: {have}. A model in a folder opens by its path",
        cache.path().display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        assert_eq!(parse("CompVis/stable-diffusion-v1-4"), Some(("CompVis/stable-diffusion-v1-4", "main")));
        assert_eq!(parse("a/b@fp16"), Some(("a/b", "fp16")));
        for not in ["scene-unet", "./model", "/tmp/model", "a/b/c", "../x/y", "a/", "a b/c", "a/b@"] {
            assert_eq!(parse(not), None, "{not}");
        }
    }

    #[test]
    fn only_what_a_pipeline_reads_is_fetched() {
        let files = [
            "README.md",
            "v1-5-pruned.safetensors",
            "model_index.json",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "unet/diffusion_pytorch_model.bin",
            "text_encoder/model.fp16.safetensors",
            "vae/config.json",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
            "safety_checker/config.json",
            "safety_checker/model.safetensors",
            "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        ];
        let mut found = needed(&files.map(String::from));
        found.sort();
        let expected = [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/model.fp16.safetensors",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
            "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/config.json",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn only_what_a_network_reads_is_fetched() {
        let files = [
            ".gitattributes",
            "README.md",
            "config.json",
            "flax_model.msgpack",
            "merges.txt",
            "model.fp16.safetensors",
            "model.safetensors",
            "onnx/model.safetensors",
            "preprocessor_config.json",
            "pytorch_model.bin",
            "vocab.json",
        ];
        let found = needed_by_network(&files.map(String::from));
        assert_eq!(found, ["config.json", "merges.txt", "model.safetensors", "preprocessor_config.json", "vocab.json"]);
    }

    #[test]
    fn a_repository_of_pickles_is_refused() {
        let files = ["model_index.json", "unet/a.safetensors", "unet/a.bin", "vae/b.bin", "safety_checker/c.bin"];
        let problem = only_pickled(&files.map(String::from)).unwrap();
        assert!(problem.contains("vae/b.bin") && problem.contains("save_pretrained"), "{problem}");
        assert_eq!(only_pickled(&files[..3].iter().map(ToString::to_string).collect::<Vec<_>>()), None);
    }

    #[test]
    fn the_cache_serves_without_network_and_is_listed_when_it_cannot() {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("models--me--mine");
        let snapshot = model.join("snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(model.join("refs")).unwrap();
        std::fs::write(model.join("refs/main"), "abc").unwrap();
        std::fs::write(snapshot.join(INDEX), "{}").unwrap();
        let cache = Cache::new(home.path().into());
        let repo = |id: &str| Repo::with_revision(id.into(), RepoType::Model, MAIN.into());
        assert_eq!(cached(&cache, repo("me/mine"), PIPELINE), Some(snapshot));
        assert_eq!(cached(&cache, repo("me/mine"), NETWORK), None);
        assert_eq!(cached(&cache, repo("me/other"), PIPELINE), None);
        let message = fault("me/other", MAIN, &cache, "no network").to_string();
        assert!(message.contains("me/mine") && message.contains("no network"), "{message}");
    }
}
