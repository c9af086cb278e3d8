//! TLS (VeNCrypt), with TigerVNC's viewer.

use std::fs;
use std::path::Path;

use harness::{Failure, check};
use link::Credentials;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::rig::{Rig, Viewer};

/// Writes an authority's certificate, and a server's certificate and key, to QEMU's files.
fn credentials(folder: &Path) -> Result<Credentials, Failure> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "ours");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(vec!["localhost".into()])?;
    parameters.distinguished_name.push(DnType::CommonName, "localhost");
    let certificate = parameters.signed_by(&key, &authority)?;
    fs::write(folder.join("ca-cert.pem"), authority.pem())?;
    fs::write(folder.join("server-cert.pem"), certificate.pem())?;
    fs::write(folder.join("server-key.pem"), key.serialize_pem())?;
    Ok(Credentials::load(folder, false)?)
}

#[test]
fn with_credentials_only_viewers_with_tls_and_the_password_get_in() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let rig = Rig::new(Some(credentials(folder.path())?))?;
    rig.password.set("foobar1")?;
    let authority = format!("-X509CA={}", folder.path().join("ca-cert.pem").display());
    if Viewer::Tigervnc.is_here() {
        let arguments = ["-SecurityTypes=X509Vnc", &authority];
        let shown = rig.shown_by_tigervnc("foobar1", &arguments)?;
        check(shown == rig.screen.state().pixels, "the screen over TLS, pixel for pixel")?;
        check(rig.shown_by_tigervnc("foobar2", &arguments).is_err(), "a wrong password over TLS is refused")?;
        let clear = rig.shown_by_tigervnc("foobar1", &["-SecurityTypes=VncAuth,None"]);
        check(clear.is_err(), "a viewer without TLS is refused")?;
    }
    // RFB 3.3 has no TLS, and vncdotool does not know it.
    for viewer in [Viewer::Vncsnapshot, Viewer::Vncdotool].into_iter().filter(|viewer| viewer.is_here()) {
        let shown = rig.shown_by(viewer, "foobar1");
        println!("{viewer:?}: {:?}", shown.as_ref().err().map(ToString::to_string));
        check(shown.is_err(), format!("{viewer:?} is refused"))?;
    }
    Ok(())
}
