//! A slider over denoising steps: pictures, heat maps and concept maps that change together.
//!
//! One piece of HTML with plain JavaScript: it works in a notebook cell and on a page, without a network. Where
//! scripts are dropped, as in a notebook that is not trusted, the still picture of the first step shown remains.
//! Pictures are one PNG a panel, maps one byte a cell and step.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::{Rgb as Pixel, RgbImage};
use serde_json::{Value, json};

use super::axis::short;
use super::blend::Style;
use super::colour::{Colours, Rgb, mix, series_colour};
use super::input::{AsImage, texts};
use super::render::{self, png};
use crate::diffusion::pipeline::strip;
use crate::error::{Error, Result};
use crate::html::{escape, script_json};
use crate::random::fnv1a;

/// Width of a panel in CSS pixels.
const WIDTH: usize = 192;

/// Entries of a palette that JavaScript interpolates between.
const PALETTE: usize = 33;

/// Bytes 0–254 stand for values; this one for none.
const NONE: u8 = 255;

/// Pictures and maps under a step slider with a play button. ← and → go a step, Home and End to the ends, Space plays.
///
/// ```
/// use denoscope::figure::Scrubber;
/// let pictures = vec![image::RgbImage::new(64, 64); 3];
/// let maps = vec![vec![0.5f32; 16]; 3];
/// let scrubber = Scrubber::new(["step 0", "step 10", "step 20"])
///     .pictures("expected picture", &pictures)
///     .heat("latent 7", (4, 4), &maps)
///     .heat_over("latent 7 over it", (4, 4), &maps, &pictures)
///     .concepts("concepts", (1, 2), [vec![Some(0), None], vec![Some(0), Some(1)], vec![None, None]], ["tree", "sea"])
///     .title("How a picture takes shape");
/// assert!(scrubber.to_html().contains("<script>"));
/// scrubber.check()?;
/// # Ok::<(), denoscope::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Scrubber {
    steps: Vec<String>,
    panels: Vec<Panel>,
    title: String,
    note: String,
    start: usize,
    pace: u32,
    problem: Option<String>,
}

#[derive(Debug, Clone)]
struct Panel {
    name: String,
    /// One for every step, or none.
    pictures: Vec<RgbImage>,
    map: Option<Map>,
}

#[derive(Debug, Clone)]
struct Map {
    grid: (usize, usize),
    /// `[steps, rows, columns]`.
    cells: Vec<u8>,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Numbers from low to high.
    Heat { low: f64, high: f64, colours: Colours },
    /// Indices into names.
    Concepts(Vec<String>),
}

impl Scrubber {
    /// A scrubber over steps with these labels, noisiest first.
    #[must_use]
    pub fn new(steps: impl IntoIterator<Item = impl ToString>) -> Self {
        let steps = texts(steps);
        let (title, note) = (String::new(), String::new());
        Self { steps, panels: Vec::new(), title, note, start: 0, pace: 250, problem: None }
    }

    /// Adds a panel with a picture for every step.
    #[must_use]
    pub fn pictures(mut self, name: impl ToString, pictures: impl IntoIterator<Item = impl AsImage>) -> Self {
        let pictures = pictures.into_iter().map(|p| p.as_image().clone()).collect();
        self.push(Panel { name: name.to_string(), pictures, map: None });
        self
    }

    /// Adds a heat map of `(height, width)` cells for every step. One range holds for all steps, from zero (or the least
    /// value) to the greatest, so that they may be compared.
    #[must_use]
    pub fn heat(
        self,
        name: impl ToString,
        grid: (usize, usize),
        maps: impl IntoIterator<Item = impl AsRef<[f32]>>,
    ) -> Self {
        self.heat_over(name, grid, maps, Vec::<RgbImage>::new())
    }

