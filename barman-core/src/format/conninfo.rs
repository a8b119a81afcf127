//! [`ConnInfo`]: connection strings as libpq reads them, keyword/value pairs and URIs. Text in, values out; nothing here
//! knows the environment, files or sockets.
//!
//! Source: PostgreSQL's documentation, chapter "libpq", section "Connection Strings" and "Parameter Key Words".

use std::fmt;

use crate::model::Secret;

mod keywords;
mod parse;
mod redact;

pub use redact::redact_conninfo;

/// Why a text is not a connection string. Never repeats a value, which might be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnInfoError {
    /// A word that is not followed by `=`.
    #[error("missing \"=\" after \"{word}\" in the connection string")]
    MissingEquals {
        /// The word, or `…` when it may be a part of a secret.
        word: String,
    },
    /// A quote that is not closed.
    #[error("unterminated quoted string in the connection string")]
    UnterminatedQuote,
    /// A key word that libpq never knew.
    #[error("invalid connection option \"{keyword}\"")]
    UnknownKeyword {
        /// The key word.
        keyword: String,
    },
    /// Something wrong in a URI.
    #[error("invalid connection URI: {reason}")]
    Uri {
        /// What is wrong, in words.
        reason: String,
    },
    /// A value that the key word does not take.
    #[error("invalid value for connection option \"{keyword}\": {reason}")]
    Value {
        /// The key word.
        keyword: String,
        /// What is wrong, in words; does not contain secrets.
        reason: String,
    },
}

/// A parsed connection string: key words with their values in the order given, the last of several equal ones kept.
///
/// Debug and Display show passwords as `*REDACTED*`. [`ConnInfo::get`] never gives a secret.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ConnInfo {
    values: Vec<(&'static str, Value)>,
}

#[derive(Clone, PartialEq, Eq)]
enum Value {
    Open(String),
    Hidden(Secret),
}

impl ConnInfo {
    /// Reads a keyword/value string or, when it begins with `postgresql://` or `postgres://`, a URI.
    ///
    /// # Errors
    /// What libpq refuses: bad syntax or a key word that no version of libpq knows. Obsolete key words are accepted.
    pub fn parse(text: &str) -> Result<Self, ConnInfoError> {
        parse::parse(text)
    }

    /// The value of a key word that is not a secret.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.find(keyword).and_then(|value| match value {
            Value::Open(text) => Some(text.as_str()),
            Value::Hidden(_) => None,
        })
    }

    /// The value of a secret key word: `password`, `sslpassword` and the like.
    pub fn secret(&self, keyword: &str) -> Option<&Secret> {
        self.find(keyword).and_then(|value| match value {
            Value::Open(_) => None,
            Value::Hidden(secret) => Some(secret),
        })
    }

    /// The password.
    pub fn password(&self) -> Option<&Secret> {
        self.secret("password")
    }

    /// Whether the key word was given, secret or not.
    pub fn contains(&self, keyword: &str) -> bool {
        self.find(keyword).is_some()
    }

    /// The key words given, in order.
    pub fn keywords(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.values.iter().map(|(keyword, _)| *keyword)
    }

    /// Sets a key word; one that is there already keeps its place.
    ///
    /// # Errors
    /// When libpq does not know the key word.
    pub fn set(&mut self, keyword: &str, value: impl Into<String>) -> Result<(), ConnInfoError> {
        let (keyword, value) = keywords::canonical(keyword, value.into())?;
        let value =
            if keywords::is_secret(keyword) { Value::Hidden(Secret::new(value)) } else { Value::Open(value) };
        match self.values.iter_mut().find(|(known, _)| *known == keyword) {
            Some((_, slot)) => *slot = value,
            None => self.values.push((keyword, value)),
        }
        Ok(())
    }

    /// [`ConnInfo::set`] in a chain.
    ///
    /// # Errors
    /// As [`ConnInfo::set`].
    pub fn with(mut self, keyword: &str, value: impl Into<String>) -> Result<Self, ConnInfoError> {
        self.set(keyword, value)?;
        Ok(self)
    }

    /// Takes a key word out.
    pub fn remove(&mut self, keyword: &str) {
        self.values.retain(|(known, _)| *known != keyword);
    }

    /// The same settings with the key words in alphabetical order, as Barman hands them to other programs.
    pub fn sorted(&self) -> Self {
        let mut values = self.values.clone();
        values.sort_by_key(|(keyword, _)| *keyword);
        Self { values }
    }

    /// The keyword/value text with secrets in the clear, for libpq itself (a file only its owner may read).
    /// Never log, print or put in an argument vector what this returns.
    pub fn expose_libpq(&self) -> String {
        self.text(|secret| quoted(secret.expose()))
    }

    fn find(&self, keyword: &str) -> Option<&Value> {
        self.values.iter().find(|(known, _)| *known == keyword).map(|(_, value)| value)
    }

    fn text(&self, hidden: impl Fn(&Secret) -> String) -> String {
        let words: Vec<String> = self
            .values
            .iter()
            .map(|(keyword, value)| match value {
                Value::Open(text) => format!("{keyword}={}", quoted(text)),
                Value::Hidden(secret) => format!("{keyword}={}", hidden(secret)),
            })
            .collect();
        words.join(" ")
    }
}

