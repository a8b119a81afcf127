//! Servers that misbehave: cut connections, garbage, wrong messages. Nothing may hang, panic or be believed.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use barman_core::pg::PgError;
use barman_testkit::fake_pg::{Auth, CopyEnd, FakePg, Reply};

use super::connect;

/// A listener that answers the first bytes of a connection with these, and closes. Gives its port.
fn answering(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(4) {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(bytes);
            // The client must have read it before the end of the connection tells it the same.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read(&mut [0; 4096]);
        }
    });
    port
}

#[test]
fn strangers_are_not_believed() {
    for (bytes, expected) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "a message of 1414811695 bytes came"),
        (b"R\0\0\0\x02", "a message with an impossible length came"),
        (b"R\xff\xff\xff\xff", "a message with an impossible length came"),
        (b"?\0\0\0\x04", "a message cannot be read"),
        (b"R\0\0\0\x08\0\0\0\x63", "a message cannot be read"),
        (b"Z\0\0\0\x05I", "a message that is not allowed there came during the login"),
        (b"R\0\0\0\x08\0\0\0\x00C\0\0\0\x05\0", "a message that is not allowed there came during the start"),
        (b"W\0\0\0\x07\0\0\0", "a message that is not allowed there came during the login"),
    ] {
        let port = answering(bytes);
        let error = connect(&format!("host=127.0.0.1 port={port} user=x sslmode=disable")).unwrap_err();
        assert!(matches!(error, PgError::Protocol { .. }), "{bytes:?}: {error:?}");
        assert!(error.to_string().contains(expected), "{bytes:?}: {error}");
    }
    let port = answering(b"R\0\0\0\x08\0\0\0\x07");
    let error = connect(&format!("host=127.0.0.1 port={port} user=x sslmode=disable")).unwrap_err();
    assert!(matches!(error, PgError::Auth { .. }), "{error:?}");
    let port = answering(b"");
    let error = connect(&format!("host=127.0.0.1 port={port} user=x sslmode=disable")).unwrap_err();
    assert!(error.to_string().ends_with("server closed the connection unexpectedly"), "{error}");
    assert!(error.is_transient());
}

#[test]
fn nothing_unencrypted_is_taken_for_encrypted() {
    // "Yes" to the request, and a login that was put behind it by someone in between (CVE-2021-23222).
    for bytes in [&b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I"[..], b"S", b"X", b"E\0\0\0\x05\0"] {
        let port = answering(bytes);
        let error = connect(&format!("host=127.0.0.1 port={port} user=x sslmode=require")).unwrap_err();
        assert!(matches!(error, PgError::Tls { .. }), "{bytes:?}: {error:?}");
    }
}

#[test]
fn an_older_server_that_negotiates_its_version() {
    let port = answering(
        b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0R\0\0\0\x08\0\0\0\0S\0\0\0\x19server_version\x0010.23\0Z\0\0\0\x05I",
    );
    let session = connect(&format!("host=127.0.0.1 port={port} user=x sslmode=disable")).unwrap();
    assert_eq!(session.version().num(), 100_023);
}

#[test]
fn logins_of_the_scripted_server() {
    for (auth, good, bad) in
        [(Auth::scram("s3cret"), "s3cret", "other"), (Auth::md5("s3cret"), "s3cret", "other")]
    {
        let server = FakePg::builder().auth(auth).start().unwrap();
        connect(&format!("{} password={good}", server.conninfo())).unwrap();
        let error = connect(&format!("{} password={bad}", server.conninfo())).unwrap_err();
        assert!(matches!(error, PgError::Auth { .. }), "{error:?}");
        let start: Vec<_> = server.startups().remove(0);
        for (key, value) in [("user", "barman"), ("application_name", "barman"), ("client_encoding", "UTF8")]
        {
            assert!(start.contains(&(key.to_owned(), value.to_owned())), "{start:?}");
        }
        server.take_deviations();
    }
}

#[test]
fn a_server_that_starts_up_or_is_full() {
    let starting =
        FakePg::builder().refuse(0, "57P03", "the database system is starting up").start().unwrap();
    let error = connect(&starting.conninfo()).unwrap_err();
    assert!(matches!(error, PgError::Refused { .. }) && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("the database system is starting up"));

    let (starting, ready) = (
        FakePg::builder().refuse(0, "57P03", "the database system is starting up").start().unwrap(),
        FakePg::builder().start().unwrap(),
    );
    let both = format!("host=127.0.0.1,127.0.0.1 port={},{} user=x", starting.port(), ready.port());
    let session = connect(&both).unwrap();
    assert!(session.connection().endpoint().ends_with(&format!("port {}", ready.port())));

    let full = FakePg::builder().refuse(0, "53300", "sorry, too many clients already").start().unwrap();
    let error = connect(&full.conninfo()).unwrap_err();
    assert!(error.is_transient() && error.sqlstate() == Some("53300"), "{error:?}");
}

