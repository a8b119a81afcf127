//! The lane through the `ssh` program, against a real sshd.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use barman_core::ctx::Cancel;
use barman_core::model::FileTime;
use barman_core::transport::{
    FetchItem, FetchSink, Fetched, FileFacts, RemoteCommand, SshProgramTransport, StoreContent, StoreItem,
    Transport, TransportError,
};
use barman_testkit::conformance::transport::{Talk, fetch, item, list, transport as conformance};
use barman_testkit::os::{Port, TestDir};
use barman_testkit::ssh::Sshd;
use camino::Utf8Path;

fn program(ssh_command: &str) -> SshProgramTransport {
    SshProgramTransport::new(ssh_command, Cancel::new()).unwrap()
}

fn refused(ssh_command: &str) -> TransportError {
    match program(ssh_command).lane() {
        Err(error) => error,
        Ok(_) => panic!("{ssh_command} should be refused"),
    }
}

#[test]
fn ssh_program_lane_conforms() {
    let Some(()) = Sshd::require() else { return };
    let sshd = Sshd::start().unwrap();
    let dir = TestDir::new("btk-tp-").unwrap();
    conformance(&program(&sshd.ssh_command()), dir.path());
}

#[test]
fn what_keeps_a_login_from_succeeding_is_told_apart() {
    let Some(()) = Sshd::require() else { return };
    let mut sshd = Sshd::start().unwrap();
    let good = sshd.ssh_command();
    assert!(program(&good).lane().is_ok());

    let key = sshd.foreign_key().unwrap();
    let error = refused(&good.replace(sshd.key().as_str(), key.as_str()));
    assert!(matches!(error, TransportError::Denied { .. }), "{error}");

    let dead = Port::reserve().unwrap();
    let error = refused(&good.replace(&sshd.port().to_string(), &dead.number().to_string()));
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
    assert!(error.is_transient() && error.to_string().contains("refused"), "{error}");

    sshd.rotate_host_key().unwrap();
    let error = refused(&good);
    assert!(matches!(error, TransportError::HostKey { .. }), "{error}");
    assert!(error.to_string().contains("known_hosts"), "{error}");

    let error = refused("no-such-program-anywhere host");
    assert!(matches!(error, TransportError::Unsupported { .. }), "{error}");
}

#[test]
fn noise_of_a_login_shell_is_a_clear_error() {
    let Some(()) = Sshd::require() else { return };
    let noisy = "echo 'Welcome to pg1'; exec sh -c \"$SSH_ORIGINAL_COMMAND\"";
    let sshd = Sshd::builder().forced_command(noisy).start().unwrap();
    let error = refused(&sshd.ssh_command());
    assert!(matches!(error, TransportError::Protocol { .. }), "{error}");
    assert!(error.to_string().contains("Welcome to pg1") && error.to_string().contains(".bashrc"), "{error}");

    let sshd = Sshd::builder().forced_command("echo This account is restricted.; exit 1").start().unwrap();
    let error = refused(&sshd.ssh_command());
    assert!(error.to_string().contains("This account is restricted"), "{error}");
}

#[test]
fn a_host_without_gnu_tools_is_refused_by_name() {
    let Some(()) = Sshd::require() else { return };
    let dir = TestDir::new("btk-tp-").unwrap();
    let bin = dir.subdir("bin").unwrap();
    for tool in ["sh", "ls", "true"] {
        std::os::unix::fs::symlink(format!("/bin/{tool}"), bin.join(tool)).unwrap();
    }
    let sshd = Sshd::builder().env("PATH", bin.as_str()).start().unwrap();
    let mut lane = program(&sshd.ssh_command()).lane().unwrap();
    let error = fetch(lane.as_mut(), "/etc".into(), &["passwd"]).err().unwrap();
    assert!(
        matches!(error, TransportError::Unsupported { .. }) && error.to_string().contains("GNU tar"),
        "{error}"
    );
    let error = list(lane.as_mut(), "/etc".into()).err().unwrap();
    assert!(
        matches!(error, TransportError::Unsupported { .. }) && error.to_string().contains("GNU find"),
        "{error}"
    );
}

/// Kills the server after some bytes.
pub(super) struct Killer<'a> {
    pub(super) sshd: &'a mut Sshd,
    pub(super) got: usize,
}

