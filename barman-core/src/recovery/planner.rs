//! [`StandardPlanner`]: the planner for backups with files and an archive of segments.

use std::collections::HashSet;

use camino::{Utf8Path, Utf8PathBuf};

use super::path::TimelinePath;
use super::settings;
use super::{
    Facts, PlanError, RecoveryPlan, RecoveryPlanner, RecoveryRequest, TablespacePlan, TimeStop, TreePlan,
    WalDelivery, WalPlan,
};
use crate::catalog::Root;
use time::OffsetDateTime;

use crate::format::timestamp::python_str;
use crate::model::{
    BackupInfo, Lsn, PgVersion, SegmentName, SegmentNo, SegmentSize, StopPoint, TargetTimeline, Timeline,
    WalFileName,
};
use crate::wal::PartialWal;

/// Plans from the facts of a backup and the names in an archive. The source server is not needed.
#[derive(Debug, Clone, Copy, Default)]
pub struct StandardPlanner;

impl RecoveryPlanner for StandardPlanner {
    fn plan(&self, request: &RecoveryRequest, facts: &Facts<'_>) -> Result<RecoveryPlan, PlanError> {
        let needs = Needs::of(facts.backup)?;
        let mut warnings = Vec::new();
        before_end(request, facts.backup, &needs)?;
        let (path, explicit) = choose_path(request, facts, &needs, &mut warnings)?;
        let tablespaces = tablespaces(request, facts.backup)?;
        let trees = trees(request, &tablespaces)?;
        let mut log = Log::read(&path, facts, &needs);
        log.unfinished(request, facts, &needs, &path, &mut warnings);
        if request.partial && matches!(request.wal, WalDelivery::Fetch { .. }) {
            warnings.push(
                "--partial-wal has no effect on a server that fetches its WAL: give its restore_command the option -P"
                    .to_owned(),
            );
        }
        log.find_stop(request, facts, &needs, &path, &mut warnings)?;
        let reachable = log.judge(request, facts, &needs, &path)?;
        let wal = match &request.wal {
            WalDelivery::Fetch { .. } => None,
            WalDelivery::Copy { directory } => {
                Some(wal_plan(request, facts, &needs, &path, &log, directory.as_deref()))
            }
        };
        if let Some(wal) = wal.as_ref().filter(|wal| !wal.own_directory) {
            staging_is_apart(&wal.directory, &request.destination, &trees)?;
        }
        if let (StopPoint::Time(target), Some((missing, _)), None) =
            (&request.target.stop, log.missing, log.stop)
        {
            warnings.push(format!(
                "WAL file {missing} is missing in the archive. By the times of the files before it, {target} lies \
                 before the gap; if recovery ends too early, archiving was late and that time cannot be reached"
            ));
        }
        let settings = settings::plan(request, needs.version, wal.as_ref(), explicit)?;
        let copies = wal.is_some();
        Ok(RecoveryPlan {
            backup: facts.backup.id,
            destination: request.destination.clone(),
            trees,
            tablespaces,
            wal,
            settings,
            timeline: path.last().unwrap_or(needs.timeline),
            reachable: copies.then_some(reachable),
            warnings,
        })
    }
}

/// Facts without which nothing can be planned.
struct Needs {
    timeline: Timeline,
    version: PgVersion,
    size: SegmentSize,
    begin: SegmentNo,
    end: SegmentNo,
    end_lsn: Lsn,
}

impl Needs {
    fn of(backup: &BackupInfo) -> Result<Self, PlanError> {
        if !backup.status.is_available() {
            return Err(PlanError::NotRestorable { status: backup.status });
        }
        let missing = |fact| PlanError::Incomplete { id: backup.id, fact };
        let size = backup.xlog_segment_size;
        let begin_wal = backup.begin_wal.ok_or_else(|| missing("begin_wal"))?;
        let end_wal = backup.end_wal.ok_or_else(|| missing("end_wal"))?;
        Ok(Self {
            timeline: begin_wal.timeline,
            version: backup.version.ok_or_else(|| missing("version"))?,
            size,
            begin: begin_wal.number(size).ok_or_else(|| missing("begin_wal that fits xlog_segment_size"))?,
            end: end_wal.number(size).ok_or_else(|| missing("end_wal that fits xlog_segment_size"))?,
            end_lsn: backup.end_xlog.ok_or_else(|| missing("end_xlog"))?,
        })
    }
}

