//! What a notebook imports with one line: `use denoscope::prelude::*;`.

pub use crate::activations::{Activations, Capture, Store, Trajectories};
pub use crate::concepts::truth;
pub use crate::concepts::{
    Agreement, Composition, Contrast, Dictionary, Effect, Embedding, Label, LabelledMask, Labelling, Maps, MaskFile,
    Summary, Survey, Timeline, Vocabulary, Weighting, WordVectors, top_concepts,
};
pub use crate::diffusion::captions::Precomputed;
pub use crate::diffusion::hook::{Half, Hook, Kind, Site, Visit};
pub use crate::diffusion::pipeline::{Picture, Pipeline};
pub use crate::embedded::{SceneAnnotator, SceneDistance, SceneDual};
pub use crate::error::{Error, Result};
pub use crate::figure::{
    self, Bars, Colours, Explorer, Heat, HeatGrid, Histogram, ImageGrid, Line, Matrix, Page, Scatter, Scrubber, Table,
};
pub use crate::intervene::{
    Ablate, Between, ErrorTerm, FeatureScores, Global, LatentEdit, MeanCode, Norm, Quadrant, Reconstruction, Region,
    Removal, Spatial, Stage, Strength, Trajectory, Transfer,
};
pub use crate::measure::annotate::{Annotation, Annotator};
pub use crate::measure::generate::Settled;
pub use crate::measure::{
    BetaSweep, Clip, Embeddings, Gaussian, Interval, LossRecovered, Lpips, PairEdits, Perceptual, PowerLaw, Retrieval,
    Scored, Similarity, SpatialSuccess, StyleDistance, StyleSimilarity, StyleSuccess, StyleTrial, Swept, TokenDose,
    Trial, Which,
};
pub use crate::measure::{contours, interval, participation_ratio};
pub use crate::random::stream;
pub use crate::sae::{
    BatchTopK, FeatureTrajectory, Gated, Join, JumpReLU, Matryoshka, Modulation, Prediction, Predictors, Quality, ReLU,
    Residualized, Sae, Spread, Terms, Tide, TideSae, TopK, Trained, TrainedTide, TrainedTrajectories, Training,
    TrajectorySae, Weigh,
};
pub use crate::scene::{
    Background, Caption, Change, Class, Colour, Facts, Mask, Object, Part, Place, Render, Scene, ScenePair, Size,
    Split, Style,
};
pub use crate::study::{
    self, Ablation, Claims, Code, Composed, Emergence, Look, Method, Methods, Parts, Published, ResidualStudy, Scale,
    TideStudy, Verdict,
};
/// The pictures that come out of everything here; a notebook has to name the type to keep some in a variable.
pub use image::RgbImage;
