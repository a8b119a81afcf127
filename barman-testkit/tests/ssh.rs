//! A real sshd accepts its key, refuses others, and shows the client a changed host key when asked to.

use std::time::Instant;

use barman_testkit::ssh::Sshd;

#[test]
fn a_command_runs_in_a_session() {
    let Some(()) = Sshd::require() else { return };
    let begun = Instant::now();
    let sshd = Sshd::start().unwrap();
    println!("sshd started in {:?}", begun.elapsed());
    let output = sshd.exec("id -un; exit 7").unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), sshd.account().name, "{}", sshd.log_tail(20));
    assert_eq!(output.status.code(), Some(7));
    assert!(sshd.log().unwrap().contains("Accepted publickey"));
}

#[test]
fn a_changed_host_key_is_refused_until_it_is_trusted() {
    let Some(()) = Sshd::require() else { return };
    let mut sshd = Sshd::start().unwrap();
    sshd.rotate_host_key().unwrap();
    let output = sshd.exec("true").unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&output.stderr).contains("REMOTE HOST IDENTIFICATION HAS CHANGED"));
    sshd.trust_host_key().unwrap();
    assert!(sshd.exec("true").unwrap().status.success());
}

#[test]
fn the_session_is_as_the_test_wants_it() {
    let Some(()) = Sshd::require() else { return };
    let sshd = Sshd::builder()
        .env("PATH", "/nowhere")
        .forced_command("/bin/echo noise; /bin/echo $PATH; /bin/echo $SSH_ORIGINAL_COMMAND")
        .start()
        .unwrap();
    let output = sshd.exec("tar -cf - .").unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "noise\n/nowhere\ntar -cf - .\n",
        "{}",
        sshd.log_tail(20)
    );
}

#[test]
fn a_foreign_key_is_refused_and_a_stopped_server_is_away() {
    let Some(()) = Sshd::require() else { return };
    let mut sshd = Sshd::start().unwrap();
    let foreign = sshd.foreign_key().unwrap();
    let command = sshd.ssh_command().replace(sshd.key().as_str(), foreign.as_str());
    let output = sshd.account().command("sh").args(["-c", &format!("{command} true")]).output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"));
    sshd.stop().unwrap();
    assert_eq!(sshd.exec("true").unwrap().status.code(), Some(255));
    sshd.restart().unwrap();
    assert!(sshd.exec("true").unwrap().status.success());
}
