//! Encrypted connections: what `sslmode` and its companions ask for, on rustls with `ring`.

use std::io;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::error::PgError;
use super::settings::{Host, Settings};
use super::socket::Socket;
use super::verify::{Check, Verifier};
use super::x509::Certificate;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// How connections are encrypted.
pub(super) struct Tls<'a> {
    settings: &'a Settings,
    mode: Mode,
    /// Without asking first (`sslnegotiation=direct`).
    direct: bool,
}

impl<'a> Tls<'a> {
    /// Checks the settings; files are read when a connection needs them.
    pub(super) fn new(settings: &'a Settings) -> Result<Self, PgError> {
        const MODES: [&str; 6] = ["prefer", "disable", "allow", "require", "verify-ca", "verify-full"];
        let system = settings.get("sslrootcert") == Some("system");
        let word = if system && settings.get("sslmode").is_none() {
            "verify-full"
        } else {
            settings.choice("sslmode", &MODES)?
        };
        let mode = match word {
            "disable" => Mode::Disable,
            "allow" => Mode::Allow,
            "require" => Mode::Require,
            "verify-ca" => Mode::VerifyCa,
            "verify-full" => Mode::VerifyFull,
            _ => Mode::Prefer,
        };
        if system && mode != Mode::VerifyFull {
            return Err(PgError::settings(format!(
                "weak sslmode \"{word}\" may not be used with sslrootcert=system (use \"verify-full\")"
            )));
        }
        let direct = settings.choice("sslnegotiation", &["postgres", "direct"])? == "direct";
        if direct && matches!(mode, Mode::Disable | Mode::Allow | Mode::Prefer) {
            return Err(PgError::settings(format!(
                "weak sslmode \"{word}\" may not be used with sslnegotiation=direct (use \"require\", \"verify-ca\", \
                 or \"verify-full\")"
            )));
        }
        if settings.choice("sslcertmode", &["allow", "disable", "require"])? == "require" {
            return Err(PgError::settings("sslcertmode=require is not supported"));
        }
        for keyword in ["sslcrl", "sslcrldir"] {
            if mode != Mode::Disable && settings.get(keyword).is_some() {
                return Err(PgError::settings(format!(
                    "{keyword} is not supported: revocation lists are not read"
                )));
            }
        }
        if settings.choice("gssencmode", &["prefer", "disable", "require"])? == "require" {
            return Err(PgError::settings("gssencmode=require is not supported"));
        }
        versions(settings)?;
        Ok(Self { settings, mode, direct })
    }

