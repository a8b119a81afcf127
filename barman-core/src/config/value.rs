//! [`Value`]: an option's value as it is shown: the renderings of `show-servers`, `diagnose` and `sync-info`.

use std::fmt;

use serde_json::json;

use super::types::Interval;
use crate::format::pyliteral::repr_str;

/// The value of an option, without its type's meaning. Display is Python's `str`, as `show-servers` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Not set.
    None,
    /// A switch.
    Bool(bool),
    /// A number.
    Int(i64),
    /// A number of bytes.
    Size(u64),
    /// A text.
    Text(String),
    /// A length of time.
    Interval(Interval),
    /// Texts in order.
    List(Vec<String>),
    /// Names with numbers, in order.
    Map(Vec<(String, i64)>),
    /// A set of words, of the named Python class.
    Set {
        /// `BackupOptions` or `RecoveryOptions`.
        class: &'static str,
        /// The words, sorted. (Python prints them in random order.)
        words: Vec<&'static str>,
    },
}

impl Value {
    /// The value in the JSON of `diagnose` and `sync-info`: sets are joined by commas, intervals are told in words.
    pub fn json(&self) -> serde_json::Value {
        match self {
            Self::None => serde_json::Value::Null,
            Self::Bool(value) => json!(value),
            Self::Int(value) => json!(value),
            Self::Size(value) => json!(value),
            Self::Text(value) => json!(value),
            Self::Interval(value) => json!(value.words()),
            Self::List(values) => json!(values),
            Self::Map(pairs) => pairs.iter().map(|(name, number)| (name.clone(), json!(number))).collect(),
            Self::Set { words, .. } => json!(words.join(",")),
        }
    }

    /// The value in the JSON of `show-servers`: as [`json`](Self::json), but sets and intervals are their `Display`.
    pub fn show_json(&self) -> serde_json::Value {
        match self {
            Self::Interval(_) | Self::Set { .. } => json!(self.to_string()),
            _ => self.json(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Size(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
            Self::Interval(value) => write!(f, "{value}"),
            Self::List(values) => write!(f, "[{}]", listed(values.iter().map(|value| repr_str(value)))),
            Self::Map(pairs) => {
                write!(
                    f,
                    "{{{}}}",
                    listed(pairs.iter().map(|(name, number)| format!("{}: {number}", repr_str(name))))
                )
            }
            Self::Set { class, words } if words.is_empty() => write!(f, "{class}()"),
            Self::Set { class, words } => {
                write!(f, "{class}({{{}}})", listed(words.iter().map(|word| repr_str(word))))
            }
        }
    }
}

fn listed(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The renderings of Barman 3.19.1: console, JSON of `diagnose`, JSON of `show-servers`.
    #[test]
    fn renderings() {
        let set = |words| Value::Set { class: "BackupOptions", words };
        let hours = |hours| Value::Interval(Interval(time::Duration::hours(hours)));
        for (value, text, diagnose, show) in [
            (Value::None, "None", "null", "null"),
            (Value::Bool(true), "True", "true", "true"),
            (Value::Bool(false), "False", "false", "false"),
            (Value::Int(-3), "-3", "-3", "-3"),
            (Value::Size(1 << 30), "1073741824", "1073741824", "1073741824"),
            (Value::Text("a b".into()), "a b", r#""a b""#, r#""a b""#),
            (set(vec![]), "BackupOptions()", r#""""#, r#""BackupOptions()""#),
            (
                set(vec!["concurrent_backup"]),
                "BackupOptions({'concurrent_backup'})",
                r#""concurrent_backup""#,
                r#""BackupOptions({'concurrent_backup'})""#,
            ),
            (
                Value::Set { class: "RecoveryOptions", words: vec!["delta-restore", "get-wal"] },
                "RecoveryOptions({'delta-restore', 'get-wal'})",
                r#""delta-restore,get-wal""#,
                r#""RecoveryOptions({'delta-restore', 'get-wal'})""#,
            ),
            (Value::List(vec!["a".into(), " b".into()]), "['a', ' b']", r#"["a"," b"]"#, r#"["a"," b"]"#),
            (
                Value::Map(vec![("a".into(), 1), ("b".into(), 2)]),
                "{'a': 1, 'b': 2}",
                r#"{"a":1,"b":2}"#,
                r#"{"a":1,"b":2}"#,
            ),
            (hours(0), "0:00:00", r#""less than one second""#, r#""0:00:00""#),
            (hours(1), "1:00:00", r#""1 hour""#, r#""1:00:00""#),
            (hours(13), "13:00:00", r#""13 hours""#, r#""13:00:00""#),
            (hours(24), "1 day, 0:00:00", r#""1 day""#, r#""1 day, 0:00:00""#),
            (hours(25), "1 day, 1:00:00", r#""1 day, 1 hour""#, r#""1 day, 1:00:00""#),
            (hours(93 * 24), "93 days, 0:00:00", r#""93 days""#, r#""93 days, 0:00:00""#),
        ] {
            assert_eq!(value.to_string(), text);
            assert_eq!(value.json().to_string(), diagnose);
            assert_eq!(value.show_json().to_string(), show);
        }
    }
}