fn before_end(request: &RecoveryRequest, backup: &BackupInfo, needs: &Needs) -> Result<(), PlanError> {
    match (&request.target.stop, backup.end_time) {
        (StopPoint::Time(target), Some(end)) if *target < end => {
            Err(PlanError::TimeBeforeEnd { target: *target, end })
        }
        (StopPoint::Lsn(target), _) if *target < needs.end_lsn => {
            Err(PlanError::LsnBeforeEnd { target: *target, end: needs.end_lsn })
        }
        _ => Ok(()),
    }
}

/// The timelines to follow, and the id to write into the settings when PostgreSQL's own search would end elsewhere.
fn choose_path(
    request: &RecoveryRequest,
    facts: &Facts<'_>,
    needs: &Needs,
    warnings: &mut Vec<String>,
) -> Result<(TimelinePath, Option<Timeline>), PlanError> {
    let find = |target| TimelinePath::find(needs.timeline, needs.end_lsn, target, facts.histories);
    let wanted = |timeline| {
        find(timeline).map_err(|reason| PlanError::Timeline { timeline, id: facts.backup.id, reason })
    };
    match request.target.timeline {
        TargetTimeline::Current => Ok((TimelinePath::single(needs.timeline), None)),
        TargetTimeline::Id(timeline) => Ok((wanted(timeline)?, None)),
        TargetTimeline::Latest => {
            let newest = facts.histories.iter().map(|h| h.timeline).max().unwrap_or(needs.timeline);
            let newest = newest.max(needs.timeline);
            // Where an id is missing in between, the server's own search would stop there.
            let explicit = (newest != server_latest(needs.timeline, facts)).then_some(newest);
            Ok((wanted(newest)?, explicit))
        }
        TargetTimeline::Default => {
            let archive_recovery = request.target.is_point_in_time()
                || request.standby
                || matches!(request.wal, WalDelivery::Fetch { .. });
            // A server that only becomes consistent, or one before 12, stays on the backup's own timeline.
            if !archive_recovery || !needs.version.has_recovery_signal() {
                return Ok((TimelinePath::single(needs.timeline), None));
            }
            let newest = facts
                .histories
                .iter()
                .map(|h| h.timeline)
                .filter(|t| *t > needs.timeline)
                .filter(|t| find(*t).is_ok())
                .max()
                .unwrap_or(needs.timeline);
            let found_by_server = server_latest(needs.timeline, facts);
            let explicit = (newest != found_by_server).then_some(newest);
            if let Some(newest) = explicit {
                warnings.push(format!(
                    "The archive also holds timelines that do not descend from this backup; \
                     recovery is told to follow timeline {newest}"
                ));
            }
            Ok((wanted(newest)?, explicit))
        }
    }
}

/// What `findNewestTimeLine` of PostgreSQL's `timeline.c` would find: it tries the next id until there is no history.
fn server_latest(from: Timeline, facts: &Facts<'_>) -> Timeline {
    let known: HashSet<Timeline> = facts.histories.iter().map(|h| h.timeline).collect();
    let mut newest = from;
    while let Some(next) = newest.get().checked_add(1).and_then(Timeline::new).filter(|t| known.contains(t)) {
        newest = next;
    }
    newest
}

fn tablespaces(request: &RecoveryRequest, backup: &BackupInfo) -> Result<Vec<TablespacePlan>, PlanError> {
    let known: Vec<String> = backup.tablespaces.iter().map(|t| t.name.clone()).collect();
    if let Some(name) = request.tablespaces.keys().find(|name| !known.contains(name)) {
        return Err(PlanError::UnknownTablespace { name: name.clone(), known });
    }
    Ok(backup
        .tablespaces
        .iter()
        .map(|tablespace| TablespacePlan {
            oid: tablespace.oid,
            name: tablespace.name.clone(),
            location: request.tablespaces.get(&tablespace.name).unwrap_or(&tablespace.location).clone(),
        })
        .collect())
}