/// A value as libpq reads it back: in quotes when it is empty or holds white space, quotes or backslashes.
fn quoted(text: &str) -> String {
    let plain = !text.is_empty() && !text.contains(|c: char| is_space(c) || c == '\'' || c == '\\');
    if plain {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// White space of C's `isspace` in the POSIX locale.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
}

impl fmt::Display for ConnInfo {
    /// The keyword/value text with secrets as `*REDACTED*`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(|secret| secret.to_string()))
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnInfo({self})")
    }
}

impl std::str::FromStr for ConnInfo {
    type Err = ConnInfoError;

    fn from_str(text: &str) -> Result<Self, ConnInfoError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let info = ConnInfo::parse(text).unwrap();
        info.keywords()
            .map(|k| {
                let value = info.get(k).map(str::to_owned);
                (k.to_owned(), value.unwrap_or_else(|| info.secret(k).unwrap().expose().to_owned()))
            })
            .collect()
    }

    #[test]
    fn keyword_value_grammar() {
        for (text, expected) in [
            ("", vec![]),
            ("   ", vec![]),
            ("host=a", vec![("host", "a")]),
            ("host = a  port\t=\n5433", vec![("host", "a"), ("port", "5433")]),
            ("host=a host=b", vec![("host", "b")]),
            ("host= port=1", vec![("host", "port=1")]),
            ("host='' port=1", vec![("host", ""), ("port", "1")]),
            (r"password='it\'s \\ me' user=x", vec![("password", r"it's \ me"), ("user", "x")]),
            (r"password=a\ b user=x", vec![("password", "a b"), ("user", "x")]),
            ("host='a'port=2", vec![("host", "a"), ("port", "2")]),
            ("host=a,b port=1,2", vec![("host", "a,b"), ("port", "1,2")]),
            (
                "sslcompression=1 krbsrvname=p gssencmode=disable",
                vec![("sslcompression", "1"), ("krbsrvname", "p"), ("gssencmode", "disable")],
            ),
            ("requiressl=1", vec![("sslmode", "require")]),
            ("requiressl=0", vec![("sslmode", "prefer")]),
            (r"host=a\", vec![("host", "a")]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            assert_eq!(pairs(text), expected, "{text}");
        }
    }

    #[test]
    fn uri_grammar() {
        for (text, expected) in [
            ("postgresql://", vec![]),
            ("postgres://localhost", vec![("host", "localhost")]),
            ("postgresql://localhost:5433", vec![("host", "localhost"), ("port", "5433")]),
            ("postgresql://localhost/mydb", vec![("host", "localhost"), ("dbname", "mydb")]),
            (
                "postgresql://user:se%40cret@localhost",
                vec![("user", "user"), ("password", "se@cret"), ("host", "localhost")],
            ),
            (
                "postgresql://other@localhost/otherdb?connect_timeout=10&application_name=my%20app",
                vec![
                    ("user", "other"),
                    ("host", "localhost"),
                    ("dbname", "otherdb"),
                    ("connect_timeout", "10"),
                    ("application_name", "my app"),
                ],
            ),
            (
                "postgresql://host1:123,host2:456/db?target_session_attrs=any",
                vec![
                    ("host", "host1,host2"),
                    ("port", "123,456"),
                    ("dbname", "db"),
                    ("target_session_attrs", "any"),
                ],
            ),
            (
                "postgresql://[2001:db8::1234]:5/database",
                vec![("host", "2001:db8::1234"), ("port", "5"), ("dbname", "database")],
            ),
            (
                "postgresql://%2Fvar%2Flib%2Fpostgresql/dbname",
                vec![("host", "/var/lib/postgresql"), ("dbname", "dbname")],
            ),
            ("postgresql:///db?host=/tmp&port=7", vec![("dbname", "db"), ("host", "/tmp"), ("port", "7")]),
            ("postgresql://h?ssl=true", vec![("host", "h"), ("sslmode", "require")]),
            ("postgresql://a,b", vec![("host", "a,b")]),
            ("postgresql://:5433", vec![("port", "5433")]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            assert_eq!(pairs(text), expected, "{text}");
        }
    }

    #[test]
    fn refusals_are_clear_and_show_no_secret() {
        for (text, expected) in [
            ("host", "missing \"=\" after \"host\" in the connection string"),
            ("password=s3cret word", "missing \"=\" after \"…\" in the connection string"),
            ("hostt=a", "invalid connection option \"hostt\""),
            ("=a", "invalid connection option \"\""),
            ("password='abc", "unterminated quoted string in the connection string"),
            ("postgresql://h?hostt=a", "invalid connection URI: invalid query parameter \"hostt\""),
            (
                "postgresql://h?host",
                "invalid connection URI: missing \"=\" after the query parameter \"host\"",
            ),
            ("postgresql://[::1", "invalid connection URI: no \"]\" ends the IPv6 address of a host"),
            ("postgresql://[]", "invalid connection URI: the IPv6 address of a host is empty"),
            ("postgresql://[::1]x", "invalid connection URI: unexpected character 'x' after the host"),
            ("postgresql://a%zz", "invalid connection URI: a percent sign without two hexadecimal digits"),
            ("postgresql://a%00", "invalid connection URI: %00 stands in a value"),
        ] {
            assert_eq!(ConnInfo::parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn printed_without_secrets() {
        let info = ConnInfo::parse("user=barman password=s3cret host=db").unwrap();
        assert_eq!(info.to_string(), "user=barman password=*REDACTED* host=db");
        assert_eq!(info.sorted().to_string(), "host=db password=*REDACTED* user=barman");
        assert!(!format!("{info:?}").contains("s3cret"));
        assert!(info.get("password").is_none());
        assert_eq!(info.password().unwrap().expose(), "s3cret");
    }

    proptest! {
        #[test]
        fn text_round_trip(host in "[^\0]*", password in "[^\0]*", options in "[^\0]*") {
            let info = ConnInfo::default()
                .with("host", host).unwrap()
                .with("password", password).unwrap()
                .with("options", options).unwrap();
            prop_assert_eq!(ConnInfo::parse(&info.expose_libpq()).unwrap(), info);
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".*") {
            let _ = ConnInfo::parse(&text);
            let _ = ConnInfo::parse(&format!("postgresql://{text}"));
            let _ = redact_conninfo(&text);
        }
    }
}
