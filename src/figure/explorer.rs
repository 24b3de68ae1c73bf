//! A whole SAE on one page: search, sort, and a page for every concept, with pictures, maps and neighbours.
//!
//! The page is one HTML file without anything to fetch. What the list needs is JSON; what a concept's page needs lies in
//! one base64 record of fixed length a latent, which is decoded when it is looked at. It stands behind the script, so that
//! the first view does not wait for thousands of maps. Maps have four bits a cell, and grids above 16×16 are brought down by the greatest value;
//! pictures are JPEG, in sheets.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, replace, resize};
use image::{ExtendedColorType, RgbImage};
use serde_json::json;

use super::render;
use crate::concepts::survey::BINS;
use crate::concepts::{Dictionary, SurveyResult};
use crate::error::{Error, Result};
use crate::html::{display, escape, script_json};

/// Side of a small picture in pixels.
const SIDE: u32 = 64;

/// Small pictures in a row, and in a column, of a sheet.
const SHEET: u32 = 16;

/// Quality of the sheets' JPEG: small pictures of flat colours show no blocks at this quality, at a third of PNG's size.
const QUALITY: u8 = 85;

/// Greatest side of a map on the page.
const MAP: usize = 16;

/// Words of the prompts on a concept's page.
const WORDS: usize = 8;

/// Characters of a prompt that are kept.
const PROMPT: usize = 110;

/// Labels of a latent that are kept.
const LABELS: usize = 24;

/// Marks an index that is not there.
const NONE: u16 = u16::MAX;

/// The page of an SAE.
///
/// ```
/// use denoscope::activations::Activations;
/// use denoscope::concepts::Survey;
/// use denoscope::figure::Explorer;
/// use denoscope::sae::Sae;
///
/// let sae = Sae::random(3, 12, 2, 0)?;
/// let activations = Activations::from_vec((2, 2), 3, (0..60).map(|v| (v % 7) as f32).collect())?;
/// let survey = Survey::new().build(&sae, &activations, &[])?;
/// let page = Explorer::new(&survey).title("A random dictionary").to_html()?;
/// assert!(page.starts_with("<!DOCTYPE html>"));
/// # Ok::<(), denoscope::Error>(())
/// ```
///
/// Keys: `/` search, ↑ ↓ (or k j) concept by concept, Home and End, `1` to `9` neighbours, `h` hides the maps, Esc back to
/// the list.
pub struct Explorer<'a> {
    survey: &'a SurveyResult,
    dictionary: Option<&'a Dictionary>,
    pictures: Option<Box<dyn Fn(usize) -> Result<RgbImage> + 'a>>,
    prompts: Vec<String>,
    title: String,
    height: u32,
}

impl<'a> Explorer<'a> {
    /// The page of a survey, without labels and pictures so far.
    #[must_use]
    pub fn new(survey: &'a SurveyResult) -> Self {
        let title = "SAE explorer".into();
        Self { survey, dictionary: None, pictures: None, prompts: Vec::new(), title, height: 720 }
    }

    /// Adds the labels of the latents.
    #[must_use]
    pub fn dictionary(mut self, dictionary: &'a Dictionary) -> Self {
        self.dictionary = Some(dictionary);
        self
    }

    /// Adds the picture of each item: `|i| store.image(i)`.
    #[must_use]
    pub fn pictures(mut self, picture: impl Fn(usize) -> Result<RgbImage> + 'a) -> Self {
        self.pictures = Some(Box::new(picture));
        self
    }

    /// Adds the prompt of each item.
    #[must_use]
    pub fn prompts<S: AsRef<str>>(mut self, prompts: impl IntoIterator<Item = S>) -> Self {
        self.prompts = prompts.into_iter().map(|p| p.as_ref().to_string()).collect();
        self
    }

    /// The title.
    #[must_use]
    pub fn title(mut self, title: impl ToString) -> Self {
        self.title = title.to_string();
        self
    }

    /// Height in a notebook, in CSS pixels (720).
    #[must_use]
    pub fn height(mut self, pixels: u32) -> Self {
        self.height = pixels;
        self
    }

