//! `get-wal` as the `restore_command` of a real server: trouble stops recovery, and never ends it early (I25).

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test is the outside world")]

use std::fs;
use std::time::Duration;

use barman_testkit::pg::{self, Cluster, Restored, Wait};

use crate::scene::Scene;

#[test]
fn i25_a_damaged_segment_stops_recovery_until_it_is_mended() {
    if pg::require(15).is_none() {
        return;
    }
    let mut scene = Scene::new(15);
    // Plain segments: what is stored can be damaged and mended by hand.
    scene.world.server("main").option("compression", "");
    scene.fill(100);
    scene.ours(&["backup", "--wait", "main"]);
    let mut segments = Vec::new();
    for round in 0..3 {
        scene.cluster.psql(&format!("INSERT INTO t SELECT 1000 + {round}, 'late'")).unwrap();
        let run = scene.ours(&["switch-wal", "--archive", "main"]);
        let name = run.stdout.split_whitespace().nth(3).unwrap_or_default().to_owned();
        assert_eq!(name.len(), 24, "{run}");
        segments.push(name);
    }
    let destination = scene.world.path().join("restored");
    let tablespace = format!("ts1:{}", scene.world.path().join("ts1"));
    let config = scene.world.write_config().unwrap();
    let command = format!("barman -c {config} get-wal main %f > %p");
    scene.ours(&[
        "restore",
        "--tablespace",
        &tablespace,
        "--get-wal",
        "--restore-command",
        &command,
        "main",
        "latest",
        destination.as_str(),
    ]);
    let start = |scene: &Scene| -> Restored {
        Cluster::restored(15, &destination).env("PATH", scene.world.search_path())
    };

    let wanted = &segments[1];
    let stored = scene.world.home().join("main/wals").join(&wanted[..16]).join(wanted);
    let sound = fs::read(&stored).unwrap();
    fs::write(&stored, &sound[..sound.len() / 2]).unwrap();
    let mut stopped = start(&scene).wait(Wait::Nothing).start().unwrap();
    stopped.wait_ended(Duration::from_secs(60)).unwrap();
    let log = stopped.log_tail(50);
    assert!(log.contains("FATAL") && log.contains(&format!("could not restore file \"{wanted}\"")), "{log}");
    drop(stopped);

    fs::write(&stored, &sound).unwrap();
    let recovered = start(&scene).start().unwrap();
    assert_eq!(recovered.psql("SELECT count(*) FROM t WHERE n >= 1000").unwrap(), "3");
}
