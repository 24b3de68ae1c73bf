//! From a figure to bytes: PNG, HTML, files.

use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, RgbImage};

use super::Figure;
use super::canvas::Canvas;
use super::keep::keep;
use crate::error::{Error, Result};
use crate::html::{display, escape};

/// `image` as a small PNG file.
pub(crate) fn png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Adaptive)
        .write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(|e| Error::invalid(format!("figure: PNG encoding failed: {e}")))?;
    Ok(bytes)
}

/// An `<img>` of the canvas. A picture by data URI stays visible in a notebook that is not trusted, where Jupyter
/// drops inline SVG.
pub(crate) fn image_tag(canvas: &Canvas, alt: &str) -> Result<String> {
    let (w, h) = canvas.size();
    Ok(format!(
        "<img width=\"{w}\" height=\"{h}\" alt=\"{}\" style=\"max-width:100%;height:auto;background:#fff\" \
         src=\"data:image/svg+xml,{}\">",
        escape(alt),
        uri(&canvas.svg()?)
    ))
}

/// An SVG document as the tail of a data URI: percent-encoded, for base64 would add a third to the pictures within, which
/// are base64 already. Both writers of the document escape quotes in text, so that every `"` delimits an attribute.
fn uri(svg: &str) -> String {
    let mut out = String::with_capacity(svg.len() + svg.len() / 8);
    for c in svg.chars() {
        match c {
            '"' => out.push('\''),
            '\n' => out.push_str("%0A"),
            '\'' | '%' | '#' | '<' | '>' | '&' | ' ' | '{' | '}' => out.push_str(&format!("%{:02X}", c as u32)),
            c if c.is_ascii() => out.push(c),
            c => c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| out.push_str(&format!("%{b:02X}"))),
        }
    }
    out
}

/// What is shown in place of a figure that cannot be drawn.
pub(crate) fn problem(error: &Error) -> String {
    format!(
        "<div style=\"background:#fff;color:#b00020;border:1px solid #b00020;padding:6px 10px;\
         font:14px sans-serif\">{}</div>",
        escape(&error.to_string())
    )
}

/// Shows a figure in a notebook cell; one that cannot be drawn says so there and on standard error.
pub(crate) fn show(figure: &dyn Figure) {
    if let Err(e) = figure.check() {
        eprintln!("figure: {e}");
    }
    keep(figure);
    display(&figure.to_html());
}

/// A whole HTML document around `body`.
pub(crate) fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title></head>\n\
         <body style=\"background:#fff;color:#222;font-family:'Open Sans','Segoe UI',Helvetica,Arial,sans-serif;\
         max-width:1000px;margin:24px auto;padding:0 16px\">\n{body}\n</body></html>\n",
        escape(title)
    )
}

/// Writes `bytes` to `path` by way of a temporary neighbour, so that the file is whole or absent.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(Error::file(folder))?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    std::fs::write(&part, bytes).map_err(Error::file(&part))?;
    std::fs::rename(&part, path).map_err(Error::file(path))
}

/// The extension of `path` in lower case if it is among `known`; an error that names the path otherwise.
pub(crate) fn extension(path: &Path, known: &[&str]) -> Result<String> {
    let found = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    if known.contains(&found.as_str()) {
        return Ok(found);
    }
    Err(Error::format(path, format!("cannot save as {found:?}, expected an extension among {}", known.join(", "))))
}

/// Saves a drawn figure as SVG, PNG or HTML.
pub(crate) fn save(path: &Path, canvas: impl FnOnce() -> Result<Canvas>, alt: &str) -> Result<()> {
    let kind = extension(path, &["svg", "png", "html"])?;
    let named = |e: Error| match e {
        e @ (Error::File { .. } | Error::Format { .. }) => e,
        e => Error::format(path, e),
    };
    let canvas = canvas().map_err(named)?;
    let bytes = match kind.as_str() {
        "svg" => canvas.svg().map_err(named)?.into_bytes(),
        "png" => png(&canvas.bitmap().map_err(named)?).map_err(named)?,
        _ => document(alt, &image_tag(&canvas, alt).map_err(named)?).into_bytes(),
    };
    write(path, &bytes)
}

/// The methods that every drawn figure has; the type needs `fn canvas(&self) -> Result<Canvas>` and `fn alt(&self) ->
/// String`.
macro_rules! shows_itself {
    ($type:ty) => {
        impl $type {
            /// The figure as an SVG document with vector text.
            ///
            /// # Errors
            /// If there is nothing to draw or the data contradict themselves.
            pub fn to_svg(&self) -> $crate::Result<String> {
                self.canvas()?.svg()
            }

            /// The figure as pixels, two to a CSS pixel.
            ///
            /// # Errors
            /// If there is nothing to draw or the data contradict themselves.
            pub fn to_bitmap(&self) -> $crate::Result<image::RgbImage> {
                self.canvas()?.bitmap()
            }

            /// The figure as HTML: one picture by data URI, or a red box with the reason why there is none.
            #[must_use]
            pub fn to_html(&self) -> String {
                self.canvas()
                    .and_then(|c| $crate::figure::render::image_tag(&c, &self.alt()))
                    .unwrap_or_else(|e| $crate::figure::render::problem(&e))
            }

            /// Saves as SVG, PNG (two pixels to a CSS pixel) or HTML by the extension of `path`.
            ///
            /// # Errors
            /// If the extension is another, nothing can be drawn, or the file cannot be written; the message names
            /// the path.
            pub fn save(&self, path: impl AsRef<std::path::Path>) -> $crate::Result<()> {
                $crate::figure::render::save(path.as_ref(), || self.canvas(), &self.alt())
            }

            /// Shows the figure in a notebook cell; a figure that cannot be drawn says so there and on standard
            /// error.
            pub fn evcxr_display(&self) {
                $crate::figure::render::show(self);
            }
        }

        impl $crate::figure::Figure for $type {
            fn to_html(&self) -> String {
                <$type>::to_html(self)
            }
            fn check(&self) -> $crate::Result<()> {
                self.canvas().map(drop)
            }
            fn title(&self) -> Option<String> {
                Some(self.alt())
            }
            fn save_as(&self, path: &std::path::Path) -> $crate::Result<()> {
                self.save(path)
            }
        }
    };
}
pub(crate) use shows_itself;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_extension_is_refused_by_name() {
        let e = extension(Path::new("work/iou.gif"), &["svg", "png"]).unwrap_err().to_string();
        assert!(e.contains("work/iou.gif") && e.contains("\"gif\"") && e.contains("svg, png"), "{e}");
        assert_eq!(extension(Path::new("a/B.PNG"), &["png"]).unwrap(), "png");
    }

    #[test]
    fn png_keeps_every_pixel() {
        let image = RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8 * 40, y as u8 * 90, 7]));
        let back = image::load_from_memory(&png(&image).unwrap()).unwrap().to_rgb8();
        assert_eq!(back, image);
    }

    #[test]
    fn files_that_cannot_be_written_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let blocker = dir.path().join("file");
        std::fs::write(&blocker, "x").unwrap();
        let e = write(&blocker.join("a.svg"), b"x").unwrap_err().to_string();
        assert!(e.contains("file"), "{e}");
    }
}
