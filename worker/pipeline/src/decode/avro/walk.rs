//! How many bytes a record takes, by the schema it was written with.
//!
//! In: a schema as JSON, and bytes. Out: whether the bytes are just so many records. Nothing is decoded: values are stepped
//! over. Logical types lie in the bytes as the types below them.

use std::collections::HashMap;

use serde_json::Value;

/// Deepest nesting, of types and of values.
const DEPTH: usize = 64;
/// Items of no bytes (nulls) that a list may hold beyond the bytes that are left.
const EMPTY_ITEMS: usize = 4096;

/// A schema, as steps over bytes.
#[derive(Debug)]
pub(super) struct Walk {
    nodes: Vec<Node>,
    root: usize,
}

/// A type. Others are named by their place, so that a record may hold itself.
#[derive(Debug)]
enum Node {
    /// Booleans, fixed, floating point, and null.
    Fixed(usize),
    /// Integers and enums.
    Varint,
    /// Bytes and text.
    Sized,
    Array(usize),
    Map(usize),
    Union(Vec<usize>),
    Record(Vec<usize>),
}

impl Walk {
    /// Reads a schema; none when it is no Avro schema, or nested too deeply.
    pub(super) fn of(schema: &[u8]) -> Option<Self> {
        let schema: Value = serde_json::from_slice(schema).ok()?;
        let mut reading = Reading::default();
        let root = reading.place(&schema, "", 0)?;
        let nodes = reading.nodes;
        Some(Self { nodes, root })
    }

    /// Whether `bytes` are `count` records, no more and no less. Records without any bytes count as none.
    pub(super) fn is_records(&self, mut bytes: &[u8], count: i64) -> bool {
        for _ in 0..count {
            if bytes.is_empty() || self.step(self.root, &mut bytes, 0).is_none() {
                return false;
            }
        }
        bytes.is_empty()
    }

    /// Steps over one value; none when it does not end within the bytes.
    fn step(&self, node: usize, bytes: &mut &[u8], depth: usize) -> Option<()> {
        if depth > DEPTH {
            return None;
        }
        match self.nodes.get(node)? {
            Node::Fixed(length) => skip(bytes, *length),
            Node::Varint => varint(bytes).map(|_| ()),
            Node::Sized => sized(bytes),
            Node::Array(item) => self.items(bytes, |bytes| self.step(*item, bytes, depth + 1)),
            Node::Map(value) => self.items(bytes, |bytes| {
                sized(bytes)?;
                self.step(*value, bytes, depth + 1)
            }),
            Node::Union(branches) => {
                let branch = usize::try_from(varint(bytes)?).ok()?;
                self.step(*branches.get(branch)?, bytes, depth + 1)
            }
            Node::Record(fields) => fields
                .iter()
                .try_for_each(|field| self.step(*field, bytes, depth + 1)),
        }
    }

    /// Blocks of items up to an empty one. A negative count is followed by the block's bytes.
    fn items(&self, bytes: &mut &[u8], mut item: impl FnMut(&mut &[u8]) -> Option<()>) -> Option<()> {
        loop {
            let count = varint(bytes)?;
            if count == 0 {
                return Some(());
            }
            if count < 0 {
                varint(bytes)?;
            }
            let count = usize::try_from(count.checked_abs()?).ok()?;
            if count > bytes.len() + EMPTY_ITEMS {
                return None;
            }
            for _ in 0..count {
                item(bytes)?;
            }
        }
    }
}

/// Takes a zigzag number off the front.
pub(super) fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

fn sized(bytes: &mut &[u8]) -> Option<()> {
    let length = usize::try_from(varint(bytes)?).ok()?;
    skip(bytes, length)
}

fn skip(bytes: &mut &[u8], length: usize) -> Option<()> {
    *bytes = bytes.get(length..)?;
    Some(())
}

/// A schema while it is read.
#[derive(Default)]
struct Reading {
    nodes: Vec<Node>,
    names: HashMap<String, usize>,
}

