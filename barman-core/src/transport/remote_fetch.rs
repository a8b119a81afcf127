//! Reading many files of a host through one GNU tar.
//!
//! tar prints each name on standard error when it begins with that file (`-v`), and its warnings in between. So
//! standard error is a journal in the order of the archive: once it names a later file, all that will ever be said
//! about an earlier one has been said. That decides what an exit status cannot: whether zeros at the end of a file are
//! its own or padding for a file that shrank, and why a file is missing. Only then a file is ended.

use std::collections::VecDeque;
use std::io;

use camino::{Utf8Path, Utf8PathBuf};

use super::command::sh;
use super::remote::{ENTER, NO_ROOT, RemoteShell, file_error, keep_tail, protocol, run};
use super::tar_read::{Event, Member, TarReader};
use super::{Exchange, FetchItem, FetchSink, Fetched, FileFacts, TransportError};

const DOING: &str = "reading files";

/// Finds GNU tar, says so in one line, and lets it read names from standard input.
///
/// `--hard-dereference`: the second name of a file is sent with its content, not as a link. `--format=posix`: times
/// have nanoseconds. `-b 128`: records of 64 KiB.
const SCRIPT: &str = "for t in gtar tar; do case $(\"$t\" --version 2>/dev/null </dev/null) in *\"GNU tar\"*) \
     echo gnu; exec \"$t\" -c -v -f - -b 128 -h --hard-dereference --format=posix \
     --pax-option=delete=atime,delete=ctime --quoting-style=escape --no-recursion --no-unquote --null -T -;; \
     esac; done; echo none";

/// A file that was asked for and has not ended.
struct Sent {
    path: Utf8PathBuf,
    failure: Option<Failure>,
}

/// What tar said about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    Shrunk(u64),
    Gone,
    Words(String),
}

/// The file that is arriving.
struct Current {
    /// Its place among all that were asked for.
    number: u64,
    size: u64,
    /// Bytes given to the sink.
    given: u64,
    /// Zeros that arrived last and are held back.
    zeros: u64,
    /// Whether all of its content arrived.
    complete: bool,
}

struct Fetching<'a> {
    target: String,
    wanted: &'a mut dyn Iterator<Item = FetchItem>,
    sink: &'a mut dyn FetchSink,
    /// Names on their way to tar.
    names: VecDeque<u8>,
    window: VecDeque<Sent>,
    /// The number of the first in `window`.
    first: u64,
    /// Every word about files with smaller numbers has been heard.
    heard: u64,
    tar: TarReader,
    /// A header that waits for words about the files before it.
    waiting: Option<(u64, Member)>,
    current: Option<Current>,
    /// Output that waits for words.
    backlog: Vec<u8>,
    /// The first line of the output; `None` once it was read.
    greeting: Option<Vec<u8>>,
    line: Vec<u8>,
    words: Vec<u8>,
    error: Option<TransportError>,
}

pub(super) fn fetch(
    shell: &mut dyn RemoteShell,
    root: &Utf8Path,
    wanted: &mut dyn Iterator<Item = FetchItem>,
    sink: &mut dyn FetchSink,
) -> Result<(), TransportError> {
    let mut wanted = wanted.peekable();
    if wanted.peek().is_none() {
        return Ok(());
    }
    let mut fetching = Fetching::new(shell.target().to_owned(), &mut wanted, sink);
    let ran = run(shell, &sh(&format!("{ENTER}{SCRIPT}"), &[root.as_str()]), &mut fetching);
    if let Some(error) = fetching.error {
        return Err(error);
    }
    if ran? == NO_ROOT {
        return Err(file_error(&fetching.target, "open", root, &fetching.words));
    }
    fetching.finish()
}

impl Exchange for Fetching<'_> {
    fn stdin(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.names.len() < buffer.len() {
            let Some(item) = self.wanted.next() else { break };
            self.names.extend(b"./".iter().chain(item.path.as_str().as_bytes()).chain(&[0]));
            self.window.push_back(Sent { path: item.path, failure: None });
        }
        io::Read::read(&mut self.names, buffer)
    }

    fn stdout(&mut self, data: &[u8]) -> io::Result<()> {
        let taken = self.output(data);
        self.keep(taken)
    }

    fn stderr(&mut self, data: &[u8]) -> io::Result<()> {
        for piece in data.split_inclusive(|&b| b == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.hear(&line);
            }
        }
        let backlog = std::mem::take(&mut self.backlog);
        let taken = self.advance(&backlog);
        self.keep(taken)
    }
}

