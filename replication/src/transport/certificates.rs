//! The cluster's certificate authority and the certificates that it gives to nodes.
//!
//! A node certificate carries two names: DNS `atoll`, the same for all, which the TLS handshake
//! asks for; and the URI `atoll://<cluster>/<name>`, which says to which cluster it belongs. The
//! authority's own certificate carries `atoll://<cluster>/`.
//!
//! Invariants:
//!
//! 1. A node's id is a function of its key alone: a renewed certificate for the same key is the
//!    same node.
//! 2. A key file is readable by its owner only from the moment it exists, and a file is replaced
//!    whole or not at all.
//!
//! Left out: revocation (remove the node from the cluster, or change the authority), intermediate
//! authorities made here (a chain in `node.pem` is accepted), encrypted keys.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::NodeId;

/// The server name in every handshake; identity is the certificate's, not the name's.
pub const SERVER_NAME: &str = "atoll";

/// The scheme of the URI that names cluster and node.
const SCHEME: &str = "atoll://";

/// Clocks that run behind the authority's by less than this accept a fresh certificate.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// The authority outlives every node certificate that it issues in its first ten years.
const AUTHORITY_VALID: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// Long, because an expired certificate stops a node that may be cut off from whoever renews it.
const NODE_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

const MAX_NAME: usize = 63;

/// Why a certificate could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Choose another name.
    #[error("`{0}` is no name: 1 to 63 lowercase letters, digits, `-`, `_` or `.`")]
    Name(String),
    /// Check the PEM text: which part, and what is wrong.
    #[error("{part}: {why}")]
    Invalid {
        /// Which certificate or key.
        part: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Check path and permissions.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

fn invalid(part: &'static str, why: impl ToString) -> CertificateError {
    CertificateError::Invalid { part, why: why.to_string() }
}

/// The cluster's certificate authority. Whoever has its key can add nodes: keep it off the nodes.
pub struct Authority {
    cluster: String,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority, with a new key, for the cluster of this name.
    pub fn create(cluster: &str) -> Result<Self, CertificateError> {
        let mut params = parameters(AUTHORITY_VALID, &format!("atoll authority of {cluster}"));
        params.subject_alt_names = vec![uri(cluster, "")?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(|e| invalid("authority key", e))?;
        let certificate = params.self_signed(&key).map_err(|e| invalid("authority", e))?;
        Ok(Self {
            cluster: cluster.to_owned(),
            certificate_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority of an existing certificate and its key, both PEM.
    pub fn load(cert_pem: &str, key_pem: &str) -> Result<Self, CertificateError> {
        let key = KeyPair::from_pem(key_pem).map_err(|e| invalid("authority key", e))?;
        let der = first_certificate("authority", cert_pem)?;
        let (cluster, public_key) = names("authority", &der)?;
        if public_key != public_key_of(&key) {
            return Err(invalid("authority", "certificate and key do not belong together"));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| invalid("authority", e))?;
        Ok(Self { cluster, certificate_pem: cert_pem.to_owned(), issuer })
    }

    /// Reads `ca.pem` and `ca.key`.
    pub fn open(directory: &Path) -> Result<Self, CertificateError> {
        Self::load(&read(&directory.join("ca.pem"))?, &read(&directory.join("ca.key"))?)
    }

    /// Writes `ca.pem` and `ca.key` (mode 0600).
    pub fn save(&self, directory: &Path) -> Result<(), CertificateError> {
        write(&directory.join("ca.key"), &self.issuer.key().serialize_pem(), 0o600)?;
        write(&directory.join("ca.pem"), &self.certificate_pem, 0o644)
    }

    /// The name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The authority's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A new key with a certificate for a node of this cluster. `name` is for people; the node's
    /// identity is its key.
    pub fn issue(&self, name: &str) -> Result<Identity, CertificateError> {
        self.issue_in(&self.cluster, name)
    }

    /// As `issue`, for any cluster: what a shared authority could do.
    pub(crate) fn issue_in(&self, cluster: &str, name: &str) -> Result<Identity, CertificateError> {
        check_name(name)?;
        let mut params = parameters(NODE_VALID, name);
        let server = Ia5String::try_from(SERVER_NAME).map_err(|e| invalid("node", e))?;
        params.subject_alt_names = vec![SanType::DnsName(server), uri(cluster, name)?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(|e| invalid("node key", e))?;
        let certificate: Certificate =
            params.signed_by(&key, &self.issuer).map_err(|e| invalid("node", e))?;
        Identity::load(&certificate.pem(), &key.serialize_pem(), &self.certificate_pem)
    }
}

/// What a node proves itself with, and what it trusts.
#[derive(Clone)]
pub struct Identity {
    chain_pem: String,
    key_pem: String,
    authority_pem: String,
    cluster: String,
    node_id: NodeId,
}

impl Identity {
    /// From the node's certificate chain (its own first), its key and the authority, all PEM.
    pub fn load(
        chain_pem: &str,
        key_pem: &str,
        authority_pem: &str,
    ) -> Result<Self, CertificateError> {
        let der = first_certificate("node certificate", chain_pem)?;
        let (cluster, public_key) = names("node certificate", &der)?;
        let key = KeyPair::from_pem(key_pem).map_err(|e| invalid("node key", e))?;
        if public_key != public_key_of(&key) {
            return Err(invalid("node certificate", "it and the key do not belong together"));
        }
        first_certificate("authority", authority_pem)?;
        Ok(Self {
            chain_pem: chain_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            authority_pem: authority_pem.to_owned(),
            cluster,
            node_id: NodeId::of_public_key(&public_key),
        })
    }

    /// Reads `node.pem`, `node.key` and `ca.pem`.
    pub fn open(directory: &Path) -> Result<Self, CertificateError> {
        let text = |name: &str| read(&directory.join(name));
        Self::load(&text("node.pem")?, &text("node.key")?, &text("ca.pem")?)
    }

    /// Writes `node.pem`, `node.key` (mode 0600) and `ca.pem`.
    pub fn save(&self, directory: &Path) -> Result<(), CertificateError> {
        write(&directory.join("ca.pem"), &self.authority_pem, 0o644)?;
        write(&directory.join("node.key"), &self.key_pem, 0o600)?;
        write(&directory.join("node.pem"), &self.chain_pem, 0o644)
    }

    /// The node's name to others: a function of its key.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The cluster that the certificate belongs to.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        certificates("node certificate", &self.chain_pem)
    }

    pub(crate) fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
        certificates("authority", &self.authority_pem)
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, CertificateError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|e| invalid("node key", e))
    }
}

/// Says who, never the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} of {})", self.node_id, self.cluster)
    }
}

/// The cluster and the node id that a certificate names. Does not verify it.
pub(crate) fn subject(
    certificate: &CertificateDer<'_>,
) -> Result<(String, NodeId), CertificateError> {
    let (cluster, public_key) = names("peer certificate", certificate)?;
    Ok((cluster, NodeId::of_public_key(&public_key)))
}

/// Cluster name, and public key as SubjectPublicKeyInfo (DER).
fn names(
    part: &'static str,
    certificate: &CertificateDer<'_>,
) -> Result<(String, Vec<u8>), CertificateError> {
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|e| invalid(part, e))?;
    let cluster = parsed
        .valid_uri_names()
        .filter_map(|uri| uri.strip_prefix(SCHEME)?.split_once('/'))
        .map(|(cluster, _)| cluster.to_owned())
        .next()
        .ok_or_else(|| invalid(part, "no URI `atoll://<cluster>/<name>` in it"))?;
    Ok((cluster, parsed.subject_public_key_info().to_vec()))
}

