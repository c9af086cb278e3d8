//! TLS over TCP, with QEMU's and libnbd's clients.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use harness::images::drive;
use harness::{Failure, check};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::json;

use crate::rig::{MIB, Model, Rig, fails, run};

/// A self-signed authority.
fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>, Failure> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?)
}

/// Writes a certificate and its key to the files in which QEMU and libnbd look for them.
fn sign(
    authority: &CertifiedIssuer<'static, KeyPair>,
    folder: &Path,
    files: [&str; 2],
) -> Result<(), Failure> {
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()])?;
    parameters.distinguished_name.push(DnType::CommonName, "localhost");
    let certificate = parameters.signed_by(&key, authority)?;
    fs::create_dir_all(folder)?;
    fs::write(folder.join("ca-cert.pem"), authority.pem())?;
    fs::write(folder.join(files[0]), certificate.pem())?;
    fs::write(folder.join(files[1]), key.serialize_pem())?;
    Ok(())
}

const OF_CLIENT: [&str; 2] = ["client-cert.pem", "client-key.pem"];

#[test]
fn whoever_has_a_certificate_gets_the_disk() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let ours = authority("ours")?;
    sign(&ours, &rig.path("server"), ["server-cert.pem", "server-key.pem"])?;
    sign(&ours, &rig.path("client"), OF_CLIENT)?;
    sign(&authority("others")?, &rig.path("stranger"), OF_CLIENT)?;
    // Trusts our authority, but is not trusted by it.
    fs::copy(rig.path("client/ca-cert.pem"), rig.path("stranger/ca-cert.pem"))?;
    run("qemu-img", &["create", "-f", "raw", &rig.text("a.img"), "32M"])?;
    let folder = rig.text("server");
    let credentials = [
        "--tls-creds".to_owned(),
        format!("id=strict,dir={folder}"),
        "--tls-creds".to_owned(),
        format!("id=open,dir={folder},verify-peer=off"),
    ];
    let mut vm = rig.start_with(&[drive("d0", &rig.path("a.img"), "raw")], &credentials)?;
    let mut model = Model::new(32 * MIB);
    for (round, id) in ["strict", "open"].into_iter().enumerate() {
        // A port that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let addr = json!({"type": "inet", "data": {"host": "127.0.0.1", "port": port}});
        vm.qmp.execute_json("nbd-server-start", json!({"addr": addr, "tls-creds": id}))?;
        vm.qmp.execute_json("nbd-server-add", json!({"device": "d0", "writable": true}))?;

        let qemu = |who: &str| {
            let secrets =
                format!("tls-creds-x509,id=t,endpoint=client,verify-peer=yes,dir={}", rig.text(who));
            let image = format!(
                "driver=raw,file.driver=nbd,file.host=localhost,file.port={port},file.export=d0,file.tls-creds=t"
            );
            ["--object".to_owned(), secrets, "--image-opts".to_owned(), image]
        };
        let mut arguments = qemu("client").to_vec();
        let byte = 1 + round as u8;
        for command in
            [model.write(12_345, 5 * MIB, byte), model.write(20 * MIB, 777, 9), model.read(12_345, 5 * MIB)]
        {
            arguments.extend(["-c".to_owned(), command]);
        }
        arguments.extend(["-c".to_owned(), "flush".to_owned()]);
        let said = run("qemu-io", &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        check(!said.contains("failed"), said)?;
        rig.holds("raw", &rig.text("a.img"), &model)?;

        let uri = |who: &str| format!("nbds://localhost:{port}/d0?tls-certificates={}", rig.text(who));
        let copy = rig.text("copy.img");
        run("nbdcopy", &["--connections=4", &uri("client"), &copy])?;
        rig.holds("raw", &copy, &model)?;
        let info = run("nbdinfo", &[&uri("client")])?;
        check(info.contains("with TLS") && info.contains("base:allocation"), info)?;
        let stranger = run("nbdinfo", &["--size", &uri("stranger")]);
        check(stranger.is_ok() == (id == "open"), format!("{id}: {stranger:?}"))?;

        // Connections without TLS must fail.
        let clear = format!("nbd://localhost:{port}/d0");
        fails("nbdinfo", &["--size", &clear])?;
        let said = fails("qemu-img", &["info", &clear])?;
        check(said.contains("TLS"), said)?;
        vm.qmp.execute_json("nbd-server-stop", json!(null))?;
    }
    let addr = json!({"type": "unix", "data": {"path": rig.path("nbd")}});
    let unknown = vm.qmp.execute_json("nbd-server-start", json!({"addr": addr, "tls-creds": "x"}));
    let text = unknown.err().and_then(|e| e.command_error().map(|e| e.desc.clone()));
    check(text.as_deref() == Some("No TLS credentials with id 'x'"), format!("{text:?}"))?;
    vm.quit()
}

#[test]
fn credentials_that_are_none_end_the_program_at_once() -> Result<(), Failure> {
    let rig = Rig::new()?;
    let program = crate::rig::millrace()?.display().to_string();
    fs::create_dir(rig.path("empty"))?;
    for (options, complaint) in [
        (format!("id=t,dir={}", rig.text("empty")), "ca-cert.pem"),
        (format!("id=t,dir={},verify-peer=off", rig.text("empty")), "server-key.pem"),
        ("id=t".into(), "dir=PATH is missing"),
    ] {
        let said = fails(&program, &["run", "--machine", "none", "--tls-creds", &options])?;
        check(said.contains(complaint), said)?;
    }
    Ok(())
}
