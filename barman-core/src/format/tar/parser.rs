//! [`Parser`]: reads a tar stream that arrives in pieces.

use super::header::{Block, Extension, until_nul};
use super::{BLOCK, Kind, Member, TarError, lossy, padding};

/// No extended header or long name is believed to be longer.
const LONGEST_META: u64 = 1 << 20;

/// What comes next in a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A member begins.
    Member(Member),
    /// The next bytes of the body of the member that began last. Never empty.
    Data(&'a [u8]),
    /// The body is complete. Comes for every member, also for those without a body.
    MemberEnd,
    /// Two blocks of zeros: the archive is complete. What follows is ignored.
    End,
}

/// How a stream ended that was not cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With two blocks of zeros.
    Marked,
    /// Between two members. Archives that PostgreSQL before 15 sends end like this; a file that does was cut off, or
    /// not, and only the number of its members can tell.
    Unmarked,
}

#[derive(Debug)]
enum State {
    /// Collecting a header block.
    Header,
    /// Passing a body: bytes left, then padding.
    Body {
        left: u64,
        pad: u64,
    },
    /// Collecting the body of an extended header or long name of this type.
    Meta {
        kind: u8,
        left: u64,
        pad: u64,
        offset: u64,
    },
    /// Skipping padding.
    Padding {
        left: u64,
    },
    Ended,
}

/// Reads a tar stream that arrives in pieces, in memory bounded by the longest name.
#[derive(Debug)]
pub struct Parser {
    state: State,
    /// Bytes understood.
    offset: u64,
    block: [u8; BLOCK],
    have: usize,
    meta: Vec<u8>,
    /// What holds for all members from a global header on.
    global: Extension,
    /// What holds for the next member.
    next: Extension,
    extended: bool,
    zero_block: bool,
    path: Vec<u8>,
    failed: Option<TarError>,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser at the beginning of an archive.
    pub fn new() -> Self {
        Self {
            state: State::Header,
            offset: 0,
            block: [0; BLOCK],
            have: 0,
            meta: Vec::new(),
            global: Extension::default(),
            next: Extension::default(),
            extended: false,
            zero_block: false,
            path: Vec::new(),
            failed: None,
        }
    }

