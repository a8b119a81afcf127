//! A small client: the simple query protocol, nothing else. It shares no code with the client of `barman-core`, so that a test
//! never asks the code under test whether the code under test was right.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;

use crate::error::{Error, Result};

/// What one statement answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The names of the columns; empty when the statement returns no rows.
    pub columns: Vec<String>,
    /// The values in text form; `None` is SQL NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// The command tag, such as `SELECT 1` or `CREATE TABLE`.
    pub tag: String,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One open connection.
///
/// Use it where a test needs a session of its own: an open transaction, a lock, a session setting. For single statements
/// [`Cluster::psql`](super::Cluster::psql) is shorter.
pub struct Session {
    stream: Box<dyn Stream>,
    peer: String,
    buffer: BytesMut,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Session {
    /// Connects to a host name or address, or, when `host` begins with `/`, to the Unix socket in that directory.
    ///
    /// Every authentication method of the simple kind is answered: trust, password, md5, scram-sha-256. No TLS.
    ///
    /// # Errors
    /// When nothing listens, or the server refuses ([`Error::Sql`]).
    pub fn connect(
        host: &str,
        port: u16,
        user: &str,
        database: &str,
        password: Option<&str>,
    ) -> Result<Session> {
        const PATIENCE: Option<Duration> = Some(Duration::from_secs(300));
        let peer = format!("{host}:{port}");
        let failed = |source| Error::Connection { peer: peer.clone(), verb: "connect", source };
        let stream: Box<dyn Stream> = if host.starts_with('/') {
            let stream = UnixStream::connect(format!("{host}/.s.PGSQL.{port}")).map_err(failed)?;
            stream.set_read_timeout(PATIENCE).map_err(failed)?;
            Box::new(stream)
        } else {
            let stream = TcpStream::connect((host, port)).map_err(failed)?;
            stream.set_read_timeout(PATIENCE).map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            Box::new(stream)
        };
        let mut session = Session { stream, peer, buffer: BytesMut::new() };
        session.start(user, database, password)?;
        Ok(session)
    }

    fn start(&mut self, user: &str, database: &str, password: Option<&str>) -> Result<()> {
        let parameters = [("user", user), ("database", database), ("application_name", "barman-testkit")];
        self.send("start", |out| frontend::startup_message(parameters, out))?;
        let secret = password.unwrap_or_default().as_bytes();
        let mut scram = None;
        loop {
            match self.receive("start")? {
                Message::AuthenticationOk
                | Message::ParameterStatus(_)
                | Message::BackendKeyData(_)
                | Message::NoticeResponse(_) => {}
                Message::AuthenticationCleartextPassword => {
                    self.send("authenticate", |out| frontend::password_message(secret, out))?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(user.as_bytes(), secret, body.salt());
                    self.send("authenticate", |out| frontend::password_message(hash.as_bytes(), out))?;
                }
                Message::AuthenticationSasl(_) => {
                    let state = ScramSha256::new(secret, ChannelBinding::unsupported());
                    self.send("authenticate", |out| {
                        frontend::sasl_initial_response(SCRAM_SHA_256, state.message(), out)
                    })?;
                    scram = Some(state);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let Some(state) = scram.as_mut() else { return Err(self.unexpected("authenticate")) };
                    let updated = state.update(body.data());
                    let reply = updated.map(|()| state.message().to_vec());
                    let reply = reply.map_err(|source| self.failed("authenticate", source))?;
                    self.send("authenticate", |out| frontend::sasl_response(&reply, out))?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let Some(state) = scram.as_mut() else { return Err(self.unexpected("authenticate")) };
                    let finished = state.finish(body.data());
                    finished.map_err(|source| self.failed("authenticate", source))?;
                }
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => return Err(sql_error(body.fields())),
                _ => return Err(self.unexpected("start")),
            }
        }
    }

    /// Sends a text of one or more statements and returns the answer of each.
    ///
    /// Several statements in one text are one transaction, as with `psql -c`.
    ///
    /// # Errors
    /// The server's error, after which the session can be used again; or a lost connection.
    pub fn query(&mut self, sql: &str) -> Result<Vec<Answer>> {
        self.send("query", |out| frontend::query(sql, out))?;
        let mut answers = Vec::new();
        let mut answer = Answer::default();
        let mut error = None;
        loop {
            match self.receive("query")? {
                Message::RowDescription(body) => {
                    let mut fields = body.fields();
                    while let Some(field) = fields.next().map_err(|e| self.failed("query", e))? {
                        answer.columns.push(field.name().to_owned());
                    }
                }
                Message::DataRow(body) => {
                    let mut row = Vec::new();
                    let mut ranges = body.ranges();
                    while let Some(range) = ranges.next().map_err(|e| self.failed("query", e))? {
                        row.push(range.map(|r| String::from_utf8_lossy(&body.buffer()[r]).into_owned()));
                    }
                    answer.rows.push(row);
                }
                Message::CommandComplete(body) => {
                    answer.tag = body.tag().map_err(|e| self.failed("query", e))?.to_owned();
                    answers.push(std::mem::take(&mut answer));
                }
                Message::ErrorResponse(body) => error = Some(sql_error(body.fields())),
                Message::EmptyQueryResponse
                | Message::NoticeResponse(_)
                | Message::ParameterStatus(_)
                | Message::NotificationResponse(_) => {}
                Message::ReadyForQuery(_) => return error.map_or(Ok(answers), Err),
                _ => return Err(self.unexpected("query")),
            }
        }
    }

    /// The rows of all statements as `psql -At` prints them: columns joined by `|`, a line a row, NULL is empty.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub fn psql(&mut self, sql: &str) -> Result<String> {
        let lines: Vec<String> = self
            .query(sql)?
            .into_iter()
            .flat_map(|answer| answer.rows)
            .map(|row| row.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>().join("|"))
            .collect();
        Ok(lines.join("\n"))
    }

    fn send(
        &mut self,
        verb: &'static str,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<()> {
        let mut out = BytesMut::new();
        write(&mut out).and_then(|()| self.stream.write_all(&out)).map_err(|source| self.failed(verb, source))
    }

    fn receive(&mut self, verb: &'static str) -> Result<Message> {
        loop {
            if let Some(message) = Message::parse(&mut self.buffer).map_err(|e| self.failed(verb, e))? {
                return Ok(message);
            }
            let mut chunk = [0; 8192];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(self.failed(verb, io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed(verb, source)),
            }
        }
    }

    fn failed(&self, verb: &'static str, source: io::Error) -> Error {
        Error::Connection { peer: self.peer.clone(), verb, source }
    }

    fn unexpected(&self, verb: &'static str) -> Error {
        self.failed(
            verb,
            io::Error::new(io::ErrorKind::InvalidData, "the server sent a message that does not fit here"),
        )
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        // The server notices a closed socket just as well.
        let _ = self.stream.write_all(&out);
    }
}

fn sql_error(mut fields: ErrorFields<'_>) -> Error {
    let (mut severity, mut code, mut message) = (String::new(), String::new(), String::new());
    while let Ok(Some(field)) = fields.next() {
        let value = String::from_utf8_lossy(field.value_bytes());
        match field.type_() {
            b'S' => severity = value.into_owned(),
            b'C' => code = value.into_owned(),
            b'M' => message.insert_str(0, &value),
            b'D' => message.push_str(&format!(" (detail: {value})")),
            b'H' => message.push_str(&format!(" (hint: {value})")),
            _ => {}
        }
    }
    Error::Sql { severity, code, message }
}
