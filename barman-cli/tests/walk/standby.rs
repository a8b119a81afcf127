//! A standby made from a backup, which then follows the primary.

use std::fs::OpenOptions;
use std::io::Write;

use barman_testkit::pg::Wait;

use super::scene::{Place, Scene, log_of, wait_for};

/// What a user adds to the restored settings.
fn follow(scene: &Scene, place: &Place) {
    let file = if scene.major >= 12 { "postgresql.auto.conf" } else { "recovery.conf" };
    let mut settings = OpenOptions::new().append(true).open(place.pgdata.join(file)).unwrap();
    writeln!(settings, "primary_conninfo = '{}'", scene.cluster.conninfo_tcp()).unwrap();
}

#[test]
fn a_restored_standby_follows_the_primary() {
    for major in [11, 17] {
        let Some(scene) = Scene::local(major, |b| b) else { continue };
        scene.fill();
        scene.note("0");
        let id = scene.backup();
        scene.note("a");
        scene.archive();
        let place = scene.restore("standby", &id, &["--standby-mode"]);
        assert_eq!(place.has("standby.signal"), major >= 12);
        assert_eq!(place.settings(major).contains("standby_mode = 'on'\n"), major < 12);
        assert!(!place.has("recovery.signal"));
        assert!(!place.settings(major).contains("recovery_end_command"));
        follow(&scene, &place);
        scene.note("b");
        let standby = scene.restored(&place).wait(Wait::Connections).start().unwrap();
        scene.note("c");
        wait_for(&standby, "SELECT string_agg(line, ' ' ORDER BY line) FROM log", "0 a b c");
        assert_eq!(standby.psql("SELECT pg_is_in_recovery()").unwrap(), "t");
        scene.sql("INSERT INTO orders SELECT n, 'streamed' FROM generate_series(5000, 6000) AS n");
        standby.catch_up(&scene.cluster).unwrap();
        assert_eq!(standby.psql("SELECT count(*) FROM orders").unwrap(), "3001");
        assert_eq!(log_of(&standby), "0 a b c");
    }
}