    /// Adds heat maps over pictures, which show through where the values are low.
    #[must_use]
    pub fn heat_over(
        mut self,
        name: impl ToString,
        grid: (usize, usize),
        maps: impl IntoIterator<Item = impl AsRef<[f32]>>,
        pictures: impl IntoIterator<Item = impl AsImage>,
    ) -> Self {
        let name = name.to_string();
        let maps: Vec<Vec<f32>> = maps.into_iter().map(|m| m.as_ref().to_vec()).collect();
        self.check_maps(&name, grid, maps.iter().map(Vec::len));
        let style = Style::default();
        let (low, high) = style.range_of(maps.iter().flatten());
        let byte = |v: &f32| match v.is_nan() {
            true => NONE,
            // Saturating: an infinite value is shown at the end of the range.
            false => ((f64::from(*v) - low) / (high - low) * 254.0).round().clamp(0.0, 254.0) as u8,
        };
        let cells = maps.iter().flatten().map(byte).collect();
        let map = Some(Map { grid, cells, kind: Kind::Heat { low, high, colours: style.colours } });
        let pictures = pictures.into_iter().map(|p| p.as_image().clone()).collect();
        self.push(Panel { name, pictures, map });
        self
    }

    /// Adds a map of concepts for every step: which of `names` a cell stands for, if any.
    #[must_use]
    pub fn concepts(
        mut self,
        name: impl ToString,
        grid: (usize, usize),
        maps: impl IntoIterator<Item = impl AsRef<[Option<usize>]>>,
        names: impl IntoIterator<Item = impl ToString>,
    ) -> Self {
        let (name, names) = (name.to_string(), texts(names));
        let maps: Vec<Vec<Option<usize>>> = maps.into_iter().map(|m| m.as_ref().to_vec()).collect();
        self.check_maps(&name, grid, maps.iter().map(Vec::len));
        let most = names.len().min(usize::from(NONE));
        if let Some(c) = maps.iter().flatten().flatten().find(|c| **c >= most) {
            self.object(format!("scrubber {name:?}: concept {c} of {most} names"));
        }
        let cells = maps.iter().flatten().map(|c| c.map_or(NONE, |c| c.min(254) as u8)).collect();
        self.push(Panel { name, pictures: Vec::new(), map: Some(Map { grid, cells, kind: Kind::Concepts(names) }) });
        self
    }

    /// A title above all.
    #[must_use]
    pub fn title(mut self, title: impl ToString) -> Self {
        self.title = title.to_string();
        self
    }

    /// A line below all: which model, which seed.
    #[must_use]
    pub fn note(mut self, note: impl ToString) -> Self {
        self.note = note.to_string();
        self
    }

    /// The step shown first, counted from 0 (the first).
    #[must_use]
    pub fn start(mut self, step: usize) -> Self {
        self.start = step;
        self
    }

    /// Milliseconds a step while it plays (250).
    #[must_use]
    pub fn pace(mut self, milliseconds: u32) -> Self {
        self.pace = milliseconds.max(20);
        self
    }

    /// Whether it can be shown.
    ///
    /// # Errors
    /// No step or panel, a panel whose pictures or maps are not one for every step, maps of another size than their grid,
    /// or pictures of two sizes in one panel; the panel is named.
    pub fn check(&self) -> Result<()> {
        match &self.problem {
            Some(problem) => Err(Error::invalid(problem)),
            None if self.steps.is_empty() => Err(Error::invalid("scrubber: no steps, expected at least one")),
            None if self.panels.is_empty() => Err(Error::invalid("scrubber: no panels, expected at least one")),
            None if self.start >= self.steps.len() => {
                Err(Error::invalid(format!("scrubber: starts at step {} of {}", self.start, self.steps.len())))
            }
            None => Ok(()),
        }
    }

    /// The scrubber as a piece of HTML, or a red box with the reason why there is none.
    #[must_use]
    pub fn to_html(&self) -> String {
        self.html().unwrap_or_else(|e| render::problem(&e))
    }

