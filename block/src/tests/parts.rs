//! Streams of parts of a chain: down to a base, and of an image in the middle.

use super::jobs::{open_telling, options};
use super::*;
use crate::disk::job::JobEvent;
use crate::job::stream::{Base, StreamOptions};

/// Creates a chain of a raw base and images over it with some data of their own. Returns their formats,
/// and the content of the leaf, which is the last one.
pub(super) async fn chain_of(files: &Rc<SimDir>, names: &[&str]) -> (Vec<Kind>, Vec<u8>) {
    let mut content = base_content(300);
    let content_len = content.len();
    files.add("base", content.clone());
    let mut below = ("base", Kind::Raw);
    let mut kinds = Vec::new();
    for name in names {
        let kind = create_over(files, name, below.0, below.1).await;
        let (disk, _) = open(files, name, kind).await;
        let guest = Guest::new(disk.clone(), content);
        guest.clone().work(8).await;
        content = {
            let (ticket, buf) = (disk.enter().await, crate::Buf::new(content_len));
            disk.read(&ticket, 0, buf.clone()).await.unwrap();
            buf.to_vec()
        };
        disk.close().await.unwrap();
        kinds.push(kind);
        below = (name, kind);
    }
    (kinds, content)
}

#[test]
fn a_part_of_a_chain_is_streamed_under_load_and_power_cuts() {
    seeds(60, |_| async {
        let files = folder();
        let (kinds, content) = chain_of(&files, &["low", "high", "leaf"]).await;
        for name in ["base", "low", "high", "leaf"] {
            files.get(name).unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
        }
        let (disk, told) = open_telling(&files, "leaf", kinds[2]).await;
        let names: Vec<String> = std::iter::successors(Some(disk.leaf()), |node| node.backing())
            .map(|node| node.node_name())
            .collect();
        // Down to `low` or `base`, given in any way.
        let depth = 2 + random(2) as usize;
        let stays = ["leaf", "high", "low", "base"][depth];
        let base = match random(3) {
            0 => Base::File(stays.into()),
            1 => Base::Node(names[depth].clone()),
            _ => Base::Bottom(names[depth - 1].clone()),
        };
        let cut = random(3) == 0;
        if cut {
            files.cut_after(1 + random(150));
        }
        let guest = Guest::new(disk.clone(), content);
        let workers = guest.workers(2, 40, cut);
        let extent = StreamOptions { base: Some(base), ..StreamOptions::default() };
        disk.start_stream(extent, options()).await.unwrap();
        for worker in workers {
            worker.await;
        }
        wait_for_stream(&disk).await;
        let completed =
            told.borrow().iter().any(|(job, what)| *what == JobEvent::Completed && job.error.is_none());
        assert!(completed || cut);
        if completed {
            assert_eq!(disk.leaf().backing().unwrap().name(), stays);
        }
        let files = if cut {
            files.after_power_cut()
        } else {
            guest.verify().await;
            disk.close().await.unwrap();
            files
        };
        if completed {
            // The images in between are not needed any more.
            files.add("high", Vec::new());
            if stays == "base" {
                files.add("low", Vec::new());
            }
        }
        check(&files, "leaf", kinds[2], model::Leaks::Allowed);
        let (disk, _) = open(&files, "leaf", kinds[2]).await;
        assert!(!completed || disk.leaf().backing().unwrap().name() == stays);
        match cut {
            true => guest.verify_after_power_cut(&disk).await,
            false => guest.verify_on(&disk).await,
        }
    });
}

#[test]
fn data_of_the_base_stay_there() {
    seeds(20, |_| async {
        let files = folder();
        files.add("base", vec![1; 128 << 10]);
        let low = create_over(&files, "low", "base", Kind::Raw).await;
        let leaf = create_over(&files, "leaf", "low", low).await;
        let (disk, _) = open_telling(&files, "leaf", leaf).await;
        let before = files.get("leaf").unwrap().content().len();
        let extent = StreamOptions { base: Some(Base::File("base".into())), ..StreamOptions::default() };
        disk.start_stream(extent, options()).await.unwrap();
        wait_for_stream(&disk).await;
        assert_eq!(disk.leaf().backing().unwrap().name(), "base");
        assert!(disk.leaf().map(0, 128 << 10).await.unwrap().depth == 1);
        disk.close().await.unwrap();
        assert!(files.get("leaf").unwrap().content().len() < before + (64 << 10));
    });
}