impl Reading {
    /// The place of a type; `space` is the namespace around it.
    fn place(&mut self, schema: &Value, space: &str, depth: usize) -> Option<usize> {
        if depth > DEPTH {
            return None;
        }
        match schema {
            Value::String(name) => self.named(name, space),
            Value::Array(branches) => {
                let branches = branches.iter().map(|branch| self.place(branch, space, depth + 1));
                let union = Node::Union(branches.collect::<Option<_>>()?);
                Some(self.add(union))
            }
            Value::Object(object) => {
                let kind = object.get("type")?;
                let Value::String(kind) = kind else {
                    return self.place(kind, space, depth + 1);
                };
                match kind.as_str() {
                    "array" => {
                        let item = self.place(object.get("items")?, space, depth + 1)?;
                        Some(self.add(Node::Array(item)))
                    }
                    "map" => {
                        let value = self.place(object.get("values")?, space, depth + 1)?;
                        Some(self.add(Node::Map(value)))
                    }
                    "enum" => self.define(object, space, Node::Varint).map(|(place, _)| place),
                    "fixed" => {
                        let size = usize::try_from(object.get("size")?.as_u64()?).ok()?;
                        self.define(object, space, Node::Fixed(size))
                            .map(|(place, _)| place)
                    }
                    "record" | "error" => {
                        let (place, space) = self.define(object, space, Node::Fixed(0))?;
                        let fields = object.get("fields")?.as_array()?;
                        let fields = fields
                            .iter()
                            .map(|field| self.place(field.get("type")?, &space, depth + 1));
                        let record = Node::Record(fields.collect::<Option<_>>()?);
                        *self.nodes.get_mut(place)? = record;
                        Some(place)
                    }
                    name => self.named(name, space),
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => None,
        }
    }

    fn add(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// A primitive type, or one that was defined before.
    fn named(&mut self, name: &str, space: &str) -> Option<usize> {
        let node = match name {
            "null" => Node::Fixed(0),
            "boolean" => Node::Fixed(1),
            "float" => Node::Fixed(4),
            "double" => Node::Fixed(8),
            "int" | "long" => Node::Varint,
            "bytes" | "string" => Node::Sized,
            name => {
                let near = self.names.get(&format!("{space}.{name}"));
                return near.or_else(|| self.names.get(name)).copied();
            }
        };
        Some(self.add(node))
    }

    /// Gives a type its full name; its place, and the namespace of what it holds.
    fn define(
        &mut self,
        object: &serde_json::Map<String, Value>,
        space: &str,
        node: Node,
    ) -> Option<(usize, String)> {
        let name = object.get("name")?.as_str()?;
        let space = object.get("namespace").and_then(Value::as_str).unwrap_or(space);
        let full = if name.contains('.') || space.is_empty() {
            name.to_owned()
        } else {
            format!("{space}.{name}")
        };
        let place = self.add(node);
        let space = full.rsplit_once('.').map_or("", |(space, _)| space).to_owned();
        self.names.insert(full, place);
        Some((place, space))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(schema: &str) -> Walk {
        Walk::of(schema.as_bytes()).unwrap()
    }

    #[test]
    fn a_record_takes_the_bytes_of_its_fields_in_order() {
        let walk = walk(
            r#"{"type": "record", "name": "a.b.R", "fields": [
                {"name": "l", "type": {"type": "long", "logicalType": "timestamp-micros"}},
                {"name": "u", "type": ["null", "string"]},
                {"name": "f", "type": {"type": "fixed", "name": "F", "size": 3}},
                {"name": "again", "type": "F"},
                {"name": "e", "type": {"type": "enum", "name": "E", "namespace": "x", "symbols": ["A"]}},
                {"name": "list", "type": {"type": "array", "items": "double"}},
                {"name": "map", "type": {"type": "map", "values": ["null", "x.E"]}}]}"#,
        );
        let mut record = vec![0x80, 0x01, 2, 4, b'h', b'i', 1, 2, 3, 4, 5, 6, 0];
        record.extend([1, 16]);
        record.extend([0; 8]);
        record.extend([0, 2, 2, b'k', 2, 0, 0]);
        assert!(walk.is_records(&record, 1));
        let twice = [&record[..], &record[..]].concat();
        assert!(walk.is_records(&twice, 2));
        for (bytes, count) in [
            (&twice[..], 1),
            (&twice, 3),
            (&record[2..], 1),
            (&record[..20], 1),
        ] {
            assert!(!walk.is_records(bytes, count), "{count} in {bytes:?}");
        }
    }

    #[test]
    fn a_record_may_hold_itself() {
        let walk = walk(
            r#"{"type": "record", "name": "List", "fields": [
                {"name": "value", "type": "int"}, {"name": "next", "type": ["null", "List"]}]}"#,
        );
        assert!(walk.is_records(&[2, 2, 4, 2, 6, 0], 1));
        assert!(!walk.is_records(&[2, 2, 4, 2, 6], 1));
        // Deeper than anybody writes: refused, not a stack that overflows.
        assert!(!walk.is_records(&[2; 4096], 1));
    }

    #[test]
    fn lists_of_nothing_and_records_of_nothing_end() {
        let list = walk(r#"{"type": "array", "items": "null"}"#);
        assert!(list.is_records(&[6, 0], 1));
        let many = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0];
        assert!(!list.is_records(&many, 1));
        let nothing = walk(r#"{"type": "record", "name": "N", "fields": []}"#);
        assert!(!nothing.is_records(&[], i64::MAX));
    }

    #[test]
    fn what_is_no_schema_is_none() {
        let deep = format!("{}\"int\"{}", "[".repeat(100), "]".repeat(100));
        for schema in [
            "",
            "7",
            "{}",
            "\"nobody\"",
            r#"{"type": "record", "name": "R"}"#,
            &deep,
        ] {
            assert!(Walk::of(schema.as_bytes()).is_none(), "{schema}");
        }
    }
}