impl<'a> Fetching<'a> {
    fn new(
        target: String,
        wanted: &'a mut dyn Iterator<Item = FetchItem>,
        sink: &'a mut dyn FetchSink,
    ) -> Self {
        Self {
            target,
            wanted,
            sink,
            names: VecDeque::new(),
            window: VecDeque::new(),
            first: 0,
            heard: 0,
            tar: TarReader::new(),
            waiting: None,
            current: None,
            backlog: Vec::new(),
            greeting: Some(Vec::new()),
            line: Vec::new(),
            words: Vec::new(),
            error: None,
        }
    }

    /// Keeps a typed error while the exchange is stopped with an untyped one.
    fn keep(&mut self, result: Result<(), TransportError>) -> io::Result<()> {
        result.map_err(|error| {
            let text = error.to_string();
            self.error = Some(error);
            io::Error::other(text)
        })
    }

    fn output(&mut self, mut data: &[u8]) -> Result<(), TransportError> {
        if let Some(mut greeting) = self.greeting.take() {
            let end = data.iter().position(|&b| b == b'\n');
            let (line, rest) = data.split_at(end.map_or(data.len(), |end| end + 1));
            greeting.extend_from_slice(line);
            match greeting.as_slice() {
                b"gnu\n" => data = rest,
                b"none\n" => return Err(no_tar(&self.target)),
                _ if end.is_none() && greeting.len() < 8 => {
                    self.greeting = Some(greeting);
                    return Ok(());
                }
                other => {
                    let shown = String::from_utf8_lossy(other).into_owned();
                    return Err(protocol(
                        &self.target,
                        DOING,
                        format!("expected the name of a tar, found {shown:?}"),
                    ));
                }
            }
        }
        if self.backlog.is_empty() {
            return self.advance(data);
        }
        let mut backlog = std::mem::take(&mut self.backlog);
        backlog.extend_from_slice(data);
        self.advance(&backlog)
    }

    /// Goes on with output as far as the words that were heard allow, and keeps the rest.
    fn advance(&mut self, mut data: &[u8]) -> Result<(), TransportError> {
        while self.settle()? {
            match self.tar.next(&mut data).map_err(|e| protocol(&self.target, DOING, format!("found {e}")))? {
                None => return Ok(()),
                Some(Event::Member(member)) => {
                    let number = self.number_of(&member)?;
                    self.waiting = Some((number, member));
                }
                Some(Event::Data(bytes)) => self.content(bytes)?,
                Some(Event::MemberEnd) => {
                    if let Some(current) = &mut self.current {
                        current.complete = true;
                    }
                }
            }
        }
        self.backlog.extend_from_slice(data);
        Ok(())
    }

    /// Ends and begins what can be; `false` when words must be waited for.
    fn settle(&mut self) -> Result<bool, TransportError> {
        if let Some(current) = self.current.take_if(|current| current.complete) {
            let failure = self.window.front().and_then(|sent| sent.failure.clone());
            let known = failure.is_some() || current.zeros == 0 || self.heard > current.number;
            if !known {
                self.current = Some(current);
                return Ok(false);
            }
            self.complete(current, failure)?;
        }
        if let Some((number, member)) = self.waiting.take() {
            if number > self.first && self.heard < number {
                self.waiting = Some((number, member));
                return Ok(false);
            }
            while self.first < number {
                self.end_missing()?;
            }
            self.begin(number, &member)?;
        }
        Ok(true)
    }

