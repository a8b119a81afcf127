//! The durable operations of `io` on a disk that loses what was not fsynced, with the power lost at every step (I1, I2, I29).

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use barman_core::io::{Disk, IoError, durable::*, sync_tree};
use barman_testkit::crash_disk::{
    Aftermath, CrashDisk, Survivors, assert_every_sync_matters, for_every_crash_point,
};
use camino::Utf8Path;

type Operation = fn(&CrashDisk) -> Result<(), IoError>;

/// Proves that each fsync of the operation is needed, and that it survives.
fn proves(before: &CrashDisk, operation: Operation, check: impl Fn(&Aftermath) + Copy) {
    before.settle();
    assert_every_sync_matters(before, operation, check);
    survives(before, operation, check);
}

/// Runs the crash test, and proves that each error of the disk is passed on.
fn survives(before: &CrashDisk, operation: Operation, check: impl Fn(&Aftermath) + Copy) {
    before.settle();
    for_every_crash_point(before, operation, check);
    for errno in [5, 28] {
        for step in 0.. {
            let disk = before.fork();
            disk.fail_once_after(step, errno);
            if operation(&disk).is_ok() {
                assert_eq!(
                    disk.steps() - before.steps(),
                    step,
                    "an error at {} was ignored",
                    disk.last_step()
                );
                break;
            }
            for choice in [Survivors::Minimum, Survivors::Maximum, Survivors::Mixture(step)] {
                let moment = format!("error {errno} at step {step}, {choice:?}");
                check(&Aftermath { disk: disk.survivors(choice), completed: false, moment });
            }
        }
    }
}

fn content(disk: &CrashDisk, path: &str) -> Option<String> {
    disk.exists(path.into()).unwrap().then(|| disk.read_text(path.into()).unwrap())
}

fn with(files: &[(&str, &str)]) -> CrashDisk {
    let disk = CrashDisk::new();
    for (path, text) in files {
        disk.mkdir_all(Utf8Path::new(path).parent().unwrap(), 0o755).unwrap();
        disk.create_new(Utf8Path::new(path)).unwrap().put(text.as_bytes()).unwrap();
    }
    disk
}

#[test]
fn a_new_file_is_absent_or_whole() {
    // The left-over of an earlier crash is in the way.
    proves(
        &with(&[("/d/f.tmp", "left over")]),
        |disk| write_new_durable(disk, "/d/f".into(), b"the whole content"),
        |after| match content(&after.disk, "/d/f") {
            None => assert!(!after.completed),
            Some(text) => assert_eq!(text, "the whole content"),
        },
    );
}

#[test]
fn a_replaced_file_is_old_or_new() {
    proves(
        &with(&[("/d/f", "old")]),
        |disk| replace_durable(disk, "/d/f".into(), b"new content", Some(0o600)),
        |after| match content(&after.disk, "/d/f").as_deref() {
            Some("old") => assert!(!after.completed),
            Some("new content") => assert_eq!(after.disk.stat("/d/f".into()).unwrap().mode, 0o600),
            other => panic!("{other:?}"),
        },
    );
}

#[test]
fn a_batch_is_published_whole() {
    const NAMES: [&str; 4] = ["/wals/0001/a", "/wals/0001/b", "/wals/0002/c", "/wals/d.history"];
    proves(
        &with(&[("/wals/0001/x", ""), ("/wals/0002/x", "")]),
        |disk| {
            let mut publisher = Publisher::new(disk);
            for name in NAMES {
                let mut file = create_tmp(disk, name.into())?;
                file.put(name.as_bytes())?;
                publisher.publish(file, name.into())?;
            }
            publisher.commit()
        },
        |after| {
            for name in NAMES {
                match content(&after.disk, name) {
                    None => assert!(!after.completed, "{name}"),
                    Some(text) => assert_eq!(text, name),
                }
            }
        },
    );
}

#[test]
fn an_append_never_hurts_older_lines_and_the_next_one_mends() {
    proves(
        &with(&[("/index", "one\n")]),
        |disk| append_durable(disk, "/index".into(), b"two two two\nthree three\n"),
        |after| {
            let text = content(&after.disk, "/index").unwrap();
            assert!(text.starts_with("one\n"), "{text:?}");
            if after.completed {
                assert_eq!(text, "one\ntwo two two\nthree three\n");
            }
            append_durable(&after.disk, "/index".into(), b"four\n").unwrap();
            let mended = content(&after.disk, "/index").unwrap();
            assert!(mended.starts_with("one\n") && mended.ends_with("\nfour\n"), "{mended:?}");
        },
    );
}

