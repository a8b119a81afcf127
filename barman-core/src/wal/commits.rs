//! The commit index: for each segment when its first and last transactions ended, its restore points, and what was dropped.
//! It lies in the sidecar, is written while segments pass intake, and can be made anew from the segments at any time (I19):
//! nothing rests on it but speed.

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::stored::{self, Clusters};
use super::{LocalWalArchive, Shared, WalError};
use crate::format::wal_page::{Completeness, RECORD_HEADER, SegmentFacts};
use crate::format::wal_record::{Landmark, LandmarkKind, PgTime, landmark};
use crate::io::{IoContext, durable, fill};
use crate::model::{Lsn, PgVersion, SegmentName, SegmentSize, WalFileName};

/// Bytes read at once.
const READ: usize = 256 << 10;

/// What the index knows of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentTimes {
    /// The time of the file that this was read from, in seconds: a file that has another one is another file.
    #[serde(rename = "w")]
    written: i64,
    /// How many transactions ended in it.
    #[serde(rename = "n")]
    pub ends: u64,
    /// The earliest end, in PostgreSQL's microseconds; `None` when there is none.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    min: Option<i64>,
    /// The latest end.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    max: Option<i64>,
    /// How many restore points there are, and transactions that drop files.
    #[serde(rename = "m", default, skip_serializing_if = "is_none")]
    marks: u64,
    /// The major version that wrote it.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    major: Option<u32>,
    /// The beginning of a record that goes on in the next segment: where, and its bytes.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    tail: Option<(u64, String)>,
    /// What the segment begins with of a record of the one before.
    #[serde(rename = "c", default, skip_serializing_if = "String::is_empty")]
    carried: String,
}

impl SegmentTimes {
    fn of(facts: &SegmentFacts, written: i64) -> Self {
        let ends = || facts.landmarks.iter().filter(|l| !matches!(l.kind, LandmarkKind::RestorePoint(_)));
        Self {
            written,
            ends: ends().count() as u64,
            min: ends().map(|l| l.time.0).min(),
            max: ends().map(|l| l.time.0).max(),
            marks: facts.landmarks.iter().filter(|l| is_mark(l)).count() as u64,
            major: facts.major.map(PgVersion::num),
            tail: facts.tail.as_ref().map(|(lsn, bytes)| (lsn.get(), hex::encode(bytes))),
            // Only the beginning of a record that might be a landmark is of use, and that is known by the segment before.
            carried: hex::encode(&facts.carried),
        }
    }

    /// Whether a transaction ended in it, or may have begun to end.
    pub fn has_ends(&self) -> bool {
        self.ends > 0 || self.tail.is_some()
    }

    /// Whether it has restore points or transactions that drop files, as far as those lie in it as a whole; a record on its
    /// edge may be one.
    pub fn has_marks(&self) -> bool {
        self.marks > 0 || self.tail.is_some()
    }

    /// When the first transaction ended that ends in it.
    pub fn first(&self) -> Option<PgTime> {
        self.min.map(PgTime)
    }

    /// When the last one ended.
    pub fn last(&self) -> Option<PgTime> {
        self.max.map(PgTime)
    }

    /// The landmark that begins in this segment and ends in the next, whose index entry this is.
    fn crossing(&self, next: &Self) -> Option<Landmark> {
        let (lsn, tail) = self.tail.as_ref()?;
        let mut bytes = hex::decode(tail).ok()?;
        bytes.extend(hex::decode(&next.carried).ok()?);
        let (header, body) = bytes.split_first_chunk::<RECORD_HEADER>()?;
        landmark(Lsn::new(*lsn), header, body, self.major.map(PgVersion::new))
    }
}

fn is_mark(landmark: &Landmark) -> bool {
    !landmark.dropped.is_empty() || matches!(landmark.kind, LandmarkKind::RestorePoint(_))
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

/// A line of the index: the segment, and what is known of it.
#[derive(Serialize, Deserialize)]
struct Line {
    s: String,
    #[serde(flatten)]
    times: SegmentTimes,
}

/// Where the index lies.
fn path(shared: &Shared) -> Utf8PathBuf {
    shared.paths.sidecar_directory.join("commit-index")
}

/// The line of a segment that has just been judged.
pub(super) fn line(name: SegmentName, facts: &SegmentFacts, written: i64) -> String {
    let line = Line { s: name.to_string(), times: SegmentTimes::of(facts, written) };
    serde_json::to_string(&line).map(|text| text + "\n").unwrap_or_default()
}

/// Adds lines. What is lost is made anew when it is needed: nothing waits for it to be durable, and no error of it is the
/// archive's.
pub(super) fn add(shared: &Shared, lines: &str) {
    if lines.is_empty() {
        return;
    }
    let disk = &*shared.disk;
    let _ = disk.mkdir_all(&shared.paths.sidecar_directory, 0o777);
    if let Ok(mut file) = disk.append(&path(shared)) {
        // A torn line is passed over by readers.
        let _ = file.put(lines.as_bytes());
    }
}

/// Drops what the index knows of removed files, as far as that is worth it.
pub(super) fn forget(shared: &Shared, gone: &std::collections::HashSet<WalFileName>) {
    let Ok(text) = shared.disk.read_text(&path(shared)) else { return };
    let stays = |line: &&str| {
        let name = serde_json::from_str::<Line>(line).ok().and_then(|line| line.s.parse().ok());
        name.is_some_and(|name| !gone.contains(&WalFileName::Segment(name)))
    };
    let kept: String = text.lines().filter(stays).flat_map(|line| [line, "\n"]).collect();
    if kept.len() < text.len() {
        // One that stays as it was only takes room.
        let _ = durable::replace_durable(&*shared.disk, &path(shared), kept.as_bytes(), None);
    }
}

/// What the archive's transactions are asked: a reader of the index, which reads segments where the index has no line.
pub struct Commits<'a> {
    archive: &'a LocalWalArchive,
    size: SegmentSize,
    known: BTreeMap<SegmentName, SegmentTimes>,
    /// Lines for segments that were read.
    learnt: String,
}

