//! What happened when: ends of transactions and restore points, as the archive's WAL tells them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::restore::ArchivedLogs;
use super::{Server, ServerError};
use crate::config::Operation;
use crate::ctx::Ctx;
use crate::format::history::TimelineHistory;
use crate::format::wal_record::{Landmark, LandmarkKind, PgTime};
use crate::model::{SegmentName, SegmentSize, Timeline};
use crate::recovery::TimeStop;
use crate::wal::{Commits, WalError};

/// A segment that was written last so long before a moment has nothing of that moment, whatever clock its time is from.
const SLACK: time::Duration = time::Duration::minutes(10);

/// What is asked of the archive's transactions.
#[derive(Debug, Clone, Copy)]
pub struct CommitQuery {
    /// Around this moment; `None` for the latest.
    pub around: Option<OffsetDateTime>,
    /// So many before it and so many after it.
    pub count: usize,
    /// On the way to this timeline; `None` for the newest.
    pub timeline: Option<Timeline>,
    /// Only restore points and what drops files.
    pub marks_only: bool,
}

impl Server {
    /// The ends of transactions and the restore points around a moment, in the order of their positions.
    ///
    /// # Errors
    /// When the archive cannot be read, or has no such timeline.
    pub fn commits_around(&self, query: &CommitQuery, ctx: &Ctx<'_>) -> Result<Vec<Landmark>, ServerError> {
        self.usable(Operation::Look, ctx)?;
        let logs = self.archived_logs(ctx)?;
        let size = self.wal_segment_size()?;
        let names = path_of(&logs, query.timeline, size)?;
        let mut commits = self.wal.commits(size);
        let wanted = |landmark: &Landmark| {
            !query.marks_only
                || !landmark.dropped.is_empty()
                || matches!(landmark.kind, LandmarkKind::RestorePoint(_))
        };
        let moment = query.around.map(PgTime::from_utc);
        let pivot = match (query.around, moment) {
            (Some(around), Some(moment)) => pivot(&mut commits, &names, &logs, around, moment)?,
            _ => names.len().saturating_sub(1),
        };
        // From the segment of the moment to both sides, until there is enough.
        let read = |commits: &mut Commits<'_>, at: usize| -> Result<Vec<Landmark>, WalError> {
            let Some(name) = names.get(at) else { return Ok(Vec::new()) };
            if query.marks_only && commits.times(*name)?.is_none_or(|times| !times.has_marks()) {
                return Ok(Vec::new());
            }
            let mut found = commits.landmarks(*name, names.get(at + 1).copied())?;
            found.retain(wanted);
            Ok(found)
        };
        let mut found = read(&mut commits, pivot)?;
        let is_after = |landmark: &Landmark| moment.is_some_and(|moment| landmark.time > moment);
        let mut at = pivot;
        while at > 0 && found.iter().filter(|l| !is_after(l)).count() < query.count {
            ctx.cancel.check()?;
            at -= 1;
            let mut earlier = read(&mut commits, at)?;
            earlier.append(&mut found);
            found = earlier;
        }
        let mut at = pivot;
        while at + 1 < names.len()
            && moment.is_some()
            && found.iter().filter(|l| is_after(l)).count() < query.count
        {
            ctx.cancel.check()?;
            at += 1;
            found.extend(read(&mut commits, at)?);
        }
        let first_after = found.iter().position(is_after).unwrap_or(found.len());
        let from = first_after.saturating_sub(query.count);
        let to = (first_after + query.count).min(found.len());
        Ok(found.get(from..to).unwrap_or_default().to_vec())
    }

    /// Makes the commit index anew from the segments; gives how many it has.
    pub fn rebuild_commits(&self, ctx: &Ctx<'_>) -> Result<u64, ServerError> {
        self.usable(Operation::Look, ctx)?;
        Ok(self.wal.rebuild_commits(self.wal_segment_size()?)?)
    }

    fn wal_segment_size(&self) -> Result<SegmentSize, ServerError> {
        let known = super::identity::known_cluster(&self.catalog, self.host.disk.as_ref())?;
        Ok(known.segment_size.unwrap_or(SegmentSize::DEFAULT))
    }

    /// See [`crate::recovery::StopAfter`]: answers by the commit index, and by the segments where it has no answer.
    pub(super) fn stop_after(
        &self,
        commits: &RefCell<Commits<'_>>,
        logs: &ArchivedLogs,
        names: &[SegmentName],
        target: OffsetDateTime,
        inclusive: bool,
    ) -> Result<TimeStop, WalError> {
        let commits = &mut *commits.borrow_mut();
        let moment = PgTime::from_utc(target);
        let stops = |time: PgTime| if inclusive { time > moment } else { time >= moment };
        let written = written(logs);
        for (at, name) in names.iter().enumerate() {
            if !commits.is_known(*name) && written.get(name).is_some_and(|time| *time + SLACK < target) {
                continue;
            }
            let Some(times) = commits.times(*name)? else { return Ok(TimeStop::Unknown) };
            let next = names.get(at + 1).copied();
            let crossing = commits.crossing(*name, next)?.filter(is_end).filter(|l| stops(l.time));
            if times.last().is_none_or(|last| !stops(last)) && crossing.is_none() {
                continue;
            }
            let found = commits.landmarks(*name, next)?;
            let Some(stop) = found.iter().find(|l| is_end(l) && stops(l.time)) else { continue };
            let ends_in_next = crossing.is_some_and(|crossing| crossing.lsn == stop.lsn);
            let segment = if ends_in_next { next.unwrap_or(*name) } else { *name };
            return Ok(match segment.number(commits.segment_size()) {
                Some(segment) => TimeStop::At { lsn: stop.lsn, segment },
                None => TimeStop::Unknown,
            });
        }
        for (at, name) in names.iter().enumerate().rev() {
            if commits.times(*name)?.is_none_or(|times| !times.has_ends()) {
                continue;
            }
            let found = commits.landmarks(*name, names.get(at + 1).copied())?;
            if let Some(last) = found.iter().rev().find(|l| is_end(l)) {
                return Ok(TimeStop::Never { last: last.time.to_utc().map(|time| (time, last.lsn)) });
            }
        }
        Ok(TimeStop::Never { last: None })
    }
}

