//! What the archive holds, what it did not take, and what happened when: commands of our own.

use std::fs;

use barman_core::format::wal_page::synthetic;
use barman_core::model::{PgVersion, SegmentNo, SegmentSize, SystemId, Timeline};

use crate::hand_made::{Home, SEGMENT, SYSTEM_ID, done, segment};
use crate::scene::names;

fn sound(number: u64) -> Vec<u8> {
    synthetic::segment(
        Timeline::FIRST,
        SegmentNo::new(number),
        SegmentSize::from_bytes(SEGMENT).unwrap(),
        SystemId::new(SYSTEM_ID),
        PgVersion::new(170_000),
    )
}

/// A hole after a backup is shown loudly, and what can be restored all the same.
#[test]
fn holes_are_shown_with_what_they_cost() {
    let home = Home::new(1..=12).backups(&[
        done("20260101T000001", 1, 2),
        done("20260102T000001", 5, 5),
        done("20260103T000001", 9, 10),
    ]);
    for number in 1..=12 {
        home.write(&format!("wals/{}/{}", &segment(number)[..16], segment(number)), sound(number));
    }
    let whole = home.barman(&["native-wal", "main"]);
    assert_eq!(whole.code(), Some(0), "{whole}");
    assert!(
        whole.stdout.contains(&format!("\t\t{} - {} (12), written from", segment(1), segment(12))),
        "{whole}"
    );
    for number in [4, 7, 8] {
        fs::remove_file(home.path(&format!("wals/{}/{}", &segment(number)[..16], segment(number)))).unwrap();
    }
    let run = home.barman(&["native-wal", "main"]);
    assert_eq!(run.code(), Some(1), "{run}");
    assert!(run.stdout.contains(&format!("\t\tMISSING {} - {} (1)\n", segment(4), segment(4))), "{run}");
    assert!(run.stdout.contains(&format!("\t\tMISSING {} - {} (2)\n", segment(7), segment(8))), "{run}");
    for (backup, missing) in [("20260101T000001", 4), ("20260102T000001", 7)] {
        let said = format!(
            "WAL file {} is missing: backup {backup} cannot be rolled forward beyond it.",
            segment(missing)
        );
        assert!(run.stderr.contains(&said), "{run}");
    }
    assert!(!run.stderr.contains("20260103T000001"), "{run}");
    let json = home.barman(&["-f", "json", "native-wal", "main"]).json().unwrap();
    let main = &json["main"];
    assert_eq!(main["timelines"][0]["holes"][1]["count"], 2);
    assert_eq!(main["timelines"][0]["ranges"].as_array().unwrap().len(), 3);
    let backups = main["backups"].as_array().unwrap();
    assert_eq!(backups[0]["missing"], segment(4));
    assert_eq!(backups[2]["missing"], serde_json::Value::Null);
    assert_eq!(backups[2]["until_lsn"], "0/D00000");
    // The nearest point before the hole is one that a restore accepts.
    let lsn = backups[1]["until_lsn"].as_str().unwrap().to_owned();
    let plan = |lsn: &str| {
        let options =
            ["restore", "--native-dry-run", "--target-lsn", lsn, "main", "20260102T000001", "/tmp/x"];
        home.barman(&options).code()
    };
    assert_eq!((plan(&lsn), plan("0/900000")), (Some(0), Some(1)), "{lsn}");
}

/// I4: what was refused tells why, can be looked at again, and removed.
#[test]
fn i4_refused_files_tell_why_and_can_be_tried_again() {
    let home = Home::new(100..=100).backups(&[done("20260101T000001", 100, 100)]);
    let mut flipped = sound(1);
    flipped[500_000] ^= 1;
    home.write(&format!("incoming/{}", segment(1)), flipped);
    home.write(&format!("incoming/{}", segment(2)), b"this is no WAL");
    home.write("incoming/notes.txt", b"hello");
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    for name in [segment(1), segment(2)] {
        let file = fs::File::options().write(true).open(home.path(&format!("incoming/{name}"))).unwrap();
        file.set_modified(old).unwrap();
    }
    assert!(home.barman(&["native-errors", "main"]).stdout.contains("No file of server main was refused"));
    home.barman(&["archive-wal", "main"]);
    let check = home.barman(&["check", "main"]);
    assert!(check.stdout.contains("archiver errors: FAILED (unknown: 3)"), "{check}");
    let run = home.barman(&["-f", "json", "native-errors", "main"]);
    let files = run.json().unwrap()["main"].as_array().unwrap().clone();
    assert_eq!(files.len(), 3, "{run}");
    let (first, text) = (&files[0], &files[2]);
    assert_eq!(
        (first["name"].as_str(), first["kind"].as_str()),
        (Some(segment(1).as_str()), Some("unknown"))
    );
    assert!(first["reason"].as_str().unwrap().contains("CRC"), "{run}");
    assert_eq!(text["reason"], "its name is not that of a WAL file");

    // Somebody mends it in place, and has it looked at again.
    let name = first["file"].as_str().unwrap();
    fs::write(home.path(&format!("errors/{name}")), sound(1)).unwrap();
    let retried = home.barman(&["native-errors", "--retry", name, "--", "main"]);
    assert_eq!(retried.code(), Some(0), "{retried}");
    assert!(retried.stdout.contains(&format!("\t{}\n", segment(1))), "{retried}");
    assert!(home.exists(&format!("wals/{}/{}", &segment(1)[..16], segment(1))));
    // One that is still not sound comes back.
    let again = home.barman(&["native-errors", "main", "--retry", files[1]["file"].as_str().unwrap()]);
    assert!(again.to_string().contains("is not a sound WAL file"), "{again}");
    assert_eq!(names(&home.path("errors")).len(), 2);
    let unknown = home.barman(&["native-errors", "main", "--discard", "nothing"]);
    assert_eq!(unknown.code(), Some(1), "{unknown}");
    let gone = home.barman(&["native-errors", "main", "--discard", "all"]);
    assert_eq!(gone.code(), Some(0), "{gone}");
    assert_eq!(names(&home.path("errors")), Vec::<String>::new());
    let check = home.barman(&["check", "main"]);
    assert!(check.stdout.contains("archiver errors: OK"), "{check}");
}
