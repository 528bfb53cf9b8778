//! Pages that later streams with the same beginning read instead of computing.
//!
//! A trie whose edges are the sixteen tokens of a page. Tokens are compared,
//! not hashes of them, so a shared page always holds what the stream would
//! have computed. Only leaves that no stream holds go, the longest unused
//! first.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::model::{PAGE, Page};

/// Where a page hangs in the trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Parent {
    /// The beginning of every prompt of one model, within one scope.
    Root(u64),
    /// After the page of this node.
    Node(usize),
}

struct Node {
    parent: Parent,
    tokens: [u32; PAGE],
    page: Arc<Page>,
    children: usize,
    /// When it was last looked up or put in.
    used: u64,
}

/// How often prefixes were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixStats {
    /// Prompt tokens that were looked up.
    pub asked_tokens: u64,
    /// Of these, tokens whose pages were there.
    pub found_tokens: u64,
    /// Pages kept now.
    pub pages: u64,
}

/// The pages of finished and running streams by what they hold.
#[derive(Default)]
pub(crate) struct PrefixIndex {
    nodes: Vec<Option<Node>>,
    vacant: Vec<usize>,
    edges: HashMap<(Parent, [u32; PAGE]), usize>,
    /// Nodes without children, longest unused first.
    leaves: BTreeSet<(u64, usize)>,
    tick: u64,
    stats: PrefixStats,
}

impl PrefixIndex {
    /// The pages of the longest known beginning of `tokens`, and where it ends
    /// in the trie. At least one token is left out: its logits are asked for.
    pub(crate) fn lookup(&mut self, root: u64, tokens: &[u32]) -> (Vec<Arc<Page>>, Parent) {
        let (mut at, mut pages) = (Parent::Root(root), Vec::new());
        let most = tokens.len().saturating_sub(1) / PAGE;
        let (chunks, _) = tokens.as_chunks::<PAGE>();
        for tokens in chunks.iter().take(most) {
            let Some(index) = self.edges.get(&(at, *tokens)).copied() else {
                break;
            };
            self.touch(index);
            at = Parent::Node(index);
            pages.push(Arc::clone(&self.node(index).page));
        }
        self.stats.asked_tokens += tokens.len() as u64;
        self.stats.found_tokens += (pages.len() * PAGE) as u64;
        (pages, at)
    }

    /// Puts a full page behind `parent`. Where an equal one hangs already,
    /// that one comes back, to be held instead.
    pub(crate) fn insert(
        &mut self,
        parent: Parent,
        tokens: [u32; PAGE],
        page: &Arc<Page>,
    ) -> (Parent, Option<Arc<Page>>) {
        if let Some(index) = self.edges.get(&(parent, tokens)).copied() {
            self.touch(index);
            let known = &self.node(index).page;
            let other = (!Arc::ptr_eq(known, page)).then(|| Arc::clone(known));
            return (Parent::Node(index), other);
        }
        if let Parent::Node(index) = parent {
            let used = self.node(index).used;
            self.leaves.remove(&(used, index));
            self.node_mut(index).children += 1;
        }
        self.tick += 1;
        let node = Node {
            parent,
            tokens,
            page: Arc::clone(page),
            children: 0,
            used: self.tick,
        };
        let index = match self.vacant.pop() {
            Some(index) => {
                self.nodes[index] = Some(node);
                index
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() - 1
            }
        };
        self.edges.insert((parent, tokens), index);
        self.leaves.insert((self.tick, index));
        self.stats.pages += 1;
        (Parent::Node(index), None)
    }

    /// Drops unused pages, the longest unused first, until `enough` says so
    /// or none is left that nobody holds. Tells whether it was enough.
    pub(crate) fn evict_until(&mut self, enough: impl Fn() -> bool) -> bool {
        while !enough() {
            let idle = |index: &usize| Arc::strong_count(&self.node(*index).page) == 1;
            let Some(index) = self.leaves.iter().map(|(_, index)| *index).find(idle) else {
                return false;
            };
            self.remove(index);
        }
        true
    }

    /// Pages that nobody but the index holds.
    pub(crate) fn idle_pages(&self) -> usize {
        let idle = |node: &&Node| Arc::strong_count(&node.page) == 1;
        self.nodes.iter().flatten().filter(idle).count()
    }

    pub(crate) fn stats(&self) -> PrefixStats {
        self.stats
    }

    fn remove(&mut self, index: usize) {
        let node = self.nodes[index].take().expect("leaves are nodes");
        self.leaves.remove(&(node.used, index));
        self.edges.remove(&(node.parent, node.tokens));
        self.vacant.push(index);
        self.stats.pages -= 1;
        if let Parent::Node(parent) = node.parent {
            let above = self.node_mut(parent);
            above.children -= 1;
            if above.children == 0 {
                let used = above.used;
                self.leaves.insert((used, parent));
            }
        }
    }

    fn touch(&mut self, index: usize) {
        self.tick += 1;
        let tick = self.tick;
        let node = self.node_mut(index);
        let before = std::mem::replace(&mut node.used, tick);
        if self.leaves.remove(&(before, index)) {
            self.leaves.insert((tick, index));
        }
    }

    fn node(&self, index: usize) -> &Node {
        self.nodes[index].as_ref().expect("indices name nodes")
    }

    fn node_mut(&mut self, index: usize) -> &mut Node {
        self.nodes[index].as_mut().expect("indices name nodes")
    }
}

#[cfg(test)]
mod tests;
