//! Connecting and logging in with libssh2: host keys by the rules of OpenSSH's known_hosts, keys from an agent and
//! from files.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use camino::{Utf8Path, Utf8PathBuf};
use ssh2::{CheckResult, KnownHostFileKind, MethodType, Session};

use super::{Family, NewHosts, SshTarget, TransportError};

/// What the `ssh` program would read from its environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshEnvironment {
    /// The name of the local user, who is logged in as where the command names nobody.
    pub user: Option<String>,
    /// The home directory, with `.ssh` in it.
    pub home: Option<Utf8PathBuf>,
    /// The socket of an agent (`SSH_AUTH_SOCK`).
    pub agent: Option<Utf8PathBuf>,
    /// Directories in which programs are looked for (`PATH`, split).
    pub path: Vec<Utf8PathBuf>,
    /// Where the socket of a connection that several commands share may lie, in a private directory of its own: a short path,
    /// such as `/tmp`. Without it every command of the `ssh` program makes a connection.
    pub runtime: Option<Utf8PathBuf>,
}

impl SshEnvironment {
    fn expand(&self, path: &Utf8Path) -> Utf8PathBuf {
        match (path.as_str().strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => path.to_owned(),
        }
    }

    fn dot_ssh(&self, names: &[&str]) -> Vec<Utf8PathBuf> {
        let home = self.home.iter();
        home.flat_map(|home| names.iter().map(move |name| home.join(".ssh").join(name))).collect()
    }
}

/// Opens a session that is logged in.
pub(super) fn connect(
    name: &str,
    target: &SshTarget,
    environment: &SshEnvironment,
) -> Result<(Session, TcpStream), TransportError> {
    let stream = dial(name, target)?;
    let unreachable = |e: &dyn std::fmt::Display| unreachable(name, e);
    let mut session = Session::new().map_err(|e| unreachable(&e))?;
    let timeout = u32::try_from(target.connect_timeout.as_millis()).unwrap_or(u32::MAX);
    session.set_timeout(timeout);
    session.set_tcp_stream(stream.try_clone().map_err(|e| unreachable(&e))?);
    let files = known_hosts_files(target, environment);
    prefer_known_keys(&session, target, &files);
    session.handshake().map_err(|e| unreachable(&e))?;
    check_host_key(name, &session, target, &files)?;
    log_in(name, &session, target, environment)?;
    session.set_timeout(0);
    Ok((session, stream))
}

fn unreachable(name: &str, reason: &dyn std::fmt::Display) -> TransportError {
    TransportError::Unreachable { target: name.to_owned(), reason: reason.to_string() }
}

fn dial(name: &str, target: &SshTarget) -> Result<TcpStream, TransportError> {
    let resolved =
        (target.host.as_str(), target.port).to_socket_addrs().map_err(|e| unreachable(name, &e))?;
    let fits = |address: &SocketAddr| match target.family {
        Some(Family::V4) => address.is_ipv4(),
        Some(Family::V6) => address.is_ipv6(),
        None => true,
    };
    let mut last = unreachable(name, &"the name has no address of the family that is wanted");
    for address in resolved.filter(fits) {
        match TcpStream::connect_timeout(&address, target.connect_timeout) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(|e| unreachable(name, &e))?;
                return Ok(stream);
            }
            Err(e) => last = unreachable(name, &format!("{address}: {e}")),
        }
    }
    Err(last)
}

fn known_hosts_files(target: &SshTarget, environment: &SshEnvironment) -> Vec<Utf8PathBuf> {
    if !target.known_hosts.is_empty() {
        return target.known_hosts.iter().map(|file| environment.expand(file)).collect();
    }
    let mut files = environment.dot_ssh(&["known_hosts", "known_hosts2"]);
    files.push("/etc/ssh/ssh_known_hosts".into());
    files
}

/// The name of a host in known_hosts.
fn known_name(target: &SshTarget) -> String {
    match target.port {
        22 => target.host.clone(),
        port => format!("[{}]:{port}", target.host),
    }
}

/// Asks for a host key of a type that is known, as OpenSSH does: another type would look like a new host.
fn prefer_known_keys(session: &Session, target: &SshTarget, files: &[Utf8PathBuf]) {
    let name = known_name(target);
    let texts: Vec<String> = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let types: Vec<&str> = texts
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let names = words.next()?;
            names.split(',').any(|known| known == name).then(|| words.next()).flatten()
        })
        .collect();
    let Some(first) = types.first() else { return };
    let all = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"];
    let is_known = |kind: &str| types.contains(&kind);
    let rsa = ["rsa-sha2-512", "rsa-sha2-256"];
    let mut order: Vec<&str> = all.into_iter().filter(|kind| is_known(kind)).collect();
    if *first == "ssh-rsa" || is_known("ssh-rsa") {
        order.extend(rsa);
    }
    order.extend(all.into_iter().filter(|kind| !is_known(kind)));
    if !is_known("ssh-rsa") {
        order.extend(rsa);
    }
    // An order that libssh2 does not take leaves its own, which is as safe.
    let _ = session.method_pref(MethodType::HostKey, &order.join(","));
}