    /// The ways to try, in order: with TLS or without.
    pub(super) fn attempts(&self) -> &'static [bool] {
        match self.mode {
            Mode::Disable => &[false],
            Mode::Allow => &[false, true],
            Mode::Prefer => &[true, false],
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => &[true],
        }
    }

    /// Turns a fresh TCP stream into an encrypted one, or gives it back plain where the server has no TLS and
    /// `sslmode=prefer`. Also gives the data for channel binding, if it is defined for the server's certificate.
    pub(super) async fn negotiate(
        &self,
        mut stream: TcpStream,
        host: &Host,
        endpoint: &str,
    ) -> Result<(Socket, Option<Vec<u8>>), PgError> {
        let failed = |reason: String| PgError::Tls { endpoint: endpoint.to_owned(), reason };
        if !self.direct {
            match ask(&mut stream).await.map_err(|e| PgError::unreachable(endpoint, &e))? {
                b'S' => {}
                b'N' if self.mode == Mode::Prefer => return Ok((Socket::Tcp(stream), None)),
                b'N' => return Err(failed("server does not support SSL, but SSL was required".to_owned())),
                b'E' => return Err(failed("server sent an error response during SSL exchange".to_owned())),
                other => {
                    return Err(failed(format!(
                        "received invalid response to SSL negotiation: {other:#04x}"
                    )));
                }
            }
        }
        let peer = stream.peer_addr().map_err(|e| failed(e.to_string()))?;
        let name = host.name.clone().and_then(|name| ServerName::try_from(name).ok());
        let name = name.unwrap_or_else(|| ServerName::IpAddress(peer.ip().into()));
        let config = self.config(host, &failed)?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(|e| failed(reason(&e)))?;
        let session = stream.get_ref().1;
        if self.direct && session.alpn_protocol() != Some(b"postgresql") {
            return Err(failed(
                "direct SSL connection was established without ALPN protocol negotiation".to_owned(),
            ));
        }
        let end_point = session.peer_certificates().and_then(<[_]>::first).and_then(|c| end_point(c));
        Ok((Socket::Tls(Box::new(stream)), end_point))
    }

    fn config(&self, host: &Host, failed: &dyn Fn(String) -> PgError) -> Result<ClientConfig, PgError> {
        let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
        let (check, roots) = self.trust(host, failed)?;
        let verifier = Arc::new(Verifier::new(check, roots, Arc::clone(&provider)));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions(self.settings)?)
            .map_err(|e| failed(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match self.identity(failed)? {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| failed(format!("the client certificate cannot be used: {e}")))?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        config.enable_sni = self.settings.get("sslsni") != Some("0");
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// What to check, against which roots. A root file that exists is used in every mode, as in libpq.
    fn trust(
        &self,
        host: &Host,
        failed: &dyn Fn(String) -> PgError,
    ) -> Result<(Check, Vec<CertificateDer<'static>>), PgError> {
        let named = self.settings.get("sslrootcert");
        let roots = if named == Some("system") {
            Some(rustls_native_certs::load_native_certs().certs)
        } else {
            let path = named.map(Utf8PathBuf::from).or_else(|| self.settings.home_file("root.crt"));
            match path {
                Some(path) => certificates(&path)?,
                None => None,
            }
        };
        let Some(roots) = roots else {
            if matches!(self.mode, Mode::VerifyCa | Mode::VerifyFull) {
                let file = named.map_or_else(|| "~/.postgresql/root.crt".to_owned(), str::to_owned);
                return Err(failed(format!(
                    "root certificate file \"{file}\" does not exist: either provide the file, use the system's trusted \
                     roots with sslrootcert=system, or change sslmode to disable server certificate verification"
                )));
            }
            return Ok((Check::Nothing, Vec::new()));
        };
        if self.settings.home_file("root.crl").is_some_and(|path| path.exists()) {
            return Err(failed(
                "~/.postgresql/root.crl exists, but revocation lists are not supported".to_owned(),
            ));
        }
        if self.mode != Mode::VerifyFull {
            return Ok((Check::Authority, roots));
        }
        let name = host.name.clone().filter(|name| !name.is_empty());
        let name = name
            .ok_or_else(|| failed("host name must be specified for a verified SSL connection".to_owned()))?;
        Ok((Check::AuthorityAndName(name), roots))
    }

    /// The client's certificate and key, if there is a certificate file.
    #[allow(clippy::type_complexity)]
    fn identity(
        &self,
        failed: &dyn Fn(String) -> PgError,
    ) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, PgError> {
        let file = |keyword: &str, default: &str| {
            self.settings.get(keyword).map(Utf8PathBuf::from).or_else(|| self.settings.home_file(default))
        };
        if self.settings.get("sslcertmode") == Some("disable") {
            return Ok(None);
        }
        let Some(path) = file("sslcert", "postgresql.crt") else { return Ok(None) };
        let Some(chain) = certificates(&path)? else { return Ok(None) };
        let Some(path) = file("sslkey", "postgresql.key") else {
            return Err(failed(format!("certificate \"{path}\" present, but no private key file is known")));
        };
        check_key_file(&path)?;
        let pem = std::fs::read(&path).map_err(|source| PgError::File { path: path.clone(), source })?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
            failed(format!(
                "private key file \"{path}\" holds no key in a form that can be read (encrypted keys cannot)"
            ))
        })?;
        Ok(Some((chain, key)))
    }
}

