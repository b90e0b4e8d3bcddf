//! YAML text to a tree in which every node knows its place.
//!
//! In: the text of a pipeline file.
//! Out: one [`Node`], and a [`Slip`] for each thing that YAML allows and a pipeline file does not.
//!
//! The tree keeps scalars as text: whether `5` is a number is for the reader of that key to say. So a
//! fault can quote what stands in the file.
//!
//! | in the file                                   | here                                           |
//! |-----------------------------------------------|------------------------------------------------|
//! | syntax that is not YAML                       | the only slip: nothing after it can be trusted |
//! | a key twice, a tag, a key that is not text    | a slip each, the rest is read on               |
//! | an alias                                      | a copy of the anchored node                    |
//! | an alias of itself, or of nothing             | a slip, and null                               |
//! | aliases that multiply, deep nesting, huge text | refused before it costs memory                |

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

/// Longest file, in bytes.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Most nodes, copies by alias included.
const NODES_MAX: usize = 50_000;
/// Deepest nesting.
const DEPTH_MAX: usize = 32;

/// Where something stands: line and column from 1, and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) bytes: Range<usize>,
}

/// A node of the tree.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Text as YAML unescapes it; `plain` when it stands without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) value: Node,
}

/// Something that a pipeline file may not hold, whatever its key.
#[derive(Debug)]
pub(super) struct Slip {
    pub(super) place: Place,
    /// The key that is meant, where the tree does not hold it.
    pub(super) name: String,
    pub(super) wrong: String,
    pub(super) right: String,
}

impl Node {
    /// Whether it is YAML's null: nothing, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, plain } => *plain && matches!(text.as_str(), "" | "~" | "null"),
            Value::List(_) | Value::Map(_) => false,
        }
    }

    fn null(place: Place) -> Self {
        let value = Value::Scalar {
            text: String::new(),
            plain: true,
        };
        Self { place, value }
    }
}

/// Reads the text. No node is given when the text is no YAML, or breaks a limit.
pub(super) fn parse(text: &str) -> (Option<Node>, Vec<Slip>) {
    if text.len() > TEXT_BYTES_MAX {
        let slip = Slip {
            place: start_of_file(),
            name: String::new(),
            wrong: format!("the file has {} bytes", text.len()),
            right: format!("a pipeline file has at most {TEXT_BYTES_MAX} bytes"),
        };
        return (None, vec![slip]);
    }
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let step = match event {
            Ok((event, span)) => builder.take(event, &span),
            Err(error) => Err(syntax_slip(&error)),
        };
        if let Err(fatal) = step {
            return (None, vec![fatal]);
        }
    }
    (builder.root, builder.slips)
}

/// The first byte of a file.
pub(super) fn start_of_file() -> Place {
    Place {
        line: 1,
        column: 1,
        bytes: 0..0,
    }
}

fn syntax_slip(error: &ScanError) -> Slip {
    let marker = error.marker();
    let byte = marker.byte_offset().unwrap_or(0);
    Slip {
        place: Place {
            line: clamp(marker.line().max(1)),
            column: clamp(marker.col() + 1),
            bytes: byte..byte,
        },
        name: String::new(),
        wrong: format!("this is not YAML: {}", error.info()),
        right: "check indentation, quotes, brackets and the colon after each key; the rest is read once this is mended".into(),
    }
}

fn place(span: &Span) -> Place {
    let start = span.start.byte_offset().unwrap_or(0);
    let end = span.end.byte_offset().unwrap_or(start).max(start);
    Place {
        line: clamp(span.start.line().max(1)),
        column: clamp(span.start.col() + 1),
        bytes: start..end,
    }
}

fn clamp(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A collection that is still open.
struct Open {
    place: Place,
    anchor: usize,
    items: Items,
}

enum Items {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        key: Option<(String, Place)>,
    },
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchored: HashMap<usize, (Node, usize)>,
    nodes: usize,
    root: Option<Node>,
    slips: Vec<Slip>,
}

