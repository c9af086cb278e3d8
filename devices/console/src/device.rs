//! The device and its two tasks.

use std::io;
use std::sync::Arc;

use executor::{AsyncFd, timeout};
use virtio::{Chain, Malformed, Model, Negotiated, Queue, Task};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use vmm_sys_util::eventfd::EventFd;

use crate::line::{INPUT_MAX, KEPT_MAX, Line, PATIENCE};

/// Maximum size of each queue, in descriptors.
pub const QUEUE_SIZE: u16 = 64;

/// Queue numbers (virtio 1.2, 5.3.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// A virtio console with one port. Bytes that wait in its line stay there through a reset.
pub struct VirtioConsole {
    line: Arc<Line>,
}

impl VirtioConsole {
    /// Returns a console at one end of `line`.
    pub fn new(line: Arc<Line>) -> Self {
        VirtioConsole { line }
    }
}

impl Model for VirtioConsole {
    const ID: u32 = VIRTIO_ID_CONSOLE;

    /// Each field belongs to a feature that is not offered (virtio 1.2, 5.3.4).
    type Config = ();
    type Keep = ();

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn config(&self) {}

    fn serve(self: Arc<Self>, _: Negotiated, queues: Vec<Queue>) -> io::Result<Vec<Task>> {
        let mut tasks: Vec<Task> = Vec::new();
        for queue in queues {
            let line = self.line.clone();
            match queue.index() {
                RECEIVE => {
                    let input = AsyncFd::new(line.input_event().try_clone()?)?;
                    tasks.push(Box::pin(async move { receive(&line, &input, &queue).await }));
                }
                TRANSMIT => {
                    let drained = AsyncFd::new(line.drained_event().try_clone()?)?;
                    tasks.push(Box::pin(async move { transmit(&line, &drained, &queue).await }));
                }
                _ => {}
            }
        }
        Ok(tasks)
    }
}

/// Waits until `holds` returns true, which begins with a write to `event`.
async fn until(event: &AsyncFd<EventFd>, holds: impl Fn() -> bool) {
    while !holds() {
        event.readable().await;
        event.clear_readable();
    }
}

/// Carries the line's input to the guest, forever.
async fn receive(line: &Line, input: &AsyncFd<EventFd>, queue: &Queue) {
    loop {
        // Waits for input first and takes a buffer only then, so that a pause has no chain to wait for.
        until(input, || line.has_input()).await;
        queue.available().await;
        let Some(Chain { readable, writable, token }) = queue.take() else { continue };
        if !readable.is_empty() {
            token.refuse(Malformed("bytes to read in a buffer for a console's input"));
            continue;
        }
        let bytes = line.take_input(writable.len().min(INPUT_MAX));
        writable.copy_from(&bytes);
        token.complete(bytes.len() as u32, ());
    }
}

/// Carries the guest's output to the line, forever.
async fn transmit(line: &Line, drained: &AsyncFd<EventFd>, queue: &Queue) {
    loop {
        queue.available().await;
        if line.should_wait() && timeout(PATIENCE, until(drained, || !line.should_wait())).await.is_none() {
            line.give_up();
        }
        let Some(Chain { readable, writable, token }) = queue.take() else { continue };
        if !writable.is_empty() {
            token.refuse(Malformed("room in a buffer of a console's output"));
            continue;
        }
        // Only the end of a longer buffer would be kept.
        let kept = readable.len().saturating_sub(KEPT_MAX)..readable.len();
        line.put_output(&readable.slice(kept).to_vec());
        token.complete(0, ());
    }
}
