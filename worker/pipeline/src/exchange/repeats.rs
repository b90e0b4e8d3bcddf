//! Texts that a block has already: found by a small table, where a column has enough of them.
//!
//! In: a column's texts, one after the other, and the bytes of those before. Out: where an equal one lies. What the table
//! forgets is only written again: it has one place for each hash, and the newest text takes it.

/// Texts up to this size stand in their view: nothing points to them.
pub(super) const SHORT: usize = 12;
/// Places of the table, a power of two.
const PLACES: usize = 256;
/// Texts that are looked up before it is judged whether a column repeats itself.
const TRIED: u32 = 1024;

/// What is known of the texts of one column of a block.
pub(super) struct Repeats {
    places: Box<[(u32, u32); PLACES]>,
    tried: u32,
    found: u32,
}

impl Repeats {
    pub(super) fn new() -> Self {
        Self {
            places: Box::new([(0, 0); PLACES]),
            tried: 0,
            found: 0,
        }
    }

    /// Where in `bytes` an equal text begins; none: `text` is about to be appended to them.
    pub(super) fn find(&mut self, text: &[u8], bytes: &[u8]) -> Option<u32> {
        let place = &mut self.places[place(text)];
        let (start, length) = (place.0 as usize, place.1 as usize);
        self.tried += 1;
        if bytes.get(start..start + length) == Some(text) {
            self.found += 1;
            return Some(place.0);
        }
        if let (Ok(start), Ok(length)) = (u32::try_from(bytes.len()), u32::try_from(text.len())) {
            *place = (start, length);
        }
        None
    }

    /// Whether looking is worth its time: a quarter of the texts was there, or too few were looked up to tell.
    pub(super) fn pays(&self) -> bool {
        self.tried < TRIED || self.found >= self.tried / 4
    }
}

fn place(text: &[u8]) -> usize {
    let head = text.first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
    let tail = text.last_chunk().map_or(0, |tail| u64::from_le_bytes(*tail));
    let middle = text.get(text.len() / 2..).and_then(<[u8]>::first_chunk);
    let middle = middle.map_or(0, |middle| u64::from_le_bytes(*middle));
    let mixed = head ^ tail.rotate_left(23) ^ middle.rotate_left(41) ^ text.len() as u64;
    // The upper bits of the product depend on all of them.
    (mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_where_it_lies_and_nothing_else_is() {
        let (mut repeats, mut bytes) = (Repeats::new(), Vec::new());
        let texts: Vec<String> = (0..600)
            .map(|i| format!("a text of some length, number {}", i % 50))
            .collect();
        let mut found = 0;
        for text in &texts {
            match repeats.find(text.as_bytes(), &bytes) {
                Some(start) => {
                    found += 1;
                    assert!(bytes[start as usize..].starts_with(text.as_bytes()));
                }
                None => bytes.extend_from_slice(text.as_bytes()),
            }
        }
        assert!(found > 400, "{found}");
        assert!(repeats.pays());
    }

    #[test]
    fn texts_that_are_all_different_do_not_pay() {
        let (mut repeats, mut bytes) = (Repeats::new(), Vec::new());
        for i in 0..2 * TRIED {
            let text = format!("a session of its own, {i}");
            assert_eq!(repeats.find(text.as_bytes(), &bytes), None);
            bytes.extend_from_slice(text.as_bytes());
        }
        assert!(!repeats.pays());
    }
}
