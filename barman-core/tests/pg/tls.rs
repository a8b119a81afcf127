//! Encrypted connections: each `sslmode` against certificates good and bad, made by the openssl program.

use std::path::Path;
use std::process::Command;

use barman_core::pg::{Environment, PgError};
use barman_testkit::pg::{Cluster, require};
use tempfile::TempDir;

use super::{connect, connect_in, scalar};

/// Keys and certificates in a directory, by name.
struct Pki {
    dir: TempDir,
}

impl Pki {
    fn new() -> Self {
        let pki = Self { dir: TempDir::new().unwrap() };
        for authority in ["root", "stranger"] {
            pki.key(authority, "EC");
            pki.openssl(&format!(
                "req -x509 -new -key {authority}.key -out {authority}.crt -days 30 -subj /CN={authority} \
                 -addext basicConstraints=critical,CA:TRUE"
            ));
        }
        pki
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.path().join(name)).unwrap()
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn key(&self, name: &str, kind: &str) {
        let options = if kind == "RSA" { "rsa_keygen_bits:2048" } else { "ec_paramgen_curve:P-256" };
        self.openssl(&format!("genpkey -algorithm {kind} -pkeyopt {options} -out {name}.key"));
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(self.dir.path().join(format!("{name}.key")), private).unwrap();
    }

    /// A certificate signed by root; without `extensions` openssl 3.0 makes one of version 1.
    fn signed(&self, name: &str, common_name: &str, extensions: Option<&str>) {
        self.key(name, "RSA");
        self.openssl(&format!("req -new -key {name}.key -out {name}.csr -subj /CN={common_name}"));
        let mut sign = format!(
            "x509 -req -in {name}.csr -CA root.crt -CAkey root.key -CAcreateserial -days 30 -sha384 -out {name}.crt"
        );
        if let Some(extensions) = extensions {
            std::fs::write(self.dir.path().join("ext"), extensions).unwrap();
            sign.push_str(" -extfile ext");
        }
        self.openssl(&sign);
    }

    /// As Debian's ssl-cert makes its snakeoil certificate: self-signed, not an authority.
    fn snakeoil(&self, name: &str) {
        self.key(name, "RSA");
        self.openssl(&format!(
            "req -x509 -new -key {name}.key -out {name}.crt -days 30 -subj /CN=db.test \
             -addext basicConstraints=CA:FALSE -addext subjectAltName=DNS:db.test"
        ));
    }

    fn server(&self, certificate: &str) -> Cluster {
        self.server_of(15, certificate)
    }

    fn server_of(&self, major: u32, certificate: &str) -> Cluster {
        let cluster = Cluster::builder(major)
            .file("server.crt", self.read(&format!("{certificate}.crt")), 0o600)
            .file("server.key", self.read(&format!("{certificate}.key")), 0o600)
            .file("ca.crt", self.read("root.crt"), 0o600)
            .conf("ssl", "on")
            .conf("ssl_ca_file", "ca.crt")
            .conf("password_encryption", "scram-sha-256")
            .hba("hostssl all tlsonly 127.0.0.1/32 trust")
            .hba("hostnossl all tlsonly 127.0.0.1/32 reject")
            .hba("hostssl all plainonly 127.0.0.1/32 reject")
            .hba("hostnossl all plainonly 127.0.0.1/32 trust")
            .hba("hostssl all certuser 127.0.0.1/32 cert")
            .hba("host all scramuser 127.0.0.1/32 scram-sha-256")
            .start()
            .unwrap();
        for role in ["tlsonly", "plainonly", "certuser"] {
            cluster.psql(&format!("CREATE ROLE {role} LOGIN")).unwrap();
        }
        cluster.psql("CREATE ROLE scramuser LOGIN PASSWORD 's3cret'").unwrap();
        cluster
    }
}

fn at(cluster: &Cluster, host: &str, rest: &str) -> String {
    format!("host={host} hostaddr=127.0.0.1 port={} dbname=postgres user=postgres {rest}", cluster.port())
}

fn encrypted(conninfo: &str) -> bool {
    let mut session = connect(conninfo).unwrap_or_else(|e| panic!("{conninfo}: {e}"));
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let there = scalar(&mut session, sql) == "t";
    assert_eq!(there, session.connection().is_encrypted());
    there
}

fn refusal(conninfo: &str) -> String {
    match connect(conninfo) {
        Ok(_) => panic!("{conninfo} was accepted"),
        Err(error @ PgError::Tls { .. }) => error.to_string(),
        Err(other) => panic!("{conninfo}: {other:?}"),
    }
}