    /// Takes from the front of `input` what makes the next event; `None` when all of it is used up and more is needed.
    ///
    /// # Errors
    /// When the stream is no readable archive; the same error comes again from every later call.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, TarError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.step(input);
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    /// Says, when no more input will come, whether the archive was complete.
    ///
    /// # Errors
    /// [`TarError::Truncated`], or the error that stopped the parser.
    pub fn finish(self) -> Result<End, TarError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.state {
            State::Ended => Ok(End::Marked),
            State::Header if self.have == 0 && !self.extended => Ok(End::Unmarked),
            State::Body { .. } | State::Padding { .. } => {
                Err(TarError::Truncated { length: self.offset, path: lossy(&self.path) })
            }
            _ => Err(TarError::Truncated { length: self.offset, path: String::new() }),
        }
    }

    fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, TarError> {
        loop {
            match self.state {
                State::Body { left: 0, pad } => {
                    self.state = if pad == 0 { State::Header } else { State::Padding { left: pad } };
                    return Ok(Some(Event::MemberEnd));
                }
                State::Meta { kind, left: 0, pad, offset } => {
                    self.take_meta(kind, offset)?;
                    self.state = if pad == 0 { State::Header } else { State::Padding { left: pad } };
                }
                State::Padding { left: 0 } => self.state = State::Header,
                State::Ended => {
                    *input = &[];
                    return Ok(None);
                }
                _ if input.is_empty() => return Ok(None),
                State::Body { left, pad } => {
                    let data = self.take(input, left);
                    self.state = State::Body { left: left - data.len() as u64, pad };
                    return Ok(Some(Event::Data(data)));
                }
                State::Meta { kind, left, pad, offset } => {
                    let data = self.take(input, left);
                    self.meta.extend(data);
                    self.state = State::Meta { kind, left: left - data.len() as u64, pad, offset };
                }
                State::Padding { left } => {
                    let data = self.take(input, left);
                    self.state = State::Padding { left: left - data.len() as u64 };
                }
                State::Header => {
                    let data = self.take(input, (BLOCK - self.have) as u64);
                    for (to, byte) in self.block.iter_mut().skip(self.have).zip(data) {
                        *to = *byte;
                    }
                    self.have += data.len();
                    if self.have == BLOCK {
                        self.have = 0;
                        if let Some(event) = self.take_header()? {
                            return Ok(Some(event));
                        }
                    }
                }
            }
        }
    }

    fn take<'a>(&mut self, input: &mut &'a [u8], most: u64) -> &'a [u8] {
        let count = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
        let (now, later) = input.split_at_checked(count).unwrap_or((input, &[]));
        *input = later;
        self.offset += now.len() as u64;
        now
    }

    fn take_header(&mut self) -> Result<Option<Event<'static>>, TarError> {
        let offset = self.offset - BLOCK as u64;
        if self.block.iter().all(|b| *b == 0) {
            if self.zero_block {
                self.state = State::Ended;
                return Ok(Some(Event::End));
            }
            self.zero_block = true;
            return Ok(None);
        }
        if self.zero_block {
            return Err(TarError::LoneZeroBlock { offset: offset - BLOCK as u64 });
        }
        let block = self.block;
        let block = Block::new(&block, offset)?;
        let kind = block.kind();
        if matches!(kind, b'x' | b'X' | b'g' | b'L' | b'K') {
            let left = block.size()?;
            if left > LONGEST_META {
                return Err(TarError::LongHeader { offset, found: left });
            }
            self.meta.clear();
            self.extended = true;
            self.state = State::Meta { kind, left, pad: padding(left) as u64, offset };
            return Ok(None);
        }
        let member = self.member(&block)?;
        self.path.clone_from(&member.path);
        self.state = State::Body { left: member.size, pad: padding(member.size) as u64 };
        Ok(Some(Event::Member(member)))
    }

    fn take_meta(&mut self, kind: u8, offset: u64) -> Result<(), TarError> {
        let meta = std::mem::take(&mut self.meta);
        match kind {
            b'L' => self.next.path = Some(until_nul(&meta).to_vec()),
            b'K' => self.next.link = Some(until_nul(&meta).to_vec()),
            b'g' => {
                self.global.read(&meta, offset)?;
                self.extended = false;
            }
            _ => self.next.read(&meta, offset)?,
        }
        Ok(())
    }

    fn member(&mut self, block: &Block<'_>) -> Result<Member, TarError> {
        let (next, global) = (std::mem::take(&mut self.next), &self.global);
        let extended = std::mem::replace(&mut self.extended, false);
        let mut path = next.path.or_else(|| global.path.clone()).unwrap_or_else(|| block.path());
        let link =
            |next: Option<Vec<u8>>| next.or_else(|| global.link.clone()).unwrap_or_else(|| block.link());
        let slash = path.ends_with(b"/");
        let kind = match block.kind() {
            b'0' | 0 if slash => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::HardLink(link(next.link)),
            b'2' => Kind::Symlink(link(next.link)),
            b'3' | b'4' | b'6' => Kind::Special,
            b'5' => Kind::Directory,
            b'S' => return Err(TarError::Sparse { path: lossy(&path) }),
            kind => return Err(TarError::UnsupportedKind { path: lossy(&path), kind: char::from(kind) }),
        };
        if next.sparse || global.sparse {
            return Err(TarError::Sparse { path: lossy(&path) });
        }
        if kind == Kind::Directory {
            while path.len() > 1 && path.ends_with(b"/") {
                path.pop();
            }
        }
        let size = match &kind {
            Kind::File => next.size.or(global.size).map_or_else(|| block.size(), Ok)?,
            // Only PAX lets a hard link have a body; elsewhere the field repeats the size of the file.
            Kind::HardLink(_) if extended => next.size.map_or_else(|| block.size(), Ok)?,
            _ => 0,
        };
        Ok(Member {
            path,
            kind,
            size,
            mode: block.mode()?,
            uid: next.uid.or(global.uid).map_or_else(|| block.uid(), Ok)?,
            gid: next.gid.or(global.gid).map_or_else(|| block.gid(), Ok)?,
            mtime: next.mtime.or(global.mtime).map_or_else(|| block.mtime(), Ok)?,
        })
    }
}
