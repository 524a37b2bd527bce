//! TLS to the database, with the modes that PostgreSQL's own clients have.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

/// `sslmode` of the URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    Disable,
    /// Encrypted if the server can, and nobody is asked who it is.
    #[default]
    Prefer,
    /// Encrypted; who it is matters only when `sslrootcert` is given, as for `libpq`.
    Require,
    /// The certificate must be signed by somebody we trust.
    VerifyCa,
    /// And it must be for the host of the URL.
    VerifyFull,
}

impl Mode {
    pub const WORDS: &str = "disable, prefer, require, verify-ca or verify-full";

    pub fn parse(word: &str) -> Option<Mode> {
        Some(match word {
            "disable" => Mode::Disable,
            "prefer" | "allow" => Mode::Prefer,
            "require" => Mode::Require,
            "verify-ca" => Mode::VerifyCa,
            "verify-full" => Mode::VerifyFull,
            _ => return None,
        })
    }

    /// What the driver knows of it.
    pub fn driver(self) -> tokio_postgres::config::SslMode {
        match self {
            Mode::Disable => tokio_postgres::config::SslMode::Disable,
            Mode::Prefer => tokio_postgres::config::SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => tokio_postgres::config::SslMode::Require,
        }
    }
}

/// What the URL says about TLS.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes {
    pub mode: Mode,
    /// `sslrootcert`: whom to trust; the system's trust store when it is `system` or absent.
    pub root: Option<PathBuf>,
    /// `sslcert` and `sslkey`: who we are.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Makes TLS sessions, in the way of the driver.
#[derive(Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files that the wishes name.
    ///
    /// # Errors
    ///
    /// Which parameter of the URL names a file that cannot be used, and why.
    pub fn new(wishes: &Wishes) -> Result<Tls, String> {
        // Named, because several could be linked into the program, and then none would be chosen.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let check = match wishes.mode {
            Mode::Disable | Mode::Prefer => Check::Nothing,
            Mode::Require if wishes.root.is_none() => Check::Nothing,
            Mode::Require | Mode::VerifyCa => Check::Issuer,
            Mode::VerifyFull => Check::IssuerAndName,
        };
        let roots = if check == Check::Nothing { Vec::new() } else { roots(wishes.root.as_deref())? };
        let verifier = Verifier::new(check, roots, provider.clone())?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &wishes.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates("sslcert", certificate)?;
                let secret = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("sslkey: cannot read the private key in {}: {error}", key.display()))?;
                builder.with_client_auth_cert(chain, secret).map_err(|error| {
                    format!("sslcert: {} and {} do not go together: {error}", certificate.display(), key.display())
                })?
            }
        };
        Ok(Tls { config: Arc::new(config) })
    }
}

fn roots(file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    if let Some(file) = file.filter(|file| *file != "system") {
        return certificates("sslrootcert", file);
    }
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!(
            "sslmode: the system's trust store is empty{why}; install it (Debian: ca-certificates) or name a file with \
             sslrootcert"
        ));
    }
    Ok(found.certs)
}

fn certificates(parameter: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = file.display();
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| format!("{parameter}: cannot read the certificates in {shown}: {error}"))?;
    if read.is_empty() {
        return Err(format!("{parameter}: there is no certificate in {shown}"));
    }
    Ok(read)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Nothing,
    Issuer,
    IssuerAndName,
}