    fn begin(&mut self, number: u64, member: &Member) -> Result<(), TransportError> {
        if member.flag != b'0' {
            return self.end(Fetched::Denied("it is not a regular file".into()));
        }
        let facts = FileFacts { size: member.size, mtime: member.mtime, mode: member.mode };
        if let Some(sent) = self.window.front() {
            self.sink.begin(&sent.path, facts).map_err(|source| sink_error(&self.target, source))?;
        }
        self.current = Some(Current { number, size: member.size, given: 0, zeros: 0, complete: false });
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let solid = bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
        let (front, zeros) = bytes.split_at(solid);
        if !front.is_empty() {
            let held = std::mem::take(&mut current.zeros);
            current.given += held + front.len() as u64;
            give_zeros(self.sink, held)
                .and_then(|()| self.sink.data(front))
                .map_err(|source| sink_error(&self.target, source))?;
        }
        current.zeros += zeros.len() as u64;
        Ok(())
    }

    fn complete(&mut self, current: Current, failure: Option<Failure>) -> Result<(), TransportError> {
        let (zeros, ended) = match failure {
            None => (current.zeros, Fetched::Whole),
            Some(Failure::Shrunk(by)) => {
                let zeros = current.zeros.saturating_sub(by);
                (zeros, Fetched::Shrunk { got: current.given + zeros })
            }
            Some(Failure::Gone) => (0, Fetched::Vanished),
            Some(Failure::Words(words)) => (0, Fetched::Denied(words)),
        };
        give_zeros(self.sink, zeros).map_err(|source| sink_error(&self.target, source))?;
        if ended == Fetched::Whole && current.given + zeros != current.size {
            let path = self.window.front().map(|sent| sent.path.as_str()).unwrap_or_default();
            return Err(protocol(&self.target, DOING, format!("{path} did not have the size of its header")));
        }
        self.end(ended)
    }

    fn end_missing(&mut self) -> Result<(), TransportError> {
        let ended = match self.window.front().and_then(|sent| sent.failure.clone()) {
            None | Some(Failure::Gone | Failure::Shrunk(_)) => Fetched::Vanished,
            Some(Failure::Words(words)) => Fetched::Denied(words),
        };
        self.end(ended)
    }

    fn end(&mut self, how: Fetched) -> Result<(), TransportError> {
        let Some(sent) = self.window.pop_front() else { return Ok(()) };
        self.first += 1;
        self.sink.end(&sent.path, how).map_err(|source| sink_error(&self.target, source))
    }

    fn number_of(&self, member: &Member) -> Result<u64, TransportError> {
        let name = member.path.strip_prefix(b"./").unwrap_or(&member.path);
        // A directory that was asked for comes with a slash.
        let name = name.strip_suffix(b"/").unwrap_or(name);
        let place = self.window.iter().position(|sent| sent.path.as_str().as_bytes() == name);
        place.map(|place| self.first + place as u64).ok_or_else(|| {
            let name = String::from_utf8_lossy(name).into_owned();
            protocol(&self.target, DOING, format!("{name:?} was not asked for, or came twice or too late"))
        })
    }

