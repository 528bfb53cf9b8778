//! The three places an answer can come from.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A place an answer can come from, nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Tier {
    /// A phone or gateway that belongs to one owner.
    Device,
    /// A daemon in the carrier's or the customer's zone.
    Mec,
    /// Amazon Bedrock, and everything that runs in a region.
    Cloud,
}

impl Tier {
    /// Every tier, nearest first.
    pub const ALL: [Self; 3] = [Self::Device, Self::Mec, Self::Cloud];

    /// The name used on every wire and in every table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "DEVICE",
            Self::Mec => "MEC",
            Self::Cloud => "CLOUD",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A tier that does not exist was named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown tier `{0}`: use DEVICE, MEC or CLOUD")]
pub struct UnknownTier(pub String);

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.as_str().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownTier(text.to_owned()))
    }
}
