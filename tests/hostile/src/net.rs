//! Input of a guest and of a network link to the virtio network device between them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use executor::Executor;
use virtio::driver::{Driver, Interrupts, activation};
use virtio::{Device, VirtioDevice};
use virtio_net::{Link, MOST_FRAME, Mac, QUEUE_SIZE, VirtioNet};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::chains::{STEP, offer, pause, settle, step};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// Guest memory, in bytes. Its lower half holds the rings, the upper half the buffers.
const MEMORY: usize = 1 << 20;
const HEAP: u64 = MEMORY as u64 / 2;
const RING: u16 = 16;

/// Performs the steps of the input: chains, and data from the link's other side.
pub fn net(input: &[u8]) {
    let Ok(executor) = Executor::new() else { return };
    let input = input.to_vec();
    executor.block_on(async move { run(&input).await });
}

async fn run(input: &[u8]) {
    let (ours, peer) = UnixStream::pair().expect("a socket pair");
    peer.set_nonblocking(true).expect("a socket");
    let link = Link::stream(ours, "peer").expect("a socket");
    let mut device = VirtioDevice::new(executor::remote(), VirtioNet::new(link, Mac::of_name("peer")));
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    let memory = Arc::new(memory);
    let interrupts = Arc::<Interrupts>::default();
    interrupts.clear_used(2);
    let mut drivers = [1, 2]
        .map(|n| Driver::new(memory.clone(), n * 0x1_0000, HEAP + (n - 1) * (MEMORY as u64 / 4), RING, true));
    // The first byte selects the features that the driver accepts.
    let without = u64::from(input.first().copied().unwrap_or_default() & 1) << 15;
    let activation = activation(&drivers, QUEUE_SIZE, device.features() & !without, &interrupts);
    device.activate(activation).expect("good rings");
    let mut sent = Frames::default();
    for step in input.get(1..).unwrap_or_default().chunks_exact(STEP) {
        do_step(step, &mut device, &mut drivers, &peer, &mut sent).await;
        if !settle(&mut drivers, &interrupts).await {
            break;
        }
    }
    // Returns only when nothing is in flight, however little the peer reads.
    pause(&mut device).await;
    sent.take_from(&peer);
    assert!(interrupts.counts().config <= 1, "the link goes down once");
}

async fn do_step(
    step: &[u8],
    device: &mut VirtioDevice<VirtioNet>,
    drivers: &mut [Driver; 2],
    peer: &UnixStream,
    sent: &mut Frames,
) {
    let &[kind, a, b, c, d, e, f, g] = step else { return };
    let (one, two) = (usize::from(u16::from_le_bytes([a, b])), usize::from(u16::from_le_bytes([c, d])));
    match kind % 8 {
        0 => offer(&mut drivers[TRANSMIT], &[(12, false), (one, false), (two, false)]),
        1 => offer(&mut drivers[RECEIVE], &[(one, true), (two, true)]),
        // Offers many small buffers, or few.
        2 => (0..=e % RING as u8).for_each(|_| offer(&mut drivers[RECEIVE], &[(one % 2048, true)])),
        // Sends a frame, or a part of one.
        3 => {
            let frame = [&(one as u32).to_be_bytes()[..], &vec![e; one]].concat();
            let len = if f & 7 == 0 { two.min(frame.len()) } else { frame.len() };
            write(peer, &frame[..len]);
        }
        4 => write(peer, &step[1..]),
        5 => sent.take_from(peer),
        6 if g & 1 == 0 => {
            pause(device).await;
            if g & 2 == 0 {
                device.resume();
            }
        }
        6 => device.resume(),
        // Offers any chain to any queue.
        _ => offer(&mut drivers[usize::from(e & 1)], &[(one, f & 1 != 0), (two, f & 2 != 0)]),
    }
}

/// Writes as much as the socket takes.
fn write(mut peer: &UnixStream, bytes: &[u8]) {
    let _ = peer.write(bytes);
}

/// Checks that the bytes received on the other side are frames.
#[derive(Default)]
struct Frames {
    /// The bytes received so far of a frame's length.
    length: Vec<u8>,
    /// The number of bytes of the current frame that are still to come.
    left: usize,
}

impl Frames {
    fn take_from(&mut self, mut peer: &UnixStream) {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = peer.read(&mut bytes) {
            let mut rest = &bytes[..count];
            while !rest.is_empty() {
                let used = if self.left > 0 { self.left.min(rest.len()) } else { 1 };
                if self.left > 0 {
                    self.left -= used;
                } else {
                    self.length.push(rest[0]);
                }
                rest = &rest[used..];
                if let Ok(length) = <[u8; 4]>::try_from(&self.length[..]) {
                    self.length.clear();
                    self.left = u32::from_be_bytes(length) as usize;
                    assert!((14..=MOST_FRAME).contains(&self.left), "a frame of {} bytes", self.left);
                }
            }
        }
    }
}

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let up = [
        vec![0],
        step(0, 100, 1400, [0; 3]),
        step(0, 14, 0, [0; 3]),
        step(0, 60_000, 5_000, [0; 3]),
        step(5, 0, 0, [0; 3]),
        step(0, 60_000, 0, [0; 3]),
        step(0, 60_000, 0, [0; 3]),
        step(0, 60_000, 0, [0; 3]),
        step(0, 60_000, 0, [0; 3]),
        step(6, 0, 0, [0; 3]),
        step(5, 0, 0, [0; 3]),
        step(0, 13, 0, [0; 3]),
    ];
    let down = |features: u8| {
        [
            vec![features],
            step(2, 1526, 0, [7, 0, 0]),
            step(3, 60, 0, [1, 1, 0]),
            step(3, 1514, 0, [2, 1, 0]),
            step(3, 9000, 0, [3, 1, 0]),
            step(1, 5000, 5000, [0; 3]),
            step(3, 13, 0, [4, 1, 0]),
            step(3, 1500, 700, [5, 0, 0]),
            step(4, 0, 0, [0; 3]),
            step(1, 1000, 526, [0; 3]),
            step(6, 0, 0, [0, 0, 2]),
            step(1, 2000, 0, [0; 3]),
            step(6, 0, 0, [0, 0, 1]),
            step(4, 0xffff, 0xffff, [0xff; 3]),
        ]
    };
    vec![up.concat(), down(0).concat(), down(1).concat()]
}

/// The memory for the device's buffers, and for the data in the socket's buffers.
pub(crate) fn memory(input: usize) -> usize {
    (1 << 20) + 16 * input
}
