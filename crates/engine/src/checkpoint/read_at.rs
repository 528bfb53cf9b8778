//! Positioned reads, from a file or from bytes in memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::CheckpointError;

/// Bytes that are read by position and never moved past. Memory bounds hold
/// because readers ask for pieces; nothing here reads a file whole.
pub trait ReadAt: Send + Sync {
    /// How many bytes there were when it was opened.
    fn size(&self) -> u64;

    /// Fills `out` from the byte `offset` on.
    ///
    /// # Errors
    ///
    /// When the bytes cannot be read or there are not that many.
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let piece = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..)?.get(..out.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(piece);
        Ok(())
    }
}

/// A regular file on disk.
pub(super) struct DiskFile {
    file: File,
    size: u64,
}

impl DiskFile {
    /// Opens `path`, which errors call `name`.
    pub(super) fn open(path: &Path, name: &str) -> Result<Self, CheckpointError> {
        let attempt = || {
            // A pipe would block at opening, so it is refused before.
            if !std::fs::metadata(path)?.is_file() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is not a regular file",
                ));
            }
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            Ok(Self { file, size })
        };
        attempt().map_err(|source| CheckpointError::Read {
            file: name.to_owned(),
            source,
        })
    }
}

impl ReadAt for DiskFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }
}

/// Reads the whole of a small file, of at most `most` bytes.
pub(super) fn read_whole(path: &Path, name: &str, most: u64) -> Result<Vec<u8>, CheckpointError> {
    let opened = DiskFile::open(path, name)?;
    let too_large = |found| CheckpointError::TooLarge {
        file: name.to_owned(),
        found,
        most,
    };
    if opened.size > most {
        return Err(too_large(opened.size));
    }
    let mut bytes = Vec::new();
    // The file may grow while it is read.
    opened
        .file
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| CheckpointError::Read {
            file: name.to_owned(),
            source,
        })?;
    let found = bytes.len() as u64;
    if found > most {
        return Err(too_large(found));
    }
    Ok(bytes)
}
