//! What every [`Transport`] must do, on a tree that the test sees too.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use barman_core::model::{Entry, EntryKind, FileTime};
use barman_core::transport::{
    Exchange, ExitStatus, FetchItem, FetchSink, Fetched, FileFacts, FileOp, Lane, ProbeKind, RemoteCommand,
    StoreContent, StoreItem, StoreReport, Transport, TransportError,
};
use camino::{Utf8Path, Utf8PathBuf};

use crate::os::Account;

/// Everything that a fetch delivered.
#[derive(Default)]
pub struct Got {
    /// Facts and content of each file that began.
    pub files: BTreeMap<Utf8PathBuf, (FileFacts, Vec<u8>)>,
    /// How each ended, in order.
    pub ends: Vec<(Utf8PathBuf, Fetched)>,
}

impl FetchSink for Got {
    fn begin(&mut self, path: &Utf8Path, facts: FileFacts) -> io::Result<()> {
        assert!(self.files.insert(path.to_owned(), (facts, Vec::new())).is_none(), "{path} began twice");
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let next = self.ends.iter().filter(|(path, _)| self.files.contains_key(path)).count();
        assert_eq!(next + 1, self.files.len(), "data outside of a file");
        let ended: Vec<_> = self.ends.iter().map(|(path, _)| path.clone()).collect();
        let current = self.files.iter_mut().find(|(path, _)| !ended.contains(path)).unwrap();
        current.1.1.extend_from_slice(bytes);
        Ok(())
    }
    fn end(&mut self, path: &Utf8Path, how: Fetched) -> io::Result<()> {
        self.ends.push((path.to_owned(), how));
        Ok(())
    }
}

/// Both outputs and a given input.
pub struct Talk {
    /// What the command reads.
    pub input: Cursor<Vec<u8>>,
    /// What it said.
    pub stdout: Vec<u8>,
    /// What it complained of.
    pub stderr: Vec<u8>,
}

impl Talk {
    /// A talk with this input.
    pub fn new(input: impl Into<Vec<u8>>) -> Self {
        Self { input: Cursor::new(input.into()), stdout: vec![], stderr: vec![] }
    }
}

impl Exchange for Talk {
    fn stdin(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer)
    }
    fn stdout(&mut self, data: &[u8]) -> io::Result<()> {
        self.stdout.write_all(data)
    }
    fn stderr(&mut self, data: &[u8]) -> io::Result<()> {
        self.stderr.write_all(data)
    }
}

/// A file to fetch, of unknown size.
pub fn item(path: &str) -> FetchItem {
    FetchItem { path: path.into(), size: 0 }
}

/// Fetches these files.
///
/// # Errors
/// As [`Lane::fetch`].
pub fn fetch(lane: &mut dyn Lane, root: &Utf8Path, wanted: &[&str]) -> Result<Got, TransportError> {
    let mut got = Got::default();
    lane.fetch(root, &mut wanted.iter().map(|path| item(path)), &mut got)?;
    Ok(got)
}

