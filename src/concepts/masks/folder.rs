//! A folder: of Grounded-SAM 2's results, or with a folder of PNG masks for every picture.

use super::{MaskFile, coco};
use crate::concepts::label::{LabelledMask, Vocabulary};
use crate::error::{Error, Result};
use crate::scene::Mask;
use std::path::{Path, PathBuf};

pub(super) fn read(path: &Path) -> Result<MaskFile> {
    let mut file = MaskFile::new(path);
    for entry in sorted(path)? {
        if entry.is_dir() {
            pictures(&mut file, &entry)?;
        } else if entry.extension().is_some_and(|e| e == "json") {
            coco::add_grounded(&mut file, &entry)?;
        }
    }
    if file.pictures.is_empty() {
        return Err(Error::format(path, "neither JSON files nor folders of PNG masks in it"));
    }
    Ok(file)
}

/// The PNG masks of one picture: grey levels of at least 128 are inside; all have the size of the first.
fn pictures(file: &mut MaskFile, folder: &Path) -> Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    file.picture(&name);
    let mut size = None;
    for path in sorted(folder)?.into_iter().filter(|p| p.extension().is_some_and(|e| e == "png")) {
        let image = image::open(&path).map_err(|e| Error::format(&path, e))?.to_luma8();
        let (w, h) = (image.width() as usize, image.height() as usize);
        let mask = Mask::from_grey(w, h, image.as_raw()).map_err(|e| e.to_string());
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        // `cat-2` is another cat.
        let word = match stem.rsplit_once('-') {
            Some((word, number)) if number.parse::<usize>().is_ok() => word,
            _ => &stem,
        };
        let word = word.replace('_', " ").to_lowercase();
        let mask = mask.map(|m| LabelledMask::new(Vocabulary::Class, word, m));
        file.add(&path.display().to_string(), &name, *size.get_or_insert((w, h)), mask);
    }
    Ok(())
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::file(folder))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma};

    #[test]
    fn png_masks_are_read_by_picture_and_label() {
        let folder = tempfile::tempdir().unwrap();
        let picture = folder.path().join("000001");
        std::fs::create_dir(&picture).unwrap();
        let save = |name: &str, w, level: u8| {
            GrayImage::from_fn(w, 2, |x, _| Luma([if x == 0 { level } else { 0 }])).save(picture.join(name)).unwrap();
        };
        save("red_cat.png", 3, 255);
        save("red_cat-2.png", 3, 100);
        let file = MaskFile::open_sound(folder.path()).unwrap();
        let masks = file.of("000001.png").unwrap();
        assert_eq!((masks.len(), masks[0].label.word.as_str(), masks[0].mask.area()), (1, "red cat", 2));
        assert!(file.problems()[0].contains("red_cat-2.png: a mask without a pixel"), "{:?}", file.problems());
        assert!(MaskFile::open(folder.path()).unwrap_err().to_string().contains("open_sound"));
        save("sea.png", 4, 255);
        let file = MaskFile::open_sound(folder.path()).unwrap();
        assert!(file.problems()[1].contains("4×2 for a picture of 3×2"), "{:?}", file.problems());
        assert!(MaskFile::open(picture).unwrap_err().to_string().contains("neither"));
    }
}
