//! The types that options have and how each reads its text, with the reasons that Barman gives for refusing one.

use camino::Utf8PathBuf;
use time::Duration;

use super::value::Value;
use crate::format::ini::is_blank;
use crate::format::pyliteral::repr_str;
use crate::format::{interval, size, text};

/// Why a text is not a value of an option: the sentence after `Ignoring invalid configuration value … :`.
pub type Reason = String;

/// Where a value stands, for the few reasons that repeat it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a> {
    /// The option.
    pub(crate) key: &'a str,
    /// `[name] section`, `DEFAULTS` or `the command line`.
    pub(crate) place: &'a str,
}

/// A type that an option can have.
pub(crate) trait OptionType: Sized {
    /// What `option =` without a value does: true unsets the option, over inherited values and the default; false
    /// hands the empty text to `read`.
    const EMPTY_UNSETS: bool = false;

    /// Reads a text; `Ok(None)` is a text that means "not set".
    fn read(text: &str, at: At<'_>) -> Result<Option<Self>, Reason>;

    /// The value as it is shown.
    fn value(&self) -> Value;
}

impl OptionType for bool {
    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        match text.to_lowercase().as_str() {
            "true" | "t" | "yes" | "1" | "on" => Ok(Some(true)),
            "false" | "f" | "no" | "0" | "off" => Ok(Some(false)),
            _ => {
                Err("Invalid boolean representation (must be one in: true|t|yes|1|on | false|f|no|0|off)"
                    .into())
            }
        }
    }

    fn value(&self) -> Value {
        Value::Bool(*self)
    }
}

/// Python's `int()`: blanks around, a sign, digits with single underscores between them.
pub(crate) fn python_int(text: &str) -> Option<i64> {
    let text = text.trim_matches(is_blank);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let well_formed = digits.split('_').all(|run| !run.is_empty() && run.bytes().all(|b| b.is_ascii_digit()));
    well_formed.then(|| text.replace('_', "").parse().ok()).flatten()
}

impl OptionType for i64 {
    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        let reason = || format!("invalid literal for int() with base 10: {}", repr_str(text));
        python_int(text).map(Some).ok_or_else(reason)
    }

    fn value(&self) -> Value {
        Value::Int(*self)
    }
}

impl OptionType for String {
    const EMPTY_UNSETS: bool = true;

    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        Ok(Some(text.to_owned()))
    }

    fn value(&self) -> Value {
        Value::Text(self.clone())
    }
}

/// A directory of the catalogue: any text that is not empty. (Barman fails with a traceback on an empty one.)
impl OptionType for Utf8PathBuf {
    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        if text.is_empty() {
            Err("Invalid value : '' (must be a path)".into())
        } else {
            Ok(Some(text.into()))
        }
    }

    fn value(&self) -> Value {
        Value::Text(self.to_string())
    }
}

/// A path that must be absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsolutePath(pub Utf8PathBuf);

impl OptionType for AbsolutePath {
    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        if text.starts_with('/') {
            Ok(Some(Self(text.into())))
        } else {
            Err(format!("Invalid value : {} (must be an absolute path)", repr_str(text)))
        }
    }

    fn value(&self) -> Value {
        Value::Text(self.0.to_string())
    }
}

/// Where backups or WALs are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory of this machine.
    Local(Utf8PathBuf),
    /// The URL of a bucket or container.
    Cloud(String),
}

impl Location {
    /// The directory, unless it is in the cloud.
    pub fn local(&self) -> Option<&camino::Utf8Path> {
        match self {
            Self::Local(path) => Some(path),
            Self::Cloud(_) => None,
        }
    }

    /// The text as configured.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Local(path) => path.as_str(),
            Self::Cloud(url) => url,
        }
    }
}

