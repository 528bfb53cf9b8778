//! How prompts begin, without what they say: digests of blocks from the start.

use super::{Content, Role};
use std::hash::Hasher as _;

/// Bytes of a block.
const BLOCK: usize = 256;
/// Blocks that are told apart; what comes behind them says nothing.
const MAX_BLOCKS: usize = 64;
/// Tokens that a block stands for: four bytes each, as English has.
pub const PREFIX_BLOCK_TOKENS: u32 = 64;

/// A digest for each whole block of the content, each covering all before it
/// too. It stays in the process that computed it: no wire and no record has it.
pub(super) fn prefix(content: &Content) -> Vec<u64> {
    if content.bytes() < BLOCK {
        return Vec::new();
    }
    let mut blocks = Blocks {
        hasher: std::hash::DefaultHasher::new(),
        filled: 0,
        found: Vec::new(),
    };
    match content {
        Content::Prompt(text) => blocks.feed(text.as_bytes()),
        Content::Messages(messages) => {
            for message in messages {
                let role: &[u8] = match message.role {
                    Role::System => b"\0s",
                    Role::User => b"\0u",
                    Role::Assistant => b"\0a",
                };
                blocks.feed(role);
                blocks.feed(message.text.as_bytes());
            }
        }
    }
    blocks.found
}

struct Blocks {
    hasher: std::hash::DefaultHasher,
    filled: usize,
    found: Vec<u64>,
}

impl Blocks {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.found.len() < MAX_BLOCKS {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.hasher.write(now);
            self.filled += now.len();
            if self.filled == BLOCK {
                // What is hashed goes on, so each digest covers those before.
                self.found.push(self.hasher.finish());
                self.filled = 0;
            }
            bytes = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Message;

    fn of(text: &str) -> Vec<u64> {
        prefix(&Content::Prompt(text.to_owned()))
    }

    #[test]
    fn prompts_share_as_many_blocks_as_they_begin_alike() {
        let beginning = "You are a helpful assistant. ".repeat(40);
        let (a, b) = (of(&format!("{beginning}a")), of(&format!("{beginning}bb")));
        assert_eq!(a.len(), beginning.len() / BLOCK);
        assert_eq!(a, b);
        let early = of(&beginning.replacen("helpful", "hopeful", 1));
        assert!(a.iter().zip(&early).all(|(a, b)| a != b));
        assert!(of("short").is_empty());
        assert_eq!(of(&"x".repeat(1 << 18)).len(), MAX_BLOCKS);
    }

    #[test]
    fn who_says_it_counts_and_where_a_message_ends() {
        let messages = |texts: &[(Role, &str)]| {
            let one = |(role, text): &(Role, &str)| Message {
                role: *role,
                text: (*text).to_owned(),
            };
            prefix(&Content::Messages(texts.iter().map(one).collect()))
        };
        let long = "words ".repeat(100);
        let asked = messages(&[(Role::System, &long), (Role::User, "hello")]);
        assert_eq!(asked[0], messages(&[(Role::System, &long)])[0]);
        assert_ne!(asked[0], messages(&[(Role::User, &long)])[0]);
        let (head, tail) = long.split_at(100);
        let cut = messages(&[(Role::System, head), (Role::System, tail)]);
        assert_ne!(asked[0], cut[0]);
    }
}
