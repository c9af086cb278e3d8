//! Values on other threads, and the order in which messages from there arrive.

use std::cell::RefCell;
use std::rc::Rc;

use crate::Handle;
use crate::{Executor, Gone, Thread};

/// Starts a thread with a value that a task keeps until it ends.
fn number(value: u64) -> (Thread, Handle<u64>) {
    let thread = Thread::start("values", std::future::pending).unwrap();
    let made = thread.remote().call(move || async move {
        let value = Rc::new(value);
        crate::spawn({
            let value = value.clone();
            async move {
                std::future::pending::<()>().await;
                drop(value);
            }
        });
        Handle::new(&value)
    });
    let handle = made.wait().unwrap();
    (thread, handle)
}

#[test]
fn a_value_is_reached_on_its_own_thread_only() {
    let (_one, first) = number(1);
    let (_two, second) = number(2);
    Executor::new().unwrap().block_on(async move {
        assert_eq!(first.call(|value| async move { Ok::<_, Gone>(*value) }).await, Ok(1));
        assert_eq!(second.call(|value| async move { Ok::<_, Gone>(*value) }).await, Ok(2));
        assert_eq!((first.get(), second.get()), (None, None));
        let crossed = first.clone();
        // Both are the first value of their thread; the other thread's handle does not reach this one's.
        let got = second.call(move |_| async move { Ok::<_, Gone>(crossed.get().is_some()) }).await;
        assert_eq!(got, Ok(false));
    });
}

#[test]
fn a_value_that_was_dropped_is_gone() {
    Executor::simulated(1).block_on(async {
        let value = Rc::new(String::from("here"));
        let handle = Handle::new(&value);
        assert_eq!(handle.call(|value| async move { Ok::<_, Gone>(value.len()) }).await, Ok(4));
        drop(value);
        assert_eq!(handle.call(|value| async move { Ok::<_, Gone>(value.len()) }).await, Err(Gone));
        handle.send(|_| panic!("there is no value"));
        crate::yield_now().await;
        // Its number is not given to another one.
        let other = Rc::new(String::new());
        let _newer = Handle::new(&other);
        assert_eq!(handle.get(), None);
    });
}

#[test]
fn messages_arrive_in_the_order_of_their_thread() {
    let (_thread, remote) = number(0);
    Executor::new().unwrap().block_on(async move {
        let log = Rc::new(RefCell::new(Vec::new()));
        let here = Handle::new(&log);
        for round in 0..200_u32 {
            // The other thread's task outlives the call, so it sends something after the result, too.
            let sink = here.clone();
            let reply = remote.call(move |_| async move {
                for n in 0..3 {
                    sink.send(move |log| log.borrow_mut().push(format!("{round} before {n}")));
                }
                crate::spawn(
                    async move { sink.send(move |log| log.borrow_mut().push(format!("{round} after"))) },
                );
                Ok::<_, Gone>(())
            });
            reply.await.unwrap();
            log.borrow_mut().push(format!("{round} result"));
        }
        while log.borrow().len() < 200 * 5 {
            crate::yield_now().await;
        }
        let log = log.borrow();
        for round in 0..200 {
            let at = |what: &str| log.iter().position(|line| *line == format!("{round} {what}")).unwrap();
            let all = ["before 0", "before 1", "before 2", "result", "after"].map(at);
            assert!(all.is_sorted(), "round {round}: {all:?}");
        }
    });
}
