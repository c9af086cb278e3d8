//! Storage that fails: errors reach the caller, the disk continues, and its metadata stays sound.

use super::*;

/// Runs a stream, which must complete.
async fn stream_to_the_end(disk: &Rc<Disk>, events: &RefCell<Vec<DiskEvent>>) {
    events.borrow_mut().clear();
    stream_all(disk).await.unwrap();
    wait_for_stream(disk).await;
    let DiskEvent::StreamCompleted { error, .. } = events.borrow()[0].clone() else {
        unreachable!("no other event is kept");
    };
    assert_eq!(error, None);
    assert!(disk.leaf().backing().is_none());
}

/// Starts and stops streams, however they end.
async fn stream_on_and_off(disk: Rc<Disk>, rounds: u64) {
    for _ in 0..rounds {
        let _ = stream_all(&disk).await;
        executor::sleep(Duration::from_micros(random(3000))).await;
        if random(2) == 0 {
            let _ = disk.stop_stream().await;
        }
        let _ = disk.stream_one().await;
    }
    wait_for_stream(&disk).await;
}

#[test]
fn failed_reads_and_writes_reach_whoever_asked() {
    seeds(90, |_| async {
        let (files, content, kind) = leaf_over_base(300).await;
        let (disk, events) = open(&files, "leaf", kind).await;
        let (base, leaf) = (files.get("base").unwrap(), files.get("leaf").unwrap());
        let faults = Faults { read: 30, write: 30, delay: 100, ..Faults::default() };
        base.set_faults(faults);
        leaf.set_faults(faults);
        let guest = Guest::new(disk.clone(), content);
        let workers: Vec<_> = (0..3).map(|_| spawn(guest.clone().work_through_errors(40))).collect();
        stream_on_and_off(disk.clone(), 4).await;
        for worker in workers {
            worker.await;
        }
        if random(3) == 0 {
            // Then the power is cut, at any change.
            files.cut_after(1 + random(60));
            let workers: Vec<_> = (0..3).map(|_| spawn(guest.clone().work_until_error(40))).collect();
            stream_on_and_off(disk.clone(), 1).await;
            for worker in workers {
                worker.await;
            }
            let after = files.after_power_cut();
            check(&after, "leaf", kind, model::Leaks::Allowed);
            let (disk, _) = open(&after, "leaf", kind).await;
            guest.verify_after_power_cut(&disk).await;
            return;
        }
        base.set_faults(Faults::default());
        leaf.set_faults(Faults::default());
        guest.verify().await;
        guest.clone().work(10).await;
        guest.flush_now().await.unwrap();
        if disk.leaf().backing().is_some() {
            stream_to_the_end(&disk, &events).await;
        }
        guest.verify().await;
        close_and_check(&files, "leaf", kind, disk, &guest).await;
    });
}

#[test]
fn a_power_cut_after_commits_that_failed() {
    seeds(90, |_| async {
        let (files, content, kind) = leaf_over_base(600).await;
        let (disk, _) = open(&files, "leaf", kind).await;
        files.get("leaf").unwrap().set_faults(Faults { write: 150, delay: 100, ..Faults::default() });
        files.cut_after(1 + random(200));
        let guest = Guest::new(disk.clone(), content);
        let workers: Vec<_> = (0..4).map(|_| spawn(guest.clone().work_through_errors(80))).collect();
        for worker in workers {
            worker.await;
        }
        let after = files.after_power_cut();
        check_after_power_cut(&after, kind, &guest).await;
    });
}

#[test]
fn a_full_disk_refuses_and_goes_on_with_space() {
    seeds(70, |_| async {
        let (files, content, kind) = leaf_over_base(400).await;
        let (disk, events) = open(&files, "leaf", kind).await;
        let leaf = files.get("leaf").unwrap();
        // The last block of a file is always whole.
        let limit = (leaf.content().len() as u64 + random(300 << 10)).next_multiple_of(4096);
        leaf.set_faults(Faults { limit: Some(limit), delay: 100, ..Faults::default() });
        let guest = Guest::new(disk.clone(), content);
        let workers: Vec<_> = (0..3).map(|_| spawn(guest.clone().work_through_errors(40))).collect();
        stream_on_and_off(disk.clone(), 3).await;
        for worker in workers {
            worker.await;
        }
        guest.verify().await;
        guest.flush_now().await.expect("what was answered becomes durable where space is short");
        check(&files.after_power_cut(), "leaf", kind, model::Leaks::Allowed);
        leaf.set_faults(Faults::default());
        guest.clone().work(20).await;
        guest.flush_now().await.unwrap();
        if disk.leaf().backing().is_some() {
            stream_to_the_end(&disk, &events).await;
        }
        guest.verify().await;
        close_and_check(&files, "leaf", kind, disk, &guest).await;
    });
}

