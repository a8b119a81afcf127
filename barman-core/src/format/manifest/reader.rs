//! Reading a manifest: JSON as a stream, with the seal checked on the way.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

use super::{ChecksumAlgorithm, ManifestError, ManifestFile, ManifestSummary, WalRange};
use crate::model::SystemId;

/// Reads a manifest and hands out its files in their order.
///
/// The seal can be checked only at the end: what `each` was given counts only when this returns `Ok`.
///
/// # Errors
/// Anything [`ManifestError`] knows; an I/O error of `source` comes as [`ManifestError::Unreadable`].
pub fn read_manifest(
    source: impl Read,
    each: &mut dyn FnMut(ManifestFile),
) -> Result<ManifestSummary, ManifestError> {
    let mut sealed = Sealed { source, digest: Sha256::new(), line: Vec::new() };
    let problem = RefCell::new(None);
    let mut buffered = std::io::BufReader::with_capacity(1 << 16, &mut sealed);
    let mut json = serde_json::Deserializer::from_reader(&mut buffered);
    let mut top = Top { each, problem: &problem, parts: Parts::default() };
    let read = serde::Deserializer::deserialize_map(&mut json, &mut top).and_then(|()| json.end());
    let parts = top.parts;
    if let Some(problem) = problem.take() {
        return Err(problem);
    }
    read.map_err(ManifestError::Unreadable)?;
    let missing = |part| ManifestError::Missing { part };
    let version = parts.version.ok_or(missing("PostgreSQL-Backup-Manifest-Version"))?;
    let version = match version {
        1 | 2 => version as u32,
        found => return Err(ManifestError::UnknownVersion { found }),
    };
    let files = parts.files.ok_or(missing("Files"))?;
    let expected = parts.checksum.ok_or(missing("Manifest-Checksum"))?;
    let found = hex::encode(sealed.digest.finalize());
    if !expected.eq_ignore_ascii_case(&found) {
        return Err(ManifestError::BadChecksum { expected, found });
    }
    Ok(ManifestSummary { version, system_id: parts.system_id, wal_ranges: parts.wal_ranges, files })
}

/// Digests every line but the last.
struct Sealed<R> {
    source: R,
    digest: Sha256,
    /// The line that may be the last one. Text behind its line feed would belong to a later line.
    line: Vec<u8>,
}

impl<R: Read> Read for Sealed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        let new = buffer.get(..count).unwrap_or_default();
        // The line feed that ends the last line but one is the last byte before which everything is sealed.
        if self.line.ends_with(b"\n") && !new.is_empty() {
            self.digest.update(std::mem::take(&mut self.line));
        }
        let body = new.strip_suffix(b"\n").unwrap_or(new);
        match body.iter().rposition(|b| *b == b'\n') {
            Some(at) => {
                self.digest.update(&self.line);
                let (before, after) = new.split_at_checked(at + 1).unwrap_or((new, &[]));
                self.digest.update(before);
                self.line.clear();
                self.line.extend(after);
            }
            None => self.line.extend(new),
        }
        Ok(count)
    }
}

#[derive(Default)]
struct Parts {
    version: Option<u64>,
    system_id: Option<SystemId>,
    files: Option<u64>,
    wal_ranges: Vec<WalRange>,
    checksum: Option<String>,
}

struct Top<'a> {
    each: &'a mut dyn FnMut(ManifestFile),
    /// A problem of ours, kept here because JSON errors are only texts.
    problem: &'a RefCell<Option<ManifestError>>,
    parts: Parts,
}

impl<'de> Visitor<'de> for &mut Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a backup manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let fail = |problem: ManifestError| {
            let text = problem.to_string();
            self.problem.replace(Some(problem));
            A::Error::custom(text)
        };
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "PostgreSQL-Backup-Manifest-Version" => self.parts.version = Some(map.next_value()?),
                "System-Identifier" => self.parts.system_id = Some(SystemId::new(map.next_value()?)),
                "Files" => {
                    let seed = Files { each: self.each, problem: self.problem };
                    self.parts.files = Some(map.next_value_seed(seed)?);
                }
                "WAL-Ranges" => {
                    for raw in map.next_value::<Vec<RawRange>>()? {
                        self.parts.wal_ranges.push(raw.range().map_err(fail)?);
                    }
                }
                "Manifest-Checksum" => self.parts.checksum = Some(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Files<'a> {
    each: &'a mut dyn FnMut(ManifestFile),
    problem: &'a RefCell<Option<ManifestError>>,
}

impl<'de> DeserializeSeed<'de> for Files<'_> {
    type Value = u64;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Files<'_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of files")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<u64, A::Error> {
        let mut count = 0;
        while let Some(raw) = list.next_element::<RawFile<'_>>()? {
            match raw.file() {
                Ok(file) => (self.each)(file),
                Err(problem) => {
                    let text = problem.to_string();
                    self.problem.replace(Some(problem));
                    return Err(A::Error::custom(text));
                }
            }
            count += 1;
        }
        Ok(count)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawFile<'a> {
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(rename = "Encoded-Path", borrow)]
    encoded_path: Option<Cow<'a, str>>,
    size: u64,
    #[serde(rename = "Last-Modified", default)]
    last_modified: String,
    #[serde(rename = "Checksum-Algorithm", borrow)]
    algorithm: Option<Cow<'a, str>>,
    #[serde(borrow)]
    checksum: Option<Cow<'a, str>>,
}

impl RawFile<'_> {
    fn file(self) -> Result<ManifestFile, ManifestError> {
        let bad = |what, value: &str| ManifestError::BadValue { what, value: value.to_owned() };
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => path.into_owned().into_bytes(),
            (None, Some(path)) => hex::decode(path.as_ref()).map_err(|_| bad("encoded path", &path))?,
            (None, None) => return Err(ManifestError::Missing { part: "path of a file" }),
            (Some(path), Some(_)) => return Err(bad("path given twice", &path)),
        };
        let checksum = match (self.algorithm, self.checksum) {
            (Some(name), Some(digits)) => {
                let algorithm =
                    ChecksumAlgorithm::from_name(&name).ok_or_else(|| bad("checksum algorithm", &name))?;
                let sum = hex::decode(digits.as_ref()).ok().filter(|sum| sum.len() == algorithm.digest_len());
                Some((algorithm, sum.ok_or_else(|| bad("checksum of a file", &digits))?))
            }
            (None, None) => None,
            (Some(name), None) if name.eq_ignore_ascii_case("none") => None,
            _ => return Err(ManifestError::Missing { part: "checksum or algorithm of a file" }),
        };
        Ok(ManifestFile { path, size: self.size, last_modified: self.last_modified, checksum })
    }
}

#[derive(Deserialize)]
struct RawRange {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

impl RawRange {
    fn range(&self) -> Result<WalRange, ManifestError> {
        let bad = |what, value: &str| ManifestError::BadValue { what, value: value.to_owned() };
        Ok(WalRange {
            timeline: crate::model::Timeline::new(self.timeline).ok_or_else(|| bad("timeline", "0"))?,
            start: self.start.parse().map_err(|_| bad("position", &self.start))?,
            end: self.end.parse().map_err(|_| bad("position", &self.end))?,
        })
    }
}
