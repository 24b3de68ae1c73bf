//! Masks from files: what an annotator outside of this library found in pictures.
//!
//! Three forms are read as they come: COCO's JSON (polygons, and run lengths plain or compressed), the JSON that
//! Grounded-SAM 2 writes for a picture, and a folder of PNG masks. A picture is known by its file's name without folder
//! and ending, so that `images/000012.png`, `000012.jpg` and `000012` are one.

mod coco;
mod folder;
mod polygon;
mod rle;

use super::label::LabelledMask;
use crate::activations::Store;
use crate::error::{Error, Result};
use crate::scene::Mask;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The masks of many pictures.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MaskFile {
    path: PathBuf,
    pictures: BTreeMap<String, Vec<LabelledMask>>,
    problems: Vec<String>,
}

/// What two masks of one label must share to be the same thing twice.
const SAME: f32 = 0.95;

impl MaskFile {
    /// Reads masks from a JSON file, or from a folder: one of such JSON files, one a picture, or one with a folder of
    /// PNG masks for every picture, each named by its label (`cat.png`, `cat-2.png`).
    ///
    /// ```no_run
    /// use denoscope::concepts::MaskFile;
    /// # fn demo(store: &denoscope::activations::Store) -> denoscope::Result<()> {
    /// let masks = MaskFile::open("instances.json")?.for_store(store)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A file that cannot be read, of another form, or with any fault: file, entry and fault are named. A fault is an
    /// unknown category or picture, a repeated id, a mask of another size than its picture, without a pixel or the same as
    /// another with its label, broken run lengths, or a polygon that has no area or leaves the picture.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let found = Self::read(path.as_ref())?;
        match found.problems.first() {
            None => Ok(found),
            Some(first) => {
                let more = found.problems.len() - 1;
                let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
                let hint = "open_sound leaves faulty entries out";
                Err(Error::format(path.as_ref(), format!("{first}{more}; {hint}")))
            }
        }
    }

    /// Reads the entries that are sound, and [lists](Self::problems) the others.
    ///
    /// # Errors
    /// A file that cannot be read or is of another form.
    pub fn open_sound(path: impl AsRef<Path>) -> Result<Self> {
        Self::read(path.as_ref())
    }

    /// What is wrong with the entries that were left out.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The names of the pictures.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pictures.keys().map(String::as_str)
    }

    /// The masks of a picture, by its file's name.
    ///
    /// # Errors
    /// A picture that is not in the file; the nearest names are said.
    pub fn of(&self, picture: &str) -> Result<&[LabelledMask]> {
        let found = self.pictures.get(stem(picture));
        found
            .map(Vec::as_slice)
            .ok_or_else(|| Error::format(&self.path, Error::unknown("picture", stem(picture), self.pictures.keys())))
    }

    /// The masks of the pictures of a store, by the names of its image files: one list a picture.
    ///
    /// # Errors
    /// A picture that is not in the file, or masks of another size than it.
    pub fn for_store(&self, store: &Store) -> Result<Vec<Vec<LabelledMask>>> {
        (0..store.items().len())
            .map(|i| {
                let path = store.image_path(i);
                let masks = self.of(&path.to_string_lossy())?;
                if let Some(first) = masks.first() {
                    let (w, h) = image::image_dimensions(&path).map_err(|e| Error::format(&path, e))?;
                    let (found, expected) =
                        (vec![first.mask.height(), first.mask.width()], vec![h as usize, w as usize]);
                    if found != expected {
                        let what =
                            format!("{}: masks of picture {}", self.path.display(), stem(&path.to_string_lossy()));
                        return Err(Error::Shape { what, found, expected });
                    }
                }
                Ok(masks.to_vec())
            })
            .collect()
    }

    fn read(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return folder::read(path);
        }
        let text = std::fs::read_to_string(path).map_err(Error::file(path))?;
        coco::read(path, &text)
    }

    fn new(path: &Path) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// The masks of a picture, which may have none. `picture` is the name without folder and ending.
    fn picture(&mut self, picture: &str) -> &mut Vec<LabelledMask> {
        self.pictures.entry(picture.to_string()).or_default()
    }

    /// Adds a mask, or says why not. `size` is the picture's width and height.
    fn add(&mut self, entry: &str, picture: &str, (width, height): (usize, usize), mask: Result<LabelledMask, String>) {
        let masks = self.picture(picture);
        let mask = mask.and_then(|m| {
            let size = (m.mask.width(), m.mask.height());
            if size != (width, height) {
                return Err(format!("a mask of {}×{} for a picture of {width}×{height}", size.0, size.1));
            }
            if m.mask.is_empty() {
                return Err("a mask without a pixel".into());
            }
            let twice = |other: &&LabelledMask| other.label == m.label && same(&other.mask, &m.mask);
            match masks.iter().find(twice) {
                Some(_) => Err(format!("{:?} is marked twice in the same place", m.label.word)),
                None => Ok(m),
            }
        });
        match mask {
            Ok(mask) => masks.push(mask),
            Err(problem) => self.problems.push(format!("{entry}: {problem}")),
        }
    }
}

fn same(a: &Mask, b: &Mask) -> bool {
    a.iou(b).is_ok_and(|iou| iou > SAME)
}

/// A file's name without folder and ending.
fn stem(name: &str) -> &str {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
    file.rsplit_once('.').map_or(file, |(stem, _)| stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_known_by_their_stems() {
        for name in ["000012", "000012.png", "images/000012.jpg", "C:\\pictures\\000012.webp"] {
            assert_eq!(stem(name), "000012");
        }
        assert_eq!(stem("v1.5/a.b.png"), "a.b");
    }
}
