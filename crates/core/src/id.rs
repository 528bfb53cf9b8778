//! Names of things. Parsed once at the boundary; bounded, printable, cheap to clone.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest name the mesh accepts, in bytes.
pub const MAX_NAME_BYTES: usize = 200;

/// A name was empty, too long, or had a character that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a valid {kind}: 1 to 200 characters of A-Z a-z 0-9 . _ : / @ + -")]
pub struct InvalidName {
    /// What the name was meant to name.
    pub kind: &'static str,
    /// The refused text, shortened and escaped.
    pub value: String,
}

fn check(kind: &'static str, text: &str) -> Result<(), InvalidName> {
    let good = !text.is_empty()
        && text.len() <= MAX_NAME_BYTES
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._:/@+-".contains(&b));
    if good {
        return Ok(());
    }
    Err(InvalidName {
        kind,
        value: text.chars().take(64).flat_map(char::escape_debug).collect(),
    })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// When it is empty, over 200 bytes, or has another character than
            /// letters, digits and `._:/@+-`.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                check($kind, text.as_ref())?;
                Ok(Self(Arc::from(text.as_ref())))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name!(
    /// A request, unique per client call.
    RequestId, "request id"
);
name!(
    /// A node: an edge daemon, a device agent, a gateway or a cloud region.
    NodeId, "node id"
);
name!(
    /// A user; for a device, its owner.
    UserId, "user id"
);
name!(
    /// A model by its exact name.
    ModelId, "model id"
);
name!(
    /// SHA-256 over a model's artifact, in hexadecimal.
    ModelDigest, "model digest"
);
name!(
    /// What must be equal for two nodes to say the very same tokens: model
    /// digest, engine version, backend, kernel class and KV type.
    NumericsId, "numerics id"
);
name!(
    /// A routing policy by name.
    PolicyName, "policy"
);
name!(
    /// A cloud region or carrier zone, as its provider spells it.
    Region, "region"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_refuse_control_characters_and_length() {
        assert!(NodeId::new("edge-1").is_ok());
        for bad in ["", "a b", "x\n", "é", &"a".repeat(201)] {
            let error = NodeId::new(bad).unwrap_err();
            assert!(error.to_string().contains("node id"), "{error}");
            assert!(error.value.len() < 700);
        }
    }
}
