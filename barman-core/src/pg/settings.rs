//! [`Settings`]: what a connection string, the environment and the files they name come to, as libpq resolves them:
//! the string first, then the service, then the environment, then defaults.

use std::io;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use super::environment::Environment;
use super::error::PgError;
use crate::format::conninfo::ConnInfo;
use crate::format::pgpass::{PasswordKey, find_password};
use crate::format::service::find_service;
use crate::model::Secret;

/// Which variable stands for which key word. Source: the documentation's section "Environment Variables" of libpq.
const VARIABLES: [(&str, &str); 37] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGOPTIONS", "options"),
    ("PGAPPNAME", "application_name"),
    ("PGSSLMODE", "sslmode"),
    ("PGREQUIRESSL", "requiressl"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGSSLCOMPRESSION", "sslcompression"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLSNI", "sslsni"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGKRBSRVNAME", "krbsrvname"),
    ("PGGSSLIB", "gsslib"),
    ("PGGSSDELEGATION", "gssdelegation"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGCLIENTENCODING", "client_encoding"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
    ("PGMINPROTOCOLVERSION", "min_protocol_version"),
    ("PGMAXPROTOCOLVERSION", "max_protocol_version"),
    ("PGSERVICEFILE", "servicefile"),
    ("PGSERVICE", "service"),
];

/// One entry of the list of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// A name, an address, or (beginning with `/` or `@`) a socket directory.
    pub(super) name: Option<String>,
    /// An address that saves looking the name up.
    pub(super) address: Option<String>,
    pub(super) port: u16,
    pub(super) password: Option<Secret>,
}

impl Host {
    /// The directory of a Unix socket, if that is what the host is.
    pub(super) fn socket_directory(&self) -> Option<&str> {
        match (&self.address, &self.name) {
            (None, Some(name)) if name.starts_with(['/', '@']) => Some(name),
            _ => None,
        }
    }
}

/// Which servers of a list will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// Everything that connecting needs.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) info: ConnInfo,
    pub(super) hosts: Vec<Host>,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) replication: bool,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) wanted: Wanted,
    pub(super) home: Option<Utf8PathBuf>,
    pub(super) warnings: Vec<String>,
}

impl Settings {
    /// Resolves a connection string.
    pub(super) fn resolve(info: &ConnInfo, environment: &Environment) -> Result<Self, PgError> {
        let info = merge(info, environment)?;
        let mut warnings = Vec::new();
        let user = match given(&info, "user").or(environment.user()) {
            Some(user) => user.to_owned(),
            None => {
                return Err(PgError::settings("no PostgreSQL user name specified in the connection string"));
            }
        };
        let replication = match given(&info, "replication") {
            Some("true" | "on" | "yes" | "1") => true,
            None | Some("false" | "off" | "no" | "0") => false,
            Some(other) => {
                return Err(PgError::settings(format!(
                    "invalid replication value: \"{other}\" (only physical)"
                )));
            }
        };
        let database = given(&info, "dbname").unwrap_or(&user).to_owned();
        let mut hosts = hosts(&info, &default_socket_directory())?;
        let explicit = info.password().filter(|p| !p.expose().is_empty()).cloned();
        let passwords = match &explicit {
            Some(_) => None,
            None => password_file(&info, environment, &mut warnings),
        };
        let searched = if replication { "replication" } else { &database };
        for host in &mut hosts {
            host.password = explicit.clone().or_else(|| {
                let name = host.name.as_deref().or(host.address.as_deref());
                let socket = default_socket_directory();
                let port = host.port.to_string();
                let key = PasswordKey {
                    host: PasswordKey::for_host(name, &socket),
                    port: &port,
                    database: searched,
                    user: &user,
                };
                find_password(passwords.as_deref()?, &key)
            });
        }
        let connect_timeout = connect_timeout(&info)?;
        let wanted = wanted(&info)?;
        let home = environment.home().map(Utf8Path::to_owned);
        Ok(Self { hosts, user, database, replication, connect_timeout, wanted, home, warnings, info })
    }

    /// A setting that is there and not empty.
    pub(super) fn get(&self, keyword: &str) -> Option<&str> {
        given(&self.info, keyword)
    }

