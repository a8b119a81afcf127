//! Connection service files (`pg_service.conf`): the settings of one service. Text in, pairs out; where the files lie is
//! the business of room `pg`.
//!
//! Source: PostgreSQL's documentation, chapter "libpq", section "The Connection Service File".

use super::conninfo::{ConnInfo, ConnInfoError};

/// Why a service file cannot be used. Display is one sentence naming the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// A line of the service that is not `keyword=value`.
    #[error("line {line} of the service file is not of the form keyword=value")]
    Syntax {
        /// The line, counted from 1.
        line: usize,
    },
    /// A service that refers to another service, which libpq refuses.
    #[error("line {line} of the service file names another service, which is not supported")]
    Nested {
        /// The line, counted from 1.
        line: usize,
    },
    /// A key word that libpq does not know, or a bad value.
    #[error("line {line} of the service file is not valid: {error}")]
    Setting {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        error: ConnInfoError,
    },
}

/// The settings of the service `name`, or `None` when the file does not define it. The first value of a key word counts,
/// as in libpq.
///
/// # Errors
/// When a line inside the service is wrong. Other services are not looked at.
pub fn find_service(text: &str, name: &str) -> Result<Option<ConnInfo>, ServiceError> {
    let mut found: Option<ConnInfo> = None;
    for (index, raw) in text.lines().enumerate() {
        let line = index + 1;
        let content = raw.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if let Some(header) = content.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if header.strip_suffix(']').or(header.split_once(']').map(|(h, _)| h)) == Some(name) {
                found = Some(ConnInfo::default());
            }
            continue;
        }
        let Some(info) = found.as_mut() else { continue };
        let (keyword, value) = content.split_once('=').ok_or(ServiceError::Syntax { line })?;
        if keyword == "service" || keyword == "servicefile" {
            return Err(ServiceError::Nested { line });
        }
        if !info.contains(keyword) {
            info.set(keyword, value).map_err(|error| ServiceError::Setting { line, error })?;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment\n[one]\nhost=a\nport=1\n\n[two]\n  host=b\nhost=c\npassword=p w\n[bad]\nnonsense\n[loop]\nservice=one\n[odd]\nhots=x\n";

    #[test]
    fn finds_the_service() {
        let two = find_service(FILE, "two").unwrap().unwrap();
        assert_eq!(two.get("host"), Some("b"));
        assert_eq!(two.password().unwrap().expose(), "p w");
        assert_eq!(two.get("port"), None);
        assert_eq!(find_service(FILE, "three").unwrap(), None);
    }

    #[test]
    fn errors_name_the_line() {
        for (name, expected) in [
            ("bad", "line 11 of the service file is not of the form keyword=value"),
            ("loop", "line 13 of the service file names another service, which is not supported"),
            ("odd", "line 15 of the service file is not valid: invalid connection option \"hots\""),
        ] {
            assert_eq!(find_service(FILE, name).unwrap_err().to_string(), expected);
        }
    }
}
