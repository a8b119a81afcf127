//! Tests of plans of deletion, among them the one that matters most: random catalogs against a naive oracle.

use proptest::prelude::*;

use super::*;
use crate::model::{Lsn, RetentionPolicy, SegmentSize, Status, Timeline};
use crate::policy::reachability::Fork;
use crate::policy::testing::{child, done, full, held, id_text, kept, minute, on_wal, seg, with};

fn id(n: u32) -> BackupId {
    id_text(n).parse().unwrap()
}

fn names(range: std::ops::RangeInclusive<u64>) -> Vec<WalFileName> {
    range.map(|n| WalFileName::Segment(seg(1, n))).collect()
}

fn ids(plan: &PrunePlan) -> Vec<BackupId> {
    plan.deletions.iter().map(|d| d.id).collect()
}

fn gone(plan: &PrunePlan) -> Vec<u32> {
    plan.wal.removable().iter().map(|n| n.as_segment().unwrap().segment).collect()
}

/// Segments 1 to 12, no promotion.
fn with_archive<T>(run: impl FnOnce(Archive<'_>) -> T) -> T {
    let names = names(1..=12);
    run(Archive { names: &names, histories: &Histories::new() })
}

#[test]
fn i17_the_oldest_takes_the_wal_before_the_next_along() {
    let backups = vec![done(3), done(6), done(9)];
    let all = held(&backups);
    with_archive(|archive| {
        let plan = delete(id(3), &all, 0, archive).unwrap();
        assert_eq!((ids(&plan), gone(&plan)), (vec![id(3)], vec![1, 2, 3, 4, 5]));
        assert_eq!(plan.deletions[0].cause, Cause::Asked);
        let plan = delete(id(6), &all, 0, archive).unwrap();
        assert_eq!((ids(&plan), plan.wal), (vec![id(6)], WalPlan::OlderBackup(id(3))));
    });
}

#[test]
fn i17_the_last_backup_leaves_the_wal_from_its_begin_on() {
    let backups = vec![done(6)];
    with_archive(|archive| {
        let plan = delete(id(6), &held(&backups), 0, archive).unwrap();
        assert_eq!(gone(&plan), [1, 2, 3, 4, 5]);
    });
    let mut early = with(done(6), Status::Failed);
    early.begin_wal = None;
    let backups = vec![early];
    with_archive(|archive| {
        let plan = delete(id(6), &held(&backups), 0, archive).unwrap();
        assert_eq!(plan.wal, WalPlan::LimitUnknown(id(6)));
    });
}

/// As Barman does: the WAL of the whole tree stays when nothing else is left.
#[test]
fn i17_the_last_tree_leaves_the_wal_from_the_begin_of_its_root_on() {
    let backups = vec![full(4), child(6, 4), child(9, 6)];
    with_archive(|archive| {
        let plan = delete(id(4), &held(&backups), 0, archive).unwrap();
        assert_eq!((plan.deletions.len(), gone(&plan)), (3, vec![1, 2, 3]));
    });
}

#[test]
fn i17_older_standalone_backups_block_a_user_and_not_cron() {
    let backups = vec![done(2), done(5), done(9)];
    let mut all = held(&backups);
    kept(&mut all, 0, Keep::Standalone);
    with_archive(|archive| {
        let plan = delete(id(5), &all, 0, archive).unwrap();
        assert_eq!(plan.wal, WalPlan::OlderBackup(id(2)));
        let verdicts = retention::evaluate(RetentionPolicy::Redundancy(1), &all, 0, minute(99));
        let plan = enforce(&verdicts, &all, archive);
        assert_eq!((ids(&plan), gone(&plan)), (vec![id(5)], vec![1, 3, 4, 5, 6, 7, 8]));
    });
}

#[test]
fn i17_a_running_backup_and_one_being_restored_keep_their_wal() {
    let backups = vec![done(3), done(6), with(on_wal(done(7), 1, 4, 4), Status::Started)];
    with_archive(|archive| {
        let plan = delete(id(3), &held(&backups), 0, archive).unwrap();
        assert_eq!(gone(&plan), [1, 2, 3]);
    });
    let backups = vec![done(3), with(on_wal(done(4), 1, 2, 2), Status::Failed), done(6)];
    let mut all = held(&backups);
    with_archive(|archive| assert_eq!(gone(&delete(id(3), &all, 0, archive).unwrap()), [1, 2, 3, 4, 5]));
    all[1].in_use = true;
    with_archive(|archive| assert_eq!(gone(&delete(id(3), &all, 0, archive).unwrap()), [1]));
}

#[test]
fn i21_refusals() {
    let backups = vec![full(1), child(2, 1), done(3)];
    let mut all = held(&backups);
    with_archive(|archive| {
        let refused = |all: &[Held<'_>], n: u32, minimum: u32| match delete(id(n), all, minimum, archive) {
            Err(PruneError::Refused { id, refusal }) => (id, refusal),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&all, 1, 2), (id(1), Refusal::Redundancy { minimum: 2, current: 2 }));
        assert!(delete(id(2), &all, 9, archive).is_ok());
        // One that is half gone does not count, except for itself.
        all[0].deleting = true;
        assert!(delete(id(1), &all, 1, archive).is_ok());
        assert_eq!(refused(&all, 3, 1), (id(3), Refusal::Redundancy { minimum: 1, current: 1 }));
        all[0].deleting = false;
        assert_eq!(delete(id(9), &all, 0, archive), Err(PruneError::Unknown(id(9))));
        all[1].in_use = true;
        assert_eq!(refused(&all, 1, 0), (id(2), Refusal::InUse));
        assert_eq!(refused(&all, 2, 0), (id(2), Refusal::InUse));
        all[0].keep = Some(Keep::Full);
        assert_eq!(refused(&all, 1, 0), (id(1), Refusal::Kept));
    });
}

