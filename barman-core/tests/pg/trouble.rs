//! Servers that are not there, vanish, are the wrong kind, or never answer.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use barman_core::ctx::Cancel;
use barman_core::format::conninfo::ConnInfo;
use barman_core::pg::{Environment, PgError, Session};
use barman_testkit::pg::{Cluster, StopMode};

use super::{connect, scalar};

#[test]
fn nobody_there() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = connect(&format!("host=127.0.0.1 port={closed} user=x")).unwrap_err();
    assert!(matches!(error, PgError::Unreachable { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("Connection refused"), "{error}");
    let error = connect("host=/nonexistent user=x").unwrap_err();
    assert!(error.to_string().contains("\"/nonexistent/.s.PGSQL.5432\""), "{error}");
    let error = connect("host=no-such-host.invalid user=x").unwrap_err();
    assert!(matches!(error, PgError::Unreachable { .. }), "{error:?}");
}

#[test]
fn a_listener_that_never_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let started = Instant::now();
    let error =
        connect(&format!("host=127.0.0.1 port={port} user=x connect_timeout=2 sslmode=disable")).unwrap_err();
    assert!(matches!(error, PgError::Timeout { seconds: 2, .. }) && error.is_transient(), "{error:?}");
    assert!((2..5).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());

    let cancel = Cancel::new();
    let trigger = cancel.clone();
    let waker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        trigger.cancel();
    });
    let info = ConnInfo::parse(&format!("host=127.0.0.1 port={port} user=x")).unwrap();
    let started = Instant::now();
    let error = Session::connect(&info, &Environment::default(), &cancel).unwrap_err();
    assert!(matches!(error, PgError::Cancelled), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(3));
    waker.join().unwrap();
}

#[test]
fn the_next_host_is_tried_unless_the_login_is_refused() {
    let cluster = Cluster::builder(15).hba("host all refused 127.0.0.1/32 reject").start().unwrap();
    cluster.psql("CREATE ROLE refused LOGIN").unwrap();
    let port = cluster.port();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let both = format!("host=127.0.0.1,{} port={closed},{port} dbname=postgres", cluster.socket_dir());
    let session = connect(&format!("{both} user=postgres")).unwrap();
    assert!(session.connection().endpoint().contains(".s.PGSQL."));

    let refused = format!("host=127.0.0.1,{} port={port} dbname=postgres user=refused", cluster.socket_dir());
    assert!(matches!(connect(&refused), Err(PgError::Auth { .. })));

    let error = connect(&format!("host=127.0.0.1,127.0.0.1 port={closed},{closed} user=x")).unwrap_err();
    assert!(matches!(&error, PgError::NoServer(errors) if errors.len() == 2), "{error:?}");
    assert!(error.is_transient());
}

#[test]
fn every_address_of_a_name_is_tried_and_abstract_sockets_too() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    // localhost is ::1 and 127.0.0.1; the server listens on the latter.
    let cluster = Cluster::builder(15).start().unwrap();
    connect(&format!(
        "host=localhost port={} user=postgres keepalives_idle=60 keepalives_count=3 tcp_user_timeout=9000",
        cluster.port()
    ))
    .unwrap();
    let name = format!("barman-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(format!("{name}/.s.PGSQL.5432")).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let accepting = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let error = connect(&format!("host=@{name} user=x")).unwrap_err();
    accepting.join().unwrap();
    assert!(!error.to_string().contains("refused") && !error.to_string().contains("No such file"), "{error}");
}

#[test]
fn target_session_attrs() {
    let primary = Cluster::builder(15).start().unwrap();
    let standby = Cluster::standby_of(&primary).unwrap();
    let both = format!(
        "host={},{} port={},{} user=postgres dbname=postgres",
        standby.socket_dir(),
        primary.socket_dir(),
        standby.port(),
        primary.port()
    );
    for (wanted, in_recovery) in [
        ("any", "t"),
        ("read-write", "f"),
        ("read-only", "t"),
        ("primary", "f"),
        ("standby", "t"),
        ("prefer-standby", "t"),
    ] {
        let mut session = connect(&format!("{both} target_session_attrs={wanted}")).unwrap();
        assert_eq!(scalar(&mut session, "SELECT pg_is_in_recovery()"), in_recovery, "{wanted}");
    }
    let only = format!("{} target_session_attrs=standby", primary.conninfo());
    let error = connect(&only).unwrap_err();
    assert!(error.to_string().ends_with("server is not in hot standby mode"), "{error}");
    connect(&format!("{} target_session_attrs=prefer-standby", primary.conninfo())).unwrap();
}

