//! The full manifest in the sidecar of a backup, `base/<id>/.native/manifest`: one line for each file and directory.
//! Pure: bytes in and out, no file system.
//!
//! ```text
//! barman-native-manifest 1
//! D data 0700 base
//! F data 0600 3 1795383933.233320200 5a3c01ff - PG_VERSION
//! F 16386 0600 8192 1795383933.000000000 00000000 - PG_15_202209061/5/16387
//! end 3 1b2c3d4e
//! ```
//! A file row has tree (`data` or the tablespace's OID), mode in octal, bytes, time of modification, CRC-32C, SHA-256 or
//! `-`, and the path, which is the rest of the line. In paths `\` is written `\\`, a line end `\n`, and the tree itself
//! is an empty path. The last line has the number of rows and the CRC-32C of everything before it, so that a file
//! that was cut off, or changed, is never taken for a whole one.

use std::io::{self, BufRead, Write};

use camino::Utf8PathBuf;

use super::{DirSpec, FileProof, Root};
use crate::model::{FileTime, Oid};

/// The name of the file in the sidecar.
pub(super) const MANIFEST: &str = "manifest";
const HEADER: &str = "barman-native-manifest 1";

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManifestError {
    /// Not what this version writes.
    #[error("line {line}: {reason}")]
    Syntax {
        /// From 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// It has no last line.
    #[error("it is cut off after line {lines}")]
    CutOff {
        /// Lines read.
        lines: u64,
    },
    /// Its checksum differs.
    #[error("its content has CRC-32C {found:08x} where the last line says {expected:08x}")]
    Checksum {
        /// In the last line.
        expected: u32,
        /// Of the content.
        found: u32,
    },
    /// It could not be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
}

/// What a manifest holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct NativeManifest {
    /// Directory rows.
    pub(super) dirs: Vec<DirSpec>,
    /// File rows.
    pub(super) files: Vec<FileProof>,
}

/// Writes a manifest row by row.
pub(super) struct ManifestWriter<W: Write> {
    to: W,
    crc: u32,
    rows: u64,
    line: Vec<u8>,
}

impl<W: Write> ManifestWriter<W> {
    pub(super) fn new(to: W) -> io::Result<Self> {
        let mut writer = Self { to, crc: 0, rows: 0, line: Vec::with_capacity(256) };
        writeln!(writer.line, "{HEADER}")?;
        writer.emit()?;
        Ok(writer)
    }

    pub(super) fn dir(&mut self, spec: &DirSpec) -> io::Result<()> {
        write!(self.line, "D {} {:04o} ", RootText(spec.root), spec.mode)?;
        self.end_row(spec.path.as_str())
    }

    pub(super) fn file(&mut self, proof: &FileProof) -> io::Result<()> {
        let FileProof { root, size, mtime, mode, crc32c, .. } = proof;
        write!(
            self.line,
            "F {} {mode:04o} {size} {}.{:09} {crc32c:08x} ",
            RootText(*root),
            mtime.seconds,
            mtime.nanos
        )?;
        match &proof.sha256 {
            Some(digest) => write!(self.line, "{} ", hex::encode(digest))?,
            None => self.line.extend_from_slice(b"- "),
        }
        self.end_row(proof.path.as_str())
    }

    /// Writes the last line and gives the writer back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        writeln!(self.to, "end {} {:08x}", self.rows, self.crc)?;
        Ok(self.to)
    }

    fn end_row(&mut self, path: &str) -> io::Result<()> {
        for byte in path.bytes() {
            match byte {
                b'\\' => self.line.extend_from_slice(b"\\\\"),
                b'\n' => self.line.extend_from_slice(b"\\n"),
                other => self.line.push(other),
            }
        }
        self.line.push(b'\n');
        self.rows += 1;
        self.emit()
    }

    fn emit(&mut self) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, &self.line);
        let written = self.to.write_all(&self.line);
        self.line.clear();
        written
    }
}

/// Reads a whole manifest. Nothing of it is given when it is not whole.
pub(super) fn read(mut from: impl BufRead) -> Result<NativeManifest, ManifestError> {
    let mut manifest = NativeManifest::default();
    let (mut crc, mut lines, mut rows) = (0, 0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        if from.read_until(b'\n', &mut line)? == 0 || line.last() != Some(&b'\n') {
            return Err(ManifestError::CutOff { lines });
        }
        lines += 1;
        let syntax = |reason: &str| ManifestError::Syntax { line: lines, reason: reason.to_owned() };
        let body = line.get(..line.len() - 1).unwrap_or_default();
        let text = std::str::from_utf8(body).map_err(|_| syntax("it is not UTF-8"))?;
        if lines == 1 {
            if text != HEADER {
                return Err(syntax("it is not a manifest of a version that is known"));
            }
        } else if let Some(row) = text.strip_prefix("F ") {
            manifest.files.push(file_row(row).ok_or_else(|| syntax("it is not a row of a file"))?);
            rows += 1;
        } else if let Some(row) = text.strip_prefix("D ") {
            manifest.dirs.push(dir_row(row).ok_or_else(|| syntax("it is not a row of a directory"))?);
            rows += 1;
        } else if let Some(end) = text.strip_prefix("end ") {
            let (count, expected) =
                end.split_once(' ').ok_or_else(|| syntax("it is not the last line of a manifest"))?;
            let expected = u32::from_str_radix(expected, 16).map_err(|_| syntax("it has no checksum"))?;
            if expected != crc {
                return Err(ManifestError::Checksum { expected, found: crc });
            }
            if count.parse() != Ok(rows) {
                return Err(syntax("the number of rows is another"));
            }
            line.clear();
            return match from.read_until(b'\n', &mut line)? {
                0 => Ok(manifest),
                _ => {
                    Err(ManifestError::Syntax { line: lines + 1, reason: "it follows the last line".into() })
                }
            };
        } else {
            return Err(syntax("it is neither a row nor the last line"));
        }
        crc = crc32c::crc32c_append(crc, &line);
    }
}

