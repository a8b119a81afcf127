//! A scripted PostgreSQL server: it speaks the protocol, knows no SQL, and answers what the test told it to answer.
//!
//! It is stricter than the real one. A query that no rule matches, a message that does not fit the state of the protocol, a password
//! message of the wrong kind, a missing Terminate: each is a *deviation*, and the test fails when the server is dropped.
//!
//! ```
//! use barman_testkit::fake_pg::{Auth, FakePg, Reply};
//! use barman_testkit::pg::Session;
//!
//! let fake = FakePg::builder()
//!     .auth(Auth::scram("secret"))
//!     .on("SHOW server_version_num", Reply::value("server_version_num", "150004"))
//!     .on("SELECT pg_backup_start(*", Reply::error("55000", "a backup is already in progress"))
//!     .start()
//!     .unwrap();
//! let mut session = Session::connect("127.0.0.1", fake.port(), "barman", "postgres", Some("secret")).unwrap();
//! assert_eq!(session.psql("SHOW server_version_num").unwrap(), "150004");
//! assert_eq!(session.psql("SELECT pg_backup_start('x', true)").unwrap_err().sqlstate(), Some("55000"));
//! ```

mod connection;
mod reply;
mod scram;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub use reply::{CopyEnd, Reply, keepalive, wal_data};

use crate::error::{Error, Result};
use crate::pattern::matches;

/// How a client must prove who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    Trust,
    /// With the password in clear.
    Password(String),
    /// With the salted MD5 hash of the password.
    Md5(String),
    /// With SCRAM-SHA-256.
    Scram(String),
    /// It cannot: FATAL with this SQLSTATE and message.
    Refuse(String, String),
}

impl Auth {
    /// SCRAM-SHA-256 with that password.
    pub fn scram(password: &str) -> Auth {
        Auth::Scram(password.to_owned())
    }

    /// MD5 with that password.
    pub fn md5(password: &str) -> Auth {
        Auth::Md5(password.to_owned())
    }
}

/// A statement that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The number of the connection, from 0.
    pub connection: usize,
    /// The text.
    pub sql: String,
    /// The parameters in text form; empty for the simple protocol.
    pub parameters: Vec<Option<String>>,
}

type Rule = Box<dyn Fn(&Query) -> Option<Reply> + Send + Sync>;

/// How a [`FakePg`] shall behave. Rules are asked in the order in which they were given; the first that answers wins.
#[derive(Default)]
pub struct Builder {
    script: Script,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("rules", &self.script.rules.len()).finish_non_exhaustive()
    }
}

/// What the connections play.
struct Script {
    auth: Auth,
    parameters: Vec<(String, String)>,
    rules: Vec<Rule>,
    expected: Vec<(String, Reply)>,
    cuts: Vec<(usize, u64)>,
    refusals: Vec<(usize, String, String)>,
    abrupt_ends: bool,
}

impl Default for Script {
    fn default() -> Script {
        let parameters = [
            ("server_version", "15.4"),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
        ];
        Script {
            auth: Auth::Trust,
            parameters: parameters.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            rules: Vec::new(),
            expected: Vec::new(),
            cuts: Vec::new(),
            refusals: Vec::new(),
            abrupt_ends: false,
        }
    }
}

impl Builder {
    /// How clients must authenticate (default: trust).
    #[must_use]
    pub fn auth(mut self, auth: Auth) -> Builder {
        self.script.auth = auth;
        self
    }

    /// A parameter that is reported at the start, such as `server_version` (default `15.4`).
    #[must_use]
    pub fn parameter(mut self, key: &str, value: &str) -> Builder {
        self.script.parameters.retain(|(known, _)| known != key);
        self.script.parameters.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Answers every statement that matches, any number of times. In the pattern `*` stands for any text; white space around is ignored.
    #[must_use]
    pub fn on(self, pattern: &str, reply: Reply) -> Builder {
        let pattern = pattern.to_owned();
        self.rule(move |query| matches(&pattern, &query.sql).then(|| reply.clone()))
    }

    /// Answers statements by a function, which may keep state of its own.
    #[must_use]
    pub fn rule(mut self, rule: impl Fn(&Query) -> Option<Reply> + Send + Sync + 'static) -> Builder {
        self.script.rules.push(Box::new(rule));
        self
    }

    /// The next statement that no rule answers must match this one, and comes exactly once. What is left over when the server is
    /// dropped is a deviation.
    #[must_use]
    pub fn expect(mut self, pattern: &str, reply: Reply) -> Builder {
        self.script.expected.push((pattern.to_owned(), reply));
        self
    }

    /// Cuts connection number `connection` (from 0) after the server has sent this many bytes on it.
    #[must_use]
    pub fn cut(mut self, connection: usize, after: u64) -> Builder {
        self.script.cuts.push((connection, after));
        self
    }

    /// Refuses connection number `connection` (from 0) at its start, as a server that is starting up (`57P03`) or full (`53300`).
    #[must_use]
    pub fn refuse(mut self, connection: usize, sqlstate: &str, message: &str) -> Builder {
        self.script.refusals.push((connection, sqlstate.to_owned(), message.to_owned()));
        self
    }

    /// Accepts that a client ends without Terminate. For tests that kill or cancel it.
    #[must_use]
    pub fn allow_abrupt_end(mut self) -> Builder {
        self.script.abrupt_ends = true;
        self
    }

    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(mut self) -> Result<FakePg> {
        let failed = |source| Error::Connection { peer: "127.0.0.1:0".into(), verb: "listen", source };
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let expected = std::mem::take(&mut self.script.expected).into();
        let shared = Arc::new(Shared {
            script: self.script,
            seen: Mutex::new(Seen { expected, ..Seen::default() }),
            closing: AtomicBool::new(false),
        });
        let server = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || accept(&listener, &server));
        Ok(FakePg { port, shared, accepting: Some(accepting) })
    }
}

