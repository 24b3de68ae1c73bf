//! A model's folder and its components.

use super::{Fields, INDEX, locate};
use crate::digest::Digest;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A model in the layout of diffusers.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    name: String,
    path: PathBuf,
    index: Map<String, Value>,
}

/// Names that weight files go by, in the order of preference.
const STEMS: [&str; 4] = ["diffusion_pytorch_model", "model", "diffusion_pytorch_model.fp16", "model.fp16"];

/// What names of pickled weights end in.
pub(super) const PICKLED: [&str; 4] = ["bin", "ckpt", "pt", "pth"];

impl ModelFolder {
    /// Finds a model by name, path or hub id and reads its index.
    ///
    /// # Errors
    /// As [`locate`]; an unreadable index.
    pub fn open(name: &str) -> Result<Self> {
        let path = locate(name)?;
        let file = path.join(INDEX);
        let text = std::fs::read_to_string(&file).map_err(Error::file(&file))?;
        match serde_json::from_str(&text) {
            Ok(Value::Object(index)) => Ok(Self { name: name.into(), path, index }),
            _ => Err(Error::format(&file, "expected a JSON object that names the components")),
        }
    }

    /// The name it was opened by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A value of the index itself, as `_class_name`.
    #[must_use]
    pub fn note(&self, key: &str) -> Option<&Value> {
        self.index.get(key)
    }

    /// The pipeline's class, which must be one of `classes`.
    ///
    /// # Errors
    /// Names the class that was found.
    pub fn class(&self, classes: &[&str]) -> Result<&str> {
        match self.note("_class_name").and_then(Value::as_str) {
            Some(class) if classes.contains(&class) => Ok(class),
            found => {
                let problem = format!("_class_name = {found:?} is not supported, expected {}", classes.join(" or "));
                Err(Error::format(self.path.join(INDEX), problem))
            }
        }
    }

    /// Whether the index names a component whose folder is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let named = self.index.get(name).and_then(|entry| entry.get(1)).is_some_and(Value::is_string);
        named && self.path.join(name).is_dir()
    }

    /// The folder of a component, whose class the index must give as one of `classes`.
    ///
    /// # Errors
    /// A component that the index lacks or gives another class, or a folder that is not there.
    pub fn component(&self, name: &str, classes: &[&str]) -> Result<PathBuf> {
        let index = self.path.join(INDEX);
        let class = self.index.get(name).and_then(|entry| entry.get(1)).and_then(Value::as_str);
        match class {
            None => return Err(Error::format(index, format!("component {name} is missing"))),
            Some(class) if !classes.contains(&class) => {
                let problem =
                    format!("component {name} is a {class}, which is not supported: expected {}", classes.join(" or "));
                return Err(Error::format(index, problem));
            }
            Some(_) => {}
        }
        let folder = self.path.join(name);
        if folder.is_dir() {
            Ok(folder)
        } else {
            Err(Error::format(folder, format!("missing, though {INDEX} names it")))
        }
    }

    /// Reads a component's configuration.
    ///
    /// # Errors
    /// A missing or unreadable file.
    pub fn fields(&self, component: &str, file: &str) -> Result<Fields> {
        Fields::read(&self.path.join(component).join(file))
    }

    /// A component's safetensors files: one, or all shards of an index.
    ///
    /// # Errors
    /// Missing files; weights that are there only in pickled form.
    pub fn weights(&self, component: &str) -> Result<Vec<PathBuf>> {
        component_weights(&self.path.join(component))
    }

    /// A digest of the index and of these components' files: 16 hexadecimal digits.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn fingerprint(&self, components: &[&str]) -> Result<String> {
        let mut digest = Digest::default();
        digest.file(&self.path.join(INDEX))?;
        for component in components {
            let folder = self.path.join(component);
            let entries = std::fs::read_dir(&folder).map_err(Error::file(&folder))?;
            let mut files: Vec<PathBuf> = entries
                .filter_map(|e| Some(e.ok()?.path()))
                .filter(|p| {
                    p.extension().is_some_and(|e| e == "json" || e == "txt" || e == "model" || e == "safetensors")
                })
                .collect();
            files.sort();
            for file in files {
                digest.bytes(component.as_bytes());
                digest.file(&file)?;
            }
        }
        Ok(digest.hex())
    }
}

