//! WAL segments of other sizes than 16 MiB.

use super::scene::{SERVER, Scene, log_of, prove_sound};

#[test]
fn segments_of_1_mib() {
    for major in [11, 17] {
        walk(major, 1);
    }
}

#[test]
fn segments_of_64_mib() {
    walk(17, 64);
}

fn walk(major: u32, mib: u32) {
    let Some(scene) = Scene::local(major, |b| b.wal_segment_size_mb(mib)) else { return };
    scene.fill();
    let id = scene.backup();
    assert!(scene.info(&id).contains(&format!("xlog_segment_size={}\n", mib << 20)));
    // Enough for several segments of the small size, over the border of a directory of the archive.
    scene.sql("CREATE TABLE bulk AS SELECT n, repeat('x', 500) AS filler FROM generate_series(1, 6000) AS n");
    scene.note("a");
    let moment = scene.moment();
    scene.note("b");
    scene.archive();
    let place =
        scene.restore("time", &id, &["--target-time", &moment, "--target-action", "promote", "-j", "2"]);
    let mut server = scene.open(&place);
    assert_eq!(log_of(&server), "a");
    assert_eq!(server.psql("SELECT count(*) FROM bulk").unwrap(), "6000");
    prove_sound(&place, &mut server);

    let place = scene.restore("plain", "latest", &[]);
    let mut sizes = place
        .pgdata
        .join("pg_wal")
        .read_dir_utf8()
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.file_name().len() == 24 && e.file_type().unwrap().is_file());
    assert!(sizes.all(|e| e.metadata().unwrap().len() == u64::from(mib) << 20));
    assert_eq!(log_of(&scene.open(&place)), "a b");
    assert!(scene.world.home().join(SERVER).join("identity.json").exists());
}
