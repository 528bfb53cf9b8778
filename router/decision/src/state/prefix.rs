//! Who has read which beginnings of prompts lately.

use std::collections::{BTreeMap, VecDeque};

/// Blocks that are remembered; beyond, the oldest is forgotten.
pub const MAX_BLOCKS: usize = 1 << 18;
/// Nodes remembered for one block.
const HOLDERS: usize = 4;
/// Blocks of one prompt that are looked at.
const MAX_PROMPT_BLOCKS: usize = 1_024;

#[derive(Debug, Clone, Copy)]
struct Holder {
    node: u32,
    /// The node's clock when it read the block.
    stamp: u64,
}

/// Blocks of prompts by digest, and the nodes that read them. A digest covers
/// its block and all before it. What a node read counts as long as it has not
/// read more since than its cache holds.
#[derive(Debug, Clone, Default)]
pub struct PrefixIndex {
    blocks: BTreeMap<u64, [Option<Holder>; HOLDERS]>,
    order: VecDeque<u64>,
    /// Tokens each node has read so far, and tokens its cache holds.
    nodes: Vec<(u64, u64)>,
}

impl PrefixIndex {
    /// A node's cache holds so many tokens.
    pub fn set_room(&mut self, node: u32, tokens: u64) {
        let at = node as usize;
        if self.nodes.len() <= at {
            self.nodes.resize(at + 1, (0, 0));
        }
        self.nodes[at].1 = tokens;
    }

    /// A node lost what it had.
    pub fn forget(&mut self, node: u32) {
        if let Some((clock, room)) = self.nodes.get_mut(node as usize) {
            *clock += *room + 1;
        }
    }

    /// Up to four nodes and how many blocks of the prompt each has at hand,
    /// from the first block on; how many entries of `found` are filled.
    pub fn find(&self, prompt: &[u64], found: &mut [(u32, u32); HOLDERS]) -> usize {
        let mut here = 0;
        for (depth, block) in prompt.iter().take(MAX_PROMPT_BLOCKS).enumerate() {
            let Some(holders) = self.blocks.get(block) else {
                break;
            };
            let has = |node: u32| {
                let mut known = holders.iter().flatten();
                known.any(|holder| holder.node == node && self.is_kept(holder))
            };
            if depth == 0 {
                for holder in holders.iter().flatten().filter(|h| self.is_kept(h)) {
                    found[here] = (holder.node, 1);
                    here += 1;
                }
            } else {
                let mut any = false;
                for (node, blocks) in found.iter_mut().take(here) {
                    if *blocks as usize == depth && has(*node) {
                        *blocks += 1;
                        any = true;
                    }
                }
                if !any {
                    break;
                }
            }
        }
        here
    }

    fn is_kept(&self, holder: &Holder) -> bool {
        let node = self.nodes.get(holder.node as usize);
        node.is_some_and(|(clock, room)| clock - holder.stamp <= *room)
    }

    /// A node reads a prompt, `block_tokens` to a block.
    pub fn record(&mut self, node: u32, prompt: &[u64], block_tokens: u32) {
        self.set_room_if_new(node);
        for block in prompt.iter().take(MAX_PROMPT_BLOCKS) {
            let is_new = !self.blocks.contains_key(block);
            if is_new {
                if self.order.len() >= MAX_BLOCKS
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.blocks.remove(&oldest);
                }
                self.order.push_back(*block);
            }
            let clock = &mut self.nodes[node as usize].0;
            let holders = self.blocks.entry(*block).or_default();
            let known = holders
                .iter()
                .position(|h| h.is_some_and(|h| h.node == node));
            match known {
                Some(at) => {
                    holders[..=at].rotate_right(1);
                }
                None => {
                    *clock += u64::from(block_tokens);
                    holders.rotate_right(1);
                }
            }
            holders[0] = Some(Holder {
                node,
                stamp: *clock,
            });
        }
    }

    fn set_room_if_new(&mut self, node: u32) {
        if self.nodes.len() <= node as usize {
            self.set_room(node, 0);
        }
    }
}