    /// Saves it as a whole HTML document.
    ///
    /// # Errors
    /// As [`check`](Self::check), another extension than `html`, or a file that cannot be written; the path is named.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        render::extension(path, &["html"])?;
        let html = self.html().map_err(|e| Error::format(path, e))?;
        render::write(path, render::document(&self.title, &html).as_bytes())
    }

    /// Shows it in a notebook cell.
    pub fn evcxr_display(&self) {
        render::show(self);
    }

    fn object(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    fn check_maps(&mut self, name: &str, (h, w): (usize, usize), lengths: impl Iterator<Item = usize>) {
        let lengths: Vec<usize> = lengths.collect();
        if h * w == 0 {
            self.object(format!("scrubber {name:?}: a grid of {h}×{w}"));
        } else if let Some((step, n)) = lengths.iter().enumerate().find(|(_, n)| **n != h * w) {
            self.object(format!("scrubber {name:?}: the map of step {step} has {n} cells, expected {h}×{w}"));
        } else if lengths.len() != self.steps.len() {
            let (found, expected) = (lengths.len(), self.steps.len());
            self.object(format!("scrubber {name:?}: {found} maps for {expected} steps"));
        }
    }

    fn push(&mut self, panel: Panel) {
        let (found, expected) = (panel.pictures.len(), self.steps.len());
        if found != expected && (panel.map.is_none() || found > 0) {
            self.object(format!("scrubber {:?}: {found} pictures for {expected} steps", panel.name));
        } else if let Some(odd) = panel.pictures.iter().position(|p| p.dimensions() != panel.pictures[0].dimensions()) {
            let ((w, h), (a, b)) = (panel.pictures[odd].dimensions(), panel.pictures[0].dimensions());
            self.object(format!("scrubber {:?}: picture {odd} of {w}×{h}, the first of {a}×{b}", panel.name));
        } else if panel.pictures.first().is_some_and(|p| p.width() == 0 || p.height() == 0) {
            self.object(format!("scrubber {:?}: pictures without pixels", panel.name));
        }
        self.panels.push(panel);
    }

    fn html(&self) -> Result<String> {
        self.check()?;
        let panels = self.panels.iter().map(Panel::data).collect::<Result<Vec<_>>>()?;
        let mut data = json!({ "steps": self.steps, "start": self.start, "pace": self.pace, "panels": panels });
        // The same scrubber gets the same id, so that a notebook run again stays the same.
        let id = format!("{:016x}", fnv1a(data.to_string().bytes()));
        data["id"] = json!(id);
        let mut out = format!(
            "<div data-scrubber=\"{id}\" tabindex=\"0\" style=\"background:#fff;color:#222;display:inline-block;\
             max-width:100%;padding:8px 12px;font:13px 'Open Sans','Segoe UI',Helvetica,Arial,sans-serif\">"
        );
        if !self.title.is_empty() {
            out.push_str(&format!("<div style=\"font-weight:600;margin:0 0 6px 0\">{}</div>", escape(&self.title)));
        }
        out.push_str("<div style=\"display:flex;flex-wrap:wrap;gap:12px;align-items:flex-start\">");
        for panel in &self.panels {
            out.push_str(&panel.html(self.start)?);
        }
        out.push_str(&format!(
            "</div><div data-controls style=\"display:none;align-items:center;gap:8px;margin-top:8px\">\
             <button type=\"button\" aria-label=\"play\" style=\"width:34px;height:26px;padding:0\">▶</button>\
             <input type=\"range\" min=\"0\" max=\"{}\" value=\"{}\" aria-label=\"step\" style=\"flex:1;min-width:120px\">\
             <output style=\"min-width:8em;font-variant-numeric:tabular-nums\">{}</output></div>",
            self.steps.len() - 1,
            self.start,
            escape(&self.steps[self.start])
        ));
        if !self.note.is_empty() {
            let note = escape(&self.note);
            out.push_str(&format!("<div style=\"color:#6e6e6e;font-size:12px;margin-top:5px\">{note}</div>"));
        }
        let script = include_str!("scrubber.js").replace("/*DATA*/null", &script_json(&data.to_string()));
        out.push_str(&format!("</div>\n<script>\n{script}</script>"));
        Ok(out)
    }
}

fn uri(image: &RgbImage) -> Result<String> {
    Ok(format!("data:image/png;base64,{}", BASE64.encode(png(image)?)))
}

fn hex([r, g, b]: Rgb) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// The colour of concept `i`: beyond the palette's length lighter.
fn concept_colour(i: usize) -> Rgb {
    mix(series_colour(i), [255; 3], (i / 7).min(3) as f32 * 0.25)
}

