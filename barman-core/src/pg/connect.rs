//! Finding a server that answers: names, addresses, sockets, several hosts, with and without TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postgres_protocol::message::frontend;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::auth::Credentials;
use super::environment::Environment;
use super::error::PgError;
use super::settings::{Host, Settings, Wanted};
use super::socket::Socket;
use super::tls::{self, Tls};
use super::wire::Connection;
use crate::format::conninfo::ConnInfo;

/// Where one attempt goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Tcp(SocketAddr),
    Unix(String),
}

impl Connection {
    /// Connects as libpq would: each host in turn, each of its addresses, with TLS as `sslmode` says.
    ///
    /// # Errors
    /// The reason, or [`PgError::NoServer`] with all of them when several servers were tried.
    pub async fn connect(info: &ConnInfo, environment: &Environment) -> Result<Self, PgError> {
        let settings = Settings::resolve(info, environment)?;
        let tls = Tls::new(&settings)?;
        // Wrong words are told before anyone is asked anything.
        Credentials::new(&settings, None, None)?;
        for keyword in ["keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"] {
            settings.count(keyword)?;
        }
        let mut connection = any_host(&settings, &tls).await?;
        connection.warnings.clone_from(&settings.warnings);
        Ok(connection)
    }

    /// Asks the server to stop what this connection is doing, over a connection of its own. Best effort.
    pub(super) async fn request_cancel(&self) -> io::Result<()> {
        let Some((process, secret)) = self.key else { return Ok(()) };
        let mut message = bytes::BytesMut::new();
        frontend::cancel_request(process, secret, &mut message);
        match self.socket() {
            Socket::Tcp(stream) => TcpStream::connect(stream.peer_addr()?).await?.write_all(&message).await,
            Socket::Tls(stream) => {
                let peer = stream.get_ref().0.peer_addr()?;
                TcpStream::connect(peer).await?.write_all(&message).await
            }
            Socket::Unix(stream) => match stream.peer_addr()?.as_pathname() {
                Some(path) => UnixStream::connect(path).await?.write_all(&message).await,
                None => Ok(()),
            },
        }
    }
}

async fn any_host(settings: &Settings, tls: &Tls<'_>) -> Result<Connection, PgError> {
    let mut errors = Vec::new();
    let passes: &[Wanted] = match settings.wanted {
        Wanted::PreferStandby => &[Wanted::Standby, Wanted::Any],
        ref other => std::slice::from_ref(other),
    };
    for wanted in passes {
        errors.clear();
        for host in &ordered(settings)? {
            let addresses = match addresses(settings, host).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            };
            for address in &addresses {
                match suitable(settings, tls, host, address, *wanted).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) if error.allows_next_host() => errors.push(error),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    if errors.len() == 1 {
        errors.pop().map_or_else(|| Err(PgError::settings("no host to connect to")), Err)
    } else {
        Err(PgError::NoServer(errors))
    }
}

/// The hosts in the order to try: as given, or shuffled for `load_balance_hosts=random`.
fn ordered(settings: &Settings) -> Result<Vec<Host>, PgError> {
    use std::hash::{BuildHasher, RandomState};

    let mut hosts = settings.hosts.clone();
    if settings.choice("load_balance_hosts", &["disable", "random"])? == "random" {
        let random = RandomState::new();
        hosts.sort_by_key(|host| random.hash_one((&host.name, &host.address, host.port)));
    }
    Ok(hosts)
}

async fn addresses(settings: &Settings, host: &Host) -> Result<Vec<Address>, PgError> {
    if let Some(directory) = host.socket_directory() {
        return Ok(vec![Address::Unix(format!("{directory}/.s.PGSQL.{}", host.port))]);
    }
    let literal = host.address.as_deref().or(host.name.as_deref()).unwrap_or_default();
    if let Ok(ip) = literal.parse::<IpAddr>() {
        return Ok(vec![Address::Tcp(SocketAddr::new(ip, host.port))]);
    }
    if host.address.is_some() {
        return Err(PgError::settings(format!("could not parse network address \"{literal}\"")));
    }
    let endpoint = format!("server at \"{literal}\", port {}", host.port);
    let failed = |e: io::Error| PgError::unreachable(&endpoint, &e);
    let lookup = async { tokio::net::lookup_host((literal, host.port)).await.map_err(failed) };
    let found: Vec<Address> = within(settings, &endpoint, lookup).await?.map(Address::Tcp).collect();
    if found.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the host name has no address")));
    }
    Ok(found)
}

