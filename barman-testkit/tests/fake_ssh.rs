//! The scripted SSH server serves OpenSSH's client, and fails as told.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use barman_testkit::fake_ssh::{Answer, FakeSsh};
use barman_testkit::os::Account;

/// Runs OpenSSH's client through a shell; `stdin` is a shell command whose output it gets.
fn ssh(fake: &FakeSsh, remote: &str, stdin: &str) -> Output {
    let line = format!("{stdin} | {} '{remote}'", fake.ssh_command());
    Account::for_servers().unwrap().command("sh").args(["-c", &line]).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn commands_are_answered_by_the_script_or_run() {
    let fake = FakeSsh::builder()
        .on("hello", Answer::output("there\n"))
        .on("fail*", Answer::failure(3, "no\n"))
        .on("noisy *", Answer::shell().noise("Welcome!\n"))
        .on("refused", Answer::refused())
        .shell()
        .start()
        .unwrap();
    let hello = ssh(&fake, "hello", "true");
    assert_eq!(
        (text(&hello.stdout).as_str(), hello.status.code()),
        ("there\n", Some(0)),
        "{}",
        text(&hello.stderr)
    );
    let fail = ssh(&fake, "fail now", "true");
    assert_eq!((text(&fail.stderr).as_str(), fail.status.code()), ("no\n", Some(3)));
    // The stdin of a command arrives whole: a megabyte and its end.
    let cat = ssh(&fake, "md5sum; echo err >&2; exit 9", "head -c 1000000 /dev/zero");
    assert_eq!(text(&cat.stdout), "879f4bba57ed37c9ec5e5aedf9864698  -\n");
    assert_eq!((text(&cat.stderr).as_str(), cat.status.code()), ("err\n", Some(9)));
    let big = ssh(&fake, "head -c 20000000 /dev/zero", "true");
    assert_eq!(big.stdout.len(), 20_000_000);
    assert!(text(&ssh(&fake, "noisy | true", "true").stdout).starts_with("Welcome!\n"));
    assert_ne!(ssh(&fake, "refused", "true").status.code(), Some(0));
    assert_eq!(fake.commands()[..2], ["hello", "fail now"]);
    assert_eq!((fake.connections(), fake.logins()), (6, 6));
}

#[test]
fn streams_are_cut_and_stalled_where_told() {
    let fake = FakeSsh::builder()
        .on("cut *", Answer::output(vec![b'x'; 100_000]).cut_after(50_000))
        .on("stall", Answer::output(vec![b'x'; 1000]).stall_after(10))
        .on("slow", Answer::output("late").after(Duration::from_millis(300)))
        .on("killed", Answer::output("half").without_status())
        .on("lies", Answer::shell().status(0))
        .start()
        .unwrap();
    let cut = ssh(&fake, "cut here", "true");
    assert_eq!((cut.stdout.len(), cut.status.code()), (50_000, Some(255)), "{}", text(&cut.stderr));
    let line = format!("timeout 1 {} stall", fake.ssh_command());
    let stalled = Account::for_servers().unwrap().command("sh").args(["-c", &line]).output().unwrap();
    assert_eq!((stalled.stdout.len(), stalled.status.code()), (10, Some(124)));
    let begun = Instant::now();
    assert_eq!(text(&ssh(&fake, "slow", "true").stdout), "late");
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_ne!(ssh(&fake, "killed", "true").status.code(), Some(0));
    assert_eq!(ssh(&fake, "lies", "true").status.code(), Some(0));
}

#[test]
fn logins_are_refused_where_told() {
    let changed = FakeSsh::builder().changed_host_key().shell().start().unwrap();
    let output = ssh(&changed, "true", "true");
    assert_eq!(output.status.code(), Some(255));
    assert!(text(&output.stderr).contains("IDENTIFICATION HAS CHANGED"), "{}", text(&output.stderr));
    assert_eq!(changed.logins(), 0);

    let keyless = FakeSsh::builder().refuse_keys().banner("Authorised users only\n").shell().start().unwrap();
    let output = ssh(&keyless, "true", "true");
    assert_eq!(output.status.code(), Some(255));
    assert!(text(&output.stderr).contains("Permission denied"), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("Authorised users only"));

    let full = FakeSsh::builder().refuse_connections(1).shell().start().unwrap();
    assert_eq!(ssh(&full, "true", "true").status.code(), Some(255));
    assert_eq!(ssh(&full, "true", "true").status.code(), Some(0));
}

#[test]
#[should_panic(expected = "\"rm -rf /\" is not in the script")]
fn a_command_outside_of_the_script_fails_the_test() {
    let fake = FakeSsh::builder().on("true", Answer::output("")).start().unwrap();
    assert_eq!(ssh(&fake, "rm -rf /", "true").status.code(), Some(127));
}
