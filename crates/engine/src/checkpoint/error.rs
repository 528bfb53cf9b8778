//! What can be wrong with a checkpoint.

use std::path::PathBuf;

/// Why a checkpoint cannot be read. Every variant names the file, and where
/// there is one the tensor or key, with what would be accepted.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The path is neither a directory nor a GGUF file.
    #[error(
        "{} is no checkpoint: expected a Hugging Face directory or a file that ends in .gguf",
        path.display()
    )]
    Kind {
        /// The path.
        path: PathBuf,
    },
    /// A file cannot be opened or read.
    #[error("{file} cannot be read")]
    Read {
        /// The file.
        file: String,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// A file is larger than any file of its kind may be.
    #[error("{file} has {found} bytes; allowed: at most {most}")]
    TooLarge {
        /// The file.
        file: String,
        /// Its size in bytes.
        found: u64,
        /// The limit in bytes.
        most: u64,
    },
    /// A file that every checkpoint has is not there.
    #[error("{} has no {wanted}; {hint}", directory.display())]
    Absent {
        /// Where it was looked for.
        directory: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// What to do about it.
        hint: String,
    },
    /// A JSON file or header is not what it should be.
    #[error("{file} cannot be parsed")]
    Json {
        /// The file.
        file: String,
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
    /// What stands before the tensors contradicts the format or the file.
    #[error("{file}: {found}; expected {expected}")]
    Header {
        /// The file.
        file: String,
        /// What the header says.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A tensor's entry contradicts the format or the file.
    #[error("{file}: tensor {tensor}: {found}; expected {expected}")]
    Tensor {
        /// The file.
        file: String,
        /// The tensor, as the file names it.
        tensor: String,
        /// What its entry says.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A GGUF key is absent or its value cannot be used.
    #[error("{file}: {key} = {found}; expected {expected}")]
    Key {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// Its value, or that it is absent.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// The index of a sharded checkpoint contradicts itself or its shards.
    #[error("{index}: tensor {tensor} is mapped to {shard:?}: {problem}")]
    Index {
        /// The index.
        index: &'static str,
        /// The tensor.
        tensor: String,
        /// Where the index says that it is.
        shard: String,
        /// What is wrong with that.
        problem: String,
    },
    /// The index names more shards than are opened.
    #[error("{index} names {found} shards; allowed: at most {most}")]
    Shards {
        /// The index.
        index: &'static str,
        /// How many there are.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// A tensor that is asked for is not there.
    #[error("{file}: tensor {tensor} is missing")]
    Missing {
        /// The file, or the checkpoint when any shard could have it.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// More values are asked for than a tensor has.
    #[error("{file}: tensor {tensor} has {has} values; asked for {count} from {first}")]
    Range {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The first value that was asked for.
        first: usize,
        /// How many were asked for.
        count: usize,
        /// How many there are.
        has: usize,
    },
    /// A tensor's values are of a type that is not read.
    #[error("{file}: tensor {tensor} has type {found}; supported: {supported}")]
    Type {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
        /// What is read.
        supported: &'static str,
    },
}

impl CheckpointError {
    pub(super) fn header(
        file: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::Header {
            file: file.to_owned(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    pub(super) fn tensor(
        file: &str,
        tensor: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Self::Tensor {
            file: file.to_owned(),
            tensor: tensor.to_owned(),
            found: found.into(),
            expected: expected.into(),
        }
    }
}