    /// The page as a whole HTML document.
    ///
    /// # Errors
    /// A dictionary of another SAE, more than 65,534 latents or pictures, or a picture that cannot be had.
    pub fn to_html(&self) -> Result<String> {
        let s = self.survey;
        let n = s.latents.len();
        if let Some(d) = self.dictionary.filter(|d| d.concepts.len() != n) {
            let (found, expected) = (vec![d.concepts.len()], vec![n]);
            return Err(Error::Shape { what: "dictionary for an explorer (latents)".into(), found, expected });
        }
        if n >= usize::from(NONE) {
            return Err(Error::invalid(format!("explorer: {n} latents, expected fewer than {NONE}")));
        }
        let (pictures, sheets) = self.sheets()?;
        let mut words = Words::default();
        let mut records = String::new();
        let grid = (s.grid.0.min(MAP), s.grid.1.min(MAP));
        let examples = s.latents.iter().map(|l| l.maps.len()).max().unwrap_or(0);
        let neighbours = s.latents.iter().map(|l| l.neighbours.len()).max().unwrap_or(0);
        let mut chars = 0;
        for latent in 0..n {
            let record = self.record(latent, (examples, neighbours), &pictures, grid, &mut words)?;
            let text = BASE64.encode(record);
            chars = text.len();
            records.push_str(&text);
        }
        let mut names: BTreeMap<(String, &str), usize> = BTreeMap::new();
        for entry in self.dictionary.iter().flat_map(|d| &d.concepts).flat_map(|c| c.labels.iter().take(LABELS)) {
            names.insert((entry.label.word.clone(), entry.label.vocabulary.name()), 0);
        }
        names.values_mut().enumerate().for_each(|(i, place)| *place = i);
        let mille = |x: f32| (f64::from(x) * 1000.0).round() as i64;
        let labels = |latent: usize| -> Vec<[i64; 4]> {
            let all = self.dictionary.map_or(&[][..], |d| &d.concepts[latent].labels);
            let one = |e: &crate::concepts::Entry| {
                let at = names[&(e.label.word.clone(), e.label.vocabulary.name())];
                [at as i64, e.hits as i64, mille(e.mean_iou), mille(e.precision)]
            };
            all.iter().take(LABELS).map(one).collect()
        };
        let round = |x: f64| if x == 0.0 { 0.0 } else { format!("{x:.2e}").parse().unwrap_or(x) };
        let t = s.timeline.t();
        let emergence = |latent: usize| -> Result<i64> {
            let at = s.timeline.emergence(latent)?;
            Ok(at.and_then(|at| t.iter().position(|x| *x == at)).map_or(-1, |i| i as i64))
        };
        let mut prompts = vec![String::new(); pictures.len()];
        for (&item, &place) in &pictures {
            if let Some(prompt) = self.prompts.get(item) {
                prompts[usize::from(place)] = shortened(prompt);
            }
        }
        let data = json!({
            "t": t.iter().map(|t| (t * 1000.0).round() / 1000.0).collect::<Vec<_>>(),
            "grid": [grid.0, grid.1],
            "chars": chars,
            "examples": examples,
            "neighbours": neighbours,
            "bins": BINS,
            "shownWords": WORDS,
            "pictures": s.items,
            "side": SIDE,
            "columns": SHEET,
            "perSheet": SHEET * SHEET,
            "prompts": prompts,
            "promptWords": words.names,
            "names": names.keys().map(|(w, k)| [w.as_str(), k]).collect::<Vec<_>>(),
            "labels": (0..n).map(labels).collect::<Vec<_>>(),
            "density": (0..n).map(|l| Ok(round(s.density(l)?))).collect::<Result<Vec<f64>>>()?,
            "items": s.latents.iter().map(|l| l.firing.items).collect::<Vec<_>>(),
            "max": s.latents.iter().map(|l| round(f64::from(l.firing.max))).collect::<Vec<_>>(),
            "emergence": (0..n).map(emergence).collect::<Result<Vec<_>>>()?,
        });
        Ok(self.document(&script_json(&data.to_string()), &script_json(&json!(sheets).to_string()), &records))
    }

