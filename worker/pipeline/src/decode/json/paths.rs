//! The wanted paths as a tree, and the key order that each of its objects had last time.
//!
//! Records of one stream repeat their shape. So a node remembers the bytes between its values, from behind
//! the comma or brace over the key to behind the colon, as *tokens*: comparing the next token with what stands at
//! the cursor replaces finding the key's end, unescaping, looking up, and checking the syntax around it.
//! When a token does not match, the key is read in the general way and the order is learned anew.

use crate::decode::Wanted;

/// What to do with the value behind a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Nobody wants it.
    Skip,
    /// One field wants it, and nothing below it is wanted.
    Field { node: u32, field: u32 },
    /// Several fields want it, or something below it.
    Node(u32),
}

/// A place in the record.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Keys below, with what they lead to.
    children: Vec<(Box<[u8]>, u32)>,
    /// Fields that are read from this very value.
    pub(super) fields: Vec<u32>,
    /// The row that held this path last; tells a repeated key.
    pub(super) seen: u64,
    /// Key order of the last records.
    pub(super) shape: Shape,
}

impl Node {
    pub(super) fn has_children(&self) -> bool {
        !self.children.is_empty()
    }

    pub(super) fn children(&self) -> impl Iterator<Item = u32> + '_ {
        self.children.iter().map(|(_, node)| *node)
    }
}

/// Builds the tree; its root, node 0, is the record.
pub(super) fn tree(fields: &[Wanted]) -> Vec<Node> {
    let mut nodes = vec![Node::default()];
    for (field, wanted) in fields.iter().enumerate() {
        let mut at = 0;
        for key in &wanted.path {
            let known = nodes[at]
                .children
                .iter()
                .find(|(name, _)| **name == *key.as_bytes());
            at = match known {
                Some(&(_, child)) => child as usize,
                None => {
                    let child = nodes.len();
                    nodes[at].children.push((key.as_bytes().into(), child as u32));
                    nodes.push(Node::default());
                    child
                }
            };
        }
        nodes[at].fields.push(field as u32);
    }
    nodes
}

/// What a key of an object leads to.
pub(super) fn target(nodes: &[Node], object: usize, key: &[u8]) -> Target {
    let Some(&(_, node)) = nodes[object].children.iter().find(|(name, _)| **name == *key) else {
        return Target::Skip;
    };
    let child = &nodes[node as usize];
    match child.fields.as_slice() {
        &[field] if child.children.is_empty() => Target::Field { node, field },
        _ => Target::Node(node),
    }
}

/// Longest key order that is remembered.
const STEPS_MAX: usize = 64;
/// How far ahead a key is looked for when others were left out.
const AHEAD_MAX: usize = 8;
/// Unexpected keys that are learned before records without any must earn more: an object whose keys are
/// data is not worth learning.
const PATIENCE_MAX: u32 = 256;

/// The key order of an object.
#[derive(Debug)]
pub(super) struct Shape {
    steps: Vec<Step>,
    patience: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            steps: Vec::new(),
            patience: PATIENCE_MAX,
        }
    }
}

/// One key of the order.
#[derive(Debug, Clone)]
struct Step {
    /// The first 32 bytes of the token, zero-padded.
    head: [u128; 2],
    /// Which bits of them count.
    mask: [u128; 2],
    token: Box<[u8]>,
    /// Where the key stands in the token, with its quotes.
    key: (usize, usize),
    target: Target,
}

impl Step {
    fn new(token: &[u8], key: (usize, usize), target: Target) -> Self {
        let mut head = [0; 32];
        let mut mask = [0; 32];
        for (i, &byte) in token.iter().take(32).enumerate() {
            head[i] = byte;
            mask[i] = 0xff;
        }
        let halves = |bytes: [u8; 32]| {
            let (low, high) = bytes.split_at(16);
            [low, high].map(|half| {
                half.iter()
                    .rev()
                    .fold(0u128, |word, &byte| word << 8 | u128::from(byte))
            })
        };
        Self {
            head: halves(head),
            mask: halves(mask),
            token: token.into(),
            key,
            target,
        }
    }

    fn key(&self) -> &[u8] {
        &self.token[self.key.0..self.key.1]
    }

    #[inline(always)]
    fn matches(&self, bytes: &[u8], at: usize) -> bool {
        let Some(rest) = bytes.get(at..) else {
            return false;
        };
        let (Some(low), Some(both)) = (rest.first_chunk::<16>(), rest.first_chunk::<32>()) else {
            return rest.starts_with(&self.token);
        };
        if (u128::from_le_bytes(*low) ^ self.head[0]) & self.mask[0] != 0 {
            return false;
        }
        if self.token.len() <= 16 {
            return true;
        }
        let mut high = [0; 16];
        high.copy_from_slice(&both[16..]);
        (u128::from_le_bytes(high) ^ self.head[1]) & self.mask[1] == 0
            && (self.token.len() <= 32 || rest.starts_with(&self.token))
    }
}

impl Shape {
    /// If the `i`-th expected token stands at `at`: what it leads to and where its value begins.
    #[inline(always)]
    pub(super) fn guess(&self, i: usize, bytes: &[u8], at: usize) -> Option<(Target, usize)> {
        let step = self.steps.get(i)?;
        step.matches(bytes, at)
            .then(|| (step.target, at + step.token.len()))
    }

    /// Notes that the token `bytes[at..value]`, with its key at `key`, came where the `i`-th was
    /// expected. Returns which one to expect next.
    pub(super) fn learn(
        &mut self,
        i: usize,
        bytes: &[u8],
        (at, value): (usize, usize),
        key: (usize, usize),
        target: Target,
    ) -> usize {
        let name = &bytes[key.0..key.1];
        let ahead = self.steps.iter().skip(i).take(AHEAD_MAX);
        if let Some(left_out) = ahead.into_iter().position(|step| step.key() == name) {
            let found = i + left_out;
            // The same key in other white space: the new way of writing is the better guess.
            if found == i && self.patience > 0 {
                self.patience -= 1;
                self.steps[i] = Step::new(&bytes[at..value], (key.0 - at, key.1 - at), target);
            }
            return found + 1;
        }
        if self.patience == 0 || i >= STEPS_MAX {
            return i;
        }
        self.patience -= 1;
        let step = Step::new(&bytes[at..value], (key.0 - at, key.1 - at), target);
        self.steps.insert(i.min(self.steps.len()), step);
        self.steps.truncate(STEPS_MAX);
        i + 1
    }

    /// An object went by as expected.
    #[inline(always)]
    pub(super) fn confirm(&mut self) {
        if self.patience < PATIENCE_MAX {
            self.patience += 1;
        }
    }
}
