//! The keys of written events, by event hour, until the task ends and they become key index files.

use std::collections::BTreeMap;

use super::SinkError;

/// Keys by event hour.
#[derive(Debug, Default)]
pub(super) struct Keys {
    hours: BTreeMap<i64, Vec<u128>>,
    count: usize,
}

impl Keys {
    /// Adds the keys of rows of which row `i` lies in hour `hours(i)`.
    pub(super) fn append(&mut self, high: &[u64], low: &[u64], hour_of: impl Fn(usize) -> i64) {
        self.count += high.len();
        let mut row = 0;
        while row < high.len() {
            let hour = hour_of(row);
            let keys = self.hours.entry(hour).or_default();
            // Neighbours nearly always share their hour: one look-up a run.
            while row < high.len() && hour_of(row) == hour {
                keys.push(u128::from(high[row]) << 64 | u128::from(low[row]));
                row += 1;
            }
        }
    }

    /// Memory held.
    pub(super) fn bytes(&self) -> usize {
        self.count * size_of::<u128>()
    }

    /// Takes the hours out, earliest first.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (i64, Vec<u128>)> + use<> {
        self.count = 0;
        std::mem::take(&mut self.hours).into_iter()
    }
}

/// `YYYY-MM-DDTHH` of an hour since 1970.
pub(super) fn hour_name(hour: i64) -> String {
    let (day, hour) = (hour.div_euclid(24), hour.rem_euclid(24));
    format!("{}T{hour:02}", day_name(day))
}

/// `YYYY-MM-DD` of a day since 1970.
pub(super) fn day_name(day: i64) -> String {
    i32::try_from(day)
        .ok()
        .and_then(chrono::NaiveDate::from_epoch_days)
        .map_or_else(|| format!("day{day}"), |date| date.to_string())
}

/// The file of one hour's keys; sorts them.
pub(super) fn encode(hour: i64, keys: &mut [u128]) -> Result<Vec<u8>, SinkError> {
    crate::dedup::index::encode_keys(keys).map_err(|error| SinkError::Keys {
        hour: hour_name(hour),
        source: Box::new(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_days_are_named_in_utc() {
        assert_eq!(hour_name(0), "1970-01-01T00");
        assert_eq!(hour_name(-1), "1969-12-31T23");
        assert_eq!(hour_name(490_901), "2026-01-01T05");
    }

    #[test]
    fn keys_are_kept_by_their_hour() {
        let mut keys = Keys::default();
        keys.append(&[1, 2, 3], &[10, 20, 30], |row| [7, 7, 6][row]);
        assert_eq!(keys.bytes(), 48);
        let drained: Vec<_> = keys.drain().collect();
        assert_eq!(
            drained,
            vec![(6, vec![3 << 64 | 30]), (7, vec![1 << 64 | 10, 2 << 64 | 20])]
        );
    }
}
