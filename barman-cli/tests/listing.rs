//! What the commands that only look print: byte for byte what the original Barman prints of the same catalog.

use std::collections::BTreeMap;
use std::fs;

use barman_testkit::oracle::Barman;
use barman_testkit::pg;
use barman_testkit::world::{Run, World};

use crate::hand_made::said;
use crate::scene::Scene;

/// 2026-11-22 21:45:33 UTC, where the WAL of these catalogs begins.
const START: f64 = 1_795_383_933.233_320_2;

/// Lines of a `backup.info`.
type Info = BTreeMap<&'static str, String>;

/// Segment `number` of a timeline, 16 MiB.
fn segment(timeline: u32, number: u32) -> String {
    format!("{timeline:08X}{:08X}{:08X}", number / 256, number % 256)
}

/// What every `backup.info` says.
fn info(status: &str) -> Info {
    let known = [
        ("data_checksums", "on"),
        ("mode", "rsync-concurrent"),
        ("pgdata", "/srv/pg/data"),
        ("systemid", "7711114132867599874"),
        ("version", "150020"),
        ("xlog_segment_size", "16777216"),
        ("status", status),
    ];
    known.into_iter().map(|(key, value)| (key, value.to_owned())).collect()
}

/// A backup with complete files, taken on this day of November 2026.
fn copied(day: u32, timeline: u32, begin: u32, end: u32) -> Info {
    let stats =
        "{'total_time': 4.279352, 'number_of_workers': 3, 'analysis_time': 1.492944, 'copy_time': 2.760593}";
    let more = [
        ("timeline", timeline.to_string()),
        ("begin_wal", segment(timeline, begin)),
        ("end_wal", segment(timeline, end)),
        ("begin_xlog", format!("0/{begin:X}000028")),
        ("end_xlog", format!("0/{end:X}000100")),
        ("begin_offset", "40".to_owned()),
        ("end_offset", "256".to_owned()),
        ("begin_time", format!("2026-11-{day:02} 21:00:28.359236+00:00")),
        ("end_time", format!("2026-11-{day:02} 21:00:33.225015+02:00")),
        ("size", "26142000".to_owned()),
        ("deduplicated_size", "2650000".to_owned()),
        ("cluster_size", "27800000".to_owned()),
        ("copy_stats", stats.to_owned()),
    ];
    let mut info = info("DONE");
    info.extend(more);
    info
}