impl OptionType for Location {
    fn read(text: &str, at: At<'_>) -> Result<Option<Self>, Reason> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Utf8PathBuf::read(text, at)?.map(Self::Local));
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let known = match scheme {
            "s3" | "gs" => !host.is_empty(),
            "https" if host == "console.cloud.google.com" => path.starts_with("storage/browser/"),
            _ => host.ends_with("blob.core.windows.net"),
        };
        if known {
            Ok(Some(Self::Cloud(text.to_owned())))
        } else {
            Err("The URL is not compatible with any of the supported cloud providers".into())
        }
    }

    fn value(&self) -> Value {
        Value::Text(self.as_str().to_owned())
    }
}

/// A number of bytes, written with an optional suffix `k Ki M Mi G Gi T Ti`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl OptionType for Size {
    const EMPTY_UNSETS: bool = true;

    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        size::parse(text)
            .map(|bytes| Some(Self(bytes)))
            .map_err(|_| format!("Invalid value for a number {text}"))
    }

    fn value(&self) -> Value {
        Value::Size(self.0)
    }
}

/// A length of time, written `N hours|days|weeks|months`; a month has 31 days. Display is that of Python's timedelta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(pub Duration);

impl Interval {
    /// The length in words: `93 days`, `1 day, 1 hour`, `less than one second`.
    pub fn words(self) -> String {
        text::human_duration(self.0)
    }
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.whole_days() {
            0 => {}
            1 => f.write_str("1 day, ")?,
            days => write!(f, "{days} days, ")?,
        }
        // Configured intervals are whole hours.
        write!(f, "{}:00:00", self.0.whole_hours() % 24)
    }
}

impl OptionType for Interval {
    const EMPTY_UNSETS: bool = true;

    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        let reason = |_| format!("Invalid value for a time interval {text}");
        interval::parse(text).map(|length| Some(Self(length))).map_err(reason)
    }

    fn value(&self) -> Value {
        Value::Interval(*self)
    }
}

/// A list of texts separated by commas, none of them empty; blanks belong to the texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts(pub Vec<String>);

impl OptionType for Texts {
    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        let items: Vec<String> = text.split(',').map(str::to_owned).collect();
        if items.iter().any(String::is_empty) {
            Err(Value::List(items).to_string())
        } else {
            Ok(Some(Self(items)))
        }
    }

    fn value(&self) -> Value {
        Value::List(self.0.clone())
    }
}

/// A physical replication slot; its name is in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotName(pub String);

impl OptionType for SlotName {
    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        let name = text.to_lowercase();
        let good = !name.is_empty() && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'z' | b'_'));
        good.then_some(Some(Self(name))).ok_or_else(|| {
            "Replication slot names may only contain lower case letters, numbers, and the underscore character."
                .to_owned()
        })
    }

    fn value(&self) -> Value {
        Value::Text(self.0.clone())
    }
}

/// How hard WAL is compressed. A number is clamped to what the algorithm has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionLevel {
    /// `low`
    Low,
    /// `medium`
    Medium,
    /// `high`
    High,
    /// The algorithm's own number.
    Number(i64),
}

impl OptionType for CompressionLevel {
    const EMPTY_UNSETS: bool = true;

    fn read(text: &str, _: At<'_>) -> Result<Option<Self>, Reason> {
        match text.to_lowercase().as_str() {
            "low" => Ok(Some(Self::Low)),
            "medium" => Ok(Some(Self::Medium)),
            "high" => Ok(Some(Self::High)),
            // A number here has no underscores, unlike the other numeric options.
            lower => match python_int(lower).filter(|_| !lower.contains('_')) {
                Some(number) => Ok(Some(Self::Number(number))),
                None => {
                    let shown = repr_str(lower);
                    Err(format!(
                        "Invalid value: {shown} (must be one in [low, medium, high] or an acceptable integer)"
                    ))
                }
            },
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Low => Value::Text("low".into()),
            Self::Medium => Value::Text("medium".into()),
            Self::High => Value::Text("high".into()),
            Self::Number(number) => Value::Int(*number),
        }
    }
}
