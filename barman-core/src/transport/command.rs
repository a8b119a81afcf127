//! Words and command lines: quoting for a POSIX shell, splitting as a shell does, and the line that is sent to a host.
//! Pure; nothing is run here.

use super::RemoteCommand;

/// What every remote line prints first. Whatever stands before it on standard output came from the start-up files of
/// the login shell, and would else be taken for data.
pub(super) const MARKER: &[u8] = b"barman-begin\n";

/// Quotes a word so that any POSIX shell reads back exactly these bytes. Words of plain characters stay as they are.
///
/// ```
/// use barman_core::transport::quote;
/// assert_eq!(quote("plain-word_1.0"), "plain-word_1.0");
/// assert_eq!(quote("it's"), r"'it'\''s'");
/// ```
pub fn quote(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_@%+:,./-".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('\'');
    for piece in word.split_inclusive('\'') {
        match piece.strip_suffix('\'') {
            Some(before) => {
                quoted.push_str(before);
                quoted.push_str(r"'\''");
            }
            None => quoted.push_str(piece),
        }
    }
    quoted.push('\'');
    quoted
}

/// Quotes words and joins them with blanks.
pub fn join<S: AsRef<str>>(words: &[S]) -> String {
    words.iter().map(|word| quote(word.as_ref())).collect::<Vec<_>>().join(" ")
}

/// Why a command line cannot be split into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// A `'` or `"` without its partner.
    #[error("a quotation mark is not closed")]
    OpenQuote,
    /// A backslash with nothing behind it.
    #[error("a backslash stands at the end")]
    OpenEscape,
    /// There is no word at all.
    #[error("the command is empty")]
    Empty,
}

/// Splits a command line into words by the quoting rules of a POSIX shell. Nothing is expanded: variables, globs and
/// operators are ordinary characters, as they are for Barman.
pub fn split(line: &str) -> Result<Vec<String>, SplitError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or(SplitError::OpenQuote)? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => double_quoted(&mut chars, word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(chars.next().ok_or(SplitError::OpenEscape)?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if words.is_empty() { Err(SplitError::Empty) } else { Ok(words) }
}

fn double_quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), SplitError> {
    loop {
        match chars.next().ok_or(SplitError::OpenQuote)? {
            '"' => return Ok(()),
            '\\' => match chars.next().ok_or(SplitError::OpenQuote)? {
                '\n' => {}
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

impl RemoteCommand {
    /// A program with its arguments.
    pub fn program<S: Into<String>>(words: impl IntoIterator<Item = S>) -> Self {
        Self::Program(words.into_iter().map(Into::into).collect())
    }

    /// The command as a shell line, words quoted.
    pub fn to_line(&self) -> String {
        match self {
            Self::Program(words) => join(words),
            Self::Shell(line) => line.clone(),
        }
    }
}

/// The line for the login shell of a host: the marker, then the command. Kept to what sh, csh and fish read alike.
pub(super) fn marked_line(command: &RemoteCommand) -> String {
    match command {
        RemoteCommand::Program(words) => format!("echo barman-begin; exec {}", join(words)),
        RemoteCommand::Shell(line) => format!("echo barman-begin; {line}"),
    }
}

/// A command that runs a script of ours in `sh`, with arguments as `$1`, `$2` …
pub(super) fn sh(script: &str, args: &[&str]) -> RemoteCommand {
    let fixed = ["sh", "-c", script, "sh"];
    RemoteCommand::program(fixed.iter().chain(args).copied())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_split_as_in_a_shell() {
        for (line, words) in [
            ("ssh postgres@pg", vec!["ssh", "postgres@pg"]),
            ("  ssh\t-p  22 h ", vec!["ssh", "-p", "22", "h"]),
            (r#"ssh -o "User=a b" h"#, vec!["ssh", "-o", "User=a b", "h"]),
            (r"ssh -i a\ b h", vec!["ssh", "-i", "a b", "h"]),
            ("a'b'\"c\"d", vec!["abcd"]),
            ("a ''", vec!["a", ""]),
            (r#""a\"\\\x""#, vec![r#"a"\\x"#]),
            ("ssh $HOME *", vec!["ssh", "$HOME", "*"]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
        for (line, error) in [
            ("", SplitError::Empty),
            (" \n", SplitError::Empty),
            ("a 'b", SplitError::OpenQuote),
            ("a \"b", SplitError::OpenQuote),
            ("a\\", SplitError::OpenEscape),
        ] {
            assert_eq!(split(line), Err(error), "{line}");
        }
    }

    proptest! {
        #[test]
        fn what_is_joined_is_split_again(words in prop::collection::vec("[^\0]{0,12}", 1..5)) {
            prop_assert_eq!(split(&join(&words)).unwrap(), words);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_shell_reads_back_what_was_quoted(words in prop::collection::vec("[^\0]{0,20}", 1..20)) {
            let script = format!("printf '%s\\0' {}", join(&words));
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            let expected: Vec<u8> = words.iter().flat_map(|w| w.bytes().chain([0])).collect();
            prop_assert_eq!(output.stdout, expected);
        }
    }

    #[test]
    fn lines_begin_with_the_marker() {
        let line = marked_line(&RemoteCommand::program(["ls", "a b"]));
        assert_eq!(line, "echo barman-begin; exec ls 'a b'");
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        assert!(output.stdout.starts_with(MARKER));
    }
}
