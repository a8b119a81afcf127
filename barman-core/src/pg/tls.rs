//! Encrypted connections: what `sslmode` and its companions ask for.

use tokio::net::TcpStream;

use super::error::PgError;
use super::settings::{Host, Settings};
use super::socket::Socket;

/// How connections are encrypted.
pub(super) struct Tls {
    attempts: &'static [bool],
}

impl Tls {
    pub(super) fn new(settings: &Settings) -> Result<Self, PgError> {
        match settings
            .choice("sslmode", &["prefer", "disable", "allow", "require", "verify-ca", "verify-full"])?
        {
            "disable" | "allow" | "prefer" => Ok(Self { attempts: &[false] }),
            mode => Err(PgError::settings(format!("sslmode {mode} is not there yet"))),
        }
    }

    /// The ways to try, in order: with TLS or without.
    pub(super) fn attempts(&self) -> &'static [bool] {
        self.attempts
    }

    pub(super) async fn negotiate(
        &self,
        _stream: TcpStream,
        _host: &Host,
        _endpoint: &str,
    ) -> Result<(Socket, Option<Vec<u8>>), PgError> {
        Err(PgError::settings("TLS is not there yet"))
    }
}
