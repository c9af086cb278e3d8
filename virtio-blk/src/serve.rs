//! On the disk's thread: requests out of the queues, each in a task of its own.
//!
//! A request is kept between two pieces of it, and after one that its disk has failed where `policy` says so.
//! It holds no ticket then, and no pause or reset waits for it. A second task of its queue takes it up as a
//! new one is, once the machine goes on: through the gate and to whatever image is behind that. A reset ends
//! that task, and what it keeps with it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use executor::sync::Event;
use executor::{Handle, spawn};
use virtio::{Queue, Task};

use crate::backend::Backend;
use crate::config::Config;
use crate::request::{self, Answer, Kept, Outcome, Progress, Request};

/// What the tasks of a queue share.
struct Served<B: Backend> {
    disk: Rc<B>,
    config: Arc<Config>,
    /// Requests that go on later, in the order in which they were kept. Bounded by the ring: each is one of
    /// its chains.
    kept: RefCell<VecDeque<Box<Kept<B::Ticket>>>>,
    more: Event,
}

/// The tasks of the disk behind `handle` for its queues; `None` where it is gone.
pub(crate) fn tasks<H: Handle<Target: Backend>>(
    handle: &H,
    config: &Arc<Config>,
    queues: Vec<Queue<<H::Target as Backend>::Ticket>>,
) -> Option<Vec<Task>> {
    let Some(disk) = handle.get() else {
        executor::limited!(warn, "the disk of a virtio block device is gone");
        return None;
    };
    let serve = |queue| -> [Task; 2] {
        let served = Rc::new(Served {
            disk: disk.clone(),
            config: config.clone(),
            kept: RefCell::default(),
            more: Event::new(),
        });
        [Box::pin(serve(served.clone(), queue)), Box::pin(retry(served))]
    };
    Some(queues.into_iter().flat_map(serve).collect())
}

async fn serve<B: Backend>(served: Rc<Served<B>>, queue: Queue<B::Ticket>) {
    loop {
        queue.available().await;
        // The request stays in the ring meanwhile, so that a pause or reset finds it there.
        let ticket = served.enter().await;
        if let Some(chain) = queue.take()
            && let Some((request, answer)) = Request::of(chain)
        {
            served.clone().start(ticket, request, answer);
        }
    }
}

/// Takes up what was kept, unless the machine is stopped.
async fn retry<B: Backend>(served: Rc<Served<B>>) {
    loop {
        let first = served.kept.borrow_mut().pop_front();
        let Some(kept) = first else {
            served.more.wait().await;
            continue;
        };
        kept.ready().await;
        let ticket = served.enter().await;
        match kept.take_back() {
            Ok((request, answer)) => served.clone().start(ticket, request, answer),
            // Stopped again before the gate was open.
            Err(kept) => served.kept.borrow_mut().push_front(kept),
        }
    }
}

impl<B: Backend> Served<B> {
    async fn enter(&self) -> B::Ticket {
        match self.disk.try_enter() {
            Some(ticket) => ticket,
            None => self.disk.enter().await,
        }
    }

    fn start(self: Rc<Self>, mut ticket: B::Ticket, mut request: Request, answer: Answer<B::Ticket>) {
        B::carry(&mut ticket, request.weight(&*self.disk));
        spawn(async move {
            match request::serve(&*self.disk, &ticket, &self.config, &mut request, &answer).await {
                Progress::Done(outcome) => answer.give(outcome, ticket),
                Progress::More if !answer.is_wanted() => answer.give(Outcome::UNWANTED, ticket),
                Progress::More => self.keep(ticket, request, answer, false),
                Progress::Kept => self.keep(ticket, request, answer, true),
            }
        });
    }

    fn keep(&self, ticket: B::Ticket, request: Request, answer: Answer<B::Ticket>, failed: bool) {
        // The ticket first: a pause that sees nothing in flight finds the disk drained too.
        drop(ticket);
        self.kept.borrow_mut().push_back(Box::new(Kept::new(request, answer, failed)));
        self.more.notify();
    }
}