fn check_host_key(
    name: &str,
    session: &Session,
    target: &SshTarget,
    files: &[Utf8PathBuf],
) -> Result<(), TransportError> {
    let refuse = |reason: String| TransportError::HostKey { target: name.to_owned(), reason };
    let (key, _) = session.host_key().ok_or_else(|| refuse("the host sent no key".into()))?;
    let mut known = session.known_hosts().map_err(|e| unreachable(name, &e))?;
    for file in files.iter().filter(|file| file.exists()) {
        let read = known.read_file(file.as_std_path(), KnownHostFileKind::OpenSSH);
        read.map_err(|e| refuse(format!("{file} cannot be read: {e}")))?;
    }
    let print =
        session.host_key_hash(ssh2::HashType::Sha256).map(|hash| STANDARD.encode(hash)).unwrap_or_default();
    let print = format!("SHA256:{}", print.trim_end_matches('='));
    let places = files.iter().map(|file| file.as_str()).collect::<Vec<_>>().join(", ");
    match known.check_port(&target.host, target.port, key) {
        CheckResult::Match => Ok(()),
        CheckResult::Mismatch => Err(refuse(format!("it sent {print}, another one stands in {places}"))),
        CheckResult::Failure => {
            Err(refuse(format!("it sent {print}, which cannot be compared with {places}")))
        }
        CheckResult::NotFound if target.new_hosts == NewHosts::Refuse => {
            Err(refuse(format!("it sent {print}, and none is known in {places} (StrictHostKeyChecking)")))
        }
        CheckResult::NotFound => note_host_key(target, key, files)
            .map_err(|e| refuse(format!("its new key {print} cannot be noted in {places}: {e}"))),
    }
}

/// Appends the key to the first file. An unreadable type is not noted, so that the host stays a new one.
fn note_host_key(target: &SshTarget, key: &[u8], files: &[Utf8PathBuf]) -> std::io::Result<()> {
    let Some(file) = files.first().filter(|file| *file != "/dev/null") else { return Ok(()) };
    // A key begins with the length and the name of its type (RFC 4253 6.6).
    let kind = key.get(4..).and_then(|rest| {
        let length = key.first_chunk::<4>().map(|n| u32::from_be_bytes(*n))?;
        std::str::from_utf8(rest.get(..usize::try_from(length).ok()?)?).ok()
    });
    let Some(kind) = kind else { return Ok(()) };
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut known_hosts = OpenOptions::new().append(true).create(true).open(file)?;
    let line = format!("{} {kind} {}\n", known_name(target), STANDARD.encode(key));
    known_hosts.write_all(line.as_bytes())?;
    known_hosts.sync_all()
}

fn log_in(
    name: &str,
    session: &Session,
    target: &SshTarget,
    environment: &SshEnvironment,
) -> Result<(), TransportError> {
    let denied = |reason: String| TransportError::Denied { target: name.to_owned(), reason };
    let user = target.user.as_deref().or(environment.user.as_deref());
    let user =
        user.ok_or_else(|| denied("the command names no user, and the local one is not known".into()))?;
    let mut tried = Vec::new();
    let mut files: Vec<Utf8PathBuf> = target.identities.iter().map(|file| environment.expand(file)).collect();
    let explicit = !files.is_empty();
    if !explicit {
        files = environment.dot_ssh(&["id_ed25519", "id_ecdsa", "id_rsa"]);
        files.retain(|file| file.exists());
    }
    for file in &files {
        match session.userauth_pubkey_file(user, None, file.as_std_path(), None) {
            Ok(()) => return Ok(()),
            Err(e) => tried.push(format!("{file}: {}", e.message())),
        }
    }
    if !(target.identities_only && explicit)
        && let Some(socket) = &environment.agent
    {
        match by_agent(session, user, socket) {
            Ok(true) => return Ok(()),
            Ok(false) => tried.push("the agent has no key that is accepted".into()),
            Err(e) => tried.push(format!("the agent: {}", e.message())),
        }
    }
    if tried.is_empty() {
        tried.push("there is no key to log in with".into());
    }
    Err(denied(tried.join("; ")))
}

fn by_agent(session: &Session, user: &str, socket: &Utf8Path) -> Result<bool, ssh2::Error> {
    let mut agent = session.agent()?;
    agent.set_identity_path(socket.as_std_path())?;
    agent.connect()?;
    agent.list_identities()?;
    Ok(agent.identities()?.iter().any(|identity| agent.userauth(user, identity).is_ok()))
}
