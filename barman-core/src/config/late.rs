//! The options that Barman judges only when it builds the server: a bad value is replaced by a fallback, and only the
//! log is told.

use super::types::{At, OptionType, Reason, python_int};
use super::value::Value;
use crate::model::RetentionPolicy;

/// A limit in KB per second; zero is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth(pub i64);

impl OptionType for Bandwidth {
    const EMPTY_UNSETS: bool = true;

    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        Ok(python_int(text).map(Self))
    }

    fn value(&self) -> Value {
        Value::Int(self.0)
    }
}

/// Limits in KB per second by tablespace; rules that cannot be read are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceBandwidth(pub Vec<(String, i64)>);

fn bandwidth_rule(rule: &str) -> Option<(String, i64)> {
    let (name, limit) = rule.split_once(':')?;
    Some((name.to_owned(), python_int(limit)?))
}

impl OptionType for TablespaceBandwidth {
    const EMPTY_UNSETS: bool = true;

    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        let mut rules: Vec<(String, i64)> = Vec::new();
        for (name, limit) in text.split_whitespace().filter_map(bandwidth_rule) {
            match rules.iter_mut().find(|(known, _)| *known == name) {
                Some(known) => known.1 = limit,
                None => rules.push((name, limit)),
            }
        }
        Ok((!rules.is_empty()).then_some(Self(rules)))
    }

    fn value(&self) -> Value {
        Value::Map(self.0.clone())
    }
}

/// How many backups must be there at least; never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinimumRedundancy(pub u32);

impl OptionType for MinimumRedundancy {
    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        let number = python_int(text).and_then(|number| u32::try_from(number).ok());
        Ok(Some(Self(number.unwrap_or(0))))
    }

    fn value(&self) -> Value {
        Value::Int(i64::from(self.0))
    }
}

/// `retention_policy` as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retention {
    /// It is enforced.
    Policy(RetentionPolicy),
    /// The text is no policy: nothing is enforced and `check` fails.
    Invalid(String),
}

impl OptionType for Retention {
    const EMPTY_UNSETS: bool = true;

    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        Ok(Some(text.parse().map_or_else(|_| Self::Invalid(text.to_owned()), Self::Policy)))
    }

    fn value(&self) -> Value {
        match self {
            Self::Policy(policy) => Value::Text(policy.to_string()),
            Self::Invalid(text) => Value::Text(text.clone()),
        }
    }
}

/// The names of these options, in the order in which they are judged.
pub(crate) const LATE: [&str; 6] = [
    "bandwidth_limit",
    "tablespace_bandwidth_limit",
    "minimum_redundancy",
    "retention_policy_mode",
    "wal_retention_policy",
    "retention_policy",
];

/// What the log is told of the text that one of them has (`None`: set to nothing).
pub(crate) fn complaints(server: &str, key: &str, text: Option<&str>, with_policy: bool) -> Vec<String> {
    let said = text.unwrap_or("None");
    match (key, text) {
        ("bandwidth_limit", Some(text)) if python_int(text).is_none() => {
            vec![format!("Invalid bandwidth_limit \"{text}\" for server \"{server}\" (fallback to \"0\")")]
        }
        ("tablespace_bandwidth_limit", Some(text)) => {
            let bad = text.split_whitespace().filter(|rule| bandwidth_rule(rule).is_none());
            bad.map(|rule| format!("Invalid tablespace_bandwidth_limit rule '{rule}'")).collect()
        }
        ("minimum_redundancy", _) => match python_int(text.unwrap_or_default()) {
            Some(number) if number < 0 => vec![format!(
                "Negative value of minimum_redundancy \"{said}\" for server \"{server}\" (fallback to \"0\")"
            )],
            Some(number) if u32::try_from(number).is_ok() => vec![],
            _ => vec![format!(
                "Invalid minimum_redundancy \"{said}\" for server \"{server}\" (fallback to \"0\")"
            )],
        },
        ("retention_policy_mode", _) if said != "auto" => {
            vec![format!(
                "Unsupported retention_policy_mode \"{said}\" for server \"{server}\" (fallback to \"auto\")"
            )]
        }
        ("wal_retention_policy", _) if said != "main" && with_policy => vec![format!(
            "Unsupported wal_retention_policy value \"{said}\" for server \"{server}\" (fallback to \"main\")"
        )],
        ("retention_policy", Some(text)) if text.parse::<RetentionPolicy>().is_err() => {
            vec![format!("Invalid retention_policy setting \"{text}\" for server \"{server}\"")]
        }
        _ => vec![],
    }
}