    /// A setting that is one of a few words; the first is the default.
    pub(super) fn choice<'a>(&self, keyword: &str, words: &[&'a str]) -> Result<&'a str, PgError> {
        let default = words.first().copied().unwrap_or_default();
        let Some(value) = self.get(keyword) else { return Ok(default) };
        words
            .iter()
            .find(|word| **word == value)
            .copied()
            .ok_or_else(|| PgError::settings(format!("invalid {keyword} value: \"{value}\"")))
    }

    /// A setting that is a number; nothing and negative numbers are 0, the default.
    pub(super) fn count(&self, keyword: &str) -> Result<u32, PgError> {
        let Some(text) = self.get(keyword) else { return Ok(0) };
        let number: i32 = text.trim().parse().map_err(|_| {
            PgError::settings(format!("invalid integer value \"{text}\" for connection option \"{keyword}\""))
        })?;
        Ok(u32::try_from(number).unwrap_or(0))
    }

    /// A file in `~/.postgresql`, where libpq looks for certificates.
    pub(super) fn home_file(&self, name: &str) -> Option<Utf8PathBuf> {
        self.home.as_ref().map(|home| home.join(".postgresql").join(name))
    }
}

fn given<'a>(info: &'a ConnInfo, keyword: &str) -> Option<&'a str> {
    info.get(keyword).filter(|value| !value.is_empty())
}

/// The connection string completed from the service file and the environment.
fn merge(info: &ConnInfo, environment: &Environment) -> Result<ConnInfo, PgError> {
    let mut merged = info.clone();
    let service = given(info, "service").or_else(|| environment.variable("PGSERVICE")).map(str::to_owned);
    if let Some(name) = service {
        let found = service_settings(&name, info, environment)?;
        for keyword in found.keywords().filter(|keyword| !info.contains(keyword)) {
            let value = found.get(keyword).or_else(|| found.secret(keyword).map(Secret::expose));
            merged.set(keyword, value.unwrap_or_default())?;
        }
    }
    for (variable, keyword) in VARIABLES {
        // PGREQUIRESSL is the old spelling of PGSSLMODE and counts only without it.
        let target = if keyword == "requiressl" { "sslmode" } else { keyword };
        if let Some(value) = environment.variable(variable).filter(|_| !merged.contains(target)) {
            merged.set(keyword, value)?;
        }
    }
    Ok(merged)
}

fn service_settings(name: &str, info: &ConnInfo, environment: &Environment) -> Result<ConnInfo, PgError> {
    let own = given(info, "servicefile")
        .or_else(|| environment.variable("PGSERVICEFILE"))
        .map(Utf8PathBuf::from)
        .or_else(|| environment.home().map(|home| home.join(".pg_service.conf")));
    let system = match environment.variable("PGSYSCONFDIR") {
        Some(directory) => vec![Utf8PathBuf::from(directory)],
        None => vec!["/etc/postgresql-common".into(), "/usr/local/pgsql/etc".into()],
    };
    let system = system.into_iter().map(|directory| directory.join("pg_service.conf"));
    for path in own.into_iter().chain(system) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(PgError::File { path, source }),
        };
        let found = find_service(&text, name).map_err(|e| PgError::settings(format!("{e} (\"{path}\")")))?;
        if let Some(found) = found {
            return Ok(found);
        }
    }
    Err(PgError::settings(format!("definition of service \"{name}\" not found")))
}

/// Debian's default where its directory is there, else PostgreSQL's own.
pub(super) fn default_socket_directory() -> String {
    const DEBIAN: &str = "/var/run/postgresql";
    let directory = if std::path::Path::new(DEBIAN).is_dir() { DEBIAN } else { "/tmp" };
    directory.to_owned()
}

/// The text of the password file, or `None` with a warning where libpq would ignore it.
fn password_file(info: &ConnInfo, environment: &Environment, warnings: &mut Vec<String>) -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    let path = given(info, "passfile")
        .map(Utf8PathBuf::from)
        .or_else(|| environment.home().map(|home| home.join(".pgpass")))?;
    let metadata = std::fs::metadata(&path).ok()?;
    if !metadata.is_file() {
        warnings.push(format!("WARNING: password file \"{path}\" is not a plain file"));
        return None;
    }
    if metadata.mode() & 0o077 != 0 {
        warnings.push(format!(
            "WARNING: password file \"{path}\" has group or world access; permissions should be u=rw (0600) or less"
        ));
        return None;
    }
    match std::fs::read(&path) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            warnings.push(format!("WARNING: password file \"{path}\" cannot be read: {error}"));
            None
        }
    }
}