/// Everything below `root`, by path.
///
/// # Errors
/// As [`Lane::list`].
pub fn list(lane: &mut dyn Lane, root: &Utf8Path) -> Result<BTreeMap<String, Entry>, TransportError> {
    let mut found = BTreeMap::new();
    lane.list(root, &mut |entry| {
        assert!(found.insert(entry.path.to_string(), entry).is_none(), "an entry came twice");
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

const STRANGE: &str = "base/it's \"$HOME\" `x` \\ : ü\nnew";

/// Runs everything in `dir`, an empty directory that the far side sees under the same path and may write to. On the way
/// it is given to [`Account::for_servers`], the account of [`crate::ssh::Sshd`]'s logins.
///
/// # Panics
/// Where the lane does not do what the methods of [`Lane`] promise.
pub fn transport(subject: &dyn Transport, dir: &Utf8Path) {
    let mut lane = subject.lane().unwrap();
    let lane = lane.as_mut();
    let account = Account::for_servers().unwrap();
    let source = dir.join("sour ce");
    make_source(&source, dir);
    account.own_tree(dir).unwrap();
    listing(lane, &source, dir);
    surveying(lane, &source);
    fetching(lane, &source, subject.is_local());
    reading(lane, &source);
    storing(lane, dir);
    operations(lane, dir);
    commands(lane);
}

/// Links are reported as they are, and nothing is seen through them.
fn surveying(lane: &mut dyn Lane, source: &Utf8Path) {
    let mut found = Vec::new();
    lane.survey(source, &mut |one| found.push(one)).unwrap();
    let find = |path: &str| found.iter().find(|one| one.path == path);
    for (link, target) in [("linked", "../outside/deep"), ("postgresql.conf", "../outside/pg.conf")] {
        assert_eq!(find(link).unwrap().kind, EntryKind::Symlink(target.into()), "{link}");
    }
    assert!(find("linked/file").is_none());
    let names: Vec<(u64, u64)> = ["base/1/tail", "base/1/100"]
        .iter()
        .map(|path| find(path).map(|one| (one.links, one.size)).unwrap())
        .collect();
    assert_eq!(names, [(2, 4), (1, 300_000)]);
    let at = |path: &str| found.iter().position(|one| one.path == path).unwrap();
    assert!(at("base") < at("base/1") && at("base/1") < at("base/1/empty"), "parents come first");
    assert_eq!(find("base").unwrap().kind, EntryKind::Directory);
    assert!(find(STRANGE).is_some());
    let missing = lane.survey(&source.join("nowhere"), &mut |_| {});
    assert!(missing.is_err(), "{missing:?}");
}

fn make_source(source: &Utf8Path, dir: &Utf8Path) {
    for sub in ["base/1", "pg_tblspc/77", "etc", "pg_wal"] {
        fs::create_dir_all(source.join(sub)).unwrap();
    }
    fs::create_dir_all(dir.join("outside/deep")).unwrap();
    let noise: Vec<u8> = (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (path, content) in [
        ("PG_VERSION", b"15\n".as_slice()),
        ("base/1/100", &noise),
        ("base/1/zeros", &[0; 24_576]),
        ("base/1/tail", b"x\0\0\0"),
        ("base/1/empty", b""),
        (STRANGE, b"strange"),
        ("-dash", b"dash"),
        ("pg_tblspc/77/in_place", b"in place"),
        ("pg_wal/000000010000000000000001", b"wal"),
    ] {
        fs::write(source.join(path), content).unwrap();
    }
    fs::hard_link(source.join("base/1/tail"), source.join("base/1/twin")).unwrap();
    fs::write(dir.join("outside/pg.conf"), "port = 1\n").unwrap();
    fs::write(dir.join("outside/deep/file"), "deep").unwrap();
    for (link, target) in [
        ("postgresql.conf", "../outside/pg.conf"),
        ("linked", "../outside/deep"),
        ("pg_tblspc/16400", "/srv/ts"),
        ("pg_xlog", "pg_wal"),
        ("broken", "no where"),
        ("base/1/pg_wal", "../../etc"),
    ] {
        symlink(target, source.join(link)).unwrap();
    }
    rustix::fs::mkfifoat(rustix::fs::CWD, source.join("fifo").as_str(), rustix::fs::Mode::RUSR).unwrap();
    let time = rustix::fs::Timespec { tv_sec: 1_600_000_000, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    let path = source.join("base/1/100");
    rustix::fs::utimensat(rustix::fs::CWD, path.as_str(), &times, rustix::fs::AtFlags::empty()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
}

fn listing(lane: &mut dyn Lane, source: &Utf8Path, dir: &Utf8Path) {
    let found = list(lane, source).unwrap();
    let mut names: Vec<String> = found
        .iter()
        .map(|(path, entry)| match &entry.kind {
            EntryKind::File => format!("{path} {}", entry.size),
            EntryKind::Directory => format!("{path}/"),
            EntryKind::Symlink(target) => format!("{path} -> {target}"),
            EntryKind::Other => format!("{path}="),
        })
        .collect();
    let mut expected = vec![
        "-dash 4",
        "PG_VERSION 3",
        "base/",
        "base/1/",
        "base/1/100 300000",
        "base/1/empty 0",
        "base/1/pg_wal/",
        "base/1/tail 4",
        "base/1/twin 4",
        "base/1/zeros 24576",
        "broken -> no where",
        "etc/",
        "fifo=",
        "linked/",
        "linked/file 4",
        "pg_tblspc/",
        "pg_tblspc/16400 -> /srv/ts",
        "pg_tblspc/77/",
        "pg_tblspc/77/in_place 8",
        "pg_wal/",
        "pg_wal/000000010000000000000001 3",
        "pg_xlog -> pg_wal",
        "postgresql.conf 9",
    ];
    let strange = format!("{STRANGE} 7");
    expected.push(&strange);
    names.sort();
    expected.sort_unstable();
    assert_eq!(names, expected);
    let entry = &found["base/1/100"];
    assert_eq!(entry.mtime, FileTime { seconds: 1_600_000_000, nanos: 123_456_789 });
    assert_eq!(entry.mode, 0o640);

    let mut count = 0;
    lane.list(source, &mut |_| {
        count += 1;
        ControlFlow::Break(())
    })
    .unwrap();
    assert_eq!(count, 1, "a walk goes on after it was stopped");
    assert_kind(list(lane, &dir.join("nowhere")), io::ErrorKind::NotFound);
    symlink("..", dir.join("outside/deep/loop")).unwrap();
    assert!(list(lane, &dir.join("outside")).is_err(), "a walk in circles must end");
    fs::remove_file(dir.join("outside/deep/loop")).unwrap();
}

fn assert_kind<T>(result: Result<T, TransportError>, expected: io::ErrorKind) {
    match result.map(|_| ()) {
        Err(TransportError::File { kind, .. }) if kind == expected => {}
        other => panic!("expected {expected:?}, found {other:?}"),
    }
}

fn fetching(lane: &mut dyn Lane, source: &Utf8Path, local: bool) {
    let may_read_all = local && rustix::process::geteuid().is_root();
    fs::write(source.join("secret"), "secret").unwrap();
    Account::for_servers().unwrap().own(source.join("secret")).unwrap();
    fs::set_permissions(source.join("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    let regular = [
        "base/1/tail",
        "base/1/twin",
        STRANGE,
        "base/1/zeros",
        "-dash",
        "base/1/100",
        "base/1/empty",
        "linked/file",
        "postgresql.conf",
    ];
    let mut wanted = vec!["gone", "gone too/file", "base"];
    wanted.extend(regular);
    wanted.extend(["fifo", "secret", "gone at last"]);
    let got = fetch(lane, source, &wanted).unwrap();
    let order: Vec<&str> = got.ends.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(order, wanted, "each file ends once, in the order asked for");
    for (path, how) in &got.ends {
        match path.as_str() {
            p if p.starts_with("gone") => assert_eq!(*how, Fetched::Vanished, "{p}"),
            "secret" if may_read_all => assert_eq!(*how, Fetched::Whole),
            p @ ("base" | "fifo" | "secret") => assert!(matches!(how, Fetched::Denied(_)), "{p}: {how:?}"),
            p => {
                assert_eq!(*how, Fetched::Whole, "{p}");
                let (facts, content) = &got.files[path];
                let meta = fs::metadata(source.join(p)).unwrap();
                assert!(*content == fs::read(source.join(p)).unwrap(), "{p} differs");
                let mtime = FileTime { seconds: meta.mtime(), nanos: meta.mtime_nsec() as u32 };
                assert_eq!(*facts, FileFacts { size: meta.len(), mtime, mode: meta.mode() & 0o7777 }, "{p}");
            }
        }
    }
    assert!(fetch(lane, source, &[]).unwrap().ends.is_empty());
    assert_kind(fetch(lane, &source.join("nowhere"), &["x"]), io::ErrorKind::NotFound);
}

fn reading(lane: &mut dyn Lane, source: &Utf8Path) {
    let path = source.join("base/1/100");
    let all = fs::read(&path).unwrap();
    for (from, len) in
        [(0, None), (1, None), (70_000, Some(100_000)), (0, Some(10)), (299_990, Some(100)), (400_000, None)]
    {
        let mut found = Vec::new();
        lane.read(&path, from, len).unwrap().read_to_end(&mut found).unwrap();
        let begin = (from as usize).min(all.len());
        let end = len.map_or(all.len(), |len| (begin + len as usize).min(all.len()));
        assert!(found == all[begin..end], "from {from}, {len:?}: {} bytes", found.len());
    }
    drop(lane.read(&path, 0, None).unwrap());
    assert_kind(lane.read(&source.join("nowhere"), 0, None), io::ErrorKind::NotFound);
    assert_kind(lane.read(&source.join("nowhere"), 5, Some(5)), io::ErrorKind::NotFound);
    assert!(fetch(lane, source, &["-dash"]).is_ok(), "the lane can be used after a read was given up");
}

fn file(path: &str, content: &[u8], mtime: FileTime) -> Result<StoreItem, TransportError> {
    let content =
        StoreContent::File { size: content.len() as u64, bytes: Box::new(Cursor::new(content.to_vec())) };
    Ok(StoreItem { path: path.into(), mode: 0o600, mtime, content })
}

fn storing(lane: &mut dyn Lane, dir: &Utf8Path) {
    let root = dir.join("de'st");
    lane.apply(&[FileOp::MakeDirs { path: root.clone(), mode: 0o700 }]).unwrap();
    let time = FileTime { seconds: 1_500_000_000, nanos: 987_654_321 };
    let long = format!("base/{}/{}", "d".repeat(120), "f".repeat(130));
    let (long_dir, _) = long.rsplit_once('/').unwrap();
    let directory = |path: &str, mode| {
        Ok(StoreItem { path: path.into(), mode, mtime: time, content: StoreContent::Directory })
    };
    let big = vec![7; 700_001];
    let items = |content: &'static [u8]| {
        vec![
            directory("base", 0o700),
            directory(long_dir, 0o750),
            file("base/one", content, time),
            file("base/zeros", &[0; 8192], FileTime { seconds: 5, nanos: 0 }),
            file("base/empty", b"", time),
            file("base/big", &big, time),
            file(&long, b"long", time),
            file(STRANGE, b"strange", time),
            directory("pg_tblspc", 0o700),
            Ok(StoreItem {
                path: "pg_tblspc/16400".into(),
                mode: 0o777,
                mtime: time,
                content: StoreContent::Symlink("/srv/a b".into()),
            }),
        ]
    };
    let report = lane.store(&root, &mut items(b"first").into_iter()).unwrap();
    assert_eq!(report, StoreReport { files: 6, bytes: 5 + 8192 + 700_001 + 4 + 7 });
    fs::hard_link(root.join("base/one"), dir.join("kept")).unwrap();
    fs::set_permissions(root.join("base"), fs::Permissions::from_mode(0o755)).unwrap();
    lane.store(&root, &mut items(b"second!").into_iter()).unwrap();
    assert_eq!(fs::read(root.join("base/one")).unwrap(), b"second!");
    assert_eq!(
        fs::read(dir.join("kept")).unwrap(),
        b"first",
        "an existing file is replaced, never written into"
    );
    assert_eq!(fs::read(root.join("base/zeros")).unwrap(), [0; 8192]);
    assert!(fs::read(root.join("base/big")).unwrap() == big);
    assert_eq!(fs::read(root.join(&long)).unwrap(), b"long");
    assert_eq!(fs::read(root.join(STRANGE)).unwrap(), b"strange");
    assert_eq!(fs::read_link(root.join("pg_tblspc/16400")).unwrap().to_str(), Some("/srv/a b"));
    let meta = fs::metadata(root.join("base/one")).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec(), meta.mode() & 0o7777), (time.seconds, 987_654_321, 0o600));
    assert_eq!(fs::metadata(root.join("base")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(root.join(long_dir)).unwrap().mode() & 0o7777, 0o750);
    lane.sync(&root).unwrap();
    assert_kind(lane.sync(&dir.join("nowhere")), io::ErrorKind::NotFound);

    let short = StoreContent::File { size: 10, bytes: Box::new(Cursor::new(b"short".to_vec())) };
    let short = StoreItem { path: "short".into(), mode: 0o600, mtime: time, content: short };
    let refused = lane.store(&root, &mut [Ok(short)].into_iter());
    assert!(matches!(refused, Err(TransportError::Source { .. })), "{refused:?}");
    for path in ["../up", "/etc/x", "a/../../b", ""] {
        assert!(lane.store(&root, &mut [file(path, b"x", time)].into_iter()).is_err(), "{path}");
    }
    assert!(lane.store(&dir.join("nowhere"), &mut [file("x", b"x", time)].into_iter()).is_err());
}

fn operations(lane: &mut dyn Lane, dir: &Utf8Path) {
    let ops = dir.join("op s");
    let path = |name: &str| ops.join(name);
    lane.apply(&[
        FileOp::MakeDirs { path: path("a/b c"), mode: 0o700 },
        FileOp::WriteFile { path: path("a/conf"), content: b"100% 'sure' \\n\0\xff\n".to_vec(), mode: 0o640 },
        FileOp::WriteFile { path: path("a/empty"), content: vec![], mode: 0o600 },
        FileOp::ProveWritable(path("a")),
        FileOp::Symlink { link: path("a/link"), target: "old".into() },
        FileOp::Symlink { link: path("a/link"), target: "new target".into() },
        FileOp::Rename { from: path("a/empty"), to: path("a/b c/moved") },
        FileOp::WriteFile { path: path("gone"), content: b"x".to_vec(), mode: 0o600 },
        FileOp::RemoveFile(path("gone")),
        FileOp::RemoveFile(path("never was")),
        FileOp::RemoveTree(path("never was")),
        FileOp::MakeDirs { path: path("tree/deep"), mode: 0o700 },
        FileOp::Symlink { link: path("tree/out"), target: path("a") },
        FileOp::RemoveTree(path("tree")),
    ])
    .unwrap();
    assert_eq!(fs::read(path("a/conf")).unwrap(), b"100% 'sure' \\n\0\xff\n");
    assert_eq!(fs::metadata(path("a/conf")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(fs::metadata(path("a/b c")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::read_link(path("a/link")).unwrap().to_str(), Some("new target"));
    assert_eq!(fs::read(path("a/b c/moved")).unwrap(), b"");
    assert!(!path("tree").exists() && !path("gone").exists() && !path("a/empty").exists());
    let left: Vec<_> = fs::read_dir(path("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "temporary files stay behind: {left:?}");

    // The first that fails stops the rest.
    let failed = lane.apply(&[
        FileOp::MakeDirs { path: path("before"), mode: 0o700 },
        FileOp::Rename { from: path("nothing"), to: path("else") },
        FileOp::MakeDirs { path: path("after"), mode: 0o700 },
    ]);
    match failed {
        Err(TransportError::File { path: at, kind: io::ErrorKind::NotFound, .. }) => {
            assert_eq!(at, path("nothing"))
        }
        other => panic!("{other:?}"),
    }
    assert!(path("before").exists() && !path("after").exists());
    assert!(lane.apply(&[FileOp::ProveWritable(path("nowhere"))]).is_err());
    assert!(lane.apply(&[FileOp::Symlink { link: path("a/conf"), target: "x".into() }]).is_err());

    let paths =
        [path("a"), path("before"), path("a/conf"), path("x/y/z"), path("a/link"), "/dev/null".into()];
    let probes = lane.probe(&paths).unwrap();
    let kinds: Vec<_> = probes.iter().map(|probe| probe.kind).collect();
    let expected = [
        ProbeKind::Directory,
        ProbeKind::EmptyDirectory,
        ProbeKind::File,
        ProbeKind::Missing,
        ProbeKind::Missing,
        ProbeKind::Other,
    ];
    assert_eq!(kinds, expected);
    assert!(probes[3].free.unwrap() > 0);
    assert_eq!(probes[3].path, path("x/y/z"));
}

fn commands(lane: &mut dyn Lane) {
    let mut talk = Talk::new("in put");
    let status = lane.exec(&RemoteCommand::Shell("cat; echo err >&2; exit 3".into()), &mut talk).unwrap();
    assert_eq!(status, ExitStatus::Code(3));
    assert_eq!((talk.stdout.as_slice(), talk.stderr.as_slice()), (&b"in put"[..], &b"err\n"[..]));

    let mut talk = Talk::new("");
    let words = ["printf", "%s|", "a b", "it's", "", "$HOME", "*", "\\", "new\nline"];
    assert!(lane.exec(&RemoteCommand::program(words), &mut talk).unwrap().success());
    assert_eq!(String::from_utf8(talk.stdout).unwrap(), "a b|it's||$HOME|*|\\|new\nline|");

    // More than any buffer holds, both ways at once.
    let big: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    let mut talk = Talk::new(big.clone());
    assert!(lane.exec(&RemoteCommand::program(["cat"]), &mut talk).unwrap().success());
    assert!(talk.stdout == big);

    // A command that does not read its input.
    let mut talk = Talk::new(big);
    assert!(lane.exec(&RemoteCommand::program(["true"]), &mut talk).unwrap().success());
}