    /// Takes a line of standard error: a name, a warning, or words of something else.
    fn hear(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let warning = line.strip_prefix(b"tar: ").or_else(|| line.strip_prefix(b"gtar: "));
        let (name, words) = match warning {
            None => (line, None),
            Some(rest) => split_warning(rest),
        };
        let path = name.strip_prefix(b"./").map(unescape);
        let behind = usize::try_from(self.heard.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let place = path.and_then(|path| {
            let path = path.strip_suffix(b"/").unwrap_or(&path);
            self.window.iter().skip(behind).position(|sent| sent.path.as_str().as_bytes() == path)
        });
        let Some(place) = place.map(|place| place + behind) else {
            return keep_tail(&mut self.words, &[line, b"\n"].concat());
        };
        self.heard = self.heard.max(self.first + place as u64);
        if let (Some(words), Some(sent)) = (words, self.window.get_mut(place))
            && let Some(failure) = failure(&String::from_utf8_lossy(words))
        {
            sent.failure = Some(failure);
        }
    }

    /// All was said and sent.
    fn finish(mut self) -> Result<(), TransportError> {
        self.heard = u64::MAX;
        let backlog = std::mem::take(&mut self.backlog);
        self.advance(&backlog)?;
        if !self.tar.ended() || self.current.is_some() {
            return Err(protocol(
                &self.target,
                DOING,
                format!("the archive ended too early: {}", super::remote::one_line(&self.words)),
            ));
        }
        while !self.window.is_empty() {
            self.end_missing()?;
        }
        Ok(())
    }
}

/// Splits `NAME: WORDS`; a colon of the name is escaped.
fn split_warning(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut escaped = false;
    for (at, pair) in line.windows(2).enumerate() {
        if !escaped && pair == b": " {
            return (line.get(..at).unwrap_or_default(), line.get(at + 2..));
        }
        escaped = !escaped && pair.first() == Some(&b'\\');
    }
    (line, None)
}

/// What GNU tar's words about a file mean; `None` when the file is whole nevertheless.
fn failure(words: &str) -> Option<Failure> {
    if let Some(rest) = words.strip_prefix("File shrank by ") {
        let by = rest.split(' ').next().and_then(|n| n.parse().ok());
        return Some(by.map_or_else(|| Failure::Words(words.into()), Failure::Shrunk));
    }
    // It grew or was touched meanwhile: what arrived is what it had when reading began.
    if words.contains("file changed as we read it") {
        return None;
    }
    let gone = ["No such file or directory", "File removed before we read it", "Stale file handle"];
    if gone.iter().any(|text| words.contains(text)) {
        return Some(Failure::Gone);
    }
    Some(Failure::Words(words.into()))
}

/// Undoes GNU's quoting style `escape`.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut bytes = name.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            plain.push(byte);
            continue;
        }
        match bytes.next() {
            Some(digit @ b'0'..=b'3') => {
                let mut value = u32::from(digit - b'0');
                for _ in 0..2 {
                    if let Some(digit) = bytes.next_if(|b| (b'0'..=b'7').contains(b)) {
                        value = value * 8 + u32::from(digit - b'0');
                    }
                }
                plain.push(u8::try_from(value).unwrap_or(b'?'));
            }
            Some(b'n') => plain.push(b'\n'),
            Some(b't') => plain.push(b'\t'),
            Some(b'r') => plain.push(b'\r'),
            Some(b'a') => plain.push(7),
            Some(b'b') => plain.push(8),
            Some(b'v') => plain.push(11),
            Some(b'f') => plain.push(12),
            Some(other) => plain.push(other),
            None => {}
        }
    }
    plain
}

fn give_zeros(sink: &mut dyn FetchSink, mut count: u64) -> io::Result<()> {
    const ZEROS: [u8; 8192] = [0; 8192];
    while count > 0 {
        let now = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
        sink.data(ZEROS.get(..now).unwrap_or_default())?;
        count -= now as u64;
    }
    Ok(())
}

fn sink_error(target: &str, source: io::Error) -> TransportError {
    TransportError::Sink { target: target.into(), source }
}