#[test]
fn statements_and_their_errors() {
    let cluster = Cluster::builder(15).start().unwrap();
    let mut session = connect(&cluster.conninfo()).unwrap();
    let answers =
        session.query("SELECT 1 AS a, NULL AS b; ; SET work_mem = '1MB'; SELECT 'x' WHERE false").unwrap();
    let tags: Vec<&str> = answers.iter().map(|answer| answer.tag.as_str()).collect();
    assert_eq!(tags, ["SELECT 1", "SET", "SELECT 0"]);
    assert_eq!(answers[0].rows, [vec![Some("1".to_owned()), None]]);
    assert_eq!(answers[0].columns, ["a", "b"]);
    assert!(session.query("").unwrap()[0].tag.is_empty());

    let error = session.query("SELECT 1; SELECT 1/0; SELECT 2").unwrap_err();
    assert_eq!(error.sqlstate(), Some("22012"));
    assert!(!error.is_lost());
    let error = session.query_with("SELECT $1::int", &[Some("x")]).unwrap_err();
    assert_eq!(error.sqlstate(), Some("22P02"));
    let text = "it's; \"quoted\" \\ ✓";
    let answer = session.query_with("SELECT $1::text, $2::text", &[Some(text), None]).unwrap();
    assert_eq!(answer.rows, [vec![Some(text.to_owned()), None]]);

    session.query("DO $$ BEGIN RAISE NOTICE 'look'; END $$").unwrap();
    assert_eq!(session.take_notices()[0].message, "look");
    let many = session.query_one("SELECT repeat('x', 1000) FROM generate_series(1, 20000)").unwrap();
    assert_eq!(many.rows.len(), 20_000);
    assert!(session.query("COPY (SELECT 1) TO STDOUT").unwrap_err().is_lost());
}

#[test]
fn a_session_ends_with_its_server() {
    let mut cluster = Cluster::builder(15).start().unwrap();
    let mut session = connect(&cluster.conninfo_tcp()).unwrap();
    let waiting = std::thread::spawn(move || {
        let error = session.query("SELECT pg_sleep(60)").unwrap_err();
        assert!(session.ping().unwrap_err().is_lost());
        error
    });
    cluster.poll("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()", "1").unwrap();
    cluster.kill9().unwrap();
    let error = waiting.join().unwrap();
    assert!(matches!(error, PgError::Lost { .. }) && error.is_transient(), "{error:?}");

    cluster.start().unwrap();
    let mut session = connect(&cluster.conninfo_tcp()).unwrap();
    cluster.stop(StopMode::Fast).unwrap();
    let error = session.ping().unwrap_err();
    assert!(error.is_lost() && error.is_transient(), "{error:?}");
}

#[test]
fn limits_and_cancelling_stop_the_server_too() {
    let cluster = Cluster::builder(15).start().unwrap();
    let active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(61)%' AND state = 'active' AND pid <> pg_backend_pid()";
    let mut session = connect(&cluster.conninfo_tcp()).unwrap();
    session.set_limit(Some(Duration::from_secs(1)));
    let error = session.query("SELECT pg_sleep(61)").unwrap_err();
    assert!(matches!(error, PgError::Timeout { .. }), "{error:?}");
    cluster.poll(active, "0").unwrap();
    assert!(session.ping().unwrap_err().is_lost());

    let cancel = Cancel::new();
    let info = ConnInfo::parse(&cluster.conninfo()).unwrap();
    let mut session = Session::connect(&info, &Environment::default(), &cancel).unwrap();
    let trigger = cancel.clone();
    let waker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        trigger.cancel();
    });
    let error = session.query("SELECT pg_sleep(61)").unwrap_err();
    assert!(matches!(error, PgError::Cancelled), "{error:?}");
    waker.join().unwrap();
    cluster.poll(active, "0").unwrap();
}