impl Builder {
    #[allow(clippy::wildcard_enum_match_arm)] // The parser's events are not exhaustive by declaration.
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Slip> {
        let at = place(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), &at);
                let plain = matches!(style, ScalarStyle::Plain);
                // An empty value is reported as `~`; what stands in the file is nothing.
                let text = if plain && at.bytes.is_empty() {
                    String::new()
                } else {
                    text.into_owned()
                };
                let value = Value::Scalar { text, plain };
                self.close(Node { place: at, value }, anchor, 1)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.is_some(), &at);
                self.descend(at, anchor, Items::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.is_some(), &at);
                let (entries, key) = (Vec::new(), None);
                self.descend(at, anchor, Items::Map { entries, key })
            }
            Event::SequenceEnd | Event::MappingEnd => self.ascend(at.bytes.end),
            Event::Alias(anchor) => match self.anchored.get(&anchor) {
                Some((node, size)) => {
                    let (node, size) = (node.clone(), *size);
                    self.close(node, 0, size)
                }
                None => self.dangling(at),
            },
            Event::UnresolvedAlias(_) => self.dangling(at),
            Event::DocumentStart(..) if self.root.is_some() => Err(Slip {
                place: at,
                name: String::new(),
                wrong: "a second YAML document starts here".into(),
                right: "one pipeline a file: move it to a file of its own".into(),
            }),
            // Starts and ends of streams and documents carry nothing.
            _ => Ok(()),
        }
    }

    fn refuse_tag(&mut self, tagged: bool, at: &Place) {
        if tagged {
            self.slip(
                at.clone(),
                "a YAML tag stands here",
                "leave the tag out; put text in quotes",
            );
        }
    }

    fn slip(&mut self, place: Place, wrong: impl Into<String>, right: &str) {
        self.slips.push(Slip {
            place,
            name: String::new(),
            wrong: wrong.into(),
            right: right.into(),
        });
    }

    fn dangling(&mut self, at: Place) -> Result<(), Slip> {
        let right = "name an anchor that ends above (`&name`), or write the value out";
        self.slip(at.clone(), "this alias refers to nothing that is complete", right);
        self.close(Node::null(at), 0, 1)
    }

    fn descend(&mut self, place: Place, anchor: usize, items: Items) -> Result<(), Slip> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Slip {
                place,
                name: String::new(),
                wrong: format!("this is nested more than {DEPTH_MAX} deep"),
                right: "a pipeline file needs no more than a handful of levels".into(),
            });
        }
        self.open.push(Open { place, anchor, items });
        Ok(())
    }

    fn ascend(&mut self, end: usize) -> Result<(), Slip> {
        let Some(Open {
            mut place,
            anchor,
            items,
        }) = self.open.pop()
        else {
            return Ok(());
        };
        place.bytes.end = end.max(place.bytes.start);
        let value = match items {
            Items::List(list) => Value::List(list),
            Items::Map { entries, .. } => Value::Map(entries),
        };
        let node = Node { place, value };
        let size = if anchor == 0 { 1 } else { size_of(&node) };
        self.close_sized(node, anchor, 1, size)
    }

    /// A node is complete: it goes where it belongs.
    fn close(&mut self, node: Node, anchor: usize, cost: usize) -> Result<(), Slip> {
        self.close_sized(node, anchor, cost, cost)
    }

    fn close_sized(&mut self, node: Node, anchor: usize, cost: usize, size: usize) -> Result<(), Slip> {
        self.nodes = self.nodes.saturating_add(cost);
        if anchor != 0 {
            // The copy that waits for aliases counts as well.
            self.nodes = self.nodes.saturating_add(size);
        }
        if self.nodes > NODES_MAX {
            return Err(Slip {
                place: node.place,
                name: String::new(),
                wrong: format!("with its aliases written out the file has more than {NODES_MAX} values"),
                right: "use fewer aliases".into(),
            });
        }
        if anchor != 0 {
            self.anchored.insert(anchor, (node.clone(), size));
        }
        self.hang(node);
        Ok(())
    }

    fn hang(&mut self, node: Node) {
        let Some(Open { items, .. }) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match items {
            Items::List(list) => list.push(node),
            Items::Map { entries, key } => match key.take() {
                Some((name, key_place)) => {
                    if let Some(first) = entries.iter().find(|entry| entry.key == name) {
                        let wrong =
                            format!("this key is given twice, first on line {}", first.key_place.line);
                        self.slips.push(Slip {
                            place: key_place,
                            name,
                            wrong,
                            right: "keep one of them".into(),
                        });
                    } else {
                        entries.push(Entry {
                            key: name,
                            key_place,
                            value: node,
                        });
                    }
                }
                None => match node.value {
                    Value::Scalar { text, .. } => *key = Some((text, node.place)),
                    Value::List(_) | Value::Map(_) => {
                        *key = Some((String::new(), node.place.clone()));
                        self.slip(node.place, "a key must be text", "write `key: value`");
                    }
                },
            },
        }
    }
}