    fn document(&self, data: &str, sheets: &str, records: &str) -> String {
        let (title, sae) = (escape(&self.title), escape(&self.survey.sae));
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<style>\n{}</style></head>\n\
             <body><div id=\"app\"><header><h1>{title}</h1><span class=\"grey\">{sae}</span>\n\
             <span class=\"grey small\">/ search · ↑ ↓ concepts · 1–9 neighbours · h maps on and off</span></header>\n\
             <nav aria-label=\"concepts\"><div class=\"controls\">\
             <input id=\"search\" type=\"search\" placeholder=\"word or number\" aria-label=\"search by word or number\">\
             <select id=\"sort\" aria-label=\"sort by\"></select><select id=\"kind\" aria-label=\"show\"></select>\
             <span id=\"count\" class=\"small grey\" role=\"status\" style=\"grid-column:1/3\"></span></div>\n\
             <div id=\"list\" role=\"listbox\" tabindex=\"0\" aria-label=\"latents\"><div id=\"rows\"></div></div></nav>\n\
             <main id=\"page\" tabindex=\"-1\" aria-live=\"polite\"></main></div>\n\
             <script type=\"application/json\" id=\"data\">{data}</script>\n<script>\n{}</script>\n\
             <script type=\"application/json\" id=\"sheets\">{sheets}</script>\n\
             <script type=\"text/plain\" id=\"records\">{records}</script></body></html>\n",
            include_str!("explorer.css"),
            include_str!("explorer.js"),
        )
    }

    /// Saves the page; the file is whole or absent.
    ///
    /// # Errors
    /// As [`to_html`](Self::to_html), another extension than `html`, or a file that cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        render::extension(path, &["html"])?;
        render::write(path, self.to_html()?.as_bytes())
    }

    /// Shows the page in a notebook cell, in a frame of its own.
    pub fn evcxr_display(&self) {
        let html = match self.to_html() {
            Ok(page) => format!(
                "<iframe title=\"{}\" style=\"width:100%;height:{}px;border:1px solid #ddd\" srcdoc=\"{}\"></iframe>",
                escape(&self.title),
                self.height,
                page.replace('&', "&amp;").replace('"', "&quot;")
            ),
            Err(e) => {
                eprintln!("figure: {e}");
                render::problem(&e)
            }
        };
        display(&html);
    }

    /// The place of every top picture, and the sheets that hold them as data URIs.
    fn sheets(&self) -> Result<(HashMap<usize, u16>, Vec<String>)> {
        let mut items: Vec<usize> =
            self.survey.latents.iter().flat_map(|l| l.firing.top.iter().map(|e| e.item)).collect();
        items.sort_unstable();
        items.dedup();
        let Some(picture) = &self.pictures else { return Ok((HashMap::new(), Vec::new())) };
        if items.len() >= usize::from(NONE) {
            let n = items.len();
            return Err(Error::invalid(format!("explorer: {n} pictures, expected fewer than {NONE}")));
        }
        let mut sheets = Vec::new();
        for chunk in items.chunks((SHEET * SHEET) as usize) {
            let rows = (chunk.len() as u32).div_ceil(SHEET);
            let mut sheet = RgbImage::new(SHEET * SIDE, rows * SIDE);
            for (i, &item) in chunk.iter().enumerate() {
                let image = picture(item)?;
                let small = match image.dimensions() {
                    (SIDE, SIDE) => image,
                    // Pixels of a smaller picture stay square; a larger one is averaged.
                    (w, h) if w < SIDE || h < SIDE => resize(&image, SIDE, SIDE, FilterType::Nearest),
                    _ => resize(&image, SIDE, SIDE, FilterType::Triangle),
                };
                let (x, y) = (i as u32 % SHEET * SIDE, i as u32 / SHEET * SIDE);
                replace(&mut sheet, &small, i64::from(x), i64::from(y));
            }
            let mut bytes = Vec::new();
            JpegEncoder::new_with_quality(&mut bytes, QUALITY)
                .encode(sheet.as_raw(), sheet.width(), sheet.height(), ExtendedColorType::Rgb8)
                .map_err(|e| Error::invalid(format!("explorer: a sheet of pictures as JPEG: {e}")))?;
            sheets.push(format!("data:image/jpeg;base64,{}", BASE64.encode(bytes)));
        }
        Ok((items.into_iter().enumerate().map(|(i, item)| (item, i as u16)).collect(), sheets))
    }

    /// What the page of one latent needs, in bytes; all latents have the same number.
    fn record(
        &self,
        latent: usize,
        (examples, neighbours): (usize, usize),
        pictures: &HashMap<usize, u16>,
        grid: (usize, usize),
        words: &mut Words,
    ) -> Result<Vec<u8>> {
        let s = self.survey;
        let found = &s.latents[latent];
        let mut out = Vec::new();
        let place = |i: usize| found.firing.top.get(i).and_then(|e| pictures.get(&e.item)).copied().unwrap_or(NONE);
        (0..examples).for_each(|i| out.extend(place(i).to_le_bytes()));
        let most = found.histogram.iter().copied().max().unwrap_or(0);
        let log = |c: u32| (255.0 * f64::from(c).ln_1p() / f64::from(most.max(1)).ln_1p()).round() as u8;
        out.extend(found.histogram.map(log));
        let bytes = |values: &[f64], most: f64| -> Vec<u8> {
            let share = |v: &f64| if most > 0.0 { (255.0 * v / most).round() as u8 } else { 0 };
            values.iter().map(share).collect()
        };
        let means = s.timeline.mean(latent)?;
        out.extend(bytes(&means, means.iter().copied().fold(0.0, f64::max)));
        for i in 0..neighbours {
            let (near, cosine) = found.neighbours.get(i).copied().map_or((NONE, 0.0), |(l, c)| (l as u16, c));
            out.extend(near.to_le_bytes());
            out.push(((f64::from(cosine) + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8);
        }
        let profiles = s.timeline.words(latent, WORDS)?;
        let most = profiles.iter().flat_map(|p| &p.means).copied().fold(0.0, f64::max);
        for i in 0..WORDS {
            match profiles.get(i) {
                Some(profile) => {
                    out.extend(words.index(&profile.word).to_le_bytes());
                    out.extend(bytes(&profile.means, most));
                }
                None => {
                    out.extend(NONE.to_le_bytes());
                    out.extend(vec![0; means.len()]);
                }
            }
        }
        for i in 0..examples {
            out.extend(nibbles(found.maps.get(i), s.grid, grid, found.firing.max));
        }
        let most = found.over_time.iter().flatten().copied().fold(0.0, f32::max);
        for i in 0..means.len() {
            out.extend(nibbles(found.over_time.get(i), s.grid, grid, most));
        }
        // A multiple of three bytes is a whole number of base64 characters, so that records can be cut out by place.
        out.resize(out.len().next_multiple_of(3), 0);
        Ok(out)
    }
}

/// Words of prompts by number.
#[derive(Default)]
struct Words {
    names: Vec<String>,
    known: HashMap<String, u16>,
}

impl Words {
    fn index(&mut self, word: &str) -> u16 {
        let next = self.names.len() as u16;
        *self.known.entry(word.to_string()).or_insert_with(|| {
            self.names.push(word.to_string());
            next
        })
    }
}

/// A map at the page's grid, four bits a cell: 0 where it is silent, else 1 to 15 up to `most`.
fn nibbles(map: Option<&Vec<f32>>, from: (usize, usize), to: (usize, usize), most: f32) -> Vec<u8> {
    let mut cells = vec![0u8; to.0 * to.1];
    for (i, &v) in map.into_iter().flatten().enumerate().filter(|(_, v)| **v > 0.0 && most > 0.0) {
        let (y, x) = (i / from.1 * to.0 / from.0, i % from.1 * to.1 / from.1);
        let value = (v / most * 15.0).round().clamp(1.0, 15.0) as u8;
        cells[y * to.1 + x] = cells[y * to.1 + x].max(value);
    }
    cells.chunks(2).map(|pair| pair[0] | pair.get(1).copied().unwrap_or(0) << 4).collect()
}

fn shortened(prompt: &str) -> String {
    match prompt.char_indices().nth(PROMPT) {
        Some((end, _)) => format!("{}…", &prompt[..end]),
        None => prompt.to_string(),
    }
}

#[cfg(test)]
#[path = "explorer_tests.rs"]
mod tests;
