//! What the real disk and the durable operations do on a real file system.

use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;

use camino::{Utf8Path, Utf8PathBuf};

use super::durable::*;
use super::*;
use crate::model::FileTime;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn at(&self, name: &str) -> Utf8PathBuf {
        Utf8Path::from_path(self.0.path()).unwrap().join(name)
    }
    fn names(&self) -> Vec<String> {
        RealDisk.names(&self.at("")).unwrap()
    }
}

const DISK: RealDisk = RealDisk;

#[test]
fn a_new_file_is_written_once() {
    let dir = Dir::new();
    let path = dir.at("f");
    write_new_durable(&DISK, &path, b"one").unwrap();
    let error = write_new_durable(&DISK, &path, b"two").unwrap_err();
    assert_eq!(error.kind(), IoErrorKind::AlreadyExists);
    assert_eq!(DISK.read(&path).unwrap(), b"one");
    assert_eq!(dir.names(), ["f"], "no temporary file is left");
}

#[test]
fn replacing_makes_a_new_inode_and_survives_a_left_over() {
    let dir = Dir::new();
    let (path, other) = (dir.at("f"), dir.at("g"));
    write_new_durable(&DISK, &path, b"one").unwrap();
    DISK.link(&path, &other).unwrap();
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(tmp_of(&path))
        .unwrap()
        .write_all(b"old")
        .unwrap();
    replace_durable(&DISK, &path, b"two", Some(0o600)).unwrap();
    assert_eq!(DISK.read(&path).unwrap(), b"two");
    assert_eq!(DISK.read(&other).unwrap(), b"one");
    assert_eq!(DISK.stat(&path).unwrap().mode, 0o600);
    assert_eq!(dir.names(), ["f", "g"]);
}

#[test]
fn a_publisher_syncs_many() {
    let dir = Dir::new();
    mkdir_all_durable(&DISK, &dir.at("a/b/c"), 0o700).unwrap();
    mkdir_all_durable(&DISK, &dir.at("a/b/c"), 0o700).unwrap();
    let mut publisher = Publisher::new(&DISK);
    for name in ["a/x", "a/b/x", "a/b/c/x"] {
        let mut file = create_tmp(&DISK, &dir.at(name)).unwrap();
        file.put(name.as_bytes()).unwrap();
        publisher.publish(file, &dir.at(name)).unwrap();
    }
    publisher.commit().unwrap();
    assert_eq!(DISK.read_text(&dir.at("a/b/c/x")).unwrap(), "a/b/c/x");
    assert_eq!(DISK.stat(&dir.at("a")).unwrap().mode, 0o700);
}

#[test]
fn appending_cuts_a_torn_line() {
    let dir = Dir::new();
    let path = dir.at("index");
    append_durable(&DISK, &path, b"").unwrap();
    assert!(!DISK.exists(&path).unwrap());
    append_durable(&DISK, &path, b"one\n").unwrap();
    for torn in [&b"two\tha"[..], &[0; 9000], &[b'x'; 4095], &[b'x'; 4096], &[b'x'; 4097], b"x"] {
        DISK.append(&path).unwrap().put(torn).unwrap();
        append_durable(&DISK, &path, b"").unwrap();
        append_durable(&DISK, &path, b"two\n").unwrap();
        assert_eq!(DISK.read(&path).unwrap(), b"one\ntwo\n");
        DISK.open_write(&path).unwrap().set_len(4).unwrap();
    }
    DISK.open_write(&path).unwrap().set_len(2).unwrap();
    append_durable(&DISK, &path, b"two\n").unwrap();
    assert_eq!(DISK.read(&path).unwrap(), b"two\n", "a file of one torn line");
}

#[test]
fn removing_is_idempotent() {
    let dir = Dir::new();
    write_new_durable(&DISK, &dir.at("f"), b"").unwrap();
    remove_durable(&DISK, &dir.at("f")).unwrap();
    remove_durable(&DISK, &dir.at("f")).unwrap();
    assert!(dir.names().is_empty());
}

#[test]
fn rename_noreplace_refuses_a_taken_name() {
    let dir = Dir::new();
    write_new_durable(&DISK, &dir.at("a"), b"a").unwrap();
    write_new_durable(&DISK, &dir.at("b"), b"b").unwrap();
    assert!(DISK.rename_noreplace(&dir.at("a"), &dir.at("b")).unwrap_err().is_already_exists());
    assert_eq!(DISK.read(&dir.at("b")).unwrap(), b"b");
    rename_noreplace_durable(&DISK, &dir.at("a"), &dir.at("c")).unwrap();
    DISK.replace(&dir.at("c"), &dir.at("b")).unwrap();
    assert_eq!(DISK.read(&dir.at("b")).unwrap(), b"a");
    assert_eq!(dir.names(), ["b"]);
}