/// The server as libpq words it.
fn endpoint(host: &Host, address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("server on socket \"{path}\""),
        Address::Tcp(address) => match &host.name {
            Some(name) if *name != address.ip().to_string() => {
                format!("server at \"{name}\" ({}), port {}", address.ip(), address.port())
            }
            _ => format!("server at \"{}\", port {}", address.ip(), address.port()),
        },
    }
}

async fn suitable(
    settings: &Settings,
    tls: &Tls<'_>,
    host: &Host,
    address: &Address,
    wanted: Wanted,
) -> Result<Connection, PgError> {
    let encrypted = matches!(address, Address::Tcp(_));
    let attempts = if encrypted { tls.attempts() } else { &[false][..] };
    let mut first: Option<PgError> = None;
    for &with_tls in attempts {
        // Whether this attempt is encrypted: the server may have no TLS, and then a second one would be the same again.
        let mut encrypted = with_tls;
        let attempt = attempt(settings, tls, host, address, &mut encrypted, wanted);
        let result = within(settings, &endpoint(host, address), attempt).await;
        match result {
            Ok(connection) => return Ok(connection),
            // Nobody there: the other way of asking will not help.
            Err(
                error @ (PgError::Unreachable { .. } | PgError::Timeout { .. } | PgError::WrongKind { .. }),
            ) => {
                return Err(first.unwrap_or(error));
            }
            Err(error) => first = Some(more_telling(first, error)),
        }
        if encrypted != with_tls {
            break;
        }
    }
    Err(first.unwrap_or_else(|| PgError::settings("no way to connect is left")))
}

/// Bounds one attempt by `connect_timeout`.
async fn within<T>(
    settings: &Settings,
    endpoint: &str,
    work: impl Future<Output = Result<T, PgError>>,
) -> Result<T, PgError> {
    let Some(limit) = settings.connect_timeout else { return work.await };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(PgError::Timeout { what: format!("connecting to {endpoint}"), seconds: limit.as_secs() })
    })
}

/// Of two refusals (with and without TLS) the one that got further: "no pg_hba.conf entry" says least.
fn more_telling(first: Option<PgError>, second: PgError) -> PgError {
    match first {
        Some(first) if first.sqlstate() != Some("28000") || matches!(second, PgError::Tls { .. }) => first,
        _ => second,
    }
}

async fn attempt(
    settings: &Settings,
    tls: &Tls<'_>,
    host: &Host,
    address: &Address,
    encrypted: &mut bool,
    wanted: Wanted,
) -> Result<Connection, PgError> {
    let endpoint = endpoint(host, address);
    let unreachable = |e: io::Error| PgError::unreachable(&endpoint, &e);
    let (socket, end_point) = match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(socket_path(path)).await.map_err(unreachable)?;
            check_peer(settings, &stream, &endpoint)?;
            (Socket::Unix(stream), None)
        }
        Address::Tcp(address) => {
            let stream = tcp(settings, *address).await.map_err(unreachable)?;
            if *encrypted {
                tls.negotiate(stream, host, &endpoint).await?
            } else {
                (Socket::Tcp(stream), None)
            }
        }
    };
    *encrypted = matches!(socket, Socket::Tls(_));
    let mut connection = Connection::new(socket, endpoint.clone());
    let credentials = Credentials::new(settings, host.password.as_ref(), end_point)?;
    connection.start(settings, &credentials).await.map_err(|error| match error {
        // With TLS 1.3 the server judges our certificate after the handshake, and says so by an alert.
        PgError::Lost { source: Some(source) }
            if source.get_ref().is_some_and(|e| e.is::<rustls::Error>()) =>
        {
            PgError::Tls { endpoint: endpoint.clone(), reason: tls::reason(&source) }
        }
        PgError::Lost { source: Some(source) } => PgError::unreachable(&endpoint, &source),
        PgError::Lost { source: None } => PgError::Unreachable {
            endpoint: endpoint.clone(),
            reason: "server closed the connection unexpectedly".to_owned(),
            kind: io::ErrorKind::UnexpectedEof,
        },
        other => other,
    })?;
    check_kind(&mut connection, wanted).await?;
    Ok(connection)
}