impl FetchSink for Killer<'_> {
    fn begin(&mut self, _path: &Utf8Path, _facts: FileFacts) -> io::Result<()> {
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.got;
        self.got += bytes.len();
        if before < 1_000_000 && self.got >= 1_000_000 {
            self.sshd.stop().unwrap();
        }
        Ok(())
    }
    fn end(&mut self, _path: &Utf8Path, how: Fetched) -> io::Result<()> {
        panic!("ended as {how:?}")
    }
}

#[test]
fn a_connection_that_breaks_is_lost_and_nothing_ends_as_whole() {
    let Some(()) = Sshd::require() else { return };
    let mut sshd = Sshd::start().unwrap();
    let dir = TestDir::new("btk-tp-").unwrap();
    fs::File::create(dir.path().join("big")).unwrap().set_len(1 << 30).unwrap();
    let noise: Vec<u8> = (0..20_000_000u32).map(|n| (n % 251) as u8 + 1).collect();
    fs::write(dir.path().join("big"), noise).unwrap();
    let mut lane = program(&sshd.ssh_command()).lane().unwrap();
    let mut killer = Killer { sshd: &mut sshd, got: 0 };
    let ended = lane.fetch(dir.path(), &mut [item("big")].into_iter(), &mut killer);
    let Err(error @ TransportError::Lost { .. }) = ended else { panic!("{ended:?}") };
    assert!(error.is_transient());
    sshd.restart().unwrap();
    let got = fetch(lane.as_mut(), dir.path(), &["big"]).unwrap();
    assert_eq!(got.ends[0].1, Fetched::Whole);
}

/// Truncates a file on the host when its first bytes arrive.
struct Truncater<'a> {
    path: &'a Utf8Path,
    to: u64,
    got: u64,
    zeros: u64,
    how: Option<Fetched>,
}

impl FetchSink for Truncater<'_> {
    fn begin(&mut self, _path: &Utf8Path, _facts: FileFacts) -> io::Result<()> {
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.got == 0 {
            fs::File::options().write(true).open(self.path).unwrap().set_len(self.to).unwrap();
        }
        self.got += bytes.len() as u64;
        self.zeros += bytes.iter().filter(|&&b| b == 0).count() as u64;
        Ok(())
    }
    fn end(&mut self, path: &Utf8Path, how: Fetched) -> io::Result<()> {
        if path == "big" {
            self.how = Some(how);
        }
        Ok(())
    }
}

#[test]
fn padding_of_a_file_that_shrank_is_never_passed_on() {
    let Some(()) = Sshd::require() else { return };
    let sshd = Sshd::start().unwrap();
    let dir = TestDir::new("btk-tp-").unwrap();
    let path = dir.path().join("big");
    fs::write(&path, vec![1; 60_000_000]).unwrap();
    fs::write(dir.path().join("next"), "next").unwrap();
    let mut lane = program(&sshd.ssh_command()).lane().unwrap();
    let mut sink = Truncater { path: &path, to: 50_000_000, got: 0, zeros: 0, how: None };
    lane.fetch(dir.path(), &mut [item("big"), item("next")].into_iter(), &mut sink).unwrap();
    assert_eq!(sink.how, Some(Fetched::Shrunk { got: 50_000_000 }));
    assert_eq!((sink.got, sink.zeros), (50_000_004, 0));
}

#[derive(Default)]
struct Count {
    files: usize,
    bytes: usize,
    current: usize,
}

impl FetchSink for Count {
    fn begin(&mut self, _path: &Utf8Path, _facts: FileFacts) -> io::Result<()> {
        self.current = 0;
        Ok(())
    }
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len();
        self.current += bytes.len();
        Ok(())
    }
    fn end(&mut self, path: &Utf8Path, how: Fetched) -> io::Result<()> {
        assert_eq!(how, Fetched::Whole, "{path}");
        self.files += 1;
        Ok(())
    }
}

#[test]
fn twenty_thousand_small_files_come_in_one_stream() {
    let Some(()) = Sshd::require() else { return };
    let sshd = Sshd::start().unwrap();
    let dir = TestDir::in_memory("btk-tp-").unwrap();
    let files: usize = 20_000;
    for at in 0..files {
        if at % 1000 == 0 {
            fs::create_dir(dir.path().join(format!("{}", at / 1000))).unwrap();
        }
        // Every third ends in zeros, as pages do, so that it must wait for words.
        let content = if at % 3 == 0 { vec![0; 300] } else { vec![1; 300] };
        fs::write(dir.path().join(format!("{}/{at}", at / 1000)), content).unwrap();
    }
    let mut lane = program(&sshd.ssh_command()).lane().unwrap();
    let begun = Instant::now();
    let found = list(lane.as_mut(), dir.path()).unwrap();
    let listed = begun.elapsed();
    let wanted: Vec<FetchItem> = found
        .into_values()
        .filter(|entry| entry.is_file())
        .map(|entry| FetchItem { path: entry.path, size: entry.size })
        .collect();
    let mut count = Count::default();
    let begun = Instant::now();
    lane.fetch(dir.path(), &mut wanted.into_iter(), &mut count).unwrap();
    eprintln!("listed in {listed:?}, fetched in {:?}", begun.elapsed());
    assert_eq!((count.files, count.bytes), (files, files * 300));
}

