//! The log of a daemon's decisions: JSON lines in a file, for
//! `tiermesh route replay`.
//!
//! A thread of its own writes it. Whoever decides puts a record into a bounded
//! queue and goes on: with a disk that is full or slow, records are lost and
//! counted, and no request waits. There is no content in a record.

use crate::config::{ConfigError, check};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tiermesh_decision::record::{Journal, Made, Outcome, Recorder};

/// How often the writer looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes that are gathered for one write.
const GATHERED: usize = 256 * 1024;
/// Losses are logged no more often than this.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// `[decisions]` of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionsConfig {
    /// The file to write; what is there already stays.
    pub file: PathBuf,
    /// MiB after which the file is put aside as `FILE.1` and begun anew.
    #[serde(default = "max_mib")]
    pub max_mib: u64,
    /// Files that were put aside and are kept; the oldest is deleted.
    #[serde(default = "keep")]
    pub keep: u32,
    /// Records that may wait for the disk.
    #[serde(default = "queue")]
    pub queue: u32,
}

const fn max_mib() -> u64 {
    64
}

const fn keep() -> u32 {
    3
}

const fn queue() -> u32 {
    1_024
}

impl DecisionsConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The key, its value and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.file.file_name().is_none() {
            let value = self.file.display();
            return Err(ConfigError::value("decisions.file", value, "a file's path"));
        }
        check("decisions.max_mib", self.max_mib, 1..=65_536)?;
        check("decisions.keep", self.keep, 0..=100)?;
        check("decisions.queue", self.queue, 16..=65_536)
    }
}

/// The file of decisions cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `decisions.file` {}", path.display())]
pub struct DecisionsError {
    /// The file.
    path: PathBuf,
    /// The system's answer.
    #[source]
    source: io::Error,
}

enum Record {
    Made(Made),
    Outcome(Outcome),
}

/// Takes records and has them written. Dropping it ends the writer once it has
/// written what waits.
pub struct DecisionLog {
    queue: SyncSender<Record>,
    lost: Arc<AtomicU64>,
    lost_ever: AtomicU64,
    closing: Arc<AtomicBool>,
    ended: std::sync::Mutex<Receiver<()>>,
}

impl DecisionLog {
    /// Opens the file and starts the writer.
    ///
    /// # Errors
    /// When the file cannot be opened for writing.
    pub fn open(config: &DecisionsConfig) -> Result<Arc<Self>, DecisionsError> {
        let failed = |source| DecisionsError {
            path: config.file.clone(),
            source,
        };
        let (file, len) = open(&config.file).map_err(failed)?;
        let (queue, records) = sync_channel(config.queue as usize);
        let (end, ended) = sync_channel(1);
        let (lost, closing) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut writer = Writer {
            config: config.clone(),
            file: Some(file),
            len,
            recorder: Recorder::default(),
            lost: lost.clone(),
            said: None,
        };
        let stop = closing.clone();
        let run = move || {
            writer.run(&records, &stop);
            let _ = end.try_send(());
        };
        let thread = std::thread::Builder::new().name("decisions".to_owned());
        thread.spawn(run).map_err(failed)?;
        Ok(Arc::new(Self {
            queue,
            lost,
            lost_ever: AtomicU64::new(0),
            closing,
            ended: std::sync::Mutex::new(ended),
        }))
    }

    /// Records that found no room in the queue, since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost_ever.load(Ordering::Relaxed)
    }

    /// Ends the writer once it has written what waits, and waits for that at
    /// most so long; whether it did. It blocks.
    #[must_use]
    pub fn close(&self, within: Duration) -> bool {
        self.closing.store(true, Ordering::Release);
        let ended = self.ended.lock();
        let ended = ended.unwrap_or_else(std::sync::PoisonError::into_inner);
        // Once the writer is gone, so is its end of the channel.
        !matches!(ended.recv_timeout(within), Err(RecvTimeoutError::Timeout))
    }

    fn put(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.lost_ever.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Journal for DecisionLog {
    fn made(&self, made: Made) {
        self.put(Record::Made(made));
    }

    fn outcome(&self, outcome: Outcome) {
        self.put(Record::Outcome(outcome));
    }
}

impl Drop for DecisionLog {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
    }
}

