use super::*;
use crate::format::qcow2::create::{Options, plan};
use crate::sim::SimDir;
use crate::storage::Storage;

/// Makes an image over `old`, and puts `name` in its place, with a power cut at the `cut`th change.
/// Returns the backing file that the image then records.
async fn relink(old: &Backing, name: &Backing, cluster: u64, cut: Option<u64>) -> Backing {
    let files = SimDir::new();
    let file = files.add("image", Vec::new());
    let mut options = Options::new(1 << 20);
    options.cluster_size = cluster;
    options.extended_l2 = false;
    options.backing = old.format.clone().map(|format| (old.name.clone(), format));
    plan(&options).unwrap().write(&*file).await.unwrap();
    let image = Qcow2::open(file.clone(), true).await.unwrap();
    if let Some(cut) = cut {
        files.cut_after(cut);
    }
    let done = image.set_backing(name.clone()).await;
    let file = match cut {
        Some(_) => files.after_power_cut().get("image").unwrap(),
        None => file,
    };
    if done.is_ok() {
        assert_eq!(image.backing().as_ref(), Some(name));
    }
    let header = Qcow2::read_header(&*file as &dyn Storage).await.unwrap();
    let found = header.backing.clone().unwrap();
    if done.is_ok() {
        assert_eq!(&found, name, "what was answered is durable");
    }
    found
}

fn named(len: usize, letter: char, format: &str) -> Backing {
    Backing { name: letter.to_string().repeat(len), format: Some(format.to_owned()) }
}

#[test]
fn names_of_any_length_are_found_again_and_a_cut_leaves_one_of_both() {
    for (seed, (old, new)) in [(5, 7), (7, 300), (300, 900), (1023, 1023), (900, 5), (420, 421)]
        .into_iter()
        .cycle()
        .take(12)
        .enumerate()
    {
        executor::Executor::simulated(seed as u64).block_on(async move {
            let (old, new) = (named(old, 'o', "raw"), named(new, 'n', "qcow2"));
            assert_eq!(relink(&old, &new, 64 << 10, None).await, new);
            for cut in 1..8 {
                let found = relink(&old, &new, 64 << 10, Some(cut)).await;
                assert!(found == old || found == new, "{found:?}");
            }
        });
    }
}

#[test]
fn extensions_that_are_not_known_stay() {
    executor::Executor::simulated(1).block_on(async {
        let options = Options { backing: Some(("base".into(), "raw".into())), ..Options::new(1 << 20) };
        let files = SimDir::new();
        let file = files.add("image", Vec::new());
        plan(&options).unwrap().write(&*file).await.unwrap();
        // As a program writes it that records no format: other extensions come first.
        let mut area = file.content();
        let start = 112;
        let names = extensions(&area, start, 1 << 16, 1 << 16).unwrap()[1].1.to_vec();
        let mut list = Vec::new();
        put(&mut list, 0x1234_5678, b"mine");
        put(&mut list, 0x6803_f857, &names);
        put(&mut list, 0, &[]);
        area[start..start + list.len()].copy_from_slice(&list);
        area[start + list.len()..start + list.len() + 4].copy_from_slice(b"base");
        area[8..16].copy_from_slice(&((start + list.len()) as u64).to_be_bytes());
        files.add("image", area);
        let file = files.get("image").unwrap();
        let image = Qcow2::open(file.clone(), true).await.unwrap();
        assert_eq!(image.backing().unwrap().format, None);
        image.set_backing(named(30, 'n', "raw")).await.unwrap();
        let area = file.content();
        let found = extensions(&area, start, 1 << 16, 1 << 16).unwrap();
        assert_eq!(found[0], (EXTENSION_BACKING_FORMAT, &b"raw"[..]));
        assert_eq!(found[1], (0x1234_5678, &b"mine"[..]));
        assert_eq!(found[2].1, names);
        assert_eq!(Qcow2::read_header(&*file as &dyn Storage).await.unwrap().backing.unwrap().name.len(), 30);
    });
}

#[test]
fn a_header_without_room_is_refused() {
    executor::Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        let file = files.add("image", Vec::new());
        let mut options = Options::new(1 << 20);
        options.cluster_size = 512;
        options.extended_l2 = false;
        options.backing = Some(("base".into(), "raw".into()));
        plan(&options).unwrap().write(&*file).await.unwrap();
        let image = Qcow2::open(file.clone(), true).await.unwrap();
        let error = image.set_backing(named(500, 'n', "raw")).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        image.set_backing(named(200, 'n', "raw")).await.unwrap();
    });
}
