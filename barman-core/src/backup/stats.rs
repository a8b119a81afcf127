//! [`CopyStats`]: the `copy_stats` of `backup.info`.

use std::time::Duration;

use crate::model::PyValue;

/// Times of a file-level copy, item by item.
#[derive(Debug, Default)]
pub(crate) struct CopyStats {
    items: Vec<(String, Duration, Duration)>,
}

impl CopyStats {
    /// Adds an item: time to list and decide, time to copy. A zero analysis is not listed, as for `pg_control`.
    pub(crate) fn add(&mut self, label: &str, analysis: Duration, copy: Duration) {
        self.items.push((label.to_owned(), analysis, copy));
    }

    /// The dictionary in Barman's order of keys.
    pub(crate) fn render(&self, total: Duration, workers: usize) -> PyValue {
        let key = |text: &str| PyValue::Str(text.to_owned());
        let seconds = |time: Duration| PyValue::Float((time.as_secs_f64() * 1e6).round() / 1e6);
        let analysis: Vec<_> =
            self.items.iter().filter(|i| !i.1.is_zero()).map(|i| (key(&i.0), seconds(i.1))).collect();
        let copy: Vec<_> = self.items.iter().map(|i| (key(&i.0), seconds(i.2))).collect();
        let sum = |part: fn(&(String, Duration, Duration)) -> Duration| {
            self.items.iter().map(part).sum::<Duration>()
        };
        PyValue::Dict(vec![
            (key("total_time"), seconds(total)),
            (key("number_of_workers"), PyValue::Int(workers as i64)),
            (key("analysis_time_per_item"), PyValue::Dict(analysis)),
            (key("copy_time_per_item"), PyValue::Dict(copy.clone())),
            (key("serialized_copy_time_per_item"), PyValue::Dict(copy)),
            (key("analysis_time"), seconds(sum(|i| i.1))),
            (key("copy_time"), seconds(sum(|i| i.2))),
            (key("serialized_copy_time"), seconds(sum(|i| i.2))),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_in_barmans_order() {
        let mut stats = CopyStats::default();
        stats.add("pgdata", Duration::from_millis(1), Duration::from_micros(2_000_001));
        stats.add("pg_control", Duration::ZERO, Duration::from_millis(3));
        let PyValue::Dict(items) = stats.render(Duration::from_secs(3), 2) else {
            panic!("not a dictionary")
        };
        let keys: Vec<_> = items.iter().map(|(k, _)| k.clone()).collect();
        let expected = [
            "total_time",
            "number_of_workers",
            "analysis_time_per_item",
            "copy_time_per_item",
            "serialized_copy_time_per_item",
            "analysis_time",
            "copy_time",
            "serialized_copy_time",
        ];
        assert_eq!(keys, expected.map(|k| PyValue::Str(k.to_owned())));
        assert_eq!(items[6].1, PyValue::Float(2.003001));
    }
}