#[test]
fn i17_a_chain_goes_leaves_first_by_hand_and_by_cron() {
    let backups =
        vec![full(1), child(2, 1), child(3, 2), child(4, 1), full(6), with(child(7, 1), Status::Failed)];
    let all = held(&backups);
    with_archive(|archive| {
        let plan = delete(id(1), &all, 1, archive).unwrap();
        assert_eq!(ids(&plan), [id(3), id(2), id(4), id(7), id(1)]);
        assert_eq!(plan.deletions[0].cause, Cause::DependsOn(id(2)));
        assert_eq!(gone(&plan), [1, 2, 3, 4, 5]);
        let verdicts = retention::evaluate(RetentionPolicy::Redundancy(1), &all, 0, minute(99));
        let plan = enforce(&verdicts, &all, archive);
        assert_eq!(ids(&plan), [id(3), id(2), id(4), id(7), id(1)]);
        assert_eq!(gone(&plan), [1, 2, 3, 4, 5]);
    });
}

#[test]
fn i17_cron_spares_what_is_in_use_and_what_it_depends_on() {
    let backups = vec![full(1), child(2, 1), child(3, 2), full(6), done(8)];
    let mut all = held(&backups);
    all[1].in_use = true;
    with_archive(|archive| {
        let verdicts = retention::evaluate(RetentionPolicy::Redundancy(1), &all, 0, minute(99));
        let plan = enforce(&verdicts, &all, archive);
        assert_eq!(ids(&plan), [id(3), id(6)]);
        assert_eq!(plan.spared, [(id(1), Spared::NeededBy(id(2))), (id(2), Spared::InUse)]);
        assert_eq!(plan.wal, WalPlan::OlderBackup(id(1)));
    });
}

#[test]
fn nothing_obsolete_means_nothing_to_do() {
    let backups = vec![done(1), done(2)];
    let all = held(&backups);
    with_archive(|archive| {
        let verdicts = retention::evaluate(RetentionPolicy::Redundancy(5), &all, 0, minute(99));
        let plan = enforce(&verdicts, &all, archive);
        assert_eq!(plan, PrunePlan { deletions: vec![], spared: vec![], wal: WalPlan::NothingGoes });
    });
}

#[test]
fn i17_the_first_backup_purges_what_is_older() {
    let backups = vec![with(done(2), Status::Failed), with(done(5), Status::Started)];
    with_archive(|archive| {
        let plan = purge_before_first(id(5), &held(&backups), archive).unwrap();
        assert_eq!((plan.deletions.len(), gone(&plan)), (0, vec![1, 2, 3, 4]));
    });
    let backups = vec![done(2), with(done(5), Status::Started)];
    with_archive(|archive| {
        let plan = purge_before_first(id(5), &held(&backups), archive).unwrap();
        assert_eq!(plan.wal, WalPlan::OlderBackup(id(2)));
    });
}

/// Barman removes the whole directory of 256 segments when enough of its entries go; the segments needed must stay.
#[test]
fn i17_labels_in_a_full_directory_take_no_needed_segment_along() {
    let backups = vec![on_wal(done(1), 1, 1, 1), on_wal(done(2), 1, 0xFE, 0xFE)];
    let mut archived = names(0..=0x105);
    for n in [1, 2, 3] {
        archived.push(WalFileName::BackupLabel { start: seg(1, n), offset: 0x28 });
    }
    let histories = Histories::new();
    let plan =
        delete(id(1), &held(&backups), 0, Archive { names: &archived, histories: &histories }).unwrap();
    assert_eq!(plan.wal.removable().len(), 0xFE + 3);
    assert!(!plan.wal.removable().contains(&WalFileName::Segment(seg(1, 0xFE))));
}

