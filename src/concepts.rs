//! Concepts: which latents stand for what, by the overlap of their activation maps with labelled masks
//! (Emergence, section 3.2).
//!
//! ```
//! use denoscope::activations::Activations;
//! use denoscope::concepts::{Dictionary, LabelledMask, Vocabulary};
//! use denoscope::sae::Sae;
//! use denoscope::scene::Mask;
//!
//! // Two pictures on a 1 × 2 grid with 3 channels; in both the tree is where channel 0 is.
//! let activations = Activations::from_vec((1, 2), 3, vec![1., 0., 0., 0., 0., 0., 0., 0., 0., 1., 0., 0.])?;
//! let tree = |at| vec![LabelledMask::new(Vocabulary::Class, "tree", Mask::from_fn(4, 4, |x, _| x / 2 == at))];
//! let mut sae = Sae::random(3, 5, 1, 0)?;
//! sae.w_enc.fill(0.0);
//! sae.w_enc[2 * 3] = 1.0; // latent 2 reads channel 0
//! let dictionary = Dictionary::build(&sae, &activations, &[tree(0), tree(1)])?;
//! assert_eq!(dictionary.of("tree")?, [2]);
//! # Ok::<(), denoscope::Error>(())
//! ```

pub mod agreement;
pub mod build;
pub mod command;
pub mod composition;
pub mod contrast;
pub mod dictionary;
pub mod effect;
pub mod embedding;
pub mod label;
pub mod labeller;
pub mod maps;
pub mod masks;
pub mod neighbours;
mod overlap;
pub mod source;
pub mod survey;
pub mod timeline;
pub mod top;
pub mod truth;
pub mod words;

pub use agreement::Agreement;
pub use build::Labelling;
pub use composition::{Composition, Predictions};
pub use contrast::Contrast;
pub use dictionary::{Concept, Dictionary, Entry, Provenance};
pub use effect::{Effect, Variant};
pub use embedding::{Embedding, Weighting};
pub use label::{Label, LabelledMask, Vocabulary};
pub use labeller::{Compare, Labeller, Options, Rule, Scale};
pub use maps::Maps;
pub use masks::MaskFile;
pub use neighbours::neighbours;
pub use survey::{Survey, SurveyResult, Surveyed};
pub use timeline::{Timeline, WordProfile};
pub use top::{Example, Firing, Summary, top_concepts};
pub use words::WordVectors;

#[cfg(test)]
mod tests;
