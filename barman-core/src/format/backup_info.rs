//! `backup.info` ⇄ [`BackupInfo`]: the facts of one backup as `key=value` lines.
//!
//! Writing gives, byte for byte, what Barman 3.19 writes for the same facts: keys in ASCII order, `None` for what is
//! not known, `backup_name` and `snapshots_info` left out then. Reading takes every older form: missing keys, dates
//! without a zone, sizes as floats, labels quoted twice. The id is not in the file but in its name.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::str::FromStr;

use camino::Utf8PathBuf;
use time::OffsetDateTime;

use super::pyliteral::{self, LiteralError};
use super::timestamp::{self, Local, TimestampError};
use crate::model::{
    BackupId, BackupInfo, BackupMethod, Oid, ParseError, PyValue, SegmentSize, Status, Tablespace,
};

/// A `backup.info` that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupInfoError {
    /// A line that is neither blank, a comment nor `key=value`.
    #[error("line {line} of the backup information, '{text}', is not of the form key=value")]
    NotAssignment {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// A value that its key cannot have. The reason is the source.
    #[error("line {line} of the backup information gives '{key}' the value '{value}', which it cannot have")]
    BadValue {
        /// Counted from 1.
        line: usize,
        /// The key.
        key: String,
        /// The value as written.
        value: String,
        /// Why not.
        #[source]
        reason: BadValue,
    },
}

