//! Numbers and lengths of time as Barman shows them, and the keys that it makes of titles in JSON.

use time::Duration;

const UNITS: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// A number of bytes in steps of 1024: `0 B`, `1023 B`, `24.9 MiB`.
pub fn pretty_size(bytes: u64) -> String {
    scaled(bytes as f64)
}

/// As [`pretty_size`] for a difference: `-200 B`.
pub fn pretty_size_signed(bytes: i64) -> String {
    scaled(bytes as f64)
}

/// Bytes a second: `1.0 MiB/s`.
pub fn pretty_throughput(bytes_per_second: f64) -> String {
    format!("{}/s", scaled(bytes_per_second))
}

fn scaled(mut value: f64) -> String {
    let mut unit = UNITS[0];
    for next in UNITS.iter().skip(1) {
        if value.abs() < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == UNITS[0] {
        format!("{value:.0} B", value = value.trunc() + 0.0)
    } else {
        format!("{value:.1} {unit}")
    }
}

/// A length of time in words: `1 day, 2 hours, 3 minutes, 4 seconds`, parts that are zero left out; `less than one
/// second` below one; a negative one ends in ` ago`.
pub fn human_duration(length: Duration) -> String {
    let total = length.whole_seconds().unsigned_abs();
    let parts = [
        (total / 86_400, "day"),
        (total / 3600 % 24, "hour"),
        (total / 60 % 60, "minute"),
        (total % 60, "second"),
    ];
    let words: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}{}", if *count == 1 { "" } else { "s" }))
        .collect();
    match words.is_empty() {
        true => "less than one second".to_owned(),
        false if length.is_negative() => format!("{} ago", words.join(", ")),
        false => words.join(", "),
    }
}

/// A share of one as `89.87%`.
pub fn percentage(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

/// A frequency as `195.57/hour`.
pub fn rate_per_hour(per_second: f64) -> String {
    format!("{:.2}/hour", per_second * 3600.0)
}

/// The key that JSON output has for the title of a check or of a status line: lower case, blanks and hyphens as
/// underscores, dots left out.
pub fn json_key(title: &str) -> String {
    title
        .chars()
        .filter(|c| *c != '.')
        .flat_map(char::to_lowercase)
        .map(|c| if matches!(c, ' ' | '-') { '_' } else { c })
        .collect()
}

/// An error and what caused it as one sentence; what is said already is not said again.
pub fn with_reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        let more = reason.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = reason.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1024.0 KiB"),
            (26_142_000, "24.9 MiB"),
            (27_518_256, "26.2 MiB"),
            (1 << 30, "1.0 GiB"),
            (1 << 40, "1.0 TiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(pretty_size(bytes), text);
        }
        assert_eq!(pretty_size_signed(-200), "-200 B");
        assert_eq!(pretty_size_signed(-2048), "-2.0 KiB");
        assert_eq!(pretty_throughput(1_048_576.0), "1.0 MiB/s");
        assert_eq!(pretty_throughput(1.9), "1 B/s");
        assert_eq!(pretty_throughput(-0.5), "0 B/s");
    }

    #[test]
    fn lengths_of_time() {
        for (seconds, text) in [
            (0.0, "less than one second"),
            (0.9, "less than one second"),
            (1.0, "1 second"),
            (2.9, "2 seconds"),
            (60.0, "1 minute"),
            (113.0, "1 minute, 53 seconds"),
            (3600.0, "1 hour"),
            (7.0 * 86_400.0, "7 days"),
            (90_061.0, "1 day, 1 hour, 1 minute, 1 second"),
            (-5.0, "5 seconds ago"),
        ] {
            assert_eq!(human_duration(Duration::seconds_f64(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn shares_rates_and_keys() {
        assert_eq!(percentage(0.8987), "89.87%");
        assert_eq!(percentage(0.999), "99.90%");
        assert_eq!(percentage(1.0), "100.00%");
        assert_eq!(rate_per_hour(195.57 / 3600.0), "195.57/hour");
        assert_eq!(json_key("archiver errors"), "archiver_errors");
        assert_eq!(json_key("PostgreSQL streaming (WAL streaming)"), "postgresql_streaming_(wal_streaming)");
        assert_eq!(json_key("No. of available backups"), "no_of_available_backups");
        assert_eq!(json_key("receive-wal running"), "receive_wal_running");
    }
}
