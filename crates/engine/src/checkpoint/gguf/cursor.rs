//! Reads a header from its start on, through a buffer of bounded size.

use crate::checkpoint::{CheckpointError, ReadAt};

/// The most bytes a header may have. The largest vocabularies with their
/// merges take a tenth of it.
const MAX_HEADER: u64 = 1 << 26;
const BUFFER: u64 = 1 << 16;

/// A position in a header that only moves forward.
pub(super) struct Cursor<'a> {
    name: &'a str,
    file: &'a dyn ReadAt,
    /// Bytes read ahead, of which those from `used` on are unread.
    buffer: Vec<u8>,
    used: usize,
    /// Of the first byte behind the buffer.
    ahead: u64,
    /// Where the header must have ended.
    end: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(name: &'a str, file: &'a dyn ReadAt) -> Self {
        Self {
            name,
            file,
            buffer: Vec::new(),
            used: 0,
            ahead: 0,
            end: file.size().min(MAX_HEADER),
        }
    }

    pub(super) fn file_name(&self) -> &str {
        self.name
    }

    /// Of the next byte in the file.
    pub(super) fn position(&self) -> u64 {
        self.ahead - (self.buffer.len() - self.used) as u64
    }

    fn left(&self) -> u64 {
        self.end - self.position()
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), CheckpointError> {
        if out.len() as u64 > self.left() {
            return Err(self.short());
        }
        let ready = (self.buffer.len() - self.used).min(out.len());
        let (head, tail) = out.split_at_mut(ready);
        head.copy_from_slice(&self.buffer[self.used..self.used + ready]);
        self.used += ready;
        if tail.is_empty() {
            return Ok(());
        }
        // The buffer is empty here, so `ahead` is the position.
        if tail.len() as u64 >= BUFFER {
            self.read(self.ahead, tail)?;
            self.ahead += tail.len() as u64;
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(BUFFER.min(self.end - self.ahead) as usize, 0);
        self.read(self.ahead, &mut buffer)?;
        self.ahead += buffer.len() as u64;
        tail.copy_from_slice(&buffer[..tail.len()]);
        self.used = tail.len();
        self.buffer = buffer;
        Ok(())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), CheckpointError> {
        self.file
            .read_exact_at(offset, out)
            .map_err(|source| CheckpointError::Read {
                file: self.name.to_owned(),
                source,
            })
    }

    fn short(&self) -> CheckpointError {
        let expected = if self.end < MAX_HEADER {
            "more bytes: the file is truncated or not what it says".to_owned()
        } else {
            format!("an end within {MAX_HEADER} bytes")
        };
        CheckpointError::header(
            self.name,
            format!("the header goes on beyond byte {}", self.end),
            expected,
        )
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    pub(super) fn u32(&mut self) -> Result<u32, CheckpointError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, CheckpointError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Refuses a count of things of at least `size` bytes that cannot be in
    /// what is left.
    pub(super) fn count(&self, what: &str, count: u64, size: u64) -> Result<(), CheckpointError> {
        let most = self.left() / size;
        if count <= most {
            return Ok(());
        }
        Err(CheckpointError::header(
            self.name,
            format!("it is said to have {count} of {what}"),
            format!("at most {most} in the {} bytes that are left", self.left()),
        ))
    }

    pub(super) fn string(&mut self, what: &str, most: u64) -> Result<String, CheckpointError> {
        let length = self.u64()?;
        if length > most {
            return Err(CheckpointError::header(
                self.name,
                format!("{what} has {length} bytes"),
                format!("at most {most}"),
            ));
        }
        if length > self.left() {
            return Err(self.short());
        }
        // It is bounded by `most` and by the file.
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| {
            CheckpointError::header(self.name, format!("{what} is not UTF-8"), "text in UTF-8")
        })
    }

    pub(super) fn skip(&mut self, count: u64) -> Result<(), CheckpointError> {
        if count > self.left() {
            return Err(self.short());
        }
        let ready = (self.buffer.len() - self.used) as u64;
        if count <= ready {
            self.used += count as usize;
        } else {
            self.ahead += count - ready;
            self.used = self.buffer.len();
        }
        Ok(())
    }

    pub(super) fn key(
        &self,
        key: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> CheckpointError {
        CheckpointError::Key {
            file: self.name.to_owned(),
            key: key.to_owned(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    pub(super) fn tensor(
        &self,
        tensor: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> CheckpointError {
        CheckpointError::tensor(self.name, tensor, found, expected)
    }
}
