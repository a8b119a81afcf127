//! The small operations on a host: one script each, sent to `sh` and answered in one round trip.

use camino::{Utf8Path, Utf8PathBuf};

use super::remote::{Output, RemoteShell, file_error, one_line, protocol, script};
use super::{ExitStatus, FileOp, Probe, ProbeKind, TransportError, quote};

/// `p PATH` prints the kind of a path and df's line about it.
const PROBE: &str = r#"LC_ALL=C; export LC_ALL
p() {
if [ -d "$1" ]; then
 if l=$(ls -A -- "$1" 2>/dev/null); then if [ -n "$l" ]; then k=directory; else k=empty; fi; else k=denied; fi
elif [ -f "$1" ]; then k=file
elif [ -e "$1" ]; then k=other
else
 case $(ls -dL -- "$1" 2>&1 >/dev/null) in *"ermission denied"*) k=denied;; *) k=missing;; esac
fi
q=$1
until [ -e "$q" ]; do q=$(dirname -- "$q"); done
printf '%s %s\n' "$k" "$(df -Pk -- "$q" 2>/dev/null | tail -n 1)"
}
"#;

pub(super) fn probe(
    shell: &mut dyn RemoteShell,
    paths: &[Utf8PathBuf],
) -> Result<Vec<Probe>, TransportError> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let mut text = PROBE.to_owned();
    for path in paths {
        text.push_str(&format!("p {}\n", quote(path.as_str())));
    }
    let (_, output) = script(shell, &text)?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = answer.lines().collect();
    let probes: Option<Vec<Probe>> =
        paths.iter().zip(&lines).map(|(path, line)| parse_probe(path, line)).collect();
    probes.filter(|probes| probes.len() == paths.len()).ok_or_else(|| {
        let found = format!("expected a line for each of {} paths, found {answer:?}: ", paths.len());
        protocol(shell.target(), "looking at paths", found + &one_line(&output.stderr))
    })
}

fn parse_probe(path: &Utf8Path, line: &str) -> Option<Probe> {
    let mut words = line.split_whitespace();
    let kind = match words.next()? {
        "missing" => ProbeKind::Missing,
        "file" => ProbeKind::File,
        "empty" => ProbeKind::EmptyDirectory,
        "directory" => ProbeKind::Directory,
        "denied" => ProbeKind::Denied,
        "other" => ProbeKind::Other,
        _ => return None,
    };
    let words: Vec<&str> = words.collect();
    // Device and mount point may hold blanks; the capacity is the word with the percent sign, free space stands before
    // it and the mount point behind it.
    let capacity = |word: &&str| word.strip_suffix('%').is_some_and(|p| p.parse::<u64>().is_ok());
    let at = words.iter().position(capacity);
    let free = at.and_then(|at| words.get(at.checked_sub(1)?)?.parse::<u64>().ok());
    let mounted = at.and_then(|at| words.get(at + 1..)).filter(|words| !words.is_empty());
    Some(Probe {
        path: path.to_owned(),
        kind,
        free: free.map(|kib| kib.saturating_mul(1024)),
        file_system: mounted.map(|words| words.join(" ")),
    })
}

/// `flush PATH` makes one file or directory durable where sync can do that, else everything.
const FLUSH: &str =
    "flush() { case $(sync --help 2>&1 </dev/null) in *FILE*) sync \"$1\";; *) sync;; esac; }\n";

pub(super) fn apply(shell: &mut dyn RemoteShell, ops: &[FileOp]) -> Result<(), TransportError> {
    if ops.is_empty() {
        return Ok(());
    }
    // The shell reads the whole group before it begins: a connection that breaks cannot cut a command in half.
    let mut text = format!("LC_ALL=C; export LC_ALL\n{FLUSH}{{\n");
    for (number, op) in ops.iter().enumerate() {
        text.push_str(&format!(
            "( {} ) </dev/null || {{ echo barman-failed {number}; exit 1; }}\n",
            lines(op)
        ));
    }
    text.push_str("echo barman-done\n}\n");
    let (status, output) = script(shell, &text)?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let last = answer.lines().last().unwrap_or_default();
    if last == "barman-done" && status.success() {
        return Ok(());
    }
    let failed = last.strip_prefix("barman-failed ").and_then(|n| n.parse::<usize>().ok());
    match failed.and_then(|n| ops.get(n)) {
        Some(op) => {
            let (verb, path) = subject(op);
            Err(file_error(shell.target(), verb, path, &without_statistics(&output)))
        }
        None => {
            let reason = format!("no operation was confirmed: {}", one_line(&output.stderr));
            Err(protocol(shell.target(), "changing files", reason))
        }
    }
}