#[test]
fn the_first_append_makes_the_name_durable() {
    proves(
        &CrashDisk::new(),
        |disk| append_durable(disk, "/index".into(), b"one\n"),
        |after| assert!(!after.completed || content(&after.disk, "/index").as_deref() == Some("one\n")),
    );
}

/// A killed process (no power loss yet) has created the index; the next one appends; then the power goes.
#[test]
fn an_append_to_the_file_of_a_killed_process_is_durable() {
    let before = CrashDisk::new();
    for killed_after in 0..3 {
        let disk = before.fork();
        for step in 0.. {
            let killed = disk.fork();
            killed.fail_once_after(killed_after, 5);
            let _ = append_durable(&killed, "/index".into(), b"one\n");
            append_durable(&killed, "/index".into(), b"two\n").unwrap();
            let text = content(&killed.survivors(Survivors::Mixture(step)), "/index");
            assert!(text.as_deref().is_some_and(|t| t.ends_with("two\n")), "{killed_after} {step} {text:?}");
            if step == 20 {
                break;
            }
        }
    }
}

#[test]
fn directories_are_durable() {
    proves(
        &CrashDisk::new(),
        |disk| mkdir_all_durable(disk, "/a/b/c".into(), 0o755),
        |after| assert!(!after.completed || after.disk.exists("/a/b/c".into()).unwrap()),
    );
}

#[test]
fn a_renamed_file_has_one_of_two_names() {
    // On the model, as on journaling file systems, one of the two fsyncs would do.
    survives(
        &with(&[("/a/f", "f"), ("/b/x", "")]),
        |disk| rename_noreplace_durable(disk, "/a/f".into(), "/b/f".into()),
        |after| {
            let (old, new) = (content(&after.disk, "/a/f"), content(&after.disk, "/b/f"));
            assert!(old.is_some() || new.is_some());
            assert!(!after.completed || (old.is_none() && new.is_some()));
        },
    );
}

#[test]
fn a_removed_file_does_not_come_back() {
    proves(
        &with(&[("/a/f", "f")]),
        |disk| remove_durable(disk, "/a/f".into()),
        |after| assert!(!after.completed || content(&after.disk, "/a/f").is_none()),
    );
}

fn fill(disk: &CrashDisk) -> Result<(), IoError> {
    for name in ["/tree/a", "/tree/b/c", "/tree/b/d/e"] {
        let path = Utf8Path::new(name);
        disk.mkdir_all(parent_of(path), 0o700)?;
        disk.create_new(path)?.put(name.as_bytes())?;
    }
    Ok(())
}

fn check_tree(after: &Aftermath) {
    for name in ["/tree/a", "/tree/b/c", "/tree/b/d/e"] {
        assert!(!after.completed || content(&after.disk, name).as_deref() == Some(name));
    }
}

/// What seal does: many files, then everything durable at once.
#[test]
fn a_sealed_tree_is_whole() {
    proves(
        &CrashDisk::new(),
        |disk| {
            let watch = disk.watch_writes("/".into())?;
            fill(disk)?;
            watch.map_or(Ok(()), |watch| watch.sync())
        },
        check_tree,
    );
    proves(
        &CrashDisk::new(),
        |disk| {
            fill(disk)?;
            sync_tree(disk, "/tree".into(), 2)?;
            disk.sync_dir("/".into())
        },
        check_tree,
    );
}

/// The model itself: what it loses and what it may not lose.
#[test]
fn the_disk_loses_what_was_not_synced() {
    let disk = with(&[("/d/f", "content")]);
    assert_eq!(content(&disk.survivors(Survivors::Minimum), "/d/f"), None);
    assert_eq!(content(&disk.survivors(Survivors::Maximum), "/d/f").as_deref(), Some("content"));
    disk.sync_dir("/d".into()).unwrap();
    disk.sync_dir("/".into()).unwrap();
    assert_eq!(content(&disk.survivors(Survivors::Minimum), "/d/f").as_deref(), Some(""));
    let seen: std::collections::BTreeSet<_> =
        (0..200).map(|seed| content(&disk.survivors(Survivors::Mixture(seed)), "/d/f").unwrap()).collect();
    for expected in ["", "content", "\0\0\0\0\0\0\0"] {
        assert!(seen.contains(expected), "{seen:?}");
    }
    assert!(seen.iter().any(|text| text.contains('\0') && text.contains('t')), "{seen:?}");
    disk.syncfs("/".into()).unwrap();
    for seed in 0..50 {
        assert_eq!(disk.survivors(Survivors::Mixture(seed)).tree(), disk.tree());
    }
}

