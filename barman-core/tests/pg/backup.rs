//! The backup calls on every major.

use barman_core::pg::PgError;
use barman_testkit::pg::Cluster;
use barman_testkit::pg::{MAJORS, require};

use super::{connect, scalar};

#[test]
fn start_and_stop_on_all_majors() {
    for major in MAJORS {
        if require(major).is_none() {
            continue;
        }
        // Archiving is on and always fails: stop must not wait for it (I9).
        let cluster = Cluster::builder(major)
            .conf("archive_mode", "on")
            .conf("archive_command", "false")
            .tablespace("extra")
            .start()
            .unwrap();
        cluster.psql("ALTER ROLE postgres SET statement_timeout = '1s'").unwrap();
        cluster.psql("ALTER ROLE postgres SET lock_timeout = '1s'").unwrap();
        let mut session = connect(&cluster.conninfo()).unwrap();
        assert_eq!(scalar(&mut session, "SHOW statement_timeout"), "1s");
        let start = session.start_backup("Barman backup it's 20261122T214417", true).unwrap();
        assert_eq!(scalar(&mut session, "SHOW statement_timeout"), "0");
        assert_eq!(scalar(&mut session, "SHOW lock_timeout"), "0");
        assert_eq!(scalar(&mut session, "SHOW idle_in_transaction_session_timeout"), "0");
        if major >= 14 {
            assert_eq!(scalar(&mut session, "SHOW idle_session_timeout"), "0");
        }
        session.ping().unwrap();
        let stop = session.stop_backup().unwrap();
        assert!(stop.lsn > start.lsn, "major {major}");
        assert!(stop.time >= start.time);
        assert_eq!(stop.timeline, start.timeline);
        assert!(stop.label.contains(&format!("START WAL LOCATION: {} (file ", start.lsn)), "{}", stop.label);
        assert!(stop.label.contains("LABEL: Barman backup it's 20261122T214417\n"));
        assert!(
            stop.tablespace_map.contains(cluster.tablespace_dir("extra").as_str()),
            "{}",
            stop.tablespace_map
        );
        let again = session.stop_backup().unwrap_err();
        assert!(matches!(again, PgError::Server(_)) && !again.is_lost(), "{again}");
    }
}

#[test]
fn a_standby_can_be_backed_up_and_its_promotion_is_noticed() {
    for major in [10, 15, 18] {
        if require(major).is_none() {
            continue;
        }
        let primary = Cluster::builder(major).start().unwrap();
        let mut standby = Cluster::standby_of(&primary).unwrap();
        let mut session = connect(&standby.conninfo()).unwrap();
        assert!(session.is_in_recovery().unwrap());
        assert!(matches!(session.switch_wal(), Err(PgError::Unsupported { .. })));
        assert!(matches!(session.create_restore_point("x"), Err(PgError::Unsupported { .. })));
        assert!(session.current_wal().unwrap().unwrap().file.is_none());
        primary.psql("CHECKPOINT").unwrap();
        let start = session.start_backup("standby", true).unwrap();
        let stop = session.stop_backup().unwrap();
        assert!(stop.lsn >= start.lsn);
        assert_eq!(stop.timeline, start.timeline);

        session.start_backup("standby", true).unwrap();
        standby.promote().unwrap();
        let error = session.stop_backup().unwrap_err();
        assert!(error.to_string().contains("promoted"), "{error}");
    }
}
