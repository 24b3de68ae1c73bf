//! JSON: a data set as COCO has it, or the result for one picture as Grounded-SAM 2 writes it.

use super::{MaskFile, polygon, rle, stem};
use crate::concepts::label::{LabelledMask, Vocabulary};
use crate::error::{Error, Result};
use crate::scene::Mask;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// COCO's JSON, as far as masks go.
#[derive(Deserialize)]
struct Coco {
    images: Vec<Picture>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Picture {
    id: i64,
    file_name: String,
    width: usize,
    height: usize,
}

#[derive(Deserialize)]
struct Annotation {
    id: Option<i64>,
    image_id: i64,
    category_id: i64,
    segmentation: Segmentation,
}

#[derive(Deserialize)]
struct Category {
    id: i64,
    name: String,
    /// `part`, `background` and so on say which vocabulary it is; anything else is a class.
    #[serde(default)]
    supercategory: Option<String>,
}

/// The two forms of a mask.
#[derive(Deserialize)]
#[serde(untagged)]
enum Segmentation {
    Polygons(Vec<Vec<f64>>),
    Runs { size: [usize; 2], counts: Counts },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Counts {
    Plain(Vec<u64>),
    Compressed(String),
}

/// Grounded-SAM 2's result for a picture.
#[derive(Deserialize)]
struct Grounded {
    image_path: String,
    annotations: Vec<GroundedAnnotation>,
    img_width: usize,
    img_height: usize,
}

#[derive(Deserialize)]
struct GroundedAnnotation {
    class_name: String,
    segmentation: Segmentation,
}

impl Segmentation {
    fn mask(&self, (width, height): (usize, usize)) -> Result<Mask, String> {
        match self {
            Segmentation::Polygons(polygons) => polygon::mask(polygons, width, height),
            Segmentation::Runs { size: [h, w], counts } => {
                let counts = match counts {
                    Counts::Plain(counts) => counts.clone(),
                    Counts::Compressed(text) => rle::decompress(text)?,
                };
                rle::mask(&counts, *w, *h)
            }
        }
    }
}

/// Reads either form.
pub(super) fn read(path: &Path, text: &str) -> Result<MaskFile> {
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|e| Error::format(path, format!("not valid JSON: {e}")))?;
    let form = |e: serde_json::Error| Error::format(path, e);
    if value.get("images").is_some() {
        Ok(data_set(path, serde_json::from_value(value).map_err(form)?))
    } else if value.get("image_path").is_some() {
        let mut file = MaskFile::new(path);
        grounded(&mut file, path, serde_json::from_value(value).map_err(form)?);
        Ok(file)
    } else {
        let problem = "neither a COCO data set (images, annotations, categories) nor a result of Grounded-SAM 2 \
                       (image_path, annotations)";
        Err(Error::format(path, problem))
    }
}

/// Adds the result for one picture.
fn grounded(file: &mut MaskFile, path: &Path, result: Grounded) {
    let size = (result.img_width, result.img_height);
    let picture = stem(&result.image_path);
    file.picture(picture);
    for (i, annotation) in result.annotations.iter().enumerate() {
        let mask = annotation.segmentation.mask(size);
        // Its detector ends a phrase with a dot.
        let word = annotation.class_name.trim().trim_end_matches('.').to_lowercase();
        let mask = mask.map(|m| LabelledMask::new(Vocabulary::Class, word, m));
        file.add(&format!("{}: annotations[{i}]", path.display()), picture, size, mask);
    }
}

/// Adds the result for one picture from a file of its own.
pub(super) fn add_grounded(file: &mut MaskFile, path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
    grounded(file, path, serde_json::from_str(&text).map_err(|e| Error::format(path, e))?);
    Ok(())
}

fn data_set(path: &Path, coco: Coco) -> MaskFile {
    let mut file = MaskFile::new(path);
    let mut pictures: BTreeMap<i64, &Picture> = BTreeMap::new();
    for (i, picture) in coco.images.iter().enumerate() {
        if let Some(other) = pictures.get(&picture.id) {
            let (a, b) = (&other.file_name, &picture.file_name);
            file.problems.push(format!("images[{i}]: id {} is that of {a:?}, and of {b:?}", picture.id));
            continue;
        }
        pictures.insert(picture.id, picture);
        file.picture(stem(&picture.file_name));
    }
    let categories: BTreeMap<i64, &Category> = coco.categories.iter().map(|c| (c.id, c)).collect();
    for (i, annotation) in coco.annotations.iter().enumerate() {
        let id = annotation.id.map_or_else(String::new, |id| format!(" (id {id})"));
        let entry = format!("annotations[{i}]{id}");
        let Some(picture) = pictures.get(&annotation.image_id) else {
            file.problems.push(format!("{entry}: image_id {} is not among the images", annotation.image_id));
            continue;
        };
        let Some(category) = categories.get(&annotation.category_id) else {
            file.problems.push(format!("{entry}: category_id {} is not among the categories", annotation.category_id));
            continue;
        };
        let kind = category.supercategory.as_deref().and_then(|s| s.parse().ok()).unwrap_or(Vocabulary::Class);
        let size = (picture.width, picture.height);
        let mask = annotation.segmentation.mask(size).map(|m| LabelledMask::new(kind, category.name.to_lowercase(), m));
        file.add(&entry, stem(&picture.file_name), size, mask);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(annotations: &serde_json::Value) -> MaskFile {
        let coco = json!({
            "images": [{"id": 7, "file_name": "images/000001.png", "width": 3, "height": 2}, {"id": 8, "file_name": "b.jpg", "width": 2, "height": 2}],
            "categories": [{"id": 1, "name": "Cat", "supercategory": "animal"}, {"id": 2, "name": "roof", "supercategory": "part"}],
            "annotations": annotations,
        });
        read(Path::new("coco.json"), &coco.to_string()).unwrap()
    }

    #[test]
    fn masks_of_both_forms_are_read() {
        let file = file(&json!([
            {"id": 1, "image_id": 7, "category_id": 1, "segmentation": {"size": [2, 3], "counts": [1, 2, 3]}},
            {"id": 2, "image_id": 7, "category_id": 2, "segmentation": {"size": [2, 3], "counts": "123"}},
            {"id": 3, "image_id": 7, "category_id": 1, "segmentation": [[0, 0, 1, 0, 1, 2, 0, 2]]},
        ]));
        assert!(file.problems().is_empty(), "{:?}", file.problems());
        let masks = file.of("000001").unwrap();
        assert_eq!(masks.iter().map(|m| m.label.word.as_str()).collect::<Vec<_>>(), ["cat", "roof", "cat"]);
        assert_eq!(masks[1].label.vocabulary, Vocabulary::Part);
        assert_eq!(masks[0].mask, masks[1].mask);
        assert_eq!(masks[2].mask.area(), 2);
        assert!(file.of("b").unwrap().is_empty(), "a picture without a mask");
        assert!(file.of("c").unwrap_err().to_string().contains("coco.json"));
    }

    #[test]
    fn every_fault_is_named_with_its_entry() {
        let runs = json!({"size": [2, 3], "counts": [1, 2, 3]});
        let with = |image: i64, category: i64, segmentation: &serde_json::Value| {
            let file =
                file(&json!([{"id": 9, "image_id": image, "category_id": category, "segmentation": segmentation}]));
            assert_eq!(file.problems().len(), 1);
            file.problems()[0].clone()
        };
        for (image, category, segmentation, fault) in [
            (6, 1, runs.clone(), "image_id 6"),
            (7, 3, runs.clone(), "category_id 3"),
            (8, 1, runs.clone(), "a mask of 3×2 for a picture of 2×2"),
            (7, 1, json!({"size": [2, 3], "counts": [6]}), "without a pixel"),
            (7, 1, json!({"size": [2, 3], "counts": [1, 9]}), "10 pixels"),
            (7, 1, json!({"size": [2, 3], "counts": "1!"}), "'!'"),
            (7, 1, json!([[0, 0, 5, 0, 1, 1]]), "(5, 0)"),
        ] {
            let found = with(image, category, &segmentation);
            assert!(found.contains(fault) && found.starts_with("annotations[0] (id 9)"), "{found}");
        }
        let twice = file(&json!([
            {"image_id": 7, "category_id": 1, "segmentation": runs}, {"image_id": 7, "category_id": 1, "segmentation": runs}
        ]));
        assert!(twice.problems()[0].contains("twice") && twice.of("000001").unwrap().len() == 1);
    }

    #[test]
    fn a_result_of_grounded_sam_is_read() {
        let result = json!({
            "image_path": "out/000003.png", "img_width": 3, "img_height": 2, "box_format": "xyxy",
            "annotations": [{"class_name": "A Cat.", "bbox": [0, 0, 2, 2], "score": [0.9], "segmentation": {"size": [2, 3], "counts": "123"}}],
        });
        let file = read(Path::new("r.json"), &result.to_string()).unwrap();
        assert_eq!(file.of("000003.png").unwrap()[0].label.word, "a cat");
        let other = read(Path::new("r.json"), "{}").unwrap_err().to_string();
        assert!(other.contains("Grounded-SAM"), "{other}");
    }
}
