//! denoscope as one dynamic library.
//!
//! Linked statically, every cell of a notebook would carry its own copy of the library's statics, candle's counter of
//! tensor ids among them; two tensors could then share an id and gradients would go wrong without a word. Linked
//! through this crate, all cells share one copy (`tests/notebook.rs` trains across two cells to prove it).

pub use denoscope::*;