#[test]
fn only_regular_files_are_opened() {
    let dir = Dir::new();
    assert!(DISK.open_read(&dir.at("absent")).err().unwrap().is_not_found());
    assert_eq!(DISK.open_read(&dir.at("")).err().unwrap().kind(), IoErrorKind::WrongKind);
    let fifo = dir.at("fifo");
    let mode = rustix::fs::Mode::from_bits_truncate(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, fifo.as_std_path(), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert_eq!(DISK.open_read(&fifo).err().unwrap().kind(), IoErrorKind::WrongKind);
    assert!(DISK.open_write(&fifo).is_err());
    assert_eq!(DISK.lstat(&fifo).unwrap().kind, FileKind::Other);
}

#[test]
fn files_links_times_and_modes() {
    let dir = Dir::new();
    let path = dir.at("f");
    let mtime = FileTime { seconds: 1_795_384_953, nanos: 277_281_123 };
    {
        let mut file = DISK.create_new(&path).unwrap();
        file.put(b"0123456789").unwrap();
        file.seek(SeekFrom::Start(2)).unwrap();
        file.put(b"ab").unwrap();
        file.set_len(8).unwrap();
        file.set_mode(0o640).unwrap();
        file.set_mtime(mtime).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), 8);
    }
    DISK.symlink("f".into(), &dir.at("s")).unwrap();
    DISK.link(&path, &dir.at("h")).unwrap();
    let stat = DISK.stat(&dir.at("s")).unwrap();
    assert_eq!((stat.mtime, stat.mode, stat.size, stat.nlink), (mtime, 0o640, 8, 2));
    assert!(stat.same_inode(&DISK.lstat(&dir.at("h")).unwrap()));
    assert_eq!(DISK.lstat(&dir.at("s")).unwrap().kind, FileKind::Symlink);
    assert_eq!(DISK.read_link(&dir.at("s")).unwrap(), "f");
    let file = DISK.open_read(&path).unwrap();
    let mut buf = [0; 6];
    assert_eq!(file.read_at(&mut buf, 1).unwrap(), 6);
    assert_eq!(&buf, b"1ab456");
    assert_eq!(file.read_at(&mut buf, 5).unwrap(), 3);
    DISK.set_mtime(&dir.at("s"), FileTime { seconds: -5, nanos: 1 }).unwrap();
    assert_eq!(DISK.stat(&path).unwrap().mtime, mtime, "the link, not its target");
    assert_eq!(DISK.lstat(&dir.at("s")).unwrap().mtime, FileTime { seconds: -5, nanos: 1 });
    DISK.syncfs(&dir.at("")).unwrap();
    assert!(DISK.space(&dir.at("")).unwrap().available > 0);
}

#[test]
fn a_name_that_is_not_utf8_is_told_after_all_others() {
    let dir = Dir::new();
    let odd = std::ffi::OsString::from_vec(b"odd\xff".to_vec());
    std::os::unix::fs::symlink("x", dir.0.path().join(odd)).unwrap();
    for n in 0..5 {
        DISK.mkdir(&dir.at(&n.to_string()), 0o755).unwrap();
    }
    let mut seen = 0;
    let error = DISK.list(&dir.at(""), &mut |item| {
        assert_eq!(item.kind, FileKind::Directory);
        seen += 1;
        ControlFlow::Continue(())
    });
    assert_eq!(error.unwrap_err().kind(), IoErrorKind::NotUtf8);
    assert_eq!(seen, 5);
}

#[test]
fn kernels_that_tell_of_lost_writes() {
    for (release, tells) in [
        ("5.8.0-1-amd64", true),
        ("6.1.0-13-amd64", true),
        ("5.10.0", true),
        ("5.7.19", false),
        ("4.18.0-553.el8_10.x86_64", false),
        ("odd", false),
    ] {
        assert_eq!(super::real::syncfs_tells_of_errors(release), tells, "{release}");
    }
}

