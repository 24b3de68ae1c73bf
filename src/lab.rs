//! The notebook environment: setting it up, opening it, running notebooks headless.
//!
//! Notebooks are Rust, evaluated cell by cell by the [evcxr](https://github.com/evcxr/evcxr) kernel. Three things
//! are needed: the kernel itself ([`setup`]), a Python environment with Jupyter ([`setup`]), and this library as one
//! dynamic library that all cells share (`notebooks/kernel`, started by [`launch`]). Everything lives in one folder
//! of the project's target folder; nothing is installed elsewhere.
//!
//! evcxr compiles each cell by calling `cargo build`. Here that call is answered by [`cell`], which calls the
//! compiler directly against the already built library: the tests, the command line and the cells use one set of
//! compiled dependencies, with the project's own lock file.

pub mod analysis;
pub mod cell;
pub mod command;
pub mod gallery;
pub mod launch;
mod markdown;
pub mod place;
pub mod reproduce;
pub mod setup;
mod shell;

pub use place::Place;
