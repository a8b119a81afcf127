//! A restored server goes on archiving into the same incoming: two histories in one archive, and restores along each.

use barman_testkit::pg::Cluster;

use super::scene::{SERVER, Scene, log_of, prove_sound};

#[test]
fn timelines_on_11() {
    timelines(11);
}

#[test]
fn timelines_on_17() {
    timelines(17);
}

fn timeline_of(server: &Cluster) -> String {
    server.psql("SELECT timeline_id FROM pg_control_checkpoint()").unwrap()
}

fn timelines(major: u32) {
    let Some(mut scene) = Scene::local(major, |b| b.wal_segment_size_mb(1)) else { return };
    scene.fill();
    scene.note("0");
    let id = scene.backup();
    scene.note("a");
    scene.sql("SELECT pg_create_restore_point('point')");
    scene.note("b");
    scene.archive();

    // The way back is taken: a new timeline begins, and archives where the old one did.
    let place = scene.restore("second", &id, &["--target-name", "point", "--target-action", "promote"]);
    let command = format!("cp %p \"{}/incoming/%f\"", scene.world.path());
    let second = scene.restored(&place).conf("archive_command", command).start().unwrap();
    assert_eq!(log_of(&second), "0 a");
    second.psql("INSERT INTO log VALUES ('x')").unwrap();
    second.archive_now().unwrap();
    // The old server lives on, unaware.
    scene.note("c");
    scene.archive();
    let wals = scene.world.home().join(SERVER).join("wals");
    assert!(wals.join("00000002.history").exists());
    assert!(!scene.world.home().join(SERVER).join("errors").read_dir_utf8().unwrap().any(|_| true));

    let cases: [(&str, &[&str], &str); 5] = [
        ("two", &["--target-tli", "2"], "0 a x"),
        ("latest", &["--target-tli", "latest"], "0 a x"),
        ("current", &["--target-tli", "current"], "0 a b c"),
        ("one", &["--target-tli", "1"], "0 a b c"),
        ("plain", &[], "0 a b c"),
    ];
    for (name, options, expected) in cases {
        let place = scene.restore(name, &id, options);
        let mut server = scene.open(&place);
        assert_eq!(log_of(&server), expected, "{name}");
        let timeline = if options.is_empty() { "1" } else { "3" };
        // The next free number is taken, whichever timeline was followed.
        assert_eq!(timeline_of(&server), timeline, "{name}");
        if name == "two" {
            prove_sound(&place, &mut server);
        }
    }
    second.psql("INSERT INTO log VALUES ('y')").unwrap();
    let mut session = second.connect().unwrap();
    let moment = session.psql("SET timezone = 'UTC'; SELECT clock_timestamp() + interval '50 ms'").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    second.psql("INSERT INTO log VALUES ('z')").unwrap();
    scene.note("d");
    second.archive_now().unwrap();
    scene.archive();
    let time = ["--target-time", &moment, "--target-action", "promote"];
    let server = scene.open(&scene.restore("default", &id, &time));
    // Since 12 the default of PostgreSQL is the latest timeline.
    assert_eq!(log_of(&server), if major >= 12 { "0 a x y" } else { "0 a b c" });
    let server = scene.open(&scene.restore("both", &id, &[&time[..], &["--target-tli", "2"]].concat()));
    assert_eq!(log_of(&server), "0 a x y");

    // A backup of the new server belongs to the new timeline, and links what the old one left.
    scene.world.server(SERVER).conninfo(second.conninfo_tcp());
    let third = scene.backup();
    assert!(scene.info(&third).contains("timeline=2\n"));
    let place = scene.restore("of-the-second", &third, &[]);
    let mut server = scene.open(&place);
    assert_eq!(log_of(&server), "0 a x y z");
    prove_sound(&place, &mut server);
    let back = scene.restore_arguments(&scene.place("back"), &third, &["--target-tli", "1"]);
    let said = scene.refused(&back.each());
    assert!(said.contains("Timeline 1 cannot be reached from backup"), "{said}");
}
