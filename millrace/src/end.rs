//! The end of the program: in order, however long the disks take, or at once.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use executor::sleep;
use futures_util::future::{Either, join, join_all, select};
use qmp::types::ShutdownCause;
use qmp::{Monitor, event};

use super::Failure;
use super::control::{Control, End};
use super::drive::Drive;
use super::{log, pidfile};
use vmm::{Machine, serial};

/// Time limit for clients to read their last replies, and for standard error to take the last lines.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);
/// Time between two lines that report what an end waits for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time that the guest's processors get to stop before the disks are closed without waiting.
const STUCK: Duration = Duration::from_secs(2);
/// Time that a thread gets to make a file that [`leave`] has to remove.
const MAKING: Duration = Duration::from_secs(1);

/// The things that an end waits for.
#[derive(Default)]
struct Waits {
    list: RefCell<Vec<(u32, String)>>,
    next: Cell<u32>,
}

impl Waits {
    /// Waits for `work`, with `what` in the list meanwhile.
    async fn on<T>(&self, what: impl Into<String>, work: impl Future<Output = T>) -> T {
        let number = self.next.replace(self.next.get() + 1);
        self.list.borrow_mut().push((number, what.into()));
        let result = work.await;
        self.list.borrow_mut().retain(|(other, _)| *other != number);
        result
    }

    /// Waits for `work`. Every [`PATIENCE`] it prints a line with the list.
    async fn saying<T>(&self, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let lines = async {
            loop {
                executor::sleep(PATIENCE).await;
                log::say(&self.line(start.elapsed()));
            }
        };
        match select(pin!(work), pin!(lines)).await {
            Either::Left((result, _)) => result,
            Either::Right((never, _)) => never,
        }
    }

    fn line(&self, time: Duration) -> String {
        let list = self.list.borrow();
        let names: Vec<_> = list.iter().map(|(_, what)| what.as_str()).collect();
        format!(
            "millrace: still ending after {} s: waits for {}; a second signal ends it at once, and data that is not \
             saved by then is lost",
            time.as_secs(),
            names.join(", ")
        )
    }
}

/// Saves what was written to a disk, and closes the disk.
async fn close_drive(drive: &Drive, waits: &Waits) -> Result<(), Failure> {
    let id = &drive.options.id;
    let closed = waits.on(format!("disk '{id}' to save its data"), drive.close()).await;
    closed.map_err(|e| format!("disk '{id}': the last writes may be lost: {e}"))
}

/// Joins all failures into one line.
fn joined(failures: impl IntoIterator<Item = Failure>) -> Result<(), Failure> {
    let all: Vec<_> = failures.into_iter().collect();
    if all.is_empty() { Ok(()) } else { Err(all.join("; ")) }
}

/// Closes disks that nobody uses.
///
/// # Errors
/// Fails with one line that names the disks that could not save what was written to them.
pub(super) async fn close_drives(drives: &[Rc<Drive>]) -> Result<(), Failure> {
    let waits = Waits::default();
    let closed = waits.saying(join_all(drives.iter().map(|drive| close_drive(drive, &waits)))).await;
    joined(closed.into_iter().filter_map(Result::err))
}

/// Ends everything in order: the guest, its disks, the clients. Each disk is closed as soon as its own
/// requests have ended, so no disk waits for one that hangs.
pub(super) async fn close(
    end: End,
    machine: Option<Rc<Machine>>,
    control: &Rc<Control>,
    monitor: &Monitor,
) -> Result<ExitCode, Failure> {
    let (guest, reason) = match &end {
        End::Quit(reason) => (false, *reason),
        End::Guest(reason) => (true, *reason),
        End::Failed(_) => (true, ShutdownCause::GuestPanic),
        End::Broken(_) => (false, ShutdownCause::HostError),
    };
    control.events.emit(&event::Shutdown { guest, reason });
    let waits = Waits::default();
    let machine = machine.as_deref();
    let halt = async {
        if let Some(machine) = machine {
            waits.on("the guest's processors", machine.halt()).await;
        }
    };
    // It fails if no server runs, which is fine.
    let exports = async { drop(waits.on("NBD clients", control.exports.stop()).await) };
    let drives = control.drives.iter().enumerate().map(|(index, drive)| {
        let waits = &waits;
        async move {
            if let Some(machine) = machine {
                // The guest's devices begin with the drives, in their order.
                let requests = format!("the guest's requests to disk '{}'", drive.options.id);
                waits.on(requests, machine.still(index)).await;
            }
            close_drive(drive, waits).await
        }
    });
    let all = async {
        let mut halt = pin!(halt);
        let early = async { matches!(select(halt.as_mut(), pin!(sleep(STUCK))).await, Either::Left(_)) };
        let (halted, ()) = join(early, exports).await;
        // A processor that has not stopped by then waits inside a device for one disk that hangs.
        let closing = join_all(drives);
        let closed = if halted { closing.await } else { join(halt, closing).await.1 };
        if let Some(machine) = machine {
            waits.on("the guest's other devices", machine.shutdown()).await;
        }
        closed
    };
    let closed = waits.saying(all).await.into_iter().filter_map(Result::err);
    monitor.shutdown(FAREWELL).await;
    serial::restore_terminal();
    match end {
        End::Failed(why) | End::Broken(why) => joined([why].into_iter().chain(closed)),
        End::Quit(_) | End::Guest(_) => joined(closed),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Ends the process at once, from any thread and whatever the others are doing. Logs `line` if there is one,
/// removes sockets and pidfile, and restores the terminal.
pub(super) fn leave(status: i32, line: Option<&str>) -> ! {
    if let Some(line) = line {
        log::say(&format!("millrace: {line}"));
    }
    let deadline = Instant::now() + MAKING;
    for remove in [qmp::remove_sockets, pidfile::try_remove] {
        while !remove() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    serial::restore_terminal();
    log::finish(FAREWELL);
    // SAFETY: ends the process without running any destructor, which other threads could be using.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use executor::Executor;
    use executor::sync::Event;

    use super::*;

    #[test]
    fn a_line_says_what_is_still_waited_for() {
        Executor::new().unwrap().block_on(async {
            let (waits, over) = (Rc::new(Waits::default()), Rc::new(Event::new()));
            let (their, until) = (waits.clone(), over.clone());
            let one = executor::spawn(async move { their.on("disk 'a'", until.wait()).await });
            let their = waits.clone();
            let other =
                executor::spawn(async move { their.on("disk 'b'", std::future::pending::<()>()).await });
            executor::yield_now().await;
            executor::yield_now().await;
            let line = waits.line(Duration::from_secs(20));
            assert!(line.contains("after 20 s: waits for disk 'a', disk 'b';"), "{line}");
            over.notify();
            one.await.unwrap();
            assert!(waits.line(Duration::ZERO).contains("waits for disk 'b';"));
            other.cancel();
        });
    }

    #[test]
    fn all_that_went_wrong_is_said_in_one_line() {
        assert_eq!(joined([]), Ok(()));
        assert_eq!(joined(["a".into(), "b".into()]), Err("a; b".into()));
    }
}
