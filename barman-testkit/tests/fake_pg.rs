//! The scripted PostgreSQL talks like a real one to a real client, and notices what a real one would let pass.

use std::time::{Duration, Instant};

use barman_testkit::fake_pg::{Auth, CopyEnd, FakePg, Reply, keepalive, wal_data};
use barman_testkit::pg::Session;
use barman_testkit::world::Run;
use barman_testkit::{Error, os};

fn connect(fake: &FakePg, password: Option<&str>) -> barman_testkit::Result<Session> {
    Session::connect("127.0.0.1", fake.port(), "barman", "postgres", password)
}

#[test]
fn every_authentication_accepts_the_right_password_only() {
    for auth in [Auth::Password("right".into()), Auth::md5("right"), Auth::scram("right")] {
        let fake =
            FakePg::builder().auth(auth.clone()).on("SELECT 1", Reply::value("x", "1")).start().unwrap();
        assert_eq!(connect(&fake, Some("right")).unwrap().psql("SELECT 1").unwrap(), "1", "{auth:?}");
        assert_eq!(connect(&fake, Some("wrong")).unwrap_err().sqlstate(), Some("28P01"), "{auth:?}");
    }
    let refused = Auth::Refuse("28000".into(), "no entry in pg_hba.conf".into());
    let fake = FakePg::builder().auth(refused).start().unwrap();
    assert_eq!(connect(&fake, None).unwrap_err().sqlstate(), Some("28000"));
}

#[test]
fn the_real_psql_understands_it() {
    let Some(psql) = os::which("psql") else { return barman_testkit::skip("psql is not on this machine") };
    let fake = FakePg::builder()
        .auth(Auth::scram("secret"))
        .on("SELECT *", Reply::rows(&["a", "b"], &[&[Some("1"), None], &[Some("2"), Some("x")]]))
        .on("COPY *", Reply::copy_out([b"one\n".to_vec(), b"two\n".to_vec()]).with_notice("here it comes"))
        .start()
        .unwrap();
    let mut command = os::Account::for_servers().unwrap().command(psql);
    let conninfo = format!("{} password=secret", fake.conninfo());
    command.args(["-XAt", &conninfo, "-c", "SELECT 1", "-c", "COPY t TO STDOUT"]);
    let run = Run::of(&mut command).unwrap();
    assert_eq!(run.stdout, "1|\n2|x\none\ntwo\n", "{run}");
    assert!(run.stderr.contains("here it comes"), "{run}");
    assert_eq!(fake.startups()[0][0], ("user".to_owned(), "barman".to_owned()));
}

#[test]
fn a_script_is_followed_in_order_or_the_test_fails() {
    let fake = FakePg::builder()
        .on("SELECT 1", Reply::value("x", "1"))
        .expect("first*", Reply::command("FIRST"))
        .expect("second*", Reply::command("SECOND"))
        .start()
        .unwrap();
    let mut session = connect(&fake, None).unwrap();
    session.query("SELECT 1").unwrap();
    assert_eq!(session.query("first 1").unwrap()[0].tag, "FIRST");
    session.query("SELECT 1").unwrap();
    assert!(session.query("third").is_err());
    assert!(fake.take_deviations()[0].contains("second*"));
    assert_eq!(fake.queries().len(), 4);
}

#[test]
#[should_panic(expected = "\"never\" never arrived")]
fn an_unmet_expectation_fails_on_drop() {
    let _fake = FakePg::builder().expect("never", Reply::command("NEVER")).start().unwrap();
}

#[test]
fn connections_are_cut_refused_and_kept_waiting() {
    let fake = FakePg::builder()
        .refuse(0, "57P03", "the database system is starting up")
        .cut(1, 20)
        .on("cut", Reply::copy_out([vec![b'x'; 1000]]).cut_after(500))
        .on("slow", Reply::command("SLOW").after(Duration::from_millis(300)))
        .on("die", Reply::fatal("57P01", "terminating connection due to administrator command"))
        .on("garbage", Reply::raw(b"E\0\0\0\0 nonsense".to_vec()))
        .allow_abrupt_end()
        .start()
        .unwrap();
    assert_eq!(connect(&fake, None).unwrap_err().sqlstate(), Some("57P03"));
    assert!(matches!(connect(&fake, None), Err(Error::Connection { .. })));
    assert!(connect(&fake, None).unwrap().query("garbage").is_err());
    assert!(matches!(connect(&fake, None).unwrap().query("cut"), Err(Error::Connection { .. })));
    let begun = Instant::now();
    connect(&fake, None).unwrap().query("slow").unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    // The error is followed by the end of the connection, which the client reports only at the next statement.
    let mut session = connect(&fake, None).unwrap();
    assert!(session.query("die").is_err());
}

#[test]
fn a_client_without_manners_is_noticed() {
    use std::io::Write;
    for (bytes, complaint) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "a message of"),
        (b"\0\0\0\x08\0\x03\0\0", "string without its end"),
        (b"\0\0\0\x09\0\x03\0\0\0", "without a user"),
        (b"\0\0\0\x11\0\x03\0\0user\0me\0\0", "ended without Terminate"),
    ] {
        let fake = FakePg::builder().start().unwrap();
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", fake.port())).unwrap();
        stream.write_all(bytes).unwrap();
        drop(stream);
        let begun = Instant::now();
        let mut found = Vec::new();
        while found.is_empty() && begun.elapsed() < Duration::from_secs(5) {
            found = fake.take_deviations();
        }
        assert!(found.iter().any(|what| what.contains(complaint)), "{complaint}: {found:?}");
    }
}

#[test]
fn replication_chunks_have_their_form() {
    assert_eq!(wal_data(1, 2, b"x"), b"w\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0x");
    assert_eq!(keepalive(3, true), b"k\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\0\x01");
    let reply = Reply::copy_both([keepalive(3, true)], CopyEnd::Server);
    assert_eq!(reply, reply.clone());
}
