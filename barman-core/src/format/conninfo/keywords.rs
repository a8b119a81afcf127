//! The key words of connection strings, those of the past included.

use super::ConnInfoError;

/// Every key word that a libpq from 9.0 to 18 knows. Those of no effect here (GSSAPI, Kerberos, compression,
/// `authtype`, `tty`) are kept so that old connection strings are accepted.
const KEYWORDS: [&str; 55] = [
    "application_name",
    "authtype",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_ca_file",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "options",
    "passfile",
    "password",
    "port",
    "replication",
    "require_auth",
    "requirepeer",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkey",
    "sslkeylogfile",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
    "tty",
    "user",
    "requiressl",
];

/// Whether the value of this key word must not be shown.
pub(super) fn is_secret(keyword: &str) -> bool {
    matches!(
        keyword,
        "password" | "sslpassword" | "oauth_client_secret" | "scram_client_key" | "scram_server_key"
    )
}

/// The key word as it is kept, and its value. `requiressl` (before 7.4) is spelled as `sslmode`.
pub(super) fn canonical(keyword: &str, value: String) -> Result<(&'static str, String), ConnInfoError> {
    if value.contains('\0') {
        return Err(ConnInfoError::Value {
            keyword: keyword.to_owned(),
            reason: "it contains a zero byte".to_owned(),
        });
    }
    if keyword == "requiressl" {
        let mode = if value.starts_with('1') { "require" } else { "prefer" };
        return Ok(("sslmode", mode.to_owned()));
    }
    KEYWORDS
        .iter()
        .find(|known| **known == keyword)
        .map(|known| (*known, value))
        .ok_or_else(|| ConnInfoError::UnknownKeyword { keyword: keyword.to_owned() })
}