/// The list of servers from `host`, `hostaddr` and `port`.
fn hosts(info: &ConnInfo, default_directory: &str) -> Result<Vec<Host>, PgError> {
    let list = |keyword: &str| -> Vec<String> {
        given(info, keyword)
            .map(|text| text.split(',').map(|s| s.trim().to_owned()).collect())
            .unwrap_or_default()
    };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(PgError::settings(format!(
            "could not match {} host names to {} hostaddr values",
            names.len(),
            addresses.len()
        )));
    }
    let count = names.len().max(addresses.len()).max(1);
    if ports.len() > 1 && ports.len() != count {
        return Err(PgError::settings(format!(
            "could not match {} port numbers to {count} hosts",
            ports.len()
        )));
    }
    let item = |list: &[String], index: usize| list.get(index).filter(|text| !text.is_empty()).cloned();
    (0..count)
        .map(|index| {
            let address = item(&addresses, index);
            let name =
                item(&names, index).or_else(|| address.is_none().then(|| default_directory.to_owned()));
            let port = item(&ports, if ports.len() == 1 { 0 } else { index });
            let port = match port {
                None => 5432,
                Some(text) => text
                    .parse::<u16>()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| PgError::settings(format!("invalid port number: \"{text}\"")))?,
            };
            Ok(Host { name, address, port, password: None })
        })
        .collect()
}

/// Seconds; 0, negative or nothing is no limit, and 1 counts as 2, as in libpq.
fn connect_timeout(info: &ConnInfo) -> Result<Option<Duration>, PgError> {
    let Some(text) = given(info, "connect_timeout") else { return Ok(None) };
    let seconds: i64 = text.trim().parse().map_err(|_| {
        PgError::settings(format!(
            "invalid integer value \"{text}\" for connection option \"connect_timeout\""
        ))
    })?;
    Ok(u64::try_from(seconds).ok().filter(|s| *s > 0).map(|s| Duration::from_secs(s.max(2))))
}

fn wanted(info: &ConnInfo) -> Result<Wanted, PgError> {
    Ok(match given(info, "target_session_attrs") {
        None | Some("any") => Wanted::Any,
        Some("read-write") => Wanted::ReadWrite,
        Some("read-only") => Wanted::ReadOnly,
        Some("primary") => Wanted::Primary,
        Some("standby") => Wanted::Standby,
        Some("prefer-standby") => Wanted::PreferStandby,
        Some(other) => {
            return Err(PgError::settings(format!("invalid target_session_attrs value: \"{other}\"")));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str, variables: &[(&str, &str)]) -> Result<Settings, PgError> {
        let environment = Environment::new(variables.iter().copied()).with_user("os_user");
        Settings::resolve(&ConnInfo::parse(text).unwrap(), &environment)
    }

    #[test]
    fn the_string_wins_over_the_environment() {
        let settings =
            resolve("host=a user=u", &[("PGHOST", "b"), ("PGPORT", "7"), ("PGUSER", "v")]).unwrap();
        assert_eq!(settings.hosts[0].name.as_deref(), Some("a"));
        assert_eq!(
            (settings.hosts[0].port, settings.user.as_str(), settings.database.as_str()),
            (7, "u", "u")
        );
        assert_eq!(resolve("", &[]).unwrap().user, "os_user");
    }

    #[test]
    fn several_hosts() {
        let settings = resolve("host=a,/tmp,c hostaddr=1.2.3.4,,5.6.7.8 port=1,,3", &[]).unwrap();
        let seen: Vec<_> =
            settings.hosts.iter().map(|h| (h.name.as_deref(), h.address.as_deref(), h.port)).collect();
        assert_eq!(
            seen,
            [(Some("a"), Some("1.2.3.4"), 1), (Some("/tmp"), None, 5432), (Some("c"), Some("5.6.7.8"), 3)]
        );
        assert_eq!(settings.hosts[1].socket_directory(), Some("/tmp"));
        assert_eq!(resolve("host=a,b port=9", &[]).unwrap().hosts[1].port, 9);
    }

    #[test]
    fn refusals() {
        for (text, expected) in [
            ("host=a,b port=1,2,3", "could not match 3 port numbers to 2 hosts"),
            ("host=a,b hostaddr=1.1.1.1", "could not match 2 host names to 1 hostaddr values"),
            ("port=x", "invalid port number: \"x\""),
            ("port=0", "invalid port number: \"0\""),
            ("connect_timeout=x", "invalid integer value \"x\" for connection option \"connect_timeout\""),
            ("target_session_attrs=x", "invalid target_session_attrs value: \"x\""),
            ("replication=database", "invalid replication value: \"database\" (only physical)"),
        ] {
            assert_eq!(resolve(text, &[]).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn timeouts_are_at_least_two_seconds() {
        for (text, seconds) in [("", None), ("connect_timeout=0", None), ("connect_timeout=-1", None)] {
            assert_eq!(resolve(text, &[]).unwrap().connect_timeout.map(|d| d.as_secs()), seconds);
        }
        assert_eq!(resolve("connect_timeout=1", &[]).unwrap().connect_timeout, Some(Duration::from_secs(2)));
        assert_eq!(resolve("", &[("PGCONNECT_TIMEOUT", "9")]).unwrap().connect_timeout.unwrap().as_secs(), 9);
    }
}