fn with(mut info: Info, more: &[(&'static str, &str)]) -> Info {
    info.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
    info
}

fn without(mut info: Info, keys: &[&str]) -> Info {
    info.retain(|key, _| !keys.contains(key));
    info
}

/// Writes a backup, in the current or in the old layout.
fn write(world: &World, server: &str, id: &str, old: bool, info: &Info) {
    let root = world.home().join(server);
    let base = root.join("base").join(id);
    fs::create_dir_all(base.join("data/base/1")).unwrap();
    fs::create_dir_all(base.join("data/pg_wal")).unwrap();
    fs::create_dir_all(root.join("meta")).unwrap();
    for file in ["PG_VERSION", "base/1/1259"] {
        fs::write(base.join("data").join(file), "15\n").unwrap();
    }
    let text: String = info.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    let path = if old { base.join("backup.info") } else { root.join(format!("meta/{id}-backup.info")) };
    fs::write(path, text).unwrap();
}

/// Writes an index with these files, a minute apart, and the timeline histories among them.
fn index(world: &World, server: &str, name: &str, files: &[(String, u64)]) {
    let wals = world.home().join(server).join("wals");
    fs::create_dir_all(&wals).unwrap();
    let mut text = String::new();
    for (minute, (file, size)) in files.iter().enumerate() {
        text += &format!("{file}\t{size}\t{}\tgzip\tNone\n", START + 60.0 * minute as f64);
        if file.ends_with(".history") {
            fs::write(wals.join(file), "1\t0/9800000\tno recovery target specified\n").unwrap();
        }
    }
    fs::write(wals.join(name), text).unwrap();
}

fn segments(timeline: u32, numbers: std::ops::RangeInclusive<u32>) -> Vec<(String, u64)> {
    numbers.map(|number| (segment(timeline, number), u64::from(16_518 + number))).collect()
}

/// A home with three servers: `files` (copies of every age and state), `chain` (incrementals), `empty`.
fn home() -> World {
    let mut world = World::new().unwrap();
    for (name, policy) in [("files", "REDUNDANCY 2"), ("chain", "RECOVERY WINDOW OF 1 DAYS"), ("empty", "")] {
        world
            .server(name)
            .conninfo("host=/nonexistent user=nobody")
            .option("backup_method", "local-rsync")
            .option("backup_options", "concurrent_backup")
            .option("archiver", "on")
            .option("retention_policy", policy)
            .option("minimum_redundancy", "1");
    }
    world.server("asleep").option("active", "false").option("archiver", "on").option("description", "");
    world.server("broken").conninfo("host=/nonexistent user=nobody").option("archiver", "on");
    world.server("copy").option("primary_ssh_command", "ssh nowhere.invalid");

    let old = with(copied(20, 1, 2, 2), &[("version", "90503"), ("mode", "rsync-exclusive")]);
    let old = without(old, &["systemid", "cluster_size", "copy_stats", "data_checksums"]);
    write(&world, "files", "20261120T214400", true, &old);
    let weekly = with(copied(21, 1, 4, 4), &[("version", "90603"), ("backup_name", "weekly")]);
    write(&world, "files", "20261121T214400", true, &weekly);
    fs::write(world.home().join("files/meta/20261121T214400-keep"), "full").unwrap();
    let spaces = [("tablespaces", "[('ts1', 16386, '/srv/ts/ts1')]"), ("backup_name", "mybk")];
    write(&world, "files", "20261122T214417", false, &with(copied(22, 1, 6, 8), &spaces));
    let failed = with(info("FAILED"), &[("error", "failure copying files (data transfer failure)")]);
    write(&world, "files", "20261122T214500", false, &failed);
    write(&world, "files", "20261122T214600", false, &without(info("EMPTY"), &["data_checksums"]));
    let waiting = with(copied(22, 2, 10, 10), &[("status", "WAITING_FOR_WALS"), ("backup_name", "weekly")]);
    write(&world, "files", "20261122T214700", false, &waiting);
    write(&world, "files", "20261122T214800", false, &info("STARTED"));
    let mut wal = segments(1, 1..=9);
    wal.insert(4, (format!("{}.00000028.backup", segment(1, 4)), 351));
    wal.push(("00000002.history".to_owned(), 81));
    wal.extend(segments(2, 9..=15));
    wal.push((format!("{}.partial", segment(2, 16)), 16_777_216));
    index(&world, "files", "files-xlog.db", &wal);

    let postgres = [("mode", "postgres"), ("version", "170010"), ("summarize_wal", "on")];
    let stats = [("copy_stats", "{'copy_time': 1.283058, 'total_time': 1.283058}"), ("compression", "gzip")];
    let children = [("children_backup_ids", "20261122T233747,20261122T233753")];
    let full = with(with(with(copied(22, 1, 3, 3), &postgres), &stats), &children);
    write(&world, "chain", "20261122T233743", false, &with(full, &[("backup_name", "full1")]));
    fs::write(world.home().join("chain/meta/20261122T233743-keep"), "standalone").unwrap();
    let on = |parent| [("parent_backup_id", parent)];
    let first = with(with(copied(22, 1, 6, 6), &postgres), &on("20261122T233743"));
    let first = with(first, &[("children_backup_ids", "20261122T233750")]);
    write(&world, "chain", "20261122T233747", false, &first);
    let second = with(with(copied(22, 1, 8, 8), &postgres), &on("20261122T233747"));
    write(&world, "chain", "20261122T233750", false, &second);
    let failed = with(with(info("FAILED"), &postgres), &on("20261122T233743"));
    write(&world, "chain", "20261122T233753", false, &failed);
    index(&world, "chain", "chain-xlog.db", &segments(1, 1..=11));
    world.account().own_tree(world.home()).unwrap();
    world
}

/// Both commands with the same arguments; what they say must be equal to the byte, and so must their exit status.
fn compare(world: &World, arguments: &[&str]) {
    let (ours, theirs) = (world.barman(arguments).unwrap(), world.oracle(arguments).unwrap());
    assert_eq!(said(&ours), said(&theirs), "{arguments:?}");
}

#[test]
fn listings_are_barmans() {
    if Barman::require().is_none() {
        return;
    }
    let world = home();
    for format in ["console", "json"] {
        let look = |arguments: &[&str]| compare(&world, &[&["-f", format], arguments].concat());
        look(&["list-servers"]);
        look(&["list-servers", "--minimal"]);
        look(&["list-backups", "files"]);
        look(&["list-backup", "--minimal", "files", "empty"]);
        look(&["list-backups", "all"]);
        for server in ["files", "chain"] {
            for info in fs::read_dir(world.home().join(server).join("base")).unwrap() {
                look(&["show-backup", server, info.unwrap().file_name().to_str().unwrap()]);
            }
        }
        for argument in ["latest", "oldest", "mybk", "last-failed", "latest-full", "nope"] {
            look(&["show-backup", "files", argument]);
        }
        for server in ["files", "empty", "asleep", "broken", "copy", "all", "nope"] {
            look(&["status", server]);
            look(&["list-backups", server]);
        }
        for server in ["asleep", "broken", "copy"] {
            look(&["show-servers", server]);
        }
        for server in ["files", "nope", "all"] {
            look(&["show-backup", server, "nope"]);
        }
        for target in ["wal", "standalone"] {
            look(&["list-files", "--target", target, "chain", "full1"]);
            look(&["list-files", "--target", target, "files", "mybk"]);
        }
        look(&["list-files", "--target", "wal", "files", "oldest"]);
        look(&["list-files", "--target", "wal", "files", "latest"]);
    }
}

#[test]
fn a_name_that_two_backups_have_is_not_guessed() {
    let world = home();
    for command in [&["show-backup", "files", "weekly"], &["list-files", "files", "weekly"]] {
        let run = world.barman(command).unwrap();
        assert_eq!((run.code(), run.stdout.as_str()), (Some(1), ""), "{run}");
        assert!(run.stderr.ends_with(": 20261121T214400 20261122T214700\n"), "{run}");
    }
}

#[test]
fn files_are_listed_with_empty_directories_on_demand() {
    let world = home();
    let listed = |more: &[&str]| {
        let arguments = [&["list-files", "--target", "data", "files", "mybk"], more].concat();
        let run = world.barman(&arguments).unwrap().ok().unwrap();
        let base = format!("{}/", world.home().join("files/base/20261122T214417"));
        run.stdout.lines().map(|line| line.strip_prefix(&base).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[]), ["data/PG_VERSION", "data/base/1/1259"]);
    assert_eq!(listed(&["--list-empty-directories"]), ["data/PG_VERSION", "data/pg_wal", "data/base/1/1259"]);
    // Barman lists WAL without an end here.
    let run = world.barman(&["list-files", "files", "20261122T214800"]).unwrap();
    assert_eq!((run.code(), run.stdout.as_str()), (Some(1), ""));
    assert!(run.stderr.contains("has status STARTED"), "{run}");
}

#[test]
fn checks_of_servers_that_are_not_asked_are_barmans() {
    if Barman::require().is_none() {
        return;
    }
    let world = home();
    for server in ["asleep", "broken"] {
        compare(&world, &["check", server]);
        compare(&world, &["-f", "json", "check", server]);
        compare(&world, &["check", "--nagios", server]);
    }
    compare(&world, &["check", "--nagios", "nope"]);
    compare(&world, &["check", "nope"]);
}

#[test]
fn a_check_that_takes_too_long_ends_in_time() {
    let mut world = World::new().unwrap();
    // Takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    world
        .server("main")
        .conninfo(format!("host=127.0.0.1 port={port} user=nobody"))
        .option("backup_method", "local-rsync")
        .option("backup_options", "concurrent_backup")
        .option("archiver", "on");
    let begun = std::time::Instant::now();
    let run = world.barman(&["check", "--check-timeout", "1", "main"]).unwrap();
    assert!(begun.elapsed().as_secs() < 10);
    assert_eq!(run.code(), Some(1));
    assert!(run.stdout.ends_with("\tcheck timeout: FAILED (barman check command timed out)\n"), "{run}");
}

#[test]
fn while_servers_share_a_directory_no_command_touches_them() {
    let mut world = home();
    let shared = world.home().join("files/incoming");
    world.server("empty").option("incoming_wals_directory", shared);
    for command in [&["list-backups", "files"][..], &["show-backup", "files", "latest"], &["check", "files"]]
    {
        let run = world.barman(command).unwrap();
        assert_eq!((run.code(), run.stdout.as_str()), (Some(1), ""), "{run}");
        assert!(run.stderr.starts_with("ERROR: Conflicting path: incoming_wals_directory="), "{run}");
    }
}

/// Digits as `#`: what a live server says changes while it is asked.
fn blurred(run: &Run, live: &[&str]) -> String {
    let blur = |line: &str| match live.iter().find(|name| line.trim_start().starts_with(**name)) {
        Some(name) => format!("{name}…\n"),
        None => format!("{line}\n"),
    };
    format!("{:?}\n{}{}", run.code(), run.stdout.lines().map(blur).collect::<String>(), run.stderr)
}

#[test]
fn a_running_server_looks_as_it_does_to_barman() {
    if pg::require(15).is_none() || Barman::require().is_none() {
        return;
    }
    let mut scene = Scene::new(15);
    scene.world.server("main").option("last_backup_maximum_age", "1 DAYS").option("slot_name", "s1");
    scene.fill(100);
    scene.cluster.archive_now().unwrap();
    scene.ours(&["backup", "--wait", "main"]);
    let live = ["Server WAL archiving rate", "current_archived_wals_per_second"];
    let live = [&live[..], &["last_backup_maximum_age", "backup maximum age"]].concat();
    for command in [&["check", "main"][..], &["status", "main"], &["show-servers", "main"]] {
        let (ours, theirs) = (scene.world.barman(command).unwrap(), scene.world.oracle(command).unwrap());
        assert_eq!(blurred(&ours, &live), blurred(&theirs, &live), "{command:?}");
    }
    for command in [&["list-backups", "main"][..], &["show-backup", "main", "latest"]] {
        compare(&scene.world, command);
        compare(&scene.world, &[&["-f", "json"], command].concat());
    }
    compare(&scene.world, &["check", "--nagios", "main"]);
}

/// Python prints sets in random order.
fn sorted_words(value: &mut serde_json::Value) {
    for option in ["backup_options", "recovery_options"] {
        for place in [format!("/config/{option}/value"), format!("/config/{option}")] {
            if let Some(serde_json::Value::String(text)) = value.pointer_mut(&place) {
                let mut words: Vec<&str> = text.split(',').collect();
                words.sort_unstable();
                *text = words.join(",");
            }
        }
    }
}

#[test]
fn diagnose_tells_what_barman_tells() {
    if Barman::require().is_none() {
        return;
    }
    use crate::hand_made::{Home, done};
    let mut home = Home::new(1..=8).backups(&[
        done("20260101T000001", 1, 2).keep("full"),
        done("20260101T000002", 3, 4),
        done("20260101T000003", 5, 5).status("FAILED"),
    ]);
    home.world.server("main").option("retention_policy", "REDUNDANCY 2");
    home.world.server("other").option("conninfo", "host=/nowhere password=hidden").option("archiver", "on");
    for words in [&["diagnose"][..], &["diagnose", "--show-config-source"]] {
        let (our, their) = (home.barman(words).ok().unwrap(), home.oracle(words));
        let read = |run: &Run| -> serde_json::Value {
            serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run}"))
        };
        let (mut ours, mut theirs) = (read(&our), read(&their));
        assert!(!our.stdout.contains("hidden"));
        for answer in [&mut ours, &mut theirs] {
            let members: Vec<&String> = answer["global"]["system_info"].as_object().unwrap().keys().collect();
            let known = ["kernel_ver", "python_executable", "python_ver", "release", "rsync_ver", "ssh_ver"];
            assert!(known.iter().all(|name| members.contains(&&(*name).to_owned())), "{members:?}");
            answer["global"]["system_info"] = serde_json::Value::Null;
            for server in answer["servers"].as_object_mut().unwrap().values_mut() {
                sorted_words(server);
                // What a server that cannot be reached is not asked for differs in detail.
                server["status"] = serde_json::Value::Null;
                // The index has the time of the original, Barman shows that of the stored file.
                if let Some(last) = server.pointer_mut("/wals/last_archived_wal_per_timeline/00000001") {
                    assert!(last["time"].is_number());
                    last["time"] = serde_json::Value::Null;
                }
            }
        }
        assert_eq!(ours["global"], theirs["global"], "{words:?}");
        assert_eq!(ours["models"], theirs["models"]);
        for server in ["main", "other"] {
            let (ours, theirs) = (ours["servers"][server].clone(), theirs["servers"][server].clone());
            for (key, value) in theirs.as_object().unwrap() {
                assert_eq!(&ours[key], value, "{words:?} {server} {key}");
            }
        }
    }
    let run = home.barman(&["-f", "json", "diagnose"]).ok().unwrap();
    let nested: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let text = nested["_INFO"].as_array().map_or(nested["_INFO"].clone(), |lines| lines[0].clone());
    assert!(
        serde_json::from_str::<serde_json::Value>(text.as_str().unwrap()).unwrap()["servers"].is_object()
    );
}
