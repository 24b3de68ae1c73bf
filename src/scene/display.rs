//! Scenes and renders that show themselves in a notebook cell.

use super::render::Render;
use super::sample::Scene;
use crate::html::{display, escape};
use base64::Engine;
use std::io::Cursor;

/// Side in pixels at which a cell shows a picture.
const SHOWN: u32 = 256;

impl Render {
    /// The picture as a PNG file in memory.
    #[must_use]
    pub fn png(&self) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        // Writing to memory fails only for a zero-sized image, which a render is not.
        self.image.write_to(&mut bytes, image::ImageFormat::Png).expect("a 64x64 picture encodes");
        bytes.into_inner()
    }

    /// Show the picture, enlarged, in a notebook cell.
    pub fn evcxr_display(&self) {
        show(self, "");
    }
}

impl Scene {
    /// Show the picture and its full caption in a notebook cell.
    pub fn evcxr_display(&self) {
        show(&self.render(), &self.full_caption().text);
    }
}

fn show(render: &Render, caption: &str) {
    let data = base64::engine::general_purpose::STANDARD.encode(render.png());
    display(&format!(
        "<figure style=\"margin:0\"><img width={SHOWN} style=\"image-rendering:pixelated\" \
         src=\"data:image/png;base64,{data}\"><figcaption>{}</figcaption></figure>",
        escape(caption)
    ));
}
