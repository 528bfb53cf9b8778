//! The line a daemon prints when it is ready: where it listens, as JSON, for
//! whoever started it with port 0.

use serde::{Deserialize, Serialize};
use std::io::Write as _;

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Always `ready`.
    pub kind: String,
    /// `cloud-gateway`, `edge-node`, `device-agent` or a stand-in's name.
    pub role: String,
    /// Its node id.
    pub node: String,
    /// The client API, for example `http://127.0.0.1:8080`.
    pub endpoint: String,
    /// The link's UDP address, for a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The process.
    pub pid: u32,
}

impl Announcement {
    /// An announcement of this process.
    #[must_use]
    pub fn new(role: &str, node: &str, endpoint: String) -> Self {
        Self {
            kind: "ready".to_owned(),
            role: role.to_owned(),
            node: node.to_owned(),
            endpoint,
            link: None,
            pid: std::process::id(),
        }
    }
}

/// Prints the announcement on stdout. A closed stdout is nobody's error.
///
/// # Panics
/// Never: an announcement is plain data.
pub fn announce(announcement: &Announcement) {
    let line = serde_json::to_string(announcement).expect("an announcement is plain data");
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Prints a line on stdout: what the user asked to see.
pub fn show(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end());
}