/// Sends `SSLRequest` and reads the one byte of the answer; never more, so that nothing that was not encrypted can be
/// taken for something that was (CVE-2021-23222).
async fn ask(stream: &mut TcpStream) -> io::Result<u8> {
    let mut request = bytes::BytesMut::new();
    postgres_protocol::message::frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    stream.read_u8().await
}

/// Why a handshake failed, without rustls' own wrapping of our sentences.
pub(super) fn reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::General(text)) => text.clone(),
        Some(other) => format!("SSL error: {other}"),
        None => format!("SSL error: {error}"),
    }
}

/// The certificates of a PEM file; `None` when there is no such file.
fn certificates(path: &Utf8Path) -> Result<Option<Vec<CertificateDer<'static>>>, PgError> {
    let pem = match std::fs::read(path) {
        Ok(pem) => pem,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(PgError::File { path: path.to_owned(), source }),
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(Some(found)),
        _ => Err(PgError::settings(format!("\"{path}\" holds no certificate in PEM form"))),
    }
}

/// libpq's rule: the owner alone may read it, or root owns it and its group may.
fn check_key_file(path: &Utf8Path) -> Result<(), PgError> {
    use std::os::unix::fs::MetadataExt;

    let metadata =
        std::fs::metadata(path).map_err(|source| PgError::File { path: path.to_owned(), source })?;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if !metadata.is_file() {
        return Err(PgError::settings(format!("private key file \"{path}\" is not a regular file")));
    }
    if metadata.mode() & forbidden != 0 {
        return Err(PgError::settings(format!(
            "private key file \"{path}\" has group or world access; file must have permissions u=rw (0600) or less if \
             owned by the current user, or permissions u=rw,g=r (0640) or less if owned by root"
        )));
    }
    Ok(())
}

/// The protocol versions between the two bounds; rustls has none below 1.2.
fn versions(settings: &Settings) -> Result<Vec<&'static rustls::SupportedProtocolVersion>, PgError> {
    let number = |keyword: &str, default: u8| match settings.get(keyword) {
        None => Ok(default),
        Some("TLSv1") => Ok(0),
        Some("TLSv1.1") => Ok(1),
        Some("TLSv1.2") => Ok(2),
        Some("TLSv1.3") => Ok(3),
        Some(other) => Err(PgError::settings(format!("invalid {keyword} value: \"{other}\""))),
    };
    let (low, high) = (number("ssl_min_protocol_version", 2)?, number("ssl_max_protocol_version", 3)?);
    let all = [(2, &rustls::version::TLS12), (3, &rustls::version::TLS13)];
    let chosen: Vec<_> =
        all.into_iter().filter(|(n, _)| (low..=high).contains(n)).map(|(_, version)| version).collect();
    if chosen.is_empty() {
        return Err(PgError::settings(
            "no TLS version from 1.2 on is allowed by ssl_min_protocol_version and ssl_max_protocol_version",
        ));
    }
    Ok(chosen)
}

/// RFC 5929, section 4.1: the certificate's hash with the hash function of its signature, SHA-256 instead of MD5 and
/// SHA-1. `None` where that is not defined (EdDSA, RSA-PSS here): then there is no channel binding.
fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    let algorithm = Certificate::read(certificate)?.signature_algorithm;
    let kind = match (algorithm.strip_prefix(RSA), algorithm.strip_prefix(ECDSA)) {
        (Some([4 | 5 | 11, ..]), _) | (_, Some([1, ..] | [3, 2, ..])) => 256,
        (Some([12, ..]), _) | (_, Some([3, 3, ..])) => 384,
        (Some([13, ..]), _) | (_, Some([3, 4, ..])) => 512,
        _ => return None,
    };
    Some(match kind {
        256 => Sha256::digest(certificate).to_vec(),
        384 => Sha384::digest(certificate).to_vec(),
        _ => Sha512::digest(certificate).to_vec(),
    })
}
