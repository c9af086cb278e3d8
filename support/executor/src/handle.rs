//! The way from other threads to a value that lives on an executor's thread.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::remote::{Gone, Remote, Reply};
use crate::run::{current, try_current};
use crate::task::yield_now;

/// The values of one executor that have handles, by the numbers in their handles. Numbers are not reused.
#[derive(Default)]
pub(crate) struct Values {
    live: RefCell<BTreeMap<u64, Weak<dyn Any>>>,
    next: Cell<u64>,
}

impl Values {
    fn add(&self, value: Weak<dyn Any>) -> u64 {
        let number = self.next.replace(self.next.get() + 1);
        let mut live = self.live.borrow_mut();
        live.retain(|_, value| value.strong_count() > 0);
        live.insert(number, value);
        number
    }
}

/// A handle, usable from any thread, to a value that lives on an executor's thread. It does not keep the
/// value alive.
pub struct Handle<T> {
    remote: Remote,
    number: u64,
    // A handle never touches a `T` outside its thread, so it is `Send` for every `T`.
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Handle { remote: self.remote.clone(), number: self.number, value: PhantomData }
    }
}

impl<T: 'static> Handle<T> {
    /// Returns a handle to a value of the current executor.
    ///
    /// # Panics
    /// Outside an executor.
    pub fn new(value: &Rc<T>) -> Self {
        let value: Rc<dyn Any> = value.clone();
        let number = current().values.add(Rc::downgrade(&value));
        Handle { remote: crate::remote(), number, value: PhantomData }
    }

    /// Returns the executor of the value's thread.
    pub fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Returns the value. `None` if it no longer exists, and on any other thread than its own.
    pub fn get(&self) -> Option<Rc<T>> {
        let here = try_current().filter(|inner| Arc::ptr_eq(&inner.shared, &self.remote.shared))?;
        let value = here.values.live.borrow().get(&self.number)?.upgrade()?;
        value.downcast().ok()
    }

    /// Calls `make` with the value on its thread, and awaits the returned future there.
    ///
    /// # Errors
    /// Errors of the future; [`Gone`] as its error type if the value or its thread no longer exists.
    pub async fn call<R, E, F>(&self, make: impl FnOnce(Rc<T>) -> F + Send + 'static) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<Gone> + Send + 'static,
        F: Future<Output = Result<R, E>> + 'static,
    {
        self.submit(make).await.unwrap_or_else(|gone| Err(gone.into()))
    }

    /// Like [`Handle::call`], for any result, which can be awaited or waited for by blocking.
    pub fn submit<R: Send + 'static, F: Future<Output = R> + 'static>(
        &self,
        make: impl FnOnce(Rc<T>) -> F + Send + 'static,
    ) -> Reply<R> {
        let handle = self.clone();
        self.remote.try_call(move || handle.get().map(make))
    }

    /// Calls `work` with the value on its thread, and returns at once. Does nothing if the value no longer
    /// exists.
    ///
    /// The order is that of this thread's messages: results of calls that it sent before arrive before
    /// `work` is called, and results that it sends later arrive after that.
    pub fn send(&self, work: impl FnOnce(&T) + Send + 'static) {
        let handle = self.clone();
        self.remote.spawn(move || async move {
            // A result that was sent before has woken its task by now; this lets that task run first.
            yield_now().await;
            if let Some(value) = handle.get() {
                work(&value);
            }
        });
    }
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
