//! Lengths of text in characters (Unicode code points, as Python counts them).

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::DataType;

/// The rows whose text has `min..=max` characters.
pub(crate) fn judge(array: &ArrayRef, min: u64, max: u64) -> BooleanBuffer {
    if array.data_type() != &DataType::Utf8View {
        return BooleanBuffer::new_unset(array.len());
    }
    let texts = array.as_string_view();
    let views = texts.views();
    BooleanBuffer::collect_bool(views.len(), |row| {
        let view = views[row];
        let bytes = view as u32; // the lower 32 bits of a view are the length
        let followers = if bytes <= 12 {
            followers_in_view(view)
        } else {
            let text = texts.value(row);
            if text.is_ascii() {
                0
            } else {
                text.bytes().filter(|byte| byte & 0xC0 == 0x80).count() as u32
            }
        };
        (min..=max).contains(&u64::from(bytes - followers))
    })
}

/// UTF-8 bytes after the first of their character, in the 12 bytes that a view holds itself.
fn followers_in_view(view: u128) -> u32 {
    const TOP: u128 = u128::from_le_bytes([
        0, 0, 0, 0, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128,
    ]);
    // 10xxxxxx: the top bit is set and the next one is not.
    (view & TOP & !(view << 1)).count_ones()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringViewArray;
    use proptest::prelude::*;
    use std::sync::Arc;

    proptest! {
        #[test]
        fn characters_are_counted_not_bytes(texts in prop::collection::vec("\\PC{0,20}", 0..40), min in 0_u64..10, more in 0_u64..10) {
            let array: ArrayRef = Arc::new(StringViewArray::from_iter_values(&texts));
            let judged: Vec<bool> = judge(&array, min, min + more).iter().collect();
            let counted: Vec<bool> = texts
                .iter()
                .map(|text| (min..=min + more).contains(&(text.chars().count() as u64)))
                .collect();
            prop_assert_eq!(judged, counted);
        }
    }
}