impl LocalWalArchive {
    /// Opens the commit index; segments of `size`.
    pub fn commits(&self, size: SegmentSize) -> Commits<'_> {
        let text = self.shared.disk.read_text(&path(&self.shared)).unwrap_or_default();
        let mut known = BTreeMap::new();
        for line in text.lines() {
            if let Ok(line) = serde_json::from_str::<Line>(line)
                && let Ok(name) = line.s.parse::<SegmentName>()
            {
                known.insert(name, line.times);
            }
        }
        Commits { archive: self, size, known, learnt: String::new() }
    }

    /// Makes the index anew from the segments (I19); gives how many it has.
    ///
    /// # Errors
    /// When the archive cannot be listed. A segment that cannot be read has no line.
    pub fn rebuild_commits(&self, size: SegmentSize) -> Result<u64, WalError> {
        durable::remove_durable(&*self.shared.disk, &path(&self.shared))?;
        let mut commits = self.commits(size);
        let mut names = Vec::new();
        super::WalArchive::scan(self, &super::WalRange::default(), &mut |entry| {
            names.extend(entry.name.as_segment());
            std::ops::ControlFlow::Continue(())
        })?;
        let mut count = 0;
        for name in names {
            count += u64::from(commits.times(name).is_ok_and(|times| times.is_some()));
        }
        Ok(count)
    }
}

impl Commits<'_> {
    /// Whether the index has a line for a segment.
    pub fn is_known(&self, name: SegmentName) -> bool {
        self.known.contains_key(&name)
    }

    /// What is known of a segment; read from the segment where the index has no line. `None` when it is not in the archive, or
    /// is not sound.
    pub fn times(&mut self, name: SegmentName) -> Result<Option<SegmentTimes>, WalError> {
        // Somebody else may have put another file in its place: Barman knows nothing of this index.
        let Some(written) = self.written(name)? else { return Ok(None) };
        if let Some(times) = self.known.get(&name).filter(|times| times.written == written) {
            return Ok(Some(times.clone()));
        }
        let Some(facts) = self.read(name)? else { return Ok(None) };
        self.learnt.push_str(&line(name, &facts, written));
        let times = SegmentTimes::of(&facts, written);
        self.known.insert(name, times.clone());
        Ok(Some(times))
    }

    /// The landmark that begins in one segment and ends in the one that follows it.
    pub fn crossing(
        &mut self,
        name: SegmentName,
        next: Option<SegmentName>,
    ) -> Result<Option<Landmark>, WalError> {
        let Some(next) = next else { return Ok(None) };
        let Some(times) = self.times(name)?.filter(|times| times.tail.is_some()) else { return Ok(None) };
        Ok(self.times(next)?.and_then(|next| times.crossing(&next)))
    }

    /// All landmarks of a segment in the order of their positions, that which ends in `next` included.
    pub fn landmarks(
        &mut self,
        name: SegmentName,
        next: Option<SegmentName>,
    ) -> Result<Vec<Landmark>, WalError> {
        let Some(written) = self.written(name)? else { return Ok(Vec::new()) };
        let Some(facts) = self.read(name)? else { return Ok(Vec::new()) };
        self.known.insert(name, SegmentTimes::of(&facts, written));
        let crossing = self.crossing(name, next)?;
        Ok(facts.landmarks.into_iter().chain(crossing).collect())
    }

    /// How long the segments are.
    pub fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// The time of a segment's file, in seconds; `None` when there is none.
    fn written(&self, name: SegmentName) -> Result<Option<i64>, WalError> {
        let shared = &self.archive.shared;
        match shared.disk.stat(&shared.paths.file(&WalFileName::Segment(name))) {
            Err(e) if e.is_not_found() => Ok(None),
            other => Ok(Some(other?.mtime.seconds)),
        }
    }

    fn read(&self, name: SegmentName) -> Result<Option<SegmentFacts>, WalError> {
        let shared = &*self.archive.shared;
        let path = shared.paths.file(&WalFileName::Segment(name));
        let mut plain = match stored::open(shared, &path) {
            Ok(stored) => stored.plain,
            Err(WalError::Io(e)) if e.is_not_found() => return Ok(None),
            Err(WalError::Corrupt { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut chunk = vec![0; READ];
        let mut validator = None;
        loop {
            let count = match fill(&mut plain, &mut chunk) {
                Err(e) if stored::damage(&e).is_some() => return Ok(None),
                other => other.context("read", &path)?,
            };
            let bytes = chunk.get(..count).unwrap_or_default();
            let judge = match &mut validator {
                Some(judge) => judge,
                None => {
                    let made = shared.validator(name, Completeness::Full, Clusters::Known, bytes)?;
                    validator.insert(made.with_landmarks())
                }
            };
            if count == 0 {
                return Ok(validator.and_then(|validator| validator.finish().ok()));
            }
            judge.push(bytes);
        }
    }
}

impl Drop for Commits<'_> {
    /// What was read is remembered.
    fn drop(&mut self) {
        add(&self.archive.shared, &self.learnt);
    }
}
