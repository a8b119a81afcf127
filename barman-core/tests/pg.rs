//! The PostgreSQL client against real and scripted servers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "what fails here is a test"
)]

mod admin;
mod backup;
mod login;
mod scripted;
mod streaming;
mod tls;
mod trouble;

use barman_core::ctx::Cancel;
use barman_core::format::conninfo::ConnInfo;
use barman_core::pg::{Environment, PgError, Session};

/// Connects with nothing but the connection string.
fn connect(conninfo: &str) -> Result<Session, PgError> {
    connect_in(conninfo, &Environment::default())
}

fn connect_in(conninfo: &str, environment: &Environment) -> Result<Session, PgError> {
    Session::connect(&ConnInfo::parse(conninfo)?, environment, &Cancel::new())
}

/// The only value of a query, NULL as `null`.
fn scalar(session: &mut Session, sql: &str) -> String {
    session.query_one(sql).unwrap().scalar().unwrap().unwrap_or("null").to_owned()
}
