//! What the keys say of a model's shape, checked far enough that tensors can
//! be named and counted by it. Whether it can be built is `config.json`'s
//! reader's to say.

use super::architecture::Architecture;
use super::metadata::Metadata;
use crate::checkpoint::CheckpointError;

/// More layers and heads than any model has.
const MAX_LAYERS: u64 = 1 << 16;
const MAX_HEADS: u64 = 1 << 16;

/// Counts that more than one part needs.
pub(super) struct Shape {
    pub(super) layers: u64,
    pub(super) hidden: u64,
    pub(super) heads: u64,
    pub(super) kv_heads: u64,
    pub(super) head_dim: u64,
}

impl Shape {
    pub(super) fn read(
        metadata: &Metadata,
        architecture: Architecture,
    ) -> Result<Self, CheckpointError> {
        let key = |name: &str| format!("{}.{name}", architecture.prefix());
        let within = |name: &str, most: u64| {
            let key = key(name);
            let expected = format!("an integer from 1 to {most}");
            match metadata.unsigned(&key)? {
                Some(value) if (1..=most).contains(&value) => Ok(value),
                Some(value) => Err(metadata.refuse(&key, value.to_string(), expected)),
                None => Err(metadata.absent(&key, &expected)),
            }
        };
        let hidden = within("embedding_length", 1 << 32)?;
        let heads = within("attention.head_count", MAX_HEADS)?;
        let kv_key = key("attention.head_count_kv");
        let kv_heads = match metadata.unsigned(&kv_key)? {
            None => heads,
            Some(_) => within("attention.head_count_kv", MAX_HEADS)?,
        };
        let length = key("attention.key_length");
        let head_dim = match metadata.unsigned(&length)? {
            Some(_) => within("attention.key_length", 1 << 32)?,
            None => hidden / heads,
        };
        let value_length = key("attention.value_length");
        if let Some(found) = metadata.unsigned(&value_length)?
            && found != head_dim
        {
            let expected = format!("{head_dim}, the size of a key");
            return Err(metadata.refuse(&value_length, found.to_string(), expected));
        }
        let experts = key("expert_count");
        if let Some(found) = metadata.unsigned(&experts)?
            && found > 0
        {
            let expected = "no experts: mixtures of experts are not supported";
            return Err(metadata.refuse(&experts, found.to_string(), expected));
        }
        Ok(Self {
            layers: within("block_count", MAX_LAYERS)?,
            hidden,
            heads,
            kv_heads,
            head_dim,
        })
    }
}
