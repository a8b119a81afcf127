//! [`Reply`]: what the scripted server answers to a statement, and its bytes on the wire.

use std::time::Duration;

use bytes::{BufMut, BytesMut};

/// Who ends a streaming copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyEnd {
    /// The server, after its last chunk (as at the end of a timeline).
    Server,
    /// The client; the server waits for its CopyDone.
    Client,
}

/// What the server answers to one statement. Made by the functions, combined by the methods.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply(pub(super) Vec<Act>);

/// One step of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    Rows { columns: Vec<(String, u32)>, rows: Vec<Vec<Option<Vec<u8>>>> },
    Complete(String),
    Error { severity: &'static str, sqlstate: String, message: String },
    Notice(String),
    CopyOut(Vec<Vec<u8>>),
    CopyBoth(Vec<Vec<u8>>, CopyEnd),
    Raw(Vec<u8>),
    Delay(Duration),
    Cut(u64),
    Hang,
}

/// The type oid of `text`.
const TEXT: u32 = 25;

impl Reply {
    /// Rows of text columns.
    pub fn rows(columns: &[&str], rows: &[&[Option<&str>]]) -> Reply {
        let rows: Vec<Vec<Option<Vec<u8>>>> = rows
            .iter()
            .map(|row| row.iter().map(|value| value.map(|text| text.as_bytes().to_vec())).collect())
            .collect();
        let tag = format!("SELECT {}", rows.len());
        let columns = columns.iter().map(|name| ((*name).to_owned(), TEXT)).collect();
        Reply(vec![Act::Rows { columns, rows }, Act::Complete(tag)])
    }

    /// One row with one column.
    pub fn value(column: &str, value: &str) -> Reply {
        Reply::rows(&[column], &[&[Some(value)]])
    }

    /// No rows, only a command tag such as `CHECKPOINT`.
    pub fn command(tag: &str) -> Reply {
        Reply(vec![Act::Complete(tag.to_owned())])
    }

    /// ERROR with this SQLSTATE: the statement fails, the session lives.
    pub fn error(sqlstate: &str, message: &str) -> Reply {
        Reply(vec![Act::Error {
            severity: "ERROR",
            sqlstate: sqlstate.to_owned(),
            message: message.to_owned(),
        }])
    }

    /// FATAL with this SQLSTATE, for example `57P01`: the session ends.
    pub fn fatal(sqlstate: &str, message: &str) -> Reply {
        Reply(vec![Act::Error {
            severity: "FATAL",
            sqlstate: sqlstate.to_owned(),
            message: message.to_owned(),
        }])
    }

    /// COPY OUT of these chunks, with the tag `COPY`.
    pub fn copy_out(chunks: impl IntoIterator<Item = Vec<u8>>) -> Reply {
        Reply(vec![Act::CopyOut(chunks.into_iter().collect()), Act::Complete("COPY".into())])
    }

    /// COPY BOTH, as START_REPLICATION answers: these chunks (see [`wal_data`], [`keepalive`]), then the end.
    pub fn copy_both(chunks: impl IntoIterator<Item = Vec<u8>>, end: CopyEnd) -> Reply {
        Reply(vec![Act::CopyBoth(chunks.into_iter().collect(), end), Act::Complete("START_STREAMING".into())])
    }

    /// These bytes as they are, which need not be messages.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply(vec![Act::Raw(bytes.into())])
    }

    /// No answer, until the client closes the connection or the server is dropped.
    pub fn hang() -> Reply {
        Reply(vec![Act::Hang])
    }

    /// A pause before the answer.
    #[must_use]
    pub fn after(self, pause: Duration) -> Reply {
        self.preceded_by(Act::Delay(pause))
    }

    /// A NOTICE before the answer.
    #[must_use]
    pub fn with_notice(self, message: &str) -> Reply {
        self.preceded_by(Act::Notice(message.to_owned()))
    }

    /// The connection is cut after `bytes` bytes of this answer.
    #[must_use]
    pub fn cut_after(self, bytes: u64) -> Reply {
        self.preceded_by(Act::Cut(bytes))
    }

    /// A second answer behind this one, as BASE_BACKUP sends several result sets and copies.
    #[must_use]
    pub fn then(mut self, next: Reply) -> Reply {
        self.0.extend(next.0);
        self
    }

    fn preceded_by(mut self, act: Act) -> Reply {
        self.0.insert(0, act);
        self
    }
}

/// The payload of a CopyData message with WAL that begins at `start` (XLogData, `w`).
pub fn wal_data(start: u64, server_end: u64, data: &[u8]) -> Vec<u8> {
    let mut out = vec![b'w'];
    out.put_u64(start);
    out.put_u64(server_end);
    out.put_i64(0);
    out.extend_from_slice(data);
    out
}

/// The payload of a CopyData message with a primary keepalive (`k`).
pub fn keepalive(server_end: u64, reply_requested: bool) -> Vec<u8> {
    let mut out = vec![b'k'];
    out.put_u64(server_end);
    out.put_i64(0);
    out.put_u8(u8::from(reply_requested));
    out
}

/// Appends a message: tag, length, body.
pub(super) fn message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    let mut content = BytesMut::new();
    body(&mut content);
    out.put_u8(tag);
    out.put_u32(content.len() as u32 + 4);
    out.extend_from_slice(&content);
}

pub(super) fn text(out: &mut BytesMut, value: &str) {
    out.extend_from_slice(value.as_bytes());
    out.put_u8(0);
}

pub(super) fn error(out: &mut BytesMut, tag: u8, severity: &str, sqlstate: &str, words: &str) {
    message(out, tag, |body| {
        for (field, value) in [(b'S', severity), (b'V', severity), (b'C', sqlstate), (b'M', words)] {
            body.put_u8(field);
            text(body, value);
        }
        body.put_u8(0);
    });
}

pub(super) fn row_description(out: &mut BytesMut, columns: &[(String, u32)]) {
    message(out, b'T', |body| {
        body.put_u16(columns.len() as u16);
        for (name, oid) in columns {
            text(body, name);
            body.put_u32(0);
            body.put_u16(0);
            body.put_u32(*oid);
            body.put_i16(-1);
            body.put_i32(-1);
            body.put_u16(0);
        }
    });
}

pub(super) fn data_row(out: &mut BytesMut, row: &[Option<Vec<u8>>]) {
    message(out, b'D', |body| {
        body.put_u16(row.len() as u16);
        for value in row {
            match value {
                None => body.put_i32(-1),
                Some(bytes) => {
                    body.put_i32(bytes.len() as i32);
                    body.extend_from_slice(bytes);
                }
            }
        }
    });
}

/// CopyOutResponse (`H`) or CopyBothResponse (`W`): text format, no columns, as the server does for replication.
pub(super) fn copy_response(out: &mut BytesMut, tag: u8) {
    message(out, tag, |body| {
        body.put_u8(0);
        body.put_u16(0);
    });
}
