use super::*;
use crate::sim::SimDir;
use crate::{Kind, chain, image};

async fn file(files: &Rc<SimDir>, name: &str) -> Rc<Node> {
    let create = image::Create { size: Some(4096), ..image::Create::default() };
    image::create(&**files, name, Kind::Qcow2, &create).await.unwrap();
    chain::open(&**files, name, Kind::Qcow2, true).await.unwrap()
}

#[test]
fn a_record_is_json_whose_first_sector_says_who_the_owner_is() {
    executor::Executor::simulated(0).block_on(async {
        let files = SimDir::new();
        // Longer than a sector, and with characters that JSON does not take as they are.
        let (source, target) = ("\"\\\n".repeat(400), "ein Bild.qcow2");
        let disk = Disk::new("virtio0", file(&files, &source).await, false, files.clone(), |_| {});
        let target = file(&files, target).await;
        target.set_node_name("copy");
        let witness = Witness::create(&disk, "witness", "move", &target).await.unwrap();
        let content = || files.get("witness").unwrap().content();
        let before = content();
        let json: serde_json::Value = serde_json::from_slice(&before).unwrap();
        assert_eq!((&json["millrace-witness"], &json["owner"]), (&1.into(), &"source".into()));
        assert_eq!((&json["device"], &json["job"]), (&"virtio0".into(), &"move".into()));
        assert_eq!(json["source"]["file"], source);
        assert_eq!(
            json["target"],
            serde_json::json!({"file": "ein Bild.qcow2", "format": "qcow2", "node-name": "copy"})
        );
        assert!(witness.record(Owner::Target).await.is_ok());
        let after = content();
        assert_eq!(before[SECTOR..], after[SECTOR..]);
        let json: serde_json::Value = serde_json::from_slice(&after).unwrap();
        assert_eq!(json["owner"], "target");
        // Somebody has removed it.
        files.remove("witness").await.unwrap();
        assert!(witness.record(Owner::Target).await.is_ok());
        assert_eq!(content(), after);
        // Something else has its name, and stays as it is.
        files.remove("witness").await.unwrap();
        files.add("witness", b"something else".to_vec());
        assert!(witness.record(Owner::Target).await.err().unwrap().unwritten);
        assert_eq!(content(), b"something else");
    });
}

#[test]
fn what_exists_is_no_new_witness() {
    executor::Executor::simulated(0).block_on(async {
        let files = SimDir::new();
        let disk = Disk::new("virtio0", file(&files, "source").await, false, files.clone(), |_| {});
        let target = file(&files, "target").await;
        files.add("witness", b"an image, perhaps".to_vec());
        let refused = Witness::create(&disk, "witness", "move", &target).await.err().unwrap();
        assert_eq!(refused.to_string(), "witness: File exists");
        assert_eq!(files.get("witness").unwrap().content(), b"an image, perhaps");
    });
}
