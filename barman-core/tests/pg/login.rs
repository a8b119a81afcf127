//! Authentication methods, password files, service files, sockets.

use std::os::unix::fs::PermissionsExt;

use barman_core::pg::{Environment, PgError};
use barman_testkit::pg::Cluster;
use tempfile::TempDir;

use super::{connect, connect_in, scalar};

/// A server where each method has a role of its own, all with the password `s3cret pass:word`.
fn server(major: u32) -> Cluster {
    let cluster = Cluster::builder(major)
        .hba("host all trusted 127.0.0.1/32 trust")
        .hba("host all plain 127.0.0.1/32 password")
        .hba("host all md5user 127.0.0.1/32 md5")
        .hba("host all scramuser 127.0.0.1/32 scram-sha-256")
        .hba("host all refused 127.0.0.1/32 reject")
        .hba("local all scramuser scram-sha-256")
        .start()
        .unwrap();
    for (encryption, roles) in [("md5", ["md5user", "plain"]), ("scram-sha-256", ["scramuser", "refused"])] {
        for role in roles {
            let sql = format!(
                "SET password_encryption = '{encryption}'; CREATE ROLE {role} LOGIN PASSWORD 's3cret pass:word'"
            );
            cluster.psql(&sql).unwrap();
        }
    }
    cluster.psql("CREATE ROLE trusted LOGIN").unwrap();
    cluster
}

fn tcp(cluster: &Cluster, rest: &str) -> String {
    format!("host=127.0.0.1 port={} dbname=postgres {rest}", cluster.port())
}

#[test]
fn every_method_takes_the_right_password_and_refuses_the_wrong_one() {
    for major in [10, 15, 18] {
        if barman_testkit::pg::require(major).is_none() {
            continue;
        }
        let cluster = server(major);
        connect(&tcp(&cluster, "user=trusted")).unwrap();
        for role in ["plain", "md5user", "scramuser"] {
            let right = format!("user={role} password='s3cret pass:word'");
            let mut session = connect(&tcp(&cluster, &right)).unwrap();
            assert_eq!(scalar(&mut session, "SELECT current_user"), role);

            let wrong = connect(&tcp(&cluster, &format!("user={role} password=wr0ng"))).unwrap_err();
            assert!(matches!(wrong, PgError::Auth { server: Some(_), .. }), "{wrong:?}");
            assert_eq!(wrong.sqlstate(), Some("28P01"));
            assert!(
                wrong.to_string().contains(&format!("password authentication failed for user \"{role}\""))
            );
            assert!(!wrong.is_transient());
            assert!(!format!("{wrong:?}").contains("wr0ng"));

            let none = connect(&tcp(&cluster, &format!("user={role}"))).unwrap_err();
            assert!(none.to_string().ends_with("fe_sendauth: no password supplied"), "{none}");
        }
        let socket = format!(
            "host={} port={} dbname=postgres user=scramuser password='s3cret pass:word'",
            cluster.socket_dir(),
            cluster.port()
        );
        connect(&socket).unwrap();
    }
}

#[test]
fn require_auth_keeps_the_password_from_weaker_methods() {
    let cluster = server(15);
    let password = "password='s3cret pass:word'";
    connect(&tcp(&cluster, &format!("user=scramuser {password} require_auth=scram-sha-256"))).unwrap();
    connect(&tcp(&cluster, &format!("user=scramuser {password} require_auth=!password,!md5"))).unwrap();
    for (user, list) in
        [("plain", "scram-sha-256"), ("plain", "!password"), ("md5user", "scram-sha-256"), ("trusted", "md5")]
    {
        let error =
            connect(&tcp(&cluster, &format!("user={user} {password} require_auth={list}"))).unwrap_err();
        assert!(error.to_string().contains("authentication method requirement"), "{error}");
    }
    let error =
        connect(&tcp(&cluster, &format!("user=scramuser {password} channel_binding=require"))).unwrap_err();
    assert!(error.to_string().contains("channel binding"), "{error}");
}

#[test]
fn refusals_say_why() {
    let cluster = server(15);
    for (rest, sqlstate, text) in [
        ("user=refused", "28000", "pg_hba.conf rejects connection"),
        ("user=postgres dbname=missing", "3D000", "database \"missing\" does not exist"),
        ("user=nobody_knows", "28000", "role \"nobody_knows\" does not exist"),
    ] {
        let error = connect(&tcp(&cluster, rest)).unwrap_err();
        assert_eq!(error.sqlstate(), Some(sqlstate), "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(error.to_string().contains(&format!("port {}", cluster.port())), "{error}");
    }
}

#[test]
fn password_files() {
    let cluster = server(15);
    let home = TempDir::new().unwrap();
    let file = home.path().join(".pgpass");
    std::fs::write(&file, format!(r"127.0.0.1:{}:*:scramuser:s3cret pass\:word", cluster.port())).unwrap();
    let environment = Environment::default().with_home(home.path().to_str().unwrap());
    let conninfo = tcp(&cluster, "user=scramuser");

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let session = connect_in(&conninfo, &environment).unwrap();
    assert!(session.warnings().is_empty());
    // The one that the settings name wins over the one at home.
    let missing = connect_in(&format!("{conninfo} passfile=/nonexistent"), &environment).unwrap_err();
    assert!(missing.to_string().contains("no password supplied"), "{missing}");

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let open = connect_in(&conninfo, &environment).unwrap_err();
    assert!(open.to_string().contains("no password supplied"), "{open}");
    let trusted = connect_in(&tcp(&cluster, "user=trusted"), &environment).unwrap();
    assert!(trusted.warnings()[0].contains("has group or world access"), "{:?}", trusted.warnings());
}

#[test]
fn service_files_and_variables() {
    let cluster = server(15);
    let home = TempDir::new().unwrap();
    let text = format!(
        "[other]\nhost=/nonexistent\n[mine]\nhost=127.0.0.1\nport={}\nuser=scramuser\ndbname=postgres\npassword=s3cret pass:word\n",
        cluster.port()
    );
    std::fs::write(home.path().join(".pg_service.conf"), text).unwrap();
    let environment = Environment::default().with_home(home.path().to_str().unwrap());
    let mut session = connect_in("service=mine application_name=tool", &environment).unwrap();
    assert_eq!(scalar(&mut session, "SELECT current_user"), "scramuser");
    assert_eq!(scalar(&mut session, "SHOW application_name"), "tool");
    let error = connect_in("service=none", &environment).unwrap_err();
    assert_eq!(error.to_string(), "definition of service \"none\" not found");

    let port = cluster.port().to_string();
    let variables = [
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", &port),
        ("PGUSER", "scramuser"),
        ("PGPASSWORD", "s3cret pass:word"),
        ("PGDATABASE", "postgres"),
        ("PGOPTIONS", "-c work_mem=123kB"),
    ];
    let environment = Environment::new(variables);
    assert!(!format!("{environment:?}").contains("s3cret"));
    let mut session = connect_in("", &environment).unwrap();
    assert_eq!(scalar(&mut session, "SHOW work_mem"), "123kB");
    assert_eq!(scalar(&mut session, "SHOW application_name"), "barman");
}

#[test]
fn the_peer_of_a_socket() {
    let cluster = server(15);
    let owner = &cluster.account().name;
    connect(&format!("{} requirepeer={owner}", cluster.conninfo())).unwrap();
    let error = connect(&format!("{} requirepeer=somebody_else", cluster.conninfo())).unwrap_err();
    assert!(error.to_string().contains("requirepeer specifies \"somebody_else\""), "{error}");
}
