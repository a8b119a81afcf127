//! Started as root, the command becomes barman_user.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use barman_testkit::world::{World, find_barman};
use barman_testkit::{os::Account, skip};

#[test]
fn root_becomes_the_configured_user_with_its_groups_and_home() {
    if !Account::current().unwrap().name.eq("root") {
        skip("only root can become another user");
        return;
    }
    let mut world = World::new().unwrap();
    world.server("main").conninfo("host=/nowhere").option("backup_method", "local-rsync");
    let config = world.write_config().unwrap();
    let log = world.path().join("made-by-the-user.log");
    std::process::Command::new("sed")
        .args(["-i", &format!("s#^log_file.*#log_file = {log}#"), config.as_str()])
        .status()
        .unwrap();
    // Found by the environment: the program that is started anew must find the same file.
    let output = Command::new(find_barman().unwrap())
        .arg("-d")
        .args(["backup", "main"])
        .env("BARMAN_CONFIG_FILE", config.as_str())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let owner = std::fs::metadata(&log).unwrap().uid();
    assert_eq!(owner, world.account().uid, "the log belongs to the configured user");
}

#[test]
fn nobody_else_may_run_it() {
    let mut world = World::new().unwrap();
    world.global("barman_user", "root").server("main").conninfo("host=/nowhere");
    if world.account().is_current() && world.account().name == "root" {
        skip("the tests run as the configured user");
        return;
    }
    let run = world.barman(&["list-servers"]).unwrap();
    assert_eq!(run.code(), Some(1));
    assert_eq!(run.stderr.trim_end(), "ERROR: please run barman as 'root' user");
}
