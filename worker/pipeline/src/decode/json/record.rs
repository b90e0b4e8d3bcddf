//! The walk over one record: keys to wanted fields, values to columns.
//!
//! Of a key that stands twice in one object the last counts, as most readers have it: what the first one
//! left is taken back, below it too. A path that meets something other than an object is absent.

use super::columns::Column;
use super::paths::{self, Node, Target};
use super::simd::Scan;
use super::skip::{byte, space};
use super::values::{Reading, unescape};

/// The tree of wanted paths, the columns that it fills, and what reading needs.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) nodes: Vec<Node>,
    pub(super) columns: Vec<Column>,
    pub(super) reading: Reading,
    /// The row that is being written.
    pub(super) row: usize,
    /// Counts the records ever read: what [`Node::seen`] is compared with.
    pub(super) record: u64,
    pub(super) depth_max: u32,
}

impl Walk {
    /// Walks over the record at `at`. Returns the position behind it and the white space that follows, or
    /// none when it is broken; then the row may hold half of it.
    pub(super) fn record(&mut self, bytes: &[u8], at: usize) -> Option<usize> {
        if byte(bytes, at) != b'{' {
            return None;
        }
        self.record += 1;
        let end = if self.nodes[0].fields.is_empty() {
            self.object(bytes, 0, at, self.depth_max)?
        } else {
            self.node(bytes, 0, at, self.depth_max)?
        };
        Some(space(bytes, end))
    }

    /// Takes the row back.
    pub(super) fn clear_row(&mut self) {
        for column in &mut self.columns {
            column.clear(self.row);
        }
        self.reading.mismatches.clear();
    }

    /// Walks over the object at `at`; `depth` is how many containers may still be opened, this one among them.
    fn object(&mut self, bytes: &[u8], object: usize, at: usize, depth: u32) -> Option<usize> {
        let depth = depth.checked_sub(1)?;
        let mut at = at + 1;
        let mut expected = 0;
        let mut is_as_expected = true;
        loop {
            let guess = self.nodes[object].shape.guess(expected, bytes, at);
            let (target, value) = match guess {
                Some((target, value)) => {
                    expected += 1;
                    // White space may stand behind a token that was learned without.
                    let is_value = byte(bytes, value) > b' ';
                    (target, if is_value { value } else { space(bytes, value) })
                }
                None => {
                    is_as_expected = false;
                    let key = space(bytes, at);
                    if byte(bytes, key) == b'}' && byte(bytes, at - 1) == b'{' {
                        return Some(key + 1);
                    }
                    self.key(bytes, object, at, key, &mut expected)?
                }
            };
            let end = match target {
                Target::Skip => self.reading.skip(bytes, value, depth)?,
                Target::Field { node, field } => self.field(bytes, node as usize, field, value, depth)?,
                Target::Node(node) => self.node(bytes, node as usize, value, depth)?,
            };
            at = match byte(bytes, end) {
                b',' | b'}' => end,
                _ => space(bytes, end),
            };
            match byte(bytes, at) {
                b',' => at += 1,
                b'}' => break,
                _ => return None,
            }
        }
        if is_as_expected {
            self.nodes[object].shape.confirm();
        }
        Some(at + 1)
    }

    /// Reads the key at `key` in the general way, and learns it. Returns what it leads to and where its
    /// value begins. `at` is behind the comma or brace before it.
    #[inline(never)]
    fn key(
        &mut self,
        bytes: &[u8],
        object: usize,
        at: usize,
        key: usize,
        expected: &mut usize,
    ) -> Option<(Target, usize)> {
        if byte(bytes, key) != b'"' {
            return None;
        }
        let stop = self.reading.isa.stop(bytes, key + 1);
        let (target, end) = if byte(bytes, stop) == b'"' {
            let name = &bytes[key + 1..stop];
            (paths::target(&self.nodes, object, name), stop + 1)
        } else {
            let name = &mut self.reading.scratch;
            name.clear();
            let end = unescape(self.reading.isa, bytes, key + 1, name)?;
            (paths::target(&self.nodes, object, name), end)
        };
        let colon = space(bytes, end);
        if byte(bytes, colon) != b':' {
            return None;
        }
        let value = space(bytes, colon + 1);
        let shape = &mut self.nodes[object].shape;
        *expected = shape.learn(*expected, bytes, (at, value), (key, end), target);
        Some((target, value))
    }

    #[inline(always)]
    fn field(&mut self, bytes: &[u8], node: usize, field: u32, at: usize, depth: u32) -> Option<usize> {
        self.meet(node);
        self.reading.field = field;
        self.reading
            .value(&mut self.columns[field as usize], self.row, bytes, at, depth)
    }

    /// Reads a value that several fields want, or parts of it.
    #[inline(never)]
    fn node(&mut self, bytes: &[u8], node: usize, at: usize, depth: u32) -> Option<usize> {
        self.meet(node);
        let mut end = None;
        for i in 0..self.nodes[node].fields.len() {
            let field = self.nodes[node].fields[i];
            self.reading.field = field;
            let column = &mut self.columns[field as usize];
            end = Some(self.reading.value(column, self.row, bytes, at, depth)?);
        }
        if self.nodes[node].has_children() && byte(bytes, at) == b'{' {
            end = Some(self.object(bytes, node, at, depth)?);
        }
        match end {
            Some(end) => Some(end),
            None => self.reading.skip(bytes, at, depth),
        }
    }

    /// Notes that the record has this path; of a repeated one, what came before is forgotten.
    #[inline(always)]
    fn meet(&mut self, node: usize) {
        if self.nodes[node].seen == self.record {
            self.forget(node);
        }
        self.nodes[node].seen = self.record;
    }

    #[cold]
    fn forget(&mut self, node: usize) {
        if self.nodes[node].seen != self.record {
            return;
        }
        self.nodes[node].seen = 0;
        let fields = self.nodes[node].fields.clone();
        self.reading
            .mismatches
            .retain(|mismatch| !fields.contains(&mismatch.field));
        for field in fields {
            self.columns[field as usize].clear(self.row);
        }
        let children: Vec<u32> = self.nodes[node].children().collect();
        for child in children {
            self.forget(child as usize);
        }
    }
}
