//! Masks from files against pycocotools (`tests/golden/make_coco.py`).

use denoscope::prelude::*;
use serde_json::{Value, json};

#[test]
fn polygons_and_runs_are_those_of_pycocotools() {
    let text = std::fs::read_to_string("tests/golden/coco/golden.json").unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    let mut expected = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let rows: Vec<&str> = case["rows"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
        let runs = json!({"size": [case["height"], case["width"]], "counts": case["counts"]});
        for (form, segmentation) in [("polygons", case["polygons"].clone()), ("runs", runs)] {
            // A thin polygon may hold no pixel's middle, which is a fault of its own.
            if segmentation.as_array().is_some_and(Vec::is_empty) || !rows.concat().contains('1') {
                continue;
            }
            let id = images.len();
            images.push(json!({"id": id, "file_name": format!("{i}-{form}.png"), "width": case["width"], "height": case["height"]}));
            annotations.push(json!({"id": id, "image_id": id, "category_id": 1, "segmentation": segmentation}));
            expected.push((format!("{i}-{form}"), rows.concat()));
        }
    }
    assert!(expected.len() > 40, "{} masks", expected.len());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coco.json");
    let coco = json!({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]});
    std::fs::write(&path, coco.to_string()).unwrap();
    let file = MaskFile::open(&path).unwrap();
    for (name, pixels) in expected {
        let masks = file.of(&name).unwrap();
        let found: String = masks[0].mask.iter().map(|inside| if inside { '1' } else { '0' }).collect();
        assert_eq!(found, pixels, "{name}");
    }
}

/// The pictures of a capture find their masks by name, and refuse those of another size.
#[test]
fn a_capture_finds_its_masks() {
    let model = Pipeline::open("scene-unet").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let capture = Capture::new(&model).residuals(["mid_block.attentions.0"]).stages([1.0]).steps(2);
    let store = capture.prompts(&["a red house", "a tree"]).run(folder.path().join("store")).unwrap();
    let write = |width: u64, names: &[String]| {
        let image = |(id, name): (usize, &String)| json!({"id": id, "file_name": name, "width": width, "height": 64});
        let images: Vec<Value> = names.iter().enumerate().map(image).collect();
        let square = json!([[8, 8, 40, 8, 40, 40, 8, 40]]);
        let annotations = json!([{"id": 1, "image_id": 1, "category_id": 3, "segmentation": square}]);
        let coco = json!({"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "tree"}]});
        let path = folder.path().join("coco.json");
        std::fs::write(&path, coco.to_string()).unwrap();
        MaskFile::open(&path).unwrap()
    };
    let names: Vec<String> = (0..2).map(|i| store.image_path(i).to_string_lossy().into_owned()).collect();
    let masks = write(64, &names).for_store(&store).unwrap();
    assert!(masks[0].is_empty() && masks[1][0].label.word == "tree" && masks[1][0].mask.area() == 32 * 32);
    let other = write(50, &names).for_store(&store).unwrap_err().to_string();
    assert!(other.contains("[64, 50]") && other.contains("[64, 64]"), "{other}");
    let missing = write(64, &[names[0].clone(), names[0].clone()]).for_store(&store).unwrap_err().to_string();
    assert!(missing.contains("coco.json"), "{missing}");
}