struct Writer {
    config: DecisionsConfig,
    file: Option<File>,
    /// Bytes of whole lines in the file.
    len: u64,
    recorder: Recorder,
    /// Records that are missing since the last line.
    lost: Arc<AtomicU64>,
    /// When a loss was logged last.
    said: Option<Instant>,
}

impl Writer {
    fn run(&mut self, records: &Receiver<Record>, closing: &AtomicBool) {
        loop {
            let closes = closing.load(Ordering::Acquire);
            match records.recv_timeout(LOOK) {
                Ok(record) => self.write(record, records),
                Err(RecvTimeoutError::Timeout) if !closes => {}
                Err(_) => {
                    self.flush(String::new(), 0);
                    return;
                }
            }
        }
    }

    /// Writes a record and those that wait behind it.
    fn write(&mut self, first: Record, waiting: &Receiver<Record>) {
        let (mut text, mut count) = (String::new(), 0);
        let mut next = Some(first);
        while let Some(record) = next {
            if count == 0 && self.len >= self.config.max_mib << 20 {
                self.turn_over();
            }
            text += &match record {
                Record::Made(made) => self.recorder.lines(made),
                Record::Outcome(outcome) => self.recorder.outcome(outcome),
            };
            count += 1;
            if text.len() >= GATHERED {
                self.flush(std::mem::take(&mut text), count);
                count = 0;
            }
            next = waiting.try_recv().ok();
        }
        self.flush(text, count);
    }

    /// All of it or nothing gets into the file.
    fn flush(&mut self, text: String, records: u64) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost == 0 && text.is_empty() {
            return;
        }
        let text = match lost {
            0 => text,
            lost => self.recorder.lost(lost) + &text,
        };
        match self.append(text.as_bytes()) {
            Ok(()) if lost == 0 => {}
            Ok(()) => self.say(lost, None),
            Err(error) => {
                // What comes next begins with all there is.
                self.recorder = Recorder::default();
                self.lost.fetch_add(lost + records, Ordering::Relaxed);
                self.say(lost + records, Some(&error));
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            let (file, len) = open(&self.config.file)?;
            (self.file, self.len) = (Some(file), len);
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        if let Err(error) = file.write_all(bytes) {
            // Half a line would end the log for whoever reads it.
            let _ = file.set_len(self.len);
            self.file = None;
            return Err(error);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Puts the file aside and begins another, with all there is.
    fn turn_over(&mut self) {
        self.file = None;
        self.recorder = Recorder::default();
        let aside = |n: u32| {
            let mut name = self.config.file.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        for n in (1..self.config.keep).rev() {
            // One that is not there yet is no trouble.
            let _ = std::fs::rename(aside(n), aside(n + 1));
        }
        let done = match self.config.keep {
            0 => std::fs::remove_file(&self.config.file),
            _ => std::fs::rename(&self.config.file, aside(1)),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "the log of decisions cannot be put aside and grows on");
        }
    }

    fn say(&mut self, records: u64, error: Option<&io::Error>) {
        if self.said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            self.said = Some(Instant::now());
            let error = error.map(ToString::to_string);
            tracing::warn!(records, error, "records of decisions were lost");
        }
    }
}

/// The file, its end cut off behind its last whole line, and its length.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    // It tells who asked when, which is not for everybody.
    let mut file = options
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let len = file.metadata()?.len();
    let whole = end_of_last_line(&mut file, len)?;
    if whole < len {
        file.set_len(whole)?;
    }
    Ok((file, whole))
}

fn end_of_last_line(file: &mut File, len: u64) -> io::Result<u64> {
    let mut buffer = [0; 65_536];
    let mut end = len;
    while end > 0 {
        let from = end.saturating_sub(buffer.len() as u64);
        let part = &mut buffer[..(end - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
