//! One column of a row group to a column chunk: the encoding is chosen by what the values cost in it.

use std::ops::Range;

use bytes::Bytes;
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::FixedLenByteArray;
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnDescPtr;

use super::EncodeError;
use super::bits::{Wrap, delta, delta_size, hybrid, width};
use super::buffer::{Column, NULL_ID, Values};
use super::compress::{Learned, Pages};
use super::dictionary::Dictionary;
use super::order::Order;
use super::page::{Chunk, Form, levels};
use super::statistics::{TextBounds, float_bounds};

/// Bytes of a page of texts before compression, nearly.
const PAGE_BYTES: usize = 512 << 10;
/// Rows of a page of anything else.
const PAGE_ROWS: usize = 1 << 16;
/// Rows of a page of event times: what the page index tells apart.
const TIME_PAGE_ROWS: usize = 1 << 14;
/// Chunks for which a dictionary that did not pay is not tried again.
const TRIAL_PAUSE: u32 = 32;
/// A smaller chunk, as late events make it, teaches nothing about the next ones.
const LESSON_ROWS: usize = 4_096;

/// What a column has learned for its next chunks.
#[derive(Debug, Default)]
pub(super) struct Habits {
    plain: Learned,
    packed: Learned,
    /// Compressed share of plain pages, once one was written.
    ratio: Option<f64>,
    pause: u32,
}

impl Habits {
    /// Whether a dictionary is to be tried for a chunk of `rows` rows: always for a small one, where that
    /// costs nothing.
    fn tries_dictionary(&mut self, rows: usize) -> bool {
        if rows < LESSON_ROWS {
            return true;
        }
        let is_due = self.pause == 0;
        self.pause = self.pause.saturating_sub(1);
        is_due
    }

    /// The dictionary of a chunk did not pay.
    fn pause(&mut self, rows: usize) {
        if rows >= LESSON_ROWS {
            self.pause = TRIAL_PAUSE;
        }
    }

    /// What a chunk's plain pages came to.
    fn wrote_plain(&mut self, rows: usize, raw: usize, compressed: usize) {
        if rows >= LESSON_ROWS {
            self.ratio = Some(compressed as f64 / raw.max(1) as f64);
        }
    }
}

/// What encoding needs beside the column.
pub(super) struct Workshop {
    pub(super) pages: Pages,
    /// Whether delta encodings may be used.
    pub(super) delta: bool,
    raw: Vec<u8>,
    numbers: Vec<i64>,
    gathered: Vec<u32>,
    valid: Vec<bool>,
    local: Vec<u32>,
}

impl std::fmt::Debug for Workshop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workshop").field("pages", &self.pages).finish()
    }
}

/// The rows of a row group: some positions of a file's order.
#[derive(Debug, Clone)]
pub(super) struct Group<'a> {
    pub(super) order: &'a Order,
    pub(super) positions: Range<usize>,
}

/// Which rows of a group have values.
#[derive(Debug, Clone, Copy)]
struct Presence<'a> {
    /// Whether the column may be null at all: then pages have levels.
    is_optional: bool,
    valid: Option<&'a [bool]>,
    rows: usize,
}

impl Presence<'_> {
    fn nulls(&self) -> usize {
        self.valid
            .map_or(0, |valid| valid.iter().filter(|valid| !**valid).count())
    }

    /// Pages of `size` rows: their rows and their values, both as ranges.
    fn pages(&self, size: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
        let mut next_value = 0;
        (0..self.rows).step_by(size).map(move |start| {
            let rows = start..self.rows.min(start + size);
            let values = self.valid.map_or(rows.len(), |valid| {
                valid[rows.clone()].iter().filter(|valid| **valid).count()
            });
            next_value += values;
            (rows, next_value - values..next_value)
        })
    }

    fn levels(&self, out: &mut Vec<u8>, rows: &Range<usize>) {
        if self.is_optional {
            levels(out, self.valid.map(|valid| &valid[rows.clone()]), rows.len());
        }
    }
}

impl Workshop {
    pub(super) fn new(pages: Pages, delta: bool) -> Self {
        Self {
            pages,
            delta,
            raw: Vec::new(),
            numbers: Vec::new(),
            gathered: Vec::new(),
            valid: Vec::new(),
            local: Vec::new(),
        }
    }