#[test]
fn each_mode_with_a_good_certificate() {
    let pki = Pki::new();
    pki.signed("server", "ignored", Some("subjectAltName=DNS:db.test,IP:127.0.0.1"));
    let cluster = pki.server("server");
    let (root, stranger) = (pki.path("root.crt"), pki.path("stranger.crt"));
    for (mode, expected) in [("disable", false), ("allow", false), ("prefer", true), ("require", true)] {
        assert_eq!(encrypted(&at(&cluster, "db.test", &format!("sslmode={mode}"))), expected, "{mode}");
    }
    assert!(encrypted(&at(&cluster, "db.test", "")), "prefer is the default");
    for mode in ["require", "verify-ca", "verify-full"] {
        assert!(encrypted(&at(&cluster, "db.test", &format!("sslmode={mode} sslrootcert={root}"))), "{mode}");
        let error = refusal(&at(&cluster, "db.test", &format!("sslmode={mode} sslrootcert={stranger}")));
        assert!(error.contains("UnknownIssuer"), "{mode}: {error}");
    }
    let by_address = at(&cluster, "127.0.0.1", &format!("sslmode=verify-full sslrootcert={root}"));
    assert!(encrypted(&by_address));
    let wrong = format!("sslmode=verify-full sslrootcert={root}");
    let error = refusal(&at(&cluster, "other.test", &wrong));
    assert!(
        error.ends_with(
            "server certificate for \"db.test\" (and 1 other name) does not match host name \"other.test\""
        ),
        "{error}"
    );
    // The common name does not count where there is an alternative name.
    assert!(refusal(&at(&cluster, "ignored", &wrong)).contains("does not match host name"));
    assert!(encrypted(&at(&cluster, "other.test", &format!("sslmode=verify-ca sslrootcert={root}"))));
    let error = refusal(&at(&cluster, "db.test", "sslmode=verify-ca sslrootcert=/nonexistent"));
    assert!(error.contains("root certificate file \"/nonexistent\" does not exist"), "{error}");
    // A root file that does not fit makes "prefer" fall back to no encryption, as in libpq.
    assert!(!encrypted(&at(&cluster, "db.test", &format!("sslmode=prefer sslrootcert={stranger}"))));
    for version in ["TLSv1.2", "TLSv1.3"] {
        let bounds = format!("ssl_min_protocol_version={version} ssl_max_protocol_version={version}");
        let conninfo = at(&cluster, "db.test", &format!("sslmode=verify-full sslrootcert={root} {bounds}"));
        let mut session = connect(&conninfo).unwrap();
        assert_eq!(
            scalar(&mut session, "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"),
            version
        );
    }
    // The socket is never encrypted, whatever sslmode says.
    assert!(
        !connect(&format!("{} sslmode=require", cluster.conninfo())).unwrap().connection().is_encrypted()
    );
}

#[test]
fn certificates_that_a_browser_would_refuse() {
    let pki = Pki::new();
    pki.snakeoil("snakeoil");
    pki.signed("old", "db.test", None);
    for (certificate, root) in [("snakeoil", "snakeoil"), ("old", "root")] {
        let cluster = pki.server(certificate);
        let root = pki.path(&format!("{root}.crt"));
        let stranger = pki.path("stranger.crt");
        for version in ["TLSv1.2", "TLSv1.3"] {
            for mode in ["require", "verify-ca", "verify-full"] {
                let rest = format!("sslmode={mode} sslrootcert={root} ssl_max_protocol_version={version}");
                assert!(encrypted(&at(&cluster, "db.test", &rest)), "{certificate} {mode} {version}");
            }
        }
        assert!(encrypted(&at(&cluster, "db.test", "sslmode=require")));
        let error = refusal(&at(&cluster, "db.test", &format!("sslmode=verify-ca sslrootcert={stranger}")));
        assert!(error.contains("UnknownIssuer"), "{certificate}: {error}");
        let error = refusal(&at(&cluster, "other.test", &format!("sslmode=verify-full sslrootcert={root}")));
        let expected = "server certificate for \"db.test\" does not match host name \"other.test\"";
        assert!(error.ends_with(expected), "{certificate}: {error}");
    }
}

#[test]
fn both_ways_of_asking_where_the_server_takes_one() {
    let pki = Pki::new();
    pki.signed("server", "db.test", Some("subjectAltName=DNS:db.test"));
    let cluster = pki.server("server");
    let user = |role: &str, mode: &str| {
        format!("host=127.0.0.1 port={} dbname=postgres user={role} sslmode={mode}", cluster.port())
    };
    for (role, mode, expected) in [
        ("tlsonly", "allow", true),
        ("tlsonly", "prefer", true),
        ("plainonly", "allow", false),
        ("plainonly", "prefer", false),
    ] {
        assert_eq!(encrypted(&user(role, mode)), expected, "{role} {mode}");
    }
    for (role, mode) in [("tlsonly", "disable"), ("plainonly", "require")] {
        let error = connect(&user(role, mode)).unwrap_err();
        assert_eq!(error.sqlstate(), Some("28000"), "{error}");
    }
    let plain = Cluster::builder(15).start().unwrap();
    let to = |mode: &str| format!("host=127.0.0.1 port={} user=postgres sslmode={mode}", plain.port());
    assert!(!encrypted(&to("prefer")));
    assert!(!encrypted(&to("allow")));
    assert!(refusal(&to("require")).ends_with("server does not support SSL, but SSL was required"));
}