#[test]
fn an_image_in_the_middle_is_streamed_under_load_and_power_cuts() {
    seeds(40, |_| async {
        let files = folder();
        let (kinds, content) = chain_of(&files, &["low", "high", "leaf"]).await;
        for name in ["base", "low", "high", "leaf"] {
            files.get(name).unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
        }
        let (disk, told) = open_telling(&files, "leaf", kinds[2]).await;
        let cut = random(2) == 0;
        if cut {
            files.cut_after(1 + random(150));
        }
        let guest = Guest::new(disk.clone(), content);
        let workers = guest.workers(2, 40, cut);
        let high = disk.leaf().backing().unwrap().node_name();
        let base = (random(2) == 0).then(|| Base::File("base".into()));
        let extent =
            StreamOptions { image: Some(high.clone()), base: base.clone(), ..StreamOptions::default() };
        let started = disk.start_stream(extent, options()).await;
        assert!(started.is_ok() || cut, "{:?}", started.err());
        for worker in workers {
            worker.await;
        }
        wait_for_stream(&disk).await;
        let node = disk.leaf().backing().unwrap();
        assert_eq!((node.name(), node.node_name()), ("high", high));
        let completed =
            told.borrow().iter().any(|(job, what)| *what == JobEvent::Completed && job.error.is_none());
        assert!(completed || cut);
        let files = if cut {
            files.after_power_cut()
        } else {
            assert!(!node.is_writable());
            guest.verify().await;
            disk.close().await.unwrap();
            files
        };
        if completed {
            files.add("low", Vec::new());
            if base.is_none() {
                files.add("base", Vec::new());
            }
        }
        check(&files, "high", kinds[1], model::Leaks::Allowed);
        check(&files, "leaf", kinds[2], model::Leaks::Allowed);
        let (disk, _) = open(&files, "leaf", kinds[2]).await;
        match cut {
            true => guest.verify_after_power_cut(&disk).await,
            false => guest.verify_on(&disk).await,
        }
    });
}

#[test]
fn what_cannot_be_streamed_is_refused_in_words() {
    seeds(1, |_| async {
        let files = folder();
        let (kinds, _) = chain_of(&files, &["low", "leaf"]).await;
        let (disk, told) = open_telling(&files, "leaf", kinds[1]).await;
        let leaf = disk.leaf().node_name();
        let low = disk.leaf().backing().unwrap().node_name();
        let to = |base| StreamOptions { base: Some(base), ..StreamOptions::default() };
        let named = |backing_file: String, base| StreamOptions {
            backing_file: Some(backing_file),
            base,
            ..StreamOptions::default()
        };
        for (extent, text) in [
            (to(Base::File("gone".into())), "Can't find 'gone' in the backing chain".into()),
            (to(Base::Node("gone".into())), "Cannot find device='' nor node-name='gone'".into()),
            (to(Base::Node(leaf.clone())), format!("Node '{leaf}' is not a backing image of 'virtio0'")),
            (named("x".into(), None), "backing file specified, but streaming the entire chain".into()),
            (
                named("x".repeat(2000), Some(Base::File("base".into()))),
                format!("'{}' cannot be recorded as a backing file", "x".repeat(2000)),
            ),
            (
                StreamOptions {
                    image: Some(low.clone()),
                    base: Some(Base::Bottom(leaf.clone())),
                    ..StreamOptions::default()
                },
                format!("Node '{leaf}' is not in a chain starting from '{low}'"),
            ),
        ] {
            let error = disk.start_stream(extent, options()).await.err().unwrap();
            assert_eq!(error.to_string(), text);
        }
        assert!(told.borrow().is_empty() && disk.jobs().is_empty(), "a refused job leaves a trace");
        // A given name is recorded as it is.
        let extent = named(
            "./base".into(),
            Some(Base::Node(disk.leaf().backing().unwrap().backing().unwrap().node_name())),
        );
        disk.start_stream(extent, options()).await.unwrap();
        wait_for_stream(&disk).await;
        let info = image::info(&*files, "leaf", kinds[1]).await.unwrap();
        assert_eq!(info.backing.as_deref(), Some("./base"));
    });
}