    /// The column's chunk in a row group.
    pub(super) fn encode(
        &mut self,
        column: &mut Column,
        values: &Values,
        valid: Option<&[bool]>,
        group: &Group<'_>,
        descriptor: &ColumnDescPtr,
    ) -> Result<(Bytes, ColumnCloseResult), EncodeError> {
        let mut chunk = Chunk::new();
        let mut sorted_valid = std::mem::take(&mut self.valid);
        if let Some(valid) = valid {
            group
                .order
                .gather(valid, group.positions.clone(), &mut sorted_valid);
        }
        let presence = Presence {
            is_optional: descriptor.max_def_level() > 0,
            valid: valid.map(|_| sorted_valid.as_slice()),
            rows: group.positions.len(),
        };
        let statistics = match values {
            Values::Ids(ids) => self.ids(&mut chunk, column, ids, group, presence.is_optional)?,
            Values::Texts { bytes, ends } => {
                self.texts(&mut chunk, &mut column.habits, bytes, ends, group, presence)?
            }
            Values::Int64(values) => {
                let mut numbers = std::mem::take(&mut self.numbers);
                group.order.gather(values, group.positions.clone(), &mut numbers);
                retain(&mut numbers, presence.valid);
                if descriptor.max_def_level() == 0 {
                    self.times(&mut chunk, &mut column.habits, &numbers)?;
                } else {
                    self.numbers(&mut chunk, &mut column.habits, &numbers, 8, presence)?;
                }
                let (min, max) = bounds(&numbers);
                self.numbers = numbers;
                Statistics::int64(min, max, None, Some(presence.nulls() as u64), false)
            }
            Values::Int32(values) => {
                let numbers = self.gather(values, group, presence, |value| i64::from(*value));
                self.numbers(&mut chunk, &mut column.habits, &numbers, 4, presence)?;
                let (min, max) = bounds(&numbers);
                self.numbers = numbers;
                let narrow = |bound: i64| bound as i32;
                let nulls = Some(presence.nulls() as u64);
                Statistics::int32(min.map(narrow), max.map(narrow), None, nulls, false)
            }
            Values::Float64(values) => {
                let numbers = self.gather(values, group, presence, |value| value.to_bits() as i64);
                self.numbers(&mut chunk, &mut column.habits, &numbers, 0, presence)?;
                let floats: Vec<f64> = numbers.iter().map(|bits| f64::from_bits(*bits as u64)).collect();
                self.numbers = numbers;
                float_bounds(&floats, presence.nulls())
            }
            Values::Bool(values) => {
                let numbers = self.gather(values, group, presence, |value| i64::from(*value));
                self.bools(&mut chunk, &mut column.habits, &numbers, presence)?;
                let (min, max) = bounds(&numbers);
                self.numbers = numbers;
                let truth = |bound: i64| bound != 0;
                let nulls = Some(presence.nulls() as u64);
                Statistics::boolean(min.map(truth), max.map(truth), None, nulls, false)
            }
            Values::Wide(values) => {
                let length = descriptor.type_length().max(1) as usize;
                self.wide(&mut chunk, &mut column.habits, values, length, group, presence)?
            }
            Values::Nested(_) => Statistics::boolean(None, None, None, None, false), // never comes here
        };
        self.valid = sorted_valid;
        chunk.finish(descriptor.clone(), Some(statistics), self.pages.declared())
    }

    /// A chunk whose rows all have one value, or none: a partition column's.
    pub(super) fn constant(
        &mut self,
        value: Option<&[u8]>,
        rows: usize,
        statistics: Statistics,
        descriptor: &ColumnDescPtr,
    ) -> Result<(Bytes, ColumnCloseResult), EncodeError> {
        let mut chunk = Chunk::new();
        let (ids, valid) = match value {
            Some(_) => (vec![0; rows], None),
            None => (Vec::new(), Some(vec![false; rows])),
        };
        let presence = Presence {
            is_optional: descriptor.max_def_level() > 0,
            valid: valid.as_deref(),
            rows,
        };
        let value = value.unwrap_or_default();
        let distinct = usize::from(valid.is_none());
        let mut learned = Learned::default();
        self.dictionary(&mut chunk, &mut learned, value, distinct, &ids, presence)?;
        chunk.finish(descriptor.clone(), Some(statistics), self.pages.declared())
    }