fn public_key_of(key: &KeyPair) -> Vec<u8> {
    rcgen::PublicKeyData::subject_public_key_info(key)
}

fn uri(cluster: &str, name: &str) -> Result<SanType, CertificateError> {
    check_name(cluster)?;
    let text = format!("{SCHEME}{cluster}/{name}");
    Ok(SanType::URI(Ia5String::try_from(text).map_err(|e| invalid("certificate", e))?))
}

fn check_name(name: &str) -> Result<(), CertificateError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) {
        return Err(CertificateError::Name(name.to_owned()));
    }
    Ok(())
}

fn parameters(valid: Duration, common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let start = rcgen::date_time_ymd(1970, 1, 1) + now.saturating_sub(BACKDATED);
    params.not_before = start;
    params.not_after = start + BACKDATED + valid;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn certificates(
    part: &'static str,
    pem: &str,
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| invalid(part, e))
}

fn first_certificate(
    part: &'static str,
    pem: &str,
) -> Result<CertificateDer<'static>, CertificateError> {
    let first = certificates(part, pem)?.into_iter().next();
    first.ok_or_else(|| invalid(part, "no PEM certificate in it"))
}

fn file_error(path: &Path, source: io::Error) -> CertificateError {
    CertificateError::File { path: path.display().to_string(), source }
}

fn read(path: &Path) -> Result<String, CertificateError> {
    fs::read_to_string(path).map_err(|e| file_error(path, e))
}

/// Writes beside the target, syncs, and renames over it.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let temporary = path.with_extension("new");
    let put = || {
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    put().map_err(|e| file_error(path, e))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_identity_survives_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::create("reef").unwrap();
        let identity = authority.issue("a1").unwrap();
        authority.save(directory.path()).unwrap();
        identity.save(directory.path()).unwrap();
        identity.save(directory.path()).unwrap();

        let read = Identity::open(directory.path()).unwrap();
        assert_eq!(read.node_id(), identity.node_id());
        assert_eq!(read.cluster(), "reef");
        for key in ["ca.key", "node.key"] {
            let metadata = fs::metadata(directory.path().join(key)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{key}");
        }
        let again = Authority::open(directory.path()).unwrap();
        assert_eq!(again.cluster(), "reef");
        assert_ne!(again.issue("a2").unwrap().node_id(), identity.node_id());
    }

    #[test]
    fn keys_and_certificates_of_different_nodes_do_not_mix() {
        let authority = Authority::create("reef").unwrap();
        let (a, b) = (authority.issue("a").unwrap(), authority.issue("b").unwrap());
        assert!(Identity::load(&a.chain_pem, &b.key_pem, &a.authority_pem).is_err());
        assert!(Authority::load(authority.certificate_pem(), &b.key_pem).is_err());
        assert!(Identity::load("", &a.key_pem, &a.authority_pem).is_err());
        assert!(Identity::load(&a.chain_pem, &a.key_pem, "garbage").is_err());
    }

    #[test]
    fn names_are_plain() {
        let authority = Authority::create("reef").unwrap();
        for name in ["", "a/b", "A", "ü", &"x".repeat(64)] {
            assert!(matches!(authority.issue(name), Err(CertificateError::Name(_))), "{name}");
            assert!(Authority::create(name).is_err(), "{name}");
        }
    }
}
