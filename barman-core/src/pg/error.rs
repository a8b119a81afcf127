//! [`PgError`]: everything that can go wrong between us and a PostgreSQL server. No variant ever holds a secret.

use std::fmt;
use std::io;

use camino::Utf8PathBuf;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;

use crate::format::conninfo::ConnInfoError;

/// An error or a notice as the server words it.
///
/// Source: PostgreSQL's documentation, chapter "Frontend/Backend Protocol", section "Error and Notice Message Fields".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `PANIC`, `WARNING`, `NOTICE` …, never translated where the server is 9.6 or later.
    pub severity: String,
    /// Five characters: see the documentation's appendix "PostgreSQL Error Codes".
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// More about the problem.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ServerError {
    pub(super) fn read(mut fields: ErrorFields<'_>) -> Self {
        let mut error = Self::default();
        // A malformed tail does not make the part that was read less true.
        while let Ok(Some(field)) = fields.next() {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'V' => error.severity = text,
                b'S' if error.severity.is_empty() => error.severity = text,
                b'C' => error.sqlstate = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
        error
    }

    /// Whether the server closes the connection after it.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }

    /// Whether the SQLSTATE begins with these characters.
    fn class(&self, prefix: &str) -> bool {
        self.sqlstate.starts_with(prefix)
    }

    fn is_transient(&self) -> bool {
        // Connection exceptions, insufficient resources, operator intervention (shutdown, starting up), rollbacks
        // that a second try may not see.
        ["08", "53", "57P", "40"].iter().any(|class| self.class(class))
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:  {}", self.severity, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " DETAIL:  {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " HINT:  {hint}")?;
        }
        Ok(())
    }
}

/// What went wrong with a connection or a statement. Display is one sentence without the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PgError {
    /// The connection string, or a setting from the service file or the environment, is not usable.
    #[error(transparent)]
    ConnInfo(#[from] ConnInfoError),
    /// The settings together make no sense, or ask for something that this client does not have.
    #[error("{reason}")]
    Settings {
        /// What is wrong, in words.
        reason: String,
    },
    /// A file that the settings name cannot be read.
    #[error("could not read \"{path}\"")]
    File {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("connection to {endpoint} failed: {reason}")]
    Unreachable {
        /// The server, as libpq words it.
        endpoint: String,
        /// Why, in the operating system's words.
        reason: String,
        /// Why, for programs.
        kind: io::ErrorKind,
    },
    /// The encrypted channel could not be made, or the certificate is not acceptable.
    #[error("connection to {endpoint} failed: {reason}")]
    Tls {
        /// The server, as libpq words it.
        endpoint: String,
        /// What is wrong, in words.
        reason: String,
    },
    /// We are not let in: wrong or missing password, no entry in `pg_hba.conf`, a method that we do not have.
    #[error("connection to {endpoint} failed: {reason}")]
    Auth {
        /// The server, as libpq words it.
        endpoint: String,
        /// What is wrong, in words; the server's where it said something.
        reason: String,
        /// The server's own error, if it was the server that refused.
        server: Option<Box<ServerError>>,
    },
    /// The server refuses the connection for another reason: it starts up, it has no such database …
    #[error("connection to {endpoint} failed: {server}")]
    Refused {
        /// The server, as libpq words it.
        endpoint: String,
        /// The server's own error.
        server: Box<ServerError>,
    },
    /// A connection that works, but not of the kind that `target_session_attrs` asks for.
    #[error("connection to {endpoint} failed: {reason}")]
    WrongKind {
        /// The server, as libpq words it.
        endpoint: String,
        /// `session is read-only` and the like.
        reason: String,
    },
    /// Several servers were tried, and none could be used.
    #[error("{}", several(.0))]
    NoServer(Vec<PgError>),
    /// A limit of time passed.
    #[error("timeout expired after {seconds} s while {what}")]
    Timeout {
        /// What was waited for, in words.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// A statement failed; the session can still be used unless the error is fatal.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// The other side said something that the protocol does not allow there.
    #[error("the server broke the protocol: {what}")]
    Protocol {
        /// What, in words.
        what: String,
    },
    /// An answer has another form than the one that was asked for.
    #[error("unexpected answer of the server: {what}")]
    Answer {
        /// What was expected and what came, in words.
        what: String,
    },
    /// The connection ended while it was in use.
    #[error("the connection to the server was lost")]
    Lost {
        /// Why, where the operating system says.
        source: Option<io::Error>,
    },
    /// The caller stopped the operation; the session cannot be used any more.
    #[error("the operation was cancelled")]
    Cancelled,
    /// The server is too old or too new for what was asked, or in the wrong state for it.
    #[error("{reason}")]
    Unsupported {
        /// What is not possible and why, in words.
        reason: String,
    },
    /// The runtime that drives the connection could not be made.
    #[error("could not start the network runtime")]
    Runtime {
        /// Why.
        source: io::Error,
    },
}

fn several(errors: &[PgError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl PgError {
    /// Whether a second try, later, may succeed without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Lost { .. } => true,
            Self::Refused { server, .. } | Self::Server(server) => server.is_transient(),
            Self::WrongKind { .. } => true,
            Self::NoServer(errors) => errors.iter().any(Self::is_transient),
            _ => false,
        }
    }

    /// Whether the connection is gone: no further statement on this session can succeed.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Cancelled | Self::Timeout { .. } | Self::Protocol { .. } => true,
            Self::Server(server) => server.is_fatal(),
            _ => false,
        }
    }

    /// The server's own error, if there is one.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            Self::Server(server) | Self::Refused { server, .. } => Some(server),
            Self::Auth { server, .. } => server.as_deref(),
            Self::NoServer(errors) => errors.iter().find_map(Self::server),
            _ => None,
        }
    }

    /// The server's SQLSTATE, if it sent one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|server| server.sqlstate.as_str())
    }

    /// Whether the role may not do it (SQLSTATE 42501).
    pub fn is_permission_denied(&self) -> bool {
        self.sqlstate() == Some("42501")
    }

    pub(super) fn unreachable(endpoint: &str, error: &io::Error) -> Self {
        Self::Unreachable { endpoint: endpoint.to_owned(), reason: error.to_string(), kind: error.kind() }
    }

    pub(super) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol { what: what.into() }
    }

    pub(super) fn settings(reason: impl Into<String>) -> Self {
        Self::Settings { reason: reason.into() }
    }

    pub(super) fn answer(what: impl Into<String>) -> Self {
        Self::Answer { what: what.into() }
    }

    /// Whether the next server of a list may be tried after this (as libpq does): not after a refused login.
    pub(super) fn allows_next_host(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::WrongKind { .. } | Self::Lost { .. } => {
                true
            }
            // ERRCODE_CANNOT_CONNECT_NOW: starting up, shutting down, in recovery without hot standby.
            Self::Refused { server, .. } => server.sqlstate == "57P03",
            _ => false,
        }
    }
}
