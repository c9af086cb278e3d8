//! TLS below a protocol, by rustls: a server's credentials, and the socket for the
//! records of one connection.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::connection::Connection;

/// The files in a folder of credentials, by QEMU's names.
const CA: &str = "ca-cert.pem";
const CERTIFICATE: &str = "server-cert.pem";
const KEY: &str = "server-key.pem";

/// The reason why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read, or holds something else.
    #[error("{0}: {1}")]
    File(PathBuf, pem::Error),
    /// They do not fit together.
    #[error("{0}: {1}")]
    Unfit(PathBuf, String),
}

/// A server's TLS credentials. Clones share them.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) config: Arc<ServerConfig>,
    verifies_peer: bool,
}

impl Credentials {
    /// Reads `server-cert.pem` and `server-key.pem` from a folder. With `verify_peer` it also reads
    /// `ca-cert.pem`, and only clients with a certificate of that authority are accepted. Blocks.
    ///
    /// # Errors
    /// [`CredentialsError`], which names the file.
    pub fn load(folder: &Path, verify_peer: bool) -> Result<Self, CredentialsError> {
        let unfit =
            |name: &str, e: &dyn std::fmt::Display| CredentialsError::Unfit(folder.join(name), e.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| unfit(CERTIFICATE, &e))?;
        let builder = if verify_peer {
            let mut roots = RootCertStore::empty();
            for authority in certificates(&folder.join(CA))? {
                roots.add(authority).map_err(|e| unfit(CA, &e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|e| unfit(CA, &e))?)
        } else {
            builder.with_no_client_auth()
        };
        let key = folder.join(KEY);
        let key = PrivateKeyDer::from_pem_file(&key).map_err(|e| CredentialsError::File(key, e))?;
        let config = builder.with_single_cert(certificates(&folder.join(CERTIFICATE))?, key);
        let mut config = config.map_err(|e| unfit(CERTIFICATE, &e))?;
        // Sessions are long, so nobody resumes one. TigerVNC's viewer 1.12 waits for ever if a ticket comes
        // together with the first message after it.
        config.send_tls13_tickets = 0;
        Ok(Credentials { config: Arc::new(config), verifies_peer: verify_peer })
    }

    /// Returns true if only clients with a certificate of the authority are accepted. Otherwise TLS encrypts,
    /// and lets everybody in.
    pub fn verifies_peer(&self) -> bool {
        self.verifies_peer
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(all) if all.is_empty() => {
            Err(CredentialsError::Unfit(path.to_owned(), "no certificate in it".into()))
        }
        other => other.map_err(|e| CredentialsError::File(path.to_owned(), e)),
    }
}

/// A socket as rustls wants it: non-blocking, and a peer that is gone is an error, not a signal.
pub(crate) struct Socket<'a>(pub(crate) &'a Connection);

impl Read for Socket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // SAFETY: `into` is valid for writes of its length.
        let n = unsafe { libc::recv(self.0.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), 0) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: `bytes` is valid for reads of its length.
        let n =
            unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