// The oracle: a world of timelines in which each restore that is promised is walked, segment by segment.

const SEGMENTS: u64 = 40;

/// For timeline i + 2: its parent and the segment at which it was forked.
type World = Vec<(Timeline, u64)>;

#[derive(Debug, Clone)]
struct Case {
    world: World,
    known: Vec<bool>,
    backups: Vec<BackupInfo>,
    keeps: Vec<Option<Keep>>,
    in_use: Vec<bool>,
    deleting: Vec<bool>,
    target: usize,
    redundancy: u32,
}

fn tl(n: usize) -> Timeline {
    Timeline::new(n as u32).unwrap()
}

fn fork(world: &World, timeline: Timeline) -> Option<(Timeline, u64)> {
    (timeline.get() as usize).checked_sub(2).and_then(|at| world.get(at).copied())
}

/// Every file that a restore of a backup on `start`, from segment `first` on, may ask for.
fn walk(world: &World, start: Timeline, first: u64) -> BTreeSet<WalFileName> {
    let mut needed = BTreeSet::new();
    for goal in 1..=world.len() + 1 {
        // Up from the goal: the timelines of the path with the segments they were followed in.
        let (mut at, mut until, mut path) = (tl(goal), SEGMENTS, Vec::new());
        let reached = loop {
            path.push((at, until));
            if at == start {
                break true;
            }
            match fork(world, at) {
                Some((parent, segment)) => (at, until) = (parent, segment),
                None => break false,
            }
        };
        // The start must lie before the place at which its timeline was left.
        if !reached || path.last().is_some_and(|(_, until)| *until < first) {
            continue;
        }
        let mut from = first;
        for (timeline, until) in path.into_iter().rev() {
            for n in from..=until {
                needed.insert(WalFileName::Segment(seg(timeline.get(), n)));
            }
            from = until;
        }
    }
    needed
}

fn promised(case: &Case, gone: &BTreeSet<BackupId>) -> BTreeSet<WalFileName> {
    let mut needed = BTreeSet::new();
    for (at, backup) in case.backups.iter().enumerate() {
        let alive = matches!(
            backup.status,
            Status::Done | Status::WaitingForWals | Status::Started | Status::Syncing
        );
        if gone.contains(&backup.id) || !(alive || case.in_use[at]) {
            continue;
        }
        let (begin, end) = (backup.begin_wal.unwrap(), backup.end_wal.unwrap());
        let number = |name: crate::model::SegmentName| name.number(SegmentSize::DEFAULT).unwrap().get();
        if case.keeps[at] == Some(Keep::Standalone) && !case.in_use[at] {
            needed.extend(
                (number(begin)..=number(end)).map(|n| WalFileName::Segment(seg(begin.timeline.get(), n))),
            );
        } else {
            needed.extend(walk(&case.world, begin.timeline, number(begin)));
        }
    }
    needed
}

fn any_case() -> impl Strategy<Value = Case> {
    let world = prop::collection::vec((any::<prop::sample::Index>(), 0..SEGMENTS), 0..5).prop_map(|forks| {
        let mut world: World = Vec::new();
        for (at, (parent, segment)) in forks.into_iter().enumerate() {
            let parent = tl(parent.index(at + 1) + 1);
            // A timeline cannot be left before it began.
            let begin = fork(&world, parent).map_or(0, |(_, s)| s);
            world.push((parent, segment.max(begin)));
        }
        world
    });
    let backup = (any::<prop::sample::Index>(), 0..SEGMENTS, 0..3u64, 0..9usize, 0..9usize, any::<u8>());
    let known = prop::collection::vec(prop::bool::weighted(0.8), 5);
    (world, known, prop::collection::vec(backup, 1..9), any::<prop::sample::Index>(), 0..4u32).prop_map(
        |(world, known, drafts, target, redundancy)| {
            let mut case = Case {
                target: target.index(drafts.len()),
                known,
                backups: vec![],
                keeps: vec![],
                in_use: vec![],
                deleting: vec![],
                redundancy,
                world,
            };
            for (at, (timeline, begin, length, status, parent, bits)) in drafts.into_iter().enumerate() {
                let timeline = tl(timeline.index(case.world.len() + 1) + 1);
                let begin = begin.max(fork(&case.world, timeline).map_or(0, |(_, s)| s));
                let minute = at as u32 + 1;
                let mut info = full(minute);
                if parent < at {
                    info = child(minute, parent as u32 + 1);
                }
                info = on_wal(info, timeline.get(), begin, begin + length);
                info.status = *Status::ALL.get(status).unwrap_or(&Status::Done);
                case.keeps.push(match bits & 7 {
                    0 if parent >= at => Some(Keep::Full),
                    1 if parent >= at => Some(Keep::Standalone),
                    _ => None,
                });
                case.in_use.push(bits & 0x38 == 0);
                case.deleting.push(bits & 0xC0 == 0 && bits & 7 > 1);
                case.backups.push(info);
            }
            case
        },
    )
}

