//! The digest of a model's files.

use crate::digest::Digest;
use crate::error::{Error, Result};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Files up to this size are read whole; of larger ones [`SAMPLES`] blocks are read, evenly spread, so that opening a
/// model of several gigabytes does not read it twice. Embedded models are smaller than this.
const WHOLE: u64 = 64 << 20;

/// Blocks read of a large file.
const SAMPLES: u64 = 256;

/// Bytes of a block.
const BLOCK: usize = 1 << 16;

impl Digest {
    /// Name, size and content of a file.
    pub(super) fn file(&mut self, path: &Path) -> Result<()> {
        let mut file = std::fs::File::open(path).map_err(Error::file(path))?;
        let size = file.metadata().map_err(Error::file(path))?.len();
        self.bytes(path.file_name().unwrap_or_default().as_encoded_bytes());
        self.word(size);
        if size <= WHOLE {
            let mut content = Vec::with_capacity(size as usize);
            file.read_to_end(&mut content).map_err(Error::file(path))?;
            self.bytes(&content);
            return Ok(());
        }
        let mut block = vec![0u8; BLOCK];
        for i in 0..SAMPLES {
            let start = (size - BLOCK as u64) / (SAMPLES - 1) * i;
            file.seek(SeekFrom::Start(start)).map_err(Error::file(path))?;
            file.read_exact(&mut block).map_err(Error::file(path))?;
            self.bytes(&block);
        }
        Ok(())
    }
}