struct RootText(Root);

impl std::fmt::Display for RootText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Root::Data => f.write_str("data"),
            Root::Tablespace(oid) => write!(f, "{oid}"),
        }
    }
}

fn root(text: &str) -> Option<Root> {
    match text {
        "data" => Some(Root::Data),
        oid => oid.parse::<Oid>().ok().map(Root::Tablespace),
    }
}

fn file_row(row: &str) -> Option<FileProof> {
    let mut parts = row.splitn(7, ' ');
    let root = root(parts.next()?)?;
    let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
    let size = parts.next()?.parse().ok()?;
    let (seconds, nanos) = parts.next()?.split_once('.')?;
    let mtime = FileTime {
        seconds: seconds.parse().ok()?,
        nanos: nanos.parse().ok().filter(|n| *n < 1_000_000_000 && nanos.len() == 9)?,
    };
    let crc32c = u32::from_str_radix(parts.next()?, 16).ok()?;
    let sha256 = match parts.next()? {
        "-" => None,
        digest => {
            let mut bytes = [0; 32];
            hex::decode_to_slice(digest, &mut bytes).ok()?;
            Some(bytes)
        }
    };
    Some(FileProof { root, path: unescape(parts.next()?)?, size, mtime, mode, crc32c, sha256 })
}

fn dir_row(row: &str) -> Option<DirSpec> {
    let mut parts = row.splitn(3, ' ');
    let root = root(parts.next()?)?;
    let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
    Some(DirSpec { root, path: unescape(parts.next()?)?, mode })
}

fn unescape(text: &str) -> Option<Utf8PathBuf> {
    if !text.contains('\\') {
        return Some(text.into());
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(manifest: &NativeManifest) -> Vec<u8> {
        let mut writer = ManifestWriter::new(Vec::new()).unwrap();
        manifest.dirs.iter().for_each(|d| writer.dir(d).unwrap());
        manifest.files.iter().for_each(|f| writer.file(f).unwrap());
        writer.finish().unwrap()
    }

    fn any_file() -> impl Strategy<Value = FileProof> {
        let root = prop_oneof![Just(Root::Data), any::<u32>().prop_map(|o| Root::Tablespace(Oid(o)))];
        let path = "[a-z \\\\\n/é]{0,12}";
        (
            root,
            path,
            any::<u64>(),
            any::<i64>(),
            0u32..1_000_000_000,
            0u32..0o10000,
            any::<u32>(),
            any::<Option<[u8; 32]>>(),
        )
            .prop_map(|(root, path, size, seconds, nanos, mode, crc32c, sha256)| FileProof {
                root,
                path: path.into(),
                size,
                mtime: FileTime { seconds, nanos },
                mode,
                crc32c,
                sha256,
            })
    }

    proptest! {
        #[test]
        fn round_trip_and_no_prefix_is_taken_for_the_whole(files in prop::collection::vec(any_file(), 0..6), cut: prop::sample::Index) {
            let dirs = vec![DirSpec { root: Root::Data, path: "".into(), mode: 0o700 }];
            let manifest = NativeManifest { dirs, files };
            let bytes = written(&manifest);
            prop_assert_eq!(read(&*bytes).unwrap(), manifest);
            prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn a_changed_byte_is_noticed(at: prop::sample::Index, bit in 0u8..8) {
            let file = FileProof {
                root: Root::Data, path: "base/1/2".into(), size: 8192, mtime: FileTime { seconds: 5, nanos: 6 },
                mode: 0o600, crc32c: 7, sha256: None,
            };
            let manifest = NativeManifest { dirs: Vec::new(), files: vec![file] };
            let mut bytes = written(&manifest);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            // Only the case of the hexadecimal digits of the last checksum says nothing.
            let verdict = read(&*bytes);
            prop_assert!(verdict.is_err() || verdict.unwrap() == manifest);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = read(&*bytes);
            let _ = read(&*[HEADER.as_bytes(), b"\n", &bytes].concat());
        }
    }

    #[test]
    fn the_text_is_as_documented() {
        let manifest = NativeManifest {
            dirs: vec![DirSpec { root: Root::Data, path: "".into(), mode: 0o700 }],
            files: vec![FileProof {
                root: Root::Tablespace(Oid(16386)),
                path: "a b\nc".into(),
                size: 3,
                mtime: FileTime { seconds: 1_795_383_933, nanos: 5 },
                mode: 0o600,
                crc32c: 0xab,
                sha256: None,
            }],
        };
        let text = String::from_utf8(written(&manifest)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..3],
            [HEADER, "D data 0700 ", "F 16386 0600 3 1795383933.000000005 000000ab - a b\\nc"]
        );
        assert!(lines[3].starts_with("end 2 "));
    }
}