fn histories(case: &Case) -> Histories {
    let mut histories = Histories::new();
    for at in (0..case.world.len()).filter(|at| case.known[*at]) {
        let (mut forks, mut timeline) = (Vec::new(), tl(at + 2));
        while let Some((parent, segment)) = fork(&case.world, timeline) {
            forks.push(Fork { parent, at: Lsn::new(segment << 24 | 0xABCDEF) });
            timeline = parent;
        }
        forks.reverse();
        histories.insert(tl(at + 2), forks);
    }
    histories
}

fn archive_of(case: &Case) -> Vec<WalFileName> {
    let mut names: Vec<WalFileName> =
        (2..=case.world.len() + 1).map(|n| WalFileName::History(tl(n))).collect();
    for timeline in 1..=case.world.len() + 1 {
        let begin = fork(&case.world, tl(timeline)).map_or(0, |(_, s)| s);
        names.extend((begin..=SEGMENTS).map(|n| WalFileName::Segment(seg(timeline as u32, n))));
    }
    names
}

fn judge(case: &Case, all: &[Held<'_>], plan: &PrunePlan) -> Result<(), TestCaseError> {
    let gone: BTreeSet<BackupId> = plan.deletions.iter().map(|d| d.id).collect();
    prop_assert_eq!(gone.len(), plan.deletions.len(), "no backup goes twice");
    let needed = promised(case, &gone);
    for name in plan.wal.removable() {
        prop_assert!(!needed.contains(name), "{} is needed", name);
        prop_assert!(!matches!(name, WalFileName::History(_)), "{} is a history", name);
    }
    // A parent goes after each of its children, and never without them.
    let mut before = BTreeSet::new();
    for deletion in &plan.deletions {
        for other in all.iter().filter(|h| h.backup.parent_backup_id == Some(deletion.id)) {
            prop_assert!(before.contains(&other.backup.id), "{} before its child", deletion.id);
        }
        prop_assert!(!all.iter().any(|h| h.backup.id == deletion.id && h.in_use), "{} in use", deletion.id);
        before.insert(deletion.id);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn i17_no_plan_removes_what_a_backup_that_stays_needs(case in any_case()) {
        let all: Vec<Held<'_>> = case.backups.iter().enumerate().map(|(at, backup)| Held {
            backup,
            keep: case.keeps[at],
            in_use: case.in_use[at],
            deleting: case.deleting[at],
        }).collect();
        let (names, histories) = (archive_of(&case), histories(&case));
        let archive = Archive { names: &names, histories: &histories };
        let target = case.backups[case.target].id;
        if let Ok(plan) = delete(target, &all, case.redundancy, archive) {
            judge(&case, &all, &plan)?;
        }
        let verdicts = retention::evaluate(RetentionPolicy::Redundancy(case.redundancy), &all, 1, minute(99));
        judge(&case, &all, &enforce(&verdicts, &all, archive))?;
        judge(&case, &all, &purge_before_first(target, &all, archive).unwrap())?;
    }
}

/// The property above must not hold merely because nothing ever goes.
#[test]
fn i16_what_nobody_needs_does_go() {
    let mut histories = Histories::new();
    histories.insert(tl(2), [Fork { parent: tl(1), at: Lsn::new(20 << 24) }]);
    let backups = vec![on_wal(done(1), 1, 2, 3), on_wal(done(2), 2, 25, 26)];
    let mut archived = names(0..=22);
    archived.extend((20..=30).map(|n| WalFileName::Segment(seg(2, n))));
    archived.push("00000002.history".parse().unwrap());
    let plan =
        delete(id(1), &held(&backups), 1, Archive { names: &archived, histories: &histories }).unwrap();
    let expected: Vec<WalFileName> =
        names(0..=22).into_iter().chain((20..25).map(|n| WalFileName::Segment(seg(2, n)))).collect();
    assert_eq!(plan.wal.removable(), expected);
}