fn no_tar(target: &str) -> TransportError {
    let reason = "reading files needs GNU tar there, under the name tar or gtar (another tar cannot tell a file that \
                  shrank while it was read from a whole one)";
    TransportError::Unsupported { target: target.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::super::tar_write;
    use super::*;
    use crate::model::FileTime;

    #[derive(Default)]
    struct Log(Vec<String>);

    impl FetchSink for Log {
        fn begin(&mut self, path: &Utf8Path, facts: FileFacts) -> io::Result<()> {
            self.0.push(format!("begin {path} {}", facts.size));
            Ok(())
        }
        fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
            let zeros = bytes.iter().filter(|&&b| b == 0).count();
            self.0.push(format!("data {}+{zeros}", bytes.len() - zeros));
            Ok(())
        }
        fn end(&mut self, path: &Utf8Path, how: Fetched) -> io::Result<()> {
            self.0.push(format!("end {path} {how:?}"));
            Ok(())
        }
    }

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = b"gnu\n".to_vec();
        for (path, content) in files {
            tar_write::header(&mut archive, path, b'0', content.len() as u64, FileTime::default(), 0o600, "");
            archive.extend_from_slice(content);
            archive.resize(archive.len() + tar_write::padding(content.len() as u64) as usize, 0);
        }
        tar_write::end(&mut archive);
        archive
    }

    enum Say {
        Out(usize),
        Err(&'static str),
    }

    /// Runs a script of outputs; `Out(n)` gives the next n bytes of the archive.
    fn play(wanted: &[&str], archive: &[u8], script: &[Say]) -> (Vec<String>, Result<(), TransportError>) {
        let mut log = Log::default();
        let mut items = wanted.iter().map(|path| FetchItem { path: (*path).into(), size: 0 });
        let mut fetching = Fetching::new("host".into(), &mut items, &mut log);
        fetching.stdin(&mut [0; 4096]).unwrap();
        let mut rest = archive;
        for say in script {
            match say {
                Say::Out(n) => {
                    let (now, later) = rest.split_at((*n).min(rest.len()));
                    fetching.stdout(now).unwrap();
                    rest = later;
                }
                Say::Err(text) => fetching.stderr(text.as_bytes()).unwrap(),
            }
        }
        let ended = fetching.finish();
        (log.0, ended)
    }

    #[test]
    fn padding_is_held_back_until_tar_says_what_it_is() {
        let sent = archive(&[("./a", b"xy\0\0\0\0"), ("./b", b"z")]);
        let late =
            [Say::Out(9999), Say::Err("./a\ntar: ./a: File shrank by 3 bytes; padding with zeros\n./b\n")];
        let early =
            [Say::Err("./a\ntar: ./a: File shrank by 3 bytes; padding with zeros\n./b\n"), Say::Out(9999)];
        let expected =
            ["begin a 6", "data 2+0", "data 0+1", "end a Shrunk { got: 3 }", "begin b 1", "data 1+0"];
        for script in [&late[..], &early[..]] {
            let (log, ended) = play(&["a", "b"], &sent, script);
            ended.unwrap();
            assert_eq!(log[..6], expected);
        }
        let (log, ended) = play(&["a", "b"], &sent, &[Say::Out(9999), Say::Err("./a\n./b\n")]);
        ended.unwrap();
        assert_eq!(log[..4], ["begin a 6", "data 2+0", "data 0+4", "end a Whole"]);
    }

    #[test]
    fn zeros_at_an_end_wait_for_the_next_name() {
        let sent = archive(&[("./a", b"xy\0"), ("./b", b"z")]);
        let mut log = Log::default();
        let mut items = ["a", "b"].into_iter().map(|path| FetchItem { path: path.into(), size: 0 });
        let mut fetching = Fetching::new("host".into(), &mut items, &mut log);
        fetching.stdin(&mut [0; 4096]).unwrap();
        fetching.stderr(b"./a\n").unwrap();
        fetching.stdout(&sent).unwrap();
        assert_eq!(fetching.first, 0);
        fetching.stderr(b"./b\n").unwrap();
        assert_eq!(fetching.first, 2);
        assert_eq!(log.0[3], "end a Whole");
    }

    #[test]
    fn missing_files_end_with_tars_reason() {
        let sent = archive(&[("./c", b"z")]);
        let words = "tar: ./a: Cannot stat: No such file or directory\n\
                     tar: ./b\\: 1: Cannot open: Permission denied\n./c\n\
                     tar: ./d: Cannot stat: No such file or directory\n\
                     tar: Exiting with failure status due to previous errors\n";
        let (log, ended) = play(&["a", "b: 1", "c", "d"], &sent, &[Say::Out(9999), Say::Err(words)]);
        ended.unwrap();
        assert_eq!(
            log,
            [
                "end a Vanished",
                "end b: 1 Denied(\"Cannot open: Permission denied\")",
                "begin c 1",
                "data 1+0",
                "end c Whole",
                "end d Vanished"
            ]
        );
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let sent = archive(&[("./a", b"xyz"), ("./b", b"z")]);
        for length in [4, 4 + 300, 4 + 513, 4 + 1024] {
            let (_, ended) = play(&["a", "b"], &sent, &[Say::Out(length)]);
            assert!(matches!(ended, Err(TransportError::Protocol { .. })), "{length}");
        }
    }

    #[test]
    fn names_are_unescaped() {
        for (escaped, plain) in [("a b", "a b"), (r"a\:b\\", r"a:b\"), (r"\303\274\n", "ü\n")] {
            assert_eq!(unescape(escaped.as_bytes()), plain.as_bytes());
        }
    }
}