#[test]
fn a_connection_cut_anywhere_in_an_answer_is_a_lost_one() {
    let answer =
        || Reply::rows(&["a", "b"], &[&[Some("value"), None], &[Some("x"), Some("y")]]).with_notice("look");
    for at in 0..110 {
        let server = FakePg::builder().on("SELECT *", answer().cut_after(at)).start().unwrap();
        let mut session = connect(&server.conninfo()).unwrap();
        let error = session.query("SELECT a").unwrap_err();
        assert!(matches!(error, PgError::Lost { .. }) && error.is_transient(), "{at}: {error:?}");
        assert!(session.ping().unwrap_err().is_lost(), "{at}");
        server.take_deviations();
    }
}

#[test]
fn a_connection_cut_anywhere_in_the_login_is_an_error() {
    for at in 0..60 {
        let server = FakePg::builder().auth(Auth::scram("s3cret")).cut(0, at).start().unwrap();
        let error = connect(&format!("{} password=s3cret sslmode=disable", server.conninfo())).unwrap_err();
        assert!(error.is_transient(), "{at}: {error:?}");
        server.take_deviations();
    }
}

#[test]
fn wrong_messages_end_the_session() {
    for raw in [
        &b"D\0\0\0\x0a\0\x01\0\0\0\x63"[..],
        b"T\0\0\0\x06\0\x05",
        b"C\0\0\0\x05x",
        b"?\0\0\0\x04",
        b"Z\x7f\xff\xff\xff",
        b"K\0\0\0\x0c\0\0\0\0\0\0\0\0",
        b"D\0\0\0\x0c\0\x01\0\0\0\x02\xff\xfe",
    ] {
        let server = FakePg::builder().on("SELECT *", Reply::raw(raw)).allow_abrupt_end().start().unwrap();
        let mut session = connect(&server.conninfo()).unwrap();
        session.set_limit(Some(Duration::from_secs(5)));
        let error = session.query("SELECT a").unwrap_err();
        assert!(matches!(error, PgError::Protocol { .. } | PgError::Answer { .. }), "{raw:?}: {error:?}");
        assert!(session.ping().unwrap_err().is_lost(), "{raw:?}");
        server.take_deviations();
    }
    let server =
        FakePg::builder().on("*", Reply::copy_both([], CopyEnd::Client)).allow_abrupt_end().start().unwrap();
    let mut session = connect(&server.conninfo()).unwrap();
    assert!(session.query("START_REPLICATION").unwrap_err().is_lost());
    drop(session);
    server.take_deviations();
}

#[test]
fn a_server_that_shuts_down_says_so_before_it_goes() {
    let server = FakePg::builder()
        .on("SELECT *", Reply::fatal("57P01", "terminating connection due to administrator command"))
        .start()
        .unwrap();
    let mut session = connect(&server.conninfo()).unwrap();
    let error = session.query("SELECT a").unwrap_err();
    assert_eq!(error.sqlstate(), Some("57P01"));
    assert!(error.is_lost() && error.is_transient(), "{error:?}");
    assert!(session.ping().unwrap_err().is_lost());
}

#[test]
fn answers_of_another_form_are_told() {
    let server = FakePg::builder()
        .on("*pg_control_system*", Reply::value("system_identifier", "-1"))
        .on("*wal_segment_size*", Reply::value("setting", "12345"))
        .on("*pg_is_in_recovery*", Reply::rows(&["a"], &[]))
        .on("*pg_control_checkpoint*", Reply::value("timeline_id", "0"))
        .start()
        .unwrap();
    let mut session = connect(&server.conninfo()).unwrap();
    // The upper half of the identifiers comes negative.
    assert_eq!(session.system_id().unwrap().get(), u64::MAX);
    assert!(session.segment_size().unwrap_err().to_string().ends_with("wal_segment_size is '12345'"));
    assert!(session.is_in_recovery().unwrap_err().to_string().ends_with("0 rows instead of one"));
    assert!(session.checkpoint_timeline().unwrap_err().to_string().contains("holds '0'"));
    session.close();
}
