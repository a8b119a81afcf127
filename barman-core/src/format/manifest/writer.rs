//! Writing a manifest, file by file.

use sha2::{Digest, Sha256};

use super::{ManifestFile, WalRange};
use crate::model::SystemId;

/// Which of the two forms is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// PostgreSQL's, version 1 (13 to 16).
    PostgreSql1,
    /// PostgreSQL's, version 2 (17 and later).
    PostgreSql2(SystemId),
    /// Barman's, for backups copied file by file.
    Barman,
}

/// Makes the text of a manifest piece by piece; the caller writes each piece where it belongs.
#[derive(Debug)]
pub struct ManifestWriter {
    form: Form,
    digest: Sha256,
    first: bool,
}

impl ManifestWriter {
    /// Begins a manifest; appends its first lines to `out`.
    pub fn new(form: Form, out: &mut Vec<u8>) -> Self {
        let mut writer = Self { form, digest: Sha256::new(), first: true };
        let head = match form {
            Form::PostgreSql1 => "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [".to_owned(),
            Form::PostgreSql2(id) => format!(
                "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {id},\n\"Files\": ["
            ),
            Form::Barman => "{\"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [".to_owned(),
        };
        writer.emit(out, &head);
        writer
    }

    /// Appends one file to `out`.
    pub fn file(&mut self, file: &ManifestFile, out: &mut Vec<u8>) {
        let mut text = if std::mem::take(&mut self.first) { "\n".to_owned() } else { ",\n".to_owned() };
        let barman = self.form == Form::Barman;
        let path = match std::str::from_utf8(&file.path) {
            Ok(path) if barman => format!("\"Path\": {}", ascii_json(path)),
            Ok(path) => format!("\"Path\": {}", quoted(path)),
            Err(_) => format!("\"Encoded-Path\": \"{}\"", hex::encode(&file.path)),
        };
        let modified = format!("\"Last-Modified\": {}", quoted(&file.last_modified));
        let size = file.size;
        let sum = file.checksum.as_ref().map(|(algorithm, sum)| (algorithm.as_str(), hex::encode(sum)));
        text += &match (barman, sum) {
            (true, Some((name, sum))) => format!(
                "{{\"Checksum\": \"{sum}\", \"Checksum-Algorithm\": \"{name}\", {modified}, {path}, \"Size\": {size}}}"
            ),
            (true, None) => format!("{{{modified}, {path}, \"Size\": {size}}}"),
            (false, Some((name, sum))) => format!(
                "{{ {path}, \"Size\": {size}, {modified}, \"Checksum-Algorithm\": \"{name}\", \"Checksum\": \"{sum}\" }}"
            ),
            (false, None) => format!("{{ {path}, \"Size\": {size}, {modified} }}"),
        };
        self.emit(out, &text);
    }

    /// Ends the manifest with the WAL that the backup needs (left out in Barman's form) and the seal.
    pub fn finish(mut self, ranges: &[WalRange], out: &mut Vec<u8>) {
        if self.form == Form::Barman {
            self.emit(out, "],\n");
        } else {
            self.emit(out, "\n],\n\"WAL-Ranges\": [");
            for (at, range) in ranges.iter().enumerate() {
                let text = format!(
                    "{}{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}",
                    if at == 0 { "\n" } else { ",\n" },
                    range.timeline,
                    range.start,
                    range.end
                );
                self.emit(out, &text);
            }
            self.emit(out, "\n],\n");
        }
        let seal = hex::encode(self.digest.finalize());
        out.extend(format!("\"Manifest-Checksum\": \"{seal}\"}}\n").as_bytes());
    }

    fn emit(&mut self, out: &mut Vec<u8>, text: &str) {
        self.digest.update(text);
        out.extend(text.as_bytes());
    }
}

/// A JSON string, escaped as `escape_json` in PostgreSQL's `src/backend/utils/adt/json.c` does it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A string in JSON as Python's `json` writes it.
pub(crate) fn ascii_json(text: &str) -> String {
    ascii(&quoted(text))
}

/// The same with everything beyond ASCII as `\uXXXX`, as Python's `json` writes it.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                text += &format!("\\u{unit:04x}");
            }
        }
    }
    text
}
