//! Writing many files of a host through one tar.

use std::io::{self, Read};

use camino::Utf8Path;

use super::command::sh;
use super::local::{below, ended_early};
use super::remote::{ENTER, NO_ROOT, RemoteShell, file_error, keep_tail, run};
use super::{Exchange, StoreContent, StoreItem, StoreReport, TransportError, tar_write};

/// Any tar will do that replaces existing files by new inodes: GNU tar does so by itself, bsdtar with `-U`, busybox by
/// itself. `-P`: links are made at once and as they are. Owners are never taken from the archive.
const SCRIPT: &str = "for t in gtar tar bsdtar; do case $(\"$t\" --version 2>&1 </dev/null) in \
     *\"GNU tar\"*) exec \"$t\" -x -p -f - -P --no-same-owner --warning=no-timestamp;; \
     *bsdtar*) exec \"$t\" -x -p -f - -P -U --no-same-owner;; \
     *usy[Bb]ox*) exec \"$t\" -x -p -o -f -;; esac; done; exit 8";

const NO_TAR: super::ExitStatus = super::ExitStatus::Code(8);

struct Storing<'a> {
    target: String,
    items: &'a mut dyn Iterator<Item = Result<StoreItem, TransportError>>,
    report: StoreReport,
    /// Bytes to be sent before anything else, from `sent` on.
    pending: Vec<u8>,
    sent: usize,
    file: Option<Body>,
    ended: bool,
    words: Vec<u8>,
    error: Option<TransportError>,
}

struct Body {
    path: camino::Utf8PathBuf,
    bytes: Box<dyn Read + Send>,
    size: u64,
    left: u64,
}

pub(super) fn store(
    shell: &mut dyn RemoteShell,
    root: &Utf8Path,
    items: &mut dyn Iterator<Item = Result<StoreItem, TransportError>>,
) -> Result<StoreReport, TransportError> {
    let target = shell.target().to_owned();
    let mut storing = Storing {
        target,
        items,
        report: StoreReport::default(),
        pending: Vec::new(),
        sent: 0,
        file: None,
        ended: false,
        words: Vec::new(),
        error: None,
    };
    let ran = run(shell, &sh(&format!("{ENTER}{SCRIPT}"), &[root.as_str()]), &mut storing);
    if let Some(error) = storing.error {
        return Err(error);
    }
    let (target, words) = (&storing.target, &storing.words);
    match ran? {
        NO_ROOT => Err(file_error(target, "open", root, words)),
        NO_TAR => Err(TransportError::Unsupported {
            target: target.clone(),
            reason: "writing files needs GNU tar, bsdtar or the tar of busybox there".into(),
        }),
        status if status.success() && storing.ended => Ok(storing.report),
        _ => Err(file_error(target, "write below", root, words)),
    }
}

impl Exchange for Storing<'_> {
    fn stdin(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.fill(rest) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) => {
                    let text = error.to_string();
                    self.error = Some(error);
                    return Err(io::Error::other(text));
                }
            }
        }
        Ok(filled)
    }

    fn stdout(&mut self, data: &[u8]) -> io::Result<()> {
        keep_tail(&mut self.words, data);
        Ok(())
    }

    fn stderr(&mut self, data: &[u8]) -> io::Result<()> {
        keep_tail(&mut self.words, data);
        Ok(())
    }
}

impl Storing<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, TransportError> {
        loop {
            if let Some(rest) = self.pending.get(self.sent..).filter(|rest| !rest.is_empty()) {
                let n = rest.len().min(buffer.len());
                let (Some(from), Some(to)) = (rest.get(..n), buffer.get_mut(..n)) else { return Ok(0) };
                to.copy_from_slice(from);
                self.sent += n;
                return Ok(n);
            }
            self.pending.clear();
            self.sent = 0;
            match &mut self.file {
                Some(body) if body.left > 0 => {
                    let most = usize::try_from(body.left).unwrap_or(usize::MAX).min(buffer.len());
                    match body.bytes.read(buffer.get_mut(..most).unwrap_or_default()) {
                        Ok(0) => return Err(ended_early(&body.path, body.left, &self.target)),
                        Ok(n) => {
                            body.left -= n as u64;
                            return Ok(n);
                        }
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(source) => {
                            return Err(TransportError::Source { target: self.target.clone(), source });
                        }
                    }
                }
                Some(body) => {
                    let padding = usize::try_from(tar_write::padding(body.size)).unwrap_or_default();
                    self.pending.resize(padding, 0);
                    self.report.files += 1;
                    self.report.bytes += body.size;
                    self.file = None;
                }
                None if self.ended => return Ok(0),
                None => match self.items.next().transpose()? {
                    Some(item) => self.header(item)?,
                    None => {
                        tar_write::end(&mut self.pending);
                        self.ended = true;
                    }
                },
            }
        }
    }

    fn header(&mut self, item: StoreItem) -> Result<(), TransportError> {
        // With `./` in front no name looks like an option or a device.
        let name = format!("./{}", below(&item.path, &self.target)?);
        let (flag, size, link) = match &item.content {
            StoreContent::Directory => (b'5', 0, ""),
            StoreContent::File { size, .. } => (b'0', *size, ""),
            StoreContent::Symlink(target) => (b'2', 0, target.as_str()),
        };
        tar_write::header(&mut self.pending, &name, flag, size, item.mtime, item.mode, link);
        if let StoreContent::File { size, bytes } = item.content {
            self.file = Some(Body { path: item.path, bytes, size, left: size });
        }
        Ok(())
    }
}
