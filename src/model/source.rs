//! Where a model is imported from.

use std::path::PathBuf;
use std::str::FromStr;
use tiermesh_hub::RepoRef;

/// `DIR`, `hf:ORG/NAME[@REVISION]` or `FILE.gguf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A directory or a file.
    Path(PathBuf),
    /// A repository of the hub.
    Hub(RepoRef),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("hf:") {
            Some(name) => name
                .parse()
                .map(Self::Hub)
                .map_err(|error: tiermesh_hub::HubError| error.to_string()),
            None => Ok(Self::Path(text.into())),
        }
    }
}
