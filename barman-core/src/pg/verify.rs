//! Judging a server's certificate by libpq's rules rather than a browser's.
//!
//! Where the two differ: a certificate that is itself in the root file is trusted, whatever its basic constraints say
//! (Debian's snakeoil certificate given as its own root); certificates of version 1 are taken, which `openssl x509 -req`
//! makes without an extension file; a common name counts where there is no alternative name of the host's kind.
//!
//! Source: PostgreSQL's `fe-secure-openssl.c` and `fe-secure-common.c`; documentation, chapter "libpq", section
//! "SSL Support".

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::x509::{Certificate, Name};

/// What is checked.
#[derive(Debug)]
pub(super) enum Check {
    /// Nothing: the channel is encrypted, the server may be anyone.
    Nothing,
    /// The certificate is signed by a trusted authority.
    Authority,
    /// And it is that host's.
    AuthorityAndName(String),
}

/// The verifier of one connection.
#[derive(Debug)]
pub(super) struct Verifier {
    check: Check,
    /// The certificates of the root file.
    roots: Vec<CertificateDer<'static>>,
    anchors: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(super) fn new(
        check: Check,
        roots: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        let mut anchors = RootCertStore::empty();
        // What webpki cannot use as an anchor still counts where the server shows it itself.
        anchors.add_parsable_certificates(roots.iter().cloned());
        Self { check, roots, anchors, provider }
    }

    fn chain(
        &self,
        end_entity: &CertificateDer<'_>,
        certificate: &Certificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.roots.iter().any(|root| root.as_ref() == end_entity.as_ref()) {
            return in_force(certificate, now);
        }
        if certificate.version == 1 {
            return self.version_one(certificate, now);
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.anchors, intermediates, now, algorithms)
    }

    /// A certificate without extensions, signed by one of the roots itself.
    fn version_one(&self, certificate: &Certificate<'_>, now: UnixTime) -> Result<(), Error> {
        let signed_by = |root: &Certificate<'_>| {
            self.provider.signature_verification_algorithms.all.iter().any(|algorithm| {
                algorithm.public_key_alg_id().as_ref() == root.key_algorithm
                    && algorithm.signature_alg_id().as_ref() == certificate.signature_algorithm
                    && algorithm.verify_signature(root.key, certificate.signed, certificate.signature).is_ok()
            })
        };
        for root in self.roots.iter().filter_map(|root| Certificate::read(root)) {
            let may_sign = root.is_authority == Some(true) || root.version == 1;
            if may_sign && root.subject == certificate.issuer && signed_by(&root) {
                in_force(&root, now)?;
                return in_force(certificate, now);
            }
        }
        Err(CertificateError::UnknownIssuer.into())
    }
}

