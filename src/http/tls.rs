//! TLS of a listener: the conversion of settings and files to rustls, with Go's modes of client certificates.

use super::subject_names::subject_names;
use super::web_config::{ClientAuth, TlsSettings, TlsVersion};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{NoClientAuth, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{
    self, CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    version,
};

/// An error in certificates, keys or the choice of ciphers.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is no PEM file with {wanted}: {source}")]
    Pem {
        path: PathBuf,
        wanted: &'static str,
        source: pem::Error,
    },
    #[error("{path} has no certificate in it; write PEM, beginning with -----BEGIN CERTIFICATE-----")]
    NoCertificate { path: PathBuf },
    #[error("the certificate {cert_file} and the key {key_file} do not match: {source}")]
    Pair {
        cert_file: PathBuf,
        key_file: PathBuf,
        source: rustls::Error,
    },
    #[error("the certificate authority {path}: {source}")]
    Authority {
        path: PathBuf,
        source: VerifierBuilderError,
    },
    #[error("none of the listed {what} is supported; supported are {available}")]
    NothingInCommon { what: &'static str, available: String },
    #[error("these versions and ciphers do not match: {0}")]
    Versions(rustls::Error),
}

/// Reads a file: from the file system, or from contents that were read before.
pub type ReadFile<'r> = &'r dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Builds the server's configuration from the files that `read_file` reads.
///
/// # Errors
/// Names the invalid file.
pub fn server_config(settings: &TlsSettings, http2: bool, read_file: ReadFile<'_>) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(provider(settings)?);
    let certificates = certificates(&settings.cert_file, read_file)?;
    let key = private_key(&settings.key_file, read_file)?;
    let versions: Vec<&'static rustls::SupportedProtocolVersion> = [
        (TlsVersion::Tls12, &version::TLS12),
        (TlsVersion::Tls13, &version::TLS13),
    ]
    .into_iter()
    .filter(|(version, _)| (settings.min_version..=settings.max_version).contains(version))
    .map(|(_, version)| version)
    .collect();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(TlsError::Versions)?
        .with_client_cert_verifier(client_verifier(settings, provider, read_file)?)
        .with_single_cert(certificates, key)
        .map_err(|source| TlsError::Pair {
            cert_file: settings.cert_file.clone(),
            key_file: settings.key_file.clone(),
            source,
        })?;
    if http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    Ok(config)
}

/// ring's ciphers and curves, restricted to the settings. As in Go, the list of suites applies to TLS 1.2 only; all
/// suites of 1.3 are safe.
fn provider(settings: &TlsSettings) -> Result<CryptoProvider, TlsError> {
    let mut provider = ring::default_provider();
    let is_tls12 = |suite: &rustls::SupportedCipherSuite| suite.tls13().is_none();
    // rustls prints the names of the 1.2 suites as IANA and Go write them.
    let suite_name = |suite: &rustls::SupportedCipherSuite| format!("{:?}", suite.suite());
    if !settings.cipher_suites.is_empty() {
        let available: Vec<String> = provider
            .cipher_suites
            .iter()
            .filter(|s| is_tls12(s))
            .map(suite_name)
            .collect();
        provider
            .cipher_suites
            .retain(|s| !is_tls12(s) || settings.cipher_suites.contains(&suite_name(s)));
        if settings.max_version == TlsVersion::Tls12 && !provider.cipher_suites.iter().any(is_tls12) {
            return Err(TlsError::NothingInCommon {
                what: "cipher_suites",
                available: available.join(", "),
            });
        }
    }
    if !settings.curves.is_empty() {
        let go_name = |group: rustls::NamedGroup| match group {
            rustls::NamedGroup::X25519 => "X25519",
            rustls::NamedGroup::secp256r1 => "CurveP256",
            rustls::NamedGroup::secp384r1 => "CurveP384",
            _ => "",
        };
        let available: Vec<&str> = provider.kx_groups.iter().map(|group| go_name(group.name())).collect();
        provider
            .kx_groups
            .retain(|group| settings.curves.iter().any(|curve| curve == go_name(group.name())));
        if provider.kx_groups.is_empty() {
            return Err(TlsError::NothingInCommon {
                what: "curve_preferences",
                available: available.join(", "),
            });
        }
    }
    Ok(provider)
}

fn client_verifier(
    settings: &TlsSettings,
    provider: Arc<CryptoProvider>,
    read_file: ReadFile<'_>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let any = |mandatory| {
        Arc::new(AnyClient {
            mandatory,
            provider: Arc::clone(&provider),
        })
    };
    let verifier: Arc<dyn ClientCertVerifier> = match (settings.clients, &settings.client_ca_file) {
        (ClientAuth::None, _) => return Ok(Arc::new(NoClientAuth)),
        (ClientAuth::Request, _) => any(false),
        (ClientAuth::RequireAny, _) => any(true),
        (ClientAuth::VerifyIfGiven | ClientAuth::RequireAndVerify, path) => {
            // Without a file there is no root certificate, which the builder rejects.
            let path = path.as_deref().unwrap_or(Path::new(""));
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(path, read_file)?);
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            let builder = match settings.clients {
                ClientAuth::VerifyIfGiven => builder.allow_unauthenticated(),
                _ => builder,
            };
            builder.build().map_err(|source| TlsError::Authority {
                path: path.to_owned(),
                source,
            })?
        }
    };
    if settings.client_allowed_sans.is_empty() {
        return Ok(verifier);
    }
    Ok(Arc::new(NamedClient {
        inner: verifier,
        allowed: settings.client_allowed_sans.clone(),
    }))
}

/// Reads a file from the file system.
pub(super) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

fn read(path: &Path, read_file: ReadFile<'_>) -> Result<Vec<u8>, TlsError> {
    read_file(path).map_err(|source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

pub(super) fn private_key(path: &Path, read_file: ReadFile<'_>) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path, read_file)?).map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        wanted: "a private key",
        source,
    })
}

pub(super) fn certificates(path: &Path, read_file: ReadFile<'_>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(&read(path, read_file)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem {
            path: path.to_owned(),
            wanted: "certificates",
            source,
        })?;
    match certificates.is_empty() {
        true => Err(TlsError::NoCertificate { path: path.to_owned() }),
        false => Ok(certificates),
    }
}

/// Accepts any certificate whose key the client has: Go's `RequestClientCert` and `RequireAnyClientCert`.
#[derive(Debug)]
struct AnyClient {
    mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts the certificates that `inner` accepts and that have one of these names (`client_allowed_sans`).
#[derive(Debug)]
struct NamedClient {
    inner: Arc<dyn ClientCertVerifier>,
    allowed: Vec<String>,
}

/// The reason why an otherwise valid certificate was rejected. rustls passes it to the log.
#[derive(Debug)]
struct NotNamed {
    names: Vec<String>,
}

impl fmt::Display for NotNamed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "none of its names {:?} is in client_allowed_sans", self.names)
    }
}

impl std::error::Error for NotNamed {}

impl ClientCertVerifier for NamedClient {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let names =
            subject_names(end_entity).ok_or(rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if names.iter().any(|name| self.allowed.contains(name)) {
            return Ok(verified);
        }
        let reason = rustls::OtherError(Arc::new(NotNamed { names }));
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(reason)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
