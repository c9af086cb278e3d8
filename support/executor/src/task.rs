//! Tasks: a slab of futures, and the wakers that put them into the ready queue.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::remote::Shared;
use crate::run::{current, try_current};

/// Identifies a task for as long as the executor lives: slots are reused, ids are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TaskKey {
    slot: usize,
    id: u64,
}

/// Wakes one task, from any thread.
struct TaskWaker {
    key: TaskKey,
    /// True while the task is in a ready queue, so that it is queued only once.
    queued: AtomicBool,
    shared: Arc<Shared>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.shared.wake(self.key);
        }
    }
}

struct Task {
    id: u64,
    /// `None` while the future is being polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    state: Arc<TaskWaker>,
    waker: Waker,
}

/// All tasks of one executor.
#[derive(Default)]
pub(crate) struct Tasks {
    slots: RefCell<Vec<Option<Task>>>,
    free: RefCell<Vec<usize>>,
    next_id: std::cell::Cell<u64>,
}

impl Tasks {
    pub(crate) fn insert(&self, shared: &Arc<Shared>, future: Pin<Box<dyn Future<Output = ()>>>) -> TaskKey {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let mut slots = self.slots.borrow_mut();
        let slot = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(None);
            slots.len() - 1
        });
        let key = TaskKey { slot, id };
        let state = Arc::new(TaskWaker { key, queued: AtomicBool::new(true), shared: shared.clone() });
        let waker = Waker::from(state.clone());
        slots[slot] = Some(Task { id, future: Some(future), state, waker });
        key
    }

    /// Polls a task once. A key whose task has ended is ignored, because wakers may outlive their task.
    pub(crate) fn poll(&self, key: TaskKey) {
        let (mut future, waker) = {
            let mut slots = self.slots.borrow_mut();
            let Some(Some(task)) = slots.get_mut(key.slot) else { return };
            if task.id != key.id {
                return;
            }
            let Some(future) = task.future.take() else { return };
            // Cleared before the poll: a wake during it must queue the task again.
            task.state.queued.store(false, Ordering::Release);
            (future, task.waker.clone())
        };
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if done {
            drop(future);
            self.remove(key);
            return;
        }
        let mut slots = self.slots.borrow_mut();
        match slots.get_mut(key.slot) {
            Some(Some(task)) if task.id == key.id => task.future = Some(future),
            // The task cancelled itself during the poll.
            _ => {
                drop(slots);
                drop(future);
            }
        }
    }

    fn remove(&self, key: TaskKey) {
        let removed = {
            let mut slots = self.slots.borrow_mut();
            match slots.get_mut(key.slot) {
                Some(slot @ Some(_)) if slot.as_ref().is_some_and(|t| t.id == key.id) => {
                    self.free.borrow_mut().push(key.slot);
                    slot.take()
                }
                _ => None,
            }
        };
        // Dropped while nothing is borrowed: a future's destructor may spawn or cancel tasks.
        drop(removed);
    }

    /// Drops every task, including those that destructors spawn.
    pub(crate) fn clear(&self) {
        loop {
            let tasks = std::mem::take(&mut *self.slots.borrow_mut());
            self.free.borrow_mut().clear();
            if tasks.is_empty() {
                return;
            }
            drop(tasks);
        }
    }
}

struct JoinState<T> {
    result: Option<T>,
    done: bool,
    waker: Option<Waker>,
}

/// Marks the end of a task in whatever way it ends, so that a join never hangs on a cancelled task.
struct Finish<T>(Rc<RefCell<JoinState<T>>>);

impl<T> Drop for Finish<T> {
    fn drop(&mut self) {
        let mut state = self.0.borrow_mut();
        state.done = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

/// Awaits a spawned task's result. Dropping it detaches the task.
pub struct JoinHandle<T> {
    key: TaskKey,
    state: Rc<RefCell<JoinState<T>>>,
}

impl<T> JoinHandle<T> {
    /// Returns true if the task has ended.
    pub fn is_finished(&self) -> bool {
        self.state.borrow().done
    }

    /// Drops the task's future at the point it has reached. Operations that it had in flight in the
    /// kernel stay alive until they complete; see their owner.
    pub fn cancel(&self) {
        current().tasks.remove(self.key);
    }
}

impl<T> Future for JoinHandle<T> {
    /// `None` if the task was cancelled.
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.state.borrow_mut();
        if state.done {
            return Poll::Ready(state.result.take());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Starts a task on the executor that runs the caller.
///
/// # Panics
/// Outside a task of an executor.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    let inner = current();
    let state = Rc::new(RefCell::new(JoinState { result: None, done: false, waker: None }));
    let finish = Finish(state.clone());
    let key = inner.tasks.insert(
        &inner.shared,
        Box::pin(async move {
            let result = future.await;
            finish.0.borrow_mut().result = Some(result);
        }),
    );
    inner.ready.borrow_mut().push_back(key);
    JoinHandle { key, state }
}

/// Runs `future` in the caller's task, and always to its end: if the returned future is dropped after
/// its first poll, the rest runs in a task of its own, and what it holds stays held until then. Creating
/// that task only in this case saves an allocation for callers who await the end.
///
/// If the executor is dropped, the future is dropped with it, unfinished.
pub fn to_the_end<T: 'static>(future: impl Future<Output = T> + 'static) -> impl Future<Output = T> {
    ToTheEnd { future: Some(Box::pin(future)), started: false }
}

struct ToTheEnd<T: 'static, F: Future<Output = T> + 'static> {
    /// `None` once it has ended.
    future: Option<Pin<Box<F>>>,
    started: bool,
}

impl<T: 'static, F: Future<Output = T> + 'static> Future for ToTheEnd<T, F> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.started = true;
        let future = self.future.as_mut().expect("not polled after its end");
        let result = future.as_mut().poll(cx);
        if result.is_ready() {
            self.future = None;
        }
        result
    }
}

impl<T: 'static, F: Future<Output = T> + 'static> Drop for ToTheEnd<T, F> {
    fn drop(&mut self) {
        // The panic may have come from the future itself, which must not be polled again.
        let goes_on = self.started && !std::thread::panicking() && try_current().is_some();
        if let Some(future) = self.future.take().filter(|_| goes_on) {
            // All that it waits for uses the waker of its latest poll, which is now the new task's.
            spawn(future);
        }
    }
}

/// Lets every other ready task, and the I/O loop, run once.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
