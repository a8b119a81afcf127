//! [`Session`]: the blocking handle on a connection, which is what the other rooms use.

use std::pin::pin;
use std::time::Duration;

use super::environment::Environment;
use super::error::{PgError, ServerError};
use super::query::ResultSet;
use super::wire::Connection;
use crate::ctx::Cancel;
use crate::format::conninfo::ConnInfo;
use crate::model::PgVersion;

/// How often a waiting session looks at its [`Cancel`].
const TICK: Duration = Duration::from_millis(100);
/// How long asking the server to stop may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// A connection with the runtime that drives it. Every call blocks until the server answered, the connection is lost,
/// the limit set by [`Session::set_limit`] passed, or the [`Cancel`] given at connect is set; after the latter three the
/// session cannot be used any more ([`PgError::is_lost`]).
///
/// Calls must not come from a task of a tokio runtime (use `spawn_blocking` there).
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    runtime: tokio::runtime::Runtime,
    cancel: Cancel,
    limit: Option<Duration>,
    version: PgVersion,
    replication: bool,
}

impl Session {
    /// Connects with these settings. Without `connect_timeout` among them the wait is bounded only by `cancel`.
    ///
    /// # Errors
    /// See [`Connection::connect`].
    pub fn connect(info: &ConnInfo, environment: &Environment, cancel: &Cancel) -> Result<Self, PgError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| PgError::Runtime { source })?;
        let connected = runtime.block_on(bounded(None, cancel, Connection::connect(info, environment)));
        let connection = match connected {
            Ok(connection) => connection,
            Err(error) => {
                // A name being looked up cannot be stopped; it is not waited for.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let version = connection
            .parameter("server_version")
            .and_then(version_number)
            .ok_or_else(|| PgError::answer("the server did not report a version that can be read"))?;
        let replication = connection.replication;
        Ok(Self { connection, runtime, cancel: cancel.clone(), limit: None, version, replication })
    }

    /// Connects for physical replication: the settings with `replication=true` and, as Barman does,
    /// `dbname=replication` and `options=-cdatestyle=iso`.
    ///
    /// # Errors
    /// See [`Session::connect`].
    pub fn connect_replication(
        info: &ConnInfo,
        environment: &Environment,
        cancel: &Cancel,
    ) -> Result<Self, PgError> {
        Self::connect(&replication_conninfo(info)?, environment, cancel)
    }

    /// Bounds each following call; `None` takes the bound away.
    pub fn set_limit(&mut self, limit: Option<Duration>) {
        self.limit = limit;
    }

    /// The server's version.
    pub fn version(&self) -> PgVersion {
        self.version
    }

    /// The connection, for what it knows without asking.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What the user should know about the settings, such as a password file that is not used.
    pub fn warnings(&self) -> &[String] {
        &self.connection.warnings
    }

    /// Takes the notices that came since the last call.
    pub fn take_notices(&mut self) -> Vec<ServerError> {
        self.connection.take_notices()
    }

    /// One or more statements without parameters; see [`Connection::query`].
    ///
    /// # Errors
    /// The server's error, or a lost connection.
    pub fn query(&mut self, sql: &str) -> Result<Vec<ResultSet>, PgError> {
        self.run(async |connection| connection.query(sql).await)
    }

    /// The answer to one statement without parameters.
    ///
    /// # Errors
    /// The server's error, or a lost connection.
    pub fn query_one(&mut self, sql: &str) -> Result<ResultSet, PgError> {
        self.query(sql)?.pop().ok_or_else(|| PgError::answer("no answer to a statement"))
    }

    /// One statement with parameters; see [`Connection::query_with`].
    ///
    /// # Errors
    /// The server's error, or a lost connection.
    pub fn query_with(&mut self, sql: &str, parameters: &[Option<&str>]) -> Result<ResultSet, PgError> {
        self.run(async |connection| connection.query_with(sql, parameters).await)
    }

    /// Asks for nothing, to see whether the session lives and to keep it alive.
    ///
    /// # Errors
    /// When it does not.
    pub fn ping(&mut self) -> Result<(), PgError> {
        // A physical replication connection takes no SQL.
        self.query(if self.replication { "IDENTIFY_SYSTEM" } else { "SELECT 1" }).map(drop)
    }

    /// Says goodbye and closes.
    pub fn close(self) {
        let Self { connection, runtime, .. } = self;
        let _ = runtime.block_on(async { tokio::time::timeout(FAREWELL, connection.close()).await });
    }

    /// What a stream works with.
    pub(super) fn parts(&mut self) -> (&mut Connection, &tokio::runtime::Runtime, &Cancel) {
        (&mut self.connection, &self.runtime, &self.cancel)
    }

    /// Drives one exchange to its end, or gives up and makes the connection unusable.
    pub(super) fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, PgError>,
    ) -> Result<T, PgError> {
        let Self { connection, runtime, cancel, limit, .. } = self;
        let result = runtime.block_on(bounded(*limit, cancel, work(connection)));
        if matches!(result, Err(PgError::Cancelled | PgError::Timeout { .. })) {
            // The answer may still come: the connection is out of step for good. The server is told to stop.
            let told = async { tokio::time::timeout(FAREWELL, connection.request_cancel()).await };
            let _ = runtime.block_on(told);
            connection.mark_broken();
        }
        result
    }
}

