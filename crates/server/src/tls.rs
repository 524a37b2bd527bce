//! TLS for the port.

use std::sync::Arc;

use anyhow::Context;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::Tls;

/// Reads certificate and key.
///
/// # Errors
/// When a file cannot be read, holds something else, or the two do not belong together; the message names the file.
pub(crate) fn acceptor(tls: &Tls) -> anyhow::Result<TlsAcceptor> {
    let (cert, key) = (tls.cert.display(), tls.key.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&tls.cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("tls.cert: reading the certificates in {cert}"))?;
    anyhow::ensure!(!chain.is_empty(), "tls.cert: there is no certificate in {cert}");
    let secret =
        PrivateKeyDer::from_pem_file(&tls.key).with_context(|| format!("tls.key: reading the private key in {key}"))?;
    // Named, because several could be linked into the program, and then none would be chosen.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .with_context(|| format!("using {cert} with {key}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