/// data/{base/1/{10, 11 = hard link outside}, link → ../outside, circle → .}, outside/kept
fn tree() -> Dir {
    let dir = Dir::new();
    DISK.mkdir_all(&dir.at("data/base/1"), 0o700).unwrap();
    DISK.mkdir(&dir.at("outside"), 0o700).unwrap();
    for (name, len) in
        [("data/base/1/10", 10), ("data/base/1/11", 100), ("outside/kept", 1000), ("data/z", 1)]
    {
        DISK.create_new(&dir.at(name)).unwrap().put(&vec![b'x'; len]).unwrap();
    }
    DISK.link(&dir.at("data/base/1/11"), &dir.at("outside/11")).unwrap();
    DISK.symlink("../outside".into(), &dir.at("data/link")).unwrap();
    DISK.symlink("nowhere".into(), &dir.at("data/dangling")).unwrap();
    dir
}

fn walked(dir: &Dir, options: WalkOptions<'_>, skip: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let result = walk(&DISK, &dir.at("data"), options, &mut |entry, stat| {
        assert_eq!(entry.is_file(), stat.is_file());
        let kind = match &entry.kind {
            crate::model::EntryKind::File => entry.size.to_string(),
            crate::model::EntryKind::Directory => "/".to_owned(),
            crate::model::EntryKind::Symlink(target) => format!("-> {target}"),
            crate::model::EntryKind::Other => "?".to_owned(),
        };
        seen.push(format!("{} {kind}", entry.path));
        if entry.path == skip { Step::Skip } else { Step::Go }
    });
    result.unwrap();
    seen
}

#[test]
fn a_walk_sees_everything_and_follows_what_it_is_told() {
    let dir = tree();
    let sorted = WalkOptions { sorted: true, follow: None };
    let all = [
        "base /",
        "base/1 /",
        "base/1/10 10",
        "base/1/11 100",
        "dangling -> nowhere",
        "link -> ../outside",
        "z 1",
    ];
    assert_eq!(walked(&dir, sorted, ""), all);
    let mut unsorted = walked(&dir, WalkOptions::default(), "");
    unsorted.sort();
    assert_eq!(unsorted, all);
    assert_eq!(walked(&dir, sorted, "base").len(), 4);
    let follow = |path: &Utf8Path| path == "link" || path == "dangling";
    let following = WalkOptions { sorted: true, follow: Some(&follow) };
    let seen = walked(&dir, following, "");
    assert_eq!(&seen[4..], ["link /", "link/11 100", "link/kept 1000", "z 1"], "a dangling link is left out");
    let mut count = 0;
    walk(&DISK, &dir.at("data"), sorted, &mut |_, _| {
        count += 1;
        Step::Stop
    })
    .unwrap();
    assert_eq!(count, 1);
    assert!(walk(&DISK, &dir.at("absent"), sorted, &mut |_, _| Step::Go).unwrap_err().is_not_found());
}

#[test]
fn a_circle_is_an_error() {
    let dir = tree();
    DISK.symlink("..".into(), &dir.at("data/base/up")).unwrap();
    let options = WalkOptions { sorted: true, follow: Some(&|path| path == "base/up") };
    let error = walk(&DISK, &dir.at("data"), options, &mut |_, _| Step::Go).unwrap_err();
    assert!(error.to_string().contains("in a circle through"), "{error}");
}

#[test]
fn sizes_count_shared_files_apart() {
    let dir = tree();
    let size = tree_size(&DISK, &dir.at("data")).unwrap();
    assert_eq!(size, TreeSize { bytes: 111, unshared: 11, files: 3 });
}

#[test]
fn removing_a_tree_touches_nothing_behind_links() {
    let dir = tree();
    remove_tree(&DISK, &dir.at("data")).unwrap();
    remove_tree(&DISK, &dir.at("data")).unwrap();
    assert_eq!(dir.names(), ["outside"]);
    assert_eq!(DISK.names(&dir.at("outside")).unwrap(), ["11", "kept"]);
    DISK.symlink("outside".into(), &dir.at("s")).unwrap();
    remove_tree(&DISK, &dir.at("s")).unwrap();
    assert_eq!(DISK.names(&dir.at("outside")).unwrap().len(), 2);
}

#[test]
fn space_that_is_not_there_is_told() {
    let dir = Dir::new();
    require_space(&DISK, &dir.at(""), 1, 0).unwrap();
    let error = require_space(&DISK, &dir.at(""), u64::MAX, u64::MAX).unwrap_err();
    assert_eq!(error.kind(), IoErrorKind::NoSpace);
}

#[test]
fn watching_and_syncing_a_tree() {
    let dir = tree();
    let watch = DISK.watch_writes(&dir.at("")).unwrap();
    sync_tree(&DISK, &dir.at("data"), 3).unwrap();
    if let Some(watch) = watch {
        watch.sync().unwrap();
    }
    assert!(sync_tree(&DISK, &dir.at("absent"), 3).unwrap_err().is_not_found());
}