async fn bounded<T>(
    limit: Option<Duration>,
    cancel: &Cancel,
    work: impl Future<Output = Result<T, PgError>>,
) -> Result<T, PgError> {
    let mut work = pin!(work);
    let mut tick = tokio::time::interval(TICK);
    let started = tokio::time::Instant::now();
    loop {
        tokio::select! {
            biased;
            result = &mut work => return result,
            _ = tick.tick() => {
                if cancel.is_cancelled() {
                    return Err(PgError::Cancelled);
                }
                if let Some(limit) = limit.filter(|limit| started.elapsed() >= *limit) {
                    let what = "waiting for the server's answer".to_owned();
                    return Err(PgError::Timeout { what, seconds: limit.as_secs() });
                }
            }
        }
    }
}

/// The settings of a replication connection, as Barman makes them out of a connection string.
///
/// # Errors
/// None in practice; the key words are known.
pub fn replication_conninfo(info: &ConnInfo) -> Result<ConnInfo, PgError> {
    let info = info.clone().with("replication", "true")?.with("options", "-cdatestyle=iso")?;
    Ok(info.with("dbname", "replication")?)
}

/// `15.20 (Debian …)` → 150020, `9.6.3` → 90603, `18beta1` → 180000, as `PQserverVersion` reads it.
fn version_number(text: &str) -> Option<PgVersion> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let mut parts = text.get(..end)?.split('.').map(|part| part.parse::<u32>().ok().filter(|n| *n < 1000));
    let major = parts.next()??;
    let minor = parts.next().flatten().unwrap_or(0);
    let patch = parts.next().flatten().unwrap_or(0);
    let number = if major >= 10 { major * 10_000 + minor } else { major * 10_000 + minor * 100 + patch };
    Some(PgVersion::new(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, number) in [
            ("15.20 (Debian 15.20-1.pgdg12+1)", Some(150_020)),
            ("9.6.3", Some(90_603)),
            ("18beta1", Some(180_000)),
            ("10.23", Some(100_023)),
            ("17devel", Some(170_000)),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(version_number(text).map(PgVersion::num), number, "{text}");
        }
    }

    #[test]
    fn replication_settings_are_barmans() {
        let info = ConnInfo::parse("user=streaming_barman port=55432 host=127.0.0.1").unwrap();
        assert_eq!(
            replication_conninfo(&info).unwrap().sorted().to_string(),
            "dbname=replication host=127.0.0.1 options=-cdatestyle=iso port=55432 replication=true \
             user=streaming_barman"
        );
    }
}
