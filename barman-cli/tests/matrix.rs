//! Every way of taking a backup × every packing × every major: taken while the server is written to, restored, started, compared,
//! every page and index looked at.
//!
//! What runs always covers each pair of a major with a packing and of a major with a method (together with the walk, which goes
//! over ssh and on one host on each major); `cargo xtask test --all` runs all of it and prints how long each took.

use std::time::Instant;

use barman_testkit::pg;
use barman_testkit::ssh::Sshd;

use crate::base_backup::{busy, restore, scene};
use crate::scene::Scene;

/// One way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Files, on this host.
    Local,
    /// Files, through the `ssh` program.
    Ssh,
    /// Files, through libssh2, which is used where there is no such program.
    Libssh2,
    /// Over the replication protocol, packed here.
    Stream(&'static str),
    /// The same, packed by the server, kept as archives or as files.
    ByServer(&'static str, &'static str),
    /// An incremental one upon a full one.
    Incremental(&'static str),
}

/// The server here of these majors is built without the other two.
fn packs(major: u32) -> &'static [&'static str] {
    match major {
        15 => &["gzip", "lz4", "zstd"],
        16.. => &["gzip"],
        _ => &[],
    }
}

fn every(major: u32) -> Vec<Way> {
    let mut ways = vec![Way::Local, Way::Ssh, Way::Libssh2];
    ways.extend(["", "none", "gzip", "lz4", "zstd"].map(Way::Stream));
    ways.extend(
        packs(major).iter().flat_map(|codec| ["tar", "plain"].map(|format| Way::ByServer(codec, format))),
    );
    if major >= 17 {
        ways.extend(["", "none", "gzip", "lz4", "zstd"].map(Way::Incremental));
    }
    ways
}

/// What runs always: each packing on each major, and the other ways in turn.
fn some(major: u32) -> Vec<Way> {
    let others = [Way::Libssh2, Way::Local, Way::Ssh];
    let mut ways = vec![others[major as usize % 3]];
    ways.extend(["none", "gzip", "lz4", "zstd"].map(Way::Stream));
    ways.extend((major >= 17).then_some(Way::Incremental(["zstd", "none"][major as usize % 2])));
    ways
}

fn set(scene: &mut Scene, sshd: &Sshd, way: Way) {
    let (codec, location, format) = match way {
        Way::Stream(codec) | Way::Incremental(codec) => (codec, "client", "tar"),
        Way::ByServer(codec, format) => (codec, "server", format),
        _ => ("", "client", "tar"),
    };
    let method = match way {
        Way::Local => "local-rsync",
        Way::Ssh | Way::Libssh2 => "rsync",
        _ => "postgres",
    };
    let ssh = if method == "rsync" { sshd.ssh_command() } else { String::new() };
    let server = scene.world.server("main").option("backup_method", method).ssh(ssh);
    let server = server.option("backup_compression", codec).option("backup_compression_location", location);
    server.option("backup_compression_format", format);
    let path = if way == Way::Libssh2 { "/nowhere".to_owned() } else { scene.world.search_path() };
    scene.world.env("PATH", path);
}

fn walk(major: u32, ways: &[Way]) {
    let (Some(_), Some(_)) = (pg::require(major), Sshd::require()) else { return };
    let mut scene = scene(major);
    let sshd = Sshd::start().unwrap();
    if major >= 17 {
        scene.cluster.psql("ALTER SYSTEM SET summarize_wal = on").unwrap();
        scene.cluster.psql("SELECT pg_reload_conf()").unwrap();
        scene.cluster.poll("SHOW summarize_wal", "on").unwrap();
    }
    for way in ways {
        set(&mut scene, &sshd, *way);
        let begun = Instant::now();
        let mut words = vec!["backup", "--wait", "--jobs", "2", "main"];
        if let Way::Incremental(_) = way {
            scene.ours(&["backup", "--wait", "main"]);
            words.extend(["--incremental", "latest"]);
        }
        let run = busy(&scene, || scene.ours(&words));
        let id = scene.ids().pop().unwrap();
        assert_eq!(scene.infos()[&id].get("status"), "DONE", "{way:?}: {run}");
        let taken = begun.elapsed();
        scene.cluster.archive_now().unwrap();
        scene.ours(&["archive-wal", "main"]);
        restore(&scene, &|arguments| scene.ours(arguments), &id);
        println!("PostgreSQL {major}, {way:?}: backup {taken:.1?}, all {:.1?}", begun.elapsed());
    }
}

macro_rules! majors {
    ($($name:ident $major:literal)+) => {
        $(#[test]
        fn $name() {
            walk($major, &some($major));
        })+
    };
}

majors! { pg10 10 pg11 11 pg12 12 pg13 13 pg14 14 pg15 15 pg16 16 pg17 17 pg18 18 }

#[test]
#[ignore = "takes minutes; `cargo xtask test --all` runs it"]
fn the_whole_matrix() {
    for major in 10..=18 {
        walk(major, &every(major));
    }
}
