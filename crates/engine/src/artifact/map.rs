//! Mapping a file of weights into memory.
#![expect(unsafe_code, reason = "mapping a file is unsafe by nature")]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::ArtifactError;

/// Maps a file for reading. Processes that map it share its pages, and none of
/// it is read before it is needed.
pub(super) fn map(directory: &Path, file: &'static str) -> Result<Arc<Mmap>, ArtifactError> {
    let read = |source| ArtifactError::Read { file, source };
    let opened = File::open(directory.join(file)).map_err(read)?;
    // SAFETY: the bytes must not change while they are mapped. An artifact is
    // written under another name, renamed into place whole and never written to
    // again; removing it leaves what is mapped. Whoever edits a model's file in
    // place under a running daemon gives it wrong weights or, by cutting it
    // short, kills it, as with any mapped program or library.
    let map = unsafe { Mmap::map(&opened) }.map_err(read)?;
    Ok(Arc::new(map))
}