#[test]
fn a_second_fsync_lies() {
    let disk = with(&[]);
    let mut file = disk.create_new("/f".into()).unwrap();
    disk.sync_dir("/".into()).unwrap();
    file.put(b"content").unwrap();
    disk.fail_once_after(0, 5);
    assert!(file.sync_all().is_err());
    file.sync_all().unwrap();
    assert_eq!(content(&disk.survivors(Survivors::Maximum), "/f").as_deref(), Some(""));
}

#[test]
fn it_behaves_like_a_file_system() {
    let disk = with(&[("/d/f", "f"), ("/d/g", "g")]);
    disk.symlink("d".into(), "/s".into()).unwrap();
    assert_eq!(disk.read("/s/f".into()).unwrap(), b"f");
    assert_eq!(disk.read("/s/../d/./g".into()).unwrap(), b"g");
    assert!(disk.rename_noreplace("/d/f".into(), "/d/g".into()).unwrap_err().is_already_exists());
    assert!(disk.create_new("/d/f".into()).err().unwrap().is_already_exists());
    assert!(disk.create_new("/x/f".into()).err().unwrap().is_not_found());
    assert!(disk.open_read("/d".into()).is_err() && disk.rmdir("/d".into()).is_err());
    disk.link("/d/f".into(), "/d/h".into()).unwrap();
    assert_eq!(disk.stat("/d/h".into()).unwrap().nlink, 2);
    disk.replace("/d/g".into(), "/d/f".into()).unwrap();
    assert_eq!(disk.names("/d".into()).unwrap(), ["f", "h"]);
    assert_eq!(disk.read("/d/f".into()).unwrap(), b"g");
    disk.symlink("/loop".into(), "/loop".into()).unwrap();
    assert!(disk.read("/loop".into()).is_err());
}

/// The fake does what the kernel does, call by call, as far as it lets itself be seen without a crash.
mod like_the_kernel {
    use barman_core::io::{IoErrorKind, RealDisk};
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 6] = ["a", "b", "d", "d/x", "d/y", "d/e/z"];

    fn step(
        disk: &dyn Disk,
        root: &Utf8Path,
        (what, one, two): (u8, usize, usize),
    ) -> Result<String, IoErrorKind> {
        let (a, b) = (root.join(NAMES[one]), root.join(NAMES[two]));
        let done = match what {
            0 => disk.create_new(&a).and_then(|mut f| f.put(NAMES[two].as_bytes())),
            1 => disk.append(&a).and_then(|mut f| f.put(NAMES[two].as_bytes())),
            2 => disk.open_write(&a).and_then(|mut f| f.put(NAMES[two].as_bytes())),
            3 => disk.open_write(&a).and_then(|mut f| f.set_len(two as u64)),
            4 => disk.rename_noreplace(&a, &b),
            5 => disk.replace(&a, &b),
            6 => disk.link(&a, &b),
            7 => disk.symlink(Utf8Path::new(NAMES[one]), &b),
            8 => disk.unlink(&a),
            9 => disk.mkdir(&a, 0o700),
            10 => disk.mkdir_all(&a, 0o700),
            11 => disk.rmdir(&a),
            12 => disk.sync_dir(&a),
            13 => return disk.names(&a).map(|names| names.join(" ")).map_err(|e| e.kind()),
            14 => return disk.read_text(&a).map_err(|e| e.kind()),
            15 => return disk.read_link(&a).map(Into::into).map_err(|e| e.kind()),
            _ => {
                let facts =
                    disk.lstat(&a).map(|s| (s.kind, if s.is_dir() { 0 } else { s.size + 1000 * s.nlink }));
                return facts.map(|facts| format!("{facts:?}")).map_err(|e| e.kind());
            }
        };
        done.map(|()| String::new()).map_err(|e| e.kind())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]
        #[test]
        fn step_by_step(steps in prop::collection::vec((0_u8..20, 0..NAMES.len(), 0..NAMES.len()), 1..40)) {
            let dir = tempfile::tempdir().unwrap();
            let root = Utf8Path::from_path(dir.path()).unwrap();
            let fake = CrashDisk::new();
            for (at, step_) in steps.iter().enumerate() {
                let real = step(&RealDisk, root, *step_);
                let ours = step(&fake, "/".into(), *step_);
                prop_assert_eq!(ours, real, "step {} {:?} of {:?}", at, step_, &steps[..at]);
            }
        }
    }
}