fn trees(request: &RecoveryRequest, tablespaces: &[TablespacePlan]) -> Result<Vec<TreePlan>, PlanError> {
    if !request.destination.is_absolute() {
        return Err(PlanError::Invalid(format!(
            "The destination '{}' is not an absolute path",
            request.destination
        )));
    }
    let mut trees: Vec<TreePlan> = Vec::new();
    for tablespace in tablespaces {
        let location = &tablespace.location;
        if !location.is_absolute() {
            return Err(PlanError::Invalid(format!(
                "The location '{location}' of tablespace '{}' is not an absolute path",
                tablespace.name
            )));
        }
        if request.destination.starts_with(location) {
            return Err(PlanError::Overlap(format!(
                "Tablespace '{}' would lie in {location}, which holds the destination {}; \
                 choose another place with --tablespace {}:LOCATION",
                tablespace.name, request.destination, tablespace.name
            )));
        }
        if let Some(other) = trees.iter().find(|t| overlap(&t.destination, location)) {
            return Err(PlanError::Overlap(format!(
                "Tablespace '{}' would lie in {location}, in one place with {}; \
                 choose another place with --tablespace {}:LOCATION",
                tablespace.name, other.destination, tablespace.name
            )));
        }
        trees.push(TreePlan { root: Root::Tablespace(tablespace.oid), destination: location.clone() });
    }
    trees.push(TreePlan { root: Root::Data, destination: request.destination.clone() });
    Ok(trees)
}

/// The staging directory is removed with all it holds when recovery ends: it may hold nothing else.
fn staging_is_apart(staging: &Utf8Path, destination: &Utf8Path, trees: &[TreePlan]) -> Result<(), PlanError> {
    if !staging.is_absolute() {
        return Err(PlanError::Invalid(format!(
            "The staging directory for WAL, '{staging}', is not an absolute path"
        )));
    }
    let in_the_way = trees.iter().find(|tree| match (tree.root, staging.strip_prefix(destination)) {
        // A directory of its own in the data directory, as the default is, but none of the server's.
        (Root::Data, Ok(inside)) => inside.components().next().is_none_or(|first| {
            let name = first.as_str();
            matches!(name, "base" | "global" | "log") || name.starts_with("pg_")
        }),
        _ => overlap(&tree.destination, staging),
    });
    in_the_way.map_or(Ok(()), |tree| {
        Err(PlanError::Overlap(format!(
            "The staging directory for WAL, {staging}, is removed when recovery ends and would take files of {} \
             along; choose a directory of its own with --staging-wal-directory",
            tree.destination
        )))
    })
}

