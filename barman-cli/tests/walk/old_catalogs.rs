//! Catalogs that Barman made of servers of long ago. No server of those majors can be started here: the files are looked at.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use barman_core::format::wal_page::synthetic;
use barman_core::model::{PgVersion, SegmentNo, SegmentSize, SystemId, Timeline};
use barman_testkit::world::World;
use camino::Utf8Path;

const ID: &str = "20170301T101500";
const LABEL: &str = "START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n";

fn write(path: &Utf8Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn segment(number: u8, version: u32) -> Vec<u8> {
    let (number, version) = (SegmentNo::new(number.into()), PgVersion::new(version));
    synthetic::segment(Timeline::FIRST, number, SegmentSize::DEFAULT, SystemId::new(7), version)
}

/// A backup as Barman 2 left it: backup.info in the directory of the backup, an index without encryption, no sidecar.
fn catalog(world: &World, version: u32) {
    let home = world.home().join("old");
    let base = home.join("base").join(ID);
    for (name, content) in [
        ("PG_VERSION", if version < 90_600 { "9.5\n" } else { "9.6\n" }),
        ("backup_label", LABEL),
        ("base/1/1259", "a table"),
        ("global/pg_control", "the control file"),
        ("pg_hba.conf", ""),
        ("pg_ident.conf", ""),
        ("pg_xlog/000000010000000000000003", "left behind"),
        ("postgresql.auto.conf", ""),
        ("postgresql.conf", "# by hand\narchive_command = 'rsync %p barman:incoming/%f'\nport = 5433\n"),
        ("recovery.conf", "standby_mode = 'on'\n"),
    ] {
        write(&base.join("data").join(name), content.as_bytes());
    }
    fs::create_dir_all(base.join("data/pg_tblspc")).unwrap();
    symlink("/srv/pg/fast", base.join("data/pg_tblspc/16385")).unwrap();
    write(&base.join("16385/PG_9.5/1/2600"), b"in the tablespace");
    fs::set_permissions(base.join("data"), fs::Permissions::from_mode(0o700)).unwrap();
    let info = format!(
        "backup_label={label}\nbegin_offset=40\nbegin_time=2017-03-01 10:15:01.123456+00:00\n\
         begin_wal=000000010000000000000003\nbegin_xlog=0/3000028\nconfig_file=/srv/pg/data/postgresql.conf\n\
         copy_stats=None\ndeduplicated_size=64\nend_offset=256\nend_time=2017-03-01 10:15:20+00:00\n\
         end_wal=000000010000000000000003\nend_xlog=0/3000100\nerror=None\nhba_file=/srv/pg/data/pg_hba.conf\n\
         ident_file=/srv/pg/data/pg_ident.conf\nincluded_files=None\nmode=rsync-exclusive\npgdata=/srv/pg/data\n\
         server_name=old\nsize=64\nstatus=DONE\ntablespaces=[('fast', 16385, '/srv/pg/fast')]\ntimeline=1\n\
         version={version}\n",
        label = format_args!("{:?}", LABEL).to_string().replace('"', "'"),
    );
    write(&base.join("backup.info"), info.as_bytes());
    let mut index = String::new();
    for number in 3..=5u8 {
        let name = format!("00000001000000000000000{number}");
        write(&home.join("wals/0000000100000000").join(&name), &segment(number, version));
        index.push_str(&format!("{name}\t16777216\t1488363320.5\tNone\n"));
    }
    write(&home.join("wals/xlog.db"), index.as_bytes());
    world.account().own_tree(&home).unwrap();
}

#[test]
fn backups_of_9_5_and_9_6_are_restored() {
    for version in [90_503, 90_603] {
        let mut world = World::in_memory().unwrap();
        world
            .server("old")
            .ssh("ssh postgres@gone.invalid")
            .conninfo("host=gone.invalid user=postgres")
            .option("archiver", "on");
        catalog(&world, version);
        let place = world.path().join("plain/data");
        let fast = world.path().join("plain/fast");
        let rule = format!("fast:{fast}");
        let run = |arguments: &[&str]| world.barman(arguments).unwrap().ok().unwrap();
        run(&["restore", "--tablespace", &rule, "old", ID, place.as_str()]);
        let read =
            |path: &str| fs::read_to_string(place.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(read("base/1/1259"), "a table");
        assert_eq!(read("global/pg_control"), "the control file");
        assert_eq!(read("backup_label"), LABEL);
        assert_eq!(fs::read_to_string(fast.join("PG_9.5/1/2600")).unwrap(), "in the tablespace");
        assert_eq!(place.join("pg_tblspc/16385").read_link_utf8().unwrap(), fast);
        assert!(read("postgresql.conf").contains("\narchive_command = false\nport = 5433\n"));
        assert!(!place.join("pg_wal").exists() && !place.join("recovery.conf").exists());
        for number in 3..=5u8 {
            let name = format!("00000001000000000000000{number}");
            assert_eq!(
                fs::read(place.join("pg_xlog").join(&name)).unwrap(),
                segment(number, version),
                "{name}"
            );
            assert!(place.join(format!("pg_xlog/archive_status/{name}.done")).exists(), "{name}");
        }

        let place = world.path().join("time/data");
        let rule = format!("fast:{}", world.path().join("time/fast"));
        let time = ["restore", "--target-time", "2017-03-01 10:15:20.25+00", "--target-action", "promote"];
        run(&[&time[..], &["--tablespace", &rule, "old", "latest", place.as_str()]].concat());
        let settings = fs::read_to_string(place.join("recovery.conf")).unwrap();
        assert_eq!(
            settings,
            format!(
                "restore_command = 'cp {place}/barman_wal/%f %p'\nrecovery_end_command = 'rm -fr {place}/barman_wal'\n\
                 recovery_target_time = '2017-03-01 10:15:20.250000+00:00'\nrecovery_target_action = 'promote'\n"
            )
        );
        assert!(!place.join("recovery.signal").exists());
        assert_eq!(fs::read(place.join("barman_wal/000000010000000000000004")).unwrap(), segment(4, version));
    }
}
