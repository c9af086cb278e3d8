//! Removable drives: the guest's lock, and changes of the medium during reads.

use super::*;
use crate::Buf;
use crate::disk::tray::{Listener, Medium, TrayEvent};

#[test]
fn a_locked_tray_opens_by_the_guest_or_by_force() {
    Executor::simulated(1).block_on(async {
        let files = SimDir::new();
        files.add("one", vec![1; 4096]);
        files.add("two", vec![2; 8192]);
        let disk = Disk::removable("cd0", None, files.clone(), |_| {}).await.unwrap();
        let heard: Rc<RefCell<Vec<TrayEvent>>> = Rc::default();
        let sink = heard.clone();
        let tray = disk.tray().unwrap();
        let listener: Listener = Rc::new(move |event| sink.borrow_mut().push(event));
        tray.listen(&listener);
        assert!(!disk.has_medium() && disk.size() == 0 && disk.read_only());
        let medium = |name: &str| Medium { name: name.into(), format: None };
        disk.change_medium(&medium("one"), false, true).await.unwrap();
        assert!(disk.has_medium() && disk.size() == 4096);
        tray.set_locked(true);
        let error = disk.change_medium(&medium("two"), false, true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(disk.size() == 4096 && !tray.is_open());
        assert_eq!(*heard.borrow(), [TrayEvent::Opened, TrayEvent::Closed, TrayEvent::EjectRequested]);
        heard.borrow_mut().clear();
        // Without `notify` the guest does not notice the change, so its lock does not matter.
        disk.change_medium(&medium("two"), false, false).await.unwrap();
        assert!(heard.borrow().is_empty() && disk.size() == 8192 && tray.is_locked());
        disk.change_medium(&medium("one"), true, true).await.unwrap();
        assert!(!tray.is_locked() && disk.size() == 4096);
        assert_eq!(disk.remove_medium().await.unwrap_err().kind(), ErrorKind::Invalid);
        disk.open_tray(false).unwrap();
        disk.remove_medium().await.unwrap();
        assert!(!disk.has_medium() && tray.is_open());
        drop(listener);
        heard.borrow_mut().clear();
        disk.close_tray().unwrap();
        assert!(heard.borrow().is_empty(), "nobody listens any more");
    });
}

#[test]
fn a_medium_stays_while_it_is_read() {
    Executor::simulated(2).block_on(async {
        let files = SimDir::new();
        files.add("one", vec![1; 4096]).set_faults(Faults { delay: 1_000_000, ..Faults::default() });
        files.add("two", vec![2; 4096]);
        let leaf = chain::open(&*files, "one", Kind::Raw, false).await.unwrap();
        let disk = Disk::removable("cd0", Some(leaf), files.clone(), |_| {}).await.unwrap();
        let (reader, ticket) = (disk.clone(), disk.enter().await);
        let read = spawn(async move {
            let buf = Buf::new(512);
            reader.read(&ticket, 0, buf.clone()).await.unwrap();
            buf.to_vec()
        });
        let two = Medium { name: "two".into(), format: Some(Kind::Raw) };
        disk.change_medium(&two, false, false).await.unwrap();
        assert_eq!(read.await.unwrap(), vec![1; 512]);
        assert_eq!(disk.leaf().name(), "two");
    });
}
