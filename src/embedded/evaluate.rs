//! How well an embedded text-to-image model follows captions of scenes that it was not trained on, and how near its pictures
//! are to renders.

use crate::diffusion::pipeline::Pipeline;
use crate::embedded::annotator::SceneAnnotator;
use crate::embedded::dual::{AMONG, SceneDual};
use crate::error::{Error, Result};
use crate::measure::annotate::Annotator;
use crate::measure::captions::Faithfulness;
use crate::measure::judge::judge;
use crate::measure::retrieval::Retrieval;
use crate::measure::segmentation::MapOverlap;
use crate::progress::Progress;
use crate::scene::{Caption, Class, Part, Render, Scene, Split};
use clap::Args;
use image::{RgbImage, imageops};
use std::path::PathBuf;

/// Pictures made at once.
const BATCH: usize = 8;
/// Pictures in a row of the sheet.
const COLUMNS: usize = 10;

/// Generates pictures of held-out captions, judges them and writes a sheet of them.
#[derive(Debug, Clone, Args)]
pub struct Evaluate {
    /// Name or folder of the model.
    #[arg(long, default_value = "scene-unet")]
    pub model: String,
    /// Folder of the annotator; the one that comes with the library by default.
    #[arg(long)]
    pub annotator: Option<PathBuf>,
    /// Captions.
    #[arg(long, default_value_t = 500)]
    pub captions: usize,
    /// DDIM steps.
    #[arg(long, default_value_t = 50)]
    pub steps: usize,
    /// Guidance scale; the model's own by default.
    #[arg(long)]
    pub guidance: Option<f64>,
    /// Combinations of class and colour that training never showed.
    #[arg(long)]
    pub unseen: bool,
    /// Where the sheet of pictures goes.
    #[arg(long)]
    pub sheet: Option<PathBuf>,
}

impl Evaluate {
    /// Runs the evaluation and prints the shares of what is right, with 95 % intervals.
    ///
    /// # Errors
    /// Of the models or of files.
    pub fn run(self) -> Result<()> {
        let pipeline = Pipeline::open(&self.model)?;
        let annotator = match &self.annotator {
            Some(dir) => SceneAnnotator::open_at(dir)?,
            None => SceneAnnotator::open()?,
        };
        let split = if self.unseen { Split::Unseen } else { Split::Test };
        let captions: Vec<Caption> =
            (0..self.captions as u64).map(|i| Scene::sample(split, i).full_caption()).collect();
        let guidance = self.guidance.unwrap_or(pipeline.guidance());
        let mut progress = Progress::new("captions", captions.len());
        let (mut verdicts, mut pictures) = (Vec::new(), Vec::new());
        for (n, group) in captions.chunks(BATCH).enumerate() {
            let prompts: Vec<&str> = group.iter().map(|c| c.text.as_str()).collect();
            let seeds: Vec<u64> = (0..group.len()).map(|i| (n * BATCH + i) as u64).collect();
            let made = pipeline.prompts(&prompts).seeds(&seeds).steps(self.steps).guidance(guidance).run()?;
            let images: Vec<RgbImage> = made.into_iter().map(|p| p.image).collect();
            let annotations = annotator.annotate(&images)?;
            verdicts.extend(group.iter().zip(&annotations).map(|(c, a)| judge(&c.facts, a)));
            pictures.extend(images);
            progress.at(verdicts.len(), "");
        }
        let found = Faithfulness { verdicts };
        println!("{} captions, {} steps, guidance {guidance}", captions.len(), self.steps);
        println!("{found}");
        // The same network on the truth says how far it can be trusted.
        let renders: Vec<Render> = (0..captions.len() as u64).map(|i| Scene::sample(split, i).render()).collect();
        let truth: Vec<RgbImage> = renders.iter().map(|r| r.image.clone()).collect();
        let annotations = annotator.annotate(&truth)?;
        let (mut classes, mut parts) = (MapOverlap::new(Class::COUNT), MapOverlap::new(Part::COUNT));
        for (found, render) in annotations.iter().zip(&renders) {
            classes.add_maps(&found.class_map, &render.class_map);
            parts.add_maps(&found.part_map(), &render.part_map);
        }
        let verdicts = captions.iter().zip(&annotations).map(|(c, a)| judge(&c.facts, a)).collect();
        println!("renders of the same scenes, judged the same way\n{}", Faithfulness { verdicts });
        println!("annotator on these renders, mean IoU of objects {}", classes.named(Class::ALL));
        println!("  of parts {}", parts.named(Part::ALL));
        if pictures.len() > 1 {
            // Scenes of other numbers: what two sets of renders come to.
            let n = captions.len() as u64;
            let others: Vec<RgbImage> = (n..2 * n).map(|i| Scene::sample(split, i).render().image).collect();
            let real = annotator.gaussian(&truth)?;
            let distance = |images: &[RgbImage]| annotator.gaussian(images)?.distance(&real);
            println!(
                "Fréchet distance (the annotator's features) to renders of the same scenes: {:.3}",
                distance(&pictures)?
            );
            println!("  of renders of other scenes: {:.3}", distance(&others)?);
        }
        let whole = captions.len() / AMONG * AMONG;
        if whole > 0 {
            let scorer = SceneDual::open()?;
            let texts: Vec<&str> = captions[..whole].iter().map(|c| c.text.as_str()).collect();
            println!("{}", Retrieval::of(&scorer, &pictures[..whole], &texts, AMONG)?);
            println!("  of renders: {}", Retrieval::of(&scorer, &truth[..whole], &texts, AMONG)?);
        }
        if let Some(path) = &self.sheet {
            sheet(&pictures).save(path).map_err(|e| Error::format(path, e))?;
        }
        Ok(())
    }
}

/// Pictures in rows, a pixel apart.
fn sheet(pictures: &[RgbImage]) -> RgbImage {
    let (w, h) = pictures.first().map_or((1, 1), RgbImage::dimensions);
    let columns = COLUMNS.min(pictures.len().max(1));
    let rows = pictures.len().div_ceil(columns);
    let mut all = RgbImage::from_pixel((w + 1) * columns as u32, (h + 1) * rows as u32, image::Rgb([255; 3]));
    for (i, picture) in pictures.iter().enumerate() {
        let (x, y) = ((w + 1) * (i % columns) as u32, (h + 1) * (i / columns) as u32);
        imageops::replace(&mut all, picture, i64::from(x), i64::from(y));
    }
    all
}
