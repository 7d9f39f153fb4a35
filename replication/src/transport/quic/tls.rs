//! Who may connect: mutual TLS 1.3 against the cluster's authority and nothing else.
//!
//! Invariants:
//!
//! 1. Both sides present a certificate that the authority signed and that names this cluster.
//! 2. No handshake is resumed and no data is sent before one is complete (no 0-RTT): each
//!    connection has verified its peer's certificate itself.
//! 3. A restarted node resets the connections of its former life: reset tokens are
//!    derived from its key.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, EndpointConfig, ServerConfig,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    SignatureScheme,
};

use super::super::NodeId;
use super::super::certificates::{self, Identity};
use super::Error;

/// The protocol and its version; nodes that share none do not connect.
const ALPN: &[u8] = b"atoll/1";

/// Signed by the right authority, but for another cluster.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is of cluster `{theirs}`, this node is of cluster `{ours}`")]
struct WrongCluster {
    ours: String,
    theirs: String,
}

fn tls(error: impl ToString) -> Error {
    Error::Tls(error.to_string())
}

/// How this node dials and how it accepts.
pub(super) fn configure(identity: &Identity) -> Result<(ClientConfig, ServerConfig), Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in identity.authorities()? {
        roots.add(authority).map_err(tls)?;
    }
    let roots = Arc::new(roots);
    Ok((client(identity, &provider, Arc::clone(&roots))?, server(identity, &provider, roots)?))
}

fn client(
    identity: &Identity,
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
) -> Result<ClientConfig, Error> {
    let webpki = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
    let verifier =
        OfCluster { cluster: identity.cluster().into(), inner: webpki.build().map_err(tls)? };
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.chain()?, identity.key()?)
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    let quic = QuicClientConfig::try_from(config).map_err(tls)?;
    Ok(ClientConfig::new(Arc::new(quic)))
}

fn server(
    identity: &Identity,
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
) -> Result<ServerConfig, Error> {
    let webpki = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    let verifier =
        OfCluster { cluster: identity.cluster().into(), inner: webpki.build().map_err(tls)? };
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(identity.chain()?, identity.key()?)
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    let quic = QuicServerConfig::try_from(config).map_err(tls)?;
    Ok(ServerConfig::with_crypto(Arc::new(quic)))
}

/// Endpoint settings that a restart with the same key does not change.
pub(super) fn endpoint(identity: &Identity) -> Result<EndpointConfig, Error> {
    let key = identity.key()?;
    let reset_key = ResetKey(blake3::derive_key("atoll quic reset tokens", key.secret_der()));
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config.cid_generator(|| Box::new(ConnectionIds));
    Ok(config)
}

/// The peer that the handshake verified.
pub(super) fn peer(connection: &Connection) -> Option<NodeId> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let (_, id) = certificates::subject(chain.first()?).ok()?;
    Some(id)
}

struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let signature = <[u8; blake3::OUT_LEN]>::try_from(signature).map_err(|_| CryptoError)?;
        // Equality of two `blake3::Hash` takes the same time whatever they are.
        let right = blake3::keyed_hash(&self.0, data) == blake3::Hash::from(signature);
        right.then_some(()).ok_or(CryptoError)
    }
}

/// Random connection ids, all taken for valid: quinn's own generator would not recognise those of
/// this node's former life, and leave their connections to the idle timeout instead of a reset.
struct ConnectionIds;

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; 8];
        getrandom::fill(&mut id).expect("the system's random source works: TLS needs it too");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Verifies as `inner` does, and then that the certificate names our cluster.
#[derive(Debug)]
struct OfCluster<V: ?Sized> {
    cluster: String,
    inner: Arc<V>,
}

impl<V: ?Sized> OfCluster<V> {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let refuse = |error: Arc<dyn std::error::Error + Send + Sync>| {
            rustls::Error::from(CertificateError::Other(OtherError(error)))
        };
        let (theirs, _) = certificates::subject(certificate).map_err(|e| refuse(Arc::new(e)))?;
        if theirs == self.cluster {
            return Ok(());
        }
        let error = WrongCluster { ours: self.cluster.clone(), theirs };
        tracing::warn!(%error, "refused a peer of another cluster");
        Err(refuse(Arc::new(error)))
    }
}

impl ServerCertVerifier for OfCluster<WebPkiServerVerifier> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        self.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl ClientCertVerifier for OfCluster<dyn ClientCertVerifier> {
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
        self.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
