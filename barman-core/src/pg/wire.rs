//! [`Connection`]: messages over a socket. It knows framing and what may come at any time (notices, parameters); what a
//! message means in an exchange is known by the modules above it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};

use bytes::{Buf, BytesMut};
use postgres_protocol::message::{backend, frontend};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::{PgError, ServerError};
use super::socket::Socket;

/// No message of ours is longer; a longer one means that the stream is not PostgreSQL's, or is broken.
const LONGEST_MESSAGE: usize = 256 << 20;
/// Before the login is done a longer message is refused, so that a stranger cannot make us take memory.
const LONGEST_LOGIN_MESSAGE: usize = 64 << 10;
/// A longer message is read in pieces of this size.
const LONGEST_READ: usize = 256 << 10;
/// Older notices are dropped.
const KEPT_NOTICES: usize = 100;

/// What came from the server.
pub(super) enum Incoming {
    /// A message that `postgres-protocol` knows.
    Message(backend::Message),
    /// `CopyBothResponse`: a replication stream begins.
    CopyBoth,
    /// `NegotiateProtocolVersion`: the server is older than our protocol or does not know an option.
    NegotiateVersion,
}

/// One connection to one server. Async: whoever drives it owns the runtime.
pub struct Connection {
    socket: Socket,
    inbox: BytesMut,
    pub(super) outbox: BytesMut,
    pub(super) endpoint: String,
    parameters: BTreeMap<String, String>,
    notices: VecDeque<ServerError>,
    pub(super) warnings: Vec<String>,
    pub(super) logged_in: bool,
    pub(super) replication: bool,
    pub(super) key: Option<(i32, i32)>,
    broken: bool,
}

impl Connection {
    pub(super) fn new(socket: Socket, endpoint: String) -> Self {
        Self {
            socket,
            inbox: BytesMut::with_capacity(16 << 10),
            outbox: BytesMut::new(),
            endpoint,
            parameters: BTreeMap::new(),
            notices: VecDeque::new(),
            warnings: Vec::new(),
            logged_in: false,
            replication: false,
            key: None,
            broken: false,
        }
    }

    /// The server, as libpq words it: `server at "db" (10.0.0.1), port 5432`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A parameter that the server reports by itself, such as `server_version` or `in_hot_standby`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Takes the notices and warnings that came since the last call, at most the latest hundred.
    pub fn take_notices(&mut self) -> Vec<ServerError> {
        self.notices.drain(..).collect()
    }

    /// Whether TLS protects the connection.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.socket, Socket::Tls(_))
    }

    /// Whether the connection can no longer be used.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn mark_broken(&mut self) {
        self.broken = true;
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    fn lost(&mut self, source: Option<io::Error>) -> PgError {
        self.broken = true;
        PgError::Lost { source }
    }

    fn violated(&mut self, what: impl Into<String>) -> PgError {
        self.broken = true;
        PgError::protocol(what)
    }

    /// Something came that the exchange does not allow; the connection cannot be trusted any more.
    pub(super) fn unexpected(&mut self, during: &str) -> PgError {
        self.violated(format!("a message that is not allowed there came during {during}"))
    }

    /// Sends what lies in the outbox.
    pub(super) async fn flush(&mut self) -> Result<(), PgError> {
        if self.broken {
            return Err(PgError::Lost { source: None });
        }
        let sent = async {
            self.socket.write_all(&self.outbox).await?;
            self.socket.flush().await
        }
        .await;
        self.outbox.clear();
        sent.map_err(|source| self.lost(Some(source)))
    }

    /// The next message that belongs to the exchange; notices, notifications and parameters are kept aside.
    pub(super) async fn receive(&mut self) -> Result<Incoming, PgError> {
        if self.broken {
            return Err(PgError::Lost { source: None });
        }
        loop {
            while !self.whole_message()? {
                self.make_room();
                let read = self.socket.read_buf(&mut self.inbox).await;
                match read {
                    Ok(0) => return Err(self.lost(None)),
                    Ok(_) => {}
                    Err(source) => return Err(self.lost(Some(source))),
                }
            }
            match self.take_message()? {
                Incoming::Message(backend::Message::NoticeResponse(body)) => {
                    if self.notices.len() == KEPT_NOTICES {
                        self.notices.pop_front();
                    }
                    self.notices.push_back(ServerError::read(body.fields()));
                }
                Incoming::Message(backend::Message::NotificationResponse(_)) => {}
                Incoming::Message(backend::Message::ParameterStatus(body)) => {
                    if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                        self.parameters.insert(name.to_owned(), value.to_owned());
                    }
                }
                other => return Ok(other),
            }
        }
    }

    /// Whether the inbox begins with a whole message. The header is judged before any of the body is there.
    fn whole_message(&mut self) -> Result<bool, PgError> {
        let header = match backend::Header::parse(&self.inbox) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(false),
            Err(_) => return Err(self.violated("a message with an impossible length came")),
        };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        let limit = if self.logged_in { LONGEST_MESSAGE } else { LONGEST_LOGIN_MESSAGE };
        if length > limit {
            return Err(self.violated(format!("a message of {length} bytes came")));
        }
        Ok(self.inbox.len() > length)
    }

    /// Room for all of the message that has begun to come, so that a long one is read in few pieces and copied never.
    fn make_room(&mut self) {
        if let Ok(Some(header)) = backend::Header::parse(&self.inbox) {
            let length = usize::try_from(header.len()).unwrap_or_default().min(LONGEST_READ) + 1;
            self.inbox.reserve(length.saturating_sub(self.inbox.len()));
        }
    }

    fn take_message(&mut self) -> Result<Incoming, PgError> {
        let tag = self.inbox.first().copied().unwrap_or_default();
        // postgres-protocol 0.6 refuses these two.
        if matches!(tag, b'W' | b'v') {
            if let Ok(Some(header)) = backend::Header::parse(&self.inbox) {
                self.inbox.advance(usize::try_from(header.len()).unwrap_or_default() + 1);
            }
            return Ok(if tag == b'W' { Incoming::CopyBoth } else { Incoming::NegotiateVersion });
        }
        match backend::Message::parse(&mut self.inbox) {
            Ok(Some(message)) => Ok(Incoming::Message(message)),
            Ok(None) => Err(self.violated("a message ended before its length")),
            Err(error) => Err(self.violated(format!("a message cannot be read ({error})"))),
        }
    }

    /// Says goodbye and closes.
    pub async fn close(mut self) {
        if !self.broken {
            self.outbox.clear();
            frontend::terminate(&mut self.outbox);
            let _ = self.flush().await;
            let _ = self.socket.shutdown().await;
            self.broken = true;
        }
    }
}

impl Drop for Connection {
    /// Says goodbye as far as that is possible without waiting, so that the server need not guess.
    fn drop(&mut self) {
        if self.broken || !self.logged_in {
            return;
        }
        self.outbox.clear();
        frontend::terminate(&mut self.outbox);
        let mut context = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut self.socket).poll_write(&mut context, &self.outbox);
        let _ = Pin::new(&mut self.socket).poll_flush(&mut context);
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("endpoint", &self.endpoint).field("broken", &self.broken).finish()
    }
}
