//! The device as its transport sees it, and its two tasks.

use std::io;
use std::sync::Arc;

use executor::{AsyncFd, Remote, Reply, timeout};
use virtio::{Activation, Device};
use virtio::{Chain, Malformed, Queue, Runner, Task};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

use crate::line::{INPUT_MAX, KEPT_MAX, Line, PATIENCE};

/// Maximum size of each queue, in descriptors.
pub const QUEUE_SIZE: u16 = 64;

/// Queue numbers (virtio 1.2, 5.3.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// A virtio console with one port, which works on a thread that it is given.
///
/// That thread handles all calls in their order. Dropping an active device resets it without waiting. Bytes
/// that wait in the line stay there through a reset.
pub struct VirtioConsole {
    runner: Runner,
    line: Arc<Line>,
}

impl VirtioConsole {
    /// Returns a console at one end of `line`, which works on the executor behind `remote`.
    pub fn new(remote: Remote, line: Arc<Line>) -> Self {
        VirtioConsole { runner: Runner::new(remote), line }
    }
}

impl Device for VirtioConsole {
    fn id(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    /// Each field belongs to a feature that is not offered (virtio 1.2, 5.3.4).
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let line = self.line.clone();
        self.runner.start(activation, move |queues| {
            let tasks = tasks(&line, queues);
            tasks.inspect_err(|e| executor::limited!(warn, "a console's line: {e}")).ok()
        })
    }

    fn reset(&mut self) {
        self.runner.reset();
    }

    fn pause(&mut self) -> Reply<()> {
        self.runner.pause()
    }

    fn resume(&mut self) {
        self.runner.resume();
    }
}

fn tasks(line: &Arc<Line>, queues: Vec<Queue>) -> io::Result<Vec<Task>> {
    let mut tasks: Vec<Task> = Vec::new();
    for queue in queues {
        let line = line.clone();
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