#[test]
fn cancelling_ends_a_remote_command() {
    let Some(()) = Sshd::require() else { return };
    let sshd = Sshd::start().unwrap();
    let cancel = Cancel::new();
    let mut lane = SshProgramTransport::new(&sshd.ssh_command(), cancel.clone()).unwrap().lane().unwrap();
    let begun = Instant::now();
    let stopper = std::thread::spawn(move || {
        std::thread::park_timeout(std::time::Duration::from_millis(500));
        cancel.cancel();
    });
    let ended = lane.exec(&RemoteCommand::program(["sleep", "60"]), &mut Talk::new(""));
    assert!(matches!(ended, Err(TransportError::Cancelled(_))), "{ended:?}");
    assert!(begun.elapsed().as_secs() < 20);
    stopper.join().unwrap();
}

/// Existing files are replaced, never written into, whichever tar the host has.
fn stores_through(name: &str, tar: &str) {
    let Some(()) = Sshd::require() else { return };
    if !Utf8Path::new(tar).exists() {
        barman_testkit::skip(&format!("{tar} is not on this machine"));
        return;
    }
    let dir = TestDir::new("btk-tp-").unwrap();
    let bin = dir.subdir("bin").unwrap();
    for tool in ["sh", "ls", "true", "sync"] {
        std::os::unix::fs::symlink(format!("/bin/{tool}"), bin.join(tool)).unwrap();
    }
    std::os::unix::fs::symlink(tar, bin.join(name)).unwrap();
    let root = dir.subdir("root").unwrap();
    let sshd = Sshd::builder().env("PATH", bin.as_str()).start().unwrap();
    let mut lane = program(&sshd.ssh_command()).lane().unwrap();
    let mtime = FileTime { seconds: 1_500_000_000, nanos: 0 };
    let long = format!("d/{}", "n".repeat(98));
    for content in [b"first".as_slice(), b"second!"] {
        let file = |path: &str| {
            let bytes = Box::new(io::Cursor::new(content.to_vec()));
            let content = StoreContent::File { size: content.len() as u64, bytes };
            Ok(StoreItem { path: path.into(), mode: 0o640, mtime, content })
        };
        let link = StoreContent::Symlink("/srv/a b".into());
        let mut items = vec![
            Ok(StoreItem { path: "d".into(), mode: 0o700, mtime, content: StoreContent::Directory }),
            file("d/one"),
            file(&long),
            Ok(StoreItem { path: "d/link".into(), mode: 0o777, mtime, content: link }),
        ]
        .into_iter();
        let report = lane.store(&root, &mut items).unwrap();
        assert_eq!((report.files, report.bytes), (2, 2 * content.len() as u64));
        assert_eq!(fs::read(root.join("d/one")).unwrap(), content);
        assert_eq!(fs::read(root.join(&long)).unwrap(), content);
        if content == b"first" {
            fs::hard_link(root.join("d/one"), dir.path().join("kept")).unwrap();
        }
    }
    assert_eq!(fs::read(dir.path().join("kept")).unwrap(), b"first");
    assert_eq!(fs::read_link(root.join("d/link")).unwrap().to_str(), Some("/srv/a b"));
    let meta = fs::metadata(root.join("d/one")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o640, mtime.seconds));
    lane.sync(&root).unwrap();
}

#[test]
fn bsdtar_stores() {
    stores_through("bsdtar", "/usr/bin/bsdtar");
}

#[test]
fn the_tar_of_busybox_stores() {
    stores_through("tar", "/usr/bin/busybox");
}

/// A transport whose commands share a connection.
fn sharing(ssh_command: &str, runtime: &Utf8Path) -> SshProgramTransport {
    program(ssh_command).sharing_in(Some(runtime.to_owned()))
}