/// Writes `len` bytes to each of `places`. Returns the number of writes that found space.
async fn fill(disk: &Rc<Disk>, places: std::ops::Range<u64>, step: u64, len: usize) -> u64 {
    let mut found = 0;
    for n in places {
        let ticket = disk.enter().await;
        match disk.write(&ticket, n * step, Buf::from_bytes(&vec![n as u8 | 1; len])).await {
            Ok(()) => found += 1,
            Err(e) => assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}"),
        }
    }
    found
}

/// A full disk can be flushed, and a guest that discards something can write again, even to places whose
/// tables found no space before.
#[test]
fn what_a_full_disk_has_is_durable_and_discards_make_space() {
    const STEP: u64 = 256 << 10;
    seeds(90, |_| async {
        let fixed = random(2) == 0;
        let files = if fixed { SimDir::of(Nature { fixed, ..Nature::default() }) } else { folder() };
        // A device keeps its old content.
        files.add("disk", vec![0xaa; if fixed { (2 << 20) + random(1000) as usize * 512 } else { 0 }]);
        let (kind, options) = loop {
            match some_layout() {
                (Kind::Qed, _) if fixed => {}
                layout => break layout,
            }
        };
        image::create(&*files, "disk", kind, &Create { size: Some(64 << 20), ..options }).await.unwrap();
        let disk_file = files.get("disk").unwrap();
        let limit = (disk_file.content().len() as u64 + (2 << 20) + random(300 << 10)).next_multiple_of(4096);
        disk_file.set_faults(Faults { limit: (!fixed).then_some(limit), delay: 20, ..Faults::default() });
        let (disk, _) = open(&files, "disk", kind).await;
        let flush = async || {
            let ticket = disk.enter().await;
            disk.flush(&ticket).await.unwrap();
        };
        let filled = fill(&disk, 0..256, STEP, 64 << 10).await;
        assert!(filled > 4 && filled < 256, "{filled} found space");
        flush().await;
        // A write in place succeeds although nothing else can be written.
        assert_eq!(fill(&disk, 0..1, STEP, 64 << 10).await, 1);
        flush().await;
        for n in 1..5 {
            let ticket = disk.enter().await;
            disk.discard(&ticket, n * STEP, 64 << 10).await.unwrap();
        }
        if random(2) == 0 {
            flush().await;
        }
        // A QED cluster stays with its entry; only its space on the host is freed.
        let places = if kind == Kind::Qed { 1..3 } else { 254..256u64 };
        assert_eq!(
            fill(&disk, places.clone(), STEP, 64 << 10).await,
            2,
            "a discard of twice as much made no space"
        );
        flush().await;
        let ticket = disk.enter().await;
        let buf = Buf::new(64 << 10);
        for n in places {
            disk.read(&ticket, n * STEP, buf.clone()).await.unwrap();
            assert!(buf.to_vec().iter().all(|byte| *byte == n as u8 | 1));
        }
        drop(ticket);
        disk.close().await.unwrap();
        check(&files, "disk", kind, model::Leaks::None);
    });
}