    fn gather<T: Copy>(
        &mut self,
        values: &[T],
        group: &Group<'_>,
        presence: Presence<'_>,
        number: impl Fn(&T) -> i64,
    ) -> Vec<i64> {
        let mut numbers = std::mem::take(&mut self.numbers);
        numbers.clear();
        for range in group.order.ranges(group.positions.clone()) {
            numbers.extend(values[range].iter().map(&number));
        }
        retain(&mut numbers, presence.valid);
        numbers
    }

    /// Dictionary and pages of numbers into it.
    fn dictionary(
        &mut self,
        chunk: &mut Chunk,
        learned: &mut Learned,
        dictionary: &[u8],
        distinct: usize,
        ids: &[u32],
        presence: Presence<'_>,
    ) -> Result<(), EncodeError> {
        chunk.dictionary(dictionary, distinct, &mut self.pages)?;
        let width = width(distinct.saturating_sub(1) as u64);
        for (rows, values) in presence.pages(PAGE_ROWS) {
            self.raw.clear();
            presence.levels(&mut self.raw, &rows);
            self.raw.push(width as u8);
            hybrid(&mut self.raw, &ids[values], width);
            chunk.data(&self.raw, rows.len(), Form::Dictionary, &mut self.pages, learned)?;
        }
        Ok(())
    }

    /// Texts that were kept as numbers: the chunk's dictionary has those that it uses.
    fn ids(
        &mut self,
        chunk: &mut Chunk,
        column: &mut Column,
        ids: &[u32],
        group: &Group<'_>,
        is_optional: bool,
    ) -> Result<Statistics, EncodeError> {
        let mut gathered = std::mem::take(&mut self.gathered);
        group.order.gather(ids, group.positions.clone(), &mut gathered);
        let rows = gathered.len();
        let valid: Option<Vec<bool>> = gathered
            .contains(&NULL_ID)
            .then(|| gathered.iter().map(|id| *id != NULL_ID).collect());
        if valid.is_some() {
            gathered.retain(|id| *id != NULL_ID);
        }
        self.local.clear();
        self.local.resize(column.interner.len(), NULL_ID);
        let mut texts = Vec::new();
        let mut distinct = 0;
        let mut bounds = TextBounds::default();
        for id in &mut gathered {
            let local = &mut self.local[*id as usize];
            if *local == NULL_ID {
                *local = distinct;
                distinct += 1;
                let text = column.interner.text(*id);
                push_text(&mut texts, text);
                bounds.add(text);
            }
            *id = *local;
        }
        let presence = Presence {
            is_optional,
            valid: valid.as_deref(),
            rows,
        };
        let learned = &mut column.habits.packed;
        self.dictionary(chunk, learned, &texts, distinct as usize, &gathered, presence)?;
        self.gathered = gathered;
        Ok(bounds.finish(presence.nulls()))
    }