/// State of the server that its connections share.
struct Shared {
    script: Script,
    seen: Mutex<Seen>,
    closing: AtomicBool,
}

/// What happened so far.
#[derive(Default)]
struct Seen {
    expected: VecDeque<(String, Reply)>,
    queries: Vec<Query>,
    startups: Vec<Vec<(String, String)>>,
    feedback: Vec<Vec<u8>>,
    cancelled: Vec<usize>,
    deviations: Vec<String>,
    streams: Vec<TcpStream>,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deviation(&self, connection: usize, what: impl fmt::Display) {
        self.seen().deviations.push(format!("connection {connection}: {what}"));
    }

    /// The scripted reply to a statement.
    fn reply(&self, query: Query) -> Reply {
        self.seen().queries.push(query.clone());
        if let Some(reply) = self.script.rules.iter().find_map(|rule| rule(&query)) {
            return reply;
        }
        let mut seen = self.seen();
        let next = seen.expected.pop_front();
        let wanted = match next {
            Some((pattern, reply)) if matches(&pattern, &query.sql) => return reply,
            Some((pattern, _)) => format!("{pattern:?}"),
            None => "nothing more".into(),
        };
        let what =
            format!("connection {}: {:?} arrived where the script has {wanted}", query.connection, query.sql);
        seen.deviations.push(what.clone());
        Reply::error("XX000", &what)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut workers = Vec::new();
    for (number, stream) in listener.incoming().enumerate() {
        if shared.closing.load(Ordering::SeqCst) {
            break;
        }
        let Ok(stream) = stream else { continue };
        if let Ok(again) = stream.try_clone() {
            shared.seen().streams.push(again);
        }
        let shared = Arc::clone(shared);
        workers.push(std::thread::spawn(move || connection::serve(stream, number, &shared)));
    }
    for worker in workers {
        let _ = worker.join();
    }
}

/// A running scripted server.
///
/// # Panics
/// Dropping it panics when a client deviated from the protocol or the script (not while the thread is panicking already).
pub struct FakePg {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl fmt::Debug for FakePg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakePg").field("port", &self.port).finish_non_exhaustive()
    }
}

impl FakePg {
    /// A server to be scripted.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection string without a password.
    pub fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=barman dbname=postgres", self.port)
    }

    /// The statements that arrived, of all connections.
    pub fn queries(&self) -> Vec<Query> {
        self.shared.seen().queries.clone()
    }

    /// The parameters of each start of a connection, in order.
    pub fn startups(&self) -> Vec<Vec<(String, String)>> {
        self.shared.seen().startups.clone()
    }

    /// What clients sent as CopyData while a [`Reply::copy_both`] was played: standby status updates.
    pub fn feedback(&self) -> Vec<Vec<u8>> {
        self.shared.seen().feedback.clone()
    }

    /// The connections for which a valid CancelRequest arrived.
    pub fn cancelled(&self) -> Vec<usize> {
        self.shared.seen().cancelled.clone()
    }

    /// The deviations up to now, which are then forgiven. For tests of this server itself.
    pub fn take_deviations(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.seen().deviations)
    }

    /// Ends all connections abruptly, as a crash of the server. New ones are accepted.
    pub fn cut_all(&self) {
        for stream in self.shared.seen().streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn close(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _: io::Result<TcpStream> = TcpStream::connect(("127.0.0.1", self.port));
        self.cut_all();
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Drop for FakePg {
    #[allow(clippy::panic, reason = "an unmet script fails the test")]
    fn drop(&mut self) {
        self.close();
        let mut seen = self.shared.seen();
        let mut deviations = std::mem::take(&mut seen.deviations);
        deviations.extend(seen.expected.iter().map(|(pattern, _)| format!("{pattern:?} never arrived")));
        drop(seen);
        if !deviations.is_empty() && !std::thread::panicking() {
            panic!("the scripted PostgreSQL saw deviations:\n{}", deviations.join("\n"));
        }
    }
}