/// Why a value of `backup.info` is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadValue {
    /// It is not a value of the key's type.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// It is not a Python literal.
    #[error(transparent)]
    Literal(#[from] LiteralError),
    /// It is not a date.
    #[error(transparent)]
    Timestamp(#[from] TimestampError),
    /// It is a Python literal of another shape.
    #[error("the value is not {0}")]
    Shape(&'static str),
}

/// Reads the text of a `backup.info`.
///
/// The last of several lines for one key counts. Keys that are not known go to [`BackupInfo::extra`]. `local` says
/// what a date without a zone means (Barman: local time).
///
/// # Errors
/// The first line that is malformed, with its number, key and value. Nothing is guessed: a catalog entry that cannot
/// be read must be looked at, not half understood.
pub fn parse(id: BackupId, text: &str, local: Local<'_>) -> Result<BackupInfo, BackupInfoError> {
    let mut info = BackupInfo::empty(id);
    for (at, line) in text.lines().enumerate() {
        let line_number = at + 1;
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let Some((key, value)) = trimmed.split_once('=') else {
            return Err(BackupInfoError::NotAssignment { line: line_number, text: trimmed.to_owned() });
        };
        let (key, value) = (key.trim(), value.trim());
        set(&mut info, key, value, local).map_err(|reason| BackupInfoError::BadValue {
            line: line_number,
            key: key.to_owned(),
            value: value.to_owned(),
            reason,
        })?;
    }
    Ok(info)
}

fn set(info: &mut BackupInfo, key: &str, value: &str, local: Local<'_>) -> Result<(), BadValue> {
    let known = (value != "None").then_some(value);
    match key {
        "backup_label" => info.backup_label = known.map(literal_text).transpose()?,
        "backup_name" => info.backup_name = known.map(str::to_owned),
        "begin_offset" => info.begin_offset = number(known)?,
        "begin_time" => info.begin_time = date(known, local)?,
        "begin_wal" => info.begin_wal = typed(known)?,
        "begin_xlog" => info.begin_xlog = typed(known)?,
        "children_backup_ids" => info.children_backup_ids = ids(known)?,
        "cluster_size" => info.cluster_size = number(known)?,
        "compression" => info.compression = known.map(str::to_owned),
        "config_file" => info.config_file = known.map(Utf8PathBuf::from),
        "copy_stats" => info.copy_stats = known.map(pyliteral::parse).transpose()?,
        "data_checksums" => info.data_checksums = known.map(str::to_owned),
        "deduplicated_size" => info.deduplicated_size = number(known)?,
        "encryption" => info.encryption = known.map(str::to_owned),
        "end_offset" => info.end_offset = number(known)?,
        "end_time" => info.end_time = date(known, local)?,
        "end_wal" => info.end_wal = typed(known)?,
        "end_xlog" => info.end_xlog = typed(known)?,
        "error" => info.error = known.map(str::to_owned),
        "hba_file" => info.hba_file = known.map(Utf8PathBuf::from),
        "ident_file" => info.ident_file = known.map(Utf8PathBuf::from),
        "included_files" => info.included_files = paths(known)?,
        "mode" => info.mode = known.map(BackupMethod::from),
        "parent_backup_id" => info.parent_backup_id = typed(known)?,
        "pgdata" => info.pgdata = known.map(Utf8PathBuf::from),
        "server_name" => info.server_name = typed(known)?,
        "size" => info.size = number(known)?,
        "snapshots_info" => info.snapshots_info = known.map(pyliteral::parse).transpose()?,
        "status" => info.status = typed(known)?.unwrap_or(Status::Empty),
        "summarize_wal" => info.summarize_wal = known.map(str::to_owned),
        "systemid" => info.systemid = typed(known)?,
        "tablespaces" => info.tablespaces = tablespaces(known)?,
        "timeline" => info.timeline = typed(known)?,
        "version" => info.version = typed(known)?,
        "xlog_segment_size" => {
            info.xlog_segment_size =
                number(known)?.map(SegmentSize::from_bytes).transpose()?.unwrap_or(SegmentSize::DEFAULT);
        }
        _ => {
            info.extra.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(())
}

fn typed<T: FromStr<Err = ParseError>>(value: Option<&str>) -> Result<Option<T>, BadValue> {
    Ok(value.map(str::parse).transpose()?)
}

/// A count of bytes; some writers print a float, of which the whole part counts.
fn number(value: Option<&str>) -> Result<Option<u64>, BadValue> {
    let Some(text) = value else { return Ok(None) };
    if let Ok(number) = text.parse() {
        return Ok(Some(number));
    }
    match pyliteral::parse(text) {
        Ok(PyValue::Float(float)) if (0.0..1.844_674_407_370_955_2e19).contains(&float) => {
            Ok(Some(float as u64))
        }
        _ => Err(BadValue::Shape("a number of bytes")),
    }
}

fn date(value: Option<&str>, local: Local<'_>) -> Result<Option<OffsetDateTime>, BadValue> {
    Ok(value.map(|text| timestamp::parse(text, local)).transpose()?.map(|given| given.instant))
}

fn ids(value: Option<&str>) -> Result<Vec<BackupId>, BadValue> {
    let parts = value.into_iter().flat_map(|text| text.split(',')).map(str::trim).filter(|p| !p.is_empty());
    Ok(parts.map(str::parse).collect::<Result<_, _>>()?)
}

fn literal_text(value: &str) -> Result<String, BadValue> {
    match pyliteral::parse(value)? {
        PyValue::Str(text) => Ok(text),
        _ => Err(BadValue::Shape("a quoted text")),
    }
}

fn paths(value: Option<&str>) -> Result<Vec<Utf8PathBuf>, BadValue> {
    const SHAPE: BadValue = BadValue::Shape("a list of paths");
    let Some(text) = value else { return Ok(Vec::new()) };
    let PyValue::List(items) = pyliteral::parse(text)? else { return Err(SHAPE) };
    items
        .into_iter()
        .map(|item| match item {
            PyValue::Str(path) => Ok(path.into()),
            _ => Err(SHAPE),
        })
        .collect()
}

fn tablespaces(value: Option<&str>) -> Result<Vec<Tablespace>, BadValue> {
    const SHAPE: BadValue = BadValue::Shape("a list of (name, oid, location)");
    let Some(text) = value else { return Ok(Vec::new()) };
    let PyValue::List(items) = pyliteral::parse(text)? else { return Err(SHAPE) };
    items
        .into_iter()
        .map(|item| {
            let (PyValue::Tuple(parts) | PyValue::List(parts)) = item else { return Err(SHAPE) };
            match <[PyValue; 3]>::try_from(parts) {
                Ok([PyValue::Str(name), PyValue::Int(oid), PyValue::Str(location)]) => {
                    let oid = u32::try_from(oid).map_err(|_| SHAPE)?;
                    Ok(Tablespace { name, oid: Oid(oid), location: location.into() })
                }
                _ => Err(SHAPE),
            }
        })
        .collect()
}

/// The text of a `backup.info` with these facts.
///
/// A line end inside a plain text (an error message, a path) would begin another key: it is written as a blank.
/// Fractions of a microsecond are cut, as in Python.
pub fn print(info: &BackupInfo) -> String {
    let mut lines = vec![
        ("backup_label", info.backup_label.as_deref().map(pyliteral::repr_str)),
        ("begin_offset", text(info.begin_offset)),
        ("begin_time", info.begin_time.map(timestamp::python_str)),
        ("begin_wal", text(info.begin_wal)),
        ("begin_xlog", text(info.begin_xlog)),
        ("children_backup_ids", joined(&info.children_backup_ids)),
        ("cluster_size", text(info.cluster_size)),
        ("compression", text(info.compression.as_deref())),
        ("config_file", text(info.config_file.as_ref())),
        ("copy_stats", info.copy_stats.as_ref().map(pyliteral::repr)),
        ("data_checksums", text(info.data_checksums.as_deref())),
        ("deduplicated_size", text(info.deduplicated_size)),
        ("encryption", text(info.encryption.as_deref())),
        ("end_offset", text(info.end_offset)),
        ("end_time", info.end_time.map(timestamp::python_str)),
        ("end_wal", text(info.end_wal)),
        ("end_xlog", text(info.end_xlog)),
        ("error", text(info.error.as_deref())),
        ("hba_file", text(info.hba_file.as_ref())),
        ("ident_file", text(info.ident_file.as_ref())),
        ("included_files", list(&info.included_files, |path| PyValue::Str(path.to_string()))),
        ("mode", text(info.mode.as_ref())),
        ("parent_backup_id", text(info.parent_backup_id)),
        ("pgdata", text(info.pgdata.as_ref())),
        ("server_name", text(info.server_name.as_ref())),
        ("size", text(info.size)),
        ("status", text(Some(info.status))),
        ("summarize_wal", text(info.summarize_wal.as_deref())),
        ("systemid", text(info.systemid)),
        ("tablespaces", list(&info.tablespaces, tablespace_value)),
        ("timeline", text(info.timeline)),
        ("version", text(info.version.map(|version| version.num()))),
        ("xlog_segment_size", text(Some(info.xlog_segment_size.bytes()))),
    ];
    // Barman leaves these two out when there is nothing to say.
    lines.extend(info.backup_name.as_ref().map(|name| ("backup_name", Some(name.clone()))));
    lines.extend(info.snapshots_info.as_ref().map(|value| ("snapshots_info", Some(pyliteral::repr(value)))));
    lines.extend(info.extra.iter().map(|(key, value)| (key.as_str(), Some(value.clone()))));
    lines.sort_by_key(|(key, _)| *key);
    let mut out = String::with_capacity(1600);
    for (key, value) in lines {
        let value = value.unwrap_or_else(|| "None".to_owned());
        let _ = writeln!(out, "{key}={}", one_line(&value));
    }
    out
}

fn text(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

fn joined(ids: &[BackupId]) -> Option<String> {
    let texts: Vec<&str> = ids.iter().map(BackupId::as_str).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

fn list<T>(items: &[T], value: impl Fn(&T) -> PyValue) -> Option<String> {
    (!items.is_empty()).then(|| pyliteral::repr(&PyValue::List(items.iter().map(value).collect())))
}

fn tablespace_value(tablespace: &Tablespace) -> PyValue {
    PyValue::Tuple(vec![
        PyValue::Str(tablespace.name.clone()),
        PyValue::Int(i64::from(tablespace.oid.0)),
        PyValue::Str(tablespace.location.to_string()),
    ])
}

fn one_line(value: &str) -> Cow<'_, str> {
    if value.contains(['\n', '\r']) {
        Cow::Owned(value.replace(['\n', '\r'], " "))
    } else {
        Cow::Borrowed(value)
    }
}

/// The label as PostgreSQL wrote it, to be shown or to be written into a data directory.
///
/// Barman's passive nodes quote the label once more with every copy from a primary ([`BackupInfo::backup_label`] then
/// is itself a quoted text, and is kept so for a rewrite); here all quotes are taken off.
pub fn label_text(info: &BackupInfo) -> Option<String> {
    let mut label = info.backup_label.clone()?;
    // A label begins with a word; each further quotation begins with its quote.
    while label.starts_with(['\'', '"']) {
        match pyliteral::parse(&label) {
            Ok(PyValue::Str(inner)) => label = inner,
            _ => break,
        }
    }
    Some(label)
}

#[cfg(test)]
mod tests;
