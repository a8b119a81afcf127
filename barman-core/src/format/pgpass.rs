//! Password files (`~/.pgpass`): which line holds the password of a connection. Text in, a secret out; reading the file
//! and judging its permissions is the business of room `pg`.
//!
//! Source: PostgreSQL's documentation, chapter "libpq", section "The Password File".

use crate::model::Secret;

/// What a line of a password file is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordKey<'a> {
    /// The host name as given, or `hostaddr` when there is no name. A default socket directory counts as `localhost`:
    /// use [`PasswordKey::for_host`].
    pub host: &'a str,
    /// The port as text.
    pub port: &'a str,
    /// The database; `replication` for a physical replication connection.
    pub database: &'a str,
    /// The role.
    pub user: &'a str,
}

impl<'a> PasswordKey<'a> {
    /// The host to look for: `localhost` when none was given or when it is the default socket directory.
    pub fn for_host(host: Option<&'a str>, default_socket_directory: &str) -> &'a str {
        match host {
            None | Some("") => "localhost",
            Some(host) if host == default_socket_directory => "localhost",
            Some(host) => host,
        }
    }
}

/// The password on the first line that fits, or `None`. An empty password on that line counts as none at all, as in
/// libpq, and no later line is tried.
pub fn find_password(text: &str, key: &PasswordKey<'_>) -> Option<Secret> {
    let password = text
        .lines()
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .find_map(|line| {
            let rest = field(line, key.host)?;
            let rest = field(rest, key.port)?;
            let rest = field(rest, key.database)?;
            field(rest, key.user)
        })?;
    // Only now are escapes taken out; an unescaped colon ends the password, as a field for later use.
    let mut plain = String::new();
    let mut chars = password.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' => break,
            '\\' => plain.push(chars.next().unwrap_or('\\')),
            c => plain.push(c),
        }
    }
    (!plain.is_empty()).then(|| Secret::new(plain))
}

/// What follows the first field of `line` when that field is `*` or equals `wanted`.
fn field<'l>(line: &'l str, wanted: &str) -> Option<&'l str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut wanted = wanted.chars();
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        let c = match c {
            ':' => return wanted.next().is_none().then(|| &line[at + 1..]),
            '\\' => chars.next()?.1,
            c => c,
        };
        if wanted.next() != Some(c) {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: PasswordKey<'_> =
        PasswordKey { host: "db", port: "5432", database: "postgres", user: "barman" };

    #[test]
    fn matching() {
        for (text, expected) in [
            ("db:5432:postgres:barman:secret", Some("secret")),
            ("db:5432:postgres:barman:secret\r\n", Some("secret")),
            ("*:*:*:*:any", Some("any")),
            ("# db:5432:postgres:barman:no\n\n*:*:*:barman:yes", Some("yes")),
            ("db:5433:postgres:barman:no\ndb:5432:postgres:barman:yes", Some("yes")),
            ("db:5432:postgres:barman:first\ndb:5432:postgres:barman:second", Some("first")),
            (r"d\b:5432:postgres:barman:a\:b\\c", Some(r"a:b\c")),
            ("dbx:5432:postgres:barman:no", None),
            ("d:5432:postgres:barman:no", None),
            ("db:5432:postgres:barman", None),
            ("db:5432:postgres:barman:", None),
            ("db*:5432:postgres:barman:no", None),
            ("", None),
        ] {
            let found = find_password(text, &KEY);
            assert_eq!(found.as_ref().map(Secret::expose), expected, "{text}");
        }
    }

    #[test]
    fn escaped_colons_in_a_host() {
        let key = PasswordKey { host: "::1", ..KEY };
        let found = find_password(r"\:\:1:5432:postgres:barman:six", &key);
        assert_eq!(found.unwrap().expose(), "six");
    }

    #[test]
    fn sockets_count_as_localhost() {
        for (host, expected) in
            [(None, "localhost"), (Some("/run/pg"), "localhost"), (Some("/tmp"), "/tmp"), (Some("db"), "db")]
        {
            assert_eq!(PasswordKey::for_host(host, "/run/pg"), expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_found(host in "[^\0\n\r#*][^\0\n\r]*", password in "[^\0\n\r]+") {
            let escape = |text: &str| text.replace('\\', r"\\").replace(':', r"\:");
            let line = format!("{}:5432:*:barman:{}", escape(&host), escape(&password));
            let found = find_password(&line, &PasswordKey { host: &host, ..KEY });
            prop_assert_eq!(found.unwrap().expose().to_owned(), password);
        }
    }
}