    /// Texts that were kept as they are: a dictionary where repeats make it smaller.
    fn texts(
        &mut self,
        chunk: &mut Chunk,
        habits: &mut Habits,
        bytes: &[u8],
        ends: &[u32],
        group: &Group<'_>,
        presence: Presence<'_>,
    ) -> Result<Statistics, EncodeError> {
        let range = |row: usize| {
            let start = if row == 0 { 0 } else { ends[row - 1] };
            start as usize..ends[row] as usize
        };
        let rows = || group.order.ranges(group.positions.clone()).flatten();
        let valid_rows = rows()
            .enumerate()
            .filter(|(at, _)| presence.valid.is_none_or(|valid| valid[*at]))
            .map(|(_, row)| row);
        let total: usize = rows().map(|row| range(row).len()).sum();
        if habits.tries_dictionary(presence.rows) {
            let limit = presence.rows / 2;
            let dictionary = Dictionary::of_texts(bytes, valid_rows.map(range), limit);
            if let Some(dictionary) = dictionary {
                let mut raw = Vec::new();
                let mut bounds = TextBounds::default();
                for text in &dictionary.values {
                    push_text(&mut raw, &bytes[text.clone()]);
                    bounds.add(&bytes[text.clone()]);
                }
                let distinct = dictionary.values.len();
                let ids = dictionary.ids.len() * width(distinct as u64) as usize / 8;
                let size = self.pages.compress_once(&raw)?.len() + ids;
                if (size as f64) < total as f64 * habits.ratio.unwrap_or(0.4) {
                    let learned = &mut habits.packed;
                    self.dictionary(chunk, learned, &raw, distinct, &dictionary.ids, presence)?;
                    return Ok(bounds.finish(presence.nulls()));
                }
            }
            habits.pause(presence.rows);
        }
        let mut text_bounds = TextBounds::default();
        let per_row = total / presence.rows.max(1) + 1;
        let before = chunk.compressed_bytes();
        let mut raw = std::mem::take(&mut self.raw);
        for (rows, _) in presence.pages((PAGE_BYTES / per_row).clamp(256, 1 << 20)) {
            raw.clear();
            presence.levels(&mut raw, &rows);
            let positions = group.positions.start + rows.start..group.positions.start + rows.end;
            let runs = || group.order.ranges(positions.clone());
            let valid = presence.valid.map(|valid| &valid[rows.clone()]);
            let form = if self.delta {
                self.numbers.clear();
                self.numbers
                    .extend(runs().flatten().map(|row| range(row).len() as i64));
                retain(&mut self.numbers, valid);
                delta(&mut raw, &self.numbers, Wrap::At32);
                for run in runs() {
                    raw.extend_from_slice(&bytes[range(run.start).start..range(run.end - 1).end]);
                }
                Form::DeltaLength
            } else {
                for (at, row) in runs().flatten().enumerate() {
                    if valid.is_none_or(|valid| valid[at]) {
                        push_text(&mut raw, &bytes[range(row)]);
                    }
                }
                Form::Plain
            };
            // The copy has brought them near.
            for (at, row) in runs().flatten().enumerate() {
                if valid.is_none_or(|valid| valid[at]) {
                    text_bounds.add(&bytes[range(row)]);
                }
            }
            chunk.data(&raw, rows.len(), form, &mut self.pages, &mut habits.plain)?;
        }
        self.raw = raw;
        habits.wrote_plain(presence.rows, total, chunk.compressed_bytes() - before);
        Ok(text_bounds.finish(presence.nulls()))
    }

    /// Event times: sorted, so their differences are small.
    fn times(&mut self, chunk: &mut Chunk, habits: &mut Habits, times: &[i64]) -> Result<(), EncodeError> {
        for times in times.chunks(TIME_PAGE_ROWS) {
            self.raw.clear();
            let (form, learned) = if self.delta {
                delta(&mut self.raw, times, Wrap::At64);
                (Form::Delta, &mut habits.packed)
            } else {
                push_numbers(&mut self.raw, times, 8);
                (Form::Plain, &mut habits.plain)
            };
            chunk.data(&self.raw, times.len(), form, &mut self.pages, learned)?;
            if let (Some(min), Some(max)) = (times.first(), times.last()) {
                chunk.ascending_bounds(*min, *max);
            }
        }
        Ok(())
    }