/// The safetensors files in a component's folder: one, or all shards of an index.
///
/// # Errors
/// Missing files; weights that are there only in pickled form.
pub fn component_weights(folder: &Path) -> Result<Vec<PathBuf>> {
    for stem in STEMS {
        let single = folder.join(format!("{stem}.safetensors"));
        if single.is_file() {
            return Ok(vec![single]);
        }
        let index = folder.join(format!("{stem}.safetensors.index.json"));
        if index.is_file() {
            return shards(folder, &index);
        }
    }
    let text = folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"text"));
    let wanted = folder.join(format!("{}.safetensors", STEMS[usize::from(text)]));
    let mut pickled: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| Path::new(name).extension().is_some_and(|end| PICKLED.iter().any(|p| end == *p)))
        .collect();
    pickled.sort();
    let Some(first) = pickled.first() else { return Err(Error::format(wanted, "missing")) };
    let problem = format!(
        "only pickled weights here ({}), which can run code when read; convert them in Python with \
         safetensors.torch.save_file(torch.load({first:?}, weights_only=True), {:?}), or open the model there and call \
         save_pretrained, which writes safetensors",
        pickled.join(", "),
        wanted.file_name().unwrap_or_default()
    );
    Err(Error::format(folder, problem))
}

/// The folder of a component, of a model or of any folder that holds the component in its usual subfolder.
///
/// # Errors
/// As [`locate`], or a component that is not there.
pub fn component_folder(model: &str, component: &str) -> Result<PathBuf> {
    let direct = Path::new(model).join(component);
    if direct.is_dir() {
        return Ok(direct);
    }
    let folder = locate(model)?.join(component);
    if folder.is_dir() { Ok(folder) } else { Err(Error::format(folder, "missing: this model has no such component")) }
}

/// The files that an index of shards names.
fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let mut fields = Fields::read(index)?;
    let map: std::collections::BTreeMap<String, String> = fields.require("weight_map")?;
    let mut files: Vec<PathBuf> = map.into_values().map(|f| folder.join(f)).collect();
    files.sort();
    files.dedup();
    match files.iter().find(|f| !f.is_file()) {
        Some(missing) => Err(Error::format(missing, format!("missing, though {} names it", index.display()))),
        None => Ok(files),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(entries: &[(&str, &str)]) -> (tempfile::TempDir, ModelFolder) {
        let folder = tempfile::tempdir().unwrap();
        let index = r#"{"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"]}"#;
        std::fs::write(folder.path().join(INDEX), index).unwrap();
        for (name, text) in entries {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let model = ModelFolder::open(folder.path().to_str().unwrap()).unwrap();
        (folder, model)
    }

    #[test]
    fn shards_are_found_and_missing_ones_named() {
        let index = r#"{"metadata": {}, "weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}}"#;
        let one = ("unet/m-1.safetensors", "");
        let listed = ("unet/diffusion_pytorch_model.safetensors.index.json", index);
        let (_keep, whole) = model(&[listed, one, ("unet/m-2.safetensors", "")]);
        let names: Vec<String> =
            whole.weights("unet").unwrap().iter().map(|p| p.file_name().unwrap().to_string_lossy().into()).collect();
        assert_eq!(names, ["m-1.safetensors", "m-2.safetensors"]);
        let (_keep, partial) = model(&[listed, one]);
        assert!(partial.weights("unet").unwrap_err().to_string().contains("m-2.safetensors"));
    }

    #[test]
    fn what_is_wrong_with_a_component_is_said() {
        let (_keep, m) = model(&[("vae/diffusion_pytorch_model.bin", "")]);
        assert!(m.weights("vae").unwrap_err().to_string().contains("pickled"));
        let (_other, sharded) = model(&[("unet/pytorch_model-00001-of-00002.bin", ""), ("unet/b.pth", "")]);
        let error = sharded.weights("unet").unwrap_err().to_string();
        assert!(error.contains("(b.pth, pytorch_model-00001-of-00002.bin)") && error.contains("save_file"), "{error}");
        assert!(
            m.weights("unet").unwrap_err().to_string().contains("unet/diffusion_pytorch_model.safetensors: missing")
        );
        assert!(m.component("unet", &["U"]).unwrap_err().to_string().contains("missing"));
        assert!(m.component("vae", &["W"]).unwrap_err().to_string().contains("vae is a V"));
        assert!(m.component("text", &["T"]).unwrap_err().to_string().contains("component text"));
        assert!(m.class(&["Q"]).unwrap_err().to_string().contains("\"P\""));
    }

    #[test]
    fn any_changed_byte_changes_the_fingerprint() {
        let print = |vae: &str| {
            model(&[("vae/a.safetensors", vae), ("vae/config.json", "{}")]).1.fingerprint(&["vae"]).unwrap()
        };
        let long = "x".repeat(3 << 20);
        let changed = format!("{}y{}", &long[..2_000_001], &long[2_000_002..]);
        assert_eq!(print(&long), print(&long));
        assert_ne!(print(&long), print(&changed));
        assert_eq!(print("a").len(), 16);
    }
}
