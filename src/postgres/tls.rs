//! TLS for PostgreSQL sessions: rustls with aws-lc-rs, and what each `sslmode` verifies.

use crate::word::{Endpoint, PortError, TlsMode};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use rustls_platform_verifier::Verifier;
use std::{path::Path, sync::Arc};
use tokio_postgres_rustls::MakeRustlsConnect;

/// `None`: the endpoint wants no TLS.
///
/// # Errors
/// `Refused` when a certificate or key cannot be read.
pub(super) fn connector(endpoint: &Endpoint) -> Result<Option<MakeRustlsConnect>, PortError> {
    if endpoint.tls == TlsMode::Disable {
        return Ok(None);
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(endpoint, &provider)?;
    let attempted = || PortError::refused(format!("set up TLS for `{endpoint}`"));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| attempted().because(e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&endpoint.client_cert, &endpoint.client_key) {
        (Some(cert), Some(key)) => {
            let key_der = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(key, e))?;
            builder.with_client_auth_cert(certificates(cert)?, key_der).map_err(|e| attempted().because(e))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn verifier(endpoint: &Endpoint, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, PortError> {
    if endpoint.tls == TlsMode::Require {
        return Ok(Arc::new(Lenient { provider: provider.clone(), chain: None }));
    }
    let attempted = || PortError::refused("read the certificates of the authorities to trust");
    let chain: Arc<dyn ServerCertVerifier> =
        match endpoint.root_cert_file() {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| unreadable(path, e))?;
                }
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                    .build()
                    .map_err(|e| attempted().because(e))?
            }
            None => Arc::new(Verifier::new(provider.clone()).map_err(|e| {
                attempted().because(e).hint("name the server's authority: `sslrootcert=/path/to/ca.pem` in the URL")
            })?),
        };
    Ok(match endpoint.tls {
        TlsMode::VerifyFull => chain,
        TlsMode::VerifyCa | TlsMode::Require | TlsMode::Disable => {
            Arc::new(Lenient { provider: provider.clone(), chain: Some(chain) })
        }
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PortError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|e| unreadable(path, e))?;
    if found.is_empty() {
        return Err(unreadable(path, "it holds no certificate"));
    }
    Ok(found)
}

fn unreadable(path: &Path, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> PortError {
    PortError::refused(format!("read `{}`", path.display())).because(why)
}

/// Proves that the server has its certificate's key, and of the certificate itself no more than `chain` says: the name
/// (verify-ca) or nothing at all (require) is let pass.
#[derive(Debug)]
struct Lenient {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<dyn ServerCertVerifier>>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        // rustls looks at the name after the chain, so that a wrong name means a right chain.
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