fn overlap(a: &Utf8Path, b: &Utf8Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// The archive along the chosen path.
struct Log {
    present: HashSet<SegmentName>,
    /// First segment from the beginning that is missing, `None` when there is no hole before the last one.
    missing: Option<(SegmentName, Lsn)>,
    /// One past the last byte without a hole.
    reach: Lsn,
    /// The unfinished segment at the end, where it is wanted.
    partial: Option<PartialWal>,
    /// Where replay to a time stops, as far as that is known: the segment that has the last byte needed.
    stop: Option<SegmentNo>,
}

impl Log {
    fn read(path: &TimelinePath, facts: &Facts<'_>, needs: &Needs) -> Self {
        let timelines: HashSet<Timeline> = path.timelines().collect();
        // A server that was left behind may have gone on: what it wrote after the switch is not on the path.
        let on_path = |name: &SegmentName| {
            name.number(needs.size).is_some_and(|number| path.names(number, needs.size).contains(name))
        };
        let present: HashSet<SegmentName> = facts
            .wals
            .iter()
            .filter_map(|entry| entry.name.as_segment())
            .filter(|name| timelines.contains(&name.timeline) && on_path(name))
            .collect();
        let last =
            present.iter().filter_map(|n| n.number(needs.size)).max().map_or(needs.end, |n| n.max(needs.end));
        let mut log = Self { present, missing: None, reach: Lsn::INVALID, partial: None, stop: None };
        for number in needs.begin.get()..=last.get() {
            let number = SegmentNo::new(number);
            let names = path.names(number, needs.size);
            let start = Lsn::segment_start(number, needs.size).unwrap_or_default();
            let Some(best) = names.first() else { break };
            if log.present.contains(best) {
                log.reach = start.checked_add(needs.size.bytes()).unwrap_or(start);
                continue;
            }
            // The segment of a switch may have come from the old timeline only: it serves up to the switch.
            let older = names.iter().skip(1).find(|name| log.present.contains(name));
            log.reach = older.and_then(|name| path.left(name.timeline)).unwrap_or(start);
            if older.is_none() || number < last {
                log.missing = Some((*best, log.reach));
            }
            break;
        }
        log
    }

    /// Looks whether the WAL goes on in a segment that never became whole, uses it if that is wanted, and says what it holds.
    fn unfinished(
        &mut self,
        request: &RecoveryRequest,
        facts: &Facts<'_>,
        needs: &Needs,
        path: &TimelinePath,
        warnings: &mut Vec<String>,
    ) {
        // Behind a hole it is of no use; a server that fetches its WAL asks for it itself.
        if self.missing.is_some_and(|(_, reach)| reach != self.reach || self.reach.offset(needs.size) != 0)
            || matches!(request.wal, WalDelivery::Fetch { .. })
            || matches!(request.target.stop, StopPoint::Immediate)
        {
            return;
        }
        let number = self.reach.segment(needs.size);
        let found = path.names(number, needs.size).into_iter().find_map(|name| (facts.unfinished)(name));
        let Some(found) = found.filter(|found| found.valid_until > self.reach) else { return };
        let segment = WalFileName::Partial(found.name);
        let written = OffsetDateTime::from_unix_timestamp(found.mtime.seconds)
            .map_or_else(|_| String::new(), |time| format!(", last written at {}", python_str(time)));
        if !request.partial {
            if matches!(request.target.stop, StopPoint::Latest) {
                warnings.push(format!(
                    "{segment} holds WAL up to {}{written}, which this restore does not use: the WAL ends at {} for it. If the \
                     server is lost, restore with --partial-wal to get all that was received",
                    found.valid_until, self.reach
                ));
            }
            return;
        }
        warnings.push(format!(
            "The unfinished segment {segment} is used: it recovers what was received up to {}{written}",
            found.valid_until
        ));
        self.reach = found.valid_until;
        self.missing = self.missing.filter(|(missing, _)| missing.number(needs.size) != Some(number));
        self.partial = Some(found);
    }

    /// Where replay to a time stops, by what the WAL says of its transactions.
    fn find_stop(
        &mut self,
        request: &RecoveryRequest,
        facts: &Facts<'_>,
        needs: &Needs,
        path: &TimelinePath,
        warnings: &mut Vec<String>,
    ) -> Result<(), PlanError> {
        let StopPoint::Time(target) = request.target.stop else { return Ok(()) };
        // What a server fetches by itself may come yet, and a standby waits for it.
        if matches!(request.wal, WalDelivery::Fetch { .. }) || request.standby || self.reach < needs.end_lsn {
            return Ok(());
        }
        let last = self.reach.previous_segment(needs.size);
        let best = |number| {
            let names = path.names(SegmentNo::new(number), needs.size);
            names.into_iter().find(|name| self.present.contains(name))
        };
        let names: Vec<SegmentName> = (needs.end.get()..=last.get()).map_while(best).collect();
        match (facts.stop_after)(&names, target, request.target.inclusive) {
            TimeStop::At { segment, .. } => self.stop = Some(segment.max(needs.end)),
            TimeStop::Never { last } if self.missing.is_none() && self.partial.is_none() => {
                // Before 13 the server opened at the end of the WAL, as if that had been the target.
                if needs.version.num() >= 130_000 {
                    return Err(PlanError::TimeBeyondArchive { target, last });
                }
                warnings.push(PlanError::TimeBeyondArchive { target, last }.to_string());
            }
            TimeStop::Never { .. } | TimeStop::Unknown => {}
        }
        Ok(())
    }

    /// Whether the target can be reached; gives how far the archive goes.
    fn judge(
        &self,
        request: &RecoveryRequest,
        facts: &Facts<'_>,
        needs: &Needs,
        path: &TimelinePath,
    ) -> Result<Lsn, PlanError> {
        let timeline = path.last().unwrap_or(needs.timeline);
        if self.reach < needs.end_lsn {
            let missing =
                self.missing.map_or_else(|| SegmentName::new(needs.timeline, needs.end, needs.size), |m| m.0);
            return Err(PlanError::NotConsistent { missing, id: facts.backup.id });
        }
        if let StopPoint::Lsn(target) = request.target.stop
            && self.missing.is_none()
            && !self.stops_at(target, facts, needs, path)
        {
            let nearest = self.last_stop(facts, needs, path);
            return Err(PlanError::BeyondArchive { target, timeline, nearest });
        }
        let Some((missing, _)) = self.missing else { return Ok(self.reach) };
        let target = match &request.target.stop {
            StopPoint::Immediate => return Ok(self.reach),
            StopPoint::Lsn(target) if self.stops_at(*target, facts, needs, path) => return Ok(self.reach),
            StopPoint::Time(_) if self.stop.is_some() => return Ok(self.reach),
            StopPoint::Time(target) if self.written_after(facts, needs, path, *target) => {
                return Ok(self.reach);
            }
            StopPoint::Lsn(target) => format!("LSN {target}"),
            StopPoint::Time(target) => format!("time {}", python_str(*target)),
            StopPoint::Xid(xid) => format!("transaction {xid}"),
            StopPoint::Name(name) => format!("restore point '{name}'"),
            // A plain restore replays what it finds; a hole after the end of the backup ends it silently.
            StopPoint::Latest => "the end of the archive".to_owned(),
        };
        Err(PlanError::Hole { missing, target, timeline, nearest: self.last_stop(facts, needs, path) })
    }

    /// Whether there is a record at which recovery stops for this target: one that begins there or later.
    fn stops_at(&self, target: Lsn, facts: &Facts<'_>, needs: &Needs, path: &TimelinePath) -> bool {
        let last = self.reach.previous_segment(needs.size);
        if Lsn::segment_start(last, needs.size).is_some_and(|start| target < start) {
            return true;
        }
        match self.record_in(last, facts, needs, path) {
            // In the segment of a switch the old timeline goes on beyond what is followed.
            Some(record) if record < self.reach => target <= record,
            _ => target <= self.reach,
        }
    }

    /// The last record that can be read whole before the archive ends, and after the end of the backup.
    fn last_stop(&self, facts: &Facts<'_>, needs: &Needs, path: &TimelinePath) -> Option<Lsn> {
        (needs.end.get()..=self.reach.previous_segment(needs.size).get())
            .rev()
            .filter_map(|number| self.record_in(SegmentNo::new(number), facts, needs, path))
            .find(|record| *record < self.reach)
            .filter(|record| *record >= needs.end_lsn)
    }

    fn record_in(
        &self,
        number: SegmentNo,
        facts: &Facts<'_>,
        needs: &Needs,
        path: &TimelinePath,
    ) -> Option<Lsn> {
        if let Some(partial) = self.partial.as_ref().filter(|p| p.name.number(needs.size) == Some(number)) {
            return partial.last_record;
        }
        let names = path.names(number, needs.size);
        (facts.last_record)(names.into_iter().find(|name| self.present.contains(name))?)
    }

    /// Whether the last segment before the hole was closed after the target time, so that the hole does not matter.
    fn written_after(
        &self,
        facts: &Facts<'_>,
        needs: &Needs,
        path: &TimelinePath,
        target: time::OffsetDateTime,
    ) -> bool {
        let last = self.reach.previous_segment(needs.size);
        let names = path.names(last, needs.size);
        facts
            .wals
            .iter()
            .filter(|entry| entry.name.as_segment().is_some_and(|name| names.contains(&name)))
            .any(|entry| entry.mtime.as_nanos() > target.unix_timestamp_nanos())
            || self.partial.as_ref().is_some_and(|p| p.mtime.as_nanos() > target.unix_timestamp_nanos())
    }
}

fn wal_plan(
    request: &RecoveryRequest,
    facts: &Facts<'_>,
    needs: &Needs,
    path: &TimelinePath,
    log: &Log,
    directory: Option<&Utf8Path>,
) -> WalPlan {
    let own_directory = !request.target.is_point_in_time();
    let directory: Utf8PathBuf = if own_directory {
        request.destination.join(needs.version.wal_directory())
    } else {
        directory.map_or_else(|| request.destination.join("barman_wal"), Utf8Path::to_owned)
    };
    // Segments after the one that holds the stop point are of no use.
    let last = match request.target.stop {
        StopPoint::Immediate => needs.end,
        StopPoint::Lsn(lsn) => lsn.segment(needs.size).max(needs.end),
        StopPoint::Time(_) if log.stop.is_some() => log.stop.unwrap_or(needs.end),
        _ => log.reach.previous_segment(needs.size),
    };
    let mut wanted: HashSet<SegmentName> = HashSet::new();
    for number in needs.begin.get()..=last.get() {
        wanted.extend(
            path.names(SegmentNo::new(number), needs.size).into_iter().filter(|n| log.present.contains(n)),
        );
    }
    let chosen = facts.wals.iter().filter(|entry| match &entry.name {
        WalFileName::Segment(name) => wanted.contains(name),
        WalFileName::BackupLabel { start, .. } => wanted.contains(start),
        WalFileName::History(_) => true,
        WalFileName::Partial(_) => false,
    });
    let partial = log.partial.clone().filter(|p| p.name.number(needs.size).is_some_and(|n| n <= last));
    let stored_bytes = partial.as_ref().map_or(0, |partial| partial.size);
    let mut plan = WalPlan { directory, own_directory, files: Vec::new(), partial, stored_bytes };
    for entry in chosen {
        plan.files.push(entry.name);
        plan.stored_bytes += entry.size;
    }
    plan
}

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