fn talk(transport: &dyn Transport, times: usize) {
    for n in 0..times {
        let mut said = Talk::new("");
        let status = transport.lane().unwrap().exec(&RemoteCommand::program(["echo", "hello"]), &mut said);
        assert!(status.unwrap().success(), "{n}");
        assert_eq!(said.stdout, b"hello\n", "{n}: {:?}", String::from_utf8_lossy(&said.stderr));
    }
}

fn entries(dir: &Utf8Path) -> usize {
    dir.read_dir_utf8().unwrap().count()
}

#[test]
fn commands_share_one_connection_and_conform() {
    let Some(()) = Sshd::require() else { return };
    let sshd = Sshd::start().unwrap();
    let (dir, runtime) = (TestDir::new("btk-tp-").unwrap(), TestDir::new("btk-rt-").unwrap());
    let transport = sharing(&sshd.ssh_command(), runtime.path());
    talk(&transport, 5);
    assert_eq!(sshd.logins().unwrap(), 1);
    assert_eq!(entries(runtime.path()), 1);
    conformance(&transport, dir.path());
    let lanes = (transport.lane().unwrap(), transport.lane().unwrap());
    drop(lanes);
    drop(transport);
    assert_eq!(entries(runtime.path()), 0, "the socket goes with the transport");
}

#[test]
fn i30_the_shared_connection_ends_with_the_transport() {
    let Some(()) = Sshd::require() else { return };
    let sshd = Sshd::start().unwrap();
    let runtime = TestDir::new("btk-rt-").unwrap();
    let transport = sharing(&sshd.ssh_command(), runtime.path());
    talk(&transport, 1);
    let path = runtime.path().as_str().to_owned();
    let running = || {
        let proc = std::process::Command::new("pgrep").args(["-f", &path]).output().unwrap();
        proc.status.success()
    };
    assert!(running());
    drop(transport);
    assert!(!running());
}

#[test]
fn hosts_that_allow_one_session_a_connection_are_used_all_the_same() {
    let Some(()) = Sshd::require() else { return };
    let sshd = Sshd::builder().option("MaxSessions 1").start().unwrap();
    let runtime = TestDir::new("btk-rt-").unwrap();
    talk(&sharing(&sshd.ssh_command(), runtime.path()), 3);
    assert_eq!(sshd.logins().unwrap(), 4, "the shared one is of no use, each command makes its own");
}

#[test]
fn commands_at_the_same_time_have_connections_of_their_own() {
    let Some(()) = Sshd::require() else { return };
    let sshd = Sshd::start().unwrap();
    let runtime = TestDir::new("btk-rt-").unwrap();
    let transport = sharing(&sshd.ssh_command(), runtime.path());
    let mut first = transport.lane().unwrap();
    let mut second = transport.lane().unwrap();
    let zero = Utf8Path::new("/dev/zero");
    let reading = first.read(zero, 0, None).unwrap();
    let also = second.read(zero, 0, None).unwrap();
    assert_eq!(sshd.logins().unwrap(), 2);
    drop((reading, also));
    talk(&transport, 2);
    assert_eq!(sshd.logins().unwrap(), 2);
}

#[test]
fn a_shared_connection_that_breaks_is_replaced_by_others() {
    let Some(()) = Sshd::require() else { return };
    let sshd = Sshd::start().unwrap();
    let runtime = TestDir::new("btk-rt-").unwrap();
    let transport = sharing(&sshd.ssh_command(), runtime.path());
    talk(&transport, 1);
    let path = runtime.path().as_str();
    let killed = std::process::Command::new("pkill").args(["-9", "-f", path]).status().unwrap();
    assert!(killed.success());
    talk(&transport, 2);
    assert_eq!(sshd.logins().unwrap(), 3);
}

#[test]
fn a_refused_login_is_told_as_without_sharing() {
    let Some(()) = Sshd::require() else { return };
    let mut sshd = Sshd::start().unwrap();
    let runtime = TestDir::new("btk-rt-").unwrap();
    let good = sshd.ssh_command();
    let key = sshd.foreign_key().unwrap();
    let refused = |line: &str| sharing(line, runtime.path()).lane().err().unwrap();
    let error = refused(&good.replace(sshd.key().as_str(), key.as_str()));
    assert!(matches!(error, TransportError::Denied { .. }), "{error}");
    sshd.rotate_host_key().unwrap();
    let error = refused(&good);
    assert!(matches!(error, TransportError::HostKey { .. }), "{error}");
    assert_eq!(entries(runtime.path()), 0);
}
