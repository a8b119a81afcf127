//! PostgreSQL configuration files of a restored server: what would be dangerous is found, and what would destroy data
//! is made harmless.
//!
//! The rules and the list of settings are Barman's; a line is `key`, then blanks or `=`, then the value
//! (`src/backend/utils/misc/guc-file.l`). Bytes that are not UTF-8 pass through unchanged.

/// Settings that would act on archives or on where recovery stops: they are made comments, but for `archive_command`,
/// which becomes `false`. `archive_library` (15 and later) is not in Barman's list; a restored server would archive
/// into the place of the old one by it, and refuses it beside `archive_command` (16 and later).
const NEUTRALISED: &[&str] = &[
    "archive_command",
    "archive_library",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
];

/// Settings that name places of the old host.
const DANGEROUS: &[&str] = &[
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
    "external_pid_file",
    "ssl_cert_file",
    "ssl_key_file",
    "ssl_ca_file",
    "ssl_crl_file",
    "unix_socket_directory",
    "unix_socket_directories",
    "include",
    "include_dir",
    "include_if_exists",
];

/// The mark before a line that was made a comment.
const MARK: &str = "#BARMAN#";

/// A line that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 0.
    pub number: usize,
    /// The setting as written.
    pub key: String,
    /// Its value: the new one of a change (`None` for a line that is a comment now), else the one found.
    pub value: Option<String>,
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Neutralised {
    /// The new content.
    pub text: Vec<u8>,
    /// Lines that were changed.
    pub changes: Vec<Line>,
    /// Lines that the user must look at.
    pub dangerous: Vec<Line>,
}

/// Makes a configuration file harmless for a restored server. Line count and numbers stay.
pub fn neutralise(content: &[u8]) -> Neutralised {
    let mut result = Neutralised { text: Vec::with_capacity(content.len() + 64), ..Neutralised::default() };
    for (number, line) in content.split_inclusive(|b| *b == b'\n').enumerate() {
        let Some((key, value)) = setting(line) else {
            result.text.extend_from_slice(line);
            continue;
        };
        if !is_one_of(NEUTRALISED, key) {
            if is_one_of(DANGEROUS, key) {
                result.dangerous.push(Line { number, key: key.to_owned(), value: Some(value) });
            }
            result.text.extend_from_slice(line);
        } else if key.eq_ignore_ascii_case("archive_command") {
            result.text.extend_from_slice(b"archive_command = false\n");
            result.changes.push(Line { number, key: key.to_owned(), value: Some("false".to_owned()) });
        } else {
            result.text.extend_from_slice(MARK.as_bytes());
            result.text.extend_from_slice(line);
            result.changes.push(Line { number, key: key.to_owned(), value: None });
        }
    }
    result
}

/// Whether a `recovery.conf` (before PostgreSQL 12) asks for a standby: `standby_mode` with a true value, of several the
/// last. Keys do not heed case; a boolean may be cut short as long as it is clear (`guc.c`, `parse_bool`).
pub fn asks_for_standby(content: &[u8]) -> bool {
    let mut standby = false;
    for line in content.split(|b| *b == b'\n') {
        let Some((key, value)) = setting(line) else { continue };
        if key.eq_ignore_ascii_case("standby_mode") {
            let value = value.split('#').next().unwrap_or_default().trim().trim_matches('\'').trim();
            let value = value.to_ascii_lowercase();
            let cut = |word: &str, least: usize| value.len() >= least && word.starts_with(value.as_str());
            standby = value == "1" || cut("on", 2) || cut("true", 1) || cut("yes", 1);
        }
    }
    standby
}

/// Names of settings have no case (`guc_name_compare` in `src/backend/utils/misc/guc.c`).
fn is_one_of(list: &[&str], key: &str) -> bool {
    list.iter().any(|name| name.eq_ignore_ascii_case(key))
}

/// Key and value of an active line; `None` for empty lines and comments.
fn setting(line: &[u8]) -> Option<(&str, String)> {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(b"#") {
        return None;
    }
    let end = line.iter().position(|b| b.is_ascii_whitespace() || *b == b'=').unwrap_or(line.len());
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_ascii_start();
    let value = rest.strip_prefix(b"=").unwrap_or(rest).trim_ascii();
    let key = std::str::from_utf8(key).ok().filter(|k| !k.is_empty())?;
    Some((key, String::from_utf8_lossy(value).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(number: usize, key: &str, value: Option<&str>) -> Line {
        Line { number, key: key.to_owned(), value: value.map(str::to_owned) }
    }

    #[test]
    fn a_standby_is_asked_for_by_any_true_value() {
        for (text, expected) in [
            ("", false),
            ("standby_mode = 'on'\n", true),
            ("# standby_mode = on\n", false),
            ("STANDBY_MODE=TRUE # yes\n", true),
            ("standby_mode 't'", true),
            ("standby_mode = 'off'\n", false),
            ("standby_mode = on\nstandby_mode = off\n", false),
            ("standby_mode = o\n", false),
            ("restore_command = 'standby_mode = on'\n", false),
        ] {
            assert_eq!(asks_for_standby(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn archive_command_is_replaced_and_targets_become_comments() {
        let text = b"# archive_command = 'x'\n  archive_command='rsync %p host:%f'\nport = 5432\n\
            recovery_target_time = 'now'\nrecovery_target '' # c\nrestore_command = 'cp'\narchive_commander = 1\n";
        let result = neutralise(text);
        let expected = "# archive_command = 'x'\narchive_command = false\nport = 5432\n\
            #BARMAN#recovery_target_time = 'now'\n#BARMAN#recovery_target '' # c\nrestore_command = 'cp'\narchive_commander = 1\n";
        assert_eq!(String::from_utf8(result.text).unwrap(), expected);
        assert_eq!(
            result.changes,
            [
                line(1, "archive_command", Some("false")),
                line(3, "recovery_target_time", None),
                line(4, "recovery_target", None)
            ]
        );
        assert!(result.dangerous.is_empty());
    }

    #[test]
    fn places_of_the_old_host_are_reported_with_their_lines() {
        let result =
            neutralise(b"\ndata_directory = '/x'\ninclude_dir 'conf.d'\n#hba_file = 'y'\nssl_key_file='k'");
        assert_eq!(
            result.dangerous,
            [
                line(1, "data_directory", Some("'/x'")),
                line(2, "include_dir", Some("'conf.d'")),
                line(4, "ssl_key_file", Some("'k'"))
            ]
        );
    }

    #[test]
    fn names_have_no_case_and_a_library_archives_too() {
        let result =
            neutralise(b"Archive_Command = 'x'\nARCHIVE_LIBRARY = 'basic_archive'\nData_Directory = '/x'\n");
        let expected =
            "archive_command = false\n#BARMAN#ARCHIVE_LIBRARY = 'basic_archive'\nData_Directory = '/x'\n";
        assert_eq!(String::from_utf8(result.text).unwrap(), expected);
        assert_eq!((result.changes.len(), result.dangerous.len()), (2, 1));
    }

    #[test]
    fn bytes_that_are_no_text_survive() {
        let text = b"application_name = '\xff\xfe'\nport = 1";
        assert_eq!(neutralise(text).text, text);
    }

    proptest! {
        #[test]
        fn what_is_harmless_stays_and_twice_is_once(content in proptest::collection::vec(any::<u8>(), 0..300)) {
            let once = neutralise(&content);
            if once.changes.is_empty() {
                prop_assert_eq!(&once.text, &content);
            }
            let twice = neutralise(&once.text);
            prop_assert_eq!(twice.text, once.text);
        }
    }
}