impl Panel {
    fn data(&self) -> Result<Value> {
        let mut data = json!({ "name": self.name });
        if let Some(first) = self.pictures.first() {
            let (w, h) = first.dimensions();
            data["strip"] = json!(uri(&strip(&self.pictures))?);
            data["picture"] = json!([w, h]);
        }
        let Some(map) = &self.map else { return Ok(data) };
        data["rows"] = json!(map.grid.0);
        data["columns"] = json!(map.grid.1);
        data["cells"] = json!(BASE64.encode(&map.cells));
        match &map.kind {
            Kind::Heat { low, high, colours } => {
                let at = |i: usize| hex(colours.at(i as f32 / (PALETTE - 1) as f32));
                data["palette"] = json!((0..PALETTE).map(at).collect::<Vec<_>>());
                data["low"] = json!(low);
                data["high"] = json!(high);
            }
            Kind::Concepts(names) => {
                data["palette"] = json!((0..names.len()).map(|i| hex(concept_colour(i))).collect::<Vec<_>>());
                data["names"] = json!(names);
            }
        }
        Ok(data)
    }

    /// What a step looks like without JavaScript.
    fn still(&self, step: usize) -> RgbImage {
        let under = self.pictures.get(step);
        let Some(map) = &self.map else { return under.cloned().unwrap_or_default() };
        let (rows, columns) = map.grid;
        let cells = &map.cells[step * rows * columns..(step + 1) * rows * columns];
        match &map.kind {
            Kind::Heat { colours, .. } => {
                let value = |c: &u8| if *c == NONE { f32::NAN } else { f32::from(*c) / 254.0 };
                let values: Vec<f32> = cells.iter().map(value).collect();
                let style = Style { colours: *colours, alpha: 0.75, fade: true, ..Style::default() };
                style.paint(&values, rows, columns, under, (0.0, 1.0))
            }
            Kind::Concepts(_) => RgbImage::from_fn(columns as u32, rows as u32, |x, y| {
                let c = cells[y as usize * columns + x as usize];
                Pixel(if c == NONE { [205; 3] } else { concept_colour(usize::from(c)) })
            }),
        }
    }

    fn html(&self, start: usize) -> Result<String> {
        let still = self.still(start);
        let (w, h) = still.dimensions();
        let (w, h) = match (&self.pictures.first(), &self.map) {
            (None, Some(map)) => (map.grid.1 as u32, map.grid.0 as u32),
            _ => (w, h),
        };
        let height = WIDTH as u32 * h / w.max(1);
        let name = escape(&self.name);
        let mut out = format!(
            "<div data-panel style=\"width:{WIDTH}px\"><div style=\"margin-bottom:3px\">{name} \
             <span data-read style=\"color:#6e6e6e\"></span></div><img alt=\"{name}\" src=\"{}\" \
             style=\"width:{WIDTH}px;height:{height}px;image-rendering:pixelated;display:block\">",
            uri(&still)?
        );
        match self.map.as_ref().map(|m| &m.kind) {
            Some(Kind::Heat { low, high, colours }) => {
                let stops: Vec<String> = (0..9).map(|i| hex(colours.at(i as f32 / 8.0))).collect();
                out.push_str(&format!(
                    "<div style=\"height:8px;margin-top:4px;background:linear-gradient(to right,{})\"></div>\
                     <div style=\"display:flex;justify-content:space-between;font-size:11px\"><span>{}</span>\
                     <span>{}</span></div>",
                    stops.join(","),
                    short(*low),
                    short(*high)
                ));
            }
            Some(Kind::Concepts(names)) => {
                out.push_str("<div style=\"font-size:11px;margin-top:4px;line-height:1.5\">");
                for (i, name) in names.iter().enumerate() {
                    out.push_str(&format!(
                        "<span style=\"white-space:nowrap;margin-right:8px\"><span style=\"display:inline-block;\
                         width:9px;height:9px;background:{}\"></span> {}</span> ",
                        hex(concept_colour(i)),
                        escape(name)
                    ));
                }
                out.push_str("</div>");
            }
            None => {}
        }
        out.push_str("</div>");
        Ok(out)
    }
}

