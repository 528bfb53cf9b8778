//! How an engine runs.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use tiermesh_core::UserId;

/// How an engine runs.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    /// Streams computed together, at most.
    pub streams: NonZeroUsize,
    /// Threads that share the work of a step. More than one pays from some
    /// hundred million parameters on.
    pub threads: NonZeroUsize,
    /// Requests that may wait for a place among those. One more is refused.
    pub queue_capacity: usize,
    /// What a step may take while streams are being written: so much, and no
    /// more, does reading somebody's prompt delay another's next token.
    pub step: Duration,
    /// Bytes of keys and values, over all streams and kept prefixes.
    pub kv_bytes: usize,
    /// Bytes of weights in memory, over all models.
    pub model_bytes: u64,
    /// Whose prompts may share the pages of equal beginnings.
    pub prefix_sharing: PrefixSharing,
    /// Users with a larger or smaller share than 1.
    pub user_weights: BTreeMap<UserId, f64>,
}

/// Whose prompts may share computed pages. A shared prefix answers sooner, and
/// that can tell one user what another asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PrefixSharing {
    /// Everybody's.
    #[default]
    All,
    /// One user's own.
    User,
    /// Nobody's.
    Off,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            streams: NonZeroUsize::new(32).expect("32 is not 0"),
            threads: NonZeroUsize::MIN,
            queue_capacity: 64,
            step: Duration::from_millis(100),
            kv_bytes: 512 << 20,
            model_bytes: u64::MAX,
            prefix_sharing: PrefixSharing::All,
            user_weights: BTreeMap::new(),
        }
    }
}
