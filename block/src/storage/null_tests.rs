use executor::Executor;

use super::*;
use crate::io::{Aio, Engine};
use crate::storage::{Opener, outside};
use crate::{Kind, chain, image};

fn opener() -> HostOpener {
    HostOpener { engine: Engine::new(Aio::Threads), direct: false }
}

#[test]
fn a_size_is_a_number_with_a_unit() {
    let good = [
        ("0", 0),
        ("512", 512),
        ("1", 512),
        ("3K", 3 << 10),
        ("1m", 1 << 20),
        ("64G", 64 << 30),
        ("2T", 2 << 40),
    ];
    for (text, bytes) in good {
        assert_eq!(size(&format!("null://{text}")).unwrap(), bytes, "{text}");
    }
    for text in ["", "G", "-1", "+1", "1.5G", "1P", "0x10", "1G/", "8388608T", "18446744073709551615", "1é"]
    {
        let error = size(&format!("null://{text}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
    }
    assert_eq!(outside("null://1G").unwrap(), None);
    assert!(outside("null://x").is_err());
}

#[test]
fn it_reads_zeros_and_drops_writes_up_to_its_end() {
    Executor::new().unwrap().block_on(async {
        let storage = opener().open("null://1M", true).await.unwrap();
        assert_eq!((storage.name(), storage.len(), storage.identity()), ("null://1M", 1 << 20, None));
        storage.write(4096, Buf::from_bytes(&[7; 512])).await.unwrap();
        let buf = Buf::from_bytes(&[1; 1024]);
        storage.read(3584, buf.clone()).await.unwrap();
        assert!(buf.to_vec().iter().all(|byte| *byte == 0));
        assert_eq!(storage.map(0, 4096).await.unwrap(), Extent { len: 4096, data: false });
        for done in [
            storage.punch(0, 4096).await,
            storage.zero(0, 4096).await,
            storage.unmap(0, 4096).await,
            storage.truncate(4096).await,
            storage.sync().await,
        ] {
            done.unwrap();
        }
        let beyond = storage.write((1 << 20) - 512, Buf::new(1024)).await.unwrap_err();
        assert_eq!(beyond.kind(), ErrorKind::NoSpace);
        assert_eq!(storage.truncate(2 << 20).await.unwrap_err().kind(), ErrorKind::NoSpace);
        assert_eq!(opener().create("null://1M").await.err().unwrap().kind(), ErrorKind::Unsupported);
    });
}

#[test]
fn no_image_records_it() {
    let refused = chain::resolve("image", "null://1M").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert_eq!(
        refused.to_string(),
        "image: backing file: 'null://1M': no image may record such a backing file"
    );
    assert!(chain::name_for("image", "null://1M").is_err());
    Executor::new().unwrap().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("image").to_str().unwrap().to_owned();
        let options = image::Create { backing: Some(("null://1M".into(), Kind::Raw)), ..Default::default() };
        let error = image::create(&opener(), &name, Kind::Qcow2, &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(!std::path::Path::new(&name).exists());
        // Another program has recorded it.
        let options = image::Create { size: Some(1 << 20), ..Default::default() };
        image::create(&opener(), &name, Kind::Qcow2, &options).await.unwrap();
        let node = chain::open(&opener(), &name, Kind::Qcow2, true).await.unwrap();
        let backing = crate::format::Backing { name: "null://1M".into(), format: Some("raw".into()) };
        node.format().set_backing(backing).await.unwrap();
        node.close().await.unwrap();
        drop(node);
        let error = chain::open(&opener(), &name, Kind::Qcow2, false).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let info = image::info(&opener(), &name, Kind::Qcow2).await.unwrap();
        assert_eq!((info.backing.as_deref(), info.full_backing), (Some("null://1M"), None));
    });
}
