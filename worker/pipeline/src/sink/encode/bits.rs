//! Parquet's integer encodings: bit-packed and run-length hybrid, delta binary packed, varints.

/// Appends `value` as an unsigned LEB128 varint.
pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value` as a zigzag varint.
pub(super) fn zigzag(out: &mut Vec<u8>, value: i64) {
    varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Bits needed for `value`.
pub(super) fn width(value: u64) -> u32 {
    64 - value.leading_zeros()
}

/// Appends values of `width` bits each, lowest bit first; the count must be a multiple of 8.
fn pack(out: &mut Vec<u8>, values: &[u32], width: u32) {
    let (mut word, mut filled) = (0u64, 0u32);
    for &value in values {
        word |= u64::from(value) << filled;
        filled += width;
        if filled >= 32 {
            out.extend_from_slice(&(word as u32).to_le_bytes());
            word >>= 32;
            filled -= 32;
        }
    }
    out.extend_from_slice(&word.to_le_bytes()[..filled.div_ceil(8) as usize]);
}

/// As [`pack`], for values of up to 64 bits.
fn pack_wide(out: &mut Vec<u8>, values: &[u64], width: u32) {
    let (mut word, mut filled) = (0u128, 0u32);
    for &value in values {
        word |= u128::from(value) << filled;
        filled += width;
        if filled >= 64 {
            out.extend_from_slice(&(word as u64).to_le_bytes());
            word >>= 64;
            filled -= 64;
        }
    }
    out.extend_from_slice(&word.to_le_bytes()[..filled.div_ceil(8) as usize]);
}

/// Values in a group of the hybrid encoding.
const GROUP: usize = 8;
/// Equal groups from which a run pays.
const RUN_GROUPS: usize = 4;

/// Appends values as Parquet's hybrid of runs and bit-packed groups, without length or width.
pub(super) fn hybrid(out: &mut Vec<u8>, values: &[u32], width: u32) {
    let mut packed = 0; // first value that is neither in a run nor packed yet
    let mut at = 0;
    while at + GROUP * RUN_GROUPS <= values.len() {
        let value = values[at];
        if values[at + 1..at + GROUP].iter().any(|other| *other != value) {
            at += GROUP;
            continue;
        }
        let run = values[at..].iter().take_while(|other| **other == value).count();
        // A run may end anywhere only at the end of the values: groups after it start anew.
        if run < GROUP * RUN_GROUPS {
            at += GROUP;
            continue;
        }
        groups(out, &values[packed..at], width);
        varint(out, (run as u64) << 1);
        out.extend_from_slice(&value.to_le_bytes()[..width.div_ceil(8) as usize]);
        at += run;
        packed = at;
    }
    let rest = &values[packed..];
    if !rest.is_empty() && rest.iter().all(|value| *value == rest[0]) {
        varint(out, (rest.len() as u64) << 1);
        out.extend_from_slice(&rest[0].to_le_bytes()[..width.div_ceil(8) as usize]);
    } else {
        groups(out, rest, width);
    }
}

/// Bit-packed groups; the last is filled up with zeros.
fn groups(out: &mut Vec<u8>, values: &[u32], width: u32) {
    if values.is_empty() {
        return;
    }
    varint(out, (values.len().div_ceil(GROUP) as u64) << 1 | 1);
    let whole = values.len() / GROUP * GROUP;
    pack(out, &values[..whole], width);
    if whole < values.len() {
        let mut last = [0; GROUP];
        last[..values.len() - whole].copy_from_slice(&values[whole..]);
        pack(out, &last, width);
    }
}

const BLOCK: usize = 128;
const MINI_BLOCK: usize = 32;

/// Physical width of the integers that a delta encoding stands for: differences wrap around at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrap {
    /// INT32, also lengths.
    At32,
    /// INT64.
    At64,
}

impl Wrap {
    fn sub(self, a: i64, b: i64) -> i64 {
        match self {
            Self::At32 => i64::from((a as i32).wrapping_sub(b as i32)),
            Self::At64 => a.wrapping_sub(b),
        }
    }

    fn unsigned(self, value: i64) -> u64 {
        match self {
            Self::At32 => u64::from(value as i32 as u32),
            Self::At64 => value as u64,
        }
    }
}

/// Appends values as DELTA_BINARY_PACKED.
pub(super) fn delta(out: &mut Vec<u8>, values: &[i64], wrap: Wrap) {
    varint(out, BLOCK as u64);
    varint(out, (BLOCK / MINI_BLOCK) as u64);
    varint(out, values.len() as u64);
    zigzag(out, values.first().copied().unwrap_or_default());
    let mut deltas = [0u64; BLOCK];
    for block in blocks(values) {
        let min = block_deltas(block, wrap, &mut deltas);
        zigzag(out, min);
        let count = block.len() - 1;
        let widths = out.len();
        out.extend_from_slice(&[0; BLOCK / MINI_BLOCK]);
        for (i, mini) in deltas[..count.next_multiple_of(MINI_BLOCK)]
            .chunks(MINI_BLOCK)
            .enumerate()
        {
            let width = width(mini.iter().fold(0, |all, delta| all | delta));
            out[widths + i] = width as u8;
            if width > 0 {
                pack_wide(out, mini, width);
            }
        }
    }
}

/// The size that [`delta`] comes to, nearly.
pub(super) fn delta_size(values: &[i64], wrap: Wrap) -> usize {
    let mut deltas = [0u64; BLOCK];
    let sizes = blocks(values).map(|block| {
        block_deltas(block, wrap, &mut deltas);
        let minis = deltas[..(block.len() - 1).next_multiple_of(MINI_BLOCK)].chunks(MINI_BLOCK);
        let bits = |mini: &[u64]| width(mini.iter().fold(0, |all, delta| all | delta)) as usize;
        minis.map(|mini| bits(mini) * MINI_BLOCK / 8).sum::<usize>() + 8
    });
    sizes.sum::<usize>() + 16
}

/// Slices of up to `BLOCK` differences, each with the value before its first difference.
fn blocks(values: &[i64]) -> impl Iterator<Item = &[i64]> {
    (0..values.len().saturating_sub(1))
        .step_by(BLOCK)
        .map(move |start| &values[start..values.len().min(start + BLOCK + 1)])
}

/// Differences of a block above their least, which is returned; the rest of `deltas` is zero.
fn block_deltas(block: &[i64], wrap: Wrap, deltas: &mut [u64; BLOCK]) -> i64 {
    let mut min = i64::MAX;
    for pair in block.windows(2) {
        min = min.min(wrap.sub(pair[1], pair[0]));
    }
    deltas.fill(0);
    for (delta, pair) in deltas.iter_mut().zip(block.windows(2)) {
        *delta = wrap.unsigned(wrap.sub(wrap.sub(pair[1], pair[0]), min));
    }
    min
}