fn is_end(landmark: &Landmark) -> bool {
    !matches!(landmark.kind, LandmarkKind::RestorePoint(_))
}

fn written(logs: &ArchivedLogs) -> BTreeMap<SegmentName, OffsetDateTime> {
    let time = |nanos| OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
    let entry =
        |entry: &crate::wal::WalEntry| Some((entry.name.as_segment()?, time(entry.mtime.as_nanos())?));
    logs.wals.iter().filter_map(entry).collect()
}

/// The segments on the way to a timeline, one a number.
fn path_of(
    logs: &ArchivedLogs,
    timeline: Option<Timeline>,
    size: SegmentSize,
) -> Result<Vec<SegmentName>, ServerError> {
    let segments = || logs.wals.iter().filter_map(|entry| entry.name.as_segment());
    let newest = segments().map(|name| name.timeline).max();
    let Some(timeline) = timeline.or(newest) else { return Ok(Vec::new()) };
    let history = logs.histories.iter().find(|history| history.timeline == timeline);
    if history.is_none() && !segments().any(|name| name.timeline == timeline) {
        return Err(ServerError::Usage(format!("The archive has no timeline {timeline}")));
    }
    let mut path: BTreeMap<u64, SegmentName> = BTreeMap::new();
    for name in segments() {
        let Some(number) = name.number(size) else { continue };
        if !is_on_path(history, timeline, name, size) {
            continue;
        }
        // Where a timeline begins, its own segment has all of the other one that counts.
        path.entry(number.get()).and_modify(|known| *known = (*known).max(name)).or_insert(name);
    }
    Ok(path.into_values().collect())
}

fn is_on_path(
    history: Option<&TimelineHistory>,
    timeline: Timeline,
    name: SegmentName,
    size: SegmentSize,
) -> bool {
    if name.timeline == timeline {
        return true;
    }
    let left = history.and_then(|history| history.left(name.timeline));
    matches!((left, name.start(size)), (Some(left), Some(start)) if start < left)
}

/// The segment in which the first transaction after a moment ended; the last one where there is none.
fn pivot(
    commits: &mut Commits<'_>,
    names: &[SegmentName],
    logs: &ArchivedLogs,
    around: OffsetDateTime,
    moment: PgTime,
) -> Result<usize, WalError> {
    let written = written(logs);
    for (at, name) in names.iter().enumerate() {
        if !commits.is_known(*name) && written.get(name).is_some_and(|time| *time + SLACK < around) {
            continue;
        }
        if commits.times(*name)?.and_then(|times| times.last()).is_some_and(|last| last > moment) {
            return Ok(at);
        }
    }
    Ok(names.len().saturating_sub(1))
}