fn in_force(certificate: &Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < certificate.not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > certificate.not_after {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// `pq_verify_peer_name_matches_certificate`: alternative names first; the common name only when there is no alternative
/// name of the host's kind.
fn check_name(certificate: &Certificate<'_>, host: &str) -> Result<(), Error> {
    let address: Option<IpAddr> = host.parse().ok();
    let mut common_name_counts = true;
    let mut shown = Vec::new();
    for name in &certificate.alternative_names {
        let matches = match name {
            Name::Dns(dns) => {
                common_name_counts &= address.is_some();
                shown.push(String::from_utf8_lossy(dns).into_owned());
                name_matches(dns, host)
            }
            Name::Ip(ip) => {
                common_name_counts &= address.is_none();
                shown.push(ip.to_string());
                Some(*ip) == address
            }
        };
        if matches {
            return Ok(());
        }
    }
    if let Some(name) = certificate.common_name.filter(|_| common_name_counts) {
        shown.push(String::from_utf8_lossy(name).into_owned());
        if name_matches(name, host) {
            return Ok(());
        }
    }
    let reason = match shown.as_slice() {
        [] => "could not get server's host name from server certificate".to_owned(),
        [only] => format!("server certificate for \"{only}\" does not match host name \"{host}\""),
        [first, others @ ..] => format!(
            "server certificate for \"{first}\" (and {} other name{}) does not match host name \"{host}\"",
            others.len(),
            if others.len() == 1 { "" } else { "s" }
        ),
    };
    Err(Error::General(reason))
}

/// Equal without regard to case, or `*.` for exactly one label. A zero byte never matches.
fn name_matches(pattern: &[u8], host: &str) -> bool {
    let host = host.as_bytes();
    if pattern.contains(&0) || host.is_empty() {
        return false;
    }
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    match (pattern.strip_prefix(b"*"), host.iter().position(|byte| *byte == b'.')) {
        (Some(suffix), Some(dot)) if suffix.len() > 1 && suffix.starts_with(b".") => {
            dot > 0 && host.get(dot..).is_some_and(|rest| rest.eq_ignore_ascii_case(suffix))
        }
        _ => false,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = Certificate::read(end_entity).ok_or(CertificateError::BadEncoding)?;
        if !matches!(self.check, Check::Nothing) {
            self.chain(end_entity, &certificate, intermediates, now)?;
        }
        if let Check::AuthorityAndName(host) = &self.check {
            check_name(&certificate, host)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::read(cert).ok_or(CertificateError::BadEncoding)?;
        let mapping = self.provider.signature_verification_algorithms.mapping;
        let valid = mapping
            .iter()
            .filter(|(scheme, _)| *scheme == signed.scheme)
            .flat_map(|(_, algorithms)| algorithms.iter())
            .filter(|algorithm| algorithm.public_key_alg_id().as_ref() == certificate.key_algorithm)
            .any(|algorithm| {
                algorithm.verify_signature(certificate.key, message, signed.signature()).is_ok()
            });
        if valid {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let certificate = Certificate::read(cert).ok_or(CertificateError::BadEncoding)?;
        let key = SubjectPublicKeyInfoDer::from(certificate.key_info);
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::pem::PemObject;
    use std::time::Duration;

    fn pem(bytes: &[u8]) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(bytes).unwrap()
    }

    macro_rules! fixture {
        ($name:literal) => {
            pem(include_bytes!(concat!("../../tests/fixtures/pki/", $name, ".crt")))
        };
    }

    fn verify(shown: &CertificateDer<'_>, root: CertificateDer<'static>, year: u64) -> Result<(), String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier::new(Check::Authority, vec![root], provider);
        let name = ServerName::try_from("db.test").unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_556_952));
        let result = verifier.verify_server_cert(shown, &[], &name, &[], now);
        result.map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn who_is_trusted_and_when() {
        let unknown = "invalid peer certificate: UnknownIssuer";
        let (early, expired) = ("invalid peer certificate: NotValidYet", "invalid peer certificate: Expired");
        for (what, shown, root, year, expected) in [
            ("its own root", fixture!("self_signed"), fixture!("self_signed"), 2100, None),
            ("too early", fixture!("self_signed"), fixture!("self_signed"), 2020, Some(early)),
            ("too late", fixture!("self_signed"), fixture!("self_signed"), 2130, Some(expired)),
            ("another root", fixture!("self_signed"), fixture!("root"), 2100, Some(unknown)),
            ("version 1", fixture!("version_one"), fixture!("root"), 2100, None),
            ("version 1 too late", fixture!("version_one"), fixture!("root"), 2130, Some(expired)),
            (
                "an issuer of that name only",
                fixture!("version_one"),
                fixture!("root_same_name"),
                2100,
                Some(unknown),
            ),
            ("version 3", fixture!("not_an_authority"), fixture!("root"), 2100, None),
            (
                "an issuer that is no authority",
                fixture!("leaf_of_leaf"),
                fixture!("not_an_authority"),
                2100,
                Some(unknown),
            ),
        ] {
            assert_eq!(verify(&shown, root, year), expected.map_or(Ok(()), |e| Err(e.to_owned())), "{what}");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier::new(Check::Nothing, Vec::new(), provider);
        let name = ServerName::try_from("db.test").unwrap();
        let nonsense = CertificateDer::from(vec![0x30, 0x00]);
        assert!(
            verifier
                .verify_server_cert(&nonsense, &[], &name, &[], UnixTime::since_unix_epoch(Duration::ZERO))
                .is_err()
        );
    }

    #[test]
    fn names() {
        for (pattern, host, expected) in [
            ("db.example.org", "db.example.org", true),
            ("DB.Example.org", "db.example.ORG", true),
            ("*.example.org", "db.example.org", true),
            ("*.example.org", "a.db.example.org", false),
            ("*.example.org", "example.org", false),
            ("*.example.org", ".example.org", false),
            ("*", "db", false),
            ("*.", "db.", false),
            ("d*.example.org", "db.example.org", false),
            ("db.example.org\0.evil.org", "db.example.org", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("", "", false),
        ] {
            assert_eq!(name_matches(pattern.as_bytes(), host), expected, "{pattern} {host}");
        }
    }
}
