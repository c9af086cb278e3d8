//! The parsing of command lines, and the errors of wrong ones.

use block::OnError;

use super::*;

#[test]
fn sizes() {
    assert_eq!(size("0"), Ok(0));
    assert_eq!(size("512"), Ok(512));
    assert_eq!(size("64k"), Ok(65536));
    assert_eq!(size("3T"), Ok(3 << 40));
    assert_eq!(size("1.5G"), Ok(3 << 29));
    assert_eq!(size("0.25k"), Ok(256));
    for wrong in
        ["", "K", "1X", "-1", "+1", "1.5", "1.G", ".5G", "1.5.5G", "0.1234567891G", "99999999999T", "1é"]
    {
        assert!(size(wrong).unwrap_err().contains(&format!("'{wrong}'")));
    }
}

#[test]
fn drives() {
    let whole = "id=virtio0,file=/a,,b.img,format=qcow2,readonly=on,cache=none,aio=threads,serial=x,queues=4";
    let drive = super::drive(whole).unwrap();
    assert_eq!((drive.id.as_str(), drive.file.as_str(), drive.format), ("virtio0", "/a,b.img", Kind::Qcow2));
    assert!(drive.read_only && drive.direct && drive.threads);
    assert_eq!((drive.serial.as_str(), drive.queues), ("x", 4));
    assert!(!drive.copy_on_read && drive.unmap);
    assert!(!super::drive("id=a,file=b,format=raw,discard=ignore").unwrap().unmap);
    assert!(super::drive("id=a,file=b,format=qed,copy-on-read=on").unwrap().copy_on_read);
    assert_eq!((drive.on_write_error, drive.on_read_error), (OnError::Enospc, OnError::Report));
    for (wrong, tells) in [
        ("id=a,file=b,format=raw,werror=never", "report, stop, ignore or enospc"),
        ("id=a,file=b,format=raw,rerror=enospc", "report, stop or ignore"),
        ("id=a,file=b,format=qed,copy-on-read=on,readonly=on", "read-only"),
        ("id=a,file=b", "format"),
        ("file=b,format=raw", "id=ID"),
        ("id=a,format=raw", "file=PATH"),
        ("id=a,file=b,format=vmdk", "vmdk"),
        ("id=a,file=b,format=raw,cache=unsafe", "writeback or none"),
        ("id=a,file=b,format=raw,discard=on", "ignore or unmap"),
        ("id=a,file=b,format=raw,color=red", "color"),
        ("id=a,file=b,format=raw,queues=0", "1 to 16"),
        ("id", "KEY=VALUE"),
        ("id=a,file=b,format=raw,file=c", "'file' is given twice"),
        ("id=my disk,file=b,format=raw", "id=my disk: an id is a letter"),
        ("id=0,file=b,format=raw", "an id is a letter"),
        ("id=vnc,file=b,format=raw", "taken by the screen"),
        ("id=a\n,file=b,format=raw", "id=a\\n"),
    ] {
        let error = super::drive(wrong).unwrap_err();
        assert!(error.contains(tells), "{wrong}: {error}");
    }
}

#[test]
fn what_errors_do() {
    for (keys, write, read, stops) in [
        ("", OnError::Enospc, OnError::Report, true),
        (",werror=report", OnError::Report, OnError::Report, false),
        (",werror=stop,rerror=ignore", OnError::Stop, OnError::Ignore, true),
        (",werror=ignore,rerror=stop", OnError::Ignore, OnError::Stop, true),
        (",werror=enospc,rerror=report", OnError::Enospc, OnError::Report, true),
    ] {
        let drive = super::drive(&format!("id=a,file=b,format=raw{keys}")).unwrap();
        assert_eq!((drive.on_write_error, drive.on_read_error), (write, read), "{keys}");
        assert_eq!(drive.has_io_status(), stops, "{keys}");
    }
}

#[test]
fn consoles() {
    assert_eq!(console("unix:/tmp/a"), Ok("/tmp/a".into()));
    assert_eq!(console("unix:/tmp/a,server=on,wait=off"), Ok("/tmp/a".into()));
    assert!(console("unix:/tmp/a,wait=on").unwrap_err().contains("wait=off"));
    for wrong in ["", "unix:", "stdio", "/tmp/a"] {
        assert!(console(wrong).unwrap_err().contains("unix:PATH"), "{wrong}");
    }
}

#[test]
fn the_whole_line_parses() {
    let line = "millrace run --machine none --drive id=a,file=b,format=raw --qmp unix:/tmp/s --serial null \
                --serial unix:/tmp/t --memory 1G --cpus 2 --on-reset exit";
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    let Command::Run(run) = cli.command else { panic!("not run") };
    assert_eq!((run.memory, run.cpus, run.serial.len(), run.qmp.len()), (1 << 30, 2, 2, 1));
}

#[test]
fn removable_drives_and_credentials_have_ids_too() {
    assert_eq!(cdrom("id=cd0").unwrap().id, "cd0");
    assert_eq!(tls_creds("id=tls0,dir=/a").unwrap().id, "tls0");
    for wrong in ["file=a", "id=", "id=1", "id=a b"] {
        assert!(cdrom(wrong).unwrap_err().contains("id"), "{wrong}");
        assert!(tls_creds(wrong).unwrap_err().contains("id") || wrong == "file=a", "{wrong}");
    }
    assert!(cdrom("id=a,id=b").unwrap_err().contains("twice"));
}
