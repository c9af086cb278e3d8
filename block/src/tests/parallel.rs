//! Several streams in one chain, side by side where they share no image.

use crate::disk::job::{JobEvent, JobOptions};
use crate::image::chain;
use crate::job::stream::{Base, StreamOptions};
use crate::sim::Faults;
use crate::{Disk, ErrorKind};

use super::jobs::open_telling;
use super::model::{self, Guest, random};
use super::parts::chain_of;
use super::{check, folder, open, seeds, wait_for_stream};
use std::collections::BTreeSet;
use std::rc::Rc;

const NAMES: [&str; 7] = ["base", "a", "b", "c", "d", "e", "leaf"];

/// A part of the chain: the index in [`NAMES`] of the image that is populated, and of the last one that goes.
#[derive(Clone, Copy, Debug)]
struct Part {
    top: usize,
    bottom: usize,
}

/// Parts that share no image, from the leaf down.
fn parts() -> Vec<Part> {
    let mut parts = Vec::new();
    let mut top = NAMES.len() - 1 - random(2) as usize;
    while top > 0 {
        let bottom = top.saturating_sub(random(3) as usize).max(1);
        parts.push(Part { top, bottom });
        top = bottom.saturating_sub(1 + random(2) as usize);
    }
    for n in (1..parts.len()).rev() {
        parts.swap(n, random(n as u64 + 1) as usize);
    }
    parts
}

fn node_name(disk: &Rc<Disk>, name: &str) -> String {
    let nodes = std::iter::successors(Some(disk.leaf()), |node| node.backing());
    nodes.map(|node| (node.name().to_owned(), node.node_name())).find(|(file, _)| file == name).unwrap().1
}

fn options(disk: &Rc<Disk>, part: Part) -> StreamOptions {
    let image = (part.top < NAMES.len() - 1).then(|| node_name(disk, NAMES[part.top]));
    let base = Some(Base::Bottom(node_name(disk, NAMES[part.bottom])));
    StreamOptions { image, base, ..StreamOptions::default() }
}

#[test]
fn streams_that_share_no_image_run_side_by_side() {
    seeds(150, |_| async {
        let files = folder();
        let (kinds, content) = chain_of(&files, &NAMES[1..]).await;
        for name in NAMES {
            files.get(name).unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
        }
        let (disk, told) = open_telling(&files, "leaf", kinds[5]).await;
        let cut = random(3) == 0;
        if cut {
            files.cut_after(1 + random(300));
        }
        let guest = Guest::new(disk.clone(), content);
        let workers = guest.workers(2, 60, cut);
        let parts = parts();
        for (n, part) in parts.iter().enumerate() {
            let started = disk.start_stream(options(&disk, *part), JobOptions::new(format!("job{n}"))).await;
            assert!(started.is_ok() || cut, "{part:?} of {parts:?}: {:?}", started.err());
        }
        for worker in workers {
            worker.await;
        }
        wait_for_stream(&disk).await;
        let completed: BTreeSet<String> = told
            .borrow()
            .iter()
            .filter(|(job, what)| *what == JobEvent::Completed && job.error.is_none())
            .map(|(job, _)| job.id.clone())
            .collect();
        assert!(completed.len() == parts.len() || cut);
        let done = parts.iter().enumerate().filter(|(n, _)| completed.contains(&format!("job{n}")));
        // Images in between are not needed any more, by the running disk either.
        let gone: BTreeSet<&str> = done.flat_map(|(_, part)| NAMES[part.bottom..part.top].to_vec()).collect();
        for name in &gone {
            files.get(name).unwrap().set_faults(Faults { read: 1000, ..Faults::default() });
        }
        let files = if cut {
            files.after_power_cut()
        } else {
            guest.verify().await;
            disk.close().await.unwrap();
            files
        };
        for name in &gone {
            files.add(name, Vec::new());
        }
        let stays: BTreeSet<_> = NAMES.into_iter().filter(|name| !gone.contains(name)).collect();
        for (name, kind) in NAMES[1..].iter().zip(&kinds).filter(|(name, _)| stays.contains(*name)) {
            check(&files, name, *kind, model::Leaks::Allowed);
        }
        let (disk, _) = open(&files, "leaf", kinds[5]).await;
        let nodes = std::iter::successors(Some(disk.leaf()), |node| node.backing());
        let chain: BTreeSet<_> = nodes.map(|node| node.name().to_owned()).collect();
        assert!(
            cut || chain == stays.iter().map(|name| (*name).to_owned()).collect(),
            "{chain:?}, not {stays:?}"
        );
        match cut {
            true => guest.verify_after_power_cut(&disk).await,
            false => guest.verify_on(&disk).await,
        }
    });
}

#[test]
fn streams_that_share_an_image_are_refused() {
    seeds(20, |_| async {
        let files = folder();
        let (kinds, _) = chain_of(&files, &NAMES[1..]).await;
        for name in NAMES {
            files.get(name).unwrap().set_faults(Faults { delay: 1000, ..Faults::default() });
        }
        let (disk, _) = open_telling(&files, "leaf", kinds[5]).await;
        let middle = Part { top: 4, bottom: 3 };
        disk.start_stream(options(&disk, middle), JobOptions::new("job0")).await.unwrap();
        for part in [(4, 3), (5, 4), (3, 2), (6, 1), (3, 3), (4, 4)] {
            let part = Part { top: part.0, bottom: part.1 };
            let options = options(&disk, part);
            let name = options.image.clone().unwrap_or(disk.name().to_owned());
            let error = disk.start_stream(options, JobOptions::new("job1")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InUse);
            let text = format!("Node '{name}' is busy: block device is in use by block job: stream");
            assert_eq!(error.to_string(), text);
        }
        // Whoever wants all of the disk waits for all of them.
        disk.start_stream(options(&disk, Part { top: 6, bottom: 5 }), JobOptions::new("job1")).await.unwrap();
        assert_eq!(disk.query_stream().len(), 2);
        assert_eq!(disk.resize(1 << 20).await.unwrap_err().kind(), ErrorKind::InUse);
        disk.job("job0").unwrap().cancel().unwrap();
        wait_for_stream(&disk).await;
        assert!(chain::find(&disk.leaf(), &node_name(&disk, "d")).is_some());
        disk.close().await.unwrap();
    });
}