fn size_of(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { .. } => 1,
        Value::List(list) => 1 + list.iter().map(size_of).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|entry| size_of(&entry.value)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slips(text: &str) -> Vec<String> {
        parse(text).1.into_iter().map(|slip| slip.wrong).collect()
    }

    #[test]
    fn every_node_knows_its_line_column_and_bytes() {
        let text = "a: 1\nb: {c: 'ä', d: [x, yz]}  # note\n";
        let (root, slips) = parse(text);
        assert!(slips.is_empty(), "{slips:?}");
        let Value::Map(entries) = root.unwrap().value else {
            panic!("no map")
        };
        assert_eq!((entries[1].key_place.line, entries[1].key_place.column), (2, 1));
        assert_eq!(
            &text[entries[1].value.place.bytes.clone()],
            "{c: 'ä', d: [x, yz]}"
        );
        let Value::Map(inner) = &entries[1].value.value else {
            panic!("no map")
        };
        assert_eq!(&text[inner[0].value.place.bytes.clone()], "'ä'");
        let Value::List(list) = &inner[1].value.value else {
            panic!("no list")
        };
        assert_eq!(&text[list[1].place.bytes.clone()], "yz");
        assert_eq!((list[1].place.line, list[1].place.column), (2, 20));
    }

    #[test]
    fn a_key_given_twice_is_a_slip_and_the_first_one_stays() {
        assert_eq!(
            slips("a: 1\na: 2\n"),
            ["this key is given twice, first on line 1"]
        );
    }

    #[test]
    fn aliases_that_multiply_are_refused_before_they_cost_memory() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            bomb.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                vec![before; 10].join(", ")
            ));
        }
        let found = slips(&bomb);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("aliases"), "{found:?}");
    }

    #[test]
    fn deep_nesting_is_refused() {
        for text in ["[".repeat(10_000), "- ".repeat(10_000), "{a: ".repeat(10_000)] {
            assert_eq!(slips(&text).len(), 1);
        }
    }

    #[test]
    fn huge_text_is_refused() {
        assert_eq!(slips(&"#".repeat(TEXT_BYTES_MAX + 1)).len(), 1);
    }

    #[test]
    fn an_alias_is_a_copy_and_an_alias_of_itself_a_slip() {
        assert!(slips("a: &x {b: 1}\nc: *x\n").is_empty());
        assert_eq!(slips("a: &x {b: *x}\nc: *y\n").len(), 2);
    }

    #[test]
    fn tags_and_second_documents_are_slips() {
        assert_eq!(slips("a: !!str 5\n"), ["a YAML tag stands here"]);
        assert_eq!(slips("a: 1\n---\nb: 2\n"), ["a second YAML document starts here"]);
    }
}