#[test]
fn channel_binding() {
    let pki = Pki::new();
    // Two hash functions: SHA-384 for the signed one, SHA-256 for the other.
    pki.signed("server", "db.test", Some("subjectAltName=DNS:db.test"));
    pki.snakeoil("snakeoil");
    for certificate in ["server", "snakeoil"] {
        let cluster = pki.server(certificate);
        let with = |rest: &str| {
            format!(
                "host=127.0.0.1 port={} dbname=postgres user=scramuser password=s3cret {rest}",
                cluster.port()
            )
        };
        for binding in ["disable", "prefer", "require"] {
            assert!(encrypted(&with(&format!("sslmode=require channel_binding={binding}"))), "{binding}");
        }
        let error = connect(&with("sslmode=disable channel_binding=require")).unwrap_err();
        assert!(error.to_string().contains("channel binding is required"), "{error}");
        // Trust proves nothing about the channel.
        let trusted = format!(
            "host=127.0.0.1 port={} dbname=postgres user=tlsonly sslmode=require channel_binding=require",
            cluster.port()
        );
        let error = connect(&trusted).unwrap_err();
        assert!(error.to_string().contains("without channel binding"), "{error}");
    }
}

#[test]
fn client_certificates() {
    let pki = Pki::new();
    pki.signed("server", "db.test", Some("subjectAltName=DNS:db.test"));
    pki.signed("client", "certuser", Some("extendedKeyUsage=clientAuth"));
    let cluster = pki.server("server");
    let base =
        format!("host=127.0.0.1 port={} dbname=postgres user=certuser sslmode=require", cluster.port());
    let pair = format!("sslcert={} sslkey={}", pki.path("client.crt"), pki.path("client.key"));
    for version in ["TLSv1.2", "TLSv1.3"] {
        assert!(encrypted(&format!("{base} {pair} ssl_max_protocol_version={version}")), "{version}");
    }
    let error = connect(&base).unwrap_err();
    assert!(matches!(error, PgError::Auth { .. }), "{error:?}");
    assert!(error.to_string().contains("requires a valid client certificate"), "{error}");
    let error = connect(&format!("{base} {pair} sslcertmode=disable")).unwrap_err();
    assert!(error.to_string().contains("requires a valid client certificate"), "{error}");

    // From ~/.postgresql, as libpq finds them.
    let home = TempDir::new().unwrap();
    let place = home.path().join(".postgresql");
    std::fs::create_dir(&place).unwrap();
    for (from, to) in
        [("client.crt", "postgresql.crt"), ("client.key", "postgresql.key"), ("root.crt", "root.crt")]
    {
        std::fs::copy(pki.path(from), place.join(to)).unwrap();
    }
    let environment = Environment::default().with_home(home.path().to_str().unwrap());
    connect_in(&base, &environment).unwrap();
    let full = at(&cluster, "db.test", "sslmode=verify-full");
    connect_in(&full, &environment).unwrap();

    // A key that others may read is refused, as is one of another certificate.
    set_mode(Path::new(&pki.path("client.key")), 0o644);
    let error = connect(&format!("{base} {pair}")).unwrap_err();
    assert!(error.to_string().contains("has group or world access"), "{error}");
    let foreign = format!("sslcert={} sslkey={}", pki.path("client.crt"), pki.path("server.key"));
    let error = connect(&format!("{base} {foreign}")).unwrap_err();
    assert!(matches!(error, PgError::Tls { .. }), "{error:?}");
    // A certificate of an authority that the server does not know.
    pki.snakeoil("unknown");
    let unknown = format!("sslcert={} sslkey={}", pki.path("unknown.crt"), pki.path("unknown.key"));
    for version in ["TLSv1.2", "TLSv1.3"] {
        let error = connect(&format!("{base} {unknown} ssl_max_protocol_version={version}")).unwrap_err();
        assert!(matches!(error, PgError::Tls { .. }), "{version}: {error:?}");
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn settings_that_contradict_each_other() {
    for (rest, text) in [
        ("sslmode=sometimes", "invalid sslmode value: \"sometimes\""),
        ("sslmode=require sslrootcert=system", "may not be used with sslrootcert=system"),
        ("sslmode=prefer sslnegotiation=direct", "may not be used with sslnegotiation=direct"),
        ("sslmode=require sslcrl=/x", "sslcrl is not supported"),
        ("ssl_max_protocol_version=TLSv1.1", "no TLS version from 1.2 on"),
        ("channel_binding=maybe", "invalid channel_binding value: \"maybe\""),
    ] {
        let error = connect(&format!("host=127.0.0.1 port=1 user=x {rest}")).unwrap_err();
        assert!(error.to_string().contains(text), "{rest}: {error}");
    }
}

#[test]
fn without_asking_first() {
    if require(18).is_none() {
        return;
    }
    let pki = Pki::new();
    pki.signed("server", "db.test", Some("subjectAltName=DNS:db.test"));
    let cluster = pki.server_of(18, "server");
    let root = pki.path("root.crt");
    let rest = format!("sslmode=verify-full sslrootcert={root} sslnegotiation=direct");
    assert!(encrypted(&at(&cluster, "db.test", &rest)));
    let older = pki.server("server");
    let error = connect(&at(&older, "db.test", &rest)).unwrap_err();
    assert!(matches!(error, PgError::Tls { .. }), "{error:?}");
}