impl super::Figure for Scrubber {
    fn to_html(&self) -> String {
        Self::to_html(self)
    }
    fn check(&self) -> Result<()> {
        Self::check(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures(n: u32) -> Vec<RgbImage> {
        (0..n).map(|i| RgbImage::from_fn(6, 4, |x, y| Pixel([(40 * i) as u8, x as u8 * 9, y as u8 * 30]))).collect()
    }

    fn scrubber() -> Scrubber {
        let maps = [vec![0.0f32, 1.0], vec![2.0, f32::NAN], vec![4.0, 0.5]];
        Scrubber::new(["a", "b", "</script>"])
            .pictures("picture", pictures(3))
            .heat_over("heat", (1, 2), maps, pictures(3))
            .concepts("concept", (2, 1), [[Some(1), None], [Some(0), Some(1)], [None, None]], ["tree", "sea"])
    }

    /// The JSON within the script.
    fn data(html: &str) -> Value {
        let start = html.find("const data = ").unwrap() + 13;
        let end = start + html[start..].find(";\n").unwrap();
        serde_json::from_str(&html[start..end]).unwrap()
    }

    #[test]
    fn every_step_is_in_the_data() {
        let html = scrubber().to_html();
        assert_eq!(html.matches("</script>").count(), 1, "a label cannot end the script");
        let data = data(&html);
        assert_eq!(data["steps"][2], "</script>");
        let bytes = |i: usize| BASE64.decode(data["panels"][i]["cells"].as_str().unwrap()).unwrap();
        assert_eq!(bytes(1), [0, 64, 127, 255, 254, 32]);
        assert_eq!((&data["panels"][1]["low"], &data["panels"][1]["high"]), (&json!(0.0), &json!(4.0)));
        assert_eq!(bytes(2), [1, 255, 0, 1, 255, 255]);
        let strip = data["panels"][0]["strip"].as_str().unwrap();
        let strip = BASE64.decode(strip.split_once("base64,").unwrap().1).unwrap();
        let strip = image::load_from_memory(&strip).unwrap().to_rgb8();
        assert_eq!(strip.dimensions(), (6, 12));
        assert_eq!(strip.get_pixel(5, 4 * 2 + 3), pictures(3)[2].get_pixel(5, 3));
        assert_eq!(scrubber().to_html(), html, "the same figure gives the same bytes");
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let say = |s: Scrubber| s.check().unwrap_err().to_string();
        let steps = || Scrubber::new(["a", "b"]);
        assert!(say(Scrubber::new([0; 0]).pictures("p", pictures(0))).contains("no steps"));
        assert!(say(steps()).contains("no panels"));
        assert!(say(steps().pictures("p", pictures(3))).contains("\"p\": 3 pictures for 2 steps"));
        assert!(
            say(steps().heat("h", (2, 2), [vec![0.0; 4], vec![0.0; 3]])).contains("step 1 has 3 cells, expected 2×2")
        );
        assert!(say(steps().heat("h", (2, 2), [vec![0.0; 4]])).contains("1 maps for 2 steps"));
        assert!(say(steps().concepts("c", (1, 1), [[Some(2)], [None]], ["x"])).contains("concept 2 of 1 names"));
        let odd = vec![RgbImage::new(2, 2), RgbImage::new(3, 2)];
        assert!(say(steps().pictures("p", odd)).contains("picture 1 of 3×2"));
        assert!(say(steps().pictures("p", pictures(2)).start(2)).contains("step 2 of 2"));
        let folder = tempfile::tempdir().unwrap();
        let e = steps().save(folder.path().join("x.html")).unwrap_err().to_string();
        assert!(e.contains("x.html") && e.contains("no panels"), "{e}");
        assert!(steps().to_html().contains("no panels"));
    }

    #[test]
    fn fifty_steps_are_small_enough_to_commit() {
        let maps: Vec<Vec<f32>> = (0..50).map(|i| (0..256).map(|c| ((c * i) % 97) as f32).collect()).collect();
        let s = Scrubber::new(0..50).heat("a", (16, 16), &maps).heat("b", (16, 16), &maps);
        assert!(s.to_html().len() < 60_000, "{}", s.to_html().len());
    }
}
