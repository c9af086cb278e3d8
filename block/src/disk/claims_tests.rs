use std::collections::BTreeSet;

use super::*;
use crate::sim::SimDir;
use crate::{Kind, chain, image};

fn images(names: &[&str]) -> Needs {
    Needs::Images(names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>())
}

#[test]
fn what_excludes_what() {
    executor::Executor::simulated(0).block_on(async {
        let files = SimDir::new();
        let options = image::Create { size: Some(4096), ..image::Create::default() };
        image::create(&*files, "disk", Kind::Raw, &options).await.unwrap();
        let leaf = chain::open(&*files, "disk", Kind::Raw, true).await.unwrap();
        let disk = Disk::new("virtio0", leaf, false, files, |_| {});
        let stream = Claimant::Job(JobKind::Stream);

        let upper = disk.claim(stream, images(&["a", "b"]), "a").unwrap();
        // Side by side, since no image is needed twice.
        let lower = disk.claim(stream, images(&["c", "d"]), "c").unwrap();
        let both = disk.claim(stream, images(&["b", "c"]), "b").err().unwrap();
        assert_eq!(both.to_string(), "Node 'b' is busy: block device is in use by block job: stream");
        let whole = disk.claim_whole("a switch").err().unwrap();
        assert_eq!(whole.to_string(), "Node 'virtio0' is busy: block device is in use by block job: stream");
        // Who only reads is in nobody's way, but for those who take the leaf.
        let reader = disk.claim(Claimant::Job(JobKind::Verify), Needs::Leaf, "virtio0").unwrap();
        drop((upper, lower));
        let whole = disk.claim_whole("a switch").err().unwrap();
        assert_eq!(
            whole.to_string(),
            "Node 'virtio0' is busy: block device is in use by block job: x-verify"
        );
        drop(reader);

        // A follower minds only changes of the leaf, until it is to move the disk.
        let follower =
            |target| disk.claim(Claimant::Job(JobKind::Mirror), Needs::Follower(target), "virtio0").unwrap();
        let (one, two) = (follower("leaf".to_owned()), follower("leaf".to_owned()));
        let inner = disk.claim(stream, images(&["a", "b"]), "a").unwrap();
        let reader = disk.claim(Claimant::Job(JobKind::Verify), Needs::Leaf, "virtio0").unwrap();
        let busy = "Node 'virtio0' is busy: block device is in use by block job: mirror";
        let outer = disk.claim(stream, images(&["leaf", "c"]), "virtio0").err().unwrap();
        assert_eq!(outer.to_string(), busy);
        assert_eq!(disk.strengthen(one.id()).err().unwrap().to_string(), busy);
        drop(two);
        drop(reader);
        assert!(disk.strengthen(one.id()).is_err());
        drop(inner);
        disk.strengthen(one.id()).unwrap();
        assert!(disk.claim(stream, images(&["a"]), "a").is_err());
        drop(one);

        let whole = disk.claim_whole("a switch").unwrap();
        let job = disk.claim(stream, images(&["a"]), "a").err().unwrap();
        assert_eq!(job.to_string(), "Device 'virtio0' is in use: a switch is active");
        drop(whole);
        assert!(disk.claims.is_empty());
    });
}
