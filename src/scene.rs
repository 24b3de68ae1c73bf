//! The scene world: a small procedural world of captioned 64x64 pictures with exact masks.
//!
//! A [`Scene`] is one or two paper cut-outs at some height above a backdrop. It renders to a picture and to everything
//! that is known about its pixels ([`Render`]), and describes itself in plain English ([`Caption`]).
//!
//! ```
//! use denoscope::scene::{Scene, Split};
//!
//! let scene = Scene::sample(Split::Train, 7);
//! let truth = scene.render();
//! assert_eq!(truth.image.dimensions(), (64, 64));
//! assert_eq!(truth.objects.len(), scene.objects.len());
//! println!("{}", scene.full_caption().text);
//! ```

mod background;
mod caption;
mod cutout;
mod display;
mod mask;
mod pairs;
mod render;
mod sample;
mod shape;
mod style;
mod world;

pub use caption::{Caption, Facts, ObjectFacts, Span, Topic, vocabulary};
pub use mask::Mask;
pub use pairs::{Change, ScenePair};
pub use render::{ObjectTruth, Render};
pub use sample::{Object, SIDE, Scene, Split};
pub use world::{Background, Class, Colour, HELD_OUT, Part, Place, Size, Style, is_held_out};

#[cfg(test)]
mod tests;