/// Looks at the server's certificate as far as the mode wants it.
#[derive(Debug)]
struct Verifier {
    check: Check,
    roots: RootCertStore,
    /// Certificates that are trusted themselves, whatever they say of what they may be used for: people hand the server's
    /// own one to the client, which PostgreSQL's documentation shows.
    pinned: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(
        check: Check,
        certificates: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Verifier, String> {
        let mut roots = RootCertStore::empty();
        let (used, _) = roots.add_parsable_certificates(certificates.iter().cloned());
        if used == 0 && check != Check::Nothing {
            return Err("sslrootcert: none of the certificates can be used to trust somebody".to_owned());
        }
        Ok(Verifier { check, roots, pinned: certificates, provider })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.check == Check::Nothing {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(certificate)?;
        if !self.pinned.iter().any(|pinned| pinned == certificate) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        }
        if self.check == Check::IssuerAndName {
            verify_server_name(&parsed, host)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What to do about a handshake that failed; nothing when TLS was not the reason or there is nothing to say.
pub(super) fn advice(error: &rustls::Error) -> Option<&'static str> {
    let rustls::Error::InvalidCertificate(why) = error else { return None };
    Some(match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "name the certificate of the authority that signed it with sslrootcert=FILE"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for other hosts: use one of its names in the URL, or sslmode=verify-ca"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired: renew it",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: check the clock of this machine"
        }
        _ => return None,
    })
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Encrypted<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, io::Error> {
        // A socket file has no name, and no TLS either.
        let name = if host.is_empty() { "localhost" } else { host };
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        Ok(Handshake { connector: TlsConnector::from(self.config.clone()), name })
    }
}

/// A session to be.
pub(super) struct Handshake {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Encrypted<S>, io::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(
            async move { self.connector.connect(self.name, stream).await.map(|stream| Encrypted(Box::new(stream))) },
        )
    }
}

/// A connection in TLS.
pub(super) struct Encrypted<S>(Box<tokio_rustls::client::TlsStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let certificates = self.0.get_ref().1.peer_certificates();
        let hash = certificates.and_then(|chain| chain.first()).and_then(|certificate| end_point(certificate));
        hash.map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// The channel binding `tls-server-end-point` (RFC 5929): the certificate, hashed as its signature does, but never by less
/// than SHA-256. Nothing for signatures that the RFC does not define it for.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    let oid = signature_algorithm(certificate)?;
    let sha256 = || Some(Sha256::digest(certificate).to_vec());
    match (oid.strip_prefix(RSA), oid.strip_prefix(ECDSA)) {
        // MD5, SHA-1, SHA-256; in the other family SHA-1 and SHA-256.
        (Some([4 | 5 | 11]), _) | (_, Some([1] | [3, 2])) => sha256(),
        (Some([12]), _) | (_, Some([3, 3])) => Some(Sha384::digest(certificate).to_vec()),
        (Some([13]), _) | (_, Some([3, 4])) => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

/// The object identifier of the second element of an X.509 certificate.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (inside, _) = element(certificate, 0x30)?;
    let (_, after_body) = element(inside, 0x30)?;
    let (algorithm, _) = element(after_body, 0x30)?;
    Some(element(algorithm, 0x06)?.0)
}

/// The contents of a DER element of that tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], mut rest) = der.split_first_chunk::<2>()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
        length =
            digits.iter().try_fold(0_usize, |length, digit| Some(length.checked_mul(256)? + usize::from(*digit)))?;
        rest = after;
    }
    (found == tag).then(|| rest.split_at_checked(length)).flatten()
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_point_is_hashed_as_the_certificate_is_signed() {
        let signed = |algorithm| {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
            end_point(parameters.self_signed(&key).unwrap().der()).map(|hash| hash.len())
        };
        assert_eq!(signed(&rcgen::PKCS_ECDSA_P256_SHA256), Some(32));
        assert_eq!(signed(&rcgen::PKCS_ECDSA_P384_SHA384), Some(48));
        assert_eq!(signed(&rcgen::PKCS_ED25519), None);
    }

    #[test]
    fn what_is_no_certificate_has_no_end_point() {
        for bytes in [
            &b""[..],
            b"\x30",
            b"\x30\x84\xff\xff\xff\xff",
            b"\x30\x89\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x02\x01\x00",
        ] {
            assert_eq!(end_point(bytes), None);
        }
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        let root = |file: &Path| Wishes { mode: Mode::VerifyCa, root: Some(file.to_owned()), ..Wishes::default() };
        for (wishes, parameter) in [
            (root(&empty), "sslrootcert: there is no certificate in"),
            (root(&directory.path().join("none.pem")), "sslrootcert: cannot read"),
            (Wishes { identity: Some((empty.clone(), empty.clone())), ..Wishes::default() }, "sslcert: there is no"),
        ] {
            let error = Tls::new(&wishes).unwrap_err();
            assert!(error.starts_with(parameter) && error.contains(".pem"), "{error}");
        }
    }
}
