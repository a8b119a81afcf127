//! What can go wrong in the harness itself. A failing server is reported with the end of its log.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use camino::Utf8PathBuf;

/// The result of every fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the harness, or of a program that it runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something that must be installed is not.
    #[error("{what} is not there: {hint}")]
    Missing {
        /// What was looked for.
        what: String,
        /// Where it was looked for, and how to get it.
        hint: String,
    },
    /// A file operation failed.
    #[error("could not {verb} {path}")]
    Io {
        /// The operation, as a verb ("create", "read").
        verb: &'static str,
        /// The path it was done on.
        path: Utf8PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("could not start {program}")]
    Spawn {
        /// Its path.
        program: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ran and reported failure.
    #[error("{program} failed with {status}: {output}")]
    Program {
        /// The program and its arguments.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote on stderr and stdout.
        output: String,
    },
    /// A server ended when it should run.
    #[error("the server ended with {status}; the end of its log is:\n{log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// Something awaited did not happen in time.
    #[error("{what} did not happen within {after:?}; the end of the log is:\n{log}")]
    Timeout {
        /// What was awaited.
        what: String,
        /// The bound of the wait.
        after: Duration,
        /// The last lines of the server's log, or the last state seen.
        log: String,
    },
    /// PostgreSQL answered with an error.
    #[error("{severity} {code}: {message}")]
    Sql {
        /// `ERROR`, `FATAL` or `PANIC`.
        severity: String,
        /// The five characters of SQLSTATE.
        code: String,
        /// The primary message, with detail and hint when there are any.
        message: String,
    },
    /// A connection failed, was cut, or the peer did not keep to the protocol.
    #[error("the connection to {peer} failed while it was to {verb}")]
    Connection {
        /// The address.
        peer: String,
        /// What was being done.
        verb: &'static str,
        /// The system's or the protocol parser's answer.
        source: io::Error,
    },
    /// Something asked for does not exist in this version or on this machine.
    #[error("{0}")]
    Unsupported(String),
    /// A check of a cluster's files or indexes found damage.
    #[error("the cluster in {pgdata} is damaged: {findings}")]
    Damaged {
        /// The data directory.
        pgdata: Utf8PathBuf,
        /// What was found, a line each.
        findings: String,
    },
}

impl Error {
    /// SQLSTATE, when PostgreSQL answered with an error.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Sql { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// Adds verb and path to an [`io::Result`].
pub(crate) trait IoContext<T> {
    fn context(self, verb: &'static str, path: impl Into<Utf8PathBuf>) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, verb: &'static str, path: impl Into<Utf8PathBuf>) -> Result<T> {
        self.map_err(|source| Error::Io { verb, path: path.into(), source })
    }
}