fn lines(op: &FileOp) -> String {
    match op {
        FileOp::MakeDirs { path, mode } => {
            let path = quote(path.as_str());
            format!("mkdir -p -- {path} && chmod {mode:04o} -- {path}")
        }
        FileOp::WriteFile { path, content, mode } => {
            let (tmp, dir) = (quote(&format!("{path}.tmp")), parent(path));
            let path = quote(path.as_str());
            // mv would move it into a directory of that name.
            format!(
                "umask 077; rm -f -- {tmp} && {{ {}; }} | dd of={tmp} conv=fsync && chmod {mode:04o} -- {tmp} && \
                 if [ -d {path} ] && [ ! -h {path} ]; then echo 'Is a directory' >&2; exit 1; fi && \
                 if [ -h {path} ]; then rm -f -- {path}; fi && mv -f -- {tmp} {path} && flush {dir}",
                prints(content)
            )
        }
        FileOp::Rename { from, to } => {
            let (old, new) = (parent(from), parent(to));
            let (from, to) = (quote(from.as_str()), quote(to.as_str()));
            format!(
                "ls -d -- {from} >/dev/null && if [ -h {to} ]; then rm -f -- {to}; \
                 elif [ -d {to} ]; then rmdir -- {to}; fi && mv -f -- {from} {to} && flush {new} && flush {old}"
            )
        }
        FileOp::RemoveFile(path) => {
            let path = quote(path.as_str());
            format!("rm -f -- {path}")
        }
        FileOp::RemoveTree(path) => format!("rm -rf -- {}", quote(path.as_str())),
        FileOp::Symlink { link, target } => {
            let (link, target) = (quote(link.as_str()), quote(target.as_str()));
            format!(
                "if [ -h {link} ]; then rm -f -- {link}; elif [ -e {link} ]; then echo 'File exists' >&2; exit 1; fi \
                 && ln -s -- {target} {link}"
            )
        }
        FileOp::ProveWritable(dir) => {
            let file = quote(dir.join(".barman-write-test").as_str());
            format!("rm -f -- {file} && echo writable > {file} && rm -f -- {file}")
        }
    }
}

fn subject(op: &FileOp) -> (&'static str, &Utf8Path) {
    match op {
        FileOp::MakeDirs { path, .. } => ("create the directory", path),
        FileOp::WriteFile { path, .. } => ("write", path),
        FileOp::Rename { from, .. } => ("rename", from),
        FileOp::RemoveFile(path) => ("remove", path),
        FileOp::RemoveTree(path) => ("remove", path),
        FileOp::Symlink { link, .. } => ("create the link", link),
        FileOp::ProveWritable(path) => ("write in", path),
    }
}

fn parent(path: &Utf8Path) -> String {
    let parent = path.parent().filter(|p| !p.as_str().is_empty());
    quote(parent.map_or(".", Utf8Path::as_str))
}

/// Commands that print these bytes.
fn prints(content: &[u8]) -> String {
    if content.is_empty() {
        return ":".into();
    }
    let pieces: Vec<String> =
        content.chunks(4096).map(|chunk| format!("printf '{}'", format_of(chunk))).collect();
    pieces.join(" && ")
}

/// A format of printf that gives these bytes, for use between single quotes.
fn format_of(chunk: &[u8]) -> String {
    let mut format = String::with_capacity(chunk.len() * 2);
    for &byte in chunk {
        match byte {
            b'%' => format.push_str("%%"),
            // A dash at the beginning would be an option of printf.
            b'\\' | b'\'' | b'-' | 0..=0x1f | 0x7f.. => format.push_str(&format!("\\{byte:03o}")),
            _ => format.push(char::from(byte)),
        }
    }
    format
}

/// Standard error without what dd says when all is well.
fn without_statistics(output: &Output) -> Vec<u8> {
    let text = String::from_utf8_lossy(&output.stderr);
    let statistics = |line: &&str| {
        line.ends_with(" records in") || line.ends_with(" records out") || line.contains(" copied, ")
    };
    text.lines().filter(|line| !statistics(line)).collect::<Vec<_>>().join("\n").into_bytes()
}

pub(super) fn sync(shell: &mut dyn RemoteShell, root: &Utf8Path) -> Result<(), TransportError> {
    let root_word = quote(root.as_str());
    let text = format!(
        "LC_ALL=C; export LC_ALL\n{{\nls -d -- {root_word}/. >/dev/null || exit 1\n\
         case $(sync --help 2>&1 </dev/null) in *-f*) sync -f {root_word} ;; *) sync ;; esac || exit 1\n\
         echo barman-done\n}}\n"
    );
    let (status, output) = script(shell, &text)?;
    if status == ExitStatus::Code(0) && output.stdout.ends_with(b"barman-done\n") {
        return Ok(());
    }
    Err(file_error(shell.target(), "make durable", root, &output.stderr))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_shell_prints_any_bytes(content in prop::collection::vec(any::<u8>(), 0..9000)) {
            let output = Command::new("sh").args(["-c", &prints(&content)]).output().unwrap();
            prop_assert_eq!(output.stdout, content);
        }
    }

    #[test]
    fn a_piece_that_begins_with_a_dash_is_no_option() {
        let content = "-".repeat(5000);
        let output = Command::new("sh").args(["-c", &prints(content.as_bytes())]).output().unwrap();
        assert!(output.stdout == content.as_bytes());
    }

    #[test]
    fn lines_of_df_are_understood() {
        for (line, kind, free) in [
            ("empty /dev/vda1 100 60 40 60% /", ProbeKind::EmptyDirectory, Some(40 * 1024)),
            ("missing //nas/my share 100 60 7 93% /mnt/my share", ProbeKind::Missing, Some(7 * 1024)),
            ("file ", ProbeKind::File, None),
            ("other - 0 0 0 - /proc", ProbeKind::Other, None),
        ] {
            let probe = parse_probe("/x".into(), line).unwrap();
            assert_eq!((probe.kind, probe.free), (kind, free), "{line}");
        }
        assert_eq!(parse_probe("/x".into(), "sh: p: not found"), None);
    }
}