/// `@name` is the abstract socket `name`: a zero byte stands before it.
fn socket_path(path: &str) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStringExt;

    let mut bytes = path.as_bytes().to_vec();
    if let Some(first) = bytes.first_mut().filter(|b| **b == b'@') {
        *first = 0;
    }
    std::ffi::OsString::from_vec(bytes).into()
}

async fn tcp(settings: &Settings, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if settings.get("keepalives") != Some("0") {
        keep_alive(settings, &socket)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The keep-alive probes of the system, so that a dead peer is noticed. 0 leaves the system's default.
fn keep_alive(settings: &Settings, socket: &TcpSocket) -> io::Result<()> {
    use rustix::net::sockopt;

    sockopt::set_socket_keepalive(socket, true)?;
    let given = |keyword| settings.count(keyword).ok().filter(|count| *count > 0);
    if let Some(seconds) = given("keepalives_idle") {
        sockopt::set_tcp_keepidle(socket, Duration::from_secs(seconds.into()))?;
    }
    if let Some(seconds) = given("keepalives_interval") {
        sockopt::set_tcp_keepintvl(socket, Duration::from_secs(seconds.into()))?;
    }
    if let Some(probes) = given("keepalives_count") {
        sockopt::set_tcp_keepcnt(socket, probes)?;
    }
    if let Some(milliseconds) = given("tcp_user_timeout") {
        sockopt::set_tcp_user_timeout(socket, milliseconds)?;
    }
    Ok(())
}

/// `requirepeer`: the server behind a socket must run as that user.
fn check_peer(settings: &Settings, stream: &UnixStream, endpoint: &str) -> Result<(), PgError> {
    let Some(required) = settings.get("requirepeer") else { return Ok(()) };
    let name = stream.peer_cred().ok().and_then(|peer| uzers::get_user_by_uid(peer.uid()));
    match name.as_ref().and_then(|user| user.name().to_str()) {
        Some(actual) if actual == required => Ok(()),
        actual => Err(PgError::Auth {
            endpoint: endpoint.to_owned(),
            reason: format!(
                "requirepeer specifies \"{required}\", but actual peer user name is \"{}\"",
                actual.unwrap_or("unknown")
            ),
            server: None,
        }),
    }
}

/// `target_session_attrs`.
async fn check_kind(connection: &mut Connection, wanted: Wanted) -> Result<(), PgError> {
    let (sql, wanted_value, reason) = match wanted {
        Wanted::Any | Wanted::PreferStandby => return Ok(()),
        Wanted::ReadWrite => ("SHOW transaction_read_only", "off", "session is read-only"),
        Wanted::ReadOnly => ("SHOW transaction_read_only", "on", "session is not read-only"),
        Wanted::Primary => ("SELECT pg_catalog.pg_is_in_recovery()", "f", "server is in hot standby mode"),
        Wanted::Standby => {
            ("SELECT pg_catalog.pg_is_in_recovery()", "t", "server is not in hot standby mode")
        }
    };
    let answers = connection.query(sql).await?;
    let value = answers.first().map(|answer| answer.scalar()).transpose()?.flatten();
    if value == Some(wanted_value) {
        return Ok(());
    }
    Err(PgError::WrongKind { endpoint: connection.endpoint().to_owned(), reason: reason.to_owned() })
}
