//! The tasks on the disk's thread: they take requests out of the queues, each into a task of its own.
//!
//! A request is parked between two of its pieces, and, if `policy` says so, after its disk has failed it. It
//! then holds no ticket, and no pause or reset waits for it. When the machine is resumed, a second task of
//! its queue takes it up like a new one: through the gate, to the image that is then behind it. A reset ends
//! that task and drops the requests that are parked.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use block::disk::Front;
use executor::spawn;
use executor::sync::Event;
use virtio::{Queue, Task};

use crate::config::Config;
use crate::request::{self, Answer, Outcome, ParkedRequest, Progress, Request};

/// The state that the tasks of a queue share.
struct QueueState<F: Front> {
    disk: Rc<F>,
    config: Arc<Config>,
    /// Requests to continue later, in the order in which they were parked. Bounded by the ring: each is one
    /// of its chains.
    parked: RefCell<VecDeque<Box<ParkedRequest<F::Ticket>>>>,
    more: Event,
}

/// Returns the tasks of a disk for its queues.
pub(crate) fn tasks<F: Front>(
    disk: &Rc<F>,
    config: &Arc<Config>,
    queues: Vec<Queue<F::Ticket>>,
) -> Vec<Task> {
    let serve = |queue| -> [Task; 2] {
        let state = Rc::new(QueueState {
            disk: disk.clone(),
            config: config.clone(),
            parked: RefCell::default(),
            more: Event::new(),
        });
        [Box::pin(serve(state.clone(), queue)), Box::pin(retry(state))]
    };
    queues.into_iter().flat_map(serve).collect()
}

async fn serve<F: Front>(state: Rc<QueueState<F>>, queue: Queue<F::Ticket>) {
    loop {
        queue.available().await;
        // The request stays in the ring meanwhile, so that a pause or reset finds it there.
        let ticket = state.enter().await;
        if let Some(chain) = queue.take()
            && let Some((request, answer)) = Request::of(chain)
        {
            state.clone().start(ticket, request, answer);
        }
    }
}

/// Continues parked requests, unless the machine is stopped.
async fn retry<F: Front>(state: Rc<QueueState<F>>) {
    loop {
        let first = state.parked.borrow_mut().pop_front();
        let Some(parked) = first else {
            state.more.wait().await;
            continue;
        };
        parked.ready().await;
        let ticket = state.enter().await;
        match parked.take_back() {
            Ok((request, answer)) => state.clone().start(ticket, request, answer),
            // Stopped again before the gate was open.
            Err(parked) => state.parked.borrow_mut().push_front(parked),
        }
    }
}

impl<F: Front> QueueState<F> {
    async fn enter(&self) -> F::Ticket {
        match self.disk.try_enter() {
            Some(ticket) => ticket,
            None => self.disk.enter().await,
        }
    }

    fn start(self: Rc<Self>, mut ticket: F::Ticket, mut request: Request, answer: Answer<F::Ticket>) {
        F::carry(&mut ticket, request.weight(&*self.disk));
        spawn(async move {
            match request::serve(&*self.disk, &ticket, &self.config, &mut request, &answer).await {
                Progress::Done(outcome) => answer.give(outcome, ticket),
                Progress::More if !answer.is_wanted() => answer.give(Outcome::UNWANTED, ticket),
                Progress::More => self.park(ticket, request, answer, false),
                Progress::Park => self.park(ticket, request, answer, true),
            }
        });
    }

    fn park(&self, ticket: F::Ticket, request: Request, answer: Answer<F::Ticket>, failed: bool) {
        // The ticket is dropped first: a pause that sees nothing in flight must find the disk drained, too.
        drop(ticket);
        self.parked.borrow_mut().push_back(Box::new(ParkedRequest::new(request, answer, failed)));
        self.more.notify();
    }
}
