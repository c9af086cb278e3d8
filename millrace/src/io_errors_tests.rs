//! The choice of the errors that are kept, and the wake-up of the main loop.

use std::rc::Rc;

use executor::Executor;
use executor::Handle;
use qmp::Events;

use super::*;
use crate::reports::Reports;

fn error(action: ErrorAction, reason: &str) -> IoError {
    IoError {
        node_name: None,
        write: true,
        action,
        no_space: false,
        reason: reason.into(),
        detail: String::new(),
    }
}

fn reasons(errors: &IoErrors) -> Vec<(String, String)> {
    errors.take().into_iter().map(|(device, error)| (device, error.reason)).collect()
}

#[test]
fn one_of_each_disk_and_stops_first() {
    Executor::new().unwrap().block_on(async {
        let reports = Rc::new(Reports::new(Events::new()));
        let errors = IoErrors::new(Handle::new(&reports));
        for n in 0..100 {
            errors.push("a", error(ErrorAction::Report, &n.to_string()));
            errors.push("b", error(ErrorAction::Ignore, &n.to_string()));
        }
        errors.push("b", error(ErrorAction::Stop, "stop"));
        errors.push("b", error(ErrorAction::Stop, "again"));
        errors.push("b", error(ErrorAction::Report, "later"));
        assert_eq!(reasons(&errors), [("a".into(), "0".into()), ("b".into(), "stop".to_owned())]);
        assert!(reasons(&errors).is_empty() && !errors.is_pending());
    });
}

#[test]
fn another_thread_wakes_the_main_loop() {
    Executor::new().unwrap().block_on(async {
        let reports = Rc::new(Reports::new(Events::new()));
        let errors = std::sync::Arc::new(IoErrors::new(Handle::new(&reports)));
        let other = errors.clone();
        let thread = std::thread::spawn(move || other.push("a", error(ErrorAction::Stop, "x")));
        while !errors.is_pending() {
            reports.io_failed.wait().await;
        }
        assert_eq!(reasons(&errors), [("a".into(), "x".into())]);
        thread.join().unwrap();
    });
}
