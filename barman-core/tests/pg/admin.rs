//! Typed questions on every major that is installed.

use barman_core::model::{Lsn, Timeline};
use barman_core::pg::{PgError, Privileges, Session, SwitchedWal};
use barman_testkit::pg::Cluster;
use barman_testkit::pg::MAJORS;

use super::{connect, scalar};

/// Runs `each` on every installed major.
fn on_all_majors(each: impl Fn(&Cluster, &mut Session)) {
    for major in MAJORS {
        if barman_testkit::pg::require(major).is_none() {
            continue;
        }
        let cluster = Cluster::builder(major).tablespace("space one").start().unwrap();
        let mut session = connect(&cluster.conninfo_tcp()).unwrap();
        each(&cluster, &mut session);
    }
}

#[test]
fn typed_questions_on_all_majors() {
    on_all_majors(|cluster, session| {
        let major = cluster.major();
        assert_eq!(session.version().major(), major);
        assert!(session.version_text().unwrap().starts_with(&major.to_string()));
        assert_eq!(
            session.version().to_string(),
            scalar(session, "SHOW server_version").split(' ').next().unwrap()
        );
        assert_eq!(
            session.system_id().unwrap().to_string(),
            cluster.psql("SELECT system_identifier FROM pg_control_system()").unwrap()
        );
        assert_eq!(session.segment_size().unwrap().bytes(), 16 << 20);
        assert_eq!(session.checkpoint_timeline().unwrap(), Timeline::FIRST);
        assert!(!session.is_in_recovery().unwrap());
        assert_eq!(session.data_directory().unwrap(), cluster.pgdata());
        let files = session.config_files().unwrap();
        assert_eq!(files.config.unwrap(), cluster.pgdata().join("postgresql.conf"));
        assert_eq!(files.hba.unwrap(), cluster.pgdata().join("pg_hba.conf"));
        assert_eq!(files.ident.unwrap(), cluster.pgdata().join("pg_ident.conf"));
        assert!(!files.included.iter().any(|file| file.ends_with("postgresql.conf")), "{:?}", files.included);
        let spaces = session.tablespaces().unwrap();
        assert_eq!(spaces.len(), 1);
        assert_eq!(
            (spaces[0].name.as_str(), spaces[0].location.clone()),
            ("space one", cluster.tablespace_dir("space one"))
        );
        assert!(session.cluster_size().unwrap() > 1 << 20);
        assert_eq!(session.show("wal_level").unwrap().as_deref(), Some("replica"));
        assert_eq!(session.show("no_such_setting").unwrap(), None);
        let timeout = session.setting("checkpoint_timeout").unwrap().unwrap();
        assert_eq!(
            (timeout.value.as_str(), timeout.unit.as_deref(), timeout.shown.as_str()),
            ("300", Some("s"), "5min")
        );
        assert!(session.setting("no_such_setting").unwrap().is_none());
        let stats = session.archiver_stats().unwrap();
        assert_eq!((stats.archived_count, stats.archive_mode.as_str()), (0, "off"));
        assert!(!stats.is_archiving());
        assert_eq!(
            session.privileges().unwrap(),
            Privileges { superuser: true, monitoring: true, backup: true, checkpoint: true }
        );
        assert!(session.physical_slot("none").unwrap().is_none());
        assert!(session.replication_clients().unwrap().is_empty());
        session.ping().unwrap();
    });
}

#[test]
fn orders_about_wal_on_all_majors() {
    on_all_majors(|cluster, session| {
        let point = session.create_restore_point("it's a point").unwrap();
        assert!(point > Lsn::INVALID);
        let position = session.current_wal().unwrap().unwrap();
        let (current, offset) = position.file.unwrap();
        assert_eq!(
            current.start(session.segment_size().unwrap()).unwrap().get() + u64::from(offset),
            position.lsn.get()
        );
        assert_eq!(session.switch_wal().unwrap(), SwitchedWal::Closed(current), "major {}", cluster.major());
        // A background process may write a record in between, but not for ever.
        let quiet = (0..5).any(|_| session.switch_wal().unwrap() == SwitchedWal::NotRequired);
        assert!(quiet, "major {}", cluster.major());
        session.checkpoint().unwrap();
    });
}

#[test]
fn replication_connection_on_all_majors() {
    use barman_core::ctx::Cancel;
    use barman_core::format::conninfo::ConnInfo;
    use barman_core::pg::Environment;

    on_all_majors(|cluster, session| {
        let info = ConnInfo::parse(&cluster.conninfo()).unwrap();
        let mut replication =
            Session::connect_replication(&info, &Environment::default(), &Cancel::new()).unwrap();
        let identity = replication.identify_system().unwrap();
        assert_eq!(identity.system_id, session.system_id().unwrap());
        assert_eq!(identity.timeline, Timeline::FIRST);
        assert!(identity.position > Lsn::INVALID);
        assert_eq!(replication.replication_show("wal_level").unwrap(), "replica");
        replication.create_physical_slot("barman").unwrap();
        let again = replication.create_physical_slot("barman").unwrap_err();
        assert_eq!(again.sqlstate(), Some("42710"), "{again}");
        let slot = session.physical_slot("barman").unwrap().unwrap();
        assert_eq!((slot.name.as_str(), slot.active, slot.restart_lsn), ("barman", false, None));
        replication.drop_slot("barman").unwrap();
        assert_eq!(replication.drop_slot("barman").unwrap_err().sqlstate(), Some("42704"));
        assert!(matches!(replication.drop_slot("no\"; --"), Err(PgError::Settings { .. })));
        replication.ping().unwrap();
        replication.close();
    });
}

#[test]
fn privileges_of_a_standard_user_on_all_majors() {
    on_all_majors(|cluster, _| {
        cluster.psql("CREATE ROLE barman LOGIN").unwrap();
        let mut session = connect(&cluster.conninfo_for("barman", "postgres")).unwrap();
        assert_eq!(session.privileges().unwrap(), Privileges::default());
        assert!(session.data_directory().unwrap_err().is_permission_denied());
        cluster.psql("GRANT pg_monitor TO barman").unwrap();
        let privileges = session.privileges().unwrap();
        assert!(privileges.monitoring && !privileges.backup && !privileges.checkpoint);
        let functions: &[&str] = if cluster.major() >= 15 {
            cluster.psql("GRANT pg_checkpoint TO barman").unwrap();
            &["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"]
        } else {
            &["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"]
        };
        for function in functions.iter().chain(&["pg_switch_wal()", "pg_create_restore_point(text)"]) {
            cluster.psql(&format!("GRANT EXECUTE ON FUNCTION {function} TO barman")).unwrap();
        }
        let privileges = session.privileges().unwrap();
        assert_eq!(
            privileges,
            Privileges {
                superuser: false,
                monitoring: true,
                backup: true,
                checkpoint: cluster.major() >= 15
            }
        );
        session.start_backup("as a standard user", true).unwrap();
        session.stop_backup().unwrap();
    });
}
