//! Measures of pictures, edits and labels: one file per family, each with its formula.

pub mod annotate;
pub mod captions;
pub mod command;
pub mod contours;
pub mod dose;
pub mod generate;
pub mod image;
pub mod interval;
pub mod judge;
pub mod loss_recovered;
pub mod lpips;
pub mod perceptual;
pub mod power_law;
pub mod retrieval;
pub mod segmentation;
pub mod similarity;
pub mod spatial_success;
pub mod style_success;
pub mod sweep;

pub use annotate::{Annotation, Annotator, Found};
pub use captions::Faithfulness;
pub use dose::TokenDose;
pub use generate::Generate;
pub use interval::Interval;
pub use judge::{Verdict, judge};
pub use loss_recovered::{LossRecovered, Reconstruct, Recovered};
pub use lpips::Lpips;
pub use perceptual::Perceptual;
pub use power_law::PowerLaw;
pub use retrieval::Retrieval;
pub use segmentation::Point;
pub use similarity::{Embeddings, Similarity};
pub use spatial_success::{SpatialSuccess, Trial};
pub use style_success::{StyleSuccess, StyleTrial};
pub use sweep::{BetaSweep, End, SweepPoint, Swept};
