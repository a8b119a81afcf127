//! From errors of the library to what the user reads, and to exit statuses.

use barman_core::server::{ErrorKind, ServerError};

/// Prints lines to stderr as they are: what goes wrong before there is an output to draw on.
pub(crate) fn print_lines(lines: &[String]) {
    use std::io::Write;
    for line in lines {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// The exit status of a command that ran without an output; a failure is printed.
pub(crate) fn exit(outcome: Result<(), Failure>) -> std::process::ExitCode {
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(Failure::Error(text) | Failure::Status(text, _)) => {
            print_lines(&[format!("ERROR: {text}")]);
            std::process::ExitCode::from(1)
        }
        Err(Failure::Exception(text)) => {
            print_lines(&[format!("EXCEPTION: {text}"), SEE_LOG.to_owned()]);
            std::process::ExitCode::from(1)
        }
        Err(Failure::Said) => std::process::ExitCode::from(1),
    }
}

/// What follows an exception.
pub(crate) const SEE_LOG: &str = "See log file for more details.";

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// `ERROR: text`, exit status 1.
    Error(String),
    /// `EXCEPTION: text`, exit status 1: where Barman has no message of its own.
    Exception(String),
    /// `ERROR: text` with another exit status.
    Status(String, u8),
    /// Everything was said already.
    Said,
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        let text = explain(&error);
        // A message that says what to do is not told twice.
        match hint(error.kind()).filter(|_| !text.contains("HINT:")) {
            Some(hint) => Self::Error(format!("{text}\nHINT: {hint}")),
            None => Self::Error(text),
        }
    }
}

/// The next step, for kinds of trouble whose messages come from elsewhere and say only what is wrong.
fn hint(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Unreachable => Some("check that the host is up and reachable, then run the command again"),
        ErrorKind::Denied => {
            Some("check the rights of the user that barman runs as, and the login that is configured")
        }
        ErrorKind::NoSpace => {
            Some("free some space, then run the command again; nothing that was safe before is lost")
        }
        ErrorKind::Bug => Some("this was not expected; please report it with the log"),
        _ => None,
    }
}

/// An error with its causes: one sentence, then `DETAILS:` with what lies below.
pub(crate) fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut source = error.source();
    while let Some(next) = source {
        let cause = next.to_string();
        // Transparent errors say the same again.
        if cause != last && !text.contains(&cause) {
            text = format!("{text}\nDETAILS: {cause}");
        }
        last = cause;
        source = next.source();
    }
    text
}