    /// Numbers of 4 or 8 bytes: dictionary, differences or as they are; `bytes` 0 stands for floats.
    fn numbers(
        &mut self,
        chunk: &mut Chunk,
        habits: &mut Habits,
        numbers: &[i64],
        bytes: usize,
        presence: Presence<'_>,
    ) -> Result<(), EncodeError> {
        let (wrap, size) = match bytes {
            4 => (Some(Wrap::At32), 4),
            8 => (Some(Wrap::At64), 8),
            _ => (None, 8),
        };
        let wrap = wrap.filter(|_| self.delta);
        let plain = (numbers.len() * size) as f64 * habits.ratio.unwrap_or(0.5);
        let packed = wrap.map_or(f64::INFINITY, |wrap| delta_size(numbers, wrap) as f64);
        if habits.tries_dictionary(presence.rows) {
            if let Some(dictionary) = Dictionary::of_numbers(numbers, numbers.len() / 2 + 16) {
                let distinct = dictionary.values.len();
                let ids = numbers.len() * width(distinct as u64) as usize / 8;
                let mut raw = Vec::new();
                push_numbers(&mut raw, &dictionary.values, size);
                let cost = ids + self.pages.compress_once(&raw)?.len();
                if (cost as f64) < plain.min(packed) || numbers.is_empty() {
                    let learned = &mut habits.packed;
                    return self.dictionary(chunk, learned, &raw, distinct, &dictionary.ids, presence);
                }
            }
            habits.pause(presence.rows);
        }
        let before = chunk.compressed_bytes();
        let wrap = wrap.filter(|_| packed <= plain);
        for (rows, values) in presence.pages(PAGE_ROWS) {
            self.raw.clear();
            presence.levels(&mut self.raw, &rows);
            let values = &numbers[values];
            let (form, learned) = match wrap {
                Some(wrap) => {
                    delta(&mut self.raw, values, wrap);
                    (Form::Delta, &mut habits.packed)
                }
                None => {
                    push_numbers(&mut self.raw, values, size);
                    (Form::Plain, &mut habits.plain)
                }
            };
            chunk.data(&self.raw, rows.len(), form, &mut self.pages, learned)?;
        }
        if wrap.is_none() {
            let written = chunk.compressed_bytes() - before;
            habits.wrote_plain(presence.rows, numbers.len() * size, written);
        }
        Ok(())
    }

    fn bools(
        &mut self,
        chunk: &mut Chunk,
        habits: &mut Habits,
        bools: &[i64],
        presence: Presence<'_>,
    ) -> Result<(), EncodeError> {
        for (rows, values) in presence.pages(PAGE_ROWS) {
            self.raw.clear();
            presence.levels(&mut self.raw, &rows);
            let bytes = bools[values].chunks(8).map(|bits| {
                let bits = bits.iter().enumerate();
                bits.fold(0u8, |byte, (i, bit)| byte | (*bit as u8) << i)
            });
            self.raw.extend(bytes);
            chunk.data(
                &self.raw,
                rows.len(),
                Form::Plain,
                &mut self.pages,
                &mut habits.plain,
            )?;
        }
        Ok(())
    }

    /// Decimals of more than 18 digits: big-endian, of the length that their precision needs.
    fn wide(
        &mut self,
        chunk: &mut Chunk,
        habits: &mut Habits,
        decimals: &[i128],
        length: usize,
        group: &Group<'_>,
        presence: Presence<'_>,
    ) -> Result<Statistics, EncodeError> {
        let mut sorted = Vec::new();
        group.order.gather(decimals, group.positions.clone(), &mut sorted);
        retain(&mut sorted, presence.valid);
        let big_endian = |decimal: &i128| decimal.to_be_bytes()[16 - length..].to_vec();
        for (rows, values) in presence.pages(PAGE_ROWS) {
            self.raw.clear();
            presence.levels(&mut self.raw, &rows);
            for decimal in &sorted[values] {
                self.raw.extend_from_slice(&decimal.to_be_bytes()[16 - length..]);
            }
            chunk.data(
                &self.raw,
                rows.len(),
                Form::Plain,
                &mut self.pages,
                &mut habits.plain,
            )?;
        }
        let bound = |decimal: Option<&i128>| decimal.map(big_endian).map(FixedLenByteArray::from);
        let nulls = Some(presence.nulls() as u64);
        let (min, max) = (bound(sorted.iter().min()), bound(sorted.iter().max()));
        Ok(Statistics::fixed_len_byte_array(min, max, None, nulls, false))
    }
}

fn bounds(numbers: &[i64]) -> (Option<i64>, Option<i64>) {
    (numbers.iter().min().copied(), numbers.iter().max().copied())
}

/// Leaves out what stands where there is no value.
fn retain<T>(values: &mut Vec<T>, valid: Option<&[bool]>) {
    if let Some(valid) = valid {
        let mut valid = valid.iter();
        values.retain(|_| valid.next().copied().unwrap_or_default());
    }
}

/// A plain text: its length, then its bytes.
fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text);
}

/// Plain numbers of 4 or 8 bytes.
fn push_numbers(out: &mut Vec<u8>, numbers: &[i64], size: usize) {
    out.reserve(numbers.len() * size);
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes()[..size]);
    }
}
