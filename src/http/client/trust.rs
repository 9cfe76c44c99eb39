//! TLS settings of a client, and their conversion to rustls.

use crate::http::tls::{TlsError, certificates, private_key, read_file};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Prometheus's `tls_config`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trust {
    /// Certificate authorities to trust instead of those of the system.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate and key.
    #[serde(rename = "identity")]
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The name in the server's certificate, if it differs from the host name.
    pub server_name: Option<String>,
    pub insecure_skip_verify: bool,
}

impl Trust {
    /// Reads the certificates. Touches the file system, so call it outside of async workers.
    ///
    /// # Errors
    /// Names the invalid file.
    pub(super) fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Versions)?;
        let builder = if self.insecure_skip_verify {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyServer { provider }))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let Some((cert_file, key_file)) = &self.certificate else {
            return Ok(builder.with_no_client_auth());
        };
        builder
            .with_client_auth_cert(certificates(cert_file, &read_file)?, private_key(key_file, &read_file)?)
            .map_err(|source| TlsError::Pair {
                cert_file: cert_file.clone(),
                key_file: key_file.clone(),
                source,
            })
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        match &self.ca_file {
            Some(path) => roots.add_parsable_certificates(certificates(path, &read_file)?),
            // Without authorities on the system, the handshake fails with a reason.
            None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        };
        Ok(roots)
    }
}

/// Accepts any certificate whose key the server has: `insecure_skip_verify`.
#[derive(Debug)]
struct AnyServer {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
