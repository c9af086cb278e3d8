//! On the disk's thread: requests out of the queues, each in a task of its own.

use std::rc::Rc;
use std::sync::Arc;

use executor::spawn;
use virtqueue::{Queue, Task};

use crate::backend::{Backend, Handle};
use crate::config::Config;
use crate::request::{self, Request};

/// The tasks of the disk behind `handle` for its queues; `None` where it is gone.
pub(crate) fn tasks<H: Handle>(
    handle: &H,
    config: &Arc<Config>,
    queues: Vec<Queue<<H::Backend as Backend>::Ticket>>,
) -> Option<Vec<Task>> {
    let Some(disk) = handle.get() else {
        tracing::warn!("the disk of a virtio block device is gone");
        return None;
    };
    let serve = |queue| -> Task { Box::pin(serve(disk.clone(), config.clone(), queue)) };
    Some(queues.into_iter().map(serve).collect())
}

async fn serve<B: Backend>(disk: Rc<B>, config: Arc<Config>, queue: Queue<B::Ticket>) {
    loop {
        queue.available().await;
        let ticket = match disk.try_enter() {
            Some(ticket) => ticket,
            // The request stays in the ring meanwhile, so that a pause or reset finds it there.
            None => disk.enter().await,
        };
        if let Some(chain) = queue.take()
            && let Some((request, answer)) = Request::of(chain)
        {
            let (disk, config) = (disk.clone(), config.clone());
            spawn(async move {
                let outcome = request::serve(&*disk, &ticket, &config, request).await;
                answer.give(outcome, ticket);
            });
        }
    }
}