#[test]
fn a_failed_sync_is_never_forgotten() {
    seeds(70, |_| async {
        let (files, content, kind) = leaf_over_base(300).await;
        let (disk, events) = open(&files, "leaf", kind).await;
        let leaf = files.get("leaf").unwrap();
        leaf.set_faults(Faults { delay: 100, ..Faults::default() });
        let guest = Guest::new(disk.clone(), content);
        guest.clone().work(20).await;
        leaf.set_faults(Faults { delay: 100, sync: 1000, ..Faults::default() });
        guest.flush_now().await.unwrap_err();
        leaf.set_faults(Faults { delay: 100, ..Faults::default() });
        guest.clone().work_through_errors(20).await;
        assert!(guest.flush_now().await.is_err(), "a later flush succeeds");
        stream_all(&disk).await.unwrap();
        wait_for_stream(&disk).await;
        let DiskEvent::StreamCompleted { error, .. } = events.borrow()[0].clone() else {
            unreachable!("no other event is kept");
        };
        assert!(error.is_some() && disk.leaf().backing().is_some(), "a stream completed");
        guest.verify().await;
        assert!(disk.close().await.is_err());
        let after = files.after_power_cut();
        check_after_power_cut(&after, kind, &guest).await;
    });
}

#[test]
fn a_power_cut_around_a_switch_loses_nothing_that_was_flushed() {
    seeds(180, |_| async {
        let files = folder();
        let content = base_content(300);
        files.add("base", content.clone());
        let old = create_over(&files, "old", "base", Kind::Raw).await;
        let new = create_over(&files, "new", "old", old).await;
        for name in ["base", "old", "new"] {
            files.get(name).unwrap().set_faults(Faults { delay: 100, ..Faults::default() });
        }
        let (disk, events) = open(&files, "old", old).await;
        let guest = Guest::new(disk.clone(), content);
        guest.clone().work(random(20)).await;
        files.cut_after(1 + random(250));
        let workers: Vec<_> = (0..3).map(|_| spawn(guest.clone().work_until_error(50))).collect();
        executor::sleep(Duration::from_micros(random(5000))).await;
        let target = Target { name: "new".into(), format: Some(new), notify: false };
        if let Ok(prepared) = disk.prepare_switch(&target).await {
            let _ = prepared.commit(DEADLINE).await;
        }
        if random(2) == 0 {
            let _ = stream_all(&disk).await;
        }
        for worker in workers {
            worker.await;
        }
        wait_for_stream(&disk).await;
        let runs_on = disk.leaf().name().to_owned();
        let after = files.after_power_cut();
        check(&after, "old", old, model::Leaks::Any);
        check(&after, "new", new, model::Leaks::Allowed);
        if events.borrow().iter().any(|event| matches!(event, DiskEvent::StreamCompleted { error: None, .. }))
        {
            after.add("base", Vec::new());
            if runs_on == "new" {
                after.add("old", Vec::new());
            }
        }
        let (disk, events) = open(&after, &runs_on, if runs_on == "new" { new } else { old }).await;
        guest.verify_after_power_cut(&disk).await;
        if disk.leaf().backing().is_some() {
            stream_to_the_end(&disk, &events).await;
        }
        guest.verify_after_power_cut(&disk).await;
    });
}

#[test]
fn streams_are_stopped_and_started_while_images_are_switched() {
    seeds(70, |_| async {
        let files = folder();
        let content = base_content(300);
        files.add("base", content.clone());
        let (disk, events) = open(&files, "base", Kind::Raw).await;
        let guest = Guest::new(disk.clone(), content);
        let mut below = ("base".to_owned(), Kind::Raw);
        for n in 0..3 {
            let workers: Vec<_> = (0..2).map(|_| spawn(guest.clone().work(25))).collect();
            let name = format!("leaf{n}");
            let kind = create_over(&files, &name, &below.0, below.1).await;
            files.get(&name).unwrap().set_faults(Faults { delay: 200, ..Faults::default() });
            let target = Target { name: name.clone(), format: Some(kind), notify: false };
            disk.prepare_switch(&target).await.unwrap().commit(DEADLINE).await.unwrap();
            assert_eq!(disk.leaf().name(), name);
            stream_on_and_off(disk.clone(), 2).await;
            for worker in workers {
                worker.await;
            }
            guest.verify().await;
            below = (name, kind);
        }
        if disk.leaf().backing().is_some() {
            stream_to_the_end(&disk, &events).await;
        }
        disk.close().await.unwrap();
        drop(disk);
        check(&files, "leaf2", below.1, model::Leaks::None);
        let (disk, _) = open(&files, "leaf2", below.1).await;
        guest.verify_on(&disk).await;
    });
}
