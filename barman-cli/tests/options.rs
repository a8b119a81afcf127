//! The command line itself: versions, help, usage errors, and options that are known and not there yet.

use barman_testkit::world::World;

#[test]
fn the_version_comes_first_and_help_is_no_failure() {
    let mut world = World::new().unwrap();
    world.server("main").conninfo("host=/nowhere").option("backup_method", "local-rsync");
    let version = world.barman(&["--version"]).unwrap();
    assert_eq!((version.code(), version.stdout.split(' ').next()), (Some(0), Some("3.19.1")), "{version}");
    for words in [&["help"][..], &["--help"], &["restore", "--help"]] {
        let mut command = world.command(barman_testkit::world::find_barman().unwrap());
        let help = barman_testkit::world::Run::of(command.args(words)).unwrap();
        assert_eq!(help.code(), Some(0), "{help}");
        assert!(help.stdout.contains("Usage: barman"), "{help}");
    }
}

#[test]
fn a_command_line_that_cannot_be_read_exits_with_2() {
    let mut world = World::new().unwrap();
    world.server("main").conninfo("host=/nowhere").option("backup_method", "local-rsync");
    for words in [
        &["nonsense"][..],
        &["backup"],
        &["backup", "main", "--jobs", "0"],
        &["backup", "main", "--name", "latest"],
        &["restore", "main", "latest", "/x", "--target-tli", "zero"],
        &["restore", "main", "latest", "/x", "--combine-mode", "bogus"],
    ] {
        let run = world.barman(words).unwrap();
        assert_eq!(run.code(), Some(2), "{words:?}: {run}");
    }
}

#[test]
fn what_is_not_there_yet_refuses_by_name() {
    let mut world = World::new().unwrap();
    world.server("main").conninfo("host=/nowhere").option("backup_method", "local-rsync");
    let run = world.barman(&["cloud-wal-archive", "main", "x"]).unwrap();
    assert_eq!(run.code(), Some(1), "{run}");
    assert!(run.stderr.contains("'cloud-wal-archive' is not available in this version"), "{run}");
}

#[test]
fn completions_and_manual_pages_need_no_configuration() {
    let world = World::new().unwrap();
    let program = barman_testkit::world::find_barman().unwrap();
    let run = |words: &[&str]| barman_testkit::world::Run::of(world.command(&program).args(words)).unwrap();
    let script = run(&["native-completions", "bash"]);
    assert_eq!(script.code(), Some(0), "{script}");
    assert!(script.stdout.contains("list-backups") && script.stdout.contains("--target-time"));
    let pages = world.dir().subdir("man").unwrap();
    let man = run(&["native-man", pages.as_str()]);
    assert_eq!(man.code(), Some(0), "{man}");
    let page = std::fs::read_to_string(pages.join("barman-restore.1")).unwrap();
    assert!(page.contains("target\\-time") || page.contains("target-time"), "{page}");
}
