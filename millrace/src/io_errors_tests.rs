//! The choice of the errors that are kept, and the wake-up of the main loop.

use executor::Executor;

use super::*;

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
    let errors = IoErrors::new().unwrap();
    for n in 0..100 {
        errors.push("a", error(ErrorAction::Report, &n.to_string()));
        errors.push("b", error(ErrorAction::Ignore, &n.to_string()));
    }
    errors.push("b", error(ErrorAction::Stop, "stop"));
    errors.push("b", error(ErrorAction::Stop, "again"));
    errors.push("b", error(ErrorAction::Report, "later"));
    assert_eq!(reasons(&errors), [("a".into(), "0".into()), ("b".into(), "stop".to_owned())]);
    assert_eq!(reasons(&errors), []);
}

#[test]
fn another_thread_wakes_the_main_loop() {
    Executor::new().unwrap().block_on(async {
        let errors = std::sync::Arc::new(IoErrors::new().unwrap());
        let waiter = errors.waiter().unwrap();
        let other = errors.clone();
        let thread = std::thread::spawn(move || other.push("a", error(ErrorAction::Stop, "x")));
        waiter.wait().await;
        assert_eq!(reasons(&errors), [("a".into(), "x".into())]);
        thread.join().unwrap();
    });
}
