//! Restored servers that fetch their WAL from Barman, on its host and over ssh.

use barman_testkit::pg::Wait;

use super::scene::{Place, SERVER, Scene, log_of, prove_sound, wait_for};

/// How the restored server finds `barman` and its configuration.
fn restored(scene: &Scene, place: &Place) -> barman_testkit::pg::Restored {
    scene.restored(place).env("BARMAN_CONFIG_FILE", scene.world.config_path())
}

#[test]
fn a_restored_server_fetches_its_wal() {
    for major in [11, 17] {
        let Some(scene) = Scene::local(major, |b| b.wal_segment_size_mb(1)) else { continue };
        scene.fill();
        scene.note("0");
        let id = scene.backup();
        scene.note("a");
        let moment = scene.moment();
        scene.note("b");
        scene.archive();

        let time = ["--get-wal", "--target-time", &moment, "--target-action", "promote"];
        let (place, said) = scene.restore_said("local", &id, &time);
        assert!(place.settings(major).contains("\nrestore_command = 'barman get-wal -P main %f > %p'\n"));
        let text = format!("{}{}", said.stdout, said.stderr);
        assert!(
            text.contains("Make sure that 'restore_command' can be executed by the PostgreSQL user."),
            "{text}"
        );
        assert!(!place.has("barman_wal"));
        let mut server = restored(&scene, &place).start().unwrap();
        assert_eq!(log_of(&server), "0 a");
        prove_sound(&place, &mut server);

        let command = format!(
            "{} {}/bin/barman -c {} get-wal {SERVER} %f > %p",
            scene.sshd.ssh_command(),
            scene.world.path(),
            scene.world.config_path()
        );
        let place = scene.restore("ssh", &id, &["--get-wal", "--restore-command", &command]);
        let server = restored(&scene, &place).start().unwrap();
        assert_eq!(log_of(&server), "0 a b");
        assert_eq!(server.psql("SELECT pg_is_in_recovery()").unwrap(), "f");
    }
}

/// I25: what is not archived yet only makes a standby wait.
#[test]
fn i25_a_standby_waits_for_what_is_not_archived_yet() {
    let Some(scene) = Scene::local(17, |b| b.wal_segment_size_mb(1)) else { return };
    scene.fill();
    scene.note("0");
    let id = scene.backup();
    let place = scene.restore("standby", &id, &["--get-wal", "--standby-mode"]);
    assert!(place.settings(17).contains("\nrestore_command = 'barman get-wal  main %f > %p'\n"));
    let standby = restored(&scene, &place)
        .conf("wal_retrieve_retry_interval", "200ms")
        .wait(Wait::Connections)
        .start()
        .unwrap();
    assert_eq!(log_of(&standby), "0");
    for line in ["a", "b"] {
        scene.note(line);
        scene.archive();
        wait_for(&standby, &format!("SELECT count(*) FROM log WHERE line = '{line}'"), "1");
    }
    assert_eq!(standby.psql("SELECT pg_is_in_recovery()").unwrap(), "t");
}
