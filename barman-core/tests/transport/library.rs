//! The lane through libssh2, against a real sshd.

use std::fs;
use std::time::Instant;

use barman_core::ctx::Cancel;
use barman_core::transport::{
    Fetched, Lane, RemoteCommand, Ssh2Transport, SshEnvironment, SshTarget, Transport, TransportError,
};
use barman_testkit::conformance::transport::{Talk, fetch, item, transport as conformance};
use barman_testkit::os::{Port, TestDir};
use barman_testkit::ssh::Sshd;
use camino::Utf8PathBuf;

use super::program::Killer;

fn library(ssh_command: &str) -> Ssh2Transport {
    let target = SshTarget::parse(ssh_command).unwrap();
    Ssh2Transport::new(target, SshEnvironment::default(), Cancel::new())
}

fn refused(ssh_command: &str) -> TransportError {
    match library(ssh_command).lane() {
        Err(error) => error,
        Ok(_) => panic!("{ssh_command} should be refused"),
    }
}

#[test]
fn libssh2_lane_conforms() {
    let Some(()) = Sshd::require() else { return };
    let sshd = Sshd::start().unwrap();
    let dir = TestDir::new("btk-t2-").unwrap();
    conformance(&library(&sshd.ssh_command()), dir.path());
}

#[test]
fn libssh2_tells_apart_what_keeps_a_login_from_succeeding() {
    let Some(()) = Sshd::require() else { return };
    let mut sshd = Sshd::start().unwrap();
    let good = sshd.ssh_command();
    assert!(library(&good).lane().is_ok());

    let key = sshd.foreign_key().unwrap();
    let error = refused(&good.replace(sshd.key().as_str(), key.as_str()));
    assert!(matches!(error, TransportError::Denied { .. }), "{error}");

    let dead = Port::reserve().unwrap();
    let error = refused(&good.replace(&sshd.port().to_string(), &dead.number().to_string()));
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");

    sshd.rotate_host_key().unwrap();
    let error = refused(&good);
    assert!(matches!(error, TransportError::HostKey { .. }), "{error}");
    assert!(error.to_string().contains("known_hosts"), "{error}");
}

#[test]
fn libssh2_notes_the_key_of_a_new_host_and_holds_it_to_it() {
    let Some(()) = Sshd::require() else { return };
    let mut sshd = Sshd::start().unwrap();
    let dir = TestDir::new("btk-t2-").unwrap();
    let known: Utf8PathBuf = dir.path().join("dot ssh/known_hosts");
    let command = format!(
        "ssh -F none -p {} -i {} -o 'UserKnownHostsFile=\"{}\"'",
        sshd.port(),
        sshd.key(),
        known.as_str().replace("dot ssh", "dot_ssh")
    );
    let known = Utf8PathBuf::from(known.as_str().replace("dot ssh", "dot_ssh"));
    let strict = format!("{command} -o StrictHostKeyChecking=yes {}", sshd.destination());
    let error = refused(&strict);
    assert!(matches!(error, TransportError::HostKey { .. }), "{error}");
    assert!(!known.exists());
    let lax = format!("{command} -o StrictHostKeyChecking=no {}", sshd.destination());
    assert!(library(&lax).lane().is_ok());
    // What OpenSSH wrote for the same host.
    let expected = fs::read_to_string(sshd.known_hosts()).unwrap();
    assert_eq!(fs::read_to_string(&known).unwrap(), expected);
    assert!(library(&strict).lane().is_ok());
    assert_eq!(fs::read_to_string(&known).unwrap(), expected, "a known key is not noted again");
    sshd.rotate_host_key().unwrap();
    let error = refused(&lax);
    assert!(matches!(error, TransportError::HostKey { .. }), "{error}");
}

#[test]
fn libssh2_says_what_noise_it_met() {
    let Some(()) = Sshd::require() else { return };
    let noisy = "echo 'Welcome to pg1'; exec sh -c \"$SSH_ORIGINAL_COMMAND\"";
    let sshd = Sshd::builder().forced_command(noisy).start().unwrap();
    let mut lane = library(&sshd.ssh_command()).lane().unwrap();
    let error = lane.exec(&RemoteCommand::program(["true"]), &mut Talk::new("")).unwrap_err();
    assert!(error.to_string().contains("Welcome to pg1"), "{error}");
}

#[test]
fn libssh2_loses_a_connection_that_breaks() {
    let Some(()) = Sshd::require() else { return };
    let mut sshd = Sshd::start().unwrap();
    let dir = TestDir::new("btk-t2-").unwrap();
    let noise: Vec<u8> = (0..20_000_000u32).map(|n| (n % 251) as u8 + 1).collect();
    fs::write(dir.path().join("big"), noise).unwrap();
    let mut lane = library(&sshd.ssh_command()).lane().unwrap();
    let mut killer = Killer { sshd: &mut sshd, got: 0 };
    let ended = lane.fetch(dir.path(), &mut [item("big")].into_iter(), &mut killer);
    assert!(matches!(ended, Err(TransportError::Lost { .. })), "{ended:?}");
    let again = lane.exec(&RemoteCommand::program(["true"]), &mut Talk::new(""));
    assert!(matches!(again, Err(TransportError::Lost { .. })), "{again:?}");
    sshd.restart().unwrap();
    let mut lane = library(&sshd.ssh_command()).lane().unwrap();
    assert_eq!(fetch(lane.as_mut(), dir.path(), &["big"]).unwrap().ends[0].1, Fetched::Whole);
}

#[test]
fn libssh2_can_be_cancelled_and_the_lane_be_used_after_a_command_was_given_up() {
    let Some(()) = Sshd::require() else { return };
    let sshd = Sshd::start().unwrap();
    let cancel = Cancel::new();
    let target = SshTarget::parse(&sshd.ssh_command()).unwrap();
    let transport = Ssh2Transport::new(target, SshEnvironment::default(), cancel.clone());
    let mut lane: Box<dyn Lane> = transport.lane().unwrap();
    drop(lane.read("/dev/zero".into(), 0, None).unwrap());
    let mut talk = Talk::new("");
    assert!(lane.exec(&RemoteCommand::program(["echo", "still here"]), &mut talk).unwrap().success());
    assert_eq!(talk.stdout, b"still here\n");
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
