//! SAEs from the Hugging Face hub, kept in its usual cache. A repository may hold many, each in a folder of its own.

use crate::error::{Error, Result};
use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};
use std::path::{Path, PathBuf};

/// Files that a layout may need; others of the folder are not fetched.
const FILES: [&str; 8] = [
    super::saelens::WEIGHTS,
    "cfg.json",
    super::sparsify::WEIGHTS,
    super::dictionary_learning::WEIGHTS,
    "config.json",
    super::sdxl_unbox::WEIGHTS,
    "mean.pt",
    "std.pt",
];

/// A folder of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Id {
    repository: String,
    revision: String,
    /// Empty, or ends with a slash.
    folder: String,
}

/// Reads `owner/repository[@revision][/folder/in/it]`; what looks like a path of this machine is none.
pub(super) fn parse(name: &Path) -> Option<Id> {
    let mut parts = name.to_str()?.trim_end_matches('/').split('/');
    let (owner, repository) = (parts.next()?, parts.next()?);
    let (repository, revision) = repository.split_once('@').unwrap_or((repository, "main"));
    let fine = |s: &str| {
        !s.is_empty() && !s.starts_with('.') && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.=".contains(c))
    };
    let folders: Vec<&str> = parts.collect();
    if ![owner, repository, revision].into_iter().chain(folders.iter().copied()).all(fine) {
        return None;
    }
    let folder: String = folders.iter().flat_map(|f| [f, "/"]).collect();
    Some(Id { repository: format!("{owner}/{repository}"), revision: revision.into(), folder })
}

/// The files of a repository that the SAE in `folder` has.
fn needed(files: impl IntoIterator<Item = String>, folder: &str) -> Vec<String> {
    files.into_iter().filter(|f| f.strip_prefix(folder).is_some_and(|name| FILES.contains(&name))).collect()
}

/// The folder, fetched where it is not yet in the cache (`$HF_HOME`, by default `~/.cache/huggingface`); with
/// `HF_HUB_OFFLINE=1`, or without network, what was fetched before serves.
pub(super) fn fetch(id: &Id) -> Result<PathBuf> {
    let repo = Repo::with_revision(id.repository.clone(), RepoType::Model, id.revision.clone());
    let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !matches!(v.as_str(), "" | "0" | "false"));
    let fetched = if offline { Err("HF_HUB_OFFLINE is set".to_string()) } else { from_network(&repo, id) };
    fetched.or_else(|problem| {
        cached(&Cache::from_env(), repo, id).ok_or_else(|| {
            Error::invalid(format!(
                "{}@{}/{}: cannot be fetched ({problem}), and is not in the cache {}. An SAE in a folder opens by its path",
                id.repository,
                id.revision,
                id.folder,
                Cache::from_env().path().display()
            ))
        })
    })
}

fn cached(cache: &Cache, repo: Repo, id: &Id) -> Option<PathBuf> {
    let repo = cache.repo(repo);
    FILES.iter().find_map(|file| repo.get(&format!("{}{file}", id.folder)))?.parent().map(PathBuf::from)
}

fn from_network(repo: &Repo, id: &Id) -> std::result::Result<PathBuf, String> {
    let api = ApiBuilder::from_env().with_progress(false).with_retries(3).build().map_err(|e| e.to_string())?;
    let api = api.repo(repo.clone());
    let info = api.info().map_err(|e| e.to_string())?;
    let files: Vec<String> = info.siblings.into_iter().map(|s| s.rfilename).collect();
    let needed = needed(files.iter().cloned(), &id.folder);
    if needed.is_empty() {
        // Where the SAEs are: the folders that hold a file of weights.
        let mut folders: Vec<&str> = files.iter().filter_map(|f| f.strip_suffix("cfg.json")).collect();
        folders.extend(files.iter().filter_map(|f| f.strip_suffix("config.json")));
        folders.sort_unstable();
        return Err(format!("no SAE in its folder {:?}, configurations lie in {folders:?}", id.folder));
    }
    let mut folder = None;
    for file in needed {
        let path = api.get(&file).map_err(|e| format!("{file}: {e}"))?;
        folder = path.parent().map(PathBuf::from);
    }
    folder.ok_or_else(|| "nothing was fetched".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> Option<Id> {
        parse(Path::new(name))
    }

    #[test]
    fn ids_name_a_repository_and_a_folder_in_it() {
        let expected = |repository: &str, revision: &str, folder: &str| {
            Some(Id { repository: repository.into(), revision: revision.into(), folder: folder.into() })
        };
        assert_eq!(id("surkovv/sdxl-unbox"), expected("surkovv/sdxl-unbox", "main", ""));
        assert_eq!(id("a/b@v1/layer_3/width=4/"), expected("a/b", "v1", "layer_3/width=4/"));
        for not in ["sae", "/tmp/sae", "./a/b", "../a/b", "a b/c", "a/b@", "a//b"] {
            assert_eq!(id(not), None, "{not}");
        }
    }

    #[test]
    fn only_the_files_of_one_sae_are_fetched() {
        let files = ["cfg.json", "x/cfg.json", "x/sae.safetensors", "x/optimizer.pt", "x/y/sae.safetensors"];
        assert_eq!(needed(files.map(String::from), "x/"), ["x/cfg.json", "x/sae.safetensors"]);
        assert_eq!(needed(files.map(String::from), ""), ["cfg.json"]);
        assert!(needed(files.map(String::from), "z/").is_empty());
    }

    #[test]
    fn what_was_fetched_before_is_found_again() {
        let home = tempfile::tempdir().unwrap();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let at = home.path().join("models--a--b");
        let snapshot = at.join("snapshots").join(commit).join("x");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(at.join("refs")).unwrap();
        std::fs::write(at.join("refs/main"), commit).unwrap();
        std::fs::write(snapshot.join("cfg.json"), "{}").unwrap();
        let cache = Cache::new(home.path().into());
        let repo = || Repo::with_revision("a/b".into(), RepoType::Model, "main".into());
        assert_eq!(cached(&cache, repo(), &id("a/b/x").unwrap()), Some(snapshot));
        assert_eq!(cached(&cache, repo(), &id("a/b/y").unwrap()), None);
    }
}
