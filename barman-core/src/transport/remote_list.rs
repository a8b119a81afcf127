//! Walking a tree of a host with one GNU find, or with find and stat where there is none.

use std::io;
use std::ops::ControlFlow;

use camino::{Utf8Path, Utf8PathBuf};

use crate::model::{Entry, EntryKind};

use super::remote::{ENTER, NO_ROOT, RemoteShell, file_error, keep_tail, one_line, protocol, run};
use super::tar_read::parse_time;
use super::{Exchange, RemoteCommand, Surveyed, TransportError};

const DOING: &str = "listing files";

/// Fields of a record of GNU find, each ended by NUL.
const FIELDS: usize = 6;

/// Three walks: everything but the links of PostgreSQL, links followed; those links themselves; and what stands in
/// their place without being a link. The last line has the statuses, so that a walk that was cut short is noticed.
const SCRIPT: &str = r#"shift; f='%p\0%y\0%s\0%T@\0%m\0%l\0'
case $(find --version 2>/dev/null </dev/null) in *GNU*) ;; *) echo none; exit 0;; esac
echo gnu
find -L . -mindepth 1 \( -path ./pg_wal -o -path ./pg_xlog -o -path './pg_tblspc/*' \) -prune -o -printf "$f"
a=$?
find . -mindepth 1 -maxdepth 2 -type l \( -path ./pg_wal -o -path ./pg_xlog -o -path './pg_tblspc/*' \) -printf "$f"
b=$?
for p in pg_wal pg_xlog pg_tblspc/* pg_tblspc/.[a-zA-Z0-9_]*; do
if [ -h "$p" ]; then :; elif [ -e "$p" ]; then set -- "$@" "./$p"; fi
done
c=0; if [ $# -gt 0 ]; then find -L "$@" -printf "$f"; c=$?; fi
printf 'end %s %s %s\0' $a $b $c
"#;

/// One walk that follows nothing. In the place of the time stands the number of names.
const SURVEY: &str = r#"f='%p\0%y\0%s\0%n\0%m\0%l\0'
case $(find --version 2>/dev/null </dev/null) in *GNU*) ;; *) echo none; exit 0;; esac
echo gnu
find . -mindepth 1 -printf "$f"
printf 'end %s\0' $?
"#;

struct Listing<'a> {
    target: String,
    root: &'a Utf8Path,
    each: &'a mut dyn FnMut(Entry) -> ControlFlow<()>,
    /// What of the script is still to be sent.
    script: &'a [u8],
    buffer: Vec<u8>,
    greeted: bool,
    stopped: bool,
    ended: Option<String>,
    words: Vec<u8>,
    refused: Vec<u8>,
    line: Vec<u8>,
    error: Option<TransportError>,
}

pub(super) fn list(
    shell: &mut dyn RemoteShell,
    root: &Utf8Path,
    each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
) -> Result<(), TransportError> {
    walk(shell, root, SCRIPT, each)
}

pub(super) fn survey(
    shell: &mut dyn RemoteShell,
    root: &Utf8Path,
    each: &mut dyn FnMut(Surveyed),
) -> Result<(), TransportError> {
    walk(shell, root, SURVEY, &mut |entry| {
        let Entry { path, kind, size, mode, mtime } = entry;
        each(Surveyed { path, kind, size, mode, links: mtime.seconds.unsigned_abs() });
        ControlFlow::Continue(())
    })
}

fn walk(
    shell: &mut dyn RemoteShell,
    root: &Utf8Path,
    script: &str,
    each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
) -> Result<(), TransportError> {
    let script = format!("{ENTER}{script}");
    let mut listing = Listing {
        script: script.as_bytes(),
        target: shell.target().to_owned(),
        root,
        each,
        buffer: Vec::new(),
        greeted: false,
        stopped: false,
        ended: None,
        words: Vec::new(),
        refused: Vec::new(),
        line: Vec::new(),
        error: None,
    };
    let ran = run(shell, &RemoteCommand::program(["sh", "-s", "--", root.as_str()]), &mut listing);
    if listing.stopped {
        return Ok(());
    }
    if let Some(error) = listing.error {
        return Err(error);
    }
    if ran? == NO_ROOT {
        return Err(file_error(&listing.target, "list", root, &listing.words));
    }
    listing.finish()
}

impl Exchange for Listing<'_> {
    fn stdin(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut self.script, buffer)
    }

    fn stdout(&mut self, data: &[u8]) -> io::Result<()> {
        let taken = if self.buffer.is_empty() {
            self.take(data)
        } else {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.extend_from_slice(data);
            self.take(&buffer)
        };
        match taken {
            Ok(()) if self.stopped => Err(io::Error::other("enough")),
            Ok(()) => Ok(()),
            Err(error) => {
                let text = error.to_string();
                self.error = Some(error);
                Err(io::Error::other(text))
            }
        }
    }

    fn stderr(&mut self, data: &[u8]) -> io::Result<()> {
        keep_tail(&mut self.words, data);
        for piece in data.split_inclusive(|&b| b == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                // What vanishes meanwhile is left out; what may not be looked into must not be.
                let text = String::from_utf8_lossy(&line);
                if text.starts_with("find: ") && !text.contains("No such file or directory") {
                    keep_tail(&mut self.refused, &line);
                }
            }
        }
        Ok(())
    }
}

impl Listing<'_> {
    fn take(&mut self, mut data: &[u8]) -> Result<(), TransportError> {
        if !self.greeted {
            let Some(end) = data.iter().position(|&b| b == b'\n') else {
                self.buffer = data.to_vec();
                return Ok(());
            };
            let (line, rest) = data.split_at(end + 1);
            match line {
                b"gnu\n" => (self.greeted, data) = (true, rest),
                b"none\n" => return Err(self.no_find()),
                other => {
                    let found = String::from_utf8_lossy(other).into_owned();
                    return Err(protocol(
                        &self.target,
                        DOING,
                        format!("expected the name of a find, found {found:?}"),
                    ));
                }
            }
        }
        while !self.stopped {
            if data.starts_with(b"end ") {
                let Some(end) = data.iter().position(|&b| b == 0) else { break };
                let (statuses, rest) = data.split_at(end);
                self.ended = Some(String::from_utf8_lossy(statuses).into_owned());
                data = rest.get(1..).unwrap_or_default();
                continue;
            }
            let Some((fields, rest)) = record(data) else { break };
            data = rest;
            let entry = self.entry(fields)?;
            self.stopped = (self.each)(entry).is_break();
        }
        self.buffer = data.to_vec();
        Ok(())
    }

    fn entry(&self, fields: [&[u8]; FIELDS]) -> Result<Entry, TransportError> {
        let [path, kind, size, mtime, mode, link] = fields;
        let text = |field| std::str::from_utf8(field).ok();
        let relative = path.strip_prefix(b"./").unwrap_or(path);
        let (Some(path), Some(link)) = (text(relative), text(link)) else {
            let name = String::from_utf8_lossy(relative).into_owned();
            return Err(TransportError::File {
                target: self.target.clone(),
                verb: "list",
                path: self.root.join(name),
                reason: "the name is not UTF-8".into(),
                kind: io::ErrorKind::InvalidData,
            });
        };
        let facts = || {
            let size: u64 = text(size)?.parse().ok()?;
            let mode = u32::from_str_radix(text(mode)?, 8).ok()?;
            Some((size, mode, parse_time(text(mtime)?)?))
        };
        let Some((size, mode, mtime)) = facts() else {
            return Err(protocol(&self.target, DOING, format!("the facts of {path} cannot be read")));
        };
        let kind = match kind {
            b"f" => EntryKind::File,
            b"d" => EntryKind::Directory,
            b"l" => EntryKind::Symlink(Utf8PathBuf::from(link)),
            _ => EntryKind::Other,
        };
        let size = if kind == EntryKind::File { size } else { 0 };
        Ok(Entry { path: Utf8PathBuf::from(path), kind, size, mtime, mode: mode & 0o7777 })
    }

    fn finish(self) -> Result<(), TransportError> {
        if !self.refused.is_empty() {
            return Err(file_error(&self.target, "list", self.root, &self.refused));
        }
        // find exits with 1 when a file vanished; anything else means that it did not get through.
        let whole = self.ended.as_deref().is_some_and(|ended| {
            ended.split(' ').skip(1).all(|status| matches!(status, "0" | "1")) && self.buffer.is_empty()
        });
        if whole {
            return Ok(());
        }
        let ended = self.ended.unwrap_or_else(|| "the list is cut short".into());
        Err(protocol(&self.target, DOING, format!("{ended}: {}", one_line(&self.words))))
    }

    fn no_find(&self) -> TransportError {
        let reason = "listing files needs GNU find (findutils) there";
        TransportError::Unsupported { target: self.target.clone(), reason: reason.into() }
    }
}

/// Splits off a whole record.
fn record(data: &[u8]) -> Option<([&[u8]; FIELDS], &[u8])> {
    let mut fields: [&[u8]; FIELDS] = Default::default();
    let mut rest = data;
    for field in &mut fields {
        let end = rest.iter().position(|&b| b == 0)?;
        (*field, rest) = (rest.get(..end)?, rest.get(end + 1..)?);
    }
    Some((fields, rest))
}
