//! The order of rows in a file: by event time, equal times in the order in which they came.
//!
//! Events mostly come in order, so the order is kept as runs of neighbours: columns are then copied run by
//! run. The sort sets the few stragglers aside, sorts only those and merges them back in.

use std::ops::Range;

/// A permutation of `0..rows`, as runs of consecutive row numbers.
#[derive(Debug)]
pub(crate) struct Order {
    /// Where each run starts: position in the order, row number.
    runs: Vec<(usize, u32)>,
    rows: usize,
}

impl Order {
    /// The order by time.
    pub(crate) fn by_time(times: &[i64]) -> Self {
        if times.is_sorted() {
            return Self {
                runs: vec![(0, 0)],
                rows: times.len(),
            };
        }
        let mut newest = i64::MIN;
        let mut stragglers: Vec<(i64, u32)> = Vec::new();
        for (row, &time) in times.iter().enumerate() {
            if time < newest {
                stragglers.push((time, row as u32));
            } else {
                newest = time;
            }
        }
        if stragglers.len() > times.len() / 4 {
            let mut all: Vec<(i64, u32)> = times.iter().copied().zip(0u32..).collect();
            all.sort_unstable(); // row numbers are part of the key: equal times keep their order
            return all.into_iter().map(|(_, row)| row).collect();
        }
        stragglers.sort_unstable();
        merged(times, &stragglers).collect()
    }

    /// The rows at these positions, as ranges of row numbers.
    pub(crate) fn ranges(&self, positions: Range<usize>) -> impl Iterator<Item = Range<usize>> + Clone + '_ {
        let first = self.runs.partition_point(|run| run.0 <= positions.start) - 1;
        self.runs[first..]
            .iter()
            .enumerate()
            .map_while(move |(i, &(start, row))| {
                let end = self.runs.get(first + i + 1).map_or(self.rows, |next| next.0);
                let (from, until) = (start.max(positions.start), end.min(positions.end));
                (from < until).then(|| {
                    let row = row as usize + (from - start);
                    row..row + (until - from)
                })
            })
    }

    /// Copies the values at these positions.
    pub(crate) fn gather<T: Copy>(&self, values: &[T], positions: Range<usize>, out: &mut Vec<T>) {
        out.clear();
        for range in self.ranges(positions) {
            out.extend_from_slice(&values[range]);
        }
    }
}

impl FromIterator<u32> for Order {
    fn from_iter<I: IntoIterator<Item = u32>>(order: I) -> Self {
        let (mut runs, mut rows, mut next) = (Vec::new(), 0, None);
        for row in order {
            if next != Some(row) {
                runs.push((rows, row));
            }
            rows += 1;
            next = row.checked_add(1);
        }
        Self { runs, rows }
    }
}

/// Row numbers by time: the rows that are in order, with the stragglers between them.
fn merged<'a>(times: &'a [i64], stragglers: &'a [(i64, u32)]) -> impl Iterator<Item = u32> + 'a {
    let mut in_order = {
        let mut newest = i64::MIN;
        let rows = times.iter().copied().zip(0u32..);
        rows.filter(move |(time, _)| {
            let is_in_order = *time >= newest;
            newest = newest.max(*time);
            is_in_order
        })
    }
    .peekable();
    let mut stragglers = stragglers.iter().copied().peekable();
    std::iter::from_fn(move || {
        let next = match (in_order.peek(), stragglers.peek()) {
            (Some(row), Some(straggler)) if straggler < row => stragglers.next(),
            (Some(_), _) => in_order.next(),
            (None, _) => stragglers.next(),
        };
        next.map(|(_, row)| row)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_order_is_a_stable_sort(
            mut times in prop::collection::vec(-20i64..20, 1..200),
            shuffled in 0usize..200,
            cut in 0usize..200,
        ) {
            // Sorted but for a few, sorted, and not sorted at all.
            let keep = shuffled.min(times.len());
            times[keep..].sort_unstable();
            let order = Order::by_time(&times);
            let mut oracle: Vec<usize> = (0..times.len()).collect();
            oracle.sort_by_key(|row| times[*row]);
            let cut = cut.min(times.len());
            let rows: Vec<usize> = [0..cut, cut..times.len()]
                .into_iter()
                .filter(|range| !range.is_empty())
                .flat_map(|range| order.ranges(range).flatten().collect::<Vec<_>>())
                .collect();
            prop_assert_eq!(rows, oracle);
        }
    }
}
